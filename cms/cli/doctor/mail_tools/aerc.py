"""Reads aerc's accounts.conf (aerc-accounts(5)), whose INI dialect is that of Go's package `ini`. Pure.

A `#` or `;` anywhere in a value begins a comment, even in quotes; only a value in backquotes or in three double quotes keeps
them. A backslash at the end of a line continues it. `...-cred-cmd` goes to a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import Command, Fault, Files, Login, Machine, Place, Use, numbered

_COMMENT = re.compile("[#;]")
_SECTION = re.compile(r"\[(.+)\]")
_MULTILINE = ('"""', "`")

# The option with the address -> the one with the command, and the protocol if the address does not say it.
_SIDES = {"source": ("source-cred-cmd", "IMAP"), "outgoing": ("outgoing-cred-cmd", "SMTP")}
_MECHANISMS = {"xoauth2", "oauthbearer"}

# What aerc takes for true. It runs the command for each message, although its manual has another default.
_YES = {"1", "t", "true", "y", "yes", "on"}


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as aerc reads it, and as it stands in the file."""

    text: str
    written: str
    place: Place


_Account: TypeAlias = dict[str, _Value]


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "aerc")
    for path in machine.first(f"{machine.config_home}/aerc/accounts.conf"):
        accounts = _accounts(files, path)
        # Newer versions take from this section what an account lacks.
        globals_ = accounts.pop("DEFAULT", {})
        for account in accounts.values():
            yield from _uses({**globals_, **account}, machine)
    yield from files.unread


def _accounts(files: Files, path: str) -> dict[str, _Account]:
    accounts: dict[str, _Account] = {"DEFAULT": {}}
    into, lines = accounts["DEFAULT"], iter(numbered(files.text(path)))
    for number, line in lines:
        text = line.strip()
        section = _SECTION.match(text)
        if section:
            into = accounts.setdefault(section[1], {})
        elif text and not _COMMENT.match(text):
            key, _, written = text.partition("=")
            written = written.strip()
            written = _whole(written, lines)
            into[key.strip()] = _Value(_read(written), written, Place("aerc", path, number))
    return accounts


def _whole(written: str, lines: Iterator[tuple[int, str]]) -> str:
    """Return a value with the lines that continue it."""
    mark = next((each for each in _MULTILINE if written.startswith(each)), "")
    while (mark and written.count(mark) < 2) or (not mark and written.endswith("\\")):  # noqa: PLR2004 - at both ends
        _, more = next(lines, (0, None))
        if more is None:
            break
        written = f"{written}\n{more}" if mark else written[:-1] + more.strip()
    return written


def _read(written: str) -> str:
    for mark in _MULTILINE:
        if written.startswith(mark):
            return written[len(mark) :].partition(mark)[0]
    text = _COMMENT.split(written, maxsplit=1)[0].strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]
    return text[1:-1] if quoted else text


def _uses(account: _Account, machine: Machine) -> Iterator[Use]:
    for side, (option, protocol) in _SIDES.items():
        command, url = account.get(option), account.get(side)
        if command is None or url is None:
            continue
        asked = shell.asks(command.text, command.place, machine, Login(protocol, "token"))
        yield from asked
        if any(isinstance(each, Command) for each in asked):
            yield from _login(side, url)
            kept = account.get("outgoing-cred-cmd-cache")
            if side == "outgoing" and kept and kept.text.lower() in _YES:
                cause = "aerc keeps the first token until it ends, and a token is valid for about an hour"
                yield Fault(
                    kept.place, "may not log in later", cause, "write: outgoing-cred-cmd-cache = false", certain=False
                )
        elif shell.asks(command.written, command.place, machine):
            cause = f"aerc reads {option} only up to its first `#` or `;`, which is before cms-oauth"
            step = "put the whole value in backquotes (`...`), or the command into a script"
            yield Fault(command.place, "does not ask for a token", cause, step)


def _login(side: str, url: _Value) -> Iterator[Fault]:
    scheme, _, rest = url.text.partition("://")
    if scheme.partition("+")[2].lower() not in _MECHANISMS:
        good = f"{'imaps' if side == 'source' else 'smtp'}+xoauth2://"
        cause = f"the address of {side} does not name xoauth2, so aerc logs in with a password"
        yield Fault(url.place, "does not log in with its token", cause, f"write: {side} = {good}...")
        return
    try:
        parts = urlsplit(f"//{rest}")
        password = parts.password
    except ValueError:
        return
    if password:
        cause = f"{side} has a password, which aerc takes instead of running the command"
        yield Fault(url.place, "does not ask for a token", cause, "remove the password from the address")
    if "token_endpoint=" in parts.query:
        cause = f"{side} has a token_endpoint, to which aerc sends the token as if it were a refresh token"
        yield Fault(url.place, "does not log in with its token", cause, "remove what follows the ? in the address")
