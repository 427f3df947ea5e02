"""What is foretold of a sign-in's end, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core.forecast import (
    CERTAINTIES,
    DAY,
    HOUR,
    LEAD_SECONDS,
    REASONS,
    REMEMBERED,
    SPA_LIFE,
    TESTING_REASON,
    Forecast,
    ending_of,
    forecast,
    remember,
    warned_at,
)
from cms.core.lifecycle import Ending, SignInFacts, Trouble
from cms_oauth.providers import GOOGLE, MICROSOFT, PROVIDERS

# A moment to count from, as Unix time.
START = 1_700_000_000.0
WEEK = 7 * DAY
IDLE_LIFE = PROVIDERS[MICROSOFT].idle

FREQUENCY, PASSWORD = 70043, 50173


def lived(*days: float, aadsts: int = FREQUENCY) -> tuple[Ending, ...]:
    """Return sign-ins that lived for so many days, one after the other, the last of which ended at START."""
    at, endings = START - sum(days) * DAY, []
    for each in days:
        endings.append(Ending(at, at + each * DAY, aadsts))
        at += each * DAY
    return tuple(endings)


def foretold(endings: Sequence[Ending], now: float = START + HOUR, *, spa: bool = False) -> Forecast | None:
    """Return what is foretold of a sign-in given at START that is renewed without pause."""
    return forecast(facts(START, now, endings), spa=spa, now=now, idle=IDLE_LIFE)


def facts(given_at: float, redeemed_at: float, endings: Sequence[Ending] = ()) -> SignInFacts:
    return SignInFacts(given_at=given_at, redeemed_at=redeemed_at, endings=tuple(endings))


class TestFrequency:
    def test_one_ending_makes_it_possible(self) -> None:
        """A single sign-in that ended by the policy gives a guess."""
        expected = Forecast(START + WEEK, "sign-in frequency of the organisation, seen once", "possible")

        assert expected == foretold(lived(7))

    @pytest.mark.parametrize(("days", "words"), [((7, 7), "seen twice"), ((7, 7.05, 7.1), "seen 3 times")])
    def test_endings_that_agree_make_it_likely(self, days: tuple[float, ...], words: str) -> None:
        """Two that lived equally long tell the policy's period: the shortest is nearest to it."""
        expected = Forecast(START + WEEK, f"sign-in frequency of the organisation, {words}", "likely")

        assert expected == foretold(lived(*days))

    def test_a_machine_that_was_off_is_no_evidence(self) -> None:
        """An ending that was noticed weeks later does not hide the two that agree."""
        found = foretold(lived(7, 7, 37))

        assert found
        assert (START + WEEK, "likely") == (found.due, found.certainty)

    def test_a_new_policy_is_learnt(self) -> None:
        """Of two periods that were each seen twice the later one counts."""
        found = foretold(lived(7, 7, 30, 30))

        assert found
        assert (START + 30 * DAY, "likely") == (found.due, found.certainty)

    def test_endings_that_do_not_agree_are_one_guess(self) -> None:
        """The shortest is told, as possible: an interval may be too long, and never too short."""
        found = foretold(lived(30, 7, 14))

        assert found
        assert (START + WEEK, "possible") == (found.due, found.certainty)

    def test_what_is_outlived_is_disproved(self) -> None:
        """A sign-in that lives longer than a period has shown that the period is gone: the next is told, or none."""
        later = START + 8 * DAY
        found = foretold(lived(14, 7, 7), later)

        assert found
        assert (START + 14 * DAY, "possible") == (found.due, found.certainty)
        assert foretold(lived(7, 7), later) is None

    def test_other_endings_say_nothing(self) -> None:
        """What ended by an administrator's or an application's fault has no rhythm."""
        assert foretold(lived(7, 7, aadsts=7000222)) is None
        assert foretold((Ending(START - DAY, START, None),)) is None


class TestPlatform:
    def test_a_day_is_certain(self) -> None:
        """A registration of the single-page platform ends every sign-in after 24 hours, whatever came before."""
        found = foretold(lived(7, 7), spa=True)

        assert found
        assert (START + SPA_LIFE, "certain") == (found.due, found.certainty)

    def test_a_registration_that_proves_otherwise_is_believed(self) -> None:
        """A sign-in that was renewed after two days has no such limit."""
        assert foretold((), START + 2 * DAY, spa=True) is None


