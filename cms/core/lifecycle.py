"""The heart: what cms holds for one (Grant, scopes), what it does next, and what a client is told.

Theory
======

Two facts about a token are independent of each other, so they are two fields and not one state:

- *what we hold*: a `Token`, or nothing;
- *what we are trying*: `Settled` (the last call worked, or none was made yet), `Failing` (the provider could not be
  asked or did not answer well; it is tried again), or `NeedsSignIn` (the provider refused; only a person helps, and
  where nobody would hear of that, as with an application, it is looked at again now and then).

A provider that is down does not take a valid token away, and a sign-in that has ended does not either: `Failing` and
`NeedsSignIn` say what happens when the token runs out, not that it has.

Everything that changes a `Life` is in this file, as total functions without a clock, an I/O call or a source of
randomness of their own:

    plan(life, now)               what the keeper does next
    answer(life, now, min_valid)  what a client is told now
    absorb(life, outcome, now)    the life after one provider call
    retry_sooner(life, now)              the life after something that makes an early try worthwhile
    demand_fresh(life, budget, now)      the life after a client has shown that the held token will not do
    retry_now(life, now)             the life after a person has asked for a try, or has signed in
    sign_in_refused(life, refused)      the life after a person has tried to sign in and was refused

`now` is CLOCK_BOOTTIME in seconds, everywhere: it goes on in suspend and no clock step moves it.

What holds at every moment (tests/test_lifecycle.py has a test for each):

- an expired token is never answered, and a failure or a refusal never drops a valid one;
- nobody waits unless a fetch is due, and no plan lies in the past;
- no fetch follows a fetch without a pause; after a failure that pause is a minute at least, and Retry-After at least;
- what clients may ask for is bounded: lives by what a fresh token has, mints by one budget for each Grant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cms_oauth.claims import Claims, claims_of
from cms_oauth.moves import Move

# A refresh is due at a random point of this part of a token's life: early enough that an outage of a quarter of the
# life passes unnoticed, spread so that many accounts do not ask at one moment.
EARLIEST_SHARE = 0.5
LATEST_SHARE = 0.75

# Exchange's high-volume endpoint refuses tokens within about 10 minutes of their expiry (sasl-xoauth2 issue 98); a
# quarter of an hour leaves room for one failed try as well.
REFRESH_BEFORE_EXPIRY = 15 * 60.0

# A token this close to its end may fail between our answer and the server's check of it. Tokens that live for less
# than 100 seconds (only a sandbox gives such) lose a tenth of their life instead.
USABLE_MARGIN = 10.0
USABLE_MARGIN_SHARE = 0.1

# The owner of an account may ask for its refresh earlier than that, but never in the first tenth of a token's life: a
# margin above the life would have cms fetch without end, and Entra answers loops with AADSTS50196.
EARLIEST_SHARE_ASKED = 0.1

# No two provider calls for one token without this pause, whatever the provider says of lifetimes.
PAUSE_AFTER_GRANT = 1.0

# Entra's longest tokens live for 28 hours. A longer life is a mistake or an attack, and believing it would keep a
# grant unused until it dies of that (90 days); an infinite one would never be renewed.
LONGEST_LIFE = 7 * 24 * 60 * 60.0

# MSAL replays a failed answer for 60 s without asking Entra again, so trying sooner cannot succeed.
SHORTEST_PAUSE = 60.0
# Beyond half an hour a longer pause saves nothing that matters and keeps mail waiting after the outage.
LONGEST_PAUSE = 30 * 60.0
# Entra asks for pauses of minutes. An hour, which is MSAL's own bound, is the most that a wrong header may cost.
LONGEST_RETRY_AFTER = 60 * 60.0

# What a request without min= asks for: time enough for a mail tool to connect and authenticate.
DEFAULT_MIN_VALID = 60.0

# A token younger than this, or than this part of its life, is as good as a fresh one: more is not to be had by asking.
FRESH_SECONDS = 60.0
FRESH_SHARE = 0.1

# Tokens minted because a client asked for more than the plan would give: Entra takes repeated redemptions for a loop.
MINT_INTERVAL = 5 * 60.0
MINTS_PER_DAY = 6
DAY = 24 * 60 * 60.0


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


# What `Trouble.kind` may say, and what each means.
KINDS = {
    # Transient
    "network": "the identity provider could not be reached, or the connection broke",
    "timeout": "the identity provider did not answer in time",
    "throttled": "the identity provider asked for a pause",
    "server": "the identity provider failed (5xx and its own temporary errors)",
    "garbage": "the answer was not one that an identity provider gives",
    "locked": "the vault's key cannot be had without a person, or at all",
    "storage": "the rotated sign-in could not be written",
    "vault-damaged": "the vault file cannot be read: truncated, tampered with, or of another format",
    "worker": "the grant worker died, hung or babbled",
    "shutdown": "cms is stopping",
    # Refused
    "no-sign-in": "nobody has signed in for this grant yet",
    "signed-out": "the sign-in was given up with `cms logout`",
    "refused": "the identity provider refused the grant",
    "wrong-user": "somebody else signed in",
    "broker": "Microsoft's broker on this desktop cannot be asked",
    "application": "the identity provider refused the application, or the machine, that signs in without a person",
    "unfit": "another program's sign-in cannot be taken over",
    "password": "another program's sign-in is encrypted with a password that nobody has said",
    "expired": "a sign-in was not completed in time",
    "cancelled": "a sign-in was given up",
    "reused": "the refresh token was refused because it had been used before",
}


# What a sign-in ends with that came to no answer: it says nothing of what stands in the way of the next one.
UNFINISHED = frozenset({"expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the boot-clock moments that matter for it, in seconds.

    `claims` is what it says of itself, looked at once when it comes; None where it is opaque.
    """

    secret: str = field(repr=False)
    issued: float
    expires: float
    refresh_at: float
    scopes: tuple[str, ...] = ()
    claims: Claims | None = field(default=None, repr=False)
    # A server would refuse it later than this. Worked out once: each request asks for it.
    usable_until: float = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        margin = min(USABLE_MARGIN, self.life * USABLE_MARGIN_SHARE)
        object.__setattr__(self, "usable_until", self.expires - margin)

    @property
    def life(self) -> float:
        return self.expires - self.issued

    def lasts(self, now: float, min_valid: float) -> bool:
        """Whether a client that wants `min_valid` seconds of life has them. A demand is capped at a fresh token's life."""
        life = self.expires - self.issued
        fresh = life - min(FRESH_SECONDS, life * FRESH_SHARE)
        return self.expires - now >= min(min_valid, fresh)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an earlier sign-in of the same person ended: when it was given and when that was noticed, as Unix times.

    `aadsts` is Entra's number for why.
    """

    given_at: float
    ended_at: float
    aadsts: int | None = None


@dataclass(frozen=True, slots=True)
class SignInFacts:
    """What is known of a sign-in beside its tokens. Times are Unix times, 0 for unknown or none.

    - `who`: the user name that the provider reported.
    - `persisted`: False if the sign-in is in the worker's memory only, None before any worker has said.
    - `key_from`: in words, where the vault's key comes from.
    - `given_at`, `redeemed_at`: when the person signed in, and when that last gave a token.
    - `endings`: how earlier sign-ins of the same person ended.
    - `credential_expires`: when the application's certificate ends.
    """

    who: str = ""
    persisted: bool | None = True
    key_from: str = ""
    given_at: float = 0.0
    redeemed_at: float = 0.0
    endings: tuple[Ending, ...] = ()
    credential_expires: float = 0.0


# Before a worker has said anything.
NOTHING_KNOWN = SignInFacts(persisted=None)


@dataclass(frozen=True, slots=True)
class Granted:
    """The provider gave a token. `issued` is the boot-clock moment at which its answer arrived, `expires_in` seconds.

    By the time this is seen, a rotated refresh token is on disk.
    """

    secret: str = field(repr=False)
    issued: float
    expires_in: float
    scopes: tuple[str, ...] = ()
    sign_in: SignInFacts = SignInFacts()


@dataclass(frozen=True, slots=True)
class Transient:
    """No token this time; the sign-in may be as good as ever. `retry_after` is in seconds, 0 when nobody named one.

    `sign_in` has what is known without a token: `given_at`, `redeemed_at` and `endings`.
    """

    trouble: Trouble
    retry_after: float = 0.0
    sign_in: SignInFacts = SignInFacts()


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider refused and trying again cannot help: a person has to sign in or change something.

    `again_in` is 0 where cms hears of that change, as of a sign-in. Where it does not, as when an application is given
    a new certificate, it is the seconds after which the change may have been made.
    """

    trouble: Trouble
    again_in: float = 0.0


