"""The core of cms: the token that it holds for one (Grant, scopes), what it does next, and what a client gets.

Theory
======

A `Life` has two independent fields:

- `held`, the token: a `Token`, or None;
- `phase`, the state of the provider calls: `Settled` (the last call worked, or none was made yet), `Failing` (the
  provider cannot be reached or does not answer well; cms tries again), or `NeedsSignIn` (the provider refused; a person
  has to act). When an application is refused, cms also tries again now and then, because it is not told when the
  cause has been fixed.

A valid token stays valid when the provider is down or the sign-in has ended: `Failing` and `NeedsSignIn` say what
happens when the token expires.

Everything that changes a `Life` is in this file, as total functions that use no clock, no I/O and no random numbers:

    plan(life, now)                  what the keeper does next
    answer(life, now, min_valid)     what a client gets now
    absorb(life, outcome, now)       the life after one provider call
    retry_sooner(life, now)          the life after an event that makes an early try worthwhile
    reconnected(life, looks, now)    the life after a suspend or a change of the network
    demand_fresh(life, budget, now)  the life after a client has shown that the held token is not good enough
    retry_now(life, now)             the life after a person has asked for a try, or has signed in
    sign_in_refused(life, refused)   the life after a person tried to sign in and was refused

`now` is always CLOCK_BOOTTIME in seconds: it continues during suspend, and setting the clock does not change it.

What is always true (tests/core/test_lifecycle.py has a test for each):

- no client gets an expired token, and a failure or a refusal never drops a valid one;
- a client waits only while a fetch is due, and no plan is in the past;
- there is a pause between two fetches; after a failure it is at least a minute and at least Retry-After;
- clients cannot ask for more than is sensible: lifetimes are capped at a fresh token's, and fetches that clients cause
  by one budget for each Grant;
- a refusal is looked at again no more often than another budget of the Grant allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from typing import NamedTuple, TypeAlias

from cms.core.budget import LOOKS, Budget
from cms.core.looks import FIRST_LOOK, LOOK_AFTER_CHANGE, UNANSWERED, Look
from cms_oauth import wire
from cms_oauth.claims import Claims, claims_of
from cms_oauth.frozen import dataclass
from cms_oauth.moves import LOOKS_AGAIN, Move, fill, mover_of, parts_of

# A refresh is due at a random point in this part of a token's life: early enough that an outage of a quarter of the
# life does no harm, and random so that many accounts do not ask at the same moment.
EARLIEST_SHARE = 0.5
LATEST_SHARE = 0.75
# With this window no minute has more than two and a half times the mean of refreshes, even if all accounts began at once.
SPREAD = EARLIEST_SHARE / LATEST_SHARE

# Exchange's high-volume endpoint refuses tokens within about 10 minutes of their expiry (sasl-xoauth2 issue 98). A
# quarter of an hour also leaves time for one failed try.
REFRESH_BEFORE_EXPIRY = 15 * 60.0

# A token this close to its expiry may expire before the mail server checks it. For tokens that live for less than 100
# seconds (only a sandbox issues them) the margin is a tenth of their life.
USABLE_MARGIN = 10.0
USABLE_MARGIN_SHARE = 0.1

# A fleet's hosts renew a token after the one that chose the moment, but no later than at this part of its life.
LATEST_RENEWAL_SHARE = 0.9

# refresh_before= may ask for an earlier refresh, but not in the first tenth of a token's life: with a margin longer than
# the life cms would fetch without end, and Entra answers loops with AADSTS50196.
EARLIEST_SHARE_ASKED = 0.1

# The shortest pause between two provider calls for one token, whatever lifetimes the provider reports.
PAUSE_AFTER_GRANT = 1.0

# Entra's longest tokens live for 28 hours. A longer life is a mistake or an attack. If cms believed it, it would not use
# the refresh token until that expires (90 days).
LONGEST_LIFE = 7 * 24 * 60 * 60.0

# When Entra throttles, it usually asks for a minute. It refuses a client that repeats a request in a loop (AADSTS50196).
SHORTEST_PAUSE = 60.0
# Beyond half an hour a longer pause saves nothing that matters and keeps mail waiting after the outage.
LONGEST_PAUSE = 30 * 60.0
# Entra asks for pauses of minutes. An hour, which is MSAL's own bound, is the most that a wrong header may cost.
LONGEST_RETRY_AFTER = 60 * 60.0

# What a request without min= asks for: enough time for a mail program to connect and log in.
DEFAULT_MIN_VALID = 60.0

# A token younger than this, or than this part of its life, counts as fresh: asking for a longer life gets no other token.
FRESH_SECONDS = 60.0
FRESH_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a provider call gave no token: for logs, status and the caller. Never holds a secret.

    `kind` is a word for programs (see `KINDS`), `message` one sentence that says what happened, `hint` the next move:
    a `cms_oauth.moves.Move` where there is a command in it or a promise that cms tries again. `aadsts` is Entra's
    number, without the prefix, `error` and `suberror` its words; `claims` is a conditional-access challenge to hand to
    the next sign-in, as Entra sent it.
    """

    kind: str
    message: str
    hint: Move | str = ""
    aadsts: int | None = None
    correlation_id: str = ""
    suberror: str = ""
    claims: str = ""
    error: str = ""

    @property
    def reason(self) -> str:
        """The provider's own word for why, to compare and to look up: Entra's number, else its most specific word."""
        return f"AADSTS{self.aadsts}" if self.aadsts else self.suberror or self.error


