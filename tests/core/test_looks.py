"""Refusals that depend on where or how the machine is connected: when they are looked at again, and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from cms.core.budget import DAY, LOOKS, MINTS_PER_DAY, Budget
from cms.core.lifecycle import (
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    AwaitSignIn,
    Deny,
    Fetch,
    Granted,
    Life,
    NeedsSignIn,
    Outcome,
    Refused,
    SleepUntil,
    Token,
    Transient,
    Trouble,
    absorb,
    answer,
    plan,
    postponed,
    reconnected,
    retry_now,
    retry_sooner,
    sign_in_refused,
)
from cms.core.looks import FIRST_LOOK, LOOK_AFTER_CHANGE, UNANSWERED
from cms_oauth.moves import LOOKS_AGAIN, cms, fill

HOUR = 3600.0
# Moments are sums of floats that reach months.
ROUNDING = 1e-6
MOVE = fill("sign in again: {login}", {"login": cms("login", "a@example.test")})
BLOCKED = Refused(Trouble("refused", "a policy blocks this sign-in", MOVE, aadsts=53003), by_connection=True)
REVOKED = Refused(Trouble("refused", "the grant was revoked", MOVE, aadsts=50173))
BUSY = Transient(Trouble("server", "the provider answers 503", ""))
OFFLINE = Transient(Trouble("network", "no route", ""))


def blocked(now: float = 0.0, life: Life | None = None) -> Life:
    """Return the life after such a refusal."""
    return absorb(life or Life(), BLOCKED, now, 0.5)


def phase_of(life: Life) -> NeedsSignIn:
    assert isinstance(life.phase, NeedsSignIn)
    return life.phase


def next_try(life: Life) -> float:
    found = phase_of(life).next_try
    assert found is not None
    return found


def test_the_looks_of_a_refusal_that_lasts() -> None:
    """After half an hour, then after pauses that double up to six hours."""
    life, now, pauses = blocked(), 0.0, []
    for _ in range(7):
        assert SleepUntil(next_try(life)) == plan(life, now)
        pauses.append((next_try(life) - now) / HOUR)
        now = next_try(life)
        assert Fetch() == plan(life, now)
        life = absorb(life, BLOCKED, now, 0.5)

    assert [0.5, 1.0, 2.0, 4.0, 6.0, 6.0, 6.0] == pauses
    assert 0.0 == phase_of(life).since


def test_what_a_client_is_told() -> None:
    """A person can end it by a sign-in; that cms asks again, and when, is told as well. A held token is served on."""
    life = blocked()
    reply = answer(life, 600.0)

    assert Deny("sign-in-required", BLOCKED.trouble.message, f"{MOVE}; {LOOKS_AGAIN}", 1200.0) == reply
    assert isinstance(answer(blocked(life=absorb(Life(), Granted("t", 0.0, HOUR), 0.0, 0.5)), 1.0), Token)


def test_only_such_a_refusal_is_looked_at() -> None:
    """What only a person mends is asked about when they have; what it becomes at a look counts from then on."""
    life = absorb(blocked(), REVOKED, FIRST_LOOK, 0.5)

    assert AwaitSignIn() == plan(absorb(Life(), REVOKED, 0.0, 0.5), 1e9) == plan(life, 1e9)
    assert life is reconnected(life, LOOKS, 2 * FIRST_LOOK)
    assert 0.0 == phase_of(life).since
    assert SleepUntil(HOUR + FIRST_LOOK) == plan(absorb(life, BLOCKED, HOUR, 0.5), HOUR)


def test_a_change_of_the_network() -> None:
    """The next look is in a minute, and one more: the others are as far apart as they were. More changes are one."""
    life = absorb(blocked(), BLOCKED, FIRST_LOOK, 0.5)
    moved = reconnected(life, LOOKS, 2000.0)
    again = absorb(reconnected(moved, LOOKS, 2030.0), BLOCKED, 2060.0, 0.5)

    assert 2000.0 + LOOK_AFTER_CHANGE == next_try(moved)
    assert moved is reconnected(moved, LOOKS, 2059.0)
    assert 2060.0 + HOUR == next_try(again)
    assert moved is retry_sooner(moved, 2030.0), "no client hurries it"


def test_a_change_just_before_a_look_delays_none() -> None:
    """What comes within the minute comes when it was to come."""
    life = blocked()

    assert life is reconnected(life, LOOKS, FIRST_LOOK - LOOK_AFTER_CHANGE / 2)


def test_the_budget_of_a_day() -> None:
    """However often the network changes, there are six looks in a day; the plan says when the seventh is."""
    life, looks, now, seen = blocked(), LOOKS, 0.0, []
    for _ in range(50):
        life = reconnected(life, looks, now)
        now = next_try(life)
        seen.append(now)
        looks = looks.spend(now)
        life = absorb(life, BLOCKED, now, 0.5, looks=looks)
        now += 1.0

    assert MINTS_PER_DAY == sum(when < DAY for when in seen)
    assert seen[0] + DAY == seen[MINTS_PER_DAY]
    assert all(later - seen[place] >= DAY for place, later in enumerate(seen[MINTS_PER_DAY:]))


def test_a_look_that_another_one_has_used_up() -> None:
    """Two refusals of one sign-in share the budget: what is due then waits until the budget allows it."""
    used = Budget((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), interval=0.0)
    life = blocked()

    assert 1.0 + DAY == next_try(postponed(life, used, FIRST_LOOK))
    assert life is postponed(life, LOOKS, FIRST_LOOK)
    assert Life() == postponed(Life(), used, FIRST_LOOK)


@pytest.mark.parametrize("kind", sorted(UNANSWERED))
def test_a_look_without_an_answer(kind: str) -> None:
    """What the provider said last stands, and it is tried again after the pauses of any failure."""
    life, now, pauses = blocked(), FIRST_LOOK, []
    for _ in range(6):
        life = absorb(life, Transient(Trouble(kind, "", "")), now, 0.999)
        assert BLOCKED.trouble == phase_of(life).trouble
        pauses.append(next_try(life) - now)
        now = next_try(life)

    assert SHORTEST_PAUSE < pauses[0] < pauses[1] < pauses[-1] <= LONGEST_PAUSE
    assert now + HOUR == next_try(absorb(life, BLOCKED, now, 0.5)), "the first look that was answered"


def test_a_look_that_is_answered_with_trouble() -> None:
    """503 is an answer: the next look is the next one, and not before Retry-After."""
    life = absorb(blocked(), BUSY, FIRST_LOOK, 0.5)
    later = absorb(blocked(), replace(BUSY, retry_after=2700.0), FIRST_LOOK, 0.5)

    assert (2 * FIRST_LOOK, FIRST_LOOK + 2700.0) == (next_try(life), next_try(later))
    assert BLOCKED.trouble == phase_of(life).trouble


def test_a_token_ends_it() -> None:
    """By a look, as by a sign-in."""
    granted = Granted("new", FIRST_LOOK, HOUR)

    assert absorb(Life(), granted, FIRST_LOOK, 0.5) == absorb(blocked(), granted, FIRST_LOOK, 0.5)


def test_a_person_who_tries_in_vain() -> None:
    """A refused sign-in is told, and takes no look away; `cms refresh` asks at once."""
    wrong = Refused(Trouble("wrong-user", "another person", MOVE))
    life = sign_in_refused(blocked(), wrong)

    assert (wrong.trouble, FIRST_LOOK) == (phase_of(life).trouble, next_try(life))
    assert Fetch() == plan(retry_now(life, 10.0), 10.0)


def test_an_application_is_tried_as_ever() -> None:
    """It has its own pause, and no person is asked to sign in."""
    refused = absorb(Life(), replace(BLOCKED, again_in=1800.0), 0.0, 1.0)

    assert (None, 1800.0, False) == (phase_of(refused).look, next_try(refused), phase_of(refused).calls_for_sign_in)
    assert refused is reconnected(refused, LOOKS, 10.0)


ANSWERS: tuple[Outcome, ...] = (BLOCKED, BLOCKED, BUSY, OFFLINE, replace(BUSY, retry_after=1e9))


@dataclass
class Walk:
    """A refused life for months, with a model of when the provider was asked."""

    life: Life = field(default_factory=blocked)
    looks: Budget = LOOKS
    now: float = 0.0
    asked: list[float] = field(default_factory=list)

    def look(self, outcome: Outcome) -> None:
        assert isinstance(plan(self.life, self.now), Fetch)
        later = postponed(self.life, self.looks, self.now)
        assert later is self.life, "with one life the plan knows the budget"
        if not (isinstance(outcome, Transient) and outcome.trouble.kind in UNANSWERED):
            self.asked.append(self.now)
            self.looks = self.looks.spend(self.now)
        self.life = absorb(self.life, outcome, self.now, random.random(), looks=self.looks)
        assert next_try(self.life) - self.now >= SHORTEST_PAUSE

    def go(self, chance: random.Random) -> None:
        left = next_try(self.life) - self.now
        self.now += min(left, chance.choice([1.0, 61.0, 600.0, HOUR, 7 * HOUR]))
        assert next_try(self.life) - self.now <= DAY, "there is always a next look"
        if chance.random() < 0.5:
            self.life = reconnected(self.life, self.looks, self.now)
        if isinstance(plan(self.life, self.now), Fetch):
            self.look(chance.choice(ANSWERS))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_there_are_six_looks_a_day(seed: int) -> None:
    """Random changes, failures and hours: never more in any 24 hours, never two within a minute, and always a next one."""
    walk, chance = Walk(), random.Random(seed)
    for _ in range(2000):
        walk.go(chance)

    assert 50 < len(walk.asked)
    assert all(later - earlier >= SHORTEST_PAUSE for earlier, later in zip(walk.asked, walk.asked[1:], strict=False))
    sixes = zip(walk.asked, walk.asked[MINTS_PER_DAY:], strict=False)
    assert all(later - earlier >= DAY - ROUNDING for earlier, later in sixes)
