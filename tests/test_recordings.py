"""distribution/recordings.py, and the pictures of a terminal that it makes: what they show is what the programs say."""

from __future__ import annotations

import shlex
from xml.etree import ElementTree as ET

import pytest
import recording_world
import recordings
from recordings import Piece, Row
from support.contrib import ROOT

from cms.cli import commands

_TEXT = "{http://www.w3.org/2000/svg}text"


def rows(svg: str) -> list[str]:
    """Return the text of each row of a picture."""
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(_TEXT)]


def squeezed(text: str) -> str:
    """Return a text without white space, which is otherwise in a terminal of another width."""
    return "".join(text.split())


def test_a_picture_has_the_rows_of_the_screen() -> None:
    """As they are, with what XML would read otherwise, in the time in which they came; blank ones leave room."""
    svg = recordings.picture(
        "a title",
        [Row((Piece("a < b & 'c'"), Piece(" bad", "red", bold=True))), Row(()), Row((Piece("  last"),), 1.25)],
    )

    assert ["a < b & 'c' bad", "  last"] == rows(svg)
    assert '<tspan class="red bold"> bad</tspan>' in svg
    assert 'width="148"' in svg, "of the longest row, with a margin"
    assert "animation-delay: 0.0s" in svg
    assert 'y="64" style="animation-delay: 1.2s"' in svg


@pytest.mark.parametrize("name", recordings.RECORDINGS)
def test_a_picture_is_of_its_commands(name: str) -> None:
    """After a change of the commands: `make recordings`."""
    shown = rows((ROOT / "docs" / "images" / f"{name}.svg").read_text())

    for words in recordings.RECORDINGS[name]:
        assert squeezed(f"$ {shlex.join(words)}") in squeezed("".join(shown))


def test_what_explain_says_is_what_the_picture_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change of what it says: `make recordings`."""
    said = ""
    for words in recordings.RECORDINGS["explain"]:
        assert 0 == commands.main(words[1:])
        said += f"$ {shlex.join(words)}\n{capsys.readouterr().out}"

    assert squeezed(said) == squeezed("".join(rows((ROOT / "docs" / "images" / "explain.svg").read_text())))


def test_the_table_is_that_of_the_recordings_accounts() -> None:
    """What is wrong first, each cause once, and a line for each account of distribution/recording_world.py."""
    shown = rows((ROOT / "docs" / "images" / "status.svg").read_text())

    for account in (recording_world.PERSON, recording_world.AWAY, recording_world.RELAY, *recording_world.TEAMS):
        assert any(line.strip().startswith(account) for line in shown), account
    assert any(line.startswith("ACCOUNT") for line in shown)
    assert any("one sign-in" in line and "8 accounts" in line for line in shown)