Outcome: TypeAlias = Granted | Transient | Refused


@dataclass(frozen=True, slots=True)
class Settled:
    """The last provider call worked, or none was made yet."""


@dataclass(frozen=True, slots=True)
class Failing:
    """Provider calls fail and are tried again. All times are boot-clock seconds; `not_before` honours Retry-After."""

    since: float
    tries: int
    last_try: float
    next_try: float
    not_before: float
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class NeedsSignIn:
    """Only a person helps. `since` is the boot-clock moment of the refusal.

    `next_try` is when to look whether one has, None where that is heard of: a sign-in is, and what was mended for an
    application elsewhere is not.
    """

    since: float
    trouble: Trouble
    next_try: float | None = None


Phase: TypeAlias = Settled | Failing | NeedsSignIn


@dataclass(frozen=True, slots=True)
class Life:
    """All that the broker knows of one (Grant, scopes)."""

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


@dataclass(frozen=True, slots=True)
class Need:
    """What a client needs of a token.

    `permission` is what its protocol wants the token to grant, such as SMTP.Send, "" for nothing in particular;
    `min_valid` the life in seconds that it asked for, None for the usual; `rejected` the hash of a token that a mail
    server refused, "" for none.
    """

    permission: str = ""
    min_valid: int | None = None
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """A fetch is due or under way: ask again when the life has changed."""


