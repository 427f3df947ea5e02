"""Reads mbsync's file (mbsync(1), CONFIGURATION). Pure.

A line is a keyword and words. Double quotes and backslashes quote, within a word too, and a `#` at the beginning of a word
begins a comment. A section ends with an empty line. `PassCmd` goes to a shell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import Fault, Files, Login, Machine, Place, Use, numbered

_LOGIN = Login("IMAP", "token")
_MECHANISMS = {"*", "XOAUTH2", "OAUTHBEARER"}


# The keywords of a section in small letters, with their words.
_Section: TypeAlias = dict[str, tuple[list[str], Place]]


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "mbsync")
    # mbsync 1.4 prefers the first, 1.5 the second.
    for path in (*machine.first("~/.mbsyncrc"), *machine.first(f"{machine.config_home}/isyncrc")):
        for section in _sections(files, path):
            yield from _of_section(section, machine)
    yield from files.unread


def _sections(files: Files, path: str) -> list[_Section]:
    sections: list[_Section] = [{}]
    for number, line in numbered(files.text(path)):
        words = _words(line)
        if not words and not line.strip():
            sections.append({})
        elif words:
            sections[-1][words[0].lower()] = (words[1:], Place(files.tool, path, number))
    return sections


def _words(line: str) -> list[str]:
    words: list[str] = []
    word, quoted, escaped = None, False, False
    for char in line:
        if escaped:
            word, escaped = (word or "") + char, False
        elif char == "\\":
            escaped = True
        elif char == '"':
            word, quoted = word or "", not quoted
        elif quoted or not char.isspace():
            if char == "#" and word is None:
                break
            word = (word or "") + char
        elif word is not None:
            words.append(word)
            word = None
    return words if word is None else [*words, word]


def _of_section(section: _Section, machine: Machine) -> Iterator[Use]:
    words, place = section.get("passcmd", ([], None))
    if not words or place is None:
        return
    # `+` says that the command may ask something on the terminal.
    asked = shell.asks(words[0].removeprefix("+"), place, machine, _LOGIN)
    yield from asked
    if asked and len(words) > 1:
        cause = "`PassCmd` takes one word, and mbsync refuses the file because of the others"
        yield Fault(place, "does not start", cause, "put the whole command into double quotes")
    mechanisms, where = section.get("authmechs", (["*"], place))
    if asked and not _MECHANISMS & {each.upper() for each in mechanisms}:
        cause = f"`AuthMechs {' '.join(mechanisms)}` leaves out the mechanism that takes a token"
        yield Fault(where, "does not log in with its token", cause, "write: AuthMechs XOAUTH2")
    if asked and "pass" in section:
        cause = "the section has `Pass` and `PassCmd`, which mbsync refuses"
        yield Fault(section["pass"][1], "does not start", cause, "remove `Pass`")
