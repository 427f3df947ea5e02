"""The manual pages: made from the commands and docs/configuration.md, and right for man and mandoc."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import man_pages
import pytest
from support.programs import require_program

from cms.cli.commands import cms, command
from cms_oauth.fetch import EX_IOERR
from cms_oauth.main import INTERRUPTED
from cms_oauth.options import parser
from cms_oauth.wire import EXIT_CODES

ROOT = Path(__file__).parents[1]
PAGES = {
    "cms.1": man_pages.cms,
    "cms-oauth.1": man_pages.cms_oauth,
    "git-credential-cms.1": man_pages.git_credential_cms,
    "cms.cfg.5": man_pages.cms_cfg,
}

# The version says more than a date, and a date would make each build another one.
NO_DATE = 'missing date, using ""'


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each page in turn."""
    path = tmp_path / str(request.param)
    path.write_text(PAGES[path.name]())
    return path


def shown(page: Path, width: int = 80) -> str:
    """Return what `man` shows; a warning of groff's is a failure."""
    man = require_program("man", "man-db")
    done = subprocess.run(
        [man, "--warnings", "--encoding=UTF-8", "--local-file", page],
        capture_output=True,
        text=True,
        check=True,
        env={"MANWIDTH": str(width), "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MAN_KEEP_FORMATTING": ""},
    )
    assert "" == done.stderr
    return " ".join(done.stdout.split())


def test_mandoc_finds_nothing_wrong(page: Path) -> None:
    """No warning but that there is no date."""
    mandoc = require_program("mandoc", "mandoc")
    done = subprocess.run([mandoc, "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)

    assert [] == [line for line in done.stdout.splitlines() if NO_DATE not in line]


def test_man_shows_it_without_a_warning(page: Path) -> None:
    """With its name, its section and what it is."""
    name, _, section = page.name.rpartition(".")
    text = shown(page)

    assert text.startswith(f"{name}({section})")
    assert f"Name {name} - " in text


def test_every_command_and_option_is_there(tmp_path: Path) -> None:
    """cms(1) has what `cms COMMAND --help` has, with the examples."""
    path = tmp_path / "cms.1"
    path.write_text(man_pages.cms())
    text = shown(path, width=400)

    for name in cms.commands:
        each = command(name)
        assert f"cms {name}" in text
        assert " ".join(str(each.help).split("\n\n")[0].split()).replace("`", "") in text
        assert [] == [line for line in str(each.epilog).splitlines()[1:] if line.strip() not in text]
        spellings = [
            spelling
            for option in each.params
            for spelling in option.opts
            if spelling.startswith("-") and not getattr(option, "hidden", False)
        ]
        assert [] == [spelling for spelling in spellings if spelling not in text]


def test_every_option_of_the_client_is_there(tmp_path: Path) -> None:
    """cms-oauth(1) has what `cms-oauth --help` has."""
    path = tmp_path / "cms-oauth.1"
    path.write_text(man_pages.cms_oauth())
    text = shown(path, width=400)

    for action in parser()._actions:
        assert ", ".join(action.option_strings) in text
        assert str(action.help) in text


def test_every_exit_status_of_the_client_is_there() -> None:
    """cms-oauth(1) has those of all codes of the protocol, and of a failed write."""
    text = (ROOT / "distribution" / "man" / "cms-oauth.1.md").read_text()
    told = re.findall(r"^(\d+)\n: ", text, re.MULTILINE)

    assert told == sorted({"0", str(EX_IOERR), str(INTERRUPTED), *map(str, EXIT_CODES.values())}, key=int)


def test_the_configuration_page_is_the_document(tmp_path: Path) -> None:
    """cms.cfg(5) has every heading, and each argument of a table."""
    path = tmp_path / "cms.cfg.5"
    path.write_text(man_pages.cms_cfg())
    text = shown(path, width=400)
    document = (ROOT / "docs" / "configuration.md").read_text()
    headings = [line.lstrip("# ") for line in document.splitlines() if line.startswith("##")]
    arguments = [line.split("`")[1] for line in document.splitlines() if line.startswith("| `")]

    assert [] == [word for word in (*headings, *arguments) if word not in text]
    assert "docs/shared-mailboxes.md" in text
