"""The local page: everything escaped, nothing of another user's."""

from __future__ import annotations

import pytest
from support.foreign import HARMLESS, HOSTILE

from cms.daemon.signin import pages
from cms.daemon.signin.pages import Offer

NASTY = """<script>alert("1")</script>&'x'"""


@pytest.mark.parametrize(
    "page",
    [
        pages.front([Offer(NASTY, NASTY)], NASTY),
        pages.front([Offer("k", NASTY, f"https://login.example.test/?{NASTY}")], ""),
        pages.ended(NASTY, [NASTY], [Offer(NASTY, NASTY)]),
        pages.onward(f"https://login.example.test/?{NASTY}"),
    ],
)
def test_nothing_from_outside_means_anything_in_html(page: str) -> None:
    """Whatever an account, an error or an address is called, it is text."""
    assert "<script" not in page
    assert 'alert("' not in page
    assert "'x'" not in page


def test_an_account_that_waits_has_a_button_and_one_under_way_a_link() -> None:
    """A sign-in is started by a POST and continued by a link."""
    page = pages.front([Offer("key", "a@example.test"), Offer("", "b@example.test", "https://x.test/?a=1&b=2")], "all")

    assert '<form method="post" action="/start"><input type="hidden" name="grant" value="key">a@example.test' in page
    assert 'b@example.test: <a rel="noreferrer" href="https://x.test/?a=1&amp;b=2">' in page
    assert "<pre>all</pre>" in page


def test_who_cannot_be_signed_in_here_is_said() -> None:
    """An account that no button helps has a sentence in the list."""
    page = pages.front([], "", ["<a@example.test>: elsewhere"])

    assert "<li>&lt;a@example.test&gt;: elsewhere</li>" in page
    assert "No account is waiting" not in page


def test_an_empty_list_is_said() -> None:
    """An empty list is a sentence."""
    assert "No account is waiting" in pages.front([], "")


def test_the_way_to_the_provider_is_no_form_redirect() -> None:
    """The page goes on by itself, and has a link where that does not work."""
    page = pages.onward("https://x.test/?a=1")

    assert '<meta http-equiv="refresh" content="0;url=https://x.test/?a=1">' in page
    assert '<a rel="noreferrer" href="https://x.test/?a=1">' in page


def test_an_end_says_what_is_next_only_if_there_is_something() -> None:
    """Empty lines and empty lists leave no trace."""
    alone = pages.ended("Signed in", ["a is signed in", ""])
    onward = pages.ended("Signed in", ["a is signed in"], [Offer("k", "b@example.test")])

    assert (1, False) == (alone.count("<p>"), "Next" in alone)
    assert "Next" in onward


def test_the_policy_allows_our_own_style_and_nothing_else() -> None:
    """No script, no frame, no foreign form."""
    assert "default-src 'none'" in pages.POLICY
    assert "frame-ancestors 'none'" in pages.POLICY
    assert "form-action 'self'" in pages.POLICY
    assert "unsafe" not in pages.POLICY


def test_nothing_from_outside_turns_a_line_around() -> None:
    """Control characters and marks of direction are replaced; the status keeps its lines."""
    page = pages.front([Offer("key", HOSTILE)], f"a\nb {HOSTILE}")

    assert HARMLESS in page
    assert f"a\nb {HARMLESS}" in page
    assert page.replace("\n", "").isprintable()
