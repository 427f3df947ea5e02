"""The documentation as a whole: every link leads somewhere, the index leads to every page, and commands are ones."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from functools import cache
from pathlib import Path

import click
import pytest
from pygments.lexers import find_lexer_class_by_name
from pygments.util import ClassNotFound
from support.contrib import ROOT
from support.fragments import blocks

from cms.cli.commands import cms
from cms.cli.commands import command as load

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
IDS = [str(path.relative_to(ROOT)) for path in PAGES]

_LINK = re.compile(r"\]\(\s*(?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")


def prose(text: str) -> str:
    """Return a page without its code, in which `](` is no link and `#` no heading."""
    return re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(path: Path) -> Counter[str]:
    """Return the anchors that the headings of a page get, here and in the site."""
    titles = re.findall(r"^#+ (.*)$", prose(path.read_text()), re.MULTILINE)
    return Counter(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    broken = []
    for link, anchor in _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page.read_text()))):
        target = page.parent / link if link else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{link}#{anchor}")

    assert [] == broken


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_link_to_a_heading_means_one_place(page: Path) -> None:
    """No heading that is linked to stands twice on its page."""
    linked = {(link or page.name, anchor) for link, anchor in _LINK.findall(prose(page.read_text())) if anchor}

    assert [] == [(link, anchor) for link, anchor in linked if anchors((page.parent / link).resolve())[anchor] > 1]


def faults(line: str) -> list[str]:
    """Return what a command line of cms has that cms does not know: the command, or an option."""
    words = re.sub(r"[\[\]<>|;&].*", "", line).split()
    if words[1] not in cms.commands:
        return [words[1]]
    command = load(words[1])
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    known = {option for part in parts for each in part.params for option in (*each.opts, *each.secondary_opts)} | {
        "-h",
        "--help",
    }
    return [word for word in words[2:] if word.startswith("-") and word.partition("=")[0].rstrip(".,") not in known]


# The index of troubleshooting has words of messages where other pages have commands.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "troubleshooting.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_of_cms_are_ones(page: Path) -> None:
    """Each command that a page shows in a sentence or in a block, with its options."""
    text = page.read_text()
    shown = re.findall(r"`(cms [a-z][a-z-]+(?: [^`\n]*)?)`", prose(text))
    shown += [line for each in blocks(text) for line in each.text.splitlines() if re.match(r"cms [a-z]", line)]

    assert [] == [(line, found) for line in shown if (found := faults(line))]


# Whose shell blocks tests take as they are; each test names its page.
RUN_BY = {
    "docs/moving.md": "tests/end_to_end/test_moving_page.py",
    "docs/protocol.md": "tests/test_protocol_document.py",
}
MARKS = ("file", "test", "packages", "not-run")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "bench"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    """A block in a shell is a test's, or is marked with the reason why none runs it, or has commands of cms and make only."""
    name = str(page.relative_to(ROOT))
    if name in RUN_BY:
        assert page.name in (ROOT / RUN_BY[name]).read_text()
        return
    simple = r"(sudo apt install make python3-venv|make [a-z-]+|(\w+=\w+ )?cms [a-z].*|\.venv/bin/pytest .*)"
    left = [
        each.text
        for each in blocks(page.read_text())
        if each.language in ("sh", "powershell")
        and each.mark.partition(":")[0] not in MARKS
        and not all(re.fullmatch(simple, line) for line in each.text.splitlines())
    ]

    assert [] == left
    assert [] == [each.text for each in blocks(page.read_text()) if each.mark in ("not-run", "not-run:")]


def is_known(language: str) -> bool:
    try:
        find_lexer_class_by_name(language)
    except ClassNotFound:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_site_knows_the_languages_of_blocks(page: Path) -> None:
    """Sphinx warns of a language that Pygments does not know, which fails `make docs`."""
    plain = runpy.run_path(str(ROOT / "distribution" / "site" / "conf.py"))["UNKNOWN_LANGUAGES"]
    named = {each.language for each in blocks(page.read_text())} - {"", *plain}

    assert set() == {language for language in named if not is_known(language)}


def test_the_index_leads_to_every_page() -> None:
    """docs/index.md, and the pages that lead on from it, are the navigation of the site; each page is in it once."""
    navigation = runpy.run_path(str(ROOT / "distribution" / "site" / "conf.py"))["with_navigation"]
    found: list[str] = []
    for page in PAGES:
        name = str(page.relative_to(ROOT).with_suffix(""))
        added = navigation(name, page.read_text()).removeprefix(page.read_text())
        found += re.findall(r"^/(.*)$", added, re.MULTILINE)

    assert {"docs/index", *found} == {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES}
    assert len(found) == len({*found})
