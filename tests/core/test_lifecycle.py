"""The heart's promises: each by itself, and all of them together over random walks through fetches, faults and time.

`Walk` holds a life as a keeper and its clients would, and beside it a model that knows only what happened: when each
answer came, how long each token really lives, what pause was asked for. Every action checks the life against that
model. Hypothesis looks for short walks that break a promise, and keeps looking for shorter ones; seeded walks cover
the distance, through worlds of tiny and of day-long tokens, lost hours and absurd headers.
"""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cms.core import lifecycle
from cms.core.budget import DAY, MINT_INTERVAL, MINTS_PER_DAY, Budget
from cms.core.lifecycle import (
    DEFAULT_MIN_VALID,
    EARLIEST_SHARE_ASKED,
    FRESH_SECONDS,
    FRESH_SHARE,
    KINDS,
    LATEST_RENEWAL_SHARE,
    LONGEST_LIFE,
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    PAUSE_AFTER_GRANT,
    REFRESH_BEFORE_EXPIRY,
    SHORTEST_PAUSE,
    AwaitSignIn,
    Deny,
    Failing,
    Fetch,
    Granted,
    Life,
    NeedsSignIn,
    Outcome,
    Refused,
    Settled,
    SleepUntil,
    Token,
    Transient,
    Trouble,
    Wait,
    absorb,
    answer,
    demand_fresh,
    denial,
    pause,
    plan,
    retry_now,
    retry_sooner,
    sign_in_refused,
    soonest,
    usable,
)

HOUR = 3600.0

# All worlds together. CI walks far enough for rare meetings of events; a desk wants its answer at once.
WALK_STEPS = 120_000 if os.environ.get("CI") else 20_000

# Boot-clock moments are sums of floats that reach months: a microsecond is nothing, and well above their rounding.
ROUNDING = 1e-6

DOWN = Trouble("server", "the provider answers 503", "nothing to do")
REVOKED = Trouble("refused", "the grant was revoked", "cms login", aadsts=50173)
LOCKED = Trouble("locked", "the keyring is locked", "unlock it")
BLOCKED = Trouble("refused", "a policy blocks this sign-in", "the administrator", aadsts=53003)


def fresh(expires_in: float = HOUR, *, now: float = 0.0, jitter: float = 0.5, secret: str = "secret") -> Life:
    """Return a life whose token came at `now`."""
    return absorb(Life(), Granted(secret, now, expires_in), now, jitter)


def failing(life: Life, now: float, *, retry_after: float = 0.0, jitter: float = 0.0, trouble: Trouble = DOWN) -> Life:
    """Return the life after one failure at `now`."""
    return absorb(life, Transient(trouble, retry_after), now, jitter)


def token_of(life: Life) -> Token:
    """Return the token that this life holds."""
    assert life.held is not None
    return life.held


def phase_of(life: Life) -> Failing:
    """Return the phase of a life that fails."""
    assert isinstance(life.phase, Failing)
    return life.phase


