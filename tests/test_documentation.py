"""The documentation as a whole: every link leads somewhere, the index leads to every page, and commands are ones."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from support.contrib import ROOT

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
