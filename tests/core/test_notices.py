"""What people are told, and that they are told it once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.core.forecast import Forecast
from cms.core.hooks import EVENTS, GRACE_SECONDS, REMIND_SECONDS, USUAL_EVENTS, Hook
from cms.core.lifecycle import (
    Failing,
    Granted,
    Life,
    NeedsSignIn,
    Outcome,
    Refused,
    SignInFacts,
    Token,
    Transient,
    Trouble,
    absorb,
    retry_now,
)
from cms.core.notices import (
    NOTHING_HEARD,
    Facts,
    Heard,
    Hearing,
    HowToSignIn,
    Notice,
    first_heard,
    hear,
)
from cms_oauth.moves import cms

TOKEN = Token("secret", 0.0, 3600.0, 2000.0)
NEWER = Token("newer", 5000.0, 8600.0, 7000.0)
DOWN = Trouble("server", "the provider answers 503", "nobody's move")
LOCKED = Trouble("locked", "the keyring is locked", "unlock it")
REVOKED = Trouble("refused", "AADSTS50173", "cms login u@example.test")


def failing(lasted: float, trouble: Trouble = DOWN) -> Failing:
    return Failing(1000.0, 3, 1000.0 + lasted, 1100.0 + lasted, 0.0, trouble)


BLOCKED = absorb(Life(), Refused(REVOKED, by_connection=True), 1000.0, 0.5)
LOOKED_AT = "cms login u@example.test; or wait: cms asks again by itself, and a minute after the network has changed"

REQUIRED = Notice("sign-in-required", "u", "AADSTS50173", "cms login u@example.test")
TOLD_LOCKED = Notice("locked", "u", "the keyring is locked", "unlock it")
TOLD_DOWN = Notice("failing", "u", "the provider answers 503", "nobody's move")
RECOVERED = Notice("recovered", "u", "a new token came, all is well again")
SIGNED_IN = Notice("signed-in", "u", "the sign-in gave a token")

CHANGES = {
    "a refusal": (Life(TOKEN), Life(TOKEN, NeedsSignIn(5.0, REVOKED)), REQUIRED),
    "a refusal after failures": (Life(None, failing(0.0)), Life(None, NeedsSignIn(5.0, REVOKED)), REQUIRED),
    "an application refused": (Life(TOKEN), Life(TOKEN, NeedsSignIn(5.0, DOWN, 900.0)), TOLD_DOWN),
    "an application that works again": (Life(TOKEN, NeedsSignIn(5.0, DOWN, 900.0)), Life(NEWER), RECOVERED),
    "a refusal for another reason": (
        Life(None, NeedsSignIn(5.0, DOWN)),
        Life(None, NeedsSignIn(5.0, REVOKED)),
        REQUIRED,
    ),
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


# As the log is told: `cms.daemon.hooks.LOG`.
LOG = Hook((), remind=0.0, prompts=False, each_refusal=True)


def told(*lives: tuple[float, Life]) -> list[Notice]:
    """Return what the log is told of the last of these lives, each of which begins at a moment."""
    heard, notices = first_heard(Facts("u", [Life()])), list[Notice]()
    for now, life in lives:
        hearing = hear(LOG, heard, Facts("u", [life]), now)
        heard, notices = hearing.heard, list(hearing.notices)
    return notices


def moment(life: Life) -> float:
    return life.phase.last_try if isinstance(life.phase, Failing) else 10.0


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_told_or_not(name: str) -> None:
    """A person hears of what needs one at once, of an outage once it lasts, of recovery only from what was told."""
    before, after, expected = CHANGES[name]
    at = moment(before)

    assert [expected] * bool(expected) == told((at, before), (max(at, moment(after)), after))


def test_an_outage_of_hours_is_told_once_and_its_end_once() -> None:
    """However many tries an outage takes, there is one notice of it and one of its end."""
    lives, now = [(2000.0, Life(TOKEN))], 2000.0
    outcomes: list[Outcome] = [*[Transient(DOWN)] * 12, Granted("newer", 1e6, 3600.0)]
    for outcome in outcomes:
        now += 1800.0
        lives.append((now, absorb(lives[-1][1], outcome, now, 0.5)))
    events = [each.event for end in range(len(lives)) for each in told(*lives[: end + 1])]

    assert ["failing", "recovered"] == events


def test_a_refusal_that_is_tried_again_in_vain_is_told_again() -> None:
    """`cms refresh` asks for one more try, and the log has its refusal too."""
    refused = absorb(Life(TOKEN), Refused(REVOKED), 10.0, 0.5)
    again = absorb(retry_now(refused, 20.0), Refused(REVOKED), 21.0, 0.5)

    assert [REQUIRED] == told((10.0, refused), (21.0, again))
    assert [] == told((10.0, refused), (21.0, refused))


def test_each_notice_says_whose_account_it_is() -> None:
    """Bad news and good."""
    refused = absorb(Life(TOKEN), Refused(REVOKED), 10.0, 0.5)
    facts = Facts("u", [refused], provider="google")

    assert ["google"] == [each.provider for each in hear(LOG, NOTHING_HEARD, facts, 10.0).notices]


def test_every_event_is_in_the_table() -> None:
    """The table lists every event that a hook may ask for: those that the log is told, and those for hooks alone."""
    told = {expected.event for _, _, expected in CHANGES.values() if expected}

    assert set(EVENTS) == told | {"refreshed", "sign-in-due"}


# What hooks are told.

ALL = Hook(("hook",), events=tuple(EVENTS))
NOW = 5000.0
OUT = Trouble("signed-out", "the sign-in was cancelled")
DUE = Forecast(1_800_000_000.0, "sign-in frequency", "likely")


def token(issued: float) -> Token:
    return Token("secret", issued, issued + 3600.0, issued + 2000.0)


def link(url: str = "", **more: str) -> HowToSignIn:
    return HowToSignIn(cms("login", "u"), url, **more)


HOW = link()


def well(issued: float = 1000.0, how: HowToSignIn = HOW, **more: Any) -> Facts:
    """An account that has a token."""
    return Facts("u", [Life(token(issued))], how, sign_in=SignInFacts(given_at=100.0), **more)


def ended(how: HowToSignIn = HOW, **more: Any) -> Facts:
    """An account that needs a sign-in, with a token that is good for a while."""
    lives = [Life(token(1000.0), NeedsSignIn(4000.0, REVOKED))]
    return Facts("u", lives, how, sign_in=SignInFacts(given_at=100.0), **more)


def failing_since(since: float, trouble: Trouble = DOWN) -> Facts:
    phase = Failing(since, 3, since + 60.0, since + 120.0, 0.0, trouble)
    return Facts("u", [Life(token(1000.0), phase)], sign_in=SignInFacts(given_at=100.0))


@dataclass
class Listener:
    """A hook, and what it has been told so far."""

    hook: Hook = ALL
    heard: Heard = field(default_factory=lambda: first_heard(well()))
    last: Hearing | None = None

    def hears(self, facts: Facts, now: float = NOW) -> list[str]:
        """Return the events that it is told."""
        return [each.event for each in self.notices(facts, now)]

    def notices(self, facts: Facts, now: float = NOW) -> tuple[Notice, ...]:
        self.last = hear(self.hook, self.heard, facts, now)
        self.heard = self.last.heard
        return self.last.notices

    @property
    def again(self) -> float:
        assert self.last
        return self.last.again


class TestHook:
    def test_what_was_there_before_is_no_news(self) -> None:
        """A hook that comes to an account where all is well hears nothing."""
        assert [] == Listener().hears(well())
        assert (Heard(newest=1000.0, given_at=100.0), math.inf) == (first_heard(well()), math.inf)

    def test_a_required_sign_in_is_told_with_the_command_and_the_page(self) -> None:
        """What happened, whose move it is, the command, the page, and Entra's number."""
        lost = replace(REVOKED, aadsts=50173)
        page = link(page="http://127.0.0.1:8080/")
        facts = replace(ended(how=page), lives=[Life(None, NeedsSignIn(1.0, lost))])
        told = Listener().notices(facts)

        expected = Notice(
            "sign-in-required",
            "u",
            "AADSTS50173",
            "cms login u@example.test",
            page,
            aadsts=50173,
            reason="AADSTS50173",
        )
        assert (expected,) == told

    def test_it_is_told_again_until_it_is_done(self) -> None:
        """Once, then at each interval, and no more once a newer token is there."""
        each = Listener()

        assert ["sign-in-required"] == each.hears(ended())
        assert NOW + REMIND_SECONDS == each.again
        assert [] == each.hears(ended(), NOW + REMIND_SECONDS - 1)
        assert ["sign-in-required"] == each.hears(ended(), NOW + REMIND_SECONDS)
        assert NOW + 2 * REMIND_SECONDS == each.again
        assert ["signed-in", "refreshed"] == each.hears(well(NOW + REMIND_SECONDS + 5), NOW + REMIND_SECONDS + 9)
        assert [] == each.hears(well(NOW + REMIND_SECONDS + 5), NOW + 9 * REMIND_SECONDS)

    def test_a_refused_application_asks_for_no_sign_in(self) -> None:
        """cms reports at once that it fails and what to fix; later, that it works again."""
        each = Listener()
        lives = [Life(token(1000.0), NeedsSignIn(4000.0, DOWN, NOW + 900.0))]
        refused = replace(ended(), lives=lives, how=HowToSignIn())

        assert [replace(TOLD_DOWN, aadsts=None)] == list(each.notices(refused))
        assert ([], math.inf) == (each.hears(refused, NOW + 1e6), each.again)
        assert ["recovered", "refreshed"] == each.hears(well(NOW + 950.0), NOW + 1000.0)

    def test_a_refused_sign_in_is_told_once(self) -> None:
        """What stands in the way is news; what it is, told, no more until the next reminder."""
        each = Listener()
        each.hears(ended())
        blocked = Trouble("refused", "a policy blocks this sign-in", "the administrator", aadsts=53003)
        refused = replace(ended(), lives=[Life(token(1000.0), NeedsSignIn(4000.0, blocked))])
        told = each.notices(refused, NOW + 60)

        assert [("sign-in-required", "a policy blocks this sign-in", "the administrator", 53003)] == [
            (one.event, one.message, one.hint, one.aadsts) for one in told
        ]
        assert ([], NOW + 60 + REMIND_SECONDS) == (each.hears(refused, NOW + 61), each.again)
        assert ["signed-in", "refreshed"] == each.hears(well(NOW + 90), NOW + 91)

    def test_no_reminders_where_none_are_wanted(self) -> None:
        """With 0 it is told once."""
        each = Listener(replace(ALL, remind=0.0))

        assert ["sign-in-required"] == each.hears(ended())
        assert ([], math.inf) == (each.hears(ended(), NOW + 1e6), each.again)

    def test_a_try_that_is_not_answered_yet_is_no_sign_in(self) -> None:
        """`cms refresh` makes it look well for a moment: neither its end nor its beginning is told."""
        each = Listener()
        each.hears(ended())

        assert [] == each.hears(well())
        assert [] == each.hears(ended(), NOW + 1)

    def test_the_link_is_told_at_once_and_in_reminders(self) -> None:
        """A sign-in that begins is told with its link and code, once; a reminder has them again."""
        each = Listener()
        waiting = ended(how=link("https://login/device", code="ABCD"), prompt_hint="open it and enter ABCD")
        each.hears(ended())
        told = each.notices(waiting, NOW + 60)

        assert ("https://login/device", "ABCD", "open it and enter ABCD", "AADSTS50173") == (
            told[0].how.url,
            told[0].how.code,
            told[0].hint,
            told[0].message,
        )
        assert [] == each.hears(waiting, NOW + 61)
        assert "ABCD" == each.notices(waiting, NOW + 60 + REMIND_SECONDS)[0].how.code
        assert [] == each.hears(ended(), NOW + 70 + REMIND_SECONDS)

    def test_a_sign_in_that_was_not_needed(self) -> None:
        """A person who signs in early gets the link and the result, and no reminder."""
        each = Listener()

        assert ["sign-in-required"] == each.hears(well(how=link("https://login/1")))
        assert [] == each.hears(well(how=link("https://login/1")), NOW + 2 * REMIND_SECONDS)
        assert [] == each.hears(well())
        assert ["signed-in", "refreshed"] == each.hears(replace(well(NOW), sign_in=SignInFacts(given_at=200.0)))

    def test_the_desktop_is_not_told_of_what_was_begun_in_front_of_it(self) -> None:
        """Without `prompts` a link is part of a notice that is due, and no reason for one."""
        each = Listener(replace(ALL, prompts=False))

        assert [] == each.hears(well(how=link("https://login/1")))
        assert "https://login/1" == each.notices(ended(how=link("https://login/1")))[0].how.url
        assert [] == each.hears(ended(how=link("https://login/2")))

    def test_who_signed_out_is_not_asked_to_sign_in(self) -> None:
        """`cms logout` is the person's wish."""
        assert [] == Listener().hears(Facts("u", [Life(None, NeedsSignIn(1.0, OUT))]))

    def test_an_outage_is_told_after_the_hooks_own_grace(self) -> None:
        """At the very moment, by the clock and not by the next try; its end only if it was told."""
        patient, hasty = Listener(), Listener(replace(ALL, grace=30.0))

        assert ["failing"] == hasty.hears(failing_since(NOW - 30))
        assert ([], NOW - 30 + GRACE_SECONDS) == (patient.hears(failing_since(NOW - 30)), patient.again)
        assert ["recovered", "refreshed"] == hasty.hears(well(NOW + 5), NOW + 6)
        assert ["refreshed"] == patient.hears(well(NOW + 5), NOW + 6)

    def test_a_locked_key_is_told_at_once(self) -> None:
        """Only a person unlocks it."""
        each = Listener()

        assert ["locked"] == each.hears(failing_since(NOW, LOCKED))
        assert [] == each.hears(failing_since(NOW, LOCKED), NOW + 999)
        assert ["recovered", "refreshed"] == each.hears(well(NOW + 1000), NOW + 1001)

    def test_the_worst_is_told(self) -> None:
        """Of several tokens of one sign-in, what needs a person first."""
        lives = [*failing_since(NOW - 9999).lives, *failing_since(NOW, LOCKED).lives, *ended().lives]
        each = Listener()

        assert ["sign-in-required"] == each.hears(Facts("u", lives))
        assert ["locked"] == each.hears(Facts("u", lives[:2]))
        assert ["failing"] == each.hears(Facts("u", lives[:1]))

    def test_the_end_is_foretold_once_for_each_sign_in(self) -> None:
        """At the moment of the warning, with reason, certainty and command; again only of the next sign-in."""
        each = Listener()
        near = well(forecast=DUE, warn_at=NOW + 10)

        assert ([], NOW + 10) == (each.hears(near), each.again)
        told = each.notices(near, NOW + 10)
        expected = Notice(
            "sign-in-due",
            "u",
            "the sign-in is expected to end soon: sign-in frequency (likely)",
            "sign in before mail has to wait: `cms login u`",
            link(),
            due=DUE.due,
        )
        assert (expected,) == told
        assert ([], math.inf) == (each.hears(near, NOW + 20), each.again)
        assert ["signed-in", "sign-in-due"] == each.hears(
            replace(near, sign_in=replace(near.sign_in, given_at=200.0)), NOW + 30
        )

    def test_an_application_asks_for_no_sign_in(self) -> None:
        """An account without a person's sign-in has no such command."""
        told = Listener().notices(well(forecast=DUE, warn_at=0.0, how=HowToSignIn()))

        assert ("sign-in-due", "") == (told[0].event, told[0].hint)

    def test_only_what_was_asked_for(self) -> None:
        """What a hook has not asked for is kept in mind all the same: the sign-in that ends a trouble is told."""
        each = Listener(replace(ALL, events=("signed-in",)))

        assert [] == each.hears(ended())
        assert ["signed-in"] == each.hears(well(NOW + 1), NOW + 2)

    def test_each_new_token_is_told_to_hooks_that_ask(self) -> None:
        """`refreshed` is not among the usual events."""
        each = Listener()

        assert ["refreshed"] == each.hears(well(2000.0))
        assert [] == each.hears(well(2000.0))
        assert {"refreshed"} == set(EVENTS) - set(USUAL_EVENTS)


