"""How the demonstration looks in a terminal."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

_TOKEN = re.compile(r"(?P<kept>(?:eyJ|ya29\.)[\w-]{5})[\w.-]{40,}")


@dataclass
class Show:
    """Prints the demonstration; headings are bold on a terminal only."""

    out: TextIO

    def heading(self, text: str) -> None:
        """Begin a step."""
        bold, plain = ("\x1b[1m", "\x1b[0m") if self.out.isatty() else ("", "")
        self.line(f"\n{bold}== {text}{plain}")

    def command(self, words: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
        """Show a command line as a person would type it."""
        front = "".join(f"{name}={shlex.quote(value)} " for name, value in (settings or {}).items())
        self.line(f"$ {front}{shlex.join(words)}")

    def line(self, text: str) -> None:
        """Print a line with tokens shortened and control characters made visible."""
        print(masked(text), file=self.out, flush=True)


def masked(text: str) -> str:
    """Return a text without its tokens, and with ^A written out."""
    return _TOKEN.sub(lambda found: f"{found['kept']}...({len(found[0])} characters)", text).replace("\x01", "^A")
