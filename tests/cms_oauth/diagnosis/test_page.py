"""docs/troubleshooting.md: it is what the tables say, and can be searched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cms_oauth.diagnosis import entra, local, mail, page

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "troubleshooting.md"


def test_the_page_is_made_from_the_tables() -> None:
    """After a change of a table: `make docs`."""
    assert page.page() == PAGE.read_text()


def test_it_is_a_program() -> None:
    """As `make docs` calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "cms_oauth.diagnosis.page"], capture_output=True, text=True, check=True
    )

    assert PAGE.read_text() == done.stdout


def test_every_row_is_in_it() -> None:
    """Whichever table it stands in."""
    text = PAGE.read_text()
    names = {cause.name for row in mail.ROWS for cause in row.causes}
    names |= {row.name for row in (*entra.ROWS.values(), *entra.APPLICATION_ROWS.values())}
    names |= {row.verdict.name for row in local.ROWS}

    assert {name for name in names if f"\n### {name}\n" not in text} == set()


def test_it_is_found_by_the_words_of_a_message() -> None:
    """What people paste into a search box."""
    text = PAGE.read_text()

    for words in (
        "535 5.7.3 Authentication unsuccessful",
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
        assert words in text


def test_nothing_is_left_to_fill_in() -> None:
    """Each placeholder of the tables has a stand-in."""
    assert "{" not in PAGE.read_text()
