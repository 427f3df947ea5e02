"""Finds what in shell text asks cms for a token, without running any of it. Pure.

Mail programs pass their password commands to a shell; startup files and scripts are shell text too. The walk goes from
the top to the end: it follows assignments, `export`, `sh -c`, `env`, `$(...)` and files that are sourced.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cms.cli.doctor.mail_tools.found import (
    ANY_LOGIN,
    UNKNOWN,
    Command,
    Fault,
    Login,
    Machine,
    Place,
    Request,
    TokenPath,
    Use,
    Variable,
)
from cms.cli.doctor.mail_tools.shell_words import ASSIGNMENT, Splitter

# Of the doctor's own environment, what a script may name a path with. Other variables may be private.
_VARIABLES = ("USER", "LOGNAME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "UID", "CMS_SOCK")

# Deeper nesting is no configuration.
_DEEPEST = 16

_KEYWORDS = {"if", "then", "else", "elif", "fi", "while", "until", "do", "done", "!", "{", "}", "time", "esac"}
_DECLARES = {"export", "declare", "typeset", "readonly", "local"}
_SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "su"}

# Programs that run another program, which follows among their arguments.
_WRAPPERS = {
    *(
        "env",
        "exec",
        "command",
        "builtin",
        "nohup",
        "nice",
        "ionice",
        "setsid",
        "timeout",
        "stdbuf",
        "chronic",
        "busybox",
    ),
    *("sudo", "doas", "runuser", "flock", "systemd-run", "systemd-inhibit", "firejail", "torsocks", "torify"),
    *("proxychains", "proxychains4", "flatpak-spawn", "unbuffer"),
}
_INTERESTING = {"cms-oauth", "graph-sendmail", "imapsync", "nc", "socat", *_SHELLS}

_SOCAT = re.compile(r"(?:UNIX|UNIX-CONNECT|UNIX-CLIENT):([^,]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a script begins, and what is known there.

    `follow` returns the text of a file that the script sources. `startup` is True for a file that sets the environment of
    other programs.
    """

    place: Place
    variables: Mapping[str, str] = field(default_factory=dict)
    exported: frozenset[str] = frozenset()
    follow: Callable[[str, Place], str] = lambda _path, _place: ""
    startup: bool = False
    depth: int = 0


def known(machine: Machine) -> dict[str, str]:
    """Return the variables whose value in a script is known."""
    return {name: machine.environ[name] for name in _VARIABLES if name in machine.environ} | {"HOME": machine.home}


def asks(
    line: str,
    place: Place,
    machine: Machine,
    login: Login = ANY_LOGIN,
    exported: Mapping[str, str] = MappingProxyType({}),
) -> list[Use]:
    """Return what in a command line asks cms. `login` is what the program does with the output.

    `exported` are variables that the program itself sets.
    """
    start = Start(place, {**known(machine), **exported}, frozenset(exported))
    return _for_login(walk(line, start), login)


def program(
    words: Sequence[str],
    place: Place,
    machine: Machine,
    login: Login = ANY_LOGIN,
    exported: Mapping[str, str] = MappingProxyType({}),
) -> list[Use]:
    """Return the same of a program that is run with these words, without a shell."""
    walked = _Walk(Start(place, {**known(machine), **exported}, frozenset(exported)))
    walked.command(list(words), [], place)
    return _for_login(walked.found, login)


def _for_login(found: Sequence[Use], login: Login) -> list[Use]:
    return [replace(each, login=login) if isinstance(each, Command) else each for each in found]


def walk(script: str, start: Start) -> list[Use]:
    """Return what a script asks, in order."""
    walked = _Walk(start)
    walked.through(script)
    return walked.found


