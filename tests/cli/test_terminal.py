"""What the `cms` command prints and asks moves no cursor, whatever text from outside is in it."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from threading import Event

import click
import pytest
from support.foreign import HARMLESS, HOSTILE
from support.waiting import PATIENCE

from cms import main
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


class Tty(io.StringIO):
    """A terminal that is written to."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def tty(monkeypatch: pytest.MonkeyPatch) -> Tty:
    """A terminal of 80 columns and 24 lines, where nothing says anything about colours."""
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "LESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    return Tty()


BOLD, GREEN, YELLOW, RED, PLAIN = "\x1b[1m", "\x1b[32m\x1b[1m", "\x1b[33m\x1b[1m", "\x1b[31m\x1b[1m", "\x1b[0m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@b: ok", f"a@b: {GREEN}ok{PLAIN}"),
        ("a@b  renewing, warning  x", f"a@b  {YELLOW}renewing{PLAIN}, warning  x"),
        ("a@b  failing", f"a@b  {RED}failing{PLAIN}"),
        ("fail  smtp", f"{RED}fail{PLAIN}  smtp"),
        ("run `cms login`", f"run {BOLD}`cms login`{PLAIN}"),
        ("see https://a.test/x.", "see \x1b]8;;https://a.test/x\x1b\\https://a.test/x\x1b]8;;\x1b\\."),
        ("all is ok so far, and it can fail", "all is ok so far, and it can fail"),
    ],
)
def test_words_have_colours_by_what_they_mean(tty: Tty, text: str, expected: str) -> None:
    """States, results, commands and links; the words are the same without colours. Prose has none."""
    with redirect_stdout(tty):
        terminal.say(text)

    assert f"{expected}\n" == tty.getvalue()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
        ({"CLICOLOR": "0"}, False),
        ({"CLICOLOR": "0", "CLICOLOR_FORCE": "1"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_who_has_a_say_about_colours(
    tty: Tty, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: bool
) -> None:
    """The variables that all programs know; what is no terminal has none unless they are forced."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    assert expected == terminal.coloured(tty)
    assert ("CLICOLOR_FORCE" in settings and expected) == terminal.coloured(io.StringIO())


@pytest.mark.parametrize(("choice", "expected"), [("always", True), ("never", False), ("auto", False)])
def test_the_option_decides_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], choice: str, expected: bool
) -> None:
    """Also for output that goes to a pipe; links are for terminals only."""
    monkeypatch.delenv("CLICOLOR_FORCE", raising=False)
    main.main([f"--color={choice}", "explain", "AADSTS50105"])
    out = capsys.readouterr().out

    assert expected == ("\x1b[" in out)
    assert "\x1b]8" not in out


@pytest.mark.parametrize("name", ["linux", "screen.xterm"])
def test_links_are_text_where_they_would_be_shown(tty: Tty, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The Linux console knows no OSC 8; colours stay."""
    monkeypatch.setenv("TERM", name)
    with redirect_stdout(tty):
        terminal.say("`x` https://a.test/")

    assert f"{BOLD}`x`{PLAIN} https://a.test/\n" == tty.getvalue()


def test_a_line_that_may_be_cut_off_has_no_links(tty: Tty) -> None:
    """Half an address would be opened. It has its colours."""
    with redirect_stdout(tty):
        assert f"{RED}fail{PLAIN}  https://a.te…" == terminal.in_colours("fail  https://a.te…")


def test_foreign_text_brings_no_colours(tty: Tty) -> None:
    """What is added comes after `shown`."""
    with redirect_stdout(tty):
        terminal.say(HOSTILE)

    assert f"{HARMLESS}\n" == tty.getvalue()


@pytest.mark.parametrize(("lines", "paged"), [(10, False), (30, True)])
def test_what_is_longer_than_the_screen(tty: Tty, monkeypatch: pytest.MonkeyPatch, lines: int, *, paged: bool) -> None:
    """Goes through the pager, with its colours; the rest, and what is no terminal, does not."""
    seen = list[str]()
    monkeypatch.setattr(click, "echo_via_pager", lambda text, color: seen.append(text) if color else None)
    monkeypatch.setattr("sys.stdin", Tty())
    with redirect_stdout(tty):
        terminal.say_at_length("a: ok\n" * lines)
    assert paged == bool(seen)
    assert paged != (GREEN in tty.getvalue())

    with redirect_stdout(io.StringIO()) as pipe:
        terminal.say_at_length("a: ok\n" * lines)
    assert paged == bool(seen)
    assert "a: ok\n" in pipe.getvalue()


@pytest.mark.parametrize(("columns", "paged"), [(23 * 80, False), (23 * 80 + 1, True)])
def test_what_a_terminal_wraps_is_long_too(
    tty: Tty, monkeypatch: pytest.MonkeyPatch, columns: int, *, paged: bool
) -> None:
    """A line of many accounts has many rows on the screen."""
    seen = list[str]()
    monkeypatch.setattr(click, "echo_via_pager", lambda text, color: seen.append(text) if color else None)
    monkeypatch.setattr("sys.stdin", Tty())
    with redirect_stdout(tty):
        terminal.say_at_length("x" * columns)

    assert paged == bool(seen)


def test_the_parts_of_a_long_text_are_one(tty: Tty, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a person, also those of a command that was interrupted; a pipe gets each at once."""
    seen = list[str]()
    monkeypatch.setattr(click, "echo_via_pager", lambda text, color: seen.append(text) if color else None)
    monkeypatch.setattr("sys.stdin", Tty())

    def interrupted() -> None:
        with terminal.at_length() as tell:
            tell("one\n" * 20)
            tell("two\n" * 20)
            raise KeyboardInterrupt

    with redirect_stdout(tty), pytest.raises(KeyboardInterrupt):
        interrupted()
    with redirect_stdout(io.StringIO()) as pipe, terminal.at_length() as tell:
        tell("one")
        assert "one\n" == pipe.getvalue()
    with redirect_stdout(tty), terminal.at_length():
        pass

    assert [("one\n" * 20) + "\n" + "two\n" * 20 + "\n"] == seen
    assert "" == tty.getvalue()


def test_progress_is_one_line_of_a_terminal(tty: Tty) -> None:
    """Replaced in place, cut at the edge, cleared at the end; nothing where there is no terminal."""
    piped = io.StringIO()
    for stream in (tty, piped):
        progress = terminal.Progress(stream)
        for text in ("checking: dns, tls", "checking: dns, tls", "x" * 500, "\x1b[31m", ""):
            progress(text)

    assert tty.getvalue().startswith("\r\x1b[Kchecking: dns, tls\r\x1b[Kxxx")
    assert tty.getvalue().endswith("\r\x1b[K")
    assert "\x1b[31m" not in tty.getvalue()
    assert len(tty.getvalue()) < 500
    assert "" == piped.getvalue()


class Watched(Tty):
    """A terminal that says when something was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = Event()

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_what_takes_long_says_so(tty: Tty, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, with the seconds; it is cleared in the end, whatever that is."""
    watched = Watched()
    monkeypatch.setattr("sys.stderr", watched)

    def fail() -> None:
        with terminal.working("fetching tokens", every=0.001):
            assert watched.written.wait(PATIENCE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert watched.getvalue().startswith("\r\x1b[Kfetching tokens (0 s)")
    assert watched.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("name", ["dumb", "xterm"])
def test_what_is_quick_or_has_no_terminal_says_nothing(tty: Tty, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first second is not worth a word, and a dumb terminal cannot clear a line."""
    monkeypatch.setenv("TERM", name)
    monkeypatch.setattr("sys.stderr", tty)
    with terminal.working("reading"):
        pass

    assert "" == tty.getvalue()
    assert (name == "xterm") == terminal.Progress(tty).shows
