"""What every provider of tokens does: the same cases for Microsoft's implementation and for the general one.

Each runs against its simulated server. What only one of them does is in the tests of its own package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.grants import ANN, BEN
from support.worlds import WORLDS, World, code_flow, device_flow, token, trouble, with_two_scopes

from cms.core.lifecycle import Granted, Refused, Transient
from cms.sandbox.faults import Fault
from cms_oauth.providers import GOOGLE


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with WORLDS[request.param]() as running:
        yield running


def test_a_first_sign_in(world: World) -> None:
    """It says who has signed in, gives a token, and something to keep that gives the next one."""
    end = world.sign_in()
    again = world.redeem(end)

    assert ANN == end.who == again.who
    assert end.subject
    assert end.subject == again.subject
    assert token(end) not in end.cache
    assert token(end) != token(again)
    assert world.server.introspect(token(again))["active"]
    assert isinstance(again.outcome, Granted)
    assert (world.scopes, 3600.0) == (again.outcome.scopes, again.outcome.expires_in)


def test_a_sign_in_with_a_code(world: World) -> None:
    """A person enters it elsewhere. A poll before that says nothing; a provider that has no such sign-in refuses."""
    flow = world.begin("device")
    if world.grant.provider == GOOGLE:
        assert isinstance(flow, Refused)
        assert "invalid_scope" == flow.trouble.error
        return
    waiting = device_flow(flow)
    assert waiting.poll() is None
    world.server.approve_device(waiting.user_code, ANN)
    end = waiting.poll()

    assert end
    assert ANN == end.who
    assert token(world.redeem(end))
    assert waiting.interval >= 5


def test_the_wrong_user(world: World) -> None:
    """Another person's sign-in is refused, and nothing of it is left to be kept."""
    end = world.sign_in(BEN)

    assert "wrong-user" == trouble(end)
    assert "" == end.cache


def test_another_account_of_the_same_name(world: World) -> None:
    """It has another subject, by which the service tells the two apart."""
    first = world.sign_in()
    world.anew(ANN)

    assert first.subject != world.sign_in().subject


def test_a_sign_in_that_comes_back_to_another(world: World) -> None:
    """An address that is not of this sign-in gives nothing."""
    assert "refused" == trouble(world.sign_in(state="another"))
    assert 0 == world.server.count("token")


def test_a_declined_sign_in(world: World) -> None:
    """Whoever says no is not asked again by cms."""
    flow = code_flow(world.begin())
    page = world.server.sign_in(flow.url, ANN, decision="decline", follow=False)
    end = flow.finish(page.fields)

    assert isinstance(end.outcome, Refused)
    assert "access_denied" == end.outcome.trouble.error


def test_partial_scopes(world: World) -> None:
    """A token for less than was asked for says so, at the sign-in and later."""
    world = with_two_scopes(world)
    *left, missing = world.scopes
    world.withhold(ANN, missing)
    end = world.sign_in()
    granted = [each.outcome.scopes for each in (end, world.redeem(end)) if isinstance(each.outcome, Granted)]

    assert 2 == len(granted)
    assert all(set(left) <= set(scopes) and missing not in scopes for scopes in granted)


def test_no_refresh_token(world: World) -> None:
    """A sign-in that would end within the hour is refused."""
    world.server.faults.add(Fault("fields", fields={"refresh_token": ...}))
    end = world.sign_in()

    assert ("refused", "") == (trouble(end), end.cache)


def test_a_redemption_without_a_new_refresh_token(world: World) -> None:
    """The one before it is kept."""
    end = world.sign_in()
    world.server.faults.add(Fault("fields", fields={"refresh_token": ...}))
    again = world.redeem(end)

    assert token(again)
    assert (end.cache, False) == (again.cache, again.unsure)


def test_rotation(world: World) -> None:
    """What is kept changes exactly if there is a new refresh token, and is always good for the next token."""
    ends = [world.sign_in()]
    for _ in range(3):
        ends.append(world.redeem(ends[-1]))

    assert 4 == len({token(end) for end in ends})
    rotated = world.server.count("token", grant_type="refresh_token", status=200)
    assert 3 == rotated
    assert len({end.cache for end in ends}) == (1 if not _gives_successors(world) else 4)


def _gives_successors(world: World) -> bool:
    return len({each.refresh for each in world.server.asked("token", grant_type="refresh_token")}) > 1


def test_reuse(world: World) -> None:
    """A refresh token that was used is refused where it works once, and a person has to sign in."""
    first = world.sign_in()
    second = world.redeem(first)
    reused = world.redeem(first)

    assert isinstance(reused.outcome, Refused if world.rotates else Granted), second
    assert not reused.unsure


