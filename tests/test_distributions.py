"""The two distributions: what is in each, and that each can be installed without this checkout."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from support.reachable import bare_environment, closure, copy
from test_layers import HOMES

from cms_oauth.version import VERSION

ROOT = Path(__file__).parents[1]
WHEELS = {
    "cms-oauth": f"cms_oauth-{VERSION}-py3-none-any.whl",
    "cms-oauth-client": f"cms_oauth_client-{VERSION}-py3-none-any.whl",
}


def build(folder: Path, target: Path) -> None:
    """Build a source distribution, and a wheel from that, as a release is built."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", target, folder], check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions."""
    target = tmp_path_factory.mktemp("built")
    for folder in (ROOT, ROOT / "client"):
        build(folder, target)
    return target


def names(archive: Path) -> set[str]:
    """Return the files in a wheel or a source distribution."""
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as opened:
        assert [] == [each.name for each in opened if not each.isfile()]
        return {each.name.partition("/")[2] for each in opened}


def metadata(wheel: Path) -> Message:
    (place,) = (name for name in names(wheel) if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(zipfile.ZipFile(wheel).read(place).decode())


class Environment:
    """A virtual environment without any of cms in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python3*/site-packages"))

    def install(self, *words: str | Path) -> None:
        """Install with the pip of the tests, without an index."""
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--python",
            self.folder / "bin" / "python",
        ]
        done = subprocess.run([*pip, "install", "--no-index", *words], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr

    def run(self, command: str, *words: str) -> str:
        """Return what an installed command prints."""
        done = subprocess.run(
            [self.folder / "bin" / command, *words],
            capture_output=True,
            text=True,
            check=False,
            env=bare_environment(),
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    def commands(self) -> set[str]:
        return {path.name for path in (self.folder / "bin").iterdir()} & {"cms", "cms-oauth", "git-credential-cms"}


SHARED = {
    "cms-oauth-client": {
        *("share/man/man1/cms-oauth.1", "share/man/man1/git-credential-cms.1"),
        *("share/bash-completion/completions/cms-oauth", "share/zsh/site-functions/_cms-oauth"),
        "share/fish/vendor_completions.d/cms-oauth.fish",
    },
    "cms-oauth": {
        *("share/man/man1/cms.1", "share/man/man5/cms.cfg.5"),
        *("share/bash-completion/completions/cms", "share/zsh/site-functions/_cms"),
        "share/fish/vendor_completions.d/cms.fish",
    },
}


@pytest.fixture
def empty(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "empty")


@pytest.fixture
def with_libraries(tmp_path: Path) -> Environment:
    """One that has the libraries which cms needs."""
    made = Environment(tmp_path / "with-libraries")
    for each in closure("cms-oauth", ""):
        if each.name not in WHEELS:
            copy(each, made.packages)
    return made


def test_the_client_needs_nothing(built: Path) -> None:
    """No library, and what it needs in Python is what cms needs."""
    client, main = (metadata(built / WHEELS[name]) for name in ("cms-oauth-client", "cms-oauth"))

    assert client.get_all("Requires-Dist") is None
    assert client["Requires-Python"] == main["Requires-Python"]
    assert client["Version"] == main["Version"] == VERSION


def test_cms_needs_the_client_of_its_version(built: Path) -> None:
    """What is released names a version, and no place on this machine; the source distribution says the same."""
    wheel = metadata(built / WHEELS["cms-oauth"])
    with tarfile.open(built / f"cms_oauth-{VERSION}.tar.gz") as opened:
        file = opened.extractfile(f"cms_oauth-{VERSION}/PKG-INFO")
        assert file
        source = HeaderParser().parsestr(file.read().decode())

    for each in (wheel, source):
        assert f"cms-oauth-client=={VERSION}" in each.get_all("Requires-Dist", [])
        assert "file:" not in "".join(each.get_all("Requires-Dist", []))


def test_no_file_is_in_both(built: Path) -> None:
    """Each has its package, its licence and nothing of the other."""
    client, main = (names(built / WHEELS[name]) for name in ("cms-oauth-client", "cms-oauth"))

    assert set() == client & main
    documents = {f"cms_oauth/{each.relative_to(ROOT)}" for each in (ROOT / "docs").rglob("*.md")}
    assert {"cms_oauth/main.py", "cms_oauth/py.typed", *documents} <= client
    assert {"cms/main.py", "cms/data/contrib/muttrc", "cms/data/systemd/user/cms.service"} <= main
    assert all(any(name.endswith("licenses/LICENSE") for name in each) for each in (client, main))
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "client" / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", SHARED)
def test_manual_pages_and_completions_are_where_programs_look(built: Path, name: str) -> None:
    """Below the prefix of the installation; pipx links the manual pages from there."""
    inside = {found.partition(".data/data/")[2] for found in names(built / WHEELS[name])} - {""}

    assert SHARED[name] == inside


def test_building_twice_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Whoever builds a release can compare."""
    for folder in (ROOT, ROOT / "client"):
        build(folder, tmp_path)

    def sums(folder: Path) -> dict[str, str]:
        return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()}

    assert 4 == len(sums(built))
    assert sums(built) == sums(tmp_path)


@pytest.mark.parametrize(
    ("folder", "page"), [(ROOT, "cms"), (ROOT / "client", "cms_oauth")], ids=["cms-oauth", "cms-oauth-client"]
)
def test_what_a_build_loads_is_declared(folder: Path, page: str) -> None:
    """A manual page is made from the commands, and these load libraries: a build in an empty environment has them."""
    program = f"import man_pages, sys; man_pages.{page}(); print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=bare_environment(PYTHONPATH=f"{ROOT / 'distribution'}:{ROOT}"),
    )
    requires = tomllib.loads((folder / "pyproject.toml").read_text())["build-system"]["requires"]
    libraries = {"docutils", "myst_parser", *HOMES}

    declared = {re.split(r"[<>=]", each)[0].replace("myst-docutils", "myst_parser") for each in requires}
    assert declared - {"hatchling"} == libraries & set(loaded.stdout.split())


def test_the_client_alone(built: Path, empty: Environment) -> None:
    """It runs where nothing else is installed."""
    empty.install("--find-links", built, "cms-oauth-client")

    assert {"cms-oauth", "git-credential-cms"} == empty.commands()
    assert "usage: cms-oauth" in empty.run("cms-oauth", "--help")
    assert f"cms-oauth {VERSION}\n" == empty.run("cms-oauth", "--version")


def test_messages_name_the_documents_that_are_installed(built: Path, empty: Environment) -> None:
    """The file that a message names is there."""
    empty.install("--find-links", built, "cms-oauth-client")
    program = "from cms_oauth.documents import located; print(located('see docs/clients/exim.md and x/docs/y.md'))"
    words = empty.run("python", "-I", "-c", program).split()

    assert Path(words[1]).read_text() == (ROOT / "docs" / "clients" / "exim.md").read_text()
    assert ["see", "and", "x/docs/y.md"] == [words[0], *words[2:]]


def test_every_module_of_the_client_loads_alone(built: Path, empty: Environment) -> None:
    """None of them needs a library when it is imported: not the options, not the tests of mail servers."""
    empty.install("--find-links", built, "cms-oauth-client")
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names(built / WHEELS["cms-oauth-client"])
        if name.endswith(".py")
    ]

    assert len(modules) > 20
    empty.run("python", "-I", "-c", f"import {', '.join(modules)}")


def test_cms_brings_the_client(built: Path, with_libraries: Environment) -> None:
    """From the place where cms itself comes from."""
    with_libraries.install("--find-links", built, "cms-oauth")

    assert {"cms", "cms-oauth", "git-credential-cms"} == with_libraries.commands()
    assert f"cms, version {VERSION}\n" == with_libraries.run("cms", "--version")
    assert f"cms-oauth {VERSION}\n" == with_libraries.run("cms-oauth", "--version")


def test_a_checkout_installs_both(with_libraries: Environment) -> None:
    """`pip install .`, without an index that has the client."""
    # An index would bring what builds it.
    for tool in ("hatchling", "docutils", "myst-docutils"):
        for each in closure(tool, ""):
            copy(each, with_libraries.packages)
    with_libraries.install("--no-build-isolation", ROOT)

    assert f"cms, version {VERSION}\n" == with_libraries.run("cms", "--version")
    assert "usage: cms-oauth" in with_libraries.run("cms-oauth", "--help")
