"""Who has signed in, and what their token is for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jwt
import pytest
from support.grants import ANN, BEN
from support.worlds import MORE, World, trouble, with_two_scopes

from cms.core.lifecycle import Granted, Refused
from cms.grants.network.http import MAX_ANSWER
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID
from cms.sandbox.issuer import Issuer
from cms_oauth.providers import GOOGLE, PROVIDERS


def id_token(server: Issuer, **claims: Any) -> str:
    """Return an id token of the server's for the client, but for these claims; `...` removes one."""
    now = int(time.time())
    usual = {"iss": server.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 600, "sub": "1", "email": ANN} | claims
    return jwt.encode({name: value for name, value in usual.items() if value is not ...}, "k" * 32, "HS256")


def test_the_subject_is_the_issuers(at_google: World, google: Issuer) -> None:
    """Names change; this does not, and no two issuers share one."""
    assert f"{google.issuer} {google.issued.user(ANN).oid}" == at_google.sign_in().subject


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": "accounts.google.com"},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"nonce": "of another sign-in"},
        {"nonce": ...},
    ],
)
def test_an_id_token_of_something_else(at_google: World, google: Issuer, claims: dict[str, Any]) -> None:
    """It proves nothing of this sign-in (OpenID Connect Core, 3.1.3.7)."""
    google.faults.add(Fault("fields", fields={"id_token": id_token(google, **claims)}))

    assert "garbage" == trouble(at_google.sign_in())


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("", True),
        ("accounts.google.com", True),
        ("http://accounts.google.com", False),
        ("accounts.google.com.evil.example", False),
        ("Accounts.google.com", False),
    ],
)
def test_googles_two_names(at_google: World, google: Issuer, name: str, *, good: bool) -> None:
    """Its tokens may have its name without https, as the row says; no other spelling is taken for it."""
    row = PROVIDERS[GOOGLE].server
    assert row
    assert at_google.grant.server
    known = replace(at_google.grant.server, aliases=row.aliases)
    google.habits.named = name
    end = replace(at_google, grant=replace(at_google.grant, server=known)).sign_in()

    assert good == isinstance(end.outcome, Granted)
    assert end.subject == (f"{google.issuer} {google.issued.user(ANN).oid}" if good else "")


def test_an_id_token_that_is_none(at_google: World, google: Issuer) -> None:
    """Then the userinfo endpoint is asked."""
    google.faults.add(Fault("fields", fields={"id_token": "nonsense"}))

    assert (ANN, 1) == (at_google.sign_in().who, google.count("userinfo"))


def test_a_name_in_the_id_token_needs_no_further_question(at_google: World, google: Issuer) -> None:
    """Google has it there."""
    assert (ANN, 0) == (at_google.sign_in().who, google.count("userinfo"))


def test_a_name_that_only_userinfo_has(at_strict: World, strict: Issuer) -> None:
    """Servers may leave it out of the id token (OpenID Connect Core, 5.4)."""
    assert (ANN, 1) == (at_strict.sign_in().who, strict.count("userinfo"))


def test_a_server_of_ones_own_is_asked_for_the_name(at_strict: World) -> None:
    """There the account's scopes say it all: openid among them is enough."""
    assert at_strict.grant.server
    server = replace(at_strict.grant.server, identity=())
    scopes = (*at_strict.scopes, "openid", "email", "offline_access")
    world = replace(at_strict, grant=replace(at_strict.grant, server=server, scope_sets=(scopes,)))

    assert (ANN, "wrong-user") == (world.sign_in().who, trouble(world.sign_in(BEN)))


def test_userinfo_of_another_person(at_strict: World, strict: Issuer) -> None:
    """It has to be about the person of the id token (5.3.2)."""
    strict.faults.add(Fault("fields", "userinfo", fields={"sub": "another"}))

    assert "garbage" == trouble(at_strict.sign_in())


def test_userinfo_in_trouble(at_strict: World, strict: Issuer) -> None:
    """Nobody is signed in whose name was to be compared, and could not be."""
    strict.faults.add(Fault("status", "userinfo", status=503))
    assert "server" == trouble(at_strict.sign_in())
    strict.faults.add(Fault("reset", "userinfo"))
    assert "network" == trouble(at_strict.sign_in())
    strict.faults.add(Fault("fields", "userinfo", fields={"padding": "x" * MAX_ANSWER}))
    assert "garbage" == trouble(at_strict.sign_in())


@pytest.mark.parametrize("user", [ANN, BEN])
def test_a_person_without_a_name(at_strict: World, strict: Issuer, user: str) -> None:
    """A provider that says who, and not by what name, could be saying anybody: what to set is said, and nothing is kept."""
    strict.faults.add(Fault("status", "userinfo", status=403))
    end = at_strict.sign_in(user)

    assert isinstance(end.outcome, Refused)
    assert ("wrong-user", "", "") == (end.outcome.trouble.kind, end.cache, end.who)
    assert "the name of who signed in (email or preferred_username)" in end.outcome.trouble.message
    assert all(each in end.outcome.trouble.hint for each in ("username_claim=", "leave openid out of scopes="))


