"""Prints messages of the `cms` command, and asks questions at its terminal.

Whatever a text contains, it moves no cursor: all of it passes `shown`. After that a terminal gets colours, by what a word
means and never by colour alone, and links that can be opened.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from cms_oauth.documents import located
from cms_oauth.text import shown

# The colour of a state or of a check's result. Each is a word that is printed in any case.
_GOOD, _BUSY, _BAD = "green", "yellow", "red"
_MEANS = {
    **dict.fromkeys(("ok", "pass"), _GOOD),
    **dict.fromkeys(("starting", "renewing", "signing-in", "warn", "warning"), _BUSY),
    **dict.fromkeys(("failing", "locked", "sign-in-required", "refused", "fail"), _BAD),
}
_WORDS = "|".join(_MEANS)

# A state at the end of an account's line or in a column, a result at the beginning of a line, `a command`, a link.
_MARKED = re.compile(
    rf"(?P<word>(?<=: )(?:{_WORDS})$|(?<=  )(?:{_WORDS})(?=,|  |$)|^(?:{_WORDS})(?=:| ))"
    r"|(?P<command>`[^`\n]+`)"
    r"|(?P<link>https?://[^\s\"'<>`]+[^\s\"'<>`.,;:)\]])",
    re.MULTILINE,
)

# Terminals that show the escape sequence of a link (OSC 8) in place of ignoring it, or cannot show colours.
_NO_LINKS = re.compile(r"dumb|linux|eterm.*|screen.*|unknown|")
_PLAIN = ("dumb", "unknown", "")

COLOURS = ("auto", "always", "never")


def coloured(stream: TextIO) -> bool:
    """True if colours go to this stream: by --color, else NO_COLOR, CLICOLOR_FORCE and CLICOLOR, else for a terminal.

    https://no-color.org/ and https://bixense.com/clicolors/
    """
    context = click.get_current_context(silent=True)
    if context is not None and context.color is not None:
        return context.color
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return os.environ.get("CLICOLOR") != "0" and os.environ.get("TERM", "") not in _PLAIN and stream.isatty()


def in_colours(line: str) -> str:
    """Return a line that has passed `shown`, with the colours that the standard output takes.

    For a page that is drawn to the terminal's width: an address may be cut off there, so it is no link.
    """
    return _styled(line, sys.stdout, linked=False)


def _styled(text: str, stream: TextIO, *, linked: bool = True) -> str:
    """Return a text that has passed `shown`, with the colours and, if `linked`, the links that the stream takes."""
    if not coloured(stream):
        return text
    links = linked and stream.isatty() and not _NO_LINKS.fullmatch(os.environ.get("TERM", ""))

    def style(found: re.Match[str]) -> str:
        if found["word"]:
            return click.style(found[0], fg=_MEANS[found[0]], bold=True)
        if found["command"]:
            return click.style(found[0], bold=True)
        return f"\x1b]8;;{found[0]}\x1b\\{found[0]}\x1b]8;;\x1b\\" if links else found[0]

    return _MARKED.sub(style, text)


def say(text: str) -> None:
    """Print to the standard output."""
    click.echo(_styled(shown(located(text)), sys.stdout), color=coloured(sys.stdout))


def columns() -> int | None:
    """Return the width of the terminal that shows the standard output, None if none does."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def has_pager() -> bool:
    """True if a person at a terminal reads what `say_at_length` prints."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say_at_length(text: str) -> None:
    """Print to the standard output; what is longer than the screen goes through the person's pager."""
    wide, rows = shutil.get_terminal_size()
    # One row is the prompt's.
    if not has_pager() or sum(max(1, -(-len(line) // wide)) for line in text.split("\n")) < rows:
        say(text)
        return
    # What git tells less: colours pass, and the text stays on the screen.
    os.environ.setdefault("LESS", "FRX")
    colour = coloured(sys.stdout)
    click.echo_via_pager(_styled(shown(located(text)), sys.stdout) + "\n", color=colour)


@contextmanager
def at_length() -> Iterator[Callable[[str], None]]:
    """Yield a function that prints the parts of a text: each at once, or for a person all at the end, as `say_at_length`."""
    if not has_pager():
        yield say
        return
    parts: list[str] = []
    try:
        yield parts.append
    finally:
        # Also what there is if the person presses Ctrl-C.
        if parts:
            say_at_length("\n".join(parts))


def aside(text: str) -> None:
    """Print to the standard error what is about the output and no part of it."""
    _to_stderr(text)


def _to_stderr(text: str) -> None:
    click.echo(_styled(shown(located(text)), sys.stderr), err=True, color=coloured(sys.stderr))


def complain(message: str, hint: str = "") -> None:
    """Print to the standard error, with the next command on a line below."""
    _to_stderr("\n".join(filter(None, [f"cms: {message}", hint])))


class Progress:
    """A line at the bottom of the terminal that says what is under way. Does nothing where there is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.shows = stream.isatty() and os.environ.get("TERM", "") not in _PLAIN
        self._shown = ""

    def __call__(self, text: str) -> None:
        """Show this text instead of the one before, "" for none."""
        line = text[: shutil.get_terminal_size().columns - 1]
        if self.shows and line != self._shown:
            # Return to the beginning of the line and clear it (ECMA-48, CR and EL).
            self._stream.write(f"\r\x1b[K{shown(line)}")
            self._stream.flush()
            self._shown = line


# What takes less is over before a person wonders.
_PATIENCE_SECONDS = 1.0


@contextmanager
def working(what: str, every: float = _PATIENCE_SECONDS) -> Iterator[None]:
    """Say what the block does, with the seconds that it has taken, on the terminal and after the first of them only.

    The block must not write to the terminal.
    """
    progress = Progress(sys.stderr)
    if not progress.shows:
        yield
        return
    # Imported here: programs that run a command do without it.
    from threading import Event, Thread  # noqa: PLC0415

    done = Event()

    def count() -> None:
        begun = time.monotonic()
        while not done.wait(every):
            progress(f"{what} ({time.monotonic() - begun:.0f} s)")

    thread = Thread(target=count, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        progress("")


class Terminal:
    """Asks the person at the terminal. With `yes` most questions are answered without asking.

    Every question raises KeyboardInterrupt if the person presses Ctrl-C.
    """

    def __init__(self, *, yes: bool) -> None:
        self._yes = yes

    @property
    def there(self) -> bool:
        """True if questions are answered, by a person or by `yes`."""
        return self._yes or sys.stdin.isatty()

    def say(self, text: str) -> None:
        say(text)

    def complain(self, text: str) -> None:
        complain(text)

    def agree(self, question: str) -> bool:
        return self._yes or bool(_asked(lambda: click.confirm(shown(question), default=True)))

    def choose(self, question: str, choices: Sequence[str], usual: str) -> str:
        if self._yes:
            return usual
        return str(_asked(lambda: click.prompt(shown(question), usual, type=click.Choice(choices))))

    def ask(self, question: str) -> str:
        """Ask even with `yes`. Return "" if the input ends and is not a terminal."""
        try:
            return str(_asked(lambda: click.prompt(shown(question)))).strip()
        except KeyboardInterrupt:
            if sys.stdin.isatty():
                raise
            # To click, the end of a pipe looks like Ctrl-C.
            return ""


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except click.Abort:
        raise KeyboardInterrupt from None