@dataclass(frozen=True, slots=True)
class Deny:
    """No usable token, and none coming at once. `code` is a code of the wire protocol, `retry_after` in seconds."""

    code: str
    message: str
    hint: Move | str
    retry_after: float = 0.0


Answer: TypeAlias = Token | Wait | Deny


def plan(life: Life, now: float) -> Plan:
    """What the keeper does next. A `SleepUntil` is always later than `now`."""
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
    """What a client that wants `min_valid` seconds of life is told now.

    A usable token that falls short, or that a mail server `rejected`, is answered all the same once no fetch is due:
    better that than none.
    """
    held = usable(life, now)
    if held and not rejected and held.lasts(now, min_valid):
        return held
    if isinstance(plan(life, now), Fetch):
        return Wait()
    return held or denial(life, now)


def usable(life: Life, now: float) -> Token | None:
    """Return the held token if a server would still accept it by the time it gets there."""
    return life.held if life.held and now < life.held.usable_until else None


def denial(life: Life, now: float) -> Deny:
    """Why there is no usable token, and whose move it is."""
    if isinstance(life.phase, NeedsSignIn):
        trouble, next_try = life.phase.trouble, life.phase.next_try
        if next_try is None:
            return Deny("sign-in-required", trouble.message, trouble.hint)
        return Deny("unavailable", trouble.message, trouble.hint, max(0.0, next_try - now))
    if isinstance(life.phase, Failing):
        trouble = life.phase.trouble
        code = "locked" if trouble.kind == "locked" else "unavailable"
        return Deny(code, trouble.message, trouble.hint, max(0.0, life.phase.next_try - now))
    return Deny("unavailable", "the token is being renewed", "try again in a few seconds", PAUSE_AFTER_GRANT)


def absorb(life: Life, outcome: Outcome, now: float, jitter: float, refresh_before: float | None = None) -> Life:
    """Return the life after one provider call.

    `jitter` is a random number in [0, 1) that spreads refreshes and retries; `refresh_before` is an account's own margin
    before expiry, in seconds. A token that expired between the provider's answer and now (a suspend does that) is no
    fault of the provider's: it is fetched again at once.
    """
    if isinstance(outcome, Refused):
        since = life.phase.since if isinstance(life.phase, NeedsSignIn) else now
        return Life(life.held, NeedsSignIn(since, outcome.trouble, _again(outcome, now, jitter)))
    if isinstance(outcome, Transient):
        return _failed(life, outcome, now, jitter)
    if outcome.expires_in > 0:
        return Life(_token(outcome, now, jitter, refresh_before), Settled())
    return _failed(life, Transient(_STILLBORN), now, jitter)


