"""Reads git's configuration (git-config(1), CONFIGURATION FILE), as `git send-email` and git's credential helpers use it. Pure.

Section and variable names are in any case. Double quotes and backslashes quote within a value, a `#` or `;` outside of quotes
begins a comment, and `include` reads another file.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import Command, Fault, Files, Login, Machine, Place, Use, numbered
from cms_oauth.git_credential import NAME, PROTOCOLS

_SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_VARIABLE = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:=(.*))?", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b"}


@dataclass(frozen=True, slots=True)
class _Setting:
    """A variable: section and name in small letters. `value` is "true" for a variable without a value."""

    section: str
    subsection: str
    name: str
    value: str
    place: Place


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "git")
    system = machine.environ.get("GIT_CONFIG_SYSTEM") or "/etc/gitconfig"
    one = machine.environ.get("GIT_CONFIG_GLOBAL")
    own = (one,) if one else (f"{machine.config_home}/git/config", "~/.gitconfig")
    settings = [
        each for path in (system, *own) for found in machine.first(path) for each in _settings(files, found, None)
    ]
    yield from _helpers(settings, machine)
    yield from _sending(settings, machine)
    yield from files.unread


def _settings(files: Files, path: str, included: Place | None) -> Iterator[_Setting]:
    section, subsection = "", ""
    for number, line in _logical_lines(files.text(path, included)):
        found = _SECTION.match(line)
        rest = line
        if found:
            name, dot, old = found[1].partition(".")
            section, subsection = name.lower(), re.sub(r"\\(.)", r"\1", found[2] or "") or (old.lower() if dot else "")
            rest = line[found.end() :]
        variable = _VARIABLE.match(rest)
        if not variable or not section:
            continue
        value = "true" if variable[2] is None else _value(variable[2])
        setting = _Setting(section, subsection, variable[1].lower(), value, Place("git", path, number))
        yield setting
        # A condition of `includeIf` depends on the repository, so its file is read too.
        if section in {"include", "includeif"} and setting.name == "path":
            yield from _settings(files, files.machine.expand(value, posixpath.dirname(path)), setting.place)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are no comments. A backslash at the end of a value continues it."""
    begun, number = "", 0
    for here, line in numbered(text):
        number = number if begun else here
        whole, begun = begun + line, ""
        backslashes = len(whole) - len(whole.rstrip("\\"))
        if backslashes % 2 and not whole.lstrip().startswith(("#", ";")):
            begun = whole[:-1]
        elif not whole.lstrip().startswith(("#", ";")):
            yield number, whole


def _value(text: str) -> str:
    value, quoted, escaped, kept = "", False, False, 0
    for char in text.strip():
        if escaped:
            value, escaped = value + _ESCAPES.get(char, char), False
            kept = len(value)
        elif char == "\\":
            escaped = True
        elif char == '"':
            quoted, kept = not quoted, len(value)
        elif char in "#;" and not quoted:
            break
        else:
            value += char
            kept = len(value) if quoted or not char.isspace() else kept
    return value[:kept]


def _helpers(settings: list[_Setting], machine: Machine) -> Iterator[Use]:
    """Yield what the credential helpers for each server ask."""
    helpers = [each for each in settings if (each.section, each.name) == ("credential", "helper")]
    for url in dict.fromkeys(each.subsection for each in helpers):
        meant = list[_Setting]()
        for each in helpers:
            if each.subsection in {"", url}:
                # An empty value removes those before it.
                meant = [*meant, each] if each.value else []
        ours = [each for each in meant if _helper(each, machine)]
        # Only the name: a command line may hold a password.
        others = [re.split(r"[\s!]", each.value)[0] or "a command" for each in meant if each not in ours]
        for each in ours:
            if each.subsection == url:
                yield from _helper(each, machine)
                yield from _dangers(each, others)


