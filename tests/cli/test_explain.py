"""`cms explain` at the command line: words, a pipe, JSON, and text that nobody knows."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cms.cli.commands import main

ROOT = Path(__file__).parents[2]


def reading(monkeypatch: pytest.MonkeyPatch, text: bytes, *, terminal: bool = False) -> None:
    """Have this on the standard input."""
    stdin = SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_words_of_the_command_line_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """The cause, whose move it is, and the steps; quotes around the text may be left out."""
    status = main(["explain", "-ERR", "Logon", "failure"])
    said = capsys.readouterr().out

    assert (0, "-ERR Logon failure") == (status, said.splitlines()[0])
    assert "who can fix it:" in said


def test_a_log_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Any bytes may be in a log; each cause is explained once."""
    reading(monkeypatch, b"AADSTS50105 \xff\nfine\nAADSTS50105\n")
    status = main(["explain"])
    said = capsys.readouterr().out

    assert 0 == status
    assert "(2 lines like this)" in said
    assert "Paste" not in said


def test_a_person_at_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without words, and without a pipe, the command says what it waits for."""
    reading(monkeypatch, b"AADSTS50105\n", terminal=True)

    assert 0 == main(["explain"])
    assert capsys.readouterr().out.startswith("Paste the error")


def test_programs_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same verdicts as in `cms-oauth --test-...`."""
    main(["explain", "--json", "AADSTS50105"])
    (found,) = json.loads(capsys.readouterr().out)

    assert ("AADSTS50105", 1, "administrator") == (found["line"], found["times"], found["verdicts"][0]["mover"])


@pytest.mark.parametrize(
    "words",
    [
        ["-ERR Authentication failure: unknown user name or bad password."],
        ["--json", "-ERR Authentication failure"],
        ["-ERR", "Authentication", "failure", "--json"],
        ["--", "-ERR Authentication failure"],
    ],
)
def test_a_reply_of_pop_is_no_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It begins with a hyphen, and whatever letters follow are those of the reply."""
    assert 0 == main(["explain", *words])
    assert "POP is switched off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("AADSTS50105", "docs/troubleshooting/sign-in.md#"),
        (
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
            "docs/troubleshooting/login.md#",
        ),
        (
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            "docs/troubleshooting/message.md#",
        ),
        ("connect: Connection refused", "docs/troubleshooting/connection.md#no-connection"),
        ("cms-oauth: no account (unknown-account) - name one", "docs/troubleshooting/token.md#unknown-account"),
        ("535 5.7.139", "docs/troubleshooting.md"),
    ],
)
def test_each_explanation_names_its_page(capsys: pytest.CaptureFixture[str], text: str, page: str) -> None:
    """The page has that heading, so that what `cms explain` says can be looked up and given on."""
    assert 0 == main(["explain", text])
    said = capsys.readouterr().out.splitlines()[-1]
    main(["explain", "--json", text])
    file, _, heading = json.loads(capsys.readouterr().out)[0]["page"].partition("#")

    assert said.startswith(f"  more: {page}")
    assert f"\n## {heading}\n" in (ROOT / file).read_text() if heading else file == page


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_text_that_nobody_knows_is_a_failure(json_too: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts see it by the exit status, people by a sentence."""
    assert 1 == main(["explain", *json_too, "hello"])
    assert bool(json_too) == ("[]" in capsys.readouterr().out)
