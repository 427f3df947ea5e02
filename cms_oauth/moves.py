"""`Move`: what a person, or cms itself, does next after a failure.

Tables and messages write a move as a template, such as "sign in again: {login}"; `fill` puts commands and text into it.
A `Move` is a `str`, the line that a person reads, so JSON, logs and hooks use it directly. It also keeps its parts, so
that code can find its commands and reword it without parsing the text.

Pure.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any, Self, TypeAlias

from cms_oauth.frozen import dataclass
from cms_oauth.text import printable

# Who makes the next move. "wait": only time helps; Microsoft or cms has to recover.
MOVERS = ("you", "administrator", "wait")

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a list of words. `str` returns it as a line for a shell, quoted."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(map(printable, self.words))

    def with_options(self, *options: str) -> Command:
        end = self.words.index(_END) if _END in self.words else len(self.words)
        return Command((*self.words[:end], *options, *self.words[end:]))


# After this word a command reads no options.
_END = "--"


def cms(name: str, *words: str) -> Command:
    """Return a command of cms. Empty words, as for an account without a user, are left out.

    An address may begin with a hyphen. It comes last then, so that it is not read as an option.
    """
    last = [each for each in words if each.startswith("-") and "@" in each]
    rest = [each for each in words if each and each not in last]
    return Command(("cms", name, *rest, *([_END, *last] if last else [])))


REFRESH = cms("refresh")
RELOAD = cms("reload")


@dataclass(frozen=True, slots=True)
class Run:
    """Commands to run one after the other."""

    commands: tuple[Command, ...]

    def __str__(self) -> str:
        return " and ".join(f"`{each}`" for each in self.commands)


@dataclass(frozen=True, slots=True)
class Promise:
    """What cms does by itself. `waits` is True if only time helps."""

    text: str
    waits: bool = False

    def __str__(self) -> str:
        return self.text


RETRIES = Promise("cms tries again by itself")
LOOKS_AGAIN = Promise("or wait: cms asks again by itself, and a minute after the network has changed")
NOTHING_TO_DO = Promise("nothing to do: cms tries again by itself", waits=True)
PROMISES = {
    "retries": RETRIES,
    "looks_again": LOOKS_AGAIN,
    "nothing_to_do": NOTHING_TO_DO,
    "nothing_for_now": Promise("nothing to do: cms tries again by itself, after a pause", waits=True),
    "wait_for_cms": Promise("wait: cms tries again by itself", waits=True),
    "wait_for_person": Promise("wait: cms tries again by itself until it is finished", waits=True),
}

Part: TypeAlias = str | Run | Promise


class Move(str):
    """What to do next, as one line: text, commands in backquotes, and what cms does by itself.

    `parts` make up the line; `mover` is who makes the move (see `MOVERS`).
    """

    __slots__ = ("mover", "parts")
    mover: str
    parts: tuple[Part, ...]

    def __new__(cls, *parts: Part, mover: str = "you") -> Self:
        move = super().__new__(cls, "".join(map(str, parts)))
        move.parts, move.mover = parts, mover
        return move

    def __getnewargs_ex__(self) -> tuple[tuple[Part, ...], dict[str, str]]:
        """Copy a move with its parts."""
        return self.parts, {"mover": self.mover}

    def __add__(self, more: str) -> Move:
        return Move(*self.parts, *parts_of(more), mover=self.mover)


# What may stand for a field of a template.
Value: TypeAlias = str | Command

# A field of a template: `{login}`, `{login --browser}`, or commands in a row, `{reload, login}`.
_FIELD = re.compile(r"\{(\w+(?:, \w+)*)((?: --[\w-]+)*)\}")
_ALWAYS: Mapping[str, Value | Promise] = {"refresh": REFRESH, "reload": RELOAD, **PROMISES}


def parts_of(move: str) -> tuple[Part, ...]:
    """Return the parts of a move; plain text is one part."""
    if isinstance(move, Move):
        return move.parts
    return (move,) if move else ()


def mover_of(move: str) -> str:
    """Return who makes a move; plain text is the user's."""
    return move.mover if isinstance(move, Move) else "you"


