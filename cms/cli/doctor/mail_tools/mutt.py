"""Reads the files of mutt and neomutt (muttrc(5), neomuttrc(5)). Pure.

A line holds commands, separated by `;`. Quotes work as in a shell, variables are expanded when they are assigned, and a `#`
outside of quotes begins a comment. `source` reads another file. Hooks and macros hold commands that run later, on top of
what the files set.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import UNKNOWN, Fault, Files, Login, Machine, Place, Setting, Use, numbered

_PROTOCOLS = {"imap": "IMAP", "smtp": "SMTP", "pop": "POP"}

# Commands that take other commands, with the number of their arguments before those.
_HOOKS = {
    **dict.fromkeys(("account-hook", "folder-hook", "send-hook", "send2-hook", "reply-hook", "message-hook"), 1),
    **dict.fromkeys(("startup-hook", "shutdown-hook", "timeout-hook"), 0),
}
_CONDITIONS = {"ifdef", "ifndef"}

# Debian's system files run this; it prints the files beside them, which are read here.
_DEBIAN = re.compile(r"/source-(neo)?muttrc\.d\s*\|$")

# A hook may set another hook.
_DEEPEST = 16

_COMMANDS_OF_MACRO = re.compile(r"<enter-command>(.+?)<(?:enter|return)>", re.IGNORECASE)
_VARIABLE = re.compile(r"\{(\w+)\}|(\w+)")

# Mechanisms that a server may offer too: mutt uses the first one that is offered.
_PASSWORDS = {"login", "plain", "cram-md5", "digest-md5"}


# What the output of a command in backquotes becomes.
_MEANINGS = {
    "pass": "password, and mutt logs in with it as with a password",
    "oauth_refresh_command": "command: mutt would run the token that the backquotes put there",
}


_Settings: TypeAlias = dict[str, Setting]


def uses_of_mutt(machine: Machine) -> Iterator[Use]:
    system = [
        *machine.first("/etc/Muttrc"),
        *machine.matching("/etc/Muttrc.d", "*.rc"),
        *machine.first("/etc/Muttrc.local"),
    ]
    user = machine.first("~/.muttrc", "~/.mutt/muttrc", f"{machine.config_home}/mutt/muttrc")
    yield from _Reader(machine, "mutt").uses([*system, *user])


def uses_of_neomutt(machine: Machine) -> Iterator[Use]:
    system = [
        *machine.first("/etc/xdg/neomutt/neomuttrc", "/etc/neomuttrc"),
        *machine.matching("/etc/neomuttrc.d", "*.rc"),
    ]
    folders = (f"{machine.config_home}/neomutt", f"{machine.config_home}/mutt", "~/.neomutt", "~/.mutt")
    named = [f"{folder}/{name}" for folder in folders for name in ("neomuttrc", "muttrc")]
    user = machine.first(*named, "~/.neomuttrc", "~/.muttrc")
    # mutt's file is neomutt's too, where there is neomutt.
    if machine.installed("neomutt") or any(each.endswith("neomuttrc") for each in user):
        yield from _Reader(machine, "neomutt").uses([*system, *user])


class _Reader:
    """Reads a program's files in order. `_later` has the settings of each hook and macro."""

    def __init__(self, machine: Machine, tool: str) -> None:
        self._machine = machine
        self._files = Files(machine, tool)
        self._settings: _Settings = {}
        self._later: list[_Settings] = []
        self._exported: dict[str, str] = {}
        self._asked: list[Use] = []

    def uses(self, paths: list[str]) -> Iterator[Use]:
        for path in paths:
            self._read(path, None, self._settings)
        found = [*self._asked, *self._logins(self._settings, self._settings)]
        for later in self._later:
            found += self._logins({**self._settings, **later}, later)
        yield from found
        yield from self._files.unread

    def _read(self, path: str, included: Place | None, into: _Settings) -> None:
        begun, number = "", 0
        for here, line in numbered(self._files.text(path, included)):
            number = number if begun else here
            if line.endswith("\\"):
                begun += line[:-1]
            else:
                self._run(begun + line, Place(self._files.tool, path, number), into)
                begun = ""

    def _run(self, text: str, place: Place, into: _Settings, depth: int = 0) -> None:
        """Run the commands in a text. `depth` counts the hooks and conditions around it."""

        def substituted(script: str) -> None:
            self._asked += shell.asks(script, place, self._machine, exported=self._exported)

        def value(name: str) -> str:
            found = into.get(name) or self._settings.get(name)
            return found.value if found else self._exported.get(name, known.get(name, UNKNOWN))

        known = shell.known(self._machine)
        line = _Line(text, value, substituted)
        while not line.done and depth < _DEEPEST:
            self._command(line, place, into, depth)
            line.next_command()

    def _command(self, line: _Line, place: Place, into: _Settings, depth: int) -> None:
        name = line.word()
        if name == "set":
            self._set(line, place, into)
        elif name == "unset":
            for each in line.words():
                into.pop(each, None)
        elif name == "setenv":
            self._export([each for each in line.words() if each != "="])
        elif name == "source":
            self._source(line.word(), place, into)
        elif name in _CONDITIONS:
            line.word()
            self._run(line.rest(), place, into, depth + 1)
        else:
            for each in _later(name, line):
                self._run_later(each, place, depth + 1)

    def _export(self, words: list[str]) -> None:
        self._exported |= {words[0]: words[-1]} if len(words) > 1 else {}

    def _set(self, line: _Line, place: Place, into: _Settings) -> None:
        value = ""
        while name := line.word(ends="+="):
            if name.startswith("-") and posixpath.basename(value) == "cms-oauth":
                self._asked.append(_unquoted(place))
                return
            # Only neomutt appends.
            before = (into.get(name) or self._settings.get(name)) if line.skips("+") else None
            if not line.skips("="):
                continue
            asked = len(self._asked)
            value = (before.value if before else "") + line.word()
            into[name] = Setting(value, place)
            protocol, _, what = name.partition("_")
            if what in _MEANINGS and len(self._asked) > asked:
                cause = f"${name} is a {_MEANINGS[what]}"
                step = f"set {protocol}_oauth_refresh_command to the command, in quotes without `"
                self._asked.append(Fault(place, "does not log in with its token", cause, step))

    def _run_later(self, text: str, place: Place, depth: int) -> None:
        later: _Settings = {}
        self._run(text, place, later, depth)
        self._later += [later] if later else []

    def _source(self, path: str, place: Place, into: _Settings) -> None:
        if path.endswith("|"):
            if not _DEBIAN.search(path):
                self._files.not_followed(place, "more settings come from a command, which the doctor does not run")
        elif UNKNOWN in path:
            self._files.not_followed(place, "more settings come from a file whose name is not known here")
        elif path:
            self._read(self._found(path, place), place, into)

    def _found(self, path: str, place: Place) -> str:
        """Return the file's path. A relative one starts at the including file (neomutt) or where mutt was started."""
        beside = self._machine.expand(path, posixpath.dirname(place.path))
        home = self._machine.expand(path, self._machine.home)
        first, second = (beside, home) if self._files.tool == "neomutt" else (home, beside)
        return next(iter(self._machine.first(first, second)), first)

    # What the settings mean.

    def _logins(self, settings: Mapping[str, Setting], own: Mapping[str, Setting]) -> Iterator[Use]:
        """Yield what `settings` ask for, if a part of it is in `own`."""
        yield from self._sendmail(own)
        for prefix, protocol in _PROTOCOLS.items():
            names = (f"{prefix}_oauth_refresh_command", f"{prefix}_authenticators")
            command = settings.get(names[0])
            if not command or not any(name in own for name in names):
                continue
            asked = shell.asks(command.value, command.place, self._machine, Login(protocol, "token"), self._exported)
            yield from asked if names[0] in own else ()
            if asked and (names[1] in settings or not any(names[1] in later for later in self._later)):
                yield from self._mechanism(names[1], settings.get(names[1], Setting("", command.place)))
            if asked and prefix == "smtp":
                yield from self._user(settings)

    def _sendmail(self, own: Mapping[str, Setting]) -> Iterator[Use]:
        """Yield what the program asks that sends mail in mutt's place."""
        if "sendmail" in own:
            yield from shell.asks(own["sendmail"].value, own["sendmail"].place, self._machine, exported=self._exported)

    def _mechanism(self, name: str, setting: Setting) -> Iterator[Fault]:
        tool, mechanisms = self._files.tool, [each.strip().lower() for each in setting.value.split(":")]
        if "xoauth2" in mechanisms:
            before = mechanisms[: mechanisms.index("xoauth2")]
            if _PASSWORDS & set(before):
                cause = (
                    f"{name} has {', '.join(before)} before xoauth2, and {tool} uses the first that the server offers"
                )
                yield Fault(
                    setting.place, "may not log in with its token", cause, f'set {name}="xoauth2"', certain=False
                )
        elif "oauthbearer" not in mechanisms:
            cause = f"{name} does not name xoauth2, which {tool} never chooses by itself"
            yield Fault(setting.place, "does not log in with its token", cause, f'set {name}="xoauth2"')
        elif tool == "neomutt":
            cause = "neomutt's OAUTHBEARER takes only tokens of up to 511 characters, and Microsoft's and others' are longer"
            yield Fault(setting.place, "may not log in with its token", cause, f'set {name}="xoauth2"', certain=False)

    def _user(self, settings: Mapping[str, Setting]) -> Iterator[Fault]:
        url = settings.get("smtp_url")
        named = url and ("@" in url.value or UNKNOWN in url.value)
        if url and not named and "smtp_user" not in settings:
            cause = "smtp_url names no user, and without one there is no login"
            yield Fault(
                url.place, "does not log in to send", cause, 'set smtp_url="smtp://user%40domain.com@HOST:587/"'
            )


