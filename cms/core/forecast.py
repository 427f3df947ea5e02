"""Predicts when a sign-in will end, from when it was given and how earlier ones ended. Pure.

Few providers say how long a sign-in lives: Google does, if its person has agreed for a limited time. What is known
otherwise (docs/operations.md explains it to users):

- a registration of the single-page platform ends every sign-in after 24 hours: that is certain;
- a policy of the organisation (sign-in frequency) ends it after a fixed period. The policy is not visible to cms, but
  two sign-ins that ended after the same time show the period;
- a change of password ends it; the dates of earlier changes suggest the next one;
- while a Google project is in testing, its sign-ins end after 7 days; if Google does not say so, the time does;
- a refresh token that is not used ends after 90 days (Google: 6 months), which matters only while cms cannot use it.

All times are Unix times, because a sign-in outlives a boot. cms notices an ending at the next renewal, so the real one
was earlier: by up to a token's life, or by more if the machine was off. Measured intervals are therefore never too short.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cms.core.lifecycle import Ending, SignInFacts, Trouble
from cms_oauth.frozen import dataclass
from cms_oauth.providers import GOOGLE

HOUR = 3600.0
DAY = 24 * HOUR

# AADSTS700084 and Entra's page on refresh tokens: 24 hours from the sign-in, whatever is done.
SPA_LIFE = DAY
# Google: "Using OAuth 2.0 to Access Google APIs", refresh token expiration.
TESTING_LIFE = 7 * DAY
# cms renews tokens many times a day. A sign-in that was not used for this long is not being kept alive.
IDLE_SHOWN = 7 * DAY

# Why earlier sign-ins ended, by Entra's error number or another provider's word. Other reasons say nothing about the
# next ending.
FREQUENCY, PASSWORD, IDLENESS, TESTING = "sign-in frequency", "password", "idleness", "testing"
REASONS = {
    70043: FREQUENCY,
    50078: FREQUENCY,
    50173: PASSWORD,
    50132: PASSWORD,
    50133: PASSWORD,
    50089: PASSWORD,
    700082: IDLENESS,
}
# cms's own word, for an ending of which Google does not say why.
TESTING_REASON = "testing-7-days"
_WORDS = {"invalid_rapt": FREQUENCY, "rapt_required": FREQUENCY, TESTING_REASON: TESTING}

# How many endings of each reason are kept: enough to see a pattern, and the one before it.
REMEMBERED = 6

# Two intervals agree when they differ by no more than this: an ending is noticed by a renewal, and tokens live for an
# hour or two; a share for policies of weeks, on machines that sleep at night.
AGREE_SECONDS = 3 * HOUR
AGREE_SHARE = 0.05
# People change a password when they are reminded, which is days before they have to.
AGREE_SHARE_PASSWORD = 0.15
# The number of similar intervals that make a pattern.
HABIT = 2

# How early people are warned: a day is enough time to sign in. For a sign-in of 24 hours that would be all day, so the
# warning also comes no earlier than the last tenth of the sign-in's life.
LEAD_SECONDS = DAY
LEAD_SHARE = 0.1

CERTAINTIES = {
    "certain": "a fixed rule",
    "likely": "at least two sign-ins ended like this",
    "possible": "one sign-in ended like this, or the password is changed at regular intervals",
}


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a sign-in will probably end: `due` as Unix time, the reason in words, and a key of `CERTAINTIES`."""

    due: float
    reason: str
    certainty: str


def forecast(sign_in: SignInFacts, *, spa: bool, now: float, idle: float) -> Forecast | None:
    """Return the earliest end that can be predicted, None if there is nothing to predict from.

    `spa` is True if the application's registration is of the single-page platform. `idle` is after how many seconds
    without a renewal the provider ends a sign-in, 0 for unknown.
    """
    if not sign_in.given_at:
        return None
    found = [
        _of_provider(sign_in),
        _of_platform(sign_in) if spa else None,
        _of_period(sign_in, now, FREQUENCY, "sign-in frequency of the organisation"),
        _of_period(sign_in, now, TESTING, "7 days of a Google project in testing"),
        _of_password(sign_in.endings, now),
        _of_idleness(sign_in, now, idle),
    ]
    return min(filter(None, found), key=lambda each: each.due, default=None)


def warned_at(expected: Forecast, given_at: float) -> float:
    """Return when the warnings start, as Unix time."""
    return expected.due - min(LEAD_SECONDS, max(0.0, expected.due - given_at) * LEAD_SHARE)


