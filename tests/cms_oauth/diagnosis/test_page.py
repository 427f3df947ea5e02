"""The troubleshooting pages: they are what the tables say, can be searched, and have one place for each entry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from cms_oauth.diagnosis import entra, local, mail, page

DOCS = Path(__file__).parent.parent.parent.parent / "docs"
INDEX = (DOCS / "troubleshooting.md").read_text()
ENTRIES = "".join(path.read_text() for path in sorted(DOCS.glob("troubleshooting/*.md")))


def test_the_pages_are_made_from_the_tables() -> None:
    """After a change of a table: `make docs`."""
    paths = [DOCS / "troubleshooting.md", *DOCS.glob("troubleshooting/*.md")]

    assert page.pages() == {str(path.relative_to(DOCS)): path.read_text() for path in paths}


def test_it_is_a_program(tmp_path: Path) -> None:
    """As `make docs` calls it; it removes the page of a family that is gone."""
    gone = tmp_path / "troubleshooting" / "gone.md"
    gone.parent.mkdir()
    gone.write_text("# No longer a family\n")

    subprocess.run([sys.executable, "-m", "cms_oauth.diagnosis.page", tmp_path], check=True)

    assert page.pages() == {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.md")}


def test_every_row_is_in_them() -> None:
    """Whichever table it stands in."""
    names = {cause.name for row in mail.ROWS for cause in row.causes}
    names |= {row.name for row in (*entra.ROWS.values(), *entra.APPLICATION_ROWS.values())}
    names |= {row.verdict.name for row in local.ROWS}

    assert {name for name in names if f"\n## {name}\n" not in ENTRIES} == set()


def test_an_entry_is_on_a_page_once() -> None:
    """A link to its heading means one entry."""
    for name, text in page.pages().items():
        titles = re.findall(r"^## (.*)$", text, re.MULTILINE)

        assert len(titles) == len({*titles}), name


def test_the_index_leads_to_every_entry() -> None:
    """By at least one thing that people see, unless an entry has no words."""
    linked = set(re.findall(r"\(troubleshooting/([\w-]+)\.md#([\w-]+)\)", INDEX))
    found = set()
    for path in DOCS.glob("troubleshooting/*.md"):
        for title, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", path.read_text(), re.MULTILINE | re.DOTALL):
            if "\nSeen as: " in text:
                found.add((path.stem, re.sub(r"[^\w\- ]", "", title).replace(" ", "-")))

    assert found == linked


def test_each_number_has_its_row() -> None:
    """Also where an entry shows a range, which nobody would find by a number in it."""
    rows = re.findall(r"^\| AADSTS(\d+) \|", INDEX, re.MULTILINE)

    assert sorted({*entra.ROWS, *entra.APPLICATION_ROWS}) == [int(number) for number in rows]
    assert "“AADSTS20001” to “AADSTS20033”" in ENTRIES


def test_it_is_found_by_the_words_of_a_message() -> None:
    """What people paste into a search box."""
    for words in (
        "535 5.7.3",
        "Authentication unsuccessful",
        "SmtpClientAuthentication is disabled for the Tenant",
        "User is authenticated but not connected",
        "Suggested Backoff Time",
        "AADSTS65001",
        "AADSTS700082",
        "AADSTS20017",
        "AADSTS700024",
        "need admin approval",
        "Connection refused",
    ):
        assert words in INDEX


def test_nothing_is_left_to_fill_in() -> None:
    """Each placeholder of the tables has a stand-in."""
    assert "{" not in INDEX + ENTRIES