def test_a_claim_that_is_not_there(at_google: World) -> None:
    """A slip in `username_claim=` lets nobody in."""
    assert at_google.grant.server
    server = replace(at_google.grant.server, who=("emial",))
    end = replace(at_google, grant=replace(at_google.grant, server=server)).sign_in()

    assert "wrong-user" == trouble(end)


@pytest.mark.parametrize("fields", [{}, {"id_token": "nonsense"}])
def test_a_provider_that_knows_no_openid(at_strict: World, strict: Issuer, fields: dict[str, Any]) -> None:
    """It ignores that it was asked, or what it says cannot be read: the configuration is believed, and that is said."""
    assert at_strict.grant.server
    url = strict.endpoints.url
    server = replace(at_strict.grant.server, authorization_endpoint=url("authorize"), token_endpoint=url("token"))
    strict.faults.add(Fault("fields", fields={"id_token": ..., **fields}))
    end = replace(at_strict, grant=replace(at_strict.grant, server=server)).sign_in()

    assert isinstance(end.outcome, Granted)
    assert f"a server of your own does not say who has signed in: cms takes it that it was {ANN}" in end.outcome.note


def test_a_provider_that_does_not_say_who_signed_in(at_strict: World, strict: Issuer) -> None:
    """The configuration is believed, as is said, and the account's name stands for the subject."""
    assert at_strict.grant.server
    url = strict.endpoints.url
    known = replace(at_strict.grant.server, authorization_endpoint=url("authorize"), token_endpoint=url("token"))
    server = replace(known, identity=("offline_access",))
    end = replace(at_strict, grant=replace(at_strict.grant, server=server)).sign_in()

    assert isinstance(end.outcome, Granted)
    assert (ANN, "") == (end.subject, end.who)
    assert f"cms takes it that it was {ANN}" in end.outcome.note
    named = at_strict.sign_in().outcome
    assert isinstance(named, Granted)
    assert "" == named.note


def test_a_person_with_a_new_name(at_google: World, google: Issuer, capfd: pytest.CaptureFixture[str]) -> None:
    """The same subject as before counts."""
    first = at_google.sign_in()
    user = google.issued.user(ANN)
    user.name = "anna@example.test"
    google.issued.users["anna@example.test"] = user
    again = at_google.sign_in("anna@example.test", known=first.subject)

    assert (first.subject, "anna@example.test") == (again.subject, again.who)
    assert "is now called anna@example.test" in capfd.readouterr().err


def test_a_person_may_untick_the_mail(at_google: World) -> None:
    """Google's page lets them (granular consent): that sign-in opens no mailbox, and is not kept."""
    at_google.withhold(ANN, at_google.scopes[0])
    end = at_google.sign_in()

    assert isinstance(end.outcome, Refused)
    assert "that permission was not given" in end.outcome.trouble.message
    assert f"`cms login {ANN}`" in end.outcome.trouble.hint


def test_scopes_that_were_granted_are_remembered(at_strict: World, strict: Issuer) -> None:
    """An answer to a redemption need not repeat them."""
    world = with_two_scopes(at_strict)
    world.withhold(ANN, MORE)
    end = world.sign_in()
    strict.faults.add(Fault("fields", fields={"scope": ...}))
    again = world.redeem(end)

    assert isinstance(again.outcome, Granted)
    assert at_strict.scopes == again.outcome.scopes


@pytest.mark.parametrize("life", [..., None])
def test_a_token_whose_life_is_not_told(at_google: World, google: Issuer, life: object) -> None:
    """The configuration says how long it is held (RFC 6749, 5.1: `expires_in` is recommended only)."""
    assert at_google.grant.server
    server = replace(at_google.grant.server, lifetime=900.0)
    world = replace(at_google, grant=replace(at_google.grant, server=server))
    google.faults.add(Fault("fields", times=2, fields={"expires_in": life}))
    first = world.sign_in()
    again = world.redeem(first)

    assert isinstance(first.outcome, Granted)
    assert isinstance(again.outcome, Granted)
    assert (900.0, 900.0) == (first.outcome.expires_in, again.outcome.expires_in)


@pytest.mark.parametrize("life", ["3599", 3599.5])
def test_a_life_in_another_spelling(at_google: World, google: Issuer, life: object) -> None:
    """As text, or with a fraction."""
    end = at_google.sign_in()
    google.faults.add(Fault("fields", fields={"expires_in": life}))
    again = at_google.redeem(end).outcome

    assert isinstance(again, Granted)
    assert 3599 == int(again.expires_in)