@dataclass
class Walk:
    """A life, and a model of what the world has done to it."""

    now: float = 1000.0
    refresh_before: float | None = None
    life: Life = field(default_factory=Life)
    budget: Budget = field(default_factory=Budget)
    # The model: real expiry by secret, no fetch before this moment, Retry-After until then, mints that clients got.
    expiry: dict[str, float] = field(default_factory=dict)
    latest: str = ""
    earliest_fetch: float = -math.inf
    retry_after: float = -math.inf
    last_failure: float = -math.inf
    refused: bool = False
    mints: list[float] = field(default_factory=list)

    def passes(self, seconds: float) -> None:
        """Time passes, by work, by sleep or by suspend."""
        self.now += seconds
        self.check()

    def fetches(self, outcome: Outcome, jitter: float, *, takes: float, late: float) -> None:
        """The keeper does as planned. The answer `takes` so long to come, and reaches the daemon `late`."""
        planned = plan(self.life, self.now)
        if not isinstance(planned, Fetch):
            return
        assert not self.refused
        assert self.now >= self.earliest_fetch - ROUNDING, "no fetch follows a fetch without a pause"
        assert self.now >= self.retry_after - ROUNDING, "Retry-After is honoured"
        arrived = self.now + takes
        self.now = arrived + late
        held = usable(self.life, self.now)
        if isinstance(outcome, Granted):
            outcome = replace(outcome, secret=f"{outcome.secret}{len(self.expiry)}", issued=arrived)
        self.life = absorb(self.life, outcome, self.now, jitter, self.refresh_before)
        self.remember(outcome, arrived)
        if not self.is_granted(outcome):
            assert held == usable(self.life, self.now), "a failure never drops a valid token"
        assert not isinstance(plan(self.life, self.now), Fetch), "no fetch follows a fetch without a pause"
        self.check()

    @staticmethod
    def is_granted(outcome: Outcome) -> bool:
        return isinstance(outcome, Granted) and outcome.expires_in > 0

    def remember(self, outcome: Outcome, arrived: float) -> None:
        """Take one provider answer into the model."""
        self.refused = isinstance(outcome, Refused) and not outcome.again_in
        if isinstance(outcome, Refused):
            self.earliest_fetch = self.now + SHORTEST_PAUSE
        elif isinstance(outcome, Granted) and self.is_granted(outcome):
            self.latest = outcome.secret
            self.expiry[outcome.secret] = arrived + outcome.expires_in
            self.earliest_fetch = arrived + PAUSE_AFTER_GRANT
        else:
            asked = outcome.retry_after if isinstance(outcome, Transient) else 0.0
            self.retry_after = self.now + min(asked, LONGEST_RETRY_AFTER)
            self.last_failure = self.now
            self.earliest_fetch = self.now + SHORTEST_PAUSE

    def asks(self, min_valid: float, *, rejected: bool) -> None:
        """A client asks, as the keeper hears it: retry_sooner, demand_fresh, answer."""
        before, had = self.life, usable(self.life, self.now)
        self.life = retry_sooner(self.life, self.now)
        assert self.life == before or had is None, "nobody hurries while a usable token is held"
        pressed, self.budget, over = demand_fresh(
            self.life, self.budget, self.now, min_valid=min_valid, rejected=rejected
        )
        if pressed != self.life:
            assert not over
            self.mints.append(self.now)
        self.life = pressed
        self.heard(answer(self.life, self.now, min_valid, rejected=rejected))
        self.check()

    def heard(self, reply: Token | Wait | Deny) -> None:
        """Check one answer against what really happened."""
        held = self.latest and self.now < self.expiry[self.latest]
        if isinstance(reply, Token):
            assert self.now < self.expiry[reply.secret], "an expired token is never answered"
            assert reply.secret == self.latest
        elif isinstance(reply, Wait):
            assert isinstance(plan(self.life, self.now), Fetch), "nobody waits unless a fetch is due"
        else:
            assert not held or usable(self.life, self.now) is None, "nobody is denied a usable token"

    def retries_sooner(self) -> None:
        """A resume or a network change."""
        self.life = retry_sooner(self.life, self.now)
        self.check()

    def retries_now(self) -> None:
        """`cms refresh`: a person may do that at any time, and Retry-After still holds."""
        if isinstance(self.life.phase, Failing):
            self.earliest_fetch = min(self.earliest_fetch, max(self.retry_after, self.last_failure + PAUSE_AFTER_GRANT))
        if isinstance(self.life.phase, NeedsSignIn):
            self.earliest_fetch = -math.inf
        self.refused = False
        self.life = retry_now(self.life, self.now)
        self.check()

    def is_turned_down(self, kind: str) -> None:
        """A person tries to sign in, and is refused or gives up."""
        before = plan(self.life, self.now), self.life.held, type(self.life.phase)
        self.life = sign_in_refused(self.life, Refused(replace(BLOCKED, kind=kind)))
        assert before == (plan(self.life, self.now), self.life.held, type(self.life.phase))
        self.check()

    def check(self) -> None:
        """Check what holds at every moment, whatever was done last."""
        planned = plan(self.life, self.now)
        if isinstance(planned, SleepUntil):
            assert planned.when > self.now, "no plan lies in the past"
            assert planned.when - self.now <= LONGEST_LIFE, "no plan is for ever"
            assert planned.when >= self.earliest_fetch - ROUNDING
            assert planned.when >= self.retry_after - ROUNDING
        assert self.refused == isinstance(planned, AwaitSignIn)
        for min_valid in (0.0, DEFAULT_MIN_VALID, math.inf):
            self.heard(answer(self.life, self.now, min_valid))
        self.check_mints()

    def check_mints(self) -> None:
        """Entra takes many redemptions for a loop."""
        pairs = zip(self.mints, self.mints[1:], strict=False)
        assert all(later - earlier >= MINT_INTERVAL - ROUNDING for earlier, later in pairs), "1 in 5 minutes"
        assert sum(self.now - when < DAY for when in self.mints) <= MINTS_PER_DAY, "6 a day"
        self.mints = self.mints[-MINTS_PER_DAY:]


@dataclass(frozen=True)
class World:
    """Where a walk goes: what the provider gives, what it asks for, and how time passes."""

    lives: tuple[float, ...]
    retry_afters: tuple[float, ...] = (0.0, 0.0, 0.0, 5.0, 120.0)
    jumps: tuple[float, ...] = (0.0, 0.2, 1.0, 5.0, 61.0, 600.0, 1800.0)
    faults: float = 0.3
    refresh_befores: tuple[float | None, ...] = (None,)
    # What a refusal says of when to look again.
    again_in: tuple[float, ...] = (0.0,)


WORLDS = {
    "Entra": World((3600.0, 4500.0, 5400.0)),
    "an owner's margins": World((3600.0, 5400.0), refresh_befores=(0.0, 60.0, 300.0, 1800.0, 3600.0, 10_000.0)),
    "tiny tokens": World((5.0, 2.0, 1.0, 0.5, 0.01), jumps=(0.0, 0.1, 0.4, 1.0, 3.0, 30.0)),
    "tokens without a life": World((0.0, -1.0, -3600.0, math.nan, 3600.0)),
    "day-long tokens": World((24 * HOUR, 28 * HOUR), jumps=(1.0, 300.0, HOUR, 10 * HOUR)),
    "endless tokens": World((math.inf, 1e9), jumps=(1.0, DAY, 5 * DAY)),
    "huge Retry-After": World((3600.0,), retry_afters=(0.0, 3600.0, 1e9, math.inf, -5.0), faults=0.7),
    "suspend": World((3600.0,), jumps=(0.0, 1.0, 2 * HOUR, 8 * HOUR, 3 * DAY)),
    "outage": World((3600.0,), faults=0.95),
    "an application": World((3600.0,), faults=0.6, again_in=(0.0, 1800.0, 5.0, 1e9, math.inf)),
    "a busy day": World((3600.0,), jumps=(0.0, 0.05, 0.5, 20.0, 61.0), faults=0.02),
}


def an_outcome(world: World, random: Random) -> Outcome:
    """Return what the provider answers next."""
    jitter = random.random()
    if jitter >= world.faults:
        return Granted("token", 0.0, random.choice(world.lives))
    if jitter < world.faults * 0.1:
        return Refused(REVOKED, random.choice(world.again_in))
    return Transient(random.choice((DOWN, LOCKED)), random.choice(world.retry_afters))


