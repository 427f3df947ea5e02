"""What the worker asks of a provider that is not Microsoft, against simulated ones."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from support.grants import ANN, BEN
from support.proofs import AppCertificate, KeyPair
from support.worlds import World, code_flow, issuer_world, strict_grant, token, trouble

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Refused, Transient
from cms.grants.credentials import parse
from cms.grants.network.http import MAX_ANSWER
from cms.grants.oauth2.client import OAuth2
from cms.grants.oauth2.kept import Kept
from cms.grants.providers import ExchangeEnd
from cms.sandbox.directory import Client
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, GOOGLE_MAIL, PUBLIC_ID, TESTING_LIFE
from cms.sandbox.issuer import Issuer
from cms.sandbox.proving import ServiceAccount
from cms_oauth.providers import DYNAMIC

ROBOT = "robot@project.iam.example"


def known(world: World, **more: object) -> World:
    """Return a world whose grant knows other things of its server."""
    assert world.grant.server
    return replace(world, grant=replace(world.grant, server=replace(world.grant.server, **more)))  # type: ignore[arg-type]  # the test's own names


def outcome_of(end: ExchangeEnd) -> Transient:
    assert isinstance(end.outcome, Transient), end.outcome
    return end.outcome


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair()


@pytest.fixture(scope="module")
def app() -> AppCertificate:
    return AppCertificate()


class TestDiscovery:
    def test_both_places_are_tried(self, at_strict: World, strict: Issuer) -> None:
        """The strict server has RFC 8414's only. The document is remembered until the worker rests."""
        at_strict.redeem(at_strict.sign_in())
        assert ["", "discovery"] == [each.endpoint for each in strict.requests[:2]]
        assert 1 == strict.count("discovery")
        at_strict.client.rest()
        at_strict.begin()

        assert 2 == strict.count("discovery")

    def test_a_document_of_another_issuer(self, at_strict: World, strict: Issuer) -> None:
        """Both names are told: one of them is a slip in the configuration."""
        strict.faults.add(Fault("fields", "discovery", fields={"issuer": f"{strict.issuer}/"}))
        outcome = at_strict.begin()

        assert isinstance(outcome, Transient)
        assert f"the server at {strict.issuer} says that it is {strict.issuer}/" == outcome.trouble.message
        assert "set issuer= of the account" in outcome.trouble.hint

    def test_a_server_for_which_no_authority_vouches(self, at_strict: World, strict: Issuer) -> None:
        """It may be anybody's: it gets neither a refresh token nor any other request, and nothing is lost."""
        end = at_strict.sign_in()
        before = len(strict.requests)
        failed = replace(at_strict, client=OAuth2()).redeem(end)

        assert (False, before) == (failed.unsure, len(strict.requests))
        assert "certificate" in outcome_of(failed).trouble.message
        assert token(at_strict.redeem(end))

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault("status", "discovery", status=503, retry_after="60"), "server"),
            (Fault("html", "discovery"), "garbage"),
            (Fault("reset", "discovery"), "network"),
        ],
    )
    def test_a_document_that_does_not_come(self, at_strict: World, strict: Issuer, fault: Fault, kind: str) -> None:
        """Nothing is redeemed, and the next try asks anew."""
        end = at_strict.sign_in()
        at_strict.client.rest()
        strict.faults.add(fault)
        failed = at_strict.redeem(end)

        assert (kind, False) == (trouble(failed), failed.unsure)
        assert token(at_strict.redeem(end))

    def test_endpoints_from_the_configuration(self, at_google: World, google: Issuer) -> None:
        """Nobody is asked for what is known."""
        url = google.endpoints.url
        world = known(at_google, authorization_endpoint=url("authorize"), token_endpoint=url("token"))

        assert ANN == world.redeem(world.sign_in()).who
        assert 0 == google.count("discovery")


