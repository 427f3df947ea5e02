"""What the `cms` command prints and asks moves no cursor, whatever text from outside is in it."""

from __future__ import annotations

import io

import click
import pytest
from support.foreign import HARMLESS, HOSTILE

from cms.cli import terminal, transfer
from cms.cli.terminal import Terminal


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Line ends and tabs stay, since these texts have lines of their own."""
    terminal.say(f"a\n\tb {HOSTILE}")
    terminal.complain(HOSTILE, HOSTILE)
    out, err = capsys.readouterr()

    assert f"a\n\tb {HARMLESS}\n" == out
    assert f"cms: {HARMLESS}\n{HARMLESS}\n" == err


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of question."""
    asked = list[str]()

    def answer(question: str, *_: object, **__: object) -> str:
        asked.append(question)
        return ""

    monkeypatch.setattr(click, "confirm", answer)
    monkeypatch.setattr(click, "prompt", answer)
    person = Terminal(yes=False)
    person.agree(HOSTILE)
    person.choose(HOSTILE, [""], "")
    person.ask(HOSTILE)

    assert [HARMLESS] * 3 == asked


def test_the_daemons_questions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon of another user's, to root, may say anything."""
    typed = io.StringIO("\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", typed)
    asked = list[str]()
    monkeypatch.setattr("getpass.getpass", asked.append)
    transfer.confirm(HOSTILE)
    transfer.ask_password(HOSTILE)

    assert f"{HARMLESS} [y/N] " == capsys.readouterr().out
    assert [f"{HARMLESS}: "] == asked