def one_step(walk: Walk, world: World, random: Random) -> None:
    """Take one random step."""
    steps = {
        "passes": 3,
        "due": 2,
        "fetches": 4,
        "asks": 4,
        "retries_sooner": 1,
        "retries_now": 0.2,
        "is turned down": 0.2,
    }
    match random.choices([*steps], [*steps.values()])[0]:
        case "passes":
            walk.passes(random.choice(world.jumps))
        case "due":
            planned = plan(walk.life, walk.now)
            walk.passes(planned.when - walk.now if isinstance(planned, SleepUntil) else 0.0)
        case "fetches":
            late = random.choice(world.jumps) if random.random() < 0.1 else 0.0
            walk.fetches(an_outcome(world, random), random.random(), takes=random.choice((0.0, 0.3, 25.0)), late=late)
        case "asks":
            walk.asks(random.choice((0.0, 60.0, 600.0, 3599.0, 86_400.0)), rejected=random.random() < 0.3)
        case "retries_sooner":
            walk.retries_sooner()
        case "is turned down":
            walk.is_turned_down(random.choice(("refused", "wrong-user", "expired", "cancelled")))
        case _:
            walk.retries_now()


@pytest.mark.parametrize("name", WORLDS)
def test_every_promise_holds_on_long_walks(name: str) -> None:
    """Tens of thousands of random steps through each world break none of the promises."""
    world, random = WORLDS[name], Random(name)
    walk = Walk()
    for step in range(WALK_STEPS // len(WORLDS)):
        if step % 2_000 == 0:
            walk = Walk(random.uniform(0.0, 1e6), random.choice(world.refresh_befores))
        one_step(walk, world, random)

    assert walk.expiry


SECONDS = st.floats(0.0, 3 * DAY)
LUCK = st.floats(0.0, 1.0, exclude_max=True)
LIVES = st.one_of(st.floats(0.01, 100.0), st.floats(100.0, 30 * HOUR))
RETRY_AFTERS = st.one_of(st.just(0.0), st.floats(0.0, 1e9))


class Walks(RuleBasedStateMachine):
    """Hypothesis at the helm of a Walk."""

    @initialize(now=st.floats(0.0, 1e7), refresh_before=st.none() | st.floats(0.0, 2 * HOUR))
    def starts(self, now: float, refresh_before: float | None) -> None:
        self.walk = Walk(now, refresh_before)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.walk.passes(seconds)

    @rule()
    def the_plan_comes_due(self) -> None:
        planned = plan(self.walk.life, self.walk.now)
        if isinstance(planned, SleepUntil):
            self.walk.passes(planned.when - self.walk.now)

    @rule(expires_in=LIVES, jitter=LUCK, takes=st.floats(0.0, 25.0), late=st.just(0.0) | SECONDS)
    def a_token_comes(self, expires_in: float, jitter: float, takes: float, late: float) -> None:
        self.walk.fetches(Granted("token", 0.0, expires_in), jitter, takes=takes, late=late)

    @rule(retry_after=RETRY_AFTERS, jitter=LUCK, trouble=st.sampled_from((DOWN, LOCKED)))
    def a_fetch_fails(self, retry_after: float, jitter: float, trouble: Trouble) -> None:
        self.walk.fetches(Transient(trouble, retry_after), jitter, takes=0.1, late=0.0)

    @rule()
    def the_grant_is_refused(self) -> None:
        self.walk.fetches(Refused(REVOKED), 0.5, takes=0.1, late=0.0)

    @rule(min_valid=st.floats(0.0, DAY), rejected=st.booleans())
    def a_client_asks(self, min_valid: float, *, rejected: bool) -> None:
        self.walk.asks(min_valid, rejected=rejected)

    @rule()
    def the_network_changes(self) -> None:
        self.walk.retries_sooner()

    @rule(kind=st.sampled_from(("refused", "expired")))
    def a_sign_in_is_refused(self, kind: str) -> None:
        self.walk.is_turned_down(kind)

    @rule()
    def a_person_refreshes(self) -> None:
        self.walk.retries_now()


TestWalks = Walks.TestCase
TestWalks.settings = settings(
    max_examples=40, stateful_step_count=30, derandomize=True, suppress_health_check=list(HealthCheck)
)
a_few = settings(max_examples=100, derandomize=True)


# What is answered.


@a_few
@given(LIVES, LUCK, st.floats(0.0, 2.0), st.floats(0.0, DAY))
@example(HOUR, 0.5, 1.0, 0.0)
def test_an_expired_token_is_never_answered(expires_in: float, jitter: float, share: float, min_valid: float) -> None:
    """From its expiry on no client gets a token, whatever clients ask and whatever the provider does."""
    now = expires_in * (1.0 + share)
    held = fresh(expires_in, jitter=jitter)
    answers = [
        answer(life, now, min_valid) for life in (held, failing(held, now), absorb(held, Refused(DOWN), now, 0.5))
    ]

    assert not [each for each in answers if isinstance(each, Token)]


@pytest.mark.parametrize(("expires_in", "margin"), [(HOUR, 10.0), (100.0, 10.0), (50.0, 5.0), (5.0, 0.5)])
def test_a_token_about_to_expire_is_not_answered(expires_in: float, margin: float) -> None:
    """In its last 10 seconds, or the last tenth of a short life, a token could expire before the server sees it."""
    life = failing(fresh(expires_in), expires_in - margin - 1.0)

    assert token_of(life) == answer(life, expires_in - margin - 0.01, 0.0)
    assert isinstance(answer(life, expires_in - margin, 0.0), Deny)


@a_few
@given(LIVES, LUCK, st.floats(0.0, 1.2), st.floats(0.0, DAY), st.booleans())
def test_a_client_waits_only_if_a_fetch_is_due(
    expires_in: float, jitter: float, share: float, min_valid: float, rejected: bool
) -> None:
    """A client waits if and only if a fetch is due now; between fetches cms answers at once."""
    life, now = fresh(expires_in, jitter=jitter), expires_in * share
    assume(isinstance(plan(life, now), SleepUntil))

    assert not isinstance(answer(life, now, min_valid, rejected=rejected), Wait)


def test_the_first_client_waits_for_the_first_fetch() -> None:
    """At the start nothing is held and a fetch is due at once."""
    assert (Fetch(), Wait()) == (plan(Life(), 5.0), answer(Life(), 5.0))


def test_a_renewal_delays_no_client_that_has_a_usable_token() -> None:
    """While a renewal is under way, a token with a minute left is answered at once."""
    life = fresh()
    late = HOUR - DEFAULT_MIN_VALID

    assert isinstance(plan(life, late), Fetch)
    assert token_of(life) == answer(life, late)
    assert Wait() == answer(life, late + 0.01)
    assert token_of(life) == answer(life, late + 0.01, 0.0)


def test_better_a_short_life_than_none() -> None:
    """When the provider fails, a token with less life than was asked for is answered while it is usable."""
    life = failing(fresh(), HOUR - 40.0)

    assert token_of(life) == answer(life, HOUR - 30.0, 600.0)


def test_a_refused_token_is_better_than_none() -> None:
    """A token that a mail server rejected is answered once no other is on its way, and not before."""
    life = fresh()
    due, _, _ = demand_fresh(life, Budget(), 100.0, rejected=True)

    assert Wait() == answer(due, 100.0, rejected=True)
    assert token_of(due) == answer(due, 100.0)
    assert token_of(life) == answer(life, 100.0, rejected=True)


@a_few
@given(LIVES, LUCK, st.floats(0.0, math.inf))
def test_min_is_capped_at_what_a_fresh_token_has(expires_in: float, jitter: float, min_valid: float) -> None:
    """However much life is asked for, a token that has just come has enough: no demand asks for what no token has."""
    life = fresh(expires_in, jitter=jitter)
    due = replace(life, held=replace(token_of(life), refresh_at=0.0))
    just_come = min(FRESH_SECONDS, FRESH_SHARE * expires_in) / 2

    assert isinstance(plan(due, just_come), Fetch)
    assert token_of(due) == answer(due, just_come, min_valid)
    assert (life, Budget(), False) == demand_fresh(life, Budget(), just_come, min_valid=min_valid)


def test_min_below_the_cap_is_exact() -> None:
    """A client that asks for 50 minutes of an hour gets them, not a second less."""
    life, _, _ = demand_fresh(fresh(), Budget(), 601.0, min_valid=3000.0)

    assert Wait() == answer(life, 601.0, 3000.0)
    assert token_of(life) == answer(life, 600.0, 3000.0)


DENIALS = {
    "sign-in-required": (
        Life(None, NeedsSignIn(0.0, REVOKED)),
        Deny("sign-in-required", REVOKED.message, REVOKED.hint),
    ),
    "unavailable": (failing(Life(), 0.0), Deny("unavailable", DOWN.message, DOWN.hint, 50.0)),
    "locked": (failing(Life(), 0.0, trouble=LOCKED), Deny("locked", LOCKED.message, LOCKED.hint, 50.0)),
}


@pytest.mark.parametrize("code", DENIALS)
def test_a_denial_says_why_whose_move_it_is_and_when_to_come_back(code: str) -> None:
    """Each phase without a usable token has a code of the wire, the provider's words and the time of the next try."""
    life, expected = DENIALS[code]

    assert expected == answer(life, 10.0)


def test_a_denial_never_names_a_moment_that_has_passed() -> None:
    """After the next try has come due, retry_after is 0 and not negative."""
    assert denial(failing(Life(), 0.0), 500.0).retry_after == 0.0


def test_who_comes_between_two_tiny_tokens_is_told_to_come_back() -> None:
    """A token that has run out before its renewal is due leaves a moment without one, and that is said."""
    life = fresh(0.5)

    assert (denial(life, 0.7).code, denial(life, 0.7).retry_after) == ("unavailable", PAUSE_AFTER_GRANT)
    assert isinstance(answer(life, 0.7), Deny)


# What is planned.


@a_few
@given(LIVES, LUCK, st.floats(0.0, DAY), RETRY_AFTERS)
def test_no_plan_lies_in_the_past(expires_in: float, jitter: float, now: float, retry_after: float) -> None:
    """A plan is to fetch now or to sleep until later than now."""
    held = fresh(expires_in, jitter=jitter)
    plans = [plan(life, now) for life in (held, failing(held, 0.0, retry_after=retry_after, jitter=jitter))]

    assert all(isinstance(each, Fetch) or (isinstance(each, SleepUntil) and each.when > now) for each in plans)


@a_few
@given(LIVES, LUCK)
@example(HOUR, 0.0)
@example(2 * REFRESH_BEFORE_EXPIRY, 0.999)
@example(2 * REFRESH_BEFORE_EXPIRY - 1.0, 0.999)
def test_a_refresh_is_due_between_half_and_three_quarters_of_a_life(expires_in: float, jitter: float) -> None:
    """Early enough for an outage to pass unnoticed; earlier where the 15 minutes before expiry begin earlier."""
    due = token_of(fresh(expires_in, jitter=jitter)).refresh_at
    latest = 0.75 * expires_in
    if expires_in >= 2 * REFRESH_BEFORE_EXPIRY:
        latest = min(latest, expires_in - REFRESH_BEFORE_EXPIRY)

    assert due >= max(PAUSE_AFTER_GRANT, latest * 2 / 3) - ROUNDING
    assert due <= max(PAUSE_AFTER_GRANT, latest) + ROUNDING


@pytest.mark.parametrize("expires_in", [5.0, 600.0, 2400.0, HOUR, 24 * HOUR])
def test_refreshes_are_spread(expires_in: float) -> None:
    """Many accounts whose tokens came at one moment do not ask for the next at one moment."""
    moments = [token_of(fresh(expires_in, jitter=jitter)).refresh_at for jitter in (0.0, 0.25, 0.5, 0.75, 0.999)]

    assert sorted(set(moments)) == moments
    assert moments[-1] - moments[0] > 0.1 * expires_in


@pytest.mark.parametrize(
    ("refresh_before", "earliest", "latest"),
    [
        (None, 1800.0, 2700.0),
        (0.0, 1800.0, 2700.0),
        (1200.0, 1600.0, 2400.0),
        (1800.0, 1200.0, 1800.0),
        (3000.0, 400.0, 600.0),
        # A margin above the life would fetch without end: a tenth of the life is left alone.
        (HOUR, HOUR * EARLIEST_SHARE_ASKED, HOUR * EARLIEST_SHARE_ASKED * 1.5),
        (1e9, HOUR * EARLIEST_SHARE_ASKED, HOUR * EARLIEST_SHARE_ASKED * 1.5),
    ],
)
def test_an_account_may_set_its_margin(refresh_before: float | None, earliest: float, latest: float) -> None:
    """refresh_before moves the refresh of an hour's token as far forward as the owner asks, within limits."""
    moments = [
        token_of(absorb(Life(), Granted("t", 0.0, HOUR), 0.0, jitter, refresh_before)).refresh_at
        for jitter in (0.0, 1.0)
    ]

    assert [earliest, latest] == pytest.approx(moments)


@pytest.mark.parametrize(
    ("refresh_in", "refresh_at"),
    [
        (300.0, 700.0),
        (0.0, 400.0 + PAUSE_AFTER_GRANT),
        (-math.inf, 400.0 + PAUSE_AFTER_GRANT),
        (math.nan, 400.0 + PAUSE_AFTER_GRANT),
        (HOUR, HOUR * LATEST_RENEWAL_SHARE),
        (math.inf, HOUR * LATEST_RENEWAL_SHARE),
    ],
)
def test_a_token_that_comes_with_its_renewal_is_renewed_then(refresh_in: float, refresh_at: float) -> None:
    """No jitter changes what one host has chosen for all; what makes no sense costs no fetch without a pause, and no token."""
    granted = Granted("t", 0.0, HOUR, refresh_in=refresh_in)
    moments = {token_of(absorb(Life(), granted, 400.0, jitter, 1200.0)).refresh_at for jitter in (0.0, 0.5, 0.999)}

    assert {refresh_at} == moments


def test_time_counts_from_the_moment_the_answer_came() -> None:
    """However late the daemon hears of a token, its life began when the provider's answer came."""
    held = token_of(absorb(Life(), Granted("t", 100.0, HOUR), 400.0, 0.5))

    assert (100.0, 100.0 + HOUR) == (held.issued, held.expires)


@pytest.mark.parametrize("issued", [500.0, math.nan, math.inf])
def test_no_token_comes_from_the_future(issued: float) -> None:
    """An issue time that is invalid or in the future counts as now: it must not lengthen a token's life."""
    held = token_of(absorb(Life(), Granted("t", issued, HOUR), 400.0, 0.5))

    assert (400.0, 400.0 + HOUR) == (held.issued, held.expires)


def test_a_token_that_expired_on_its_way_is_fetched_again_at_once() -> None:
    """Suspended between answer and arrival: the provider did nothing wrong, so no failure, no minute without a token."""
    life = absorb(Life(), Granted("t", 0.0, HOUR), 2 * HOUR, 0.5)

    assert isinstance(life.phase, Settled)
    assert isinstance(answer(life, 2 * HOUR), Deny)
    assert SleepUntil(2 * HOUR + PAUSE_AFTER_GRANT) == plan(life, 2 * HOUR)


@pytest.mark.parametrize("expires_in", [0.0, -1.0, -HOUR, math.nan, -math.inf])
def test_a_token_without_a_life_is_a_failure(expires_in: float) -> None:
    """What was never valid is no token: the one that is held stays, and the provider is asked again after a pause."""
    life = absorb(fresh(), Granted("stillborn", 100.0, expires_in), 100.0, 0.0)

    assert token_of(fresh()) == life.held
    assert ("garbage", 100.0 + SHORTEST_PAUSE) == (phase_of(life).trouble.kind, phase_of(life).next_try)


@pytest.mark.parametrize("expires_in", [math.inf, 1e12])
def test_no_token_is_believed_to_live_for_ever(expires_in: float) -> None:
    """An absurd life is cut to a week, so that renewal goes on."""
    held = token_of(fresh(expires_in))

    assert held.expires == LONGEST_LIFE
    assert held.refresh_at <= 0.75 * LONGEST_LIFE


# What happens after a failure.


@a_few
@given(LIVES, st.floats(0.0, 1.0), RETRY_AFTERS, st.integers(1, 5))
def test_a_failure_never_drops_a_valid_token(expires_in: float, share: float, retry_after: float, times: int) -> None:
    """Whatever fails, and however often, the held token is answered until it runs out."""
    life, now = fresh(expires_in), expires_in * share
    for _ in range(times):
        life = failing(life, now, retry_after=retry_after)

    assert usable(fresh(expires_in), now) == usable(life, now)
    assert (usable(life, now) is not None) == isinstance(answer(life, now, 0.0), Token)


def test_a_refusal_never_drops_a_valid_token() -> None:
    """Mail goes on until the token of a revoked sign-in has run out, and says sign-in-required then."""
    life = absorb(fresh(), Refused(REVOKED), 100.0, 0.5)

    assert AwaitSignIn() == plan(life, 100.0)
    assert token_of(fresh()) == answer(life, HOUR - 11.0)
    assert Deny("sign-in-required", REVOKED.message, REVOKED.hint) == answer(life, HOUR - 10.0)


@pytest.mark.parametrize("outcome", [Granted("t", 10.0, 0.001), Granted("t", 0.0, 5.0), Granted("t", 10.0, HOUR)])
@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_no_fetch_follows_a_fetch_without_a_pause(outcome: Granted, jitter: float) -> None:
    """However short a token lives and however late it comes, a second passes before the next fetch."""
    life = absorb(Life(), outcome, 10.0, jitter)

    assert plan(life, 10.0 + PAUSE_AFTER_GRANT - 0.01) != Fetch()


@a_few
@given(st.integers(1, 2000), LUCK)
@example(1, 0.0)
@example(5, 0.999)
def test_pauses_are_uniform_up_to_a_doubling_ceiling(tries: int, jitter: float) -> None:
    """The n-th pause is uniform(60 s, min(30 min, 60 s * 2**n))."""
    ceiling = 1800.0 if tries > 4 else 60.0 * 2**tries

    assert 60.0 + (ceiling - 60.0) * jitter == pytest.approx(pause(tries, jitter))


def test_pauses_grow_over_an_outage_and_start_again_after_it() -> None:
    """Each failure in a row lengthens the pause up to half an hour; a token sets it back."""
    life, now, pauses = fresh(), 2000.0, []
    for _ in range(7):
        life = failing(life, now, jitter=0.999999999)
        pauses.append(round(phase_of(life).next_try - now))
        now = phase_of(life).next_try
    again = failing(absorb(life, Granted("new", now, HOUR), now, 0.5), now + 1.0, jitter=0.999999999)

    assert [120, 240, 480, 960, 1800, 1800, LONGEST_PAUSE] == pauses
    assert round(phase_of(again).next_try - now - 1.0) == 120


def test_an_outage_remembers_when_it_began() -> None:
    """`since` is the first failure of the row, `tries` their number, `trouble` the last."""
    phase = phase_of(failing(failing(fresh(), 100.0), 200.0, trouble=LOCKED))

    assert (100.0, 2, 200.0, LOCKED) == (phase.since, phase.tries, phase.last_try, phase.trouble)


@a_few
@given(st.floats(0.0, LONGEST_RETRY_AFTER), LUCK, SECONDS, st.booleans())
def test_retry_after_is_honoured(retry_after: float, jitter: float, later: float, by_a_person: bool) -> None:
    """Before Retry-After is over nothing makes a fetch due: no client, no resume and no person."""
    life = failing(Life(), 0.0, retry_after=retry_after, jitter=jitter)
    sooner = retry_now(life, later) if by_a_person else retry_sooner(life, later)
    assume(later < retry_after)

    assert not isinstance(plan(life, later), Fetch)
    assert not isinstance(plan(sooner, later), Fetch)


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(120.0, 120.0), (0.0, 60.0), (-5.0, 60.0), (59.0, 60.0), (math.nan, 60.0), (1e9, 3600.0), (math.inf, 3600.0)],
)
def test_retry_after_lengthens_the_pause_by_an_hour_at_most(retry_after: float, expected: float) -> None:
    """A pause shorter than ours changes nothing; one of years, as a captive portal may name, costs an hour."""
    assert expected == phase_of(failing(Life(), 0.0, retry_after=retry_after)).next_try


