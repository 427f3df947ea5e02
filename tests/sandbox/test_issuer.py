"""The contract of the simulated providers that are not Microsoft: they refuse what an RFC, or Google, refuses.

That they grant what they should is proved by the tests of the worker that sign in at them. These tests hold what those
would not notice: a sandbox that forgives a client's mistakes.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
import requests
from support.proofs import KeyPair

from cms.sandbox.assertions import ASSERTION_TYPE
from cms.sandbox.directory import Client
from cms.sandbox.faults import Fault
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, GOOGLE_MAIL, MAIL, OFFLINE_ACCESS, PUBLIC_ID, google, strict
from cms.sandbox.issuer import Issuer
from cms.sandbox.person import Stuck
from cms.sandbox.proving import ServiceAccount
from cms.sandbox.tokens import s256

A, B = "a@example.test", "b@example.test"
REDIRECT = "http://127.0.0.1:8080/"
VERIFIER = "v" * 43
ROBOT = "robot@project.example"


class FakeTime:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def at_google(clock: FakeTime) -> Iterator[Issuer]:
    with Issuer(google(), [A, B], now=clock) as running:
        yield running


@pytest.fixture
def at_strict(clock: FakeTime) -> Iterator[Issuer]:
    with Issuer(strict(), [A, B], now=clock) as running:
        yield running


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


class Caller:
    """A client of one provider, without any of cms's code."""

    def __init__(self, server: Issuer, session: requests.Session) -> None:
        self.server = server
        self.session = session
        self.secret = server.habits.mail == GOOGLE_MAIL

    def post(self, name: str, fields: dict[str, Any], **more: Any) -> requests.Response:
        return self.session.post(self.server.endpoints.url(name), data=fields, verify=self.server.ca_file, **more)

    def token(self, **fields: str) -> dict[str, Any]:
        """Return what the token endpoint says to this client; `...` has no meaning here, "" leaves a field out."""
        usual = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET} if self.secret else {"client_id": PUBLIC_ID}
        answer: dict[str, Any] = self.post("token", {k: v for k, v in (usual | fields).items() if v}).json()
        return answer

    def address(self, **fields: str) -> str:
        usual = {
            "response_type": "code",
            "client_id": CLIENT_ID if self.secret else PUBLIC_ID,
            "redirect_uri": REDIRECT,
            "scope": f"{self.server.habits.mail} openid email" + ("" if self.secret else f" {OFFLINE_ACCESS}"),
            "state": "s",
            "code_challenge": s256(VERIFIER),
            "code_challenge_method": "S256",
            "access_type": "offline",
            "prompt": "consent",
        }
        return f"{self.server.endpoints.url('authorize')}?{urlencode({k: v for k, v in (usual | fields).items() if v})}"

    def code(self, **fields: str) -> dict[str, str]:
        """Return what the browser brings back after A has signed in."""
        return dict(self.server.sign_in(self.address(**fields), A, follow=False).fields)

    def redeem_code(self, code: str, **fields: str) -> dict[str, Any]:
        usual = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
        return self.token(**(usual | fields))

    def sign_in(self, **fields: str) -> dict[str, Any]:
        return self.redeem_code(self.code(**fields)["code"])

    def redeem(self, refresh_token: str, **fields: str) -> dict[str, Any]:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, **fields)


@pytest.fixture
def of_google(at_google: Issuer, session: requests.Session) -> Caller:
    return Caller(at_google, session)


@pytest.fixture
def of_strict(at_strict: Issuer, session: requests.Session) -> Caller:
    return Caller(at_strict, session)