phases = st.one_of(
    st.just(Life(None).phase),
    st.builds(NeedsSignIn, st.floats(0, 1e5), st.sampled_from([REVOKED, OUT])),
    st.builds(lambda since, trouble: failing_since(since, trouble).lives[0].phase, st.floats(0, 1e5), st.just(DOWN)),
    st.builds(lambda since, trouble: failing_since(since, trouble).lives[0].phase, st.floats(0, 1e5), st.just(LOCKED)),
)
lives_of_all_kinds = st.builds(Life, st.none() | st.floats(0, 1e5).map(token), phases)
facts_of_all_kinds = st.builds(
    Facts,
    st.just("u"),
    st.lists(lives_of_all_kinds, max_size=3),
    how=st.builds(link, st.sampled_from(["", "https://login/1", "https://login/2"])),
    sign_in=st.builds(SignInFacts, given_at=st.sampled_from([0.0, 100.0, 200.0])),
    forecast=st.sampled_from([None, DUE]),
    warn_at=st.floats(0, 1e5),
)


@given(st.lists(st.tuples(facts_of_all_kinds, st.floats(0.001, 1e4)), max_size=12), st.booleans())
def test_nothing_is_told_twice_at_one_moment(steps: list[tuple[Facts, float]], prompts: bool) -> None:
    """Whatever happens: looking again at once tells nothing, and the next look is never now or earlier."""
    each, now = Listener(replace(ALL, prompts=prompts), Heard()), 0.0
    for facts, pause in steps:
        now += pause
        each.hears(facts, now)

        assert each.again > now
        assert [] == each.hears(facts, now)


def test_a_refusal_that_is_looked_at_again_says_when() -> None:
    """A person is called as ever, with the time of the next look; one more refused look is told to nobody again."""
    facts = Facts("u", [BLOCKED], wall_ahead=1e9)
    heard = hear(Hook(("x",)), Heard(), facts, 1600.0)
    again = Facts("u", [absorb(BLOCKED, Refused(REVOKED, by_connection=True), 2800.0, 0.5)], wall_ahead=1e9)
    later = hear(Hook(("x",), remind=0.0, each_refusal=True), heard.heard, again, 2801.0)

    expected = Notice(
        "sign-in-required", "u", "AADSTS50173", f"{LOOKED_AT}; the next time in 20 min", retry_at=1e9 + 2800.0
    )
    assert ((expected,), ()) == (heard.notices, later.notices)


def test_a_sign_in_under_way_is_what_to_finish() -> None:
    """Its link comes before that cms asks again."""
    facts = Facts("u", [BLOCKED], how=HowToSignIn(url="https://x/"), prompt_hint="open https://x/")

    assert ["open https://x/"] == [each.hint for each in hear(Hook(("x",)), Heard(), facts, 1600.0).notices]