def test_retry_sooner_goes_to_a_minute_after_the_last_try() -> None:
    """Without a usable token a client's request makes the next try due 60 s after the last, and no sooner."""
    life = retry_sooner(failing(failing(Life(), 0.0), 100.0, jitter=0.9), 110.0)

    assert phase_of(life).next_try == 160.0
    assert SleepUntil(160.0) == plan(life, 110.0)


def test_retry_sooner_goes_no_sooner_than_retry_after() -> None:
    """A client's request does not shorten the pause that the provider asked for."""
    life = failing(Life(), 0.0, retry_after=90.0, jitter=0.9)

    assert 114.0 == pytest.approx(phase_of(life).next_try)
    assert phase_of(retry_sooner(life, 70.0)).next_try == 90.0


def test_retry_sooner_waits_while_a_usable_token_is_held() -> None:
    """Who has a token is in no retry_sooner: the outage is not made worse."""
    life = failing(failing(fresh(), 100.0), 200.0, jitter=0.9)

    assert retry_sooner(life, 300.0) is life
    assert retry_sooner(life, HOUR) is not life


@pytest.mark.parametrize("life", [Life(), fresh(), Life(None, NeedsSignIn(0.0, REVOKED)), failing(Life(), 0.0)])
def test_retry_sooner_changes_nothing_else(life: Life) -> None:
    """Only a failing life can be hurried, and only to an earlier moment: else the very same life comes back."""
    assert retry_sooner(life, 2 * HOUR) is life