# What `Trouble.kind` may say, and what each means.
KINDS = {
    # Transient
    "network": "the identity provider could not be reached, or the connection broke",
    "timeout": "the identity provider did not answer in time",
    "throttled": "the identity provider asked for a pause",
    "server": "the identity provider failed (5xx and its own temporary errors)",
    "garbage": "the answer is not one of an identity provider, or its token cannot be used",
    "locked": "the vault's key cannot be read, or only after a person unlocks it",
    "storage": "the new refresh token could not be written",
    "fleet": "the database of the fleet cannot be used",
    "elsewhere": "another host of the fleet renews the token, and has not finished",
    "vault-damaged": "the vault file cannot be read: truncated, tampered with, or of another format",
    "vault-newer": "the vault file was written by a newer cms, so this one leaves it as it is",
    "worker": "the grant worker died, hung or sent an invalid message",
    "shutdown": "cms is stopping",
    # Refused
    "relay": "this host of the fleet only serves tokens, so a sign-in has to be made on another",
    "signed-in": "a sign-in is stored already, and the import was not to replace it",
    "no-sign-in": "no person has signed in for this grant yet",
    "signed-out": "the sign-in was deleted with `cms logout`",
    "refused": "the identity provider refused the grant",
    "wrong-user": "another user signed in",
    "broker": "Microsoft's broker on this desktop cannot be used",
    "application": "the identity provider refused the application, or the machine, that signs in without a person",
    "unfit": "another program's sign-in cannot be imported",
    "password": "another program's sign-in is encrypted, and its password was not given",
    "new-key": "the key that stored sign-ins are to be moved to cannot be used",
    "expired": "a sign-in was not completed in time",
    "cancelled": "a sign-in was cancelled",
    "reused": "the refresh token was refused because it had been used before",
}


