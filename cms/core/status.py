"""What the daemon knows, as rows: facts for `cms status`, its JSON and monitoring. status_text.py puts them into words.

A row is one token that an account needs, with the protocols that it opens: mail protocols share one, so most accounts
have one row. Nothing here holds a secret.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cms.core.accounts import Account, Scopes, StoredSignIn
from cms.core.forecast import Forecast, warned_at
from cms.core.lifecycle import NOTHING_KNOWN, Failing, Life, NeedsSignIn, Settled, SignInFacts, usable
from cms.core.preflight import covers, fits, misfit, permission_for, uncovered
from cms_oauth.moves import cms, fill, signs_in
from cms_oauth.text import printable

# Changes when a field of the JSON changes its meaning or goes; new fields may come at any time.
JSON_VERSION = 1

STATES = {
    "ok": "a usable token is held and nothing is due",
    "starting": "the first token is being fetched",
    "renewing": "a new token is due or under way",
    "failing": "the provider cannot be asked or does not answer well; it is tried again",
    "locked": "the vault's key cannot be had; it is tried again",
    "signing-in": "a sign-in waits for a person",
    "sign-in-required": "only a sign-in helps",
    "refused": "the application is refused, and what its next move says has to be mended; it is tried again",
}

# Exit codes that monitoring systems of the Nagios family understand.
OK, WARNING, CRITICAL, UNKNOWN = range(4)

# exim takes 4,090 characters of base64 as a credential, and msmtp and neomutt about as many: that is this many bytes of
# token beside the user's name.
LONG_TOKEN = 3000

MEMORY_WARNING = (
    "sign-ins are kept in MEMORY ONLY: when cms or its worker ends, everybody has to sign in again; "
    "Vault(key=...) in the configuration names a place for a key"
)

# A new certificate has to be made, uploaded and put in its place, by people who may be away: they get a month.
EXPIRY_WARNING = 30 * 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What the daemon hands in for one account. `user` is the name that requests ask for, "" while nobody signed in.

    `lives` may hold more scope sets than the account's own. `signing_in` says what a sign-in under way waits for, "" when
    there is none; `page` is where the account can sign in, "" for nowhere. `forecast` is when the sign-in is expected to
    end.
    """

    account: Account
    user: str
    lives: Mapping[Scopes, Life]
    sign_in: SignInFacts = NOTHING_KNOWN
    signing_in: str = ""
    page: str = ""
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The token that is held: `age`, `left` and `refresh_in` in seconds, `expires_at` and `refresh_at` as Unix times.

    `refresh_in` and `refresh_at` are None while the provider fails or a sign-in is required: then nothing is planned
    by the token's age.
    """

    age: int
    left: int
    expires_at: int
    refresh_in: int | None
    refresh_at: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """The last error: `lasts` and `retry_in` in seconds, `since` and `retry_at` as Unix times, `aadsts` Entra's number.

    `retry_in` and `retry_at` are None when only a sign-in helps; `tries` is 0 where a person has to mend something.
    """

    kind: str
    message: str
    aadsts: int | None
    correlation_id: str
    lasts: int
    since: int
    tries: int = 0
    retry_in: int | None = None
    retry_at: int | None = None


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One token of one account. `usable` says whether a client is given one now, `state` is a word of `STATES`.

    `next_move` says whose move it is and the command, "" when there is nothing to do. `warning` is what may go wrong
    although all is well with the token.

    `signed_in_at` is when the sign-in was given, as Unix time, and `signed_in_age` that in seconds, None for unknown;
    `ends_in` are the seconds to the forecast's moment, and `sign_in_due` says that it is near. `sign_in` is the way in
    which the account signs in; `credential_expires_at` is when its application's certificate ends, as Unix time,
    and `credential_due` says that it is near. `refused` are those of the protocols that the token is not served for,
    although it is usable (`preflight=`).
    """

    user: str
    state: str
    protocols: tuple[str, ...]
    usable: bool
    token: Held | None
    problem: Problem | None
    next_move: str
    persisted: bool | None
    key_from: str
    signing_in: str
    warning: str = ""
    signed_in_at: int | None = None
    signed_in_age: int | None = None
    forecast: Forecast | None = None
    ends_in: int | None = None
    sign_in_due: bool = False
    sign_in: str = ""
    credential_expires_at: int | None = None
    credential_due: bool = False
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Daemon:
    """Facts about the daemon itself. `uptime` is in seconds; `memory_chosen` when the configuration asked for it.

    `orphans` are stored sign-ins that no account of the configuration has; `loaded` says how many seconds ago the
    configuration was read.
    """

    version: str
    pid: int
    uptime: float
    config: str
    sockets: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    memory_chosen: bool = False
    files: tuple[str, ...] = ()
    orphans: tuple[StoredSignIn, ...] = ()
    loaded: float = 0.0