# What a refusal does, and what ends it.


def test_a_refusal_of_one_scope_set_leaves_the_others() -> None:
    """65001 after a protocol was added: the other scope set keeps its token and its renewal."""
    lives = {"mail": fresh(), "graph": Life()}
    lives["graph"] = absorb(lives["graph"], Refused(Trouble("refused", "consent", aadsts=65001)), 10.0, 0.5)
    due = token_of(lives["mail"]).refresh_at

    assert token_of(lives["mail"]) == answer(lives["mail"], 20.0)
    assert isinstance(answer(lives["graph"], 20.0), Deny)
    assert SleepUntil(due) == soonest(list(lives.values()), 20.0)


def test_a_refusal_stands_until_a_person_has_acted() -> None:
    """Neither time nor another failure turns a refusal into tries: Entra counts those."""
    refused = absorb(Life(), Refused(REVOKED), 10.0, 0.5)

    assert failing(refused, 20.0) is refused
    assert AwaitSignIn() == plan(refused, 1e9)


def test_a_refusal_remembers_when_it_began() -> None:
    """Another refusal tells the newer reason, and the older moment."""
    again = absorb(absorb(Life(), Refused(DOWN), 10.0, 0.5), Refused(REVOKED), 500.0, 0.5)

    assert NeedsSignIn(10.0, REVOKED) == again.phase


