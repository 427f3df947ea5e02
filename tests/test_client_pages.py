"""The pages in docs/clients/: all alike in shape, and nothing in them that no test has run."""

from __future__ import annotations

import ast
import platform
import re
import subprocess
from collections.abc import Iterator

import pytest
from support.contrib import ROOT
from support.fragments import CLIENTS, Block, blocks, explains, page
from support.postfix import PACKAGES as UNPACKED
from support.programs import listed_packages

PAGES = sorted(path.stem for path in CLIENTS.glob("*.md") if path.stem != "README")
INDEX = (CLIENTS / "README.md").read_text()

# What a reader looks for, in this order. Further sections may stand between the last two.
SECTIONS = ("Install", "Set up", "Test", "When it does not work")
TESTED = re.compile(r"[Tt]ested in Debian 12 \((?P<debian12>[^)]+)\) and Debian 13 \((?P<debian13>[^)]+)\)\.")
# Where the sentence names a program otherwise than Debian its package.
PACKAGES = {
    "Emacs": "emacs-nox",
    "Postfix": "postfix",
    "Python": "python3",
    "exim": "exim4-daemon-heavy",
    "mbsync": "isync",
}

# The rows of a table without its head.
TROUBLES = 3


def marked(kind: str) -> list[tuple[str, str, Block]]:
    """Return (page, what follows the kind, block) of all blocks with such a mark."""
    found = ((tool, block.mark.partition(":"), block) for tool in PAGES for block in blocks(page(tool)))
    return [(tool, rest.strip(), block) for tool, (name, _, rest), block in found if name == kind]


def taken() -> Iterator[tuple[str, str]]:
    """Yield (page, name) of each `shown("page", "name")` in the tests."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "shown":
                values = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(values) == 2:
                    yield str(values[0]), str(values[1])


@pytest.mark.parametrize("tool", PAGES)
def test_a_page_has_its_sections(tool: str) -> None:
    """What to install, the file, how to test it, and at least three things that go wrong, with what cms says."""
    titles = re.findall(r"^## (.*)$", page(tool), re.MULTILINE)
    rows = re.findall(r"^\|", page(tool).partition(f"## {SECTIONS[-1]}")[2], re.MULTILINE)

    assert SECTIONS == tuple(title for title in titles if title in SECTIONS)
    assert SECTIONS[-1] == titles[-1]
    assert len(rows) - 2 >= TROUBLES


@pytest.mark.parametrize("tool", PAGES)
def test_a_page_says_which_releases_it_is_for(tool: str) -> None:
    """It names the versions of both, and those of the release that the tests run in are the ones that they run."""
    found = TESTED.search(" ".join(page(tool).split()))
    assert found
    stated = {
        release: dict(each.rsplit(" ", 1) for each in re.split(", ", text))
        for release, text in found.groupdict().items()
    }
    here = stated.get("debian" + platform.freedesktop_os_release().get("VERSION_ID", ""), {})

    assert set(stated["debian12"]) == set(stated["debian13"])
    assert {} == {
        name: installed
        for name, version in here.items()
        if not re.search(
            rf"(^|[:~]){re.escape(version)}(?![0-9])", installed := installed_version(PACKAGES.get(name, name))
        )
    }


def installed_version(package: str) -> str:
    """Return a package's version, or that of the file from which the tests unpack it."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said or "".join(path.name.split("_")[1] for path in UNPACKED.glob(f"{package}_*.deb"))


@pytest.mark.parametrize("tool", PAGES)
def test_a_page_is_in_the_index(tool: str) -> None:
    """docs/clients/README.md leads to each page."""
    assert f"]({tool}.md)" in INDEX


@pytest.mark.parametrize("tool", PAGES)
def test_every_block_is_marked(tool: str) -> None:
    """A block without a mark has never been run."""
    unmarked = [block.text for block in blocks(page(tool)) if block.mark.split(":")[0] not in KINDS]

    assert [] == unmarked
    assert page(tool).count("\n```") == 2 * len(blocks(page(tool)))


KINDS = ("file", "test", "packages")


@pytest.mark.parametrize(("tool", "name", "block"), marked("file"), ids=lambda value: value or "")
def test_what_is_shown_of_a_file_is_in_it(tool: str, name: str, block: Block) -> None:
    """Whole lines, in one piece."""
    assert f"\n{block.text}" in "\n" + (ROOT / name).read_text()


def test_every_named_block_is_taken_by_a_test() -> None:
    """A block that is marked `test: NAME` is one that a test asks for."""
    named = {(tool, name) for tool, name, _ in marked("test")}

    assert set() == named - set(taken())
    assert len(named) == len(marked("test")), "a name stands for one block of its page"


@pytest.mark.parametrize(("tool", "block"), [(tool, block) for tool, _, block in marked("packages")])
def test_packages_are_those_that_the_tests_have(tool: str, block: Block) -> None:
    """What a page has its reader install is what the tests' machine has installed."""
    *command, packages = re.fullmatch(r"(sudo) (apt) (install) ([^\n]+)\n", block.text).groups()  # type: ignore[union-attr] # a failure is one

    assert ["sudo", "apt", "install"] == command
    assert set() == set(packages.split()) - set(listed_packages())


def test_quoted_words_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ellipsis stands for anything, all else for itself."""
    monkeypatch.setattr("support.fragments.page", lambda _: "it says `cms-oauth: no socket at … (no-daemon) - run: x`")

    assert explains("any", "msmtp: failed\ncms-oauth: no socket at /run/a (no-daemon) - run: x\n")
    assert not explains("any", "cms-oauth: no socket at /run/a (denied) - run: x\n")
