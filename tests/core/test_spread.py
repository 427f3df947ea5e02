"""Ten thousand accounts that all began in one moment: how their refreshes spread over time, on the fake clock."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from cms.core.lifecycle import Granted, Life, SleepUntil, absorb, plan

HOUR, MINUTE = 3600.0, 60.0
Lifetimes = Callable[[Random], float]


def refreshes(number: int, seed: int, lasts: Lifetimes, refresh_before: float | None, until: float) -> list[float]:
    """Return when the accounts are refreshed, in order: each asks when its plan says, and is answered at once."""
    random = Random(seed)
    due, moments = [(0.0, each) for each in range(number)], []
    while due[0][0] < until:
        now, each = due[0]
        moments.append(now)
        life = absorb(Life(), Granted("opaque", now, lasts(random)), now, random.random(), refresh_before)
        planned = plan(life, now)
        assert isinstance(planned, SleepUntil)
        heapq.heapreplace(due, (planned.when, each))
    return moments


@pytest.mark.parametrize(
    ("number", "lasts", "refresh_before", "until"),
    [
        pytest.param(10_000, lambda _random: HOUR, None, 5 * HOUR, id="an hour each"),
        pytest.param(5_000, lambda random: random.uniform(HOUR, 1.5 * HOUR), None, 5 * HOUR, id="as Entra's"),
        pytest.param(3_000, lambda _random: 35 * MINUTE, None, 4 * HOUR, id="little more than the usual margin"),
        pytest.param(3_000, lambda _random: 30 * MINUTE, None, 4 * HOUR, id="twice the usual margin"),
        pytest.param(5_000, lambda _random: HOUR, 40 * MINUTE, 4 * HOUR, id="a margin of the owner's"),
        pytest.param(5_000, lambda _random: HOUR, 28 * MINUTE, 4 * HOUR, id="a margin of nearly half the life"),
        pytest.param(2_000, lambda _random: 45 * MINUTE, 38 * MINUTE, 3 * HOUR, id="a margin that leaves minutes"),
        pytest.param(2_000, lambda _random: 45 * MINUTE, 50 * MINUTE, 3 * HOUR, id="a margin longer than the life"),
    ],
)
def test_no_minute_carries_much_more_than_others(
    number: int, lasts: Lifetimes, refresh_before: float | None, until: float
) -> None:
    """From the second hour on no minute has more than three times the mean, also if all began in the same moment."""
    counted = Counter(int(moment // MINUTE) for moment in refreshes(number, 20, lasts, refresh_before, until))
    later = [counted[minute] for minute in range(60, int(until / MINUTE))]

    assert max(later) <= 3 * sum(later) / len(later)