def fill(template: str, values: Mapping[str, Value] | None = None, *, mover: str = "you") -> Move:
    """Return a template with its fields filled in. Braces in a value are not treated as fields.

    Fields without a value stay, because PowerShell uses braces too. `{refresh}`, `{reload}` and the promises are built in.
    """
    known, parts, done = {**_ALWAYS, **(values or {})}, list[Part](), 0
    for found in _FIELD.finditer(template):
        names, options = found[1].split(", "), found[2].split()
        filled = [known[name] for name in names if name in known]
        if len(filled) != len(names):
            continue
        parts += [template[done : found.start()], *_filled(filled, options)]
        done = found.end()
    return Move(*(each for each in (*parts, template[done:]) if each), mover=mover)


def _filled(values: list[Value | Promise], options: list[str]) -> tuple[Part, ...]:
    commands = tuple(each.with_options(*options) for each in values if isinstance(each, Command))
    if commands:
        return (Run(commands),)
    whole = list[Part]()
    for each in values:
        if isinstance(each, Promise):
            whole.append(each)
        elif isinstance(each, str):
            whole += parts_of(each) if isinstance(each, Move) else [printable(each)]
    return (*whole, *(f" {each}" for each in options))


def commands_of(move: str) -> tuple[Command, ...]:
    """Return the commands of a move, in order."""
    return tuple(each for part in parts_of(move) if isinstance(part, Run) for each in part.commands)


def signs_in(move: str) -> bool:
    """Return True if the move contains a sign-in."""
    return any(each.words[:2] == ("cms", "login") for each in commands_of(move))


def in_person(move: str, again: str, pause: float | None = None) -> Move:
    """Return a move reworded for a person who has just run the failed command: they try again, not cms.

    `again` says how to try again. `pause` is the wait in seconds if it may work later, None if it was refused. Commands to
    the daemon are left out or made conditional: it may not be running, and there may be no sign-in to refresh.
    """
    parts = list[Part]()
    for part in parts_of(move):
        if isinstance(part, Run):
            parts += _run_in_person(part, again)
        elif isinstance(part, Promise) and pause is not None:
            minutes = math.ceil(pause / _MINUTE)
            wait = f"wait {minutes} minutes, then " if minutes > 1 else "wait a minute, then "
            parts += [*([wait] if part.waits else []), *parts_of(again)]
        else:
            parts.append(part)
    changed = Move(*parts, mover=mover_of(move))
    return changed if pause is None or again in changed else changed + "; " + again


def _run_in_person(run: Run, again: str) -> tuple[Part, ...]:
    """Return commands without `cms refresh`, and with `cms reload` only if the daemon runs; then what follows them."""
    rest = tuple(each for each in run.commands if each not in (REFRESH, RELOAD))
    if rest == run.commands:
        return (run,)
    after = (Run(rest),) if rest else parts_of(again)
    return (Run((RELOAD,)), ", if cms runs, and ", *after) if RELOAD in run.commands else after


def as_data(move: str) -> dict[str, Any]:
    """Return a move with its parts as JSON data, to send it to another process."""
    return {"mover": mover_of(move), "parts": [_part_data(each) for each in parts_of(move)]}


def _part_data(part: Part) -> Any:
    if isinstance(part, Run):
        return {"run": [list(each.words) for each in part.commands]}
    return {"promise": part.text, "waits": part.waits} if isinstance(part, Promise) else part


def from_data(data: Any) -> Move:
    """Return the move from data made by `as_data`. Raises TypeError for anything else."""
    try:
        mover, parts = data["mover"], data["parts"]
        if mover in MOVERS and isinstance(parts, list):
            return Move(*map(_part_of, parts), mover=mover)
    except (KeyError, ValueError):
        pass
    raise TypeError


def _part_of(data: Any) -> Part:
    if isinstance(data, str):
        return data
    if "promise" in data:
        return Promise(_word(data["promise"]), data["waits"] is True)
    return Run(tuple(Command(tuple(map(_word, words))) for words in data["run"]))


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def of_anyone(text: str, user: str) -> str:
    """Return a text with USER for an account's name, as it is and as an argument of a command."""
    for each in (str(Command((user,))), user) if user else ():
        text = text.replace(each, "USER")
    return text
