"""An installation of cms that any user can reach and none but root can change: tests run it as other users.

The checkout and its virtual environment may lie under a home folder that others cannot enter.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from packaging.markers import Marker

from support import evidence
from support.programs import give_up, require_program

# Numbers that no package of Debian's uses and no login of a small machine has.
ALICE, BOB, CAROL = 64001, 64002, 64003

_SCRIPT = """#!{python} -I
import sys
from {module} import main
sys.exit(main())
"""
_OWN = ("cms-oauth", "cms-oauth-client")
COMMANDS = {"cms": "cms.main", "cms-oauth": "cms_oauth.main", "git-credential-cms": "cms_oauth.git_credential"}


@contextmanager
def open_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder that every user can enter, and remove it afterwards; its logs are evidence.

    Not below /tmp or /var/tmp, which all can write: no client believes another user's daemon there.
    """
    place = "/var/lib" if os.geteuid() == 0 else "/var/tmp"
    with tempfile.TemporaryDirectory(prefix=f"cms-{prefix}-", dir=place, ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        try:
            yield path
        finally:
            evidence.keep_files(path)


class Installation:
    """cms with its dependencies, under `folder`: those that the tests have, or those in the folder `libraries`.

    With `debians` it finds Debian's packages of them instead.
    """

    def __init__(self, folder: Path, *, libraries: Path | None = None, debians: bool = False) -> None:
        self.folder = folder
        systems = ["--system-site-packages"] if debians else []
        subprocess.run([base_python(), "-m", "venv", "--without-pip", *systems, folder], check=True)
        self.python = folder / "bin" / "python"
        self.packages = next(folder.glob("lib/python3*/site-packages"))
        # Only the tests' own libraries have those of `cms demo`, and of a fleet.
        extra = "" if libraries else "sandbox"
        for each in map(distribution, _OWN) if debians else closure("cms-oauth", extra, libraries):
            copy(each, self.packages)
        for each in [] if libraries or debians else closure("psycopg", "binary"):
            copy(each, self.packages)
        for package in ("cms", "cms_oauth"):
            self._copy_own(package)
        for data in ("contrib", "systemd"):
            shutil.copytree(_find("cms").parent / data, self.packages / "cms" / "data" / data, dirs_exist_ok=True)
        for command, module in COMMANDS.items():
            self._write_command(command, module)

    def command(self, name: str) -> str:
        """Return the path of `cms` or `cms-oauth`."""
        return str(self.folder / "bin" / name)

    def _copy_own(self, package: str) -> None:
        source = Path(sys.modules[package].__file__ or "").parent if package in sys.modules else _find(package)
        target = self.packages / package
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        compileall.compile_dir(target, quiet=2)

    def _write_command(self, name: str, module: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(_SCRIPT.format(python=self.python, module=module))
        path.chmod(0o755)


def become(uid: int, argv: Sequence[str | Path], *, groups: Sequence[int] = ()) -> list[str]:
    """Return the command that runs another one as this uid, with a group of the same number and nothing of root's."""
    more = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    setpriv = require_program("setpriv", "util-linux")
    return [setpriv, f"--reuid={uid}", f"--regid={uid}", *more, "--inh-caps=-all", "--", *map(str, argv)]


def bare_environment(**more: str) -> Mapping[str, str]:
    """Return an environment with nothing in it of the one that runs the tests."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", **more}


def base_python() -> str:
    """Return this interpreter outside of any virtual environment, where others can run it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/{version}"):
        if _open_to_all(Path(candidate)):
            return candidate
    give_up(f"no {version} that other users can run: run the tests with Debian's own")
    raise AssertionError


def _open_to_all(path: Path) -> bool:
    return path.exists() and all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def closure(name: str, extra: str, libraries: Path | None = None) -> list[Distribution]:
    """Return the distributions that this one needs, itself included: installed ones, or, but for cms, those in a folder."""
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = distribution(name) if libraries is None or name in _OWN else _in_folder(name, libraries)
            wanted += list(_needs(found[name], extra if len(found) == 1 else ""))
    return list(found.values())


def _in_folder(name: str, folder: Path) -> Distribution:
    (found,) = distributions(name=name, path=[str(folder)])
    return found


def _needs(what: Distribution, extra: str) -> Iterator[str]:
    for requirement in what.requires or ():
        needed, _, marker = requirement.partition(";")
        if _applies(marker, extra):
            match = re.match(r"[A-Za-z0-9_.-]+", needed)
            assert match
            yield match[0]


def _applies(marker: str, extra: str) -> bool:
    return not marker.strip() or Marker(marker).evaluate({"extra": extra})


def copy(what: Distribution, target: Path) -> None:
    for file in what.files or ():
        source = Path(str(what.locate_file(file)))
        if ".." not in file.parts and source.is_file() and file.suffix != ".pth":
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / file)


def _find(package: str) -> Path:
    spec = find_spec(package)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent
