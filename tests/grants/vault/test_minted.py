from __future__ import annotations

from dataclasses import replace

import pytest

from cms.core.lifecycle import LONGEST_LIFE, Granted, SignInFacts
from cms.grants.vault import minted
from cms.grants.vault.minted import LEAST_LEFT, Moment

HOUR = 3600.0
SCOPES = ("https://outlook.office.com/SMTP.Send",)
NOON = Moment(1_700_000_000.0, 5000.0, "this boot")
TOKEN = minted.keep(Granted("secret", NOON.boot - 2.0, HOUR, ("granted",)), SCOPES, NOON, "proof")
# How it is handed out, which says when it was minted.
FACTS = SignInFacts(redeemed_at=NOON.wall - 2.0)


def later(seconds: float, **more: object) -> Moment:
    """The present, this much later in the same boot."""
    return replace(NOON, wall=NOON.wall + seconds, boot=NOON.boot + seconds, **more)  # type: ignore[arg-type]  # each test gives fields of it


def after_reboot(seconds: float) -> Moment:
    """The present, in another boot, by the wall clock this much later."""
    return Moment(NOON.wall + seconds, 60.0, "the next boot")


def test_kept_as_it_came() -> None:
    """By both clocks from when it was asked for; the secret is not in its repr."""
    assert (SCOPES, "secret", ("granted",), HOUR) == (TOKEN.asked, TOKEN.secret, TOKEN.scopes, TOKEN.life)
    assert Moment(NOON.wall - 2.0, NOON.boot - 2.0, "this boot") == TOKEN.minted
    assert "secret" not in repr(TOKEN)
    assert ("proof", False) == (TOKEN.proof, TOKEN.refused)
    assert "proof=" not in repr(TOKEN)


@pytest.mark.parametrize("at", [NOON, later(10.0), later(HOUR - 2.0 - LEAST_LEFT)])
def test_good_in_the_same_boot(at: Moment) -> None:
    """With the life that it came with, from when it was asked for."""
    assert Granted("secret", NOON.boot - 2.0, HOUR, ("granted",), FACTS) == minted.granted(TOKEN, at)


def test_one_whose_successor_was_refused() -> None:
    """It is handed out, and said to be doubtful."""
    granted = minted.granted(replace(TOKEN, refused=True), NOON)

    assert granted is not None
    assert granted.doubtful


def test_good_after_a_reboot() -> None:
    """Its age is by the wall clock, and `issued` by the new boot's, before which it may lie."""
    assert Granted("secret", 60.0 - 602.0, HOUR, ("granted",), FACTS) == minted.granted(TOKEN, after_reboot(600.0))


@pytest.mark.parametrize("at", [later(HOUR), after_reboot(HOUR), later(HOUR - LEAST_LEFT), after_reboot(90 * HOUR)])
def test_over(at: Moment) -> None:
    """Or nearly so: a new one is fetched at once."""
    assert minted.granted(TOKEN, at) is None


@pytest.mark.parametrize("back", [1.0, HOUR / 2, HOUR, 24 * HOUR])
def test_a_clock_that_was_set_back_makes_no_expired_token_good(back: float) -> None:
    """In the same boot the boot clock tells its age, whatever the wall clock says."""
    expired = later(HOUR + 10.0)

    assert minted.granted(TOKEN, replace(expired, wall=expired.wall - back)) is None
    # The twin: without the boot clock, it would be.
    fooled = minted.granted(TOKEN, after_reboot(60.0))
    assert fooled is not None


@pytest.mark.parametrize(
    "at",
    [after_reboot(-3.0), after_reboot(-24 * HOUR), Moment(0.0, 10.0, "the next boot"), after_reboot(50.0)],
)
def test_a_token_that_is_younger_than_the_boot_is_not_good(at: Moment) -> None:
    """It came in an earlier one: the machine has lost its clock while it was off, or it was set back since."""
    assert minted.granted(TOKEN, at) is None


def test_a_wall_clock_that_was_set_forward() -> None:
    """The one that says expired is believed: another token costs less than one that a server refuses."""
    assert minted.granted(TOKEN, replace(later(60.0), wall=NOON.wall + HOUR)) is None


def test_an_unknown_boot_is_no_boot() -> None:
    """Where /proc does not name it, the wall clock alone decides."""
    unknown = replace(TOKEN, minted=replace(TOKEN.minted, boot_id=""))

    assert minted.granted(unknown, Moment(NOON.wall, 1.0, "")) is not None


@pytest.mark.parametrize("life", [float("nan"), float("-inf"), -1.0, 0.0])
def test_a_life_that_is_none(life: float) -> None:
    """Who has the key may have written anything."""
    assert minted.granted(replace(TOKEN, life=life), NOON) is None


def test_the_longest_life() -> None:
    """As for a token that has just come."""
    eternal = replace(TOKEN, life=365 * 24 * HOUR)
    granted = minted.granted(eternal, NOON)

    assert granted is not None
    assert LONGEST_LIFE == granted.expires_in
    assert minted.granted(eternal, later(LONGEST_LIFE)) is None


def test_the_present() -> None:
    """Goes on, and names this boot."""
    first, second = minted.now(), minted.now()

    assert first.wall <= second.wall
    assert first.boot <= second.boot
    assert first.boot_id == second.boot_id != ""
