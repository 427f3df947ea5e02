"""An application that registers itself (RFC 7591)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.grants import ANN
from support.worlds import World, code_flow, token, trouble

from cms.core.lifecycle import Refused, Transient
from cms.grants.oauth2.kept import Kept
from cms.sandbox.faults import Fault
from cms.sandbox.issuer import Issuer
from cms_oauth.providers import DYNAMIC


@pytest.fixture
def world(at_strict: World) -> World:
    return replace(at_strict, grant=replace(at_strict.grant, client_id=DYNAMIC))


def refusal(world: World) -> Transient | Refused:
    outcome = world.begin()
    assert isinstance(outcome, Transient | Refused)
    return outcome


def test_a_sign_in_without_a_client_id(world: World, strict: Issuer) -> None:
    """The server gives one, for this sign-in and its redemptions."""
    end = world.sign_in()
    again = world.redeem(end)
    redeemed = {each.client_id for each in strict.asked("token")}

    assert token(again)
    assert 1 == strict.count("register")
    assert {Kept.read(again.cache).client_id} == redeemed
    assert redeemed <= strict.issued.clients.keys()


def test_a_registration_that_the_server_forgets(world: World, strict: Issuer) -> None:
    """cms tells the person to sign in, which registers the application again, and not to check a client id."""
    end = world.sign_in()
    strict.issued.clients.pop(Kept.read(end.cache).client_id)
    refused = world.redeem(end).outcome

    assert isinstance(refused, Refused)
    assert ("invalid_client", True) == (refused.trouble.error, f"`cms login {ANN}`" in refused.trouble.hint)
    assert "client_id" not in refused.trouble.hint
    assert token(world.redeem(world.sign_in()))


def test_what_is_registered(world: World, strict: Issuer) -> None:
    """A public client with the account's redirect address, whatever its port is later."""
    code_flow(world.begin())
    (client,) = (each for name, each in strict.issued.clients.items() if name.startswith("dyn-"))

    assert ((world.grant.redirect_uri,), "") == (client.redirects, client.secret)


def test_a_server_that_registers_nobody(world: World, strict: Issuer) -> None:
    """A person has to get a client id."""
    strict.habits.paths = {name: path for name, path in strict.habits.paths.items() if name != "register"}
    refused = refusal(world)

    assert isinstance(refused, Refused)
    assert "set client_id= of the account to it" in refused.trouble.hint
    assert f"`cms reload` and `cms login {ANN}`" in refused.trouble.hint


def test_a_registration_that_is_refused(world: World) -> None:
    """Its word is told, and what a person does instead: nothing passes by itself."""
    world = replace(world, grant=replace(world.grant, redirect_uri="https://elsewhere.example/"))
    refused = refusal(world)

    assert isinstance(refused, Refused)
    assert "invalid_redirect_uri" == refused.trouble.error
    assert "does not let cms register itself (invalid_redirect_uri)" in refused.trouble.message
    assert "set client_id= of the account to it" in refused.trouble.hint


def test_a_server_that_registers_for_fewer_scopes(world: World, strict: Issuer) -> None:
    """It is asked once more without any, as Keycloak wants it; one that refuses that too wants a token for it."""
    fault = Fault("refusal", "register", error="insufficient_scope")
    strict.faults.add(fault)
    assert token(world.sign_in())
    assert 2 == strict.count("register")
    strict.faults.add(replace(fault, times=2))
    refused = refusal(world)

    assert isinstance(refused, Refused)
    assert "insufficient_scope" == refused.trouble.error


def test_a_server_that_registers_only_its_own(world: World, strict: Issuer) -> None:
    """HTTP 401 without a word is a refusal too."""
    strict.faults.add(Fault("status", "register", status=401))
    refused = refusal(world)

    assert isinstance(refused, Refused)
    assert "set client_id= of the account to it" in refused.trouble.hint


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("status", "register", status=503), "server"),
        (Fault("html", "register"), "garbage"),
        (Fault("reset", "register"), "network"),
        (Fault("fields", "register", fields={"client_id": 7}), "garbage"),
        (Fault("fields", "register", fields={"client_id": "\ud800"}), "garbage"),
        (Fault("fields", "register", fields={"client_id": "\x1b[2J"}), "garbage"),
        (Fault("fields", "register", fields={"client_id": "x" * 100_000}), "garbage"),
        (Fault("fields", "register", fields={"padding": "x" * 2_000_000}), "garbage"),
    ],
)
def test_a_registration_in_trouble(world: World, strict: Issuer, fault: Fault, kind: str) -> None:
    """Nobody is sent to a sign-in that could not end."""
    strict.faults.add(fault)

    assert kind == trouble(refusal(world))