class TestPassword:
    def test_a_habit(self) -> None:
        """A password that was changed every 90 days, give or take, is changed again: possibly."""
        endings = lived(10, 90, 85, aadsts=PASSWORD)
        found = foretold(endings)

        assert Forecast(START + 85 * DAY, "the password was changed at such intervals", "possible") == found

    @pytest.mark.parametrize(
        "days",
        [(90,), (90, 90), (10, 90, 40), (10, 0.1, 0.1)],
        ids=["once", "one interval", "no rhythm", "mishaps in one day"],
    )
    def test_no_habit(self, days: tuple[float, ...]) -> None:
        """One or two changes, changes at random, and several in a day foretell nothing."""
        assert foretold(lived(*days, aadsts=PASSWORD)) is None

    def test_a_habit_that_was_given_up(self) -> None:
        """Long after the change should have been, nothing is expected any more."""
        assert foretold(lived(10, 90, 90, aadsts=PASSWORD), START + 110 * DAY) is None


class TestIdleness:
    def test_ninety_days_without_a_renewal(self) -> None:
        """While cms cannot renew, the sign-in runs out 90 days after the last renewal."""
        redeemed = START + DAY
        found = forecast(facts(START, redeemed), spa=False, now=redeemed + 8 * DAY, idle=IDLE_LIFE)

        assert Forecast(redeemed + IDLE_LIFE, "90 days without a renewal", "certain") == found

    def test_one_that_has_ended_so_is_told_of(self) -> None:
        """A person who has seen it before knows what it means."""
        ended = remember((), Ending(START - 200 * DAY, START, 700082))
        found = forecast(facts(START, START, ended), spa=False, now=START + 8 * DAY, idle=IDLE_LIFE)

        assert (
            Forecast(START + IDLE_LIFE, "90 days without a renewal, which has ended a sign-in before", "certain")
            == found
        )

    def test_a_daemon_that_renews_keeps_it_alive(self) -> None:
        """cms does not warn of a limit that a running daemon never comes near."""
        assert forecast(facts(START, START + 300 * DAY), spa=False, now=START + 301 * DAY, idle=IDLE_LIFE) is None


def test_nothing_is_foretold_of_an_unknown_sign_in() -> None:
    """Without the moment at which it was given there is nothing to count from."""
    assert forecast(facts(0.0, 0.0, lived(7, 7)), spa=True, now=START, idle=IDLE_LIFE) is None


@pytest.mark.parametrize(("days", "lead"), [(1, 0.1 * DAY), (7, 0.7 * DAY), (10, DAY), (90, DAY)])
def test_the_warning_comes_a_day_or_a_tenth_ahead(days: float, lead: float) -> None:
    """A day to plan it, and no more than a tenth of a short life."""
    assert pytest.approx(START + days * DAY - lead) == warned_at(Forecast(START + days * DAY, "", "certain"), START)


class TestMemory:
    def test_a_sign_in_ends_once(self) -> None:
        """However often a refusal is repeated, there is one ending of a sign-in."""
        first = remember((), Ending(START, START + WEEK, FREQUENCY))

        assert first == remember(first, Ending(START, START + WEEK + HOUR, FREQUENCY))
        assert (Ending(START, START + WEEK, FREQUENCY),) == first

    def test_what_says_nothing_is_not_kept(self) -> None:
        """A refusal that has nothing to do with age is no ending."""
        assert () == remember((), Ending(START, START + WEEK, 65001))
        assert () == remember((), Ending(START, START + WEEK))

    def test_weekly_endings_do_not_push_out_the_rare_ones(self) -> None:
        """Of each reason the last few are kept."""
        kept: tuple[Ending, ...] = (Ending(0.0, 1.0, PASSWORD),)
        for number in range(20):
            kept = remember(kept, Ending(START + number, START + number + WEEK, FREQUENCY))

        assert 1 + REMEMBERED == len(kept)
        assert (0.0, START + 19) == (kept[0].given_at, kept[-1].given_at)


moments = st.floats(0.0, 400 * DAY)
endings_of_all_kinds = st.lists(
    st.builds(
        Ending, moments.map(START.__add__), moments.map(START.__add__), st.sampled_from([*REASONS, 700082, 65001, None])
    ),
    max_size=12,
).map(tuple)


