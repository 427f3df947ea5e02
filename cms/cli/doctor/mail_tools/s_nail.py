"""Reads s-nail's files (s-nail(1), Resource files). Pure.

A line that ends with a backslash goes on in the next one. Words are quoted as in a shell, and a `#` at the beginning of a
word begins a comment. `define` and `account` hold commands in braces; what follows `!` goes to a shell.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cms.cli.doctor.mail_tools import shell
from cms.cli.doctor.mail_tools.found import UNKNOWN, Command, Fault, Files, Login, Machine, Place, Use, numbered

_MODIFIERS = {"\\", "ignerr", "local", "scope", "u", "vput", "wysh", "eval", "global", "our"}

# Commands with two ways of quoting.
_OLD = {"set", "unset", "setenv"}

# Hooks that run a macro before a message is sent.
_HOOKS = ("on-compose-enter", "on-compose-leave", "on-compose-splice", "on-main-loop-tick", "on-program-start")

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_SHELL = re.compile(r"((?:\w+\s+)*)!\s*(.*)", re.DOTALL)

# The output goes into a variable with its newline, which would be sent too.
_TO_SEND = Login("SMTP", "token", bare=True)
_OTHERWISE = Login("", "token", bare=True)


@dataclass
class _Block:
    """A macro, an account, or what stands outside of both (without a name)."""

    kind: str = ""
    name: str = ""
    variables: dict[str, tuple[str, Place]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    commands: list[tuple[str, Place]] = field(default_factory=list)


def uses(machine: Machine) -> Iterator[Use]:
    files = Files(machine, "s-nail")
    blocks = [_Block()]
    user = machine.environ.get("MAILRC") or "~/.mailrc"
    for path in (*machine.first("/etc/s-nail.rc"), *machine.first(user)):
        _read(files, path, None, blocks)
    yield from _uses(machine, blocks)
    yield from files.unread


def _read(files: Files, path: str, included: Place | None, blocks: list[_Block]) -> None:
    outside, begun, number = blocks[0], "", 0
    into = outside
    for here, line in numbered(files.text(path, included)):
        number = number if begun else here
        whole, begun = begun + (line.lstrip() if begun else line), ""
        if whole.endswith("\\"):
            begun = whole[:-1]
            continue
        opened = re.fullmatch(r"\s*(define|account|ac)\s+([^\s{]+)\s*\{\s*", whole)
        if opened:
            into = _Block("define" if opened[1] == "define" else "account", opened[2])
            blocks.append(into)
        elif whole.strip() == "}":
            into = outside
        elif whole.strip() and not whole.lstrip().startswith("#"):
            _take(whole.strip(), Place("s-nail", path, number), into, files, blocks)


def _take(line: str, place: Place, into: _Block, files: Files, blocks: list[_Block]) -> None:
    """Take in one line of commands."""
    shelled = _SHELL.fullmatch(line)
    if shelled and set(shelled[1].split()) <= _MODIFIERS:
        stored = "vput" in shelled[1].split()
        into.commands.append((shelled[2].partition(" ")[2] if stored else shelled[2], place))
        return
    for words in _commands(line, blocks[0].variables):
        name, arguments = words[0], words[1:]
        if name in {"set", "setenv"}:
            into.variables |= {each.partition("=")[0]: (each.partition("=")[2], place) for each in arguments}
        elif name == "unset":
            for each in arguments:
                into.variables.pop(each, None)
        elif name in {"call", "call_if", "xcall"}:
            into.calls += arguments[:1]
        elif name in {"source", "source_if", "so"} and arguments:
            _source(arguments[0], place, files, blocks)


def _commands(line: str, variables: Mapping[str, tuple[str, Place]]) -> Iterator[list[str]]:
    """Yield the commands of a line, without their modifiers. A line whose quotes do not end has none.

    Without v15-compat=..., or `wysh` before it, `set` knows neither variables nor `;` nor comments.
    """
    modifiers = set(itertools.takewhile(_MODIFIERS.__contains__, line.split()))
    first = next((each for each in line.split() if each not in _MODIFIERS), "")
    if first in _OLD and "wysh" not in modifiers and not variables.get("v15-compat", ("",))[0]:
        words = _split(line, "")
        yield from [words[len(modifiers) :]] if words else []
        return
    command: list[str] = []
    for word in [*_split(line, ";"), ";"]:
        if word == ";" or word.startswith("#"):
            if command:
                yield command
            command = []
            if word != ";":
                return
        elif command or word not in _MODIFIERS:
            command.append(_VARIABLE.sub(lambda found: variables.get(found[1], (UNKNOWN,))[0], word))


def _split(line: str, signs: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=signs)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        return list(lexer)
    except ValueError:
        return []


def _source(path: str, place: Place, files: Files, blocks: list[_Block]) -> None:
    if path.endswith("|"):
        files.not_followed(place, "more settings come from a command, which the doctor does not run")
    elif UNKNOWN in path:
        files.not_followed(place, "more settings come from a file whose name is not known here")
    else:
        _read(files, files.machine.expand(path, files.machine.home), place, blocks)


def _uses(machine: Machine, blocks: list[_Block]) -> Iterator[Use]:
    macros = {each.name: each for each in blocks if each.kind == "define"}
    asked = {id(each): _asked(each, machine, blocks[0]) for each in blocks}
    sending = dict[int, None]()
    for block in blocks:
        if block.kind == "define":
            continue
        settings = {**blocks[0].variables, **block.variables}
        named = [*block.calls, *(settings[hook][0] for hook in _HOOKS if hook in settings)]
        yield from _mta(settings, block, machine)
        asking = [each for each in (block, *_called(named, macros)) if asked[id(each)]]
        if asking and _url(settings):
            sending |= dict.fromkeys(map(id, asking))
            yield from _login(settings, block.name)
    for block in blocks:
        login = _TO_SEND if id(block) in sending else _OTHERWISE
        for each in asked[id(block)]:
            yield replace(each, login=login) if isinstance(each, Command) else each


def _mta(settings: Mapping[str, tuple[str, Place]], block: _Block, machine: Machine) -> list[Use]:
    """Return what the program asks that sends mail, if this block names it."""
    if "mta" not in block.variables or _url(settings):
        return []
    path, place = block.variables["mta"]
    return shell.asks(f"{path} {settings.get('mta-arguments', ('',))[0]}", place, machine)


def _asked(block: _Block, machine: Machine, outside: _Block) -> list[Use]:
    exported = {name: value for name, (value, _) in outside.variables.items() if name == "CMS_SOCK"}
    return [use for line, place in block.commands for use in shell.asks(line, place, machine, exported=exported)]


def _called(names: list[str], macros: Mapping[str, _Block]) -> list[_Block]:
    """Return the macros with these names, and those that they call."""
    found: dict[str, _Block] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in macros and name not in found:
            found[name] = macros[name]
            todo += macros[name].calls
    return list(found.values())


def _url(settings: Mapping[str, tuple[str, Place]]) -> str:
    """Return the server that mail is sent to, "" if another program sends it."""
    url = settings.get("mta", settings.get("smtp", ("",)))[0]
    return url if "smtp" in settings or re.match(r"(smtps?|submissions?)://", url) else ""


def _login(settings: Mapping[str, tuple[str, Place]], account: str) -> Iterator[Fault]:
    whose = f"the account {account}" if account else "the file"
    mechanisms = {
        name: each for name, each in settings.items() if name.startswith("smtp-auth") and "password" not in name
    }
    values = {value.lower() for value, _ in mechanisms.values()}
    _, place = next(iter(mechanisms.values()), settings.get("mta") or settings["smtp"])
    if "oauthbearer" not in values:
        said = f"`smtp-auth={', '.join(sorted(values))}`" if values else "no `smtp-auth`, and so PLAIN"
        refused = ": s-nail refuses that word" if "xoauth2" in values else ""
        yield Fault(
            place,
            "does not log in with its token",
            f"{whose} has {said}{refused}",
            "write: set smtp-auth=oauthbearer (s-nail's name for XOAUTH2)",
        )
    elif "v15-compat" not in settings:
        cause = f"{whose} lacks v15-compat, without which s-nail knows no oauthbearer"
        yield Fault(place, "does not log in with its token", cause, "write, above it: set v15-compat")
