"""Predicts when a sign-in will end, from when it was given and from how earlier ones ended: pure.

Entra says of no refresh token how long it will live. What is known (docs/operations.md says it for people):

- a registration of the single-page platform ends every sign-in after 24 hours: that is certain;
- a policy of the organisation (sign-in frequency) ends it after a period that only the policy states, but two
  sign-ins that ended after the same time show it;
- a password that is changed every so often ends it as well, at moments of which the past gives an idea;
- a refresh token that is not redeemed ends after 90 days, which matters only while cms cannot redeem it.

All times are Unix times: a sign-in outlives a boot. An ending is noticed at the next renewal, so it may have come up to
a token's life earlier, and much earlier if the machine was off: an interval is never shorter than the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cms.core.lifecycle import Ending

HOUR = 3600.0
DAY = 24 * HOUR

# AADSTS700084 and Entra's page on refresh tokens: 24 hours from the sign-in, whatever is done.
SPA_LIFE = DAY
# AADSTS700082: 90 days without a redemption.
IDLE_LIFE = 90 * DAY
# cms redeems many times a day. A grant that was not redeemed for so long is not being kept alive.
IDLE_SHOWN = 7 * DAY

# Why earlier sign-ins ended, by Entra's number: only these say something of the next one.
FREQUENCY, PASSWORD, IDLENESS = "sign-in frequency", "password", "idleness"
REASONS = {
    70043: FREQUENCY,
    50078: FREQUENCY,
    50173: PASSWORD,
    50132: PASSWORD,
    50133: PASSWORD,
    50089: PASSWORD,
    700082: IDLENESS,
}

# How many endings of each reason are kept: enough to see a pattern, and the one before it.
REMEMBERED = 6

# Two intervals agree when they differ by no more than this: an ending is noticed by a renewal, and tokens live for an
# hour or two; a share for policies of weeks, on machines that sleep at night.
AGREE_SECONDS = 3 * HOUR
AGREE_SHARE = 0.05
# People change a password when they are reminded, which is days before they have to.
AGREE_SHARE_PASSWORD = 0.15
# So many intervals alike make a habit of it.
HABIT = 2

# What a person is warned ahead: a day is time to find a moment for it, and a tenth of the sign-in's life keeps a
# sign-in of 24 hours from being warned of all day.
LEAD_SECONDS = DAY
LEAD_SHARE = 0.1

CERTAINTIES = {
    "certain": "it is a rule, and no guess",
    "likely": "at least two sign-ins ended so",
    "possible": "one sign-in ended so, or a habit is behind it",
}


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a sign-in will end: `due` as Unix time, why in words, and a word of `CERTAINTIES`."""

    due: float
    reason: str
    certainty: str


def forecast(
    given_at: float, last_redeemed: float, endings: Sequence[Ending], spa: bool, now: float
) -> Forecast | None:
    """Return the earliest end that there is a reason to expect, None where there is none.

    `given_at` is when the present sign-in was given and `last_redeemed` when it last gave a token, both 0 for unknown;
    `spa` whether its registration is of the single-page platform.
    """
    if not given_at:
        return None
    found = [
        _of_platform(given_at, last_redeemed) if spa else None,
        _of_frequency(given_at, endings, now),
        _of_password(endings, now),
        _of_idleness(last_redeemed, endings, now),
    ]
    return min(filter(None, found), key=lambda each: each.due, default=None)


def warned_at(expected: Forecast, given_at: float) -> float:
    """Return the moment from which people are warned, as Unix time."""
    return expected.due - min(LEAD_SECONDS, max(0.0, expected.due - given_at) * LEAD_SHARE)


def remember(endings: Sequence[Ending], ending: Ending) -> tuple[Ending, ...]:
    """Return what is to be kept once this sign-in has ended, oldest first.

    Each sign-in ends once, and an ending that says nothing of the next one is not kept.
    """
    if ending.aadsts not in REASONS or any(each.given_at == ending.given_at for each in endings):
        return tuple(endings)
    same = [each for each in endings if _reason(each) == _reason(ending)]
    dropped = same[: max(0, len(same) + 1 - REMEMBERED)]
    return (*(each for each in endings if each not in dropped), ending)


def _reason(ending: Ending) -> str:
    return REASONS.get(ending.aadsts or 0, "")


def _of_platform(given_at: float, last_redeemed: float) -> Forecast | None:
    if last_redeemed > given_at + SPA_LIFE + AGREE_SECONDS:
        # It has outlived the limit: the registration sends an Origin and is none of that platform.
        return None
    return Forecast(given_at + SPA_LIFE, "24 h limit of the application's registration", "certain")


def _of_frequency(given_at: float, endings: Sequence[Ending], now: float) -> Forecast | None:
    intervals = [each.ended_at - each.given_at for each in reversed(endings) if _reason(each) == FREQUENCY]
    # A sign-in that lives longer has disproved a period.
    open_yet = [each for each in intervals if each > 0 and given_at + each + _tolerance(each) >= now]
    if not open_yet:
        return None
    period, seen = _period(open_yet)
    times = {1: "once", 2: "twice"}.get(seen, f"{seen} times")
    words = f"sign-in frequency of the organisation, seen {times}"
    return Forecast(given_at + period, words, "likely" if seen > 1 else "possible")


def _period(intervals: Sequence[float]) -> tuple[float, int]:
    """Return the period behind intervals, newest first, and how many of them agree on it.

    The newest that another one agrees with tells it: a machine that was off makes one interval longer, a new policy
    makes all that follow so. Of those that agree the shortest is nearest to the truth.
    """
    for each in intervals:
        agreeing = [other for other in intervals if abs(other - each) <= _tolerance(each)]
        if len(agreeing) > 1:
            return min(agreeing), len(agreeing)
    return min(intervals), 1


def _tolerance(interval: float) -> float:
    return max(AGREE_SECONDS, interval * AGREE_SHARE)


def _of_password(endings: Sequence[Ending], now: float) -> Forecast | None:
    """Expect the next change of a password from the time between the last ones."""
    changes = [each.ended_at for each in endings if _reason(each) == PASSWORD]
    ages = [later - earlier for earlier, later in pairwise(changes)][-HABIT:]
    if len(ages) < HABIT or min(ages) < DAY or max(ages) - min(ages) > max(ages) * AGREE_SHARE_PASSWORD:
        return None
    due = changes[-1] + min(ages)
    if now > due + max(ages) * AGREE_SHARE_PASSWORD:
        return None
    return Forecast(due, "the password was changed at such intervals", "possible")


def _of_idleness(last_redeemed: float, endings: Sequence[Ending], now: float) -> Forecast | None:
    if not last_redeemed or now - last_redeemed < IDLE_SHOWN:
        return None
    before = any(_reason(each) == IDLENESS for each in endings)
    words = "90 days without a renewal"
    return Forecast(last_redeemed + IDLE_LIFE, f"{words}, which ended one before" if before else words, "certain")