def _unquoted(place: Place) -> Fault:
    cause = "a value without quotes ends at its first space, so the rest is taken for names of variables"
    return Fault(place, "gets no token", cause, "put the whole command into double quotes")


def _later(name: str, line: _Line) -> list[str]:
    """Return the commands in a hook or a macro."""
    if name == "macro":
        return _COMMANDS_OF_MACRO.findall(line.rest())
    for _ in range(_HOOKS.get(name, 0)):
        line.word()
    return [line.rest()] if name in _HOOKS else []


class _Line:
    """Takes a line apart as mutt does. `value` returns a variable's value; `substituted` gets each command in backquotes."""

    def __init__(self, text: str, value: Callable[[str], str], substituted: Callable[[str], None]) -> None:
        self._text = text
        self._value = value
        self._substituted = substituted
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._text)

    def _here(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        while self._here().isspace():
            self._at += 1

    def next_command(self) -> None:
        """Go behind what is left of this command."""
        self._take("")
        self._at += 1

    def words(self) -> list[str]:
        return list(iter(self.word, ""))

    def word(self, ends: str = "") -> str:
        """Return the next word, "" at the end of the command. It ends at white space, and at `ends`."""
        self._skip_space()
        return self._take(f" \t{ends}")

    def skips(self, sign: str) -> bool:
        """Go behind a sign, if it is next. Return whether it was."""
        self._skip_space()
        found = self._here() == sign
        self._at += found
        return found

    def rest(self) -> str:
        """Return the rest of the command as one text, without its quotes."""
        self._skip_space()
        return self._take("")

    def _take(self, ends: str) -> str:
        value, quote = "", ""
        while not self.done:
            char = self._here()
            if not quote and (char == ";" or char in ends):
                break
            if not quote and char == "#":
                self._at = len(self._text)
                break
            self._at += 1
            if char in {"'", '"'} and quote in {"", char}:
                quote = "" if quote else char
            elif char == "\\" and quote != "'":
                value += self._here()
                self._at += 1
            elif char == "$" and quote != "'":
                value += self._variable()
            elif char == "`" and quote != "'":
                value += self._command()
            else:
                value += char
        return value

    def _variable(self) -> str:
        found = _VARIABLE.match(self._text, self._at)
        if not found:
            return "$"
        self._at = found.end()
        return self._value(found[1] or found[2])

    def _command(self) -> str:
        end = self._text.find("`", self._at)
        end = len(self._text) if end < 0 else end
        self._substituted(self._text[self._at : end])
        self._at = end + 1
        return UNKNOWN
