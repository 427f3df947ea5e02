"""What the page says of an account: one state, the reason, and what is next; nothing that belongs in a terminal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from support.status_rows import ENTRIES, EXPECTED, NOW, REVOKED, TOKEN, WALL, entry, given, row_of

from cms.core.lifecycle import Life, NeedsSignIn, SignInFacts
from cms.core.monitoring import states
from cms.core.status import STATES, describe
from cms.core.status_table import summary
from cms.core.words import WORST_FIRST
from cms.daemon.signin.cards import Offer, card

ANN = "a@example.test"
OFFER = Offer("key", ANN)


def test_each_state_has_a_look_and_a_name() -> None:
    """No state of the status is unknown to the page."""
    rows = map(row_of, ENTRIES)
    looks = {row.state: (shown.level, shown.state) for row in rows for shown in [card(ANN, [row])]}

    assert set(STATES) == set(looks)
    assert ("good", "Working") == looks["ok"]
    assert ("bad", "Needs you") == looks["sign-in-required"]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_page_does_not_say_what_its_button_does(name: str) -> None:
    """Beside a button no line tells a person to sign in or to open a page: they are there."""
    facts = replace(ENTRIES[name], page="http://127.0.0.1:1/")
    lines = " ".join(card(ANN, describe([facts], NOW, WALL), OFFER).lines)

    assert ("cms login" not in lines, "http://" not in lines) == (True, True)


def test_an_account_without_a_button_says_what_to_do() -> None:
    """A sign-in that belongs in a terminal is named once, with its command."""
    shown = card(ANN, [row_of("sign-in-required")], None, "Run `cms login a@example.test` in a terminal.")

    assert "The sign-in was revoked." in shown.lines
    assert 1 == " ".join(shown.lines).count("cms login")


def test_a_sign_in_under_way_elsewhere_is_said() -> None:
    """A code in a terminal is awaited: the button would start another sign-in in its place."""
    row = row_of("signing-in")

    assert "A sign-in is under way in a terminal." in card(ANN, [row], OFFER).lines
    assert "A sign-in is under way in a terminal." not in card(ANN, [row], replace(OFFER, url="https://x.test")).lines
    assert any(row.signing_in in line for line in card(ANN, [row]).lines)


def test_trouble_says_when_cms_tries_again() -> None:
    """The provider's failure, in a sentence, and the time of the next try."""
    lines = card(ANN, [row_of("failing")]).lines

    assert ("The identity provider answers 503.", "cms tries again in 2 min.") == lines[1:3]


def test_a_working_account_says_when_a_person_is_needed() -> None:
    """The renewal, and when the next sign-in is expected."""
    lines = card(ANN, [given(1, forecast=EXPECTED)]).lines

    assert "The token is renewed in 30 min." in lines
    assert "Next sign-in expected in 2 d: sign-in frequency of the organisation, seen twice." in lines


def test_a_warning_shows_beside_a_working_account() -> None:
    """An account that works and will not go on working is not shown as if all were well."""
    row = describe([entry(Life(TOKEN), sign_in=SignInFacts(credential_expires=WALL + 86_400.0))], NOW, WALL)[0]
    shown = card(ANN, [row])

    assert ("warn", "Working, with a warning") == (shown.level, shown.state)
    assert any(line.startswith("The application's certificate ends in 1 d") for line in shown.lines)


def test_the_worst_token_names_the_state() -> None:
    """An account with two tokens says which of them fails."""
    well = row_of("ok")
    shown = card(ANN, [well, replace(row_of("sign-in-required"), protocols=("GRAPH",))], OFFER)

    assert ("bad", "Needs you") == (shown.level, shown.state)
    assert {"Used for sending (SMTP), reading (IMAP). Working.", "Used for GRAPH. Needs you."} <= set(shown.lines)


def test_whose_account_it_is() -> None:
    """An account of another provider than Microsoft says so; the button leads to that provider's page."""
    assert (
        "Used for sending (SMTP), reading (IMAP) at Google."
        in card(ANN, [replace(row_of("ok"), provider="google")]).lines
    )


@pytest.mark.parametrize(("worse", "better"), [*pairwise(WORST_FIRST)])
def test_page_table_and_monitoring_agree_which_state_is_worse(worse: str, better: str) -> None:
    """Of an account with two tokens each shows the same one."""
    rows = [replace(row_of("ok"), state=state, user=ANN) for state in (better, worse)]
    documents = [{"user": ANN, "state": row.state, "grant": "g"} for row in rows]

    assert card(ANN, rows).state == card(ANN, rows[1:]).state
    assert f"1 account: 1 {worse}" == summary(documents)
    assert [worse] == [state for state, count in states((row.user, row.state) for row in rows).items() if count]


def test_every_state_has_its_place() -> None:
    """A new one has to say how bad it is."""
    assert set(STATES) == set(WORST_FIRST)


def test_times_change_once_a_minute() -> None:
    """A page that renews itself every two seconds is not replaced for a second less."""

    def renewed_in(seconds: int) -> tuple[str, ...]:
        return card(ANN, describe([entry(Life(replace(TOKEN, refresh_at=NOW + seconds)))], NOW, WALL)).lines

    assert "The token is renewed in less than a minute." in renewed_in(59)
    assert "The token is renewed in 3 min." in renewed_in(239)


def test_a_sentence_begins_and_ends_as_one() -> None:
    """An address keeps its letters, and a message its own full stop."""
    for message, expected in ((f"{ANN} has not signed in yet", f"{ANN} has not signed in yet."), ("Stop.", "Stop.")):
        refused = NeedsSignIn(NOW, replace(REVOKED, message=message))
        row = describe([entry(Life(None, refused))], NOW, WALL)[0]

        assert expected in card(ANN, [row], OFFER).lines
