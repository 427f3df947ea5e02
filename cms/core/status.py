"""The status of each account as rows of facts, for `cms status`, its JSON and monitoring. No secrets.

A row is one token of an account, with the protocols that it opens. The mail protocols share a token, so most accounts
have one row. status_text.py turns rows into text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from cms.core.accounts import Account, FleetFacts, Grant, Scopes, StoredSignIn, says_who
from cms.core.forecast import Forecast, warned_at
from cms.core.lifecycle import NOTHING_KNOWN, Failing, Life, NeedsSignIn, Settled, SignInFacts, usable
from cms.core.preflight import LENGTHENS, covers, fits, misfit_of, permission_of, too_long, uncovered
from cms.core.words import CRITICAL, MEMORY_WARNING, NOT_SHARED, OK, UNKNOWN, WARNING, duration
from cms_oauth.frozen import dataclass
from cms_oauth.moves import NOTHING_TO_DO, cms, fill, of_anyone, signs_in
from cms_oauth.providers import MICROSOFT
from cms_oauth.text import printable

# Changes if a field of the JSON is removed or changes its meaning. New fields may be added at any time.
JSON_VERSION = 1

STATES = {
    "ok": "a usable token is held and nothing is due, or none was asked for",
    "starting": "the first token is being fetched",
    "renewing": "a new token is due or under way",
    "failing": "the provider cannot be reached or does not answer well; cms tries again",
    "locked": "the vault's key cannot be read; cms tries again",
    "signing-in": "a sign-in waits for a person",
    "sign-in-required": "a person has to sign in",
    "refused": "the application is refused: a person has to do the next move; cms tries again",
}

# People have to make, upload and install a new certificate, and may be away: warn a month ahead.
EXPIRY_WARNING = 30 * 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What the daemon knows about one account: the input of `describe`.

    - `user`: the name that requests ask for, "" if it is not known before a sign-in.
    - `lives`: by scope set; may contain more than the account's own.
    - `signing_in`: what a sign-in in progress waits for, "" if there is none.
    - `page`: the address of the local sign-in page, "" if there is none.
    - `forecast`: when the sign-in is expected to end.
    - `mailboxes`: how many mailboxes are open, for an account whose mailboxes each have their own grant; None for others.
    - `crowded`: whether another could not be opened in the last hour, because of the limit.
    - `part_of`: of such a mailbox, the user of its account: `*@domain.com`.
    """

    account: Account
    user: str
    lives: Mapping[Scopes, Life]
    sign_in: SignInFacts = NOTHING_KNOWN
    signing_in: str = ""
    page: str = ""
    forecast: Forecast | None = None
    mailboxes: int | None = None
    crowded: bool = False
    part_of: str = ""


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """The token that is held: `age`, `left` and `refresh_in` in seconds, `expires_at` and `refresh_at` as Unix times.

    `refresh_in` and `refresh_at` are None while the provider fails or a sign-in is required: then the token's age does
    not decide when cms tries again.
    """

    age: int
    left: int
    expires_at: int
    refresh_in: int | None
    refresh_at: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """The last error: `lasts` and `retry_in` in seconds, `since` and `retry_at` as Unix times, `aadsts` Entra's number.

    `reason` is any provider's word for why: that number, as AADSTS50173, or an error word; "" for none.
    `retry_in` and `retry_at` are None if a person has to sign in; `tries` is 0 if a person has to act.
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
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One token of one account, as `cms status` shows it. Also an object of its JSON.

    - `state`: a key of `STATES`.
    - `usable`: whether cms has a token that has not expired, or none was asked for (see `mailboxes`).
    - `next_move`: who acts and how, "" if there is nothing to do.
    - `warning`: what may go wrong later, "" for nothing.
    - `signed_in_at`, `signed_in_age`: when the sign-in was given (Unix time), and how many seconds ago; None for
      unknown.
    - `ends_in`, `sign_in_due`: seconds until the forecast end of the sign-in, and whether that is near.
    - `sign_in`: how the account signs in (`sign_in=`).
    - `credential_expires_at`, `credential_ends_in`, `credential_due`: when the application's certificate ends (Unix time),
      in how many seconds that is, and whether it is near.
    - `refused`: the protocols that cms does not serve the token for, although it is usable (`preflight=`).
    - `grant`: which sign-in this is. Accounts with the same one work and fail together.
    - `who`: who signs in, "" if nobody has yet: a person's address, or the application.
    - `provider`: whose mailbox this is: the name of a row of `cms_oauth.providers`.
    - `shared`: whether the fleet's database has the newest of the sign-in, None if it is kept on this host only.
    - `minted_by`: the host of the fleet that fetched the token, "" for unknown.
    - `who_checked`: False if the provider is not asked who signs in, so that nothing can be compared with `who`.
    - `mailboxes`, `max_mailboxes`: for an account for every address of a domain, if each mailbox has its own token: how many
      are open, and how many may be; else None. `crowded`: another got no token in the last hour because of that limit. The
      other fields are about the mailbox that was asked for last and has a token.
    - `part_of`: of such a mailbox, the user of its account, `*@domain.com`; "" for an account of the configuration.
    - `too_long`: why some mail programs have no room for the token, "" if all have.
    """

    user: str
    state: str
    protocols: tuple[str, ...]
    usable: bool
    token: TokenFacts | None
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
    grant: str = ""
    who: str = ""
    credential_ends_in: int | None = None
    provider: str = MICROSOFT
    shared: bool | None = None
    minted_by: str = ""
    who_checked: bool = True
    mailboxes: int | None = None
    max_mailboxes: int | None = None
    crowded: bool = False
    part_of: str = ""
    too_long: str = ""


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """The audit: its file and the journal as `places`, and how many requests have no record there.

    `counted` are those that were too many to be written, and `lost` those that could not be written, because of `trouble`
    ("" if the last one could).
    """

    places: tuple[str, ...] = ()
    counted: int = 0
    lost: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Facts about the daemon itself. `uptime` is in seconds, and `loaded` is how many seconds ago the configuration was read.

    `memory_chosen` is True if the configuration asks to keep sign-ins in memory only. `orphans` are stored sign-ins that
    belong to no account of the configuration. `troubles` say which socket or token file programs cannot use, and why;
    they are among the `warnings` too. `log_left_out` is how many lines of the log were left out, because there were too many.
    `fleet` is None if this host shares no sign-in.
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
    troubles: tuple[str, ...] = ()
    log_left_out: int = 0
    audit: AuditFacts = AuditFacts()
    fleet: FleetFacts | None = None


