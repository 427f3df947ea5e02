"""Reads Emacs Lisp as data: lists, texts and symbols (the Lisp reader's syntax). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|;[^\n]*)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<open>[(\[])|(?P<close>[)\]])
    |(?P<quote>\#?'|`|,@?)
    |(?P<symbol>\?(?:\\.|.)[^\s()\[\]"';`,]*|(?:\\.|[^\s()\[\]"';`,\\])+)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "s": " ", "\n": "", " ": ""}


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    value: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol, a number or a character."""

    name: str


@dataclass(slots=True)
class Form:
    """A list or vector, with the line that it begins on. Quotes are left out: 'x is x."""

    line: int
    items: list[Form | Text | Symbol] = field(default_factory=list)

    @property
    def head(self) -> str:
        first = self.items[0] if self.items else None
        return first.name if isinstance(first, Symbol) else ""


def forms(code: str) -> list[Form]:
    """Return the forms of a file, also of one that ends within a form."""
    outermost = Form(1)
    open_forms, line, counted = [outermost], 1, 0
    for found in _TOKEN.finditer(code):
        line, counted = line + code.count("\n", counted, found.start()), found.start()
        into = open_forms[-1].items
        if found["open"]:
            form = Form(line)
            into.append(form)
            open_forms.append(form)
        elif found["close"] and len(open_forms) > 1:
            open_forms.pop()
        elif found["text"]:
            into.append(Text(re.sub(r"\\(.)", _unescaped, found["text"][1:-1], flags=re.DOTALL)))
        elif found["symbol"]:
            into.append(Symbol(found["symbol"]))
    return [each for each in outermost.items if isinstance(each, Form)]


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1])


def everywhere(code: list[Form]) -> Iterator[Form]:
    """Yield all forms, outer ones first, in the order of the file."""
    todo = list(reversed(code))
    while todo:
        form = todo.pop()
        yield form
        todo += [each for each in reversed(form.items) if isinstance(each, Form)]