@pytest.mark.parametrize(
    ("again_in", "jitter", "pause"), [(1800.0, 0.0, 900.0), (1800.0, 0.5, 1350.0), (5.0, 0.9, 60.0)]
)
def test_a_refusal_that_may_heal_by_itself(again_in: float, jitter: float, pause: float) -> None:
    """cms cannot hear of some repairs, such as an application's new certificate: it retries slowly, never in a loop."""
    refused = absorb(Life(), Refused(REVOKED, again_in), 10.0, jitter)

    assert SleepUntil(10.0 + pause) == plan(refused, 10.0)
    assert Deny("unavailable", REVOKED.message, REVOKED.hint, pause) == answer(refused, 10.0)
    assert Fetch() == plan(refused, 10.0 + pause)


def test_an_outage_after_such_a_refusal() -> None:
    """When the provider cannot be asked whether it still refuses, that is tried again as any other failure is."""
    refused = absorb(Life(), Refused(REVOKED, 1800.0), 10.0, 0.5)

    assert DOWN == failing(refused, 2000.0).phase.trouble  # type: ignore[union-attr]  # Settled has none


def test_a_sign_in_ends_a_refusal() -> None:
    """A token settles everything, whatever was wrong before."""
    signed_in = absorb(absorb(Life(), Refused(REVOKED), 10.0, 0.5), Granted("new", 20.0, HOUR), 20.0, 0.5)

    assert fresh(now=20.0, secret="new") == signed_in