def ending_of(provider: str, given_at: float, ended_at: float, trouble: Trouble) -> Ending:
    """Return how a sign-in with this provider has ended."""
    lived = ended_at - given_at
    weekly = provider == GOOGLE and trouble.reason == "invalid_grant" and 0 <= lived - TESTING_LIFE <= DAY
    return Ending(given_at, ended_at, trouble.aadsts, TESTING_REASON if weekly else trouble.reason)


def remember(endings: Sequence[Ending], ending: Ending) -> tuple[Ending, ...]:
    """Return the endings to keep, oldest first, now that this sign-in has ended.

    A second ending of the same sign-in is ignored, and so is one that says nothing about the next.
    """
    if not _reason(ending) or any(each.given_at == ending.given_at for each in endings):
        return tuple(endings)
    same = [each for each in endings if _reason(each) == _reason(ending)]
    dropped = same[: max(0, len(same) + 1 - REMEMBERED)]
    return (*(each for each in endings if each not in dropped), ending)


def _reason(ending: Ending) -> str:
    return REASONS.get(ending.aadsts or 0) or _WORDS.get(ending.reason, "")


def _of_provider(sign_in: SignInFacts) -> Forecast | None:
    # It may have outlived that.
    if not sign_in.ends_at or sign_in.redeemed_at > sign_in.ends_at:
        return None
    return Forecast(sign_in.ends_at, "the provider gave it for a limited time", "certain")


def _of_platform(sign_in: SignInFacts) -> Forecast | None:
    if sign_in.redeemed_at > sign_in.given_at + SPA_LIFE + AGREE_SECONDS:
        # It has outlived the limit, so the registration is not of that platform although cms sends it an Origin.
        return None
    return Forecast(sign_in.given_at + SPA_LIFE, "24 h limit of the application's registration", "certain")


def _of_period(sign_in: SignInFacts, now: float, reason: str, words: str) -> Forecast | None:
    intervals = [each.ended_at - each.given_at for each in reversed(sign_in.endings) if _reason(each) == reason]
    # This sign-in has already lived longer than the other intervals, so those are not the period.
    open_yet = [each for each in intervals if each > 0 and sign_in.given_at + each + _tolerance(each) >= now]
    if not open_yet:
        return None
    period, seen = _period(open_yet)
    times = {1: "once", 2: "twice"}.get(seen, f"{seen} times")
    return Forecast(sign_in.given_at + period, f"{words}, seen {times}", "likely" if seen > 1 else "possible")


def _period(intervals: Sequence[float]) -> tuple[float, int]:
    """Return the period that best explains these intervals (newest first), and how many of them agree on it.

    It is the newest interval that another one agrees with: a machine that was off lengthens one interval, a new policy
    changes all that follow. Of the intervals that agree, the shortest is the most exact.
    """
    for each in intervals:
        agreeing = [other for other in intervals if abs(other - each) <= _tolerance(each)]
        if len(agreeing) > 1:
            return min(agreeing), len(agreeing)
    return min(intervals), 1


def _tolerance(interval: float) -> float:
    return max(AGREE_SECONDS, interval * AGREE_SHARE)


def _of_password(endings: Sequence[Ending], now: float) -> Forecast | None:
    """Predict the next change of the password from the time between the last ones."""
    changes = [each.ended_at for each in endings if _reason(each) == PASSWORD]
    ages = [later - earlier for earlier, later in pairwise(changes)][-HABIT:]
    if len(ages) < HABIT or min(ages) < DAY or max(ages) - min(ages) > max(ages) * AGREE_SHARE_PASSWORD:
        return None
    due = changes[-1] + min(ages)
    if now > due + max(ages) * AGREE_SHARE_PASSWORD:
        return None
    return Forecast(due, "the password was changed at such intervals", "possible")


def _of_idleness(sign_in: SignInFacts, now: float, idle: float) -> Forecast | None:
    if not idle or not sign_in.redeemed_at or now - sign_in.redeemed_at < IDLE_SHOWN:
        return None
    before = any(_reason(each) == IDLENESS for each in sign_in.endings)
    words = f"{idle / DAY:.0f} days without a renewal"
    if before:
        words += ", which has ended a sign-in before"
    return Forecast(sign_in.redeemed_at + idle, words, "certain")
