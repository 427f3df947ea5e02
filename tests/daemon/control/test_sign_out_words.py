"""What a sign-out says, and what a person agrees to before sign-ins end at their providers."""

from __future__ import annotations

from dataclasses import replace

from cms.core.accounts import Grant
from cms.core.lifecycle import Token
from cms.daemon.control.sign_out_words import SignedOut, cannot_end, expiry_of, signed_out, what_ends
from cms_oauth.providers import GOOGLE, OWN, PROVIDERS, Server

WORK = Grant("https://login.microsoftonline.com/5a5a5a5a-0000-4000-8000-000000000001", "c", "boss@x.test")
AT_GOOGLE = Grant("https://accounts.google.com", "c", "ann@x.test", provider=GOOGLE, server=PROVIDERS[GOOGLE].server)
AT_OWN = Grant("https://sso.x.test", "c", "bob@x.test", provider=OWN, server=Server("https://sso.x.test"))


def test_a_sign_out_says_what_still_works() -> None:
    """Until when, and where it is ended: for a work account, a personal one, or one that may be either."""
    work = Grant("https://login.microsoftonline.com/5a5a5a5a-0000-4000-8000-000000000001", "c", "a")
    personal = Grant("https://login.microsoftonline.com/consumers", "c", "a")
    either = Grant("https://login.microsoftonline.com/common", "c", "a")
    held = Token("t", 0.0, 4000.0, 100.0)

    hints = [signed_out(SignedOut((each,), "a", found=True), 1000.0).hint for each in (work, personal, either)]
    until = signed_out(
        SignedOut((work,), "a", found=True, expires=expiry_of([None, held], 1000.0, 5000.0)), 5000.0
    ).hint

    assert [(True, False), (False, True), (True, True)] == [
        ("mysignins.microsoft.com" in each, "account.microsoft.com" in each) for each in hints
    ]
    assert "one issued in the last hour or so may still work" in hints[0]
    assert "50 min from now" in until
    assert 0.0 == expiry_of([], 0.0, 0.0)


def test_a_sign_out_elsewhere() -> None:
    """Another provider is named; Microsoft's pages are for Microsoft's accounts only."""
    work = Grant("https://login.microsoftonline.com/5a5a5a5a-0000-4000-8000-000000000001", "c", "a")
    google = Grant("https://accounts.google.com", "c", "a", provider=GOOGLE)
    own = Grant("https://sso.example.test", "c", "a", provider="oauth2", server=Server())
    alone, both, others = (
        signed_out(SignedOut(each, "a", found=True), 1000.0).hint for each in ((google,), (work, google), (own, google))
    )

    assert "Microsoft" not in alone + others
    assert all("  Google: the account's own security settings" in each for each in (alone, both, others))
    assert "mysignins.microsoft.com" in both
    assert "  a server of your own: " in others


def test_a_logout_without_a_sign_in() -> None:
    """cms deleted nothing and says nothing else about it."""
    result = signed_out(SignedOut((), "ann@x.test", found=False), 0.0)
    assert "not signed in, so there was nothing to delete" == signed_out(SignedOut((), "", found=False), 0.0).message

    assert (True, "ann@x.test: not signed in, so there was nothing to delete", "") == (
        result.ok,
        result.message,
        result.hint,
    )


def test_a_sign_in_that_has_ended_at_its_provider() -> None:
    """Nothing is left to do elsewhere; that a server lets access tokens live on is said."""
    ended = SignedOut((AT_GOOGLE,), "ann@x.test", found=True, expires=4000.0, revoked=True)
    result = signed_out(ended, 1000.0)
    unknown = signed_out(replace(ended, expires=0.0), 1000.0)

    assert result.message.endswith("the stored sign-in deleted; it has ended at the provider too (Google)")
    assert "50 min from now" in result.hint
    assert "for an hour or so" in unknown.hint
    assert not [each for each in ("on all machines", "security settings") if each in result.hint]


def test_what_a_person_agrees_to() -> None:
    """What else ends at Google is known; of a server that says nothing, a person should expect the same."""
    named = [("ann@x.test", AT_GOOGLE), ("bob@x.test", AT_OWN)]
    alone = what_ends(named, (), ())
    mixed = what_ends(named, [("boss@x.test", WORK)], ["  carol@x.test: old"])

    assert (
        "which cannot be undone:\n  ann@x.test: Google ends every sign-in of this user to the same Google project"
        in alone
    )
    assert "  bob@x.test: a server of your own ends it, and perhaps other sign-ins" in alone
    assert mixed.endswith(
        "These are deleted here only:\n"
        "  boss@x.test: Microsoft lets no program end a sign-in by its token\n  carol@x.test: old"
    )


def test_what_no_program_can_end() -> None:
    """Each says whose move it is; the command that only deletes is named."""
    closed = replace(AT_OWN, server=Server("", "https://x.test/a", "https://x.test/t"))
    work = cannot_end([("boss@x.test", WORK)], ())
    others = cannot_end([("bob@x.test", closed)], ["  carol@x.test: old"])

    assert not work.ok
    assert "nothing was changed: boss@x.test: Microsoft lets no program end a sign-in by its token" == work.message
    assert "https://mysignins.microsoft.com" in work.hint
    assert "revokeSignInSessions" in work.hint
    assert "`cms logout boss@x.test` deletes" in work.hint
    assert "bob@x.test: a server of your own has no known way to end a sign-in" in others.message
    assert "carol@x.test: old" in others.message
    assert "`cms logout USER` deletes a sign-in here only." == others.hint


def test_a_sign_out_of_a_fleet_says_whom_it_concerns() -> None:
    """Every host, and how many hear of it; a single host's sign-out says nothing of that."""
    alone, shared = (
        signed_out(SignedOut((replace(WORK, login="a"),), "a", found=True, heard=each), 1000.0)
        for each in ("", "3 hosts hear of it.")
    )

    assert "a: signed out on every host of the fleet, and the stored sign-in deleted" == shared.message
    assert "3 hosts hear of it." == shared.hint.splitlines()[0]
    assert "fleet" not in alone.message
    assert shared.hint.splitlines()[1:] == alone.hint.splitlines()