def test_retry_now_tries_a_refusal_once_more() -> None:
    """`cms refresh` and the sign-in of another scope set make a refused life due, without dropping its token."""
    empty = retry_now(absorb(Life(), Refused(REVOKED), 10.0, 0.5), 20.0)
    held = retry_now(absorb(fresh(), Refused(REVOKED), 10.0, 0.5), 20.0)

    assert (Fetch(), Fetch()) == (plan(empty, 20.0), plan(held, 20.0))
    assert token_of(fresh()).secret == token_of(held).secret


@pytest.mark.parametrize("held", [Life(), fresh()])
@pytest.mark.parametrize("again_in", [0.0, 900.0])
def test_a_sign_in_that_was_refused_says_why_one_is_still_required(held: Life, again_in: float) -> None:
    """Only the reason is another: token, plan and since when are as they were."""
    before = absorb(held, Refused(REVOKED, again_in), 10.0, 0.5)
    after = sign_in_refused(before, Refused(BLOCKED))

    assert isinstance(before.phase, NeedsSignIn)
    assert Life(before.held, replace(before.phase, trouble=BLOCKED)) == after


def test_a_challenge_stays_until_it_is_met() -> None:
    """The wrong person's sign-in, or one without a challenge, does not lose the challenge that is still to be met."""
    challenged = absorb(Life(), Refused(replace(REVOKED, claims="{}")), 10.0, 0.5)
    other = sign_in_refused(challenged, Refused(replace(BLOCKED, claims='{"a":1}')))

    for life, claims in ((sign_in_refused(challenged, Refused(BLOCKED)), "{}"), (other, '{"a":1}')):
        assert isinstance(life.phase, NeedsSignIn)
        assert (53003, claims) == (life.phase.trouble.aadsts, life.phase.trouble.claims)


@pytest.mark.parametrize(
    ("life", "kind"),
    [
        (Life(), "refused"),
        (fresh(), "refused"),
        (failing(fresh(), 10.0), "refused"),
        (absorb(Life(), Refused(REVOKED), 10.0, 0.5), "expired"),
        (absorb(Life(), Refused(REVOKED), 10.0, 0.5), "cancelled"),
    ],
)
def test_a_failed_sign_in_changes_nothing_that_works(life: Life, kind: str) -> None:
    """Tokens keep being served, and a closed window is no reason for a new state."""
    assert life is sign_in_refused(life, Refused(replace(BLOCKED, kind=kind)))


def test_retry_now_tries_a_failure_now() -> None:
    """A person who has just unlocked the keyring does not wait a minute, but a second."""
    life = failing(fresh(), 100.0, trouble=LOCKED)

    assert SleepUntil(100.0 + PAUSE_AFTER_GRANT) == plan(retry_now(life, 100.5), 100.5)
    assert Fetch() == plan(retry_now(life, 105.0), 105.0)


def test_retry_now_never_puts_a_try_off() -> None:
    """What is due stays due, at the moment at which it was."""
    life = failing(Life(), 0.0)

    assert retry_now(life, 500.0) is life
    assert token_of(fresh()).refresh_at == token_of(retry_now(fresh(), 3000.0)).refresh_at


