"""What people are told, and that they are told it once."""

from __future__ import annotations

import pytest

from cms.lifecycle import (
    Failing,
    Granted,
    Life,
    NeedsSignIn,
    Outcome,
    Refused,
    Token,
    Transient,
    Trouble,
    absorb,
    revive,
)
from cms.notices import EVENTS, GRACE_SECONDS, Notice, notice

TOKEN = Token("secret", 0.0, 3600.0, 2000.0)
NEWER = Token("newer", 100.0, 3700.0, 2100.0)
DOWN = Trouble("server", "the provider answers 503", "nobody's move")
LOCKED = Trouble("locked", "the keyring is locked", "unlock it")
REVOKED = Trouble("refused", "AADSTS50173", "cms login u@example.test")


def failing(lasted: float, trouble: Trouble = DOWN) -> Failing:
    return Failing(1000.0, 3, 1000.0 + lasted, 1100.0 + lasted, 0.0, trouble)


REQUIRED = Notice("sign-in-required", "u", "AADSTS50173", "cms login u@example.test")
TOLD_LOCKED = Notice("locked", "u", "the keyring is locked", "unlock it")
TOLD_DOWN = Notice("failing", "u", "the provider answers 503", "nobody's move")
RECOVERED = Notice("recovered", "u", "a new token came, all is well again")
SIGNED_IN = Notice("signed-in", "u", "the sign-in gave a token")

CHANGES = {
    "a refusal": (Life(TOKEN), Life(TOKEN, NeedsSignIn(5.0, REVOKED)), REQUIRED),
    "a refusal after failures": (Life(None, failing(0.0)), Life(None, NeedsSignIn(5.0, REVOKED)), REQUIRED),
    "another refusal": (Life(None, NeedsSignIn(5.0, DOWN)), Life(None, NeedsSignIn(5.0, REVOKED)), None),
    "a first failure": (Life(TOKEN), Life(TOKEN, failing(0.0)), None),
    "a failure in the grace period": (Life(TOKEN, failing(0.0)), Life(TOKEN, failing(GRACE_SECONDS - 1)), None),
    "the first failure past it": (Life(TOKEN, failing(500.0)), Life(TOKEN, failing(GRACE_SECONDS)), TOLD_DOWN),
    "another failure past it": (Life(TOKEN, failing(GRACE_SECONDS)), Life(TOKEN, failing(GRACE_SECONDS + 60)), None),
    "a locked key": (Life(TOKEN), Life(TOKEN, failing(0.0, LOCKED)), TOLD_LOCKED),
    "a key that stays locked": (Life(TOKEN, failing(0.0, LOCKED)), Life(TOKEN, failing(999.0, LOCKED)), None),
    "a locked key after an outage": (Life(TOKEN, failing(700.0)), Life(TOKEN, failing(760.0, LOCKED)), TOLD_LOCKED),
    "recovery that nobody was waiting for": (Life(TOKEN, failing(30.0)), Life(NEWER), None),
    "recovery": (Life(TOKEN, failing(GRACE_SECONDS)), Life(NEWER), RECOVERED),
    "recovery of a locked key": (Life(None, failing(0.0, LOCKED)), Life(NEWER), RECOVERED),
    "a sign-in": (Life(TOKEN, NeedsSignIn(5.0, REVOKED)), Life(NEWER), SIGNED_IN),
    "one more try of a refusal": (Life(TOKEN, NeedsSignIn(5.0, REVOKED)), Life(TOKEN), None),
    "the first token": (Life(), Life(TOKEN), None),
    "a renewal": (Life(TOKEN), Life(NEWER), None),
    "nothing": (Life(), Life(), None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_told_or_not(name: str) -> None:
    """A person hears of what needs one at once, of an outage once it lasts, of recovery only from what was told."""
    before, after, expected = CHANGES[name]

    assert expected == notice(before, after, "u")


def test_an_outage_of_hours_is_told_once_and_its_end_once() -> None:
    """However many tries an outage takes, there is one notice of it and one of its end."""
    life, now, told = Life(TOKEN), 2000.0, []
    outcomes: list[Outcome] = [*[Transient(DOWN)] * 12, Granted("newer", 0.0, 3600.0)]
    for outcome in outcomes:
        now += 1800.0
        after = absorb(life, outcome, now, 0.5)
        told.append(notice(life, after, "u"))
        life = after

    assert ["failing", "recovered"] == [each.event for each in told if each]


def test_a_refusal_that_is_tried_again_in_vain_is_told_again() -> None:
    """`cms refresh` asks for one more try, and whoever asked hears of its refusal."""
    refused = absorb(Life(TOKEN), Refused(REVOKED), 10.0, 0.5)
    again = revive(refused, 20.0)

    assert REQUIRED == notice(again, absorb(again, Refused(REVOKED), 21.0, 0.5), "u")


def test_every_event_is_in_the_table() -> None:
    """Whoever lists the events that a hook may ask for lists all that the log is told, and what hooks alone are told."""
    told = {expected.event for _, _, expected in CHANGES.values() if expected}

    assert set(EVENTS) == told | {"refreshed", "sign-in-due"}
