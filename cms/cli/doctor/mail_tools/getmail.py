"""Reads getmail's files: INI files without interpolation, whose lists are Python literals (getmail's configuration.txt). Pure.

getmail reads every file of its folder, but for those that it keeps itself. A file without a `[retriever]` is none of its
configurations: it may be the log that `message_log` names.
"""

from __future__ import annotations

import ast
import configparser
import posixpath
import re
from collections.abc import Iterator

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import Command, Fault, Files, Login, Machine, Place, Use
from cms.cli.doctor.mail_tools.ini import Ini, mistake

_SECTION = "retriever"
# configparser ignores what follows the bracket.
_HEADER = re.compile(rf"^\s*\[{_SECTION}\]", re.MULTILINE)
_YES = {"1", "yes", "true", "on"}
_NO = {"0", "no", "false", "off"}


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "getmail")
    for folder in (f"{machine.config_home}/getmail", f"{machine.home}/.getmail"):
        for path in machine.matching(folder):
            name = posixpath.basename(path)
            if not name.startswith((".", "oldmail-")) and not name.endswith(".json"):
                yield from _of_file(files, path)
    yield from files.unread


def _of_file(files: Files, path: str) -> Iterator[Use]:
    text = files.text(path)
    if not _HEADER.search(text):
        return
    try:
        ini = Ini("getmail", path, text)
    except configparser.Error as error:
        if "cms-oauth" in text:
            cause = f"getmail refuses the file: {mistake(error)}"
            yield Fault(Place("getmail", path), "does not start", cause, "`getmail --dump` shows it too")
        return
    if "cms-oauth" in ini.value(_SECTION, "password_command"):
        yield from _uses(ini, files.machine)


def _uses(ini: Ini, machine: Machine) -> Iterator[Use]:
    place = ini.place(_SECTION, "password_command")
    words = _tuple(ini.value(_SECTION, "password_command"))
    if isinstance(words, str):
        step = 'write: password_command = ("cms-oauth", "--user=ADDRESS", "--proto=IMAP", "--output=token")'
        yield Fault(place, "does not start", words, step)
        return
    kind = ini.value(_SECTION, "type")
    protocol = "POP" if "POP3" in kind else "IMAP"
    asked = shell.program(words, place, machine, Login(protocol, "token"))
    yield from asked
    if any(isinstance(each, Command) for each in asked):
        yield from _login(ini, kind, protocol)


def _tuple(value: str) -> tuple[str, ...] | str:
    """Return the words of a command, or why getmail refuses them."""
    try:
        words = ast.literal_eval(value.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "password_command is no Python tuple of quoted words"
    if not isinstance(words, tuple):
        return "password_command is no Python tuple: a single word needs a comma too, and the list round brackets"
    return tuple(map(str, words))


def _login(ini: Ini, kind: str, protocol: str) -> Iterator[Fault]:
    said = ini.value(_SECTION, "use_xoauth2").strip().lower()
    place = ini.place(_SECTION, "use_xoauth2")
    if protocol == "POP":
        cause = f"{kind} sends the token as a password: only getmail's IMAP retrievers know XOAUTH2"
        step = "write: type = SimpleIMAPSSLRetriever (or fetch by POP with mpop)"
        yield Fault(ini.place(_SECTION, "type"), "does not log in with its token", cause, step)
    elif said not in _YES | _NO | {""}:
        cause = f"use_xoauth2 is `{said}`, and getmail knows no comment at the end of a line"
        yield Fault(place, "does not start", cause, "write: use_xoauth2 = true")
    elif said not in _YES:
        cause = "without use_xoauth2 getmail sends the token as a password"
        yield Fault(place, "does not log in with its token", cause, "write: use_xoauth2 = true")
    if ini.has(_SECTION, "password"):
        cause = "there is a `password` too, so the command is not run"
        yield Fault(ini.place(_SECTION, "password"), "does not ask for a token", cause, "remove that line")