def test_retry_now_keeps_a_second_from_the_last_fetch() -> None:
    """However fast a person repeats `cms refresh`, a token is a second old before cms fetches the next."""
    assert SleepUntil(PAUSE_AFTER_GRANT) == plan(retry_now(fresh(), 0.25), 0.25)


# What clients may ask for.


def pressed(now: float, budget: Budget, **demand: float | bool) -> tuple[bool, Budget, bool]:
    """Press a token that is an hour from its refresh; say whether a fetch became due."""
    life = fresh(4 * HOUR, now=now - 60.0)
    after, budget, over = demand_fresh(life, budget, now, **demand)  # type: ignore[arg-type]  # keywords of a test's table
    return plan(after, now) == Fetch(), budget, over


@pytest.mark.parametrize("demand", [{"rejected": True}, {"min_valid": 3.99 * HOUR, "rejected": True}])
def test_mints_are_one_in_five_minutes(demand: dict[str, float | bool]) -> None:
    """A second demand within five minutes is turned down and says so; after them it is met."""
    _, budget, _ = pressed(1000.0, Budget(), **demand)

    assert (False, budget, True) == pressed(1000.0 + MINT_INTERVAL - 0.1, budget, **demand)
    assert pressed(1000.0 + MINT_INTERVAL, budget, **demand)[::2] == (True, False)


def test_mints_are_six_a_day() -> None:
    """The seventh demand of a day is turned down; a day after the first there is room again."""
    budget, met = Budget(), []
    for hour in range(8):
        due, budget, _ = pressed(1000.0 + hour * HOUR, budget, rejected=True)
        met.append(due)

    assert [True] * 6 + [False] * 2 == met
    assert pressed(1000.0 + DAY - 0.1, budget, rejected=True)[0] is False
    assert pressed(1000.0 + DAY, budget, rejected=True)[0] is True


def test_one_budget_is_for_all_scope_sets_of_a_grant() -> None:
    """Entra counts redemptions of the sign-in: what one scope set has used the other has not."""
    mail, budget, _ = demand_fresh(fresh(4 * HOUR), Budget(), 100.0, rejected=True)
    graph, _, over = demand_fresh(fresh(4 * HOUR, secret="graph"), budget, 101.0, rejected=True)

    assert (Fetch(), True) == (plan(mail, 100.0), over)
    assert plan(graph, 101.0) != Fetch()


PRESSES_IN_VAIN = {
    "nothing is held": (Life(), 100.0, False),
    "what is held has expired": (fresh(), HOUR, False),
    "a fetch is due already": (fresh(jitter=0.0), 1800.0, False),
    "the provider fails": (failing(fresh(), 50.0), 100.0, False),
    "a sign-in is needed": (absorb(fresh(), Refused(REVOKED), 50.0, 0.5), 100.0, False),
    "the token came just now": (fresh(now=100.0), 100.5, True),
}


@pytest.mark.parametrize("name", PRESSES_IN_VAIN)
def test_a_demand_that_changes_nothing_costs_nothing(name: str) -> None:
    """Where a fetch is due anyhow, or cannot help, the budget is left for those whom it can help."""
    life, now, over = PRESSES_IN_VAIN[name]

    assert (life, Budget(), over) == demand_fresh(life, Budget(), now, rejected=True)


def test_a_token_that_has_enough_is_not_replaced() -> None:
    """min= below what is left costs no mint."""
    assert (fresh(), Budget(), False) == demand_fresh(fresh(), Budget(), 600.0, min_valid=3000.0)


def test_a_budget_forgets_what_is_a_day_old() -> None:
    """A daemon that runs for months does not collect the moments of all its mints."""
    budget = Budget()
    for day in range(100):
        budget = budget.spend(day * DAY / 3)

    assert len(budget.mints) == 3


# Several lives of one grant, and what may be printed.


SOONEST: dict[str, tuple[Callable[[], list[Life]], object]] = {
    "one is due": (lambda: [fresh(), Life()], Fetch()),
    "the earlier of two": (lambda: [fresh(jitter=0.0), fresh(jitter=0.9)], SleepUntil(1800.0)),
    "one waits for a person": (lambda: [Life(None, NeedsSignIn(0.0, REVOKED)), fresh(jitter=0.0)], SleepUntil(1800.0)),
    "all wait for a person": (lambda: [Life(None, NeedsSignIn(0.0, REVOKED))] * 2, AwaitSignIn()),
    "none": (list, AwaitSignIn()),
}


@pytest.mark.parametrize("name", SOONEST)
def test_the_most_urgent_life_of_a_grant_goes_first(name: str) -> None:
    """A keeper does what comes first, and one scope set that waits for a person keeps no other waiting."""
    lives, expected = SOONEST[name]

    assert expected == soonest(lives(), 100.0)


def test_tokens_do_not_print() -> None:
    """No repr of anything here shows a secret."""
    life = fresh(secret="TOP-SECRET")

    assert "TOP-SECRET" not in repr((life, life.held, Granted("TOP-SECRET", 0.0, 1.0), answer(life, 0.0)))


def test_every_kind_is_in_the_table() -> None:
    """Programs that read `kind` find its meaning: each kind that the sources of cms name is listed."""
    trees = (ast.parse(file.read_text()) for file in Path(lifecycle.__file__).parent.parent.rglob("*.py"))
    calls = (each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Call))
    named = {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Trouble" and isinstance(call.args[0], ast.Constant)
    }

    assert {"signed-in", "garbage", "locked"} <= named
    assert set() == named - set(KINDS)