def describe(entries: Sequence[AccountFacts], now: float, wall: float) -> list[StatusRow]:
    """Return the rows of these accounts, in their order. `now` is CLOCK_BOOTTIME, `wall` Unix time."""
    return [row for entry in entries for row in _rows(entry, now, wall)]


def _rows(entry: AccountFacts, now: float, wall: float) -> Iterator[StatusRow]:
    # dict.fromkeys keeps the order of the protocols in the configuration.
    for scopes in dict.fromkeys(entry.account.scopes.values()):
        protocols = tuple(name for name, each in entry.account.scopes.items() if each == scopes)
        yield _row(entry, protocols, entry.lives.get(scopes) or Life(), now, wall)


def _row(entry: AccountFacts, protocols: tuple[str, ...], life: Life, now: float, wall: float) -> StatusRow:
    state, signed_in = _state(entry, life, now), entry.sign_in
    expected = entry.forecast if signed_in.given_at else None
    due = expected is not None and wall >= warned_at(expected, signed_in.given_at)
    move = _next_move(entry, state, life)
    if due and not move:
        move = fill("sign in before mail has to wait: {login}", {"login": cms("login", entry.user)})
    expires = signed_in.credential_expires
    expires_soon = expiry_warning(expires, wall)
    crowded = _CROWDED if entry.crowded else ""
    long = too_long(life.held)
    warnings = (*_protocol_warnings(entry, protocols, life), long and f"{long}: {LENGTHENS}", expires_soon, crowded)
    return StatusRow(
        user=entry.user,
        state=state,
        protocols=protocols,
        usable=usable(life, now) is not None or (entry.mailboxes == 0 and not entry.lives),
        token=_token_facts(life, now, wall),
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
        credential_expires_at=int(expires) or None,
        credential_due=bool(expires_soon),
        refused=_refused(entry, protocols, life),
        grant=entry.account.grant.key,
        who=_who(entry.account.grant, signed_in.who),
        credential_ends_in=max(0, int(expires - wall)) if expires else None,
        provider=entry.account.grant.provider,
        shared=signed_in.shared,
        minted_by=signed_in.minted_by,
        who_checked=says_who(entry.account.grant),
        mailboxes=entry.mailboxes,
        max_mailboxes=entry.account.max_mailboxes or None,
        crowded=entry.crowded,
        part_of=entry.part_of,
        too_long=long,
    )


_CROWDED = "a mailbox got no token, because max_mailboxes= allows no more of them at a time"


def _who(grant: Grant, signed_in: str) -> str:
    if not grant.unattended:
        return grant.login or signed_in
    if grant.server:
        return "its service account"
    return f"application {grant.client_id}" if grant.client_id else "the machine's own identity"