def test_a_lost_answer(world: World) -> None:
    """A token, or that its end is not known: never a plain failure, after which the old one would be counted as good."""
    end = world.sign_in()
    world.server.faults.add(Fault("reset", after=True))
    again = world.redeem(end)

    assert isinstance(again.outcome, Granted) or again.unsure
    if not world.rotates:
        assert token(world.redeem(end))


def test_half_an_answer(world: World) -> None:
    """As a lost one."""
    end = world.sign_in()
    world.server.faults.add(Fault("truncated", after=True))
    again = world.redeem(end)

    assert isinstance(again.outcome, Granted) or again.unsure


@pytest.mark.parametrize(
    ("fault", "kind", "pause"),
    [
        (Fault("status", status=500), "server", 0.0),
        (Fault("status", status=503, retry_after="90"), "server", 90.0),
        (Fault("status", status=429, retry_after="120"), "throttled", 120.0),
        (Fault("status", status=408), "server", 0.0),
        # A captive portal, for both tries.
        (Fault("html", times=2), "garbage", 0.0),
        (Fault("redirect", times=2), "garbage", 0.0),
    ],
)
def test_a_fault(world: World, fault: Fault, kind: str, pause: float) -> None:
    """It is passing, with the pause that was asked for; nothing is lost, and no redirect is followed."""
    end = world.sign_in()
    world.server.faults.add(fault)
    failed = world.redeem(end)
    world.server.faults.clear()

    assert isinstance(failed.outcome, Transient)
    assert kind == failed.outcome.trouble.kind
    assert failed.outcome.retry_after >= pause
    assert "" == failed.cache
    assert [] == [each for each in world.server.requests if each.refresh and not each.endpoint]
    assert token(world.redeem(end))


def test_offline(world: World) -> None:
    """Nothing was sent, so nothing is unknown."""
    end = world.sign_in()
    world.client.rest()
    world.server.go_down()
    failed = world.redeem(end)
    world.server.come_up()

    assert ("network", False, "") == (trouble(failed), failed.unsure, failed.cache)
    assert isinstance(failed.outcome, Transient)
    assert token(world.redeem(end))


def test_revoked(world: World) -> None:
    """A person has to sign in again, and can."""
    end = world.sign_in()
    world.revoke(ANN)
    refused = world.redeem(end)

    assert isinstance(refused.outcome, Refused)
    assert ("refused", False) == (refused.outcome.trouble.kind, refused.unsure)
    assert f"`cms login {ANN}`" in refused.outcome.trouble.hint
    assert token(world.redeem(world.sign_in()))


def test_ending_a_sign_in(world: World) -> None:
    """Its tokens are dead at once, and to end it once more is no failure. Microsoft ends none, and says whose move it is."""
    end = world.sign_in()
    failed = world.end(end)
    if world.grant.server is None:
        assert isinstance(failed, Refused)
        assert "Microsoft lets no program end a sign-in by its token" == failed.trouble.message
        assert f"`cms logout {ANN}`" in failed.trouble.hint
        assert token(world.redeem(end))
        return
    refused = world.redeem(end)

    assert failed is None
    assert isinstance(refused.outcome, Refused)
    assert not world.server.introspect(token(end))["active"]
    assert world.end(end) is None
    assert token(world.redeem(world.sign_in()))


def test_ending_a_sign_in_offline(world: World) -> None:
    """It goes on, and the next try ends it."""
    if world.grant.server is None:
        return
    end = world.sign_in()
    world.client.rest()
    world.server.go_down()
    failed = world.end(end)
    world.server.come_up()

    assert isinstance(failed, Transient)
    assert "network" == failed.trouble.kind
    assert "may have ended" not in failed.trouble.message
    again = world.redeem(end)
    assert token(again)
    assert world.end(again) is None


@pytest.mark.parametrize("life", ["soon", 0, -1, 1e12])
def test_an_unusable_token_costs_no_successor(world: World, life: object) -> None:
    """A refresh token that came with it is kept, whatever is wrong with the rest."""
    end = world.sign_in()
    world.server.faults.add(Fault("fields", fields={"expires_in": life}))
    failed = world.redeem(end)

    assert "garbage" == trouble(failed)
    assert token(world.redeem(replace(end, cache=failed.cache or end.cache)))


def test_every_sign_in_can_be_moved(world: World) -> None:
    """Another machine can use what was kept, but for what another program keeps."""
    assert world.client.exportable(world.sign_in().cache)
