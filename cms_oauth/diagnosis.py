"""What a mail server or Entra said, and what it means: the cause, whose move it is, and the exact fix.

Tables, not code: a reply is looked up, candidates are ranked by the evidence at hand, and what no row knows is shown as
it came. Pure: the tests of `cms-oauth`, `cms doctor` and docs/troubleshooting.md are all made from here.
"""

from __future__ import annotations

from dataclasses import dataclass

# Whose move it is. "wait" is Microsoft's: nothing helps but time.
MOVERS = ("you", "administrator", "wait")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One explanation. `name` is a word for programs, `cause` one sentence, `mover` a word of `MOVERS`.

    `steps` are the exact commands or clicks, in order; `takes` says how long the fix takes to act; `link` is where it is
    documented, "" where nowhere; `words` are what a person would search for.
    """

    name: str
    cause: str
    mover: str
    steps: tuple[str, ...] = ()
    takes: str = ""
    link: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself, where it is a JWT that can be decoded: best effort, never verified.

    `scopes` are its delegated permissions and `roles` an application's; `expires` is Unix time, None where it names
    none; `app` is the client id.
    """

    audience: str = ""
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    user: str = ""
    tenant: str = ""
    app: str = ""
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known beside the reply. Every field may be missing.

    `user` is the SASL user, `host` the server's name, `claims` the token's; `offered` the mechanisms that the server
    advertised; `skew` how many seconds this machine's clock is ahead of a server's Date header, `now` Unix time.
    """

    user: str = ""
    host: str = ""
    claims: Claims | None = None
    offered: tuple[str, ...] = ()
    skew: float | None = None
    now: float | None = None