def _refused(entry: AccountFacts, protocols: tuple[str, ...], life: Life) -> tuple[str, ...]:
    if not entry.account.preflight or life.held is None:
        return ()
    return tuple(each for each in protocols if not fits(life.held, entry.account, each))


def _protocol_warnings(entry: AccountFacts, protocols: tuple[str, ...], life: Life) -> Iterator[str]:
    """Yield a warning for each protocol that the token cannot open, whether or not cms serves it."""
    if life.held is None:
        return
    scopes, lacking = entry.account.scopes, dict[str, list[str]]()
    for each in protocols:
        permission = permission_of(entry.account, each)
        if not covers(life.held, permission):
            lacking.setdefault(uncovered(permission, scopes[each], entry.user)[1], []).append(each)
    for hint, names in lacking.items():
        if not life.held.borrowed:
            yield f"the sign-in does not cover {', '.join(names)}, which the configuration asks for: {hint}"
        elif not isinstance(life.phase, NeedsSignIn):
            yield (
                f"the token that is held was requested before the configuration asked for {', '.join(names)}; cms requests"
                " a new one"
            )
    wrong = (misfit_of(entry.account, life.held.claims, each) for each in protocols)
    yield from dict.fromkeys(f"{each.message}: {each.hint}" for each in wrong if each)


def expiry_warning(expires: float, wall: float) -> str:
    """Return a warning if an application's certificate ends soon, else "". `expires` is 0 if it has none."""
    if not expires or expires - wall > EXPIRY_WARNING:
        return ""
    return f"{expiry(expires - wall)}: {RENEW_CERTIFICATE}"


RENEW_CERTIFICATE = "upload a new one to its registration, then put it in the old one's place"


def expiry(left: float) -> str:
    """Return when an application's certificate ends, as part of a sentence. `left` is in seconds."""
    return f"the application's certificate {f'ends in {duration(left)}' if left > 0 else 'has ended'}"


def _state(entry: AccountFacts, life: Life, now: float) -> str:
    if isinstance(life.phase, NeedsSignIn):
        if entry.account.grant.unattended:
            return "refused"
        return "signing-in" if entry.signing_in else "sign-in-required"
    if isinstance(life.phase, Failing):
        return "locked" if life.phase.trouble.kind == "locked" else "failing"
    if life.held is None:
        return "ok" if entry.mailboxes == 0 else "starting"
    return "ok" if usable(life, now) and life.held.refresh_at > now else "renewing"


def _token_facts(life: Life, now: float, wall: float) -> TokenFacts | None:
    held = life.held
    if held is None:
        return None
    refresh_in = max(0.0, held.refresh_at - now) if isinstance(life.phase, Settled) else None
    return TokenFacts(
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
        *(trouble.kind, trouble.message, trouble.aadsts, trouble.correlation_id),
        *(int(lasts), int(wall - lasts)),
        reason=trouble.reason,
    )
    if life.phase.next_try is None:
        return known
    retry_in = max(0.0, life.phase.next_try - now)
    if isinstance(life.phase, NeedsSignIn):
        return replace(known, retry_in=int(retry_in), retry_at=int(wall + retry_in))
    return replace(known, tries=life.phase.tries, retry_in=int(retry_in), retry_at=int(wall + retry_in))


def _next_move(entry: AccountFacts, state: str, life: Life) -> str:
    if state == "signing-in":
        return fill("finish the sign-in: {how}", {"how": entry.signing_in})
    if isinstance(life.phase, NeedsSignIn):
        move = life.phase.hint or fill("sign in: {login}", {"login": cms("login", entry.user)})
        # The page helps only with a sign-in.
        there = f"; or open {entry.page} in a browser on this machine" if entry.page and signs_in(move) else ""
        return move + there
    if isinstance(life.phase, Failing):
        return life.phase.trouble.hint or str(NOTHING_TO_DO)
    return ""


def as_json(rows: Sequence[StatusRow], daemon: Daemon | None = None) -> dict[str, Any]:
    """Return the versioned object that `cms status --json` prints.

    `severity` of an account is what it alone would make `cms status --check` exit with.
    """
    document: dict[str, Any] = {"version": JSON_VERSION}
    if daemon:
        document["daemon"] = asdict(daemon)
        document["orphans"] = document["daemon"].pop("orphans")
        if any(row.persisted is False for row in rows):
            document["daemon"]["warnings"] = [*daemon.warnings, MEMORY_WARNING]
    chosen = daemon is not None and daemon.memory_chosen
    document["accounts"] = [{**_data(row), "severity": severity(row, memory_chosen=chosen)} for row in rows]
    return document