class TestRedeem:
    def test_no_scope_is_sent(self, at_strict: World, strict: Issuer) -> None:
        """Then the token has all that was granted, and nothing can be too much."""
        token(at_strict.redeem(at_strict.sign_in()))

        assert [""] == [each.scope for each in strict.asked("token", grant_type="refresh_token")]

    def test_a_lost_answer_is_asked_for_once_more_at_once(self, at_strict: World, strict: Issuer) -> None:
        """Some servers give it again for some seconds."""
        strict.habits.leeway = 10.0
        end = at_strict.sign_in()
        strict.faults.add(Fault("reset", after=True))
        again = at_strict.redeem(end)

        assert token(again)
        assert not again.unsure
        assert 2 == strict.count("token", grant_type="refresh_token")
        assert token(at_strict.redeem(again))

    def test_a_lost_answer_that_ends_the_sign_in(self, at_strict: World, strict: Issuer) -> None:
        """The service learns that the refusal may be of its own making."""
        end = at_strict.sign_in()
        strict.faults.add(Fault("truncated", after=True))
        again = at_strict.redeem(end)

        assert isinstance(again.outcome, Refused)
        assert (True, "") == (again.unsure, again.cache)

    def test_an_answer_that_is_lost_twice(self, at_strict: World, strict: Issuer) -> None:
        """There is no third try."""
        end = at_strict.sign_in()
        strict.faults.add(Fault("reset", times=9))
        again = at_strict.redeem(end)

        assert ("network", True) == (trouble(again), again.unsure)
        assert 2 == strict.count("token", grant_type="refresh_token")

    def test_a_first_answer_lost_and_a_second_that_cannot_be_used(self, at_strict: World, strict: Issuer) -> None:
        """The successor is kept, so nothing is unsure."""
        strict.habits.leeway = 10.0
        end = at_strict.sign_in()
        strict.faults.add(Fault("reset", after=True))
        strict.faults.add(Fault("fields", fields={"token_type": "mac"}))
        again = at_strict.redeem(end)

        assert ("garbage", False) == (trouble(again), again.unsure)
        assert Kept.read(again.cache).refresh_token != Kept.read(end.cache).refresh_token
        assert token(at_strict.redeem(again))

    def test_an_answer_without_end(self, at_strict: World, strict: Issuer) -> None:
        """It is read up to a bound, and is no provider's."""
        end = at_strict.sign_in()
        strict.faults.add(Fault("fields", times=2, fields={"padding": "x" * MAX_ANSWER}))
        again = at_strict.redeem(end)

        assert ("garbage", True) == (trouble(again), again.unsure)

    def test_reuse_ends_everything(self, at_strict: World, strict: Issuer) -> None:
        """The successor, and the access token that was good a moment ago: a copied sign-in costs both machines theirs."""
        first = at_strict.sign_in()
        second = at_strict.redeem(first)
        assert isinstance(at_strict.redeem(first).outcome, Refused)

        assert isinstance(at_strict.redeem(second).outcome, Refused)
        assert not strict.introspect(token(second))["active"]

    def test_googles_own_words(self, at_google: World, google: Issuer) -> None:
        """Session control of a Workspace is not a revoked sign-in."""
        end = at_google.sign_in()
        google.revoke(ANN, subtype="invalid_rapt")
        outcome = at_google.redeem(end).outcome

        assert isinstance(outcome, Refused)
        assert ("invalid_grant", "invalid_rapt") == (outcome.trouble.error, outcome.trouble.suberror)

    def test_a_project_in_testing(self, at_google: World, google: Issuer) -> None:
        """Google ends its sign-ins after seven days, and says so."""
        google.habits.refresh_life = TESTING_LIFE
        signed_in = at_google.sign_in().outcome
        assert isinstance(signed_in, Granted)
        assert abs(time.time() + TESTING_LIFE - signed_in.sign_in.ends_at) < 60.0
        google.habits.refresh_life = -1.0
        outcome = at_google.redeem(at_google.sign_in()).outcome

        assert isinstance(outcome, Refused)

    def test_an_end_that_each_redemption_puts_off(self, at_strict: World, strict: Issuer) -> None:
        """Where refresh tokens rotate, their lives are not that of the sign-in."""
        strict.habits.more = {"refresh_token_expires_in": 600}
        outcome = at_strict.sign_in().outcome

        assert isinstance(outcome, Granted)
        assert 0.0 == outcome.sign_in.ends_at


