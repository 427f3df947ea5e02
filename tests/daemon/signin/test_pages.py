"""The local page: everything escaped, nothing of another user's, a button for each sign-in."""

from __future__ import annotations

import pytest
from support.foreign import HARMLESS, HOSTILE

from cms.daemon.signin import pages
from cms.daemon.signin.cards import Card, Offer

NASTY = """<img onerror="1">&'x'"""


def waits(label: str = "a@example.test", *lines: str, url: str = "") -> Card:
    return Card(label, "bad", "Needs you", lines, Offer("key", label, url))


@pytest.mark.parametrize(
    "page",
    [
        pages.front([Card(NASTY, "bad", NASTY, (NASTY, f"run `{NASTY}`"), Offer(NASTY, NASTY))]),
        pages.front([waits("k", NASTY, url=f"https://login.example.test/?{NASTY}")]),
        pages.ended(NASTY, [NASTY], [waits(NASTY)]),
        pages.onward(f"https://login.example.test/?{NASTY}"),
    ],
)
def test_nothing_from_outside_means_anything_in_html(page: str) -> None:
    """Whatever an account, an error or an address is called, it is text."""
    assert "<img" not in page
    assert 'onerror="' not in page
    assert "'x'" not in page


def test_an_account_that_waits_has_a_button_and_one_under_way_a_link() -> None:
    """A sign-in is started by a POST and continued by a link. The name of each says whose sign-in it is."""
    page = pages.front([waits(), waits("b@example.test", url="https://x.test/?a=1&b=2")])

    assert '<form method="post" action="/start"><input type="hidden" name="grant" value="key"><button ' in page
    assert 'aria-label="Sign in a@example.test">Sign in</button>' in page
    assert 'href="https://x.test/?a=1&amp;b=2" aria-label="Continue the sign-in of b@example.test">' in page


def test_a_card_says_its_state_and_its_lines() -> None:
    """The state has words and not only a colour; a command in a sentence looks like one."""
    page = pages.front([Card("a@example.test", "warn", "Trying again", ("Run `cms doctor` in a terminal.",))])

    assert '<li class="card warn"><h2>a@example.test</h2><span class="state">Trying again</span>' in page
    assert "<p>Run <code>cms doctor</code> in a terminal.</p>" in page


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ([], "No account is waiting for a sign-in here."),
        ([Card("a@example.test", "good", "Working")], "No account is waiting for a sign-in here."),
        ([waits(), Card("b@example.test", "good", "Working")], "One account needs you."),
        ([waits(), waits()], "2 accounts need you."),
    ],
)
def test_the_page_says_how_many_need_a_person(cards: list[Card], expected: str) -> None:
    """One sentence, which a screen reader reads again when it changes."""
    assert f'<p id="summary" role="status" tabindex="-1">{expected}</p>' in pages.front(cards)


def test_the_way_to_the_provider_is_no_form_redirect() -> None:
    """The page goes on by itself, and has a link where that does not work."""
    page = pages.onward("https://x.test/?a=1")

    assert '<meta http-equiv="refresh" content="0;url=https://x.test/?a=1">' in page
    assert '<a class="button" rel="noreferrer" href="https://x.test/?a=1">' in page


def test_an_end_shows_the_accounts_only_if_it_has_them() -> None:
    """A refusal to a stranger names no account and has no script; empty lines leave no trace."""
    alone = pages.ended("Not your page", ["It is another user's.", ""])
    onward = pages.ended("Signed in", ["a is signed in"], [waits("b@example.test")])

    assert (1, False, False) == (alone.count('class="said"'), 'id="summary"' in alone, "<script" in alone)
    assert "b@example.test" in onward


def test_the_policy_allows_our_own_style_and_script_and_nothing_else() -> None:
    """No inline script, no frame, no foreign form, no request to another place."""
    rules = dict(rule.split(" ", 1) for rule in pages.POLICY.split("; "))

    assert rules.pop("style-src").startswith("'sha256-")
    assert {
        "default-src": "'none'",
        "script-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    } == rules


def test_nothing_from_outside_turns_a_line_around() -> None:
    """Control characters and marks of direction are replaced."""
    page = pages.front([waits(HOSTILE, HOSTILE)])

    assert 3 == page.count(HARMLESS)
    assert page.replace("\n", "").isprintable()