def _data(row: StatusRow) -> dict[str, Any]:
    """Return a row as JSON data. `asdict` would copy each value: of ten thousand accounts, that is a fifth of a second."""
    data = _fields(row)
    records = {name: _fields(data[name]) for name in ("token", "problem", "forecast") if data[name]}
    return data | records


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__match_args__}


def as_systemd(rows: Sequence[StatusRow], troubles: Sequence[str] = ()) -> str:
    """Return one line for systemd's STATUS=.

    It counts the accounts in each state, says which socket or token file is in trouble, and names the first account that
    needs a person now, or else soon.
    """
    counts = Counter(row.state for row in rows)
    line = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no accounts"
    if any(row.persisted is False for row in rows):
        line += "; sign-ins in memory only"
    line = "; ".join([line, *map(printable, troubles)])
    now = [row for row in rows if row.state in _FOR_PEOPLE or (row.refused and row.state not in _FOR_CMS)]
    first = next(iter([*now, *(row for row in rows if row.sign_in_due)]), None)
    if first is None:
        return line
    return f"{line}; {printable(first.user or 'an account')}: {printable(first.next_move or first.warning)}"


# The states that last until a person acts.
_FOR_PEOPLE = ("sign-in-required", "signing-in", "refused", "locked")
# The states in which the next move is cms's own.
_FOR_CMS = ("failing", "renewing")


@dataclass(frozen=True, slots=True)
class Concern:
    """What is wrong with one account: how bad it is, why, and the next move ("" if the reason names it).

    Accounts with the same `cause` have one cause. `reason` is the cause in words, where those of two accounts may differ.
    """

    severity: int
    cause: str
    reason: str
    move: str = ""


def concerns(row: StatusRow, *, memory_chosen: bool = False) -> Iterator[Concern]:
    """Yield what is wrong with an account, the worst first: nothing if all is well.

    - Critical: it has no usable token, or cms serves its token for none of its protocols.
    - A warning: some mail programs have no room for the token; cms does not serve it for some protocols, or serves no more
      mailboxes of a domain; or it is failing or needs a person while its token is valid, is just starting, keeps its sign-in
      in memory although the configuration does not ask for that, has not yet shared it with the fleet, or will probably need
      a sign-in or a new certificate soon.
    """
    if not row.usable and row.state != "starting":
        yield _of_state(CRITICAL, row)
    elif row.state not in {"ok", "renewing"}:
        yield _of_state(WARNING, row)
    if row.refused and row.usable:
        severity = WARNING if set(row.protocols) - set(row.refused) else CRITICAL
        reason = f"no token is given for {', '.join(row.refused)}"
        yield Concern(severity, f"{reason} {row.warning}", reason, row.warning)
    if row.too_long:
        yield Concern(WARNING, "long token", row.too_long, LENGTHENS)
    if row.persisted is False and not memory_chosen:
        yield Concern(WARNING, "memory", MEMORY_WARNING)
    if row.shared is False:
        yield Concern(WARNING, "not shared", NOT_SHARED)
    if row.sign_in_due:
        soon = f"a sign-in is expected in {duration(row.ends_in or 0)}"
        yield Concern(WARNING, "sign-in due", soon, "" if row.problem else row.next_move)
    if row.crowded:
        yield Concern(WARNING, "crowded", _CROWDED, fill("set a greater max_mailboxes=, then {reload}"))
    if row.credential_due:
        certificate = f"certificate {row.credential_expires_at}"
        yield Concern(WARNING, certificate, expiry(row.credential_ends_in or 0), RENEW_CERTIFICATE)


def _of_state(severity: int, row: StatusRow) -> Concern:
    reason = row.problem.message if row.problem else STATES[row.state]
    if row.problem and row.problem.reason not in reason:
        reason = f"{row.problem.reason}: {reason}"
    said = f"{row.state}: {reason}"
    return Concern(severity, of_anyone(said, row.user), said, row.next_move)


def exit_code(rows: Sequence[StatusRow], *, memory_chosen: bool = False, troubles: Sequence[str] = ()) -> int:
    """Return what `cms status --check` exits with.

    3: there is no account. 2: something is critical, or programs cannot use a socket or a token file. 1: a warning. 0:
    otherwise.
    """
    if not rows:
        return UNKNOWN
    return CRITICAL if troubles else max(severity(row, memory_chosen=memory_chosen) for row in rows)


def severity(row: StatusRow, *, memory_chosen: bool = False) -> int:
    """Return what this account alone would make `cms status --check` exit with."""
    return max((each.severity for each in concerns(row, memory_chosen=memory_chosen)), default=OK)