def describe(entries: Sequence[Entry], now: float, wall: float) -> list[StatusRow]:
    """Return the rows of these accounts, in their order. `now` is CLOCK_BOOTTIME, `wall` Unix time."""
    return [row for entry in entries for row in _rows(entry, now, wall)]


def _rows(entry: Entry, now: float, wall: float) -> Iterator[StatusRow]:
    # dict keeps the order in which the configuration names the protocols.
    for scopes in dict.fromkeys(entry.account.scopes.values()):
        protocols = tuple(name for name, each in entry.account.scopes.items() if each == scopes)
        yield _row(entry, protocols, entry.lives.get(scopes, Life()), now, wall)


def _row(entry: Entry, protocols: tuple[str, ...], life: Life, now: float, wall: float) -> StatusRow:
    state, signed_in = _state(entry, life, now), entry.sign_in
    expected = entry.forecast if signed_in.given_at else None
    due = expected is not None and wall >= warned_at(expected, signed_in.given_at)
    move = _next_move(entry, state, life)
    if due and not move:
        move = fill("sign in before mail has to wait: {login}", {"login": cms("login", entry.user)})
    expiry = expiry_warning(signed_in.credential_expires, wall)
    warnings = (*_protocol_warnings(entry, protocols, life), length_warning(life), expiry)
    return StatusRow(
        user=entry.user,
        state=state,
        protocols=protocols,
        usable=usable(life, now) is not None,
        token=_held(life, now, wall),
        problem=_problem(life, now, wall),
        next_move=move,
        persisted=signed_in.persisted,
        key_from=signed_in.key_from,
        signing_in=entry.signing_in,
        warning="; ".join(filter(None, warnings)),
        signed_in_at=int(signed_in.given_at) or None,
        signed_in_age=max(0, int(wall - signed_in.given_at)) if signed_in.given_at else None,
        forecast=expected,
        ends_in=max(0, int(expected.due - wall)) if expected else None,
        sign_in_due=due,
        sign_in=entry.account.grant.sign_in,
        credential_expires_at=int(signed_in.credential_expires) or None,
        credential_due=bool(expiry),
        refused=_refused(entry, protocols, life),
    )


def _refused(entry: Entry, protocols: tuple[str, ...], life: Life) -> tuple[str, ...]:
    if not entry.account.preflight or life.held is None:
        return ()
    return tuple(each for each in protocols if not fits(life.held, each, entry.account.scopes[each]))


def _protocol_warnings(entry: Entry, protocols: tuple[str, ...], life: Life) -> Iterator[str]:
    """Yield what to say of a token that cannot open each of these protocols, whether or not it is served."""
    if life.held is None:
        return
    scopes, lacking = entry.account.scopes, dict[str, list[str]]()
    for each in protocols:
        permission = permission_for(each, scopes[each])
        if not covers(life.held, permission):
            lacking.setdefault(uncovered(permission, scopes[each], entry.user)[1], []).append(each)
    for hint, names in lacking.items():
        yield f"the sign-in does not cover {', '.join(names)}, which the configuration asks for: {hint}"
    wrong = (misfit(life.held.claims, each, scopes[each]) for each in protocols)
    yield from dict.fromkeys(f"{each.message}: {each.hint}" for each in wrong if each)


def length_warning(life: Life) -> str:
    """Return what to say of a token that mail programs may not take for its length, "" for any other."""
    size = len(life.held.secret) if life.held else 0
    if size <= LONG_TOKEN:
        return ""
    return (
        f"the token has {size} bytes, and exim, msmtp and neomutt fail with more than about {LONG_TOKEN}: permissions of"
        " the application and group claims make tokens long (docs/configuration.md, Long tokens)"
    )


def expiry_warning(expires: float, wall: float) -> str:
    """Return what to say of an application's certificate that ends soon, "" for one that does not, or for none."""
    if not expires or expires - wall > EXPIRY_WARNING:
        return ""
    when = f"ends in {duration(expires - wall)}" if expires > wall else "has ended"
    return f"the application's certificate {when}: upload a new one to its registration, then put it in the old one's place"


def _state(entry: Entry, life: Life, now: float) -> str:
    if isinstance(life.phase, NeedsSignIn):
        if entry.account.grant.unattended:
            return "refused"
        return "signing-in" if entry.signing_in else "sign-in-required"
    if isinstance(life.phase, Failing):
        return "locked" if life.phase.trouble.kind == "locked" else "failing"
    if life.held is None:
        return "starting"
    return "ok" if usable(life, now) and life.held.refresh_at > now else "renewing"


