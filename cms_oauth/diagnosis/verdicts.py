"""`Verdict`: the explanation of one failure, which the tables consist of, with the functions that fill it in and show it.

A verdict in a table is a template: fields such as `{mailbox}` and `{login}` are filled in when the failure happens.
Pure. The tables are `entra`, `mail` and `local`; `lookup` searches them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from cms_oauth.claims import Claims
from cms_oauth.frozen import dataclass
from cms_oauth.moves import MOVERS, Value, fill
from cms_oauth.text import printable

__all__ = (
    "MOVERS",
    "Claims",
    "Evidence",
    "Verdict",
    "all_lines",
    "as_data",
    "evidence_data",
    "fill_in",
    "for_powershell",
    "identifiers_of",
    "printable",
)

# `MOVERS` as people read them.
WHO = {"you": "you", "administrator": "your administrator", "wait": "it resolves itself; wait"}

# What PowerShell reads as one argument without quotes.
_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The explanation of a failure: its cause and how to fix it.

    `name` is a stable word for programs, `cause` one sentence, `mover` one of `MOVERS`. `steps` are the exact commands or
    clicks in order: templates in a table, `Move`s after `fill_in`. `takes` completes "takes effect ...", or "takes ..." if
    the mover is "wait". `link` is the documentation, "" if there is none; `words` are what a person would search for.
    """

    name: str
    cause: str
    mover: str
    steps: tuple[str, ...] = ()
    takes: str = ""
    link: str = ""
    words: tuple[str, ...] = ()

    def duration(self) -> str:
        """Return when the fix works, or how long to wait; "" if unknown."""
        return self.takes and ("takes " if self.mover == "wait" else "takes effect ") + self.takes

    def hint(self) -> str:
        """Return the next move on one line; it says so if the move is the administrator's."""
        step = self.steps[0] if self.steps else "nothing to do"
        return f"for your administrator: {step}" if self.mover == "administrator" else step


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known besides the reply. Every field may be missing.

    - `user`: the SASL user. `host`: the server's name. `claims`: what the token says.
    - `port`: the server's, 0 for the usual one. `starttls`: True if the connection begins in clear there.
    - `offered`: the mechanisms that the server advertised. `greeting`: its first line. `challenge`: what it sent during
      the login.
    - `accepted`: True if the server had accepted the login before it refused.
    - `provider`: the name of the account's provider, a key of `PROVIDERS`.
    - `skew`: by how many seconds this machine's clock is ahead of a server's, from a Date header or a greeting.
    - `now`: this machine's Unix time.
    - `personal`: True for a personal account, False for others, None if unknown.
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
    accepted: bool = False
    provider: str = ""
    port: int = 0
    starttls: bool = False


def fill_in(verdict: Verdict, values: Mapping[str, Value]) -> Verdict:
    """Return the verdict with its `{name}` fields filled in from `values`; its steps become `Move`s."""
    return replace(
        verdict,
        cause=str(fill(verdict.cause, values)),
        steps=tuple(fill(step, values, mover=verdict.mover) for step in verdict.steps),
        takes=str(fill(verdict.takes, values)),
    )


def for_powershell(text: str) -> str:
    """Return the text quoted as one argument of a PowerShell command."""
    text = printable(text)
    # PowerShell treats typographic single quotes like the plain one.
    return text if _BARE.fullmatch(text) else "'" + re.sub("(['\u2018\u2019\u201a\u201b])", r"\1\1", text) + "'"


# The name of the verdict that a reply is unknown; those that follow it are guesses.
UNKNOWN = "unknown"


def all_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return verdicts as lines for people: the likeliest in full, the others in one line each."""
    first, *others = verdicts
    guessed = first.name == UNKNOWN
    meaning = "what it most likely means" if others and not guessed else "what it means"
    lines = [f"{meaning}: {first.cause}", f"who can fix it: {WHO[first.mover]}"]
    lines += [f"  {number}. {step}" for number, step in enumerate(first.steps, 1)]
    lines += [first.duration()] if first.takes else []
    lines += [f"see: {first.link}"] if first.link else []
    lines += ["guesses:" if guessed else "less likely:"] if others else []
    return lines + [f"  - {each.cause} {each.hint()}" for each in others]


def as_data(verdict: Verdict) -> dict[str, object]:
    """Return the verdict as JSON data."""
    return asdict(verdict) | {"steps": list(verdict.steps), "words": list(verdict.words)}


def evidence_data(evidence: Evidence) -> dict[str, object]:
    """Return the evidence as JSON data: the token's claims, never the token."""
    # JSON has no names for the fields of a tuple.
    return asdict(evidence) | {"claims": evidence.claims and evidence.claims._asdict()}


# The identifiers that Microsoft's support asks for: Exchange's server, time and id; Entra's trace and correlation ids.
_IDENTIFIERS = re.compile(
    r"\[\S+\.(?:outlook|office365|protection|exchangelabs)\.\S+[^\]]*\]|(?:trace|correlation) id: ?\S+", re.IGNORECASE
)


def identifiers_of(reply: str) -> tuple[str, ...]:
    """Return the identifiers in a reply that Microsoft's support asks for."""
    return tuple(_IDENTIFIERS.findall(printable(reply)))
