"""What the pages in docs/clients/ show is what the tests run.

Each fenced block of a page has a mark in the line before it, and there are three:

    <!-- file: contrib/msmtp.conf -->   whole lines of that file, in one piece; the tests run the file
    <!-- test: NAME -->                 a test takes the block from the page, with `shown("msmtp", "NAME")`, and uses it
    <!-- packages -->                   an apt line; the tests' own machine has each of its packages

What cms says is quoted in the pages as `cms-oauth: ...`, with an ellipsis (…) for what differs: see `explains`.
tests/test_client_pages.py holds every page to this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from support.contrib import ROOT

CLIENTS = ROOT / "docs" / "clients"

# A mark, if there is one, and the block: marks of its beginning, its language, its text.
_BLOCK = re.compile(r"(?:^<!-- (.*?) -->\n)?^(```+)(\w*)\n(.*?)^\2$", re.MULTILINE | re.DOTALL)

# A command of cms's, a colon and what it says: always whole, from the command to the end.
_QUOTED = re.compile(r"`((?:cms|cms-oauth|git-credential-cms|graph-sendmail|TokenError): [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is "" where it has none."""

    mark: str
    language: str
    text: str


def page(tool: str) -> str:
    """Return the text of docs/clients/TOOL.md."""
    return (CLIENTS / f"{tool}.md").read_text()


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(mark or "", language, body) for mark, _, language, body in _BLOCK.findall(text)]


def marked(text: str, name: str) -> str:
    """Return the block that a page marks with `test: NAME`."""
    (found,) = (block.text for block in blocks(text) if block.mark == f"test: {name}")
    return found


def shown(tool: str, name: str) -> str:
    """Return such a block of a mail program's page."""
    return marked(page(tool), name)


def contrib(name: str) -> str:
    """Return the text of a file in contrib/."""
    return (ROOT / "contrib" / name).read_text()


def explains(tool: str, output: str) -> bool:
    """Whether a page quotes something that cms says in this output of a program."""
    return any(_pattern(quoted).search(output) for quoted in _QUOTED.findall(page(tool)))


def _pattern(quoted: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, quoted.split("…"))))
