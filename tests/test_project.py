"""What the project says of itself is true: README's commands exist, CI does what a developer does, files are clean."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.programs import give_up, listed_packages, releases_packages, require_program
from support.reachable import Installation
from test_layers import HOMES

from cms_oauth.microsoft import PERMISSIONS

ROOT = Path(__file__).parents[1]
# What a person reads first, and on the way to a first run.
README = "".join((ROOT / name).read_text() for name in ("README.md", "docs/install.md"))
# Where pip is told of a registry.
_REGISTRIES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    """Return README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return README's shell commands, as words."""
    return [shlex.split(line.removesuffix("&")) for block in blocks("sh") for line in block.splitlines()]


def tracked() -> list[Path]:
    """Return the files that git knows."""
    git = require_program("git", "git")
    listed = subprocess.run([git, "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        give_up("this is no checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("words", [words for words in commands() if words[0] in ("cms", "cms-oauth")], ids=shlex.join)
def test_readmes_commands_are_understood(words: list[str], installation: Installation) -> None:
    """Each command and option that README shows is one: none is turned away as unknown."""
    done = subprocess.run(
        [installation.command(words[0]), *words[1:], "--help"], capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stderr
    assert "usage:" in done.stdout.lower()


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "make"], ids=shlex.join)
def test_readmes_targets_exist(words: list[str]) -> None:
    """`make` knows what README makes with it."""
    make = require_program("make", "make")

    assert 0 == subprocess.run([make, "-C", ROOT, "-n", *words[1:]], capture_output=True, check=False).returncode


def test_every_command_of_readme_is_looked_at() -> None:
    """No command is left out of the tests above but those that set a machine up."""
    others = {words[0] for words in commands()} - {"cms", "cms-oauth", "make"}

    assert {"sudo", "python3", "~/.local/share/cms/bin/pip", "mkdir", "ln", "pipx"} == others


def test_readmes_packages_make_the_virtual_environment() -> None:
    """The one apt line gives what `make demo` needs and a bare Debian lacks."""
    assert ["sudo", "apt", "install", "make", "python3-venv"] in commands()
    assert "python3-venv" in listed_packages()


def test_readmes_configuration_is_accepted(installation: Installation, tmp_path: Path) -> None:
    """`cms check` finds nothing wrong with it."""
    (configuration,) = blocks("python")
    path = tmp_path / "cms.cfg"
    path.write_text(configuration.replace("/run/user/1000/cms", str(tmp_path)))

    checked = subprocess.run(
        [installation.command("cms"), "check", "-c", path], capture_output=True, text=True, check=False
    )

    assert 0 == checked.returncode, checked.stdout + checked.stderr


def test_protocols_of_what_every_program_can_ask_exist() -> None:
    """They are ones that cms knows."""
    protocols = re.findall(r"--proto=(\w+)", (ROOT / "docs" / "clients" / "README.md").read_text())

    assert protocols
    assert set(protocols) <= set(PERMISSIONS)


def test_ci_runs_what_a_developer_runs() -> None:
    """.ci/run calls `make test` and nothing else."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()

    assert ["#!/usr/bin/env bash", "set -eu", 'cd "$(dirname "$0")/.."', "make test"] == lines


def test_the_coverage_gate_holds() -> None:
    """`make test` fails under 95 % of branches: the report is its last step, and has the limit."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]

    assert settings["run"]["branch"] is True
    assert settings["report"]["fail_under"] >= 95
    assert "coverage report" in MAKEFILE.partition("\ntest:")[2].partition("\n\n")[0].splitlines()[-1]


def test_nothing_tracked_names_a_machine() -> None:
    """No file says where it was written, with whose interpreter, or through which registry."""
    places = {str(ROOT), "/.pyenv/", *(value for name, value in os.environ.items() if name in _REGISTRIES and value)}
    named = {
        str(path.relative_to(ROOT)): place
        for path in tracked()
        if path != Path(__file__)
        for place in places
        if place.encode() in path.read_bytes()
    }

    assert {} == named


def test_package_list_gives_reasons() -> None:
    """Each Debian package is there for a reason that is written beside it."""
    lines = (ROOT / "tests" / "debian-packages.txt").read_text().splitlines()

    assert [] == [line for line in lines if line and "#" not in line]


def test_a_user_without_root_is_told_what_is_missing(tmp_path: Path) -> None:
    """Without root nothing is installed: the missing packages are named, with the command."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    script = str(ROOT / "tests" / "install-debian-packages")
    require_program("dpkg-query", "dpkg")

    done = subprocess.run(
        [script, "util-linux", "no-such-package"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.rstrip().endswith("apt-get install --no-install-recommends no-such-package")


def test_a_package_is_for_the_releases_that_it_is_marked_with(tmp_path: Path) -> None:
    """Where nothing is installed, all is wanted but what is marked with other releases only, or unpacked."""
    for name, says in {"id": "echo 1000", "dpkg-query": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    require_program("dpkg-query", "dpkg")
    done = subprocess.run(
        [ROOT / "tests" / "install-debian-packages"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )

    named = done.stderr.splitlines()[-1].partition("--no-install-recommends ")[2].split()
    assert [package for package in releases_packages() if package != "postfix"] == named
    assert "libtlsrpt0" in listed_packages()
    assert ("libtlsrpt0" in named) == (platform.freedesktop_os_release()["VERSION_CODENAME"] in ("trixie", "forky"))


@pytest.mark.parametrize(
    ("user", "programs", "message"),
    [
        (1000, (), "only root can make a root of another Debian. Run: sudo make test-trixie"),
        (0, ("git", "unshare"), "debootstrap is missing. Run: apt-get install debootstrap git util-linux"),
        (0, ("debootstrap", "unshare"), "git is missing. Run: apt-get install debootstrap git util-linux"),
        (
            0,
            ("debootstrap", "git", "unshare", "flock"),
            "apt knows no archive of Debian. Run: make test-trixie MIRROR=URL",
        ),
    ],
)
def test_what_another_release_needs_is_named(
    tmp_path: Path, user: int, programs: tuple[str, ...], message: str
) -> None:
    """`make test-trixie` says in one line what is missing, and has made nothing by then."""
    for name in ("id", "flock", "apt-get", *programs):
        (tmp_path / name).write_text(f"#!/bin/sh\n[ {name} != id ] || echo {user}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("dirname", "sed", "head", "mkdir"):
        (tmp_path / name).symlink_to(require_program(name, "coreutils"))
    roots = tmp_path / "roots"

    done = subprocess.run(
        ["/bin/sh", ROOT / "tests" / "debian-root", "trixie"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(tmp_path), "ROOTS": str(roots)},
    )

    assert (1, f"make test-trixie: {message}\n") == (done.returncode, done.stderr)
    assert not (roots / "trixie").exists()


def test_every_target_is_explained() -> None:
    """`make help` knows each, and CONTRIBUTING.md says what it is for."""
    targets = {each for line in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE) for each in line.split()}
    helped = re.findall(r"^\t@echo 'make ([a-z-]+)", MAKEFILE, re.MULTILINE)
    explained = re.findall(r"`(?:sudo )?make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())

    assert targets - {"help"} == set(helped)
    assert set() == targets - set(explained)


def absent_or_tested(folder: Path, verdict: str) -> subprocess.CompletedProcess[str]:
    """Run `make test-dependencies` with a Python 3.12 whose pytest is this command, and no other."""
    make = require_program("make", "make")
    for name, says in {
        "python3.12": '[ "$1" = -c ] || { mkdir -p "$4/bin" && cp pip pytest "$4/bin"; }',
        "python3.13": "exit 127",
        "pip": ":",
        "pytest": verdict,
    }.items():
        (folder / name).write_text(f'#!/bin/sh\ncd "{folder}"\n{says}\n')
        (folder / name).chmod(0o755)
    pythons = "PYTHONS=python3.12 python3.13 python3.00"
    return subprocess.run(
        [
            make,
            "-C",
            ROOT,
            "--no-print-directory",
            "-o",
            "test-oldest",
            "test-dependencies",
            pythons,
            f"NEWEST={folder}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
    )


def test_each_python_is_tested_or_named(tmp_path: Path) -> None:
    """`make test-dependencies` says which were absent, and fails where the tests of one fail."""
    passed = absent_or_tested(tmp_path, "echo tested")
    failed = absent_or_tested(tmp_path, "exit 1")

    assert [
        "python3.12, with the newest libraries:",
        "tested",
        "python3.13 is absent: nothing was tested with it.",
        "python3.00 is absent: nothing was tested with it.",
    ] == passed.stdout.splitlines()
    assert (0, 2) == (passed.returncode, failed.returncode), passed.stderr


def test_every_library_is_declared() -> None:
    """What is imported is a dependency, or of an extra: not only what another library happens to bring along."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    libraries = document["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]
    extras = [each for extra in document["project"]["optional-dependencies"].values() for each in extra]
    declared = {re.split(r"[\[><=]", each)[0].lower() for each in (*libraries, *extras)}
    # keyring has secretstorage where there is a desktop; _typeshed is the type checker's own.
    named = {"dns": "dnspython", "socks": "pysocks", "prometheus_client": "prometheus-client", "jwt": "pyjwt"}
    imported = {named.get(name, name) for name in HOMES} - {"secretstorage", "_typeshed"}

    assert set() == imported - declared


@pytest.mark.parametrize(
    ("file", "words"),
    [("requirements.lock", []), ("requirements-test.lock", ["test"]), ("requirements-docs.lock", ["docs"])],
)
def test_every_requirement_is_locked_with_a_hash(file: str, words: list[str]) -> None:
    """The lock files have all that pyproject.toml asks for, in a version that it allows; `make lock` writes them."""
    program: list[str | Path] = [sys.executable, ROOT / "distribution" / "lock.py", *words]
    wanted = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    text = (ROOT / file).read_text().replace("\\\n", " ")
    locked = {line.split("==")[0].lower(): line for line in text.splitlines()}

    assert wanted
    assert [] == [name for name, line in locked.items() if "--hash=sha256:" not in line]
    for requirement in map(Requirement, wanted):
        version = locked[canonicalize_name(requirement.name)].split("==")[1].split()[0]
        assert requirement.specifier.contains(version)


def test_the_interpreter_is_one_that_is_promised() -> None:
    """The metadata, the tools' targets and README agree on Python 3.11."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert ">=3.11" == project["project"]["requires-python"]
    assert "py311" == project["tool"]["ruff"]["target-version"]
    assert "Python 3.11 or newer" in README
    assert sys.version_info >= (3, 11)