class TestRevoke:
    """The end of a sign-in at its provider (RFC 7009). What holds for each is in the contract."""

    def test_what_is_sent(self, at_strict: World, strict: Issuer) -> None:
        """The refresh token: an access token's end would leave it good at many servers. The application says who it is."""
        end = at_strict.sign_in()
        assert at_strict.end(end) is None
        sent = strict.asked("revoke")[-1]

        assert (PUBLIC_ID, 200) == (sent.client_id, sent.status)
        assert not strict.introspect(token(end))["active"]

    def test_it_leaves_other_sign_ins(self, at_strict: World) -> None:
        """At a server that does no more than it has to."""
        first, second = at_strict.sign_in(), at_strict.sign_in()
        assert at_strict.end(first) is None

        assert token(at_strict.redeem(second))

    def test_google_ends_all_of_the_project(self, at_google: World) -> None:
        """As its row says. A token that is dead already has ended too, although Google calls that an error."""
        first, second = at_google.sign_in(), at_google.sign_in()
        assert at_google.end(first) is None

        assert isinstance(at_google.redeem(second).outcome, Refused)
        assert at_google.end(second) is None

    def test_a_secret_is_needed(self, strict: Issuer) -> None:
        """As for a token; the sign-in goes on if it is wrong, and the person can end it by hand."""
        strict.register(Client("confidential", ("http://127.0.0.1/*",), secret="s"))
        world = issuer_world(strict, strict_grant(strict, "confidential"), "s")
        end = world.sign_in()
        refused = replace(world, secret="wrong").end(end)

        assert isinstance(refused, Refused)
        assert refused.trouble.message.startswith("the server has not ended the sign-in: ")
        assert "security settings at the provider; `cms logout" in refused.trouble.hint
        again = world.redeem(end)
        assert token(again)
        assert world.end(again) is None

    def test_a_client_that_cms_has_registered(self, at_strict: World, strict: Issuer) -> None:
        """It is named by the id that the server gave it."""
        world = replace(at_strict, grant=replace(at_strict.grant, client_id=DYNAMIC))
        end = world.sign_in()

        assert world.end(end) is None
        assert Kept.read(end.cache).client_id == strict.asked("revoke")[-1].client_id

    def test_no_endpoint_for_it(self, at_strict: World, strict: Issuer) -> None:
        """Nothing is sent, and the sign-in goes on."""
        strict.habits.paths = {name: path for name, path in strict.habits.paths.items() if name != "revoke"}
        end = at_strict.sign_in()
        refused = at_strict.end(end)

        assert isinstance(refused, Refused)
        assert "the server offers no way to end a sign-in" == refused.trouble.message
        assert token(at_strict.redeem(end))

    def test_the_document_is_asked_for_the_endpoint_only(self, at_strict: World, strict: Issuer) -> None:
        """A configuration that has all for a sign-in may lack this address. One that names it needs no document."""
        url = strict.endpoints.url
        endpoints = {"authorization_endpoint": url("authorize"), "token_endpoint": url("token")}
        world = known(at_strict, **endpoints, userinfo_endpoint=url("userinfo"))
        first, second = world.sign_in(), world.sign_in()
        assert 0 == strict.count("discovery")
        assert known(world, revocation_endpoint=url("revoke")).end(first) is None
        assert 0 == strict.count("discovery")

        assert world.end(second) is None
        assert 1 == strict.count("discovery")

    @pytest.mark.parametrize(
        ("fault", "kind", "perhaps"),
        [
            (Fault("status", "revoke", status=503, retry_after="60"), "server", False),
            (Fault("reset", "revoke"), "network", True),
            (Fault("reset", "revoke", after=True), "network", True),
            (Fault("html", "revoke"), "garbage", False),
            (Fault("redirect", "revoke"), "garbage", False),
            (Fault("reset", "discovery"), "network", False),
        ],
    )
    def test_a_fault(self, at_strict: World, strict: Issuer, fault: Fault, kind: str, *, perhaps: bool) -> None:
        """What is not known is said, and the next try finds out."""
        end = at_strict.sign_in()
        at_strict.client.rest()
        strict.faults.add(fault)
        failed = at_strict.end(end)
        strict.faults.clear()

        assert isinstance(failed, Transient)
        assert (kind, perhaps) == (failed.trouble.kind, "may have ended there all the same" in failed.trouble.message)
        assert at_strict.end(end) is None


class TestApplications:
    """Each way in which an application proves itself, at a server that checks it."""

    @pytest.mark.parametrize("method", ["post", "basic", ""])
    def test_a_secret(self, strict: Issuer, method: str) -> None:
        """Of characters that only an encoded header carries."""
        secret = "s3cr:%+/et"
        strict.register(Client("confidential:1", ("http://127.0.0.1/*",), secret=secret))
        world = issuer_world(strict, strict_grant(strict, "confidential:1", client_auth=method), secret)

        assert token(world.redeem(world.sign_in()))
        refused = replace(world, secret="wrong").sign_in().outcome
        assert isinstance(refused, Refused)
        assert "check client_id and client_secret" in refused.trouble.hint

    def test_a_key(self, strict: Issuer, app: AppCertificate, pair: KeyPair) -> None:
        """A JWT that the certificate's key signs; another key does not do."""
        strict.register(Client("signer", ("http://127.0.0.1/*",)), KeyPair(app.key).public_key)
        world = issuer_world(strict, strict_grant(strict, "signer"), parse(app.pem()))

        assert token(world.redeem(world.sign_in()))
        strict.register(Client("signer", ("http://127.0.0.1/*",)), pair.public_key)
        assert "refused" == trouble(world.sign_in())

    def test_googles_file(self, at_google: World) -> None:
        """The JSON that the console offers is the secret."""
        text = json.dumps({"installed": {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}})

        assert token(replace(at_google, secret=text).sign_in())

    def test_a_resource(self, at_strict: World, strict: Issuer) -> None:
        """It is named wherever a token is asked for (RFC 8707)."""
        strict.habits.resource = "https://mail.example/jmap"
        world = known(at_strict, resource="https://mail.example/jmap")

        assert token(world.redeem(world.sign_in()))
        code_flow(at_strict.begin())
        refused = at_strict.redeem(world.sign_in()).outcome
        assert isinstance(refused, Refused)
        assert "invalid_target" == refused.trouble.error


