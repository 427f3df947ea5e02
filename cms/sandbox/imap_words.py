"""How IMAP writes a command: words, quoted or not, literals, and lists in brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

# A word of a command, or a list of them in brackets.
Word: TypeAlias = "bytes | list[Word]"

# At the end of a line: so many bytes follow. With a + they come without being asked for (RFC 7888).
LITERAL = re.compile(rb"\{(\d+)(\+?)\}$")

# A section of a message is one word: BODY[HEADER.FIELDS (DATE FROM)].
_TOKEN = re.compile(
    rb'\s*(?:(?P<bracket>[()])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<atom>(?:[^\s()"\[]|\[[^\]]*\])+))', re.DOTALL
)


# More lists in each other than any command has.
_DEEPEST = 16


class Unreadable(ValueError):
    """This is no command."""


def tokens(line: bytes) -> Iterator[bytes | str]:
    """Yield words as bytes, brackets as text. Raises Unreadable."""
    rest = line.rstrip()
    while rest:
        found = _TOKEN.match(rest)
        if not found:
            raise Unreadable
        if found["bracket"]:
            yield found["bracket"].decode()
        elif found["quoted"] is not None:
            yield re.sub(rb"\\(.)", rb"\1", found["quoted"])
        else:
            yield found["atom"]
        rest = rest[found.end() :]


def nested(flat: Iterator[bytes | str], depth: int = 0) -> list[Word]:
    """Return the words up to the closing bracket of this list, with lists in them as lists. Raises Unreadable."""
    if depth > _DEEPEST:
        raise Unreadable
    words = list[Word]()
    for each in flat:
        if each == ")":
            return words
        words.append(nested(flat, depth + 1) if isinstance(each, str) else each)
    raise Unreadable


def text(word: Word) -> str:
    """Return a word as text. Raises Unreadable for a list, and ValueError for what is no text."""
    if isinstance(word, list):
        raise Unreadable
    return word.decode()


def texts(words: Word) -> list[str]:
    """Return a list of words, or a single one, as texts."""
    return [text(each) for each in (words if isinstance(words, list) else [words])]


def quoted(name: str) -> str:
    """Return a name as an answer has it."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