def _helper(setting: _Setting, machine: Machine) -> list[Use]:
    """Return what a helper asks: a name that follows `git-credential-`, a whole path, or a command line after `!`."""
    try:
        words = shlex.split(setting.value.removeprefix("!"))
    except ValueError:
        return []
    name = posixpath.basename(words[0]) if words else ""
    command = setting.value.startswith("!")
    if (words[:1] == ["cms"] and not command) or name == NAME:
        login = Login(PROTOCOLS.get(setting.subsection.partition("://")[0], ""))
        path = words[0] if words[0].startswith("/") else ""
        found: list[Use] = [Command(setting.place, tuple(words[1:]), login=login, program=NAME, path=path)]
        if name == NAME and not command and not path:
            cause = f"git puts `git-credential-` before a name, and looks for git-credential-{words[0]}"
            found.append(Fault(setting.place, "gets no token", cause, "write: helper = cms"))
        return found
    return shell.asks(setting.value.removeprefix("!"), setting.place, machine)


def _dangers(setting: _Setting, others: list[str]) -> Iterator[Fault]:
    scheme, colons, _ = setting.subsection.partition("://")
    step = 'write it below [credential "smtp://smtp.office365.com:587"]'
    if not setting.subsection:
        cause = "the helper is for all servers, so any mail server that git is told to use gets a token"
        yield Fault(setting.place, "gives away tokens", cause, step, certain=False)
    elif colons and scheme not in PROTOCOLS:
        cause = f"the helper answers for mail servers only, not for {scheme}"
        yield Fault(setting.place, "gets no token", cause, step)
    if others:
        cause = f"git passes the token to the other helpers of that server ({', '.join(others)}), which may store it"
        step = "write an empty `helper =` before this line, and no other helper after it"
        yield Fault(setting.place, "gives away tokens", cause, step, certain=False)


def _sending(settings: list[_Setting], machine: Machine) -> Iterator[Use]:
    """Yield what keeps `git send-email` from logging in by itself, if a helper of ours is for its server."""
    helpers = [
        each for each in settings if (each.section, each.name) == ("credential", "helper") and _helper(each, machine)
    ]
    for each in settings:
        if each.section == "sendemail" and each.name in {"sendmailcmd", "smtpserver"}:
            yield from shell.asks(each.value, each.place, machine)
    for identity in dict.fromkeys(each.subsection for each in settings if each.section == "sendemail"):
        values = {
            each.name: each
            for chosen in ("", identity)
            for each in settings
            if each.section == "sendemail" and each.subsection == chosen
        }
        server, port = values.get("smtpserver"), values.get("smtpserverport")
        if server is None:
            continue
        meant = [each for each in helpers if _host(each.subsection) == server.value.lower()]
        wrapped = "smtpencryption" in values and values["smtpencryption"].value.lower() == "ssl"
        asked = f"{server.value}:{port.value if port else 465 if wrapped else 25}"
        if meant and not any(_place(each.subsection) == asked for each in meant):
            cause = f"git asks for smtp://{asked}, and the helper is for {meant[0].subsection}"
            yield Fault(meant[0].place, "gets no token", cause, f'write: [credential "smtp://{asked}"]')
        if meant:
            yield from _login(values, server.place)


def _place(url: str) -> str:
    """Return the host and port of an address, which may name the user too."""
    return url.rstrip("/").rpartition("//")[2].rpartition("@")[2]


def _host(url: str) -> str:
    try:
        return urlsplit(url if "://" in url else f"//{url}").hostname or ""
    except ValueError:
        return ""


def _login(values: dict[str, _Setting], place: Place) -> Iterator[Fault]:
    if "smtpuser" not in values:
        yield Fault(place, "does not log in", "without smtpUser git send-email does not", "write: smtpUser = ADDRESS")
    auth = values.get("smtpauth")
    if auth and "XOAUTH2" not in auth.value.upper().split():
        cause = f"smtpAuth is {auth.value}, without XOAUTH2"
        yield Fault(auth.place, "does not log in with its token", cause, "write: smtpAuth = XOAUTH2")
