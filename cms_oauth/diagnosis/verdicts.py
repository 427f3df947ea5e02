"""The words in which a failure is explained, and how they are filled in and shown: what the tables are made of.

A verdict in a table is a template: `{mailbox}`, `{login}` and the like stand for what is known only when it happens.
Pure, and without any table of its own: `diagnosis` is where replies are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from cms_oauth.claims import Claims
from cms_oauth.moves import MOVERS, Value, fill
from cms_oauth.text import printable

__all__ = (
    "MOVERS",
    "Claims",
    "Evidence",
    "Verdict",
    "as_data",
    "as_lines",
    "evidence_data",
    "fill_in",
    "for_powershell",
    "printable",
)

# The same, as a person is told.
_MOVES = {"you": "yours", "administrator": "your administrator's", "wait": "nobody's: wait"}

# What Exchange's PowerShell takes as one argument without quotes.
_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One explanation. `name` is a word for programs, `cause` one sentence, `mover` a word of `MOVERS`.

    `steps` are the exact commands or clicks, in order, templates in a table and `Move`s after `fill_in`; `takes` says how long the fix takes to act; `link` is where it is
    documented, "" where nowhere; `words` are what a person would search for.
    """

    name: str
    cause: str
    mover: str
    steps: tuple[str, ...] = ()
    takes: str = ""
    link: str = ""
    words: tuple[str, ...] = ()

    def hint(self) -> str:
        """Return the next move on one line, with whose it is where that is not the reader."""
        step = self.steps[0] if self.steps else "nothing to do"
        return f"for your administrator: {step}" if self.mover == "administrator" else step


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the reply. Every field may be missing.

    `user` is the SASL user, `host` the server's name, `claims` the token's; `offered` the mechanisms that the server
    advertised, `greeting` its first line, `challenge` what it said in the middle of the login; `skew` how many seconds
    this machine's clock is ahead of a server's, by a Date header or a greeting, `now` Unix time by this machine;
    `personal` whether the account is a personal one, None where nobody has said.
    """

    user: str = ""
    host: str = ""
    claims: Claims | None = None
    offered: tuple[str, ...] = ()
    skew: float | None = None
    now: float | None = None
    greeting: str = ""
    challenge: str = ""
    personal: bool | None = None


def fill_in(verdict: Verdict, values: Mapping[str, Value]) -> Verdict:
    """Return the verdict with each `{name}` of these values in its place: its steps are moves then."""
    return replace(
        verdict,
        cause=str(fill(verdict.cause, values)),
        steps=tuple(fill(step, values, mover=verdict.mover) for step in verdict.steps),
        takes=str(fill(verdict.takes, values)),
    )


def for_powershell(text: str) -> str:
    """Return the text as one argument of a PowerShell command, with nothing in it that PowerShell would act upon."""
    text = printable(text)
    # PowerShell takes the typographic single quotes for the plain one.
    return text if _BARE.fullmatch(text) else "'" + re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", text) + "'"


def as_lines(verdict: Verdict, *, likely: bool = False) -> list[str]:
    """Return the verdict as a person reads it, a few lines; `likely` says that it may be another one."""
    meaning = "what it most likely means" if likely else "what it means"
    lines = [f"{meaning}: {verdict.cause}", f"whose move it is: {_MOVES[verdict.mover]}"]
    lines += [f"  {number}. {step}" for number, step in enumerate(verdict.steps, 1)]
    lines += [f"how long it takes: {verdict.takes}"] if verdict.takes else []
    lines += [f"see: {verdict.link}"] if verdict.link else []
    return lines


def as_data(verdict: Verdict) -> dict[str, object]:
    """Return the verdict as JSON carries it."""
    return asdict(verdict) | {"steps": list(verdict.steps), "words": list(verdict.words)}


def evidence_data(evidence: Evidence) -> dict[str, object]:
    """Return the evidence as JSON carries it: what a token says of itself, never the token."""
    return asdict(evidence)
