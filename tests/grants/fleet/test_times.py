"""The times of a fleet fit together: a claim, the exchanges in it, the moment of renewal, and when another host takes over."""

from __future__ import annotations

import pytest

from cms.core.lifecycle import LATEST_RENEWAL_SHARE, renewal_age
from cms.grants.fleet.claim import Terms, late
from cms.grants.fleet.connection import STATEMENT_SECONDS
from cms.grants.fleet.hear import POLL_SECONDS
from cms.grants.messages import QUESTION_SECONDS
from cms.grants.network.deadline import EXCHANGE_SECONDS
from cms.grants.service import ELSEWHERE_PAUSE, ELSEWHERE_REFRESH, ELSEWHERE_SECONDS

MINUTE, HOUR = 60.0, 3600.0
TERMS = Terms()

# A redemption asks a second time where consent to a scope is missing.
EXCHANGES = 2


def test_a_claim_is_long_enough_for_a_redemption() -> None:
    """Both exchanges end before the claim does, although nothing is sent in its last seconds."""
    assert EXCHANGES * EXCHANGE_SECONDS < TERMS.lease
    # The second one begins when the first has ended, at the latest.
    assert EXCHANGE_SECONDS <= TERMS.lease - EXCHANGE_SECONDS


def test_a_host_that_polls_brings_its_journals_in_time() -> None:
    """No host claims anything for one lease after a loss, and a host that only polls has brought its journals by then."""
    assert POLL_SECONDS + 2 * STATEMENT_SECONDS < TERMS.lease


@pytest.mark.parametrize(
    "life", [15 * MINUTE, 20 * MINUTE, 30 * MINUTE, 45 * MINUTE, HOUR, 1.5 * HOUR, 24 * HOUR, 28 * HOUR]
)
@pytest.mark.parametrize("refresh_before", [None, 0.0, HOUR / 2])
def test_a_host_that_ended_in_a_redemption_has_time_to_come_back(life: float, refresh_before: float | None) -> None:
    """From the latest renewal, a claim ends and its host may be back before another takes over; and the token lasts longer."""
    latest = renewal_age(life, 1.0, refresh_before)
    taken_over = life - late(life, TERMS)

    assert TERMS.lease < taken_over - latest
    assert late(life, TERMS) > ELSEWHERE_REFRESH + EXCHANGES * EXCHANGE_SECONDS


@pytest.mark.parametrize("life", [6 * MINUTE, 10 * MINUTE, HOUR, 28 * HOUR])
def test_the_other_hosts_come_while_their_token_is_good(life: float) -> None:
    """However late one host has renewed it; and one that finds another host at work comes again before the token expires."""
    assert life * (1 - LATEST_RENEWAL_SHARE) >= ELSEWHERE_REFRESH


def test_another_host_is_waited_for_within_a_question() -> None:
    """The outcome says so, before the question is given up as one that hangs."""
    assert ELSEWHERE_PAUSE < ELSEWHERE_SECONDS < QUESTION_SECONDS