class _Walk:
    """The walk through a script: what is known at this point, and what was found up to here."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.variables = dict(start.variables)
        self.exported = set(start.exported)
        self.found: list[Use] = []

    def through(self, script: str) -> None:
        if self.start.depth > _DEEPEST:
            return
        feeding: list[str] = []
        splitter = Splitter(script, self.start.place.line, self.variables, self._inside)
        for simple in splitter.commands():
            self.command(simple.words, feeding, replace(self.start.place, line=simple.line))
            feeding = simple.words if simple.pipes else []

    def command(self, words: list[str], feeding: list[str], place: Place) -> None:
        """Take in one command. `feeding` is the command whose output it reads."""
        while words and words[0] in _KEYWORDS:
            words = words[1:]
        given: dict[str, str] = {}
        while words and (assigned := ASSIGNMENT.fullmatch(words[0])):
            given[assigned[1]] = assigned[2]
            words = words[1:]
        if not words:
            self._assign(given, place)
        elif words[0] in _DECLARES:
            self._declare(words, place)
        elif words[0] in {"unset", "read", "for"}:
            for each in words[1:]:
                self.variables.pop(each, None)
        elif words[0] in {".", "source"}:
            self._source(words[1:], place)
        elif words[0] == "eval":
            self._inside(" ".join(words[1:]), place.line)
        else:
            self._start_program(words, given, feeding, place)

    def _assign(self, given: Mapping[str, str], place: Place) -> None:
        self.variables.update(given)
        if self.start.startup and "CMS_SOCK" in given and "CMS_SOCK" in self.exported:
            self.found.append(Variable(place, given["CMS_SOCK"]))

    def _declare(self, words: Sequence[str], place: Place) -> None:
        given = {found[1]: found[2] for found in map(ASSIGNMENT.fullmatch, words) if found}
        if words[0] == "export" or any(re.fullmatch(r"-\w*x\w*", each) for each in words):
            self.exported |= {*given, *words[1:]}
            given = {name: self.variables[name] for name in words[1:] if name in self.variables} | given
        self._assign(given, place)

    def _source(self, words: Sequence[str], place: Place) -> None:
        if not words or UNKNOWN in words[0]:
            return
        inner = self._inner(Place(place.tool, words[0], 1))
        inner.through(self.start.follow(words[0], place))
        self.variables.update(inner.variables)
        self.exported |= inner.exported
        self.found += inner.found

    def _inside(self, script: str, line: int) -> None:
        """Walk through a command substitution, or the like."""
        inner = self._inner(replace(self.start.place, line=line))
        inner.through(script)
        self.found += inner.found

    def _inner(self, place: Place) -> _Walk:
        start = self.start
        return _Walk(
            replace(
                start,
                place=place,
                variables=self.variables,
                exported=frozenset(self.exported),
                depth=start.depth + 1,
            )
        )

    def _start_program(self, words: list[str], given: dict[str, str], feeding: Sequence[str], place: Place) -> None:
        if posixpath.basename(words[0]) in _WRAPPERS:
            before, words = _unwrapped(words)
            given |= {found[1]: found[2] for found in map(ASSIGNMENT.fullmatch, before) if found}
        name = posixpath.basename(words[0]) if words else ""
        if name in {"cms-oauth", "graph-sendmail"}:
            exported = {each: self.variables[each] for each in self.exported if each in self.variables} | given
            asked = words[1:] if name == "cms-oauth" else _asked_for_graph(words)
            path = words[0] if words[0].startswith("/") else ""
            self.found.append(Command(place, tuple(asked), exported.get("CMS_SOCK", ""), path=path))
        elif name.partition(" ")[0] == "cms-oauth":
            cause = "its quotes make a single word of the whole command, and no program has that name"
            self.found.append(Fault(place, "gets no token", cause, "write cms-oauth and each of its options as words"))
        elif name in _SHELLS:
            inner = self._inner(place)
            inner.variables |= given
            inner.exported |= set(given)
            inner.through(_after_c(words))
            self.found += inner.found
        elif name == "imapsync":
            self.found += _imapsync(words, place)
        elif name in {"nc", "socat"}:
            self.found += _written_to_socket(words, feeding, place)


def _unwrapped(words: list[str]) -> tuple[list[str], list[str]]:
    """Return a wrapper's own words, and the command that it runs, none if it runs nothing of interest."""
    for at, word in enumerate(words):
        name = posixpath.basename(word)
        if name.partition(" ")[0] in _INTERESTING:
            return words[:at], words[at:]
        # Before the program there are options with their values, assignments, and times or files.
        expected = name in _WRAPPERS or word.startswith("-") or words[at - 1].startswith("-")
        # `command -v` only says where a program is.
        if word in {"-v", "-V"} or not (expected or ASSIGNMENT.fullmatch(word) or re.match(r"[\d/]", word)):
            break
    return words, []


def _after_c(words: Sequence[str]) -> str:
    """Return the script of `sh -c SCRIPT`."""
    at = next((n for n, each in enumerate(words) if re.fullmatch(r"-[a-zA-Z]*c", each)), len(words))
    return next((each for each in words[at + 1 :] if not each.startswith("-")), "")


def _asked_for_graph(words: Sequence[str]) -> list[str]:
    """Return the options with which graph-sendmail runs `cms-oauth` (contrib/graph-sendmail)."""
    found = ["--proto=GRAPH", "--output=json"]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in {"--user", "--cms_sock", "--cms-sock"}:
            found.append(f"{option}={value if equals else following}")
    return found


def _imapsync(words: Sequence[str], place: Place) -> Iterator[Use]:
    """Yield the token files that imapsync's options name, one for each side."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if re.fullmatch(r"--?oauthaccesstoken[12]", option):
            yield TokenPath(place, value if equals else following, "IMAP")


def _written_to_socket(words: Sequence[str], feeding: Sequence[str], place: Place) -> Iterator[Use]:
    """Yield the request that `printf ... | nc -U PATH` writes."""
    if posixpath.basename(words[0]) == "socat":
        path = next((found[1] for found in map(_SOCAT.match, words[1:]) if found), "")
    else:
        path = words[-1] if any(re.fullmatch(r"-\w*U\w*", each) for each in words[1:]) else ""
    if path:
        yield Request(place, path, _printed(feeding))


def _printed(words: Sequence[str]) -> str:
    """Return what printf or echo prints, without the newline at its end."""
    if words[:1] == ["printf"] and len(words) > 1:
        values = iter(words[2:])
        text = re.sub("%s", lambda _found: next(values, ""), words[1])
    elif words[:1] == ["echo"]:
        text = " ".join(each for each in words[1:] if each not in {"-n", "-e", "-ne", "-en"})
    else:
        return UNKNOWN
    return text.replace("\\n", "\n").rstrip("\n")