def _held(life: Life, now: float, wall: float) -> Held | None:
    held = life.held
    if held is None:
        return None
    refresh_in = max(0.0, held.refresh_at - now) if isinstance(life.phase, Settled) else None
    return Held(
        int(now - held.issued),
        max(0, int(held.expires - now)),
        int(wall + held.expires - now),
        None if refresh_in is None else int(refresh_in),
        None if refresh_in is None else int(wall + refresh_in),
    )


def _problem(life: Life, now: float, wall: float) -> Problem | None:
    if isinstance(life.phase, Settled):
        return None
    trouble, lasts = life.phase.trouble, now - life.phase.since
    known = Problem(
        trouble.kind, trouble.message, trouble.aadsts, trouble.correlation_id, int(lasts), int(wall - lasts)
    )
    if life.phase.next_try is None:
        return known
    retry_in = max(0.0, life.phase.next_try - now)
    if isinstance(life.phase, NeedsSignIn):
        return replace(known, retry_in=int(retry_in), retry_at=int(wall + retry_in))
    return replace(known, tries=life.phase.tries, retry_in=int(retry_in), retry_at=int(wall + retry_in))


def _next_move(entry: Entry, state: str, life: Life) -> str:
    if state == "signing-in":
        return f"finish the sign-in: {entry.signing_in}"
    if isinstance(life.phase, NeedsSignIn):
        move = life.phase.trouble.hint or fill("sign in: {login}", {"login": cms("login", entry.user)})
        # Only where signing in is what helps.
        there = f"; or open {entry.page} in a browser on this machine" if entry.page and signs_in(move) else ""
        return move + there
    if isinstance(life.phase, Failing):
        return life.phase.trouble.hint or "nobody has to do anything: it is tried again by itself"
    return ""


def as_json(rows: Sequence[StatusRow], daemon: Daemon | None = None) -> dict[str, Any]:
    """Return the versioned object that `cms status --json` prints."""
    document: dict[str, Any] = {"version": JSON_VERSION}
    if daemon:
        document["daemon"] = asdict(daemon)
        document["orphans"] = document["daemon"].pop("orphans")
        if any(row.persisted is False for row in rows):
            document["daemon"]["warnings"] = [*daemon.warnings, MEMORY_WARNING]
    document["accounts"] = [asdict(row) for row in rows]
    return document


def as_systemd(rows: Sequence[StatusRow]) -> str:
    """Return one line for systemd's STATUS= and `cms status --check`.

    How many accounts are in which state, and the first that needs a person now, or else soon.
    """
    counts = Counter(row.state for row in rows)
    line = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no accounts"
    if any(row.persisted is False for row in rows):
        line += "; sign-ins in memory only"
    now = [row for row in rows if row.state in _FOR_PEOPLE or row.refused]
    first = next(iter([*now, *(row for row in rows if row.sign_in_due)]), None)
    if first is None:
        return line
    return f"{line}; {printable(first.user or 'an account')}: {printable(first.next_move or first.warning)}"


# States in which nothing gets better until a person has done something.
_FOR_PEOPLE = ("sign-in-required", "signing-in", "refused", "locked")


def exit_code(rows: Sequence[StatusRow], *, memory_chosen: bool = False) -> int:
    """Return what `cms status --check` exits with.

    - 3: there is no account.
    - 2: an account has no usable token, or one that is served for none of its protocols.
    - 1: a token is not served for some protocols; an account is failing or needs a person while its token is good, is
      just starting, keeps its sign-in in memory although the configuration does not ask for that, or is expected to need
      a sign-in or a new certificate soon.
    - 0: else.
    """
    if not rows:
        return UNKNOWN
    return max(_severity(row, memory_chosen=memory_chosen) for row in rows)


def _severity(row: StatusRow, *, memory_chosen: bool) -> int:
    if not row.usable and row.state != "starting":
        return CRITICAL
    if row.refused:
        return WARNING if set(row.protocols) - set(row.refused) else CRITICAL
    if row.state not in {"ok", "renewing"} or (row.persisted is False and not memory_chosen):
        return WARNING
    if row.sign_in_due or row.credential_due:
        return WARNING
    return OK


def duration(seconds: float) -> str:
    """Return a length of time as a person says it, in the two largest units: `1 h 5 min`, `2 d 3 h`, `40 s`."""
    left, parts = max(0, int(seconds)), []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
