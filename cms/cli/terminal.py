"""Prints messages of the `cms` command, and asks questions at its terminal.

Whatever a text contains, it moves no cursor: all of it passes `shown`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from cms_oauth.documents import located
from cms_oauth.text import shown


def say(text: str) -> None:
    """Print to the standard output."""
    click.echo(shown(located(text)))


def aside(text: str) -> None:
    """Print to the standard error what is about the output and no part of it."""
    click.echo(shown(located(text)), err=True)


def complain(message: str, hint: str = "") -> None:
    """Print to the standard error, with the next command on a line below."""
    click.echo(shown(located("\n".join(filter(None, [f"cms: {message}", hint])))), err=True)


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
