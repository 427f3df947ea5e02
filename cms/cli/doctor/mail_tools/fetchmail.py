"""Reads fetchmail's file (fetchmail(1), THE RUN CONTROL FILE). Pure.

The file is a row of words; line ends mean nothing. Double or single quotes quote, and a `#` outside of them begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cms.cli.doctor.mail_tools.found import Fault, Files, Machine, Place, TokenPath, Use

# The first release that logs in with a token.
LEAST = 7

_TOKENS = re.compile(r"""#[^\n]*|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"'#=;,:]+)""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_SERVER = {"poll", "skip", "server", "defaults"}
_PROTOCOL = {"protocol", "proto"}
_AUTH = {"auth", "authenticate"}
_MECHANISMS = {"oauthbearer", "xoauth2"}


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "fetchmail")
    for path in (*machine.first("/etc/fetchmailrc"), *machine.first("~/.fetchmailrc")):
        yield from _uses(path, files.text(path), machine)
    yield from files.unread


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Yield the words with their lines."""
    line, counted = 1, 0
    for found in _TOKENS.finditer(text):
        line, counted = line + text.count("\n", counted, found.start()), found.start()
        quoted = found[1] if found[1] is not None else found[2]
        word = _ESCAPED.sub(r"\1", quoted) if quoted is not None else found[3]
        if word is not None:
            yield word, line


def _uses(path: str, text: str, machine: Machine) -> Iterator[Use]:
    protocol, auth, before = "IMAP", "", ""
    for word, line in _words(text):
        if before in _SERVER:
            protocol, auth = "IMAP", ""
        elif before in _PROTOCOL:
            protocol = "POP" if word.lower().startswith("pop") else "IMAP"
        elif before in _AUTH:
            auth = word.lower()
        elif before == "passwordfile":
            place = Place("fetchmail", path, line)
            yield TokenPath(place, machine.expand(word), protocol, tuple(_login(place, auth, machine)))
        before = word.lower()


def _login(place: Place, auth: str, machine: Machine) -> Iterator[Fault]:
    if 0 < machine.release("fetchmail") < LEAST:
        cause = f"fetchmail {machine.release('fetchmail')} cannot log in with a token, only {LEAST} and newer can"
        yield Fault(place, "cannot log in with a token", cause, "use another program: docs/clients/fetchmail.md")
    if auth not in _MECHANISMS:
        cause = (
            f"`auth {auth}` sends it as a password" if auth else "without `auth oauthbearer` it is sent as a password"
        )
        yield Fault(place, "does not log in with its token", cause, "write `auth oauthbearer` before the user")