class TestGoogle:
    def test_a_sign_in(self, of_google: Caller, at_google: Issuer) -> None:
        """Opaque tokens, a name, scopes in Google's spelling, and no second refresh token."""
        first = of_google.sign_in()
        again = of_google.redeem(first["refresh_token"])

        assert first["access_token"].startswith("ya29.")
        assert A == jwt.decode(first["id_token"], options={"verify_signature": False})["email"]
        assert [GOOGLE_MAIL, "openid", "https://www.googleapis.com/auth/userinfo.email"] == first["scope"].split()
        assert "refresh_token" not in again
        assert again["access_token"] != first["access_token"]
        assert (A, True) == (
            at_google.introspect(again["access_token"])["email"],
            at_google.issuer == at_google.authority,
        )

    @pytest.mark.parametrize(
        ("fields", "gives"),
        [({"access_type": ""}, False), ({"prompt": ""}, False), ({"prompt": "select_account consent"}, True)],
    )
    def test_a_refresh_token_has_to_be_asked_for(
        self, of_google: Caller, fields: dict[str, str], *, gives: bool
    ) -> None:
        """By access_type, and with a consent where there was one before."""
        assert "refresh_token" in of_google.sign_in(prompt="")
        assert gives == ("refresh_token" in of_google.sign_in(**fields))

    def test_the_first_consent_needs_no_prompt(self, of_google: Caller) -> None:
        """Without access_type there is nothing all the same."""
        assert "refresh_token" not in of_google.sign_in(access_type="", prompt="")

    def test_seven_days(self, of_google: Caller, at_google: Issuer, clock: FakeTime) -> None:
        """While the project is in testing."""
        at_google.habits.refresh_life = 7 * 86_400.0
        refresh_token = of_google.sign_in()["refresh_token"]
        clock.now += 6.9 * 86_400
        assert "access_token" in of_google.redeem(refresh_token)
        clock.now += 0.2 * 86_400

        assert "invalid_grant" == of_google.redeem(refresh_token)["error"]

    def test_a_missing_secret(self, of_google: Caller) -> None:
        """A Desktop client has one."""
        answer = of_google.redeem_code(of_google.code()["code"], client_secret="")

        assert ("invalid_request", "client_secret is missing.") == (answer["error"], answer["error_description"])

    def test_no_device_may_have_mail(self, of_google: Caller) -> None:
        """Before anything is shown."""
        fields = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scope": GOOGLE_MAIL}

        assert "invalid_scope" == of_google.post("devicecode", fields).json()["error"]

    def test_an_unknown_scope(self, of_google: Caller) -> None:
        """It is refused at once."""
        assert "invalid_scope" == of_google.code(scope="mail-w")["error"]

    def test_revoking_one_ends_all(self, of_google: Caller) -> None:
        """Every grant of the project for this person."""
        one, two = of_google.sign_in(), of_google.sign_in()
        assert 200 == of_google.post("revoke", {"token": one["refresh_token"]}).status_code

        assert "invalid_grant" == of_google.redeem(two["refresh_token"])["error"]
        assert 400 == of_google.post("revoke", {"token": "unknown"}).status_code

    def test_session_control(self, of_google: Caller, at_google: Issuer) -> None:
        """It has a word of its own."""
        refresh_token = of_google.sign_in()["refresh_token"]
        at_google.revoke(A, subtype="invalid_rapt")

        assert "invalid_rapt" == of_google.redeem(refresh_token)["error_subtype"]

    @pytest.mark.parametrize(
        ("claims", "error"),
        [
            ({}, ""),
            ({"aud": "https://elsewhere.example"}, "invalid_grant"),
            ({"exp": -60}, "invalid_grant"),
            ({"exp": 7200}, "invalid_grant"),
            ({"sub": "x@other.example"}, "unauthorized_client"),
            ({"sub": "nobody@example.test"}, "invalid_grant"),
            ({"scope": "openid"}, "unauthorized_client"),
            ({"iss": "unknown"}, "invalid_client"),
        ],
    )
    def test_a_service_account(
        self, of_google: Caller, at_google: Issuer, pair: KeyPair, claims: dict[str, Any], error: str
    ) -> None:
        """Its assertion is for one mailbox of its domain, for an hour at most."""
        at_google.trust(ServiceAccount(ROBOT, pair.public_key, ("example.test",), (GOOGLE_MAIL,)))
        usual: dict[str, Any] = {
            "iss": ROBOT,
            "sub": A,
            "scope": GOOGLE_MAIL,
            "aud": at_google.endpoints.url("token"),
            "exp": 600,
        }
        whole = usual | claims
        whole["exp"] += int(time.time())
        fields = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": jwt.encode(whole, pair.private_key, "RS256"),
        }

        assert error == of_google.post("token", fields).json().get("error", "")

    def test_what_is_no_assertion(self, of_google: Caller) -> None:
        """It is refused as such."""
        fields = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "no"}

        assert "invalid_request" == of_google.post("token", fields).json()["error"]