# A sign-in that ended like this got no answer from the provider, so it says nothing about the next one.
UNFINISHED = frozenset({"expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the boot-clock moments that matter for it, in seconds.

    `claims` are decoded once, when the token arrives; None if it is opaque. `borrowed` is True if it was requested for
    other scopes than its life's, as before a reload: what it does not cover, nobody has refused yet.
    """

    secret: str = field(repr=False)
    issued: float
    expires: float
    refresh_at: float
    scopes: tuple[str, ...] = ()
    claims: Claims | None = field(default=None, repr=False)
    borrowed: bool = False
    # After this moment a server may refuse it. Computed once, because each request asks for it.
    usable_until: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        margin = min(USABLE_MARGIN, self.life * USABLE_MARGIN_SHARE)
        object.__setattr__(self, "usable_until", self.expires - margin)

    @property
    def life(self) -> float:
        return self.expires - self.issued

    def lasts(self, now: float, min_valid: float) -> bool:
        """True if the token lives for `min_valid` more seconds, or is so fresh that no other token would live longer."""
        left = self.expires - now
        return left >= min_valid or left >= self.life - min(FRESH_SECONDS, self.life * FRESH_SHARE)


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an earlier sign-in of the same person: when it was given and when cms noticed the end, as Unix times.

    `aadsts` is Entra's number for why, `reason` any provider's word, "" in what an earlier cms has written.
    """

    given_at: float
    ended_at: float
    aadsts: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SignInFacts:
    """What cms knows about a sign-in, apart from its tokens. Times are Unix times, 0 for unknown or none.

    - `who`: the user name that the provider reported.
    - `persisted`: False if the sign-in is in the worker's memory only, None before any worker has said.
    - `key_from`: in words, where the vault's key comes from.
    - `given_at`, `redeemed_at`: when the person signed in, and when that last gave a token.
    - `endings`: how earlier sign-ins of the same person ended.
    - `credential_expires`: when the application's certificate ends.
    - `shared`: whether the fleet's database has the newest of it, None if it is kept on this host only.
    - `minted_by`: the host of the fleet that fetched the newest token, "" for unknown.
    - `ends_at`: when the provider has said that the sign-in ends.
    """

    who: str = ""
    persisted: bool | None = True
    key_from: str = ""
    given_at: float = 0.0
    redeemed_at: float = 0.0
    endings: tuple[Ending, ...] = ()
    credential_expires: float = 0.0
    shared: bool | None = None
    minted_by: str = ""
    ends_at: float = 0.0


# Before a worker has said anything.
NOTHING_KNOWN = SignInFacts(persisted=None)


@dataclass(frozen=True, slots=True)
class Granted:
    """The provider gave a token. `issued` is the boot-clock moment at which it was asked for, `expires_in` seconds.

    If the provider also sent a new refresh token, that is already on disk. `note` is for whoever asked for this sign-in, ""
    for nothing. `doubtful` is True for a stored token if another in its place may have been refused since: it is served, and
    the provider is asked at once. `refresh_in` is in how many seconds it is to be renewed, None for a moment by chance: in a
    fleet, one host chooses it for all.
    """

    secret: str = field(repr=False)
    issued: float
    expires_in: float
    scopes: tuple[str, ...] = ()
    sign_in: SignInFacts = SignInFacts()
    note: str = ""
    doubtful: bool = False
    refresh_in: float | None = None


@dataclass(frozen=True, slots=True)
class Transient:
    """The provider gave no token this time, but did not refuse the sign-in. `retry_after` is in seconds, 0 for none.

    Of `sign_in` only `given_at`, `redeemed_at`, `endings` and `ends_at` are set.
    """

    trouble: Trouble
    retry_after: float = 0.0
    sign_in: SignInFacts = SignInFacts()


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider refused, and trying again does not help: a person has to sign in or change something.

    `again_in` is 0 if cms will notice that, as it notices a sign-in. Otherwise, as when an application gets a new
    certificate, cms tries again after this many seconds. `by_connection` is True if where or how the machine is connected
    can be the reason, which may end without a person.
    """

    trouble: Trouble
    again_in: float = 0.0
    by_connection: bool = False


Outcome: TypeAlias = Granted | Transient | Refused


@dataclass(frozen=True, slots=True)
class Settled:
    """The last provider call worked, or none was made yet."""


@dataclass(frozen=True, slots=True)
class Failing:
    """Provider calls fail, and cms tries again. Times are boot-clock seconds; `not_before` comes from Retry-After."""

    since: float
    tries: int
    last_try: float
    next_try: float
    not_before: float
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class NeedsSignIn:
    """A person has to act. `since` is the boot-clock moment of the refusal.

    `next_try` is when cms tries again: because the person may have acted, or, with a `look`, because the machine may be
    connected otherwise. It is None if cms will notice what the person does, as it notices a sign-in.
    """

    since: float
    trouble: Trouble
    next_try: float | None = None
    look: Look | None = None

    @property
    def calls_for_sign_in(self) -> bool:
        """True if a person can sign in to end this. Where an application was refused, cms finds out what they have done."""
        return self.next_try is None or self.look is not None

    @property
    def hint(self) -> Move | str:
        """The next move, and what cms does meanwhile."""
        hint = self.trouble.hint
        return Move(*parts_of(hint), "; ", LOOKS_AGAIN, mover=mover_of(hint)) if self.look and hint else hint


Phase: TypeAlias = Settled | Failing | NeedsSignIn


@dataclass(frozen=True, slots=True)
class Life:
    """The token that cms holds for one (Grant, scopes), and how its provider calls go."""

    held: Token | None = None
    phase: Phase = Settled()


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the provider now."""


@dataclass(frozen=True, slots=True)
class SleepUntil:
    """Nothing to do before this boot-clock moment."""

    when: float


@dataclass(frozen=True, slots=True)
class AwaitSignIn:
    """Nothing to do before a person has signed in."""


Plan: TypeAlias = Fetch | SleepUntil | AwaitSignIn


class Need(NamedTuple):
    """What a client needs from a token. A tuple, because each request makes one.

    - `permission`: what the token must grant for the client's protocol, such as SMTP.Send; "" for nothing special.
    - `min_valid`: how many seconds it must still live, None for the default.
    - `rejected`: the hash of a token that a mail server refused, "" for none.
    """

    permission: str = ""
    min_valid: int | None = None
    rejected: str = ""


def token_hash(secret: str) -> str:
    """Return the hash that names a token without telling it: `rejected=` in the protocol."""
    return hashlib.sha256(secret.encode()).hexdigest()[: wire.HASH_DIGITS]


@dataclass(frozen=True, slots=True)
class Wait:
    """A fetch is due or under way: ask again when the life has changed."""


@dataclass(frozen=True, slots=True)
class Deny:
    """No usable token, and no fetch is due. `code` is a code of the wire protocol, `retry_after` in seconds."""

    code: str
    message: str
    hint: Move | str
    retry_after: float = 0.0


Answer: TypeAlias = Token | Wait | Deny


def plan(life: Life, now: float) -> Plan:
    """Return what the keeper does next. A `SleepUntil` is always later than `now`."""
    when = now
    if isinstance(life.phase, NeedsSignIn):
        if life.phase.next_try is None:
            return AwaitSignIn()
        when = life.phase.next_try
    elif isinstance(life.phase, Failing):
        when = life.phase.next_try
    elif life.held:
        when = life.held.refresh_at
    return SleepUntil(when) if when > now else Fetch()


def answer(life: Life, now: float, min_valid: float = DEFAULT_MIN_VALID, *, rejected: bool = False) -> Answer:
    """Return what a client gets that wants a token with `min_valid` more seconds of life.

    If no fetch is due, a usable token that is too short-lived, or that a mail server `rejected`, is better than none.
    """
    held = usable(life, now)
    if held and not rejected and held.lasts(now, min_valid):
        return held
    if isinstance(plan(life, now), Fetch):
        return Wait()
    return held or denial(life, now)


def usable(life: Life, now: float) -> Token | None:
    """Return the held token if there is enough time left to log in with it, else None."""
    return life.held if life.held and now < life.held.usable_until else None


def denial(life: Life, now: float) -> Deny:
    """Return why there is no usable token, and the next move."""
    if isinstance(life.phase, NeedsSignIn):
        code = "sign-in-required" if life.phase.calls_for_sign_in else "unavailable"
        next_try = now if life.phase.next_try is None else life.phase.next_try
        return Deny(code, life.phase.trouble.message, life.phase.hint, max(0.0, next_try - now))
    if isinstance(life.phase, Failing):
        trouble = life.phase.trouble
        code = "locked" if trouble.kind == "locked" else "unavailable"
        return Deny(code, trouble.message, trouble.hint, max(0.0, life.phase.next_try - now))
    return Deny("unavailable", "the token is being renewed", "try again in a few seconds", PAUSE_AFTER_GRANT)


def absorb(
    life: Life,
    outcome: Outcome,
    now: float,
    jitter: float,
    refresh_before: float | None = None,
    *,
    looks: Budget | None = None,
) -> Life:
    """Return the life after one provider call.

    `jitter` is a random number in [0, 1) that spreads refreshes and retries; `refresh_before` is the account's own margin
    before expiry, in seconds; `looks` are those of the Grant so far. A token that expired between the provider's answer and
    now, as in a suspend, is not the provider's fault: cms fetches another at once.
    """
    looks = looks or LOOKS
    if isinstance(outcome, Refused):
        return Life(life.held, _refused(life.phase, outcome, now, jitter, looks))
    if isinstance(outcome, Transient):
        if isinstance(life.phase, NeedsSignIn) and life.phase.look:
            next_try, look = _unseen(life.phase.look, outcome, now, jitter)
            return Life(life.held, replace(life.phase, next_try=looks.free_at(next_try), look=look))
        return _failed(life, outcome, now, jitter)
    if outcome.expires_in > 0:
        return Life(_token(outcome, now, jitter, refresh_before), Settled())
    return _failed(life, Transient(_STILLBORN), now, jitter)


def _refused(phase: Phase, outcome: Refused, now: float, jitter: float, looks: Budget) -> NeedsSignIn:
    before = phase if isinstance(phase, NeedsSignIn) else None
    refused = NeedsSignIn(before.since if before else now, outcome.trouble)
    if outcome.again_in > 0:
        # `jitter` spreads it, as it does other retries.
        pause = max(SHORTEST_PAUSE, min(outcome.again_in, LONGEST_PAUSE) * (0.5 + jitter / 2))
        return replace(refused, next_try=now + pause)
    if not outcome.by_connection:
        return refused
    look = before.look.refused() if before and before.look else Look()
    return replace(refused, next_try=looks.free_at(now + look.pause), look=look)


def _unseen(look: Look, outcome: Transient, now: float, jitter: float) -> tuple[float, Look]:
    """Return the next try, and how, after a look that has shown nothing: what the provider said last still counts."""
    asked_for = min(outcome.retry_after, LONGEST_RETRY_AFTER)
    if outcome.trouble.kind not in UNANSWERED:
        return now + max(look.pause, FIRST_LOOK, asked_for), look
    look = look.missed()
    return now + max(pause(look.unanswered, jitter), asked_for), look


_STILLBORN = Trouble(
    "garbage",
    "the identity provider gave a token that had already expired",
    fill("{nothing_to_do}"),
)


def _token(granted: Granted, now: float, jitter: float, refresh_before: float | None) -> Token:
    # In this order of arguments, NaN counts as now.
    issued = min(now, granted.issued)
    life = min(granted.expires_in, LONGEST_LIFE)
    due = issued + renewal_age(life, jitter, refresh_before, now - issued)
    if granted.refresh_in is not None:
        # Not so late that the token would expire unrenewed.
        due = min(now + granted.refresh_in, issued + life * LATEST_RENEWAL_SHARE)
    refresh_at = max(now + PAUSE_AFTER_GRANT, due)
    return Token(granted.secret, issued, issued + life, refresh_at, granted.scopes, claims_of(granted.secret))


def renewal_age(life: float, jitter: float, refresh_before: float | None = None, age: float = 0.0) -> float:
    """Return the age, in seconds, at which a token with this life is renewed. It has come at `age`."""
    earliest, latest = life * EARLIEST_SHARE, life * LATEST_SHARE
    if refresh_before is not None:
        latest = min(latest, max(life - refresh_before, life * EARLIEST_SHARE_ASKED / SPREAD))
    elif life - REFRESH_BEFORE_EXPIRY >= earliest:
        latest = min(latest, life - REFRESH_BEFORE_EXPIRY)
    # However early the latest moment is, the window is as wide in proportion, so that accounts do not ask together.
    # A token that was stored and comes later is renewed within what is left of the window: a restart is no rush.
    earliest = max(min(earliest, latest * SPREAD), min(age, latest))
    return earliest + (latest - earliest) * jitter


def _failed(life: Life, outcome: Transient, now: float, jitter: float) -> Life:
    if isinstance(life.phase, NeedsSignIn) and life.phase.next_try is None:
        return life
    before = life.phase if isinstance(life.phase, Failing) else None
    tries = before.tries + 1 if before else 1
    not_before = now + max(0.0, min(outcome.retry_after, LONGEST_RETRY_AFTER))
    next_try = max(now + pause(tries, jitter), not_before)
    since = before.since if before else now
    return Life(life.held, Failing(since, tries, now, next_try, not_before, outcome.trouble))


def pause(tries: int, jitter: float) -> float:
    """Return the seconds to wait after this many failures in a row: random, up to a limit that doubles each time."""
    # 2**5 minutes is longer than the longest pause, so the exponent need not grow further.
    ceiling = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(tries, 6))
    return SHORTEST_PAUSE + (ceiling - SHORTEST_PAUSE) * jitter


def retry_sooner(life: Life, now: float) -> Life:
    """Bring the next try forward, as after a client's request, a resume or a network change.

    Only if no usable token of its own is held, and never to earlier than 60 s after the last try or to before Retry-After.
    Returns the same object if nothing changes.
    """
    held = usable(life, now)
    if not isinstance(life.phase, Failing) or (held and not held.borrowed):
        return life
    return _sooner(life, life.phase, life.phase.last_try + SHORTEST_PAUSE)


def reconnected(life: Life, looks: Budget, now: float) -> Life:
    """Return the life after a suspend or a change of the network: a failed fetch, or a refusal, may end differently now.

    Returns the same object if nothing changes.
    """
    phase, soon = life.phase, looks.free_at(now + LOOK_AFTER_CHANGE)
    if not isinstance(phase, NeedsSignIn) or not phase.look or phase.next_try is None:
        return retry_sooner(life, now)
    if soon >= phase.next_try:
        return life
    return Life(life.held, replace(phase, next_try=soon, look=phase.look.hurried()))


def is_looked_at(lives: Iterable[Life]) -> bool:
    """Return whether one of them was refused because of where or how this machine is connected."""
    return any(isinstance(each.phase, NeedsSignIn) and each.phase.look for each in lives)


def postponed(life: Life, looks: Budget, now: float) -> Life:
    """Return the life that was to be looked at now, after the budget has been used up by another one of its Grant.

    Returns the same object if the budget allows the look.
    """
    if not isinstance(life.phase, NeedsSignIn) or not life.phase.look or looks.allows(now):
        return life
    return Life(life.held, replace(life.phase, next_try=looks.free_at(now)))


def retry_now(life: Life, now: float) -> Life:
    """Make a fetch due now, as after `cms refresh` or a sign-in, even after a refusal.

    The person who asks may have fixed the cause, so only Retry-After and `PAUSE_AFTER_GRANT` delay it.
    """
    if isinstance(life.phase, Failing):
        return _sooner(life, life.phase, max(now, life.phase.last_try + PAUSE_AFTER_GRANT))
    return Life(_due_now(life.held, now) if life.held else None, Settled())


def sign_in_refused(life: Life, refused: Refused) -> Life:
    """Return the life after a person tried to sign in and was refused.

    If the life waits for a sign-in, its trouble becomes the new refusal; nothing else changes. A claims challenge stays
    until a sign-in has answered it. Returns the same object if nothing changes.
    """
    if not isinstance(life.phase, NeedsSignIn) or refused.trouble.kind in UNFINISHED:
        return life
    trouble = replace(refused.trouble, claims=refused.trouble.claims or life.phase.trouble.claims)
    return replace(life, phase=replace(life.phase, trouble=trouble))


def _sooner(life: Life, failing: Failing, when: float) -> Life:
    when = max(when, failing.not_before)
    return Life(life.held, replace(failing, next_try=when)) if when < failing.next_try else life


def _due_now(held: Token, now: float) -> Token:
    return replace(held, refresh_at=min(held.refresh_at, max(now, held.issued + PAUSE_AFTER_GRANT)))


def demand_fresh(
    life: Life, budget: Budget, now: float, *, min_valid: float = 0.0, rejected: bool = False
) -> tuple[Life, Budget, bool]:
    """Make a fetch due because the held token is not good enough, if the budget allows it.

    `rejected` says that a mail server refused the held token; `min_valid` is the life, in seconds, that a client asked
    for. Returns the life, the budget, and True if the demand was declined: the budget is used up, or the token has only
    just come.
    """
    held = usable(life, now)
    if held is None or not isinstance(life.phase, Settled) or held.refresh_at <= now:
        return life, budget, False
    if held.lasts(now, min_valid) and not rejected:
        return life, budget, False
    if not budget.allows(now) or now < held.issued + PAUSE_AFTER_GRANT:
        return life, budget, True
    return Life(_due_now(held, now), life.phase), budget.spend(now), False


def soonest(lives: Sequence[Life], now: float) -> Plan:
    """Return the most urgent plan of several lives that share a Grant."""
    plans = [plan(life, now) for life in lives]
    if any(isinstance(each, Fetch) for each in plans):
        return Fetch()
    sleeps = [each.when for each in plans if isinstance(each, SleepUntil)]
    return SleepUntil(min(sleeps)) if sleeps else AwaitSignIn()
