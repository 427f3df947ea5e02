"""What all chapters stand on: the installations of cms, the programs in C, the sandbox, and where files go."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from bench.entra import Sandbox, sandbox
from bench.programs import Command, Tools

ROOT = Path(__file__).parents[1]
INSIDE = Path(__file__).parent / "inside"

# What the results call the cms that is measured. Another revision has its number behind that.
CMS = "cms"

T = TypeVar("T")


@dataclass(frozen=True)
class Installation:
    """cms in a virtual environment. `who` is what the results call it."""

    who: str
    folder: Path

    @property
    def python(self) -> str:
        return self.command("python")

    def command(self, name: str) -> str:
        """Return the path of one of its commands."""
        return str(self.folder / "bin" / name)


def install(who: str, source: Path, folder: Path) -> Installation:
    """Install cms as a user would: its wheel, in a virtual environment, by a current pip."""
    made = Installation(who, folder)
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", folder], check=True)
    # Older ones write commands that import `re`, which costs half an interpreter's start.
    for what in ("pip", source):
        pip: Command = [
            made.python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
            "--upgrade",
            what,
        ]
        subprocess.run(pip, check=True)
    return made


def said(command: Command) -> str:
    """Return what a command prints, "" where it fails or is not there."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def check_out(revision: str, folder: Path) -> str:
    """Write the files of a revision into a folder; return its short name."""
    name = said(["git", "-C", ROOT, "rev-parse", "--short", f"{revision}^{{commit}}"])
    if not name:
        raise SystemExit(f"bench: {revision} is no revision of this checkout")
    folder.mkdir()
    with subprocess.Popen(["git", "-C", ROOT, "archive", "--format=tar", name], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    return name


@dataclass
class Ground:
    """What chapters share. `cms` are the installations to measure, the first of them this one.

    `peers` is False where only installations are compared; `short` means a minute for everything, at the cost of every
    number's worth. `missing` are peers that are not here, and why. `signed_in` are the files of a user who has signed in, by
    the installation and the sandbox.
    """

    folder: Path
    tools: Tools
    cms: tuple[Installation, ...]
    entra: Sandbox
    peers: bool = True
    short: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    signed_in: dict[tuple[str, str], Path] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def python(self) -> str:
        """The interpreter that everything is compared with."""
        return self.cms[0].python

    def pick(self, long: T, short: T) -> T:
        """Return how much of something is measured."""
        return short if self.short else long

    def place(self) -> Path:
        """Return a new folder that every user can enter. Its path is short, for sockets."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir(mode=0o755)
        return folder


@contextmanager
def ground(*, installed: str = "", revision: str = "", short: bool = False) -> Iterator[Ground]:
    """Make the ground, and remove it. `installed` is an installation to measure instead of a new one."""
    with (
        TemporaryDirectory(prefix="cms-bench-", ignore_cleanup_errors=True) as name,
        sandbox(elsewhere=not short) as entra,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tools").mkdir(mode=0o755)
        found = [Installation(CMS, Path(installed)) if installed else install(CMS, ROOT, folder / CMS)]
        if revision:
            named = check_out(revision, folder / "source")
            found.append(install(f"{CMS} {named}", folder / "source", folder / named))
        yield Ground(folder, Tools(folder / "tools"), tuple(found), entra, peers=not revision, short=short)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with nothing in it of the one that runs the bench; all folders are in `home`."""
    places = {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"}
    folders = {name: str(home / place) for name, place in places.items()}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(home), **folders, **more}


_VERSIONS = """
import platform
from importlib.metadata import version
libraries = (f"{name} {version(name)}" for name in ("trio", "structlog", "platformdirs", "msal", "cryptography"))
print(platform.python_version(), *libraries, sep=", ")
"""


def machine(python: str) -> dict[str, str]:
    """Return what the numbers depend on: the machine, and the versions of what is measured."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    packages = said(["dpkg-query", "-W", "-f=${Package} ${Version}, ", "oidc-agent-cli", "mutt", "gcc"]).strip(", ")
    return {
        "machine": f"{os.cpu_count()} x {names[0] if names else platform.machine()}, Linux {platform.release()}",
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', '')}: {packages}",
        "Python": said([python, "-c", _VERSIONS]),
        "cms": said(["git", "-C", ROOT, "describe", "--always", "--dirty"]) or "no checkout",
    }