class TestStrict:
    def test_its_document(self, at_strict: Issuer, session: requests.Session) -> None:
        """It is at the place of RFC 8414 only, with the issuer's path behind."""
        place = f"{at_strict.authority}/.well-known/oauth-authorization-server/realms/mail"
        document = session.get(place, verify=at_strict.ca_file).json()
        other = session.get(f"{at_strict.issuer}/.well-known/openid-configuration", verify=at_strict.ca_file)

        assert (at_strict.issuer, 404) == (document["issuer"], other.status_code)
        assert document["authorization_response_iss_parameter_supported"]

    def test_a_used_token_ends_everything(self, of_strict: Caller, at_strict: Issuer) -> None:
        """Its successor, and the access token of a moment ago."""
        first = of_strict.sign_in()
        second = of_strict.redeem(first["refresh_token"])
        assert at_strict.introspect(second["access_token"])["active"]

        assert "invalid_grant" == of_strict.redeem(first["refresh_token"])["error"]
        assert "invalid_grant" == of_strict.redeem(second["refresh_token"])["error"]
        assert {"active": False} == at_strict.introspect(second["access_token"])

    def test_leeway(self, of_strict: Caller, at_strict: Issuer, clock: FakeTime) -> None:
        """Some servers forgive for seconds."""
        at_strict.habits.leeway = 3.0
        first = of_strict.sign_in()
        of_strict.redeem(first["refresh_token"])
        clock.now += 2
        assert "refresh_token" in of_strict.redeem(first["refresh_token"])
        clock.now += 2

        assert "invalid_grant" == of_strict.redeem(first["refresh_token"])["error"]

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"code_challenge_method": "plain"}, "invalid_request"),
            ({"response_type": "token"}, "unsupported_response_type"),
            ({"resource": "https://elsewhere.example"}, "invalid_target"),
        ],
    )
    def test_what_leads_back_with_a_refusal(
        self, of_strict: Caller, at_strict: Issuer, fields: dict[str, str], error: str
    ) -> None:
        """The refusal names its issuer, too (RFC 9207)."""
        answer = of_strict.session.get(of_strict.address(**fields), verify=at_strict.ca_file, allow_redirects=False)

        assert f"error={error}" in answer.headers["Location"]
        assert "iss=" in answer.headers["Location"]

    @pytest.mark.parametrize("fields", [{"redirect_uri": "https://127.0.0.1/"}, {"client_id": "unknown"}])
    def test_what_does_not_lead_back(self, of_strict: Caller, fields: dict[str, str]) -> None:
        """There is nowhere to go to."""
        with pytest.raises(Stuck):
            of_strict.code(**fields)

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"code": "unknown"}, "invalid_grant"),
            ({"code_verifier": "x" * 43}, "invalid_grant"),
            ({"redirect_uri": "http://127.0.0.1:8080/other"}, "redirect_uri_mismatch"),
            ({"client_id": "unknown"}, "invalid_client"),
            ({"client_id": CLIENT_ID}, "invalid_request"),
            ({"client_secret": "made up"}, "invalid_client"),
            ({"grant_type": "password"}, "unsupported_grant_type"),
            ({"late": "601"}, "invalid_grant"),
        ],
    )
    def test_a_code_is_for_one_sign_in(
        self, of_strict: Caller, clock: FakeTime, fields: dict[str, str], error: str
    ) -> None:
        """Whatever is not as it was asked for is refused."""
        code = of_strict.code()["code"]
        clock.now += float(fields.pop("late", "0"))

        assert error == of_strict.redeem_code(**{"code": code, **fields})["error"]

    def test_a_code_that_is_used_twice(self, of_strict: Caller, at_strict: Issuer) -> None:
        """It costs what it gave (RFC 6749, 4.1.2)."""
        code = of_strict.code()["code"]
        given = of_strict.redeem_code(code)
        of_strict.redeem_code(code)

        assert {"active": False} == at_strict.introspect(given["access_token"])

    def test_more_than_was_granted(self, of_strict: Caller) -> None:
        """A refresh cannot ask for it, and asking for less narrows one token only."""
        first = of_strict.sign_in()
        refused = of_strict.redeem(first["refresh_token"], scope=f"{MAIL} profile")
        less = of_strict.redeem(first["refresh_token"], scope=MAIL)
        whole = of_strict.redeem(less["refresh_token"])

        assert ("invalid_scope", MAIL) == (refused["error"], less["scope"])
        assert first["scope"] == whole["scope"]

    def test_offline_access_without_consent(self, of_strict: Caller) -> None:
        """It is left out, and nothing is said (OpenID Connect Core, 11)."""
        assert "refresh_token" not in of_strict.sign_in(prompt="")

    def test_a_device(self, of_strict: Caller, at_strict: Issuer, clock: FakeTime) -> None:
        """No interval is told; polling sooner than that is answered with slow_down, and then later still."""
        told = of_strict.post("devicecode", {"client_id": PUBLIC_ID, "scope": f"{MAIL} {OFFLINE_ACCESS}"}).json()

        def poll(seconds: float) -> str:
            clock.now += seconds
            grant = "urn:ietf:params:oauth:grant-type:device_code"
            answer = of_strict.token(grant_type=grant, device_code=told["device_code"])
            return str(answer.get("error", "refresh_token" in answer))

        assert "interval" not in told
        assert ["authorization_pending", "slow_down", "slow_down"] == [poll(0), poll(2), poll(6)]
        assert "authorization_pending" == poll(16)
        at_strict.approve_device(told["user_code"], A)
        assert ["True", "invalid_grant"] == [poll(16), poll(16)]
        with pytest.raises(Stuck):
            at_strict.approve_device("UNKNOWN", A)

    def test_userinfo(self, of_strict: Caller, at_strict: Issuer) -> None:
        """It has the name that the id token lacks, for a valid token."""
        first = of_strict.sign_in()

        def userinfo(token: str) -> requests.Response:
            headers = {"Authorization": f"Bearer {token}"}
            url = at_strict.endpoints.url("userinfo")
            return of_strict.session.get(url, headers=headers, verify=at_strict.ca_file)

        assert "email" not in jwt.decode(first["id_token"], options={"verify_signature": False})
        assert A == userinfo(first["access_token"]).json()["email"]
        assert 401 == userinfo(at_strict.issue(A, life=-1.0)).status_code
        assert 403 == userinfo(at_strict.issue(A, [MAIL])).status_code

    def test_revoking_one_leaves_others(self, of_strict: Caller, at_strict: Issuer) -> None:
        """RFC 7009: an unknown token, or another client's, is no error, and a client says who it is."""
        at_strict.register(Client("another", (REDIRECT,)))
        one, two = of_strict.sign_in(), of_strict.sign_in()
        asked = [
            {"client_id": PUBLIC_ID, "token": one["access_token"]},
            {"client_id": PUBLIC_ID, "token": "x"},
            {"client_id": "another", "token": two["refresh_token"]},
            {"token": two["refresh_token"]},
        ]
        assert [200, 200, 200, 401] == [of_strict.post("revoke", each).status_code for each in asked]

        assert "invalid_grant" == of_strict.redeem(one["refresh_token"])["error"]
        assert "access_token" in of_strict.redeem(two["refresh_token"])

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({}, ""),
            ({"redirect_uris": ["https://app.example/"]}, "invalid_redirect_uri"),
            ({"redirect_uris": []}, "invalid_redirect_uri"),
            ({"token_endpoint_auth_method": "client_secret_basic"}, "invalid_client_metadata"),
        ],
    )
    def test_registration(self, of_strict: Caller, at_strict: Issuer, change: dict[str, Any], error: str) -> None:
        """Of public clients with addresses on the same machine."""
        asked = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"} | change
        url = at_strict.endpoints.url("register")
        answer = of_strict.session.post(url, data=json.dumps(asked), verify=at_strict.ca_file)

        assert error == answer.json().get("error", "")
        assert (400 if error else 201) == answer.status_code

    @pytest.mark.parametrize(
        ("header", "error"),
        [
            ("s3cr%3A%25%2B%2Fet", ""),
            # Raw, as most libraries send it.
            ("s3cr:%+/et", "invalid_client"),
            (None, "invalid_request"),
        ],
    )
    def test_basic(self, of_strict: Caller, at_strict: Issuer, header: str | None, error: str) -> None:
        """Id and secret are decoded as a form's (RFC 6749, 2.3.1)."""
        at_strict.register(Client("me", (REDIRECT,), secret="s3cr:%+/et"))
        pair = base64.b64encode(f"me:{header}".encode()).decode() if header else "no base64"
        fields = {"grant_type": "refresh_token", "refresh_token": "unknown"}
        answer = of_strict.post("token", fields, headers={"Authorization": f"Basic {pair}"}).json()

        assert (error or "invalid_grant") == answer["error"]

    @pytest.mark.parametrize(
        ("claims", "error"),
        [
            ({}, "invalid_grant"),
            ({"aud": "https://elsewhere.example"}, "invalid_client"),
            ({"sub": "another"}, "invalid_client"),
            ({"exp": 1}, "invalid_client"),
            ({"jti": ""}, "invalid_client"),
        ],
    )
    def test_a_clients_key(
        self, of_strict: Caller, at_strict: Issuer, pair: KeyPair, claims: dict[str, Any], error: str
    ) -> None:
        """RFC 7523, 3: each claim counts. A refresh token that is refused shows that the client was not."""
        at_strict.register(Client("me", (REDIRECT,)), pair.public_key)
        usual = {"iss": "me", "sub": "me", "aud": at_strict.issuer, "exp": int(time.time()) + 60, "jti": "1"} | claims
        fields = {
            "grant_type": "refresh_token",
            "refresh_token": "unknown",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": jwt.encode(usual, pair.private_key, "RS256"),
        }

        assert error == of_strict.post("token", fields).json()["error"]
        assert "invalid_client" == of_strict.token(client_id="me", grant_type="refresh_token")["error"]


def test_scripted_refusals(of_google: Caller, at_google: Issuer) -> None:
    """At the token endpoint as JSON, at the sign-in in the address or on a page that leads nowhere."""
    at_google.faults.add(Fault("refusal", error="invalid_grant", fields={"error_subtype": "rapt_required"}))
    assert "rapt_required" == of_google.redeem("any")["error_subtype"]
    at_google.faults.add(Fault("refusal", "authorize", error="org_internal"))
    assert "org_internal" == of_google.code()["error"]
    at_google.faults.add(Fault("page", "authorize", error="policy_enforced"))
    with pytest.raises(Stuck, match="policy_enforced"):
        of_google.code()


def test_an_unknown_user(of_google: Caller, at_google: Issuer) -> None:
    """Nobody else can sign in."""
    assert "access_denied" == at_google.sign_in(of_google.address(), "nobody@x.test", follow=False).fields["error"]