@given(moments, moments, endings_of_all_kinds, st.booleans(), moments)
def test_a_forecast_is_sound_whatever_was_seen(
    given_at: float, redeemed: float, endings: tuple[Ending, ...], spa: bool, now: float
) -> None:
    """Whatever the vault remembers, and whatever clocks did: words of the tables, a finite moment, a lead of a day."""
    found = forecast(facts(START + given_at, START + redeemed, endings), spa=spa, now=START + now, idle=IDLE_LIFE)

    if found:
        assert found.certainty in CERTAINTIES
        assert found.reason
        assert START - DAY <= found.due <= START + 2000 * DAY
        assert found.due - LEAD_SECONDS <= warned_at(found, START + given_at) <= found.due


@given(endings_of_all_kinds)
def test_memory_is_bounded_and_keeps_the_latest(endings: tuple[Ending, ...]) -> None:
    """However many endings there are, few are kept: in order, none of them twice."""
    kept: tuple[Ending, ...] = ()
    for each in endings:
        kept = remember(kept, each)

    assert len(kept) <= REMEMBERED * len(set(REASONS.values()))
    assert len({each.given_at for each in kept}) == len(kept)
    # One that was dropped may come again, and is the latest then.
    left = iter(endings)
    assert all(each in left for each in kept)


@given(st.floats(2 * HOUR, 300 * DAY), st.integers(2, 6), st.floats(0.0, 1.0))
def test_a_steady_policy_is_found_out(period: float, times: int, late: float) -> None:
    """Endings by one policy, each noticed up to an hour and a half late, foretell it as likely, and never too early."""
    endings, at = [], START - 10 * times * period
    for number in range(times):
        noticed = at + period + late * 1.5 * HOUR * (number % 2)
        endings.append(Ending(at, noticed, FREQUENCY))
        at = noticed
    found = forecast(facts(START, START, endings), spa=False, now=START + 1.0, idle=IDLE_LIFE)

    assert found
    assert "likely" == found.certainty
    assert period - 1.0 <= found.due - START <= period + 1.5 * HOUR


def ended(days: float, trouble: Trouble, provider: str = GOOGLE) -> Ending:
    """Return the end of a sign-in that was given so many days before START."""
    return ending_of(provider, START - days * DAY, START, trouble)


GONE = Trouble("refused", "gone", error="invalid_grant")


@pytest.mark.parametrize(
    ("days", "trouble", "provider", "expected"),
    [
        (7.05, GONE, GOOGLE, TESTING_REASON),
        (7.05, GONE, "fastmail", "invalid_grant"),
        (6.9, GONE, GOOGLE, "invalid_grant"),
        (8.5, GONE, GOOGLE, "invalid_grant"),
        (7.05, Trouble("refused", "", error="invalid_grant", suberror="invalid_rapt"), GOOGLE, "invalid_rapt"),
        (7.05, Trouble("refused", "", aadsts=70043), MICROSOFT, "AADSTS70043"),
    ],
)
def test_what_ended_a_sign_in(days: float, trouble: Trouble, provider: str, expected: str) -> None:
    """The provider's word; and where Google gives none, the seven days of a project in testing."""
    assert expected == ended(days, trouble, provider).reason


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (GONE, "7 days of a Google project in testing, seen once"),
        (
            Trouble("refused", "", error="invalid_grant", suberror="invalid_rapt"),
            "sign-in frequency of the organisation, seen once",
        ),
    ],
)
def test_another_providers_endings_foretell_the_next(trouble: Trouble, words: str) -> None:
    """Google's session control is a period, and so are the days of a project in testing."""
    found = foretold(remember((), ended(7.05, trouble)))

    assert found
    assert (words, "possible") == (found.reason, found.certainty)
    assert () == remember((), ended(3, GONE))


def test_idleness_is_the_providers() -> None:
    """Google waits for half a year; where it is not known, nothing is foretold."""
    idle = facts(START, START + 10 * DAY)
    found = forecast(idle, spa=False, now=START + 30 * DAY, idle=PROVIDERS[GOOGLE].idle)

    assert found
    assert (START + 190 * DAY, "180 days without a renewal") == (found.due, found.reason)
    assert forecast(idle, spa=False, now=START + 30 * DAY, idle=0.0) is None


def test_what_the_provider_has_said() -> None:
    """It is certain, and told from the first sign-in on; one that outlives it is believed."""
    told = replace(facts(START, START + HOUR), ends_at=START + WEEK)
    found, outlived = (
        forecast(each, spa=False, now=START + HOUR, idle=0.0)
        for each in (told, replace(told, redeemed_at=START + WEEK + HOUR))
    )

    assert Forecast(START + WEEK, "the provider gave it for a limited time", "certain") == found
    assert outlived is None