def _again(outcome: Refused, now: float, jitter: float) -> float | None:
    """Return when to try in spite of a refusal, None for never: spread like everything that is tried again."""
    if outcome.again_in <= 0:
        return None
    return now + max(SHORTEST_PAUSE, min(outcome.again_in, LONGEST_PAUSE) * (0.5 + jitter / 2))


_STILLBORN = Trouble(
    "garbage",
    "the identity provider gave a token without a life",
    "nobody has to do anything: it is tried again by itself",
)


def _token(granted: Granted, now: float, jitter: float, refresh_before: float | None) -> Token:
    # In this order a moment that is no number counts as now.
    issued = min(now, granted.issued)
    life = min(granted.expires_in, LONGEST_LIFE)
    refresh_at = max(issued + _due(life, jitter, refresh_before), now + PAUSE_AFTER_GRANT)
    return Token(granted.secret, issued, issued + life, refresh_at, granted.scopes, claims_of(granted.secret))


def _due(life: float, jitter: float, refresh_before: float | None) -> float:
    """Return the age at which a token of this life is renewed."""
    earliest, latest = life * EARLIEST_SHARE, life * LATEST_SHARE
    if refresh_before is not None:
        latest = min(latest, max(life - refresh_before, life * EARLIEST_SHARE_ASKED))
        earliest = min(earliest, latest)
    elif life - REFRESH_BEFORE_EXPIRY >= earliest:
        latest = min(latest, life - REFRESH_BEFORE_EXPIRY)
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
    """Seconds to wait after so many failures in a row: uniform between the shortest pause and a doubling ceiling."""
    # 2**5 minutes is past the longest pause; the exponent stays small however long an outage lasts.
    ceiling = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(tries, 6))
    return SHORTEST_PAUSE + (ceiling - SHORTEST_PAUSE) * jitter


def retry_sooner(life: Life, now: float) -> Life:
    """Bring the next try forward, as after a client's request, a resume or a network change.

    Only when no usable token is held; to 60 s after the last try at the earliest, never before Retry-After. Returns
    the very same life where nothing changes.
    """
    if not isinstance(life.phase, Failing) or usable(life, now):
        return life
    return _sooner(life, life.phase, life.phase.last_try + SHORTEST_PAUSE)


def retry_now(life: Life, now: float) -> Life:
    """Make a fetch due now, as after `cms refresh` or a sign-in: a refusal too is tried once more.

    A person who asks may have mended what failed, so only Retry-After and the shortest pause of all bound this.
    """
    if isinstance(life.phase, Failing):
        return _sooner(life, life.phase, max(now, life.phase.last_try + PAUSE_AFTER_GRANT))
    return Life(_due_now(life.held, now) if life.held else None, Settled())


def sign_in_refused(life: Life, refused: Refused) -> Life:
    """Return the life after a person has tried to sign in and was refused.

    Where that is what it waits for, it is now known what stands in the way; nothing else changes. A challenge that
    nobody has met yet stays for the next sign-in. Returns the very same life where nothing changes.
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


@dataclass(frozen=True, slots=True)
class Budget:
    """The boot-clock moments of recent mints that clients asked for, one budget for each Grant."""

    mints: tuple[float, ...] = ()

    def allows(self, now: float) -> bool:
        recent = self._within(now)
        return len(recent) < MINTS_PER_DAY and (not recent or now - recent[-1] >= MINT_INTERVAL)

    def spend(self, now: float) -> Budget:
        return Budget((*self._within(now), now))

    def _within(self, now: float) -> tuple[float, ...]:
        return tuple(when for when in self.mints if now - when < DAY)


def demand_fresh(
    life: Life, budget: Budget, now: float, *, min_valid: float = 0.0, rejected: bool = False
) -> tuple[Life, Budget, bool]:
    """Make a fetch due because the held token will not do, within the budget.

    `rejected` says that a mail server refused the very token that is held; `min_valid` is the life, in seconds, that a
    client asked for by name. Returns the life, the budget and whether the demand was turned down, for the budget or
    because the token came only just now.
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