class TestServiceAccount:
    """A program's own account at a Workspace, which opens each mailbox of the domain, one token for each."""

    @pytest.fixture
    def key_file(self, google: Issuer, pair: KeyPair) -> str:
        google.trust(ServiceAccount(ROBOT, pair.public_key, ("example.test",), (GOOGLE_MAIL,)))
        found = {
            "type": "service_account",
            "client_email": ROBOT,
            "private_key_id": "1",
            "private_key": pair.private_key,
        }
        return json.dumps(found)

    def grant(self, world: World, mailbox: str) -> Grant:
        return replace(world.grant, sign_in="app", login=mailbox, client_id=ROBOT)

    @pytest.mark.parametrize("mailbox", [ANN, BEN])
    def test_a_mailbox(self, at_google: World, google: Issuer, key_file: str, mailbox: str) -> None:
        """Its token is for that mailbox only."""
        outcome = at_google.client.mint(self.grant(at_google, mailbox), at_google.scopes, key_file)

        assert isinstance(outcome, Granted)
        assert (at_google.scopes, 3600.0) == (outcome.scopes, outcome.expires_in)
        assert mailbox == google.introspect(outcome.secret)["email"]

    def test_a_mailbox_of_another_domain(self, at_google: World, key_file: str) -> None:
        """The administrator has not delegated it."""
        outcome = at_google.client.mint(self.grant(at_google, "x@other.example"), at_google.scopes, key_file)

        assert isinstance(outcome, Refused)
        assert "unauthorized_client" == outcome.trouble.error

    def test_a_file_that_is_no_accounts(self, at_google: World, google: Issuer, app: AppCertificate) -> None:
        """The trouble says what is wrong with it, and nothing is sent."""
        for secret in ("", "not json", '{"installed": {}}', parse(app.pem())):
            outcome = at_google.client.mint(self.grant(at_google, ANN), at_google.scopes, secret)

            assert isinstance(outcome, Refused)
            assert outcome.trouble.message.startswith("the file of the service account is not ")
            assert "service_account=" in outcome.trouble.hint
        assert 0 == google.count("token")

    def test_offline(self, at_google: World, google: Issuer, key_file: str) -> None:
        """As for a person's sign-in."""
        grant = self.grant(at_google, ANN)
        google.faults.add(Fault("reset", "discovery"))
        assert "network" == trouble(at_google.client.mint(grant, at_google.scopes, key_file))
        google.faults.add(Fault("reset"))
        assert "network" == trouble(at_google.client.mint(grant, at_google.scopes, key_file))


class TestAdopt:
    """A sign-in of another program's, for the same application."""

    def test_it_is_ours_from_then_on(self, at_google: World) -> None:
        """Where nothing rotates, the other program goes on too."""
        token_of_other = Kept.read(at_google.sign_in().cache).refresh_token
        end = at_google.client.adopt(at_google.grant, token_of_other, at_google.secret)

        assert (ANN, token_of_other) == (end.who, Kept.read(end.cache).refresh_token)
        assert token(at_google.redeem(end))

    def test_it_rotates(self, at_strict: World) -> None:
        """The successor is kept."""
        token_of_other = Kept.read(at_strict.sign_in().cache).refresh_token
        end = at_strict.client.adopt(at_strict.grant, token_of_other)

        assert token_of_other != Kept.read(end.cache).refresh_token
        assert token(at_strict.redeem(end))

    def test_another_persons(self, at_google: World) -> None:
        """It is not for this account."""
        other = replace(at_google.grant, login=BEN)
        theirs = Kept.read(replace(at_google, grant=other).sign_in(BEN).cache).refresh_token

        assert "wrong-user" == trouble(at_google.client.adopt(at_google.grant, theirs, at_google.secret))

    def test_no_document(self, at_strict: World, strict: Issuer) -> None:
        """Nothing is sent without knowing where to."""
        strict.faults.add(Fault("reset", "discovery"))

        assert "network" == trouble(at_strict.client.adopt(at_strict.grant, "1//x"))
