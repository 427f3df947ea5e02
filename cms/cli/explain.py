"""`cms explain`: what an error means, from its text alone. It needs no daemon, no account and no network."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from cms.cli.failure import FAILED
from cms.cli.terminal import complain, say, say_at_length
from cms_oauth.diagnosis.explain import Explained, explain
from cms_oauth.diagnosis.page import entry_of
from cms_oauth.diagnosis.verdicts import all_lines, as_data

# A day's log of a busy mail server. More is read by another program first, such as grep.
MAX_TEXT = 16 * 1024 * 1024

_UNKNOWN = (
    "nothing in this text is an error that cms knows",
    "give the error's whole line: an AADSTS number, a word such as invalid_grant, or a mail server's reply with its code",
)


def explain_text(words: Sequence[str], *, as_json: bool) -> int:
    """Explain the words of the command line, or standard input; return the exit status."""
    text = " ".join(words) if words else _read()
    found = explain(text.splitlines())
    if as_json:
        say(json.dumps([_as_data(each) for each in found], indent=2))
    else:
        say_at_length("\n\n".join(map(_as_text, found))) if found else complain(*_UNKNOWN)
    return 0 if found else FAILED


def _read() -> str:
    if sys.stdin.isatty():
        say("Paste the error, then press Enter and Ctrl-D.")
    return sys.stdin.buffer.read(MAX_TEXT).decode(errors="replace")


def _as_text(explained: Explained) -> str:
    times = f"  ({explained.times} lines like this)" if explained.times > 1 else ""
    lines = [*all_lines(explained.verdicts), f"more: {_page(explained)}"]
    return "\n".join([f"{explained.line}{times}", *(f"  {line}" for line in lines)])


def _page(explained: Explained) -> str:
    return entry_of(explained.source, explained.verdicts[0].name)


def _as_data(explained: Explained) -> dict[str, object]:
    return {
        "line": explained.line,
        "times": explained.times,
        "page": _page(explained),
        "verdicts": [as_data(each) for each in explained.verdicts],
    }
