"""The simulated Entra, driven by unmodified MSAL over TLS."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msal
import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from msal.exceptions import MsalServiceError
from support.proofs import AppCertificate, Issuer

from cms.sandbox.assertions import ASSERTION_TYPE
from cms.sandbox.directory import APP_ID, APP_SECRET, CLIENT_ID, MAIL_SCOPES, TENANT, Client
from cms.sandbox.entra import Entra
from cms.sandbox.errors import KINDS
from cms.sandbox.faults import CLAIMS, Fault
from cms.sandbox.person import Stuck
from cms.sandbox.tokens import b64url, digest
from cms.sandbox.web import Reply, Request, as_html

A, B = "a@example.test", "b@example.test"
SCOPES = list(MAIL_SCOPES)
REDIRECT = "http://127.0.0.1:8080/oauth2/msal"
SPA = "122f4826-adf9-465d-8e84-e9d00bc9f234"


class FakeTime:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def entra(clock: FakeTime) -> Iterator[Entra]:
    with Entra([A, B], now=clock) as entra:
        yield entra


@pytest.fixture
def session(entra: Entra) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = entra.ca_file
        yield session


class Mail:
    """A public client of MSAL's that can be asked again and again: nothing of MSAL's own replay of failures."""

    def __init__(self, entra: Entra, session: requests.Session, client_id: str = CLIENT_ID) -> None:
        self.entra = entra
        self.replayed: dict[Any, Any] = {}
        self.app = msal.PublicClientApplication(
            client_id,
            authority=f"{entra.authority}/common",
            instance_discovery=False,
            http_client=session,
            http_cache=self.replayed,
        )

    def start(self, **more: Any) -> dict[str, Any]:
        flow: dict[str, Any] = self.app.initiate_auth_code_flow(
            SCOPES, redirect_uri=REDIRECT, response_mode="form_post", **more
        )
        return flow

    def finish(self, flow: dict[str, Any], user: str = A, **how: Any) -> dict[str, Any]:
        page = self.entra.sign_in(flow["auth_uri"], user, follow=False, **how)
        result: dict[str, Any] = self.app.acquire_token_by_auth_code_flow(flow, dict(page.fields))
        return result

    def sign_in(self, user: str = A) -> dict[str, Any]:
        return self.finish(self.start(), user)

    def refresh(self, scopes: list[str] = SCOPES) -> dict[str, Any]:
        self.replayed.clear()
        account = self.app.get_accounts()[0]
        result: dict[str, Any] = self.app.acquire_token_silent_with_error(scopes, account, force_refresh=True)
        return result

    def redeem(self, refresh_token: str, scopes: list[str] = SCOPES) -> dict[str, Any]:
        self.replayed.clear()
        result: dict[str, Any] = self.app.acquire_token_by_refresh_token(refresh_token, scopes)
        return result


@pytest.fixture
def mail(entra: Entra, session: requests.Session) -> Mail:
    return Mail(entra, session)


def code_of(result: dict[str, Any]) -> int:
    """Return the AADSTS number of a refusal; fails for anything else."""
    numbers: list[int] = result["error_codes"]
    return numbers[0]


# --- signing in


def test_authorization_code_gives_what_msal_needs(mail: Mail, entra: Entra) -> None:
    """A sign-in by code gives a token of the person's, of usual length, and an account."""
    result = mail.sign_in()

    told = entra.introspect(result["access_token"])
    assert (True, A) == (told["active"], told["email"])
    assert 2190 <= len(result["access_token"]) <= 2200
    assert sorted(SCOPES) == sorted(result["scope"].split())
    assert [A] == [account["username"] for account in mail.app.get_accounts()]


def test_default_discovery_works_too(entra: Entra, session: requests.Session) -> None:
    """An instance discovery is answered with the host as its own only alias."""
    answer = session.get(f"{entra.authority}/common/discovery/instance", params={"api-version": "1.1"}).json()

    host = entra.authority.removeprefix("https://")
    assert [host] == answer["metadata"][0]["aliases"]


@pytest.mark.parametrize("mode", ["query", "form_post"])
def test_redirect_arrives_at_the_listener(entra: Entra, session: requests.Session, mode: str) -> None:
    """The browser brings code and state to the redirect address: by GET, or posted as a form."""
    arrived: list[Request] = []

    def listener(request: Request) -> Reply:
        arrived.append(request)
        return as_html("welcome")

    entra.serve("/arrive", listener)
    mail = Mail(entra, session)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # MSAL recommends form_post
        flow = mail.app.initiate_auth_code_flow(SCOPES, f"{entra.plain_url}/arrive", response_mode=mode)

    page = entra.sign_in(flow["auth_uri"], A)

    assert (200, "welcome") == (page.status, page.text)
    assert ["GET" if mode == "query" else "POST"] == [each.method for each in arrived]
    assert flow["state"] == arrived[0].fields["state"]
    assert "access_token" in mail.app.acquire_token_by_auth_code_flow(flow, dict(arrived[0].fields))


def test_code_works_once(mail: Mail, entra: Entra, session: requests.Session) -> None:
    """The second redemption of a code is refused with 54005."""
    flow = mail.start()
    page = entra.sign_in(flow["auth_uri"], A, follow=False)
    mail.app.acquire_token_by_auth_code_flow(flow, dict(page.fields))
    mail.replayed.clear()

    again = mail.app.acquire_token_by_auth_code_flow(flow, dict(page.fields))

    assert 54005 == code_of(again)


def test_code_expires(mail: Mail, entra: Entra, clock: FakeTime) -> None:
    """A code that is ten minutes old is refused with 70008."""
    flow = mail.start()
    page = entra.sign_in(flow["auth_uri"], A, follow=False)
    clock.now += 601

    late = mail.app.acquire_token_by_auth_code_flow(flow, dict(page.fields))

    assert 70008 == code_of(late)


def test_verifier_is_checked(mail: Mail) -> None:
    """Another PKCE verifier than the one of the challenge is refused with 501481."""
    flow = mail.start()
    flow["code_verifier"] = "x" * 43

    assert 501481 == code_of(mail.finish(flow))


def test_redirect_is_compared_at_redemption(mail: Mail, entra: Entra) -> None:
    """A code is redeemed with the redirect address that it was given to, or not at all."""
    flow = mail.start()
    page = entra.sign_in(flow["auth_uri"], A, follow=False)
    flow["redirect_uri"] = "http://127.0.0.1:8081/other"

    assert 50011 == code_of(mail.app.acquire_token_by_auth_code_flow(flow, dict(page.fields)))


def test_code_of_nobody(mail: Mail) -> None:
    """An invented code is refused as an invalid grant."""
    flow = mail.start()

    invented = mail.app.acquire_token_by_auth_code_flow(flow, {"code": "invented", "state": flow["state"]})

    assert ("invalid_grant", 70000) == (invented["error"], code_of(invented))


def test_person_declines(mail: Mail) -> None:
    """A declined consent comes back as access_denied with Microsoft's number in the description."""
    result = mail.finish(mail.start(), decision="decline")

    assert "access_denied" == result["error"]
    assert "AADSTS65004" in result["error_description"]


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"client_id": "00000000-0000-0000-0000-000000000000"}, 700016),
        ({"redirect_uri": "https://elsewhere.example/"}, 50011),
        ({"redirect_uri": "https://localhost/x"}, 50011),
        ({"scope": ""}, 90014),
        ({"response_type": "token"}, 90014),
        ({"client_id": SPA, "code_challenge": ""}, 90014),
    ],
)
def test_broken_link_shows_a_page(mail: Mail, entra: Entra, change: dict[str, str], number: int) -> None:
    """What is wrong with the request itself is shown to the person, and nobody is redirected."""
    parts = urlsplit(mail.start()["auth_uri"])
    fields = {name: value[0] for name, value in parse_qs(parts.query).items()} | change
    url = requests.Request("GET", parts._replace(query="").geturl(), params=fields).prepare().url or ""

    with pytest.raises(Stuck, match=f"AADSTS{number}:"):
        entra.sign_in(url, A)


def test_unknown_person_is_shown_a_page(mail: Mail, entra: Entra) -> None:
    """Somebody who has no account is told so, with 50034."""
    with pytest.raises(Stuck, match="AADSTS50034"):
        entra.sign_in(mail.start()["auth_uri"], "nobody@example.test")


def test_login_hint_is_chosen(entra: Entra, session: requests.Session, mail: Mail) -> None:
    """The page has the user of login_hint selected, in whatever case."""
    page = session.get(mail.start(login_hint=B.upper())["auth_uri"]).text

    assert f'<option value="{B}" selected>' in page


def test_device_flow(mail: Mail, entra: Entra) -> None:
    """A device code is pending until somebody enters the user code, and then works once."""
    entra.device_interval = 1  # MSAL asks sooner than that only after a warning
    flow = mail.app.initiate_device_flow(SCOPES)
    pending = post_device(mail, flow)
    entra.approve_device(flow["user_code"].lower(), A)

    done = mail.app.acquire_token_by_device_flow(flow, exit_condition=lambda _: True)

    assert ["authorization_pending", True, "bad_verification_code"] == [
        pending["error"],
        "access_token" in done,
        post_device(mail, flow)["error"],
    ]


def test_device_poll_too_soon(mail: Mail, clock: FakeTime) -> None:
    """Polling sooner than the interval is answered with slow_down, at the interval it goes on."""
    flow = mail.app.initiate_device_flow(SCOPES)
    answers = []
    for pause in (0, 1, 5):
        clock.now += pause
        answers.append(post_device(mail, flow)["error"])

    assert ["authorization_pending", "slow_down", "authorization_pending"] == answers


def post_device(mail: Mail, flow: dict[str, Any]) -> dict[str, Any]:
    """Poll without MSAL, which warns about polling too soon."""
    body = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "client_id": CLIENT_ID,
        "device_code": flow["device_code"],
    }
    url = f"{mail.entra.authority}/common/oauth2/v2.0/token"
    answer = requests.post(url, data=body, verify=mail.entra.ca_file, timeout=10)
    told: dict[str, Any] = answer.json()
    return told


def test_device_code_runs_out(mail: Mail, clock: FakeTime) -> None:
    """Nobody enters the code for a quarter of an hour: expired_token."""
    flow = mail.app.initiate_device_flow(SCOPES)
    clock.now += 900

    assert "expired_token" == post_device(mail, flow)["error"]


def test_device_declined(mail: Mail, entra: Entra) -> None:
    """A person who declines ends the flow with authorization_declined."""
    flow = mail.app.initiate_device_flow(SCOPES)
    entra.approve_device(flow["user_code"], A, decision="decline")

    assert "authorization_declined" == post_device(mail, flow)["error"]


def test_wrong_user_code(entra: Entra) -> None:
    """A code that no device shows is refused on the page."""
    with pytest.raises(Stuck, match="AADSTS70018"):
        entra.approve_device("XXXXXXXXX", A)


# --- refreshing


def test_refresh_rotates(mail: Mail, entra: Entra) -> None:
    """Each redemption gives a new refresh token, and the old one still works: what Entra documents."""
    first = mail.sign_in()["refresh_token"]

    second = mail.redeem(first)["refresh_token"]
    again = mail.redeem(first)

    assert first != second
    assert "access_token" in again
    assert [digest(first), digest(first)] == [each.refresh for each in entra.asked(grant_type="refresh_token")]


def test_refresh_without_rotation(mail: Mail, entra: Entra) -> None:
    """With rotation off an answer holds no refresh token."""
    first = mail.sign_in()["refresh_token"]
    entra.rotate = False

    assert "refresh_token" not in mail.redeem(first)


def test_reuse_refused(mail: Mail, entra: Entra) -> None:
    """With refuse_reuse a refresh token works once; its successor works."""
    entra.refuse_reuse = True
    first = mail.sign_in()["refresh_token"]
    second = mail.redeem(first)["refresh_token"]

    assert 70000 == code_of(mail.redeem(first))
    assert "access_token" in mail.redeem(second)


def test_refresh_token_runs_out(mail: Mail, clock: FakeTime) -> None:
    """A refresh token that was not used for ninety days is refused with 700082."""
    token = mail.sign_in()["refresh_token"]
    clock.now += 90 * 86_400

    assert 700082 == code_of(mail.redeem(token))


def test_foreign_refresh_token(mail: Mail, entra: Entra, session: requests.Session) -> None:
    """A refresh token works for the application that it was given to only; an invented one for none."""
    token = mail.sign_in()["refresh_token"]
    entra.register(Client("another", ("http://localhost",)))

    assert 700003 == code_of(Mail(entra, session, "another").redeem(token))
    assert 70000 == code_of(mail.redeem("invented"))


def test_revoked(mail: Mail, entra: Entra) -> None:
    """After a revocation refreshes are refused with 50173, until somebody signs in again; tokens live on."""
    token = mail.sign_in()["access_token"]
    entra.revoke(A)

    refused = mail.refresh()
    mail.sign_in()

    assert 50173 == code_of(refused)
    assert "access_token" in mail.refresh()
    assert entra.introspect(token)["active"]


def test_revoked_with_access(mail: Mail, entra: Entra, clock: FakeTime) -> None:
    """A revocation of access makes tokens inactive, those of other users and later ones not."""
    token, other = mail.sign_in()["access_token"], entra.mint(B)
    entra.revoke(A, access=True)
    clock.now += 0.001

    active = [entra.introspect(each)["active"] for each in (token, other, entra.mint(A))]

    assert [False, True, True] == active


def test_new_scope_needs_consent(mail: Mail) -> None:
    """A scope that the person never consented to is refused with 65001; the others go on."""
    mail.sign_in()

    refused = mail.refresh(["https://graph.microsoft.com/Mail.Send"])

    assert (65001, "consent_required") == (code_of(refused), refused["suberror"])
    assert "access_token" in mail.refresh()


def test_consent_withdrawn(mail: Mail, entra: Entra) -> None:
    """A withdrawn consent refuses what it was for, until the next sign-in."""
    mail.sign_in()
    entra.withdraw_consent(A, SCOPES[0])

    refused = mail.refresh()
    kept = mail.refresh(SCOPES[1:])
    entra.withdraw_consent(A)
    gone = mail.refresh(SCOPES[1:])
    mail.sign_in()

    assert [65001, True, 65001, True] == [
        code_of(refused),
        "access_token" in kept,
        code_of(gone),
        "access_token" in mail.refresh(),
    ]


def test_resources_are_not_mixed(mail: Mail) -> None:
    """One token request for two resources is refused with 28000, one for none with 70011."""
    mail.sign_in()

    assert 28000 == code_of(mail.refresh([*SCOPES, "https://graph.microsoft.com/Mail.Send"]))
    assert 70011 == code_of(mail.refresh([]))


def test_challenge_until_answered(mail: Mail, entra: Entra) -> None:
    """A challenge refuses with 50076 and its claims until a sign-in carries those claims."""
    mail.sign_in()
    entra.challenge(A)

    refused = mail.refresh()
    without = mail.sign_in()
    answered = mail.finish(mail.start(claims_challenge=refused["claims"]))

    assert (50076, CLAIMS, "basic_action") == (code_of(refused), refused["claims"], refused["classification"])
    assert 50076 == code_of(without)
    assert "access_token" in answered


def test_refusal_has_microsofts_shape(mail: Mail, entra: Entra, session: requests.Session) -> None:
    """A refusal has all the fields of Microsoft's, and the correlation id that the request came with."""
    body = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": "x", "scope": SCOPES[0]}
    correlation = "11111111-0000-4000-8000-000000000000"
    url = f"{entra.authority}/common/oauth2/v2.0/token"

    answer = session.post(url, data=body, headers={"client-request-id": correlation})

    refusal = answer.json()
    assert 400 == answer.status_code
    assert (correlation, [70000], "2027-01-15 08:00:00Z") == (
        refusal["correlation_id"],
        refusal["error_codes"],
        refusal["timestamp"],
    )
    assert refusal["error_uri"].endswith("/error?code=70000")
    assert refusal["error_description"].startswith("AADSTS70000: ")
    assert f" Correlation ID: {correlation} Timestamp: 2027-01-15 08:00:00Z" in refusal["error_description"]
    assert f" Trace ID: {refusal['trace_id']}" in refusal["error_description"]


def test_single_page_application_needs_origin(entra: Entra, session: requests.Session) -> None:
    """A SPA registration is refused without Origin (9002327), and its refresh token ends a day after the sign-in."""
    mail = Mail(entra, session, SPA)
    refused = mail.sign_in()
    session.headers["Origin"] = "http://127.0.0.1:8080/"

    assert 9002327 == code_of(refused)
    assert "access_token" in mail.sign_in()


def test_single_page_application_lasts_a_day(entra: Entra, session: requests.Session, clock: FakeTime) -> None:
    """A SPA's refresh token ends a day after the sign-in, however often it is rotated."""
    mail = Mail(entra, session, SPA)
    session.headers["Origin"] = "http://127.0.0.1:8080/"
    mail.sign_in()
    clock.now += 86_000
    rotated = mail.refresh()
    clock.now += 401

    assert "access_token" in rotated
    assert 700084 == code_of(mail.refresh())


def test_native_application_must_not_send_origin(mail: Mail, session: requests.Session) -> None:
    """Origin from a native registration is refused with 9002326."""
    session.headers["Origin"] = "http://127.0.0.1:8080/"

    assert 9002326 == code_of(mail.sign_in())


def test_unknown_grant_type(entra: Entra, session: requests.Session) -> None:
    """A grant type that Entra does not know is refused."""
    url = f"{entra.authority}/common/oauth2/v2.0/token"

    answer = session.post(url, data={"client_id": CLIENT_ID, "grant_type": "password"}).json()

    assert [90014] == answer["error_codes"]


def for_app(entra: Entra, session: requests.Session, secret: str | dict[str, str], scope: str) -> dict[str, Any]:
    """Ask as an application in its own tenant."""
    authority = f"{entra.authority}/{TENANT}"
    app = msal.ConfidentialClientApplication(
        APP_ID, secret, authority=authority, instance_discovery=False, http_client=session
    )
    result: dict[str, Any] = app.acquire_token_for_client([scope])
    return result


def test_application_alone(entra: Entra, session: requests.Session) -> None:
    """An application with its secret gets a token with its roles, and nobody's name in it."""
    result = for_app(entra, session, APP_SECRET, "https://outlook.office365.com/.default")

    told = entra.introspect(result["access_token"])
    assert ("", "SMTP.SendAsApp IMAP.AccessAsApp POP.AccessAsApp") == (told["email"], told["scope"])


@pytest.mark.parametrize(
    ("secret", "scope", "number"),
    [
        ("wrong", "https://outlook.office365.com/.default", 7000215),
        (APP_SECRET, "https://outlook.office365.com/SMTP.Send", 1002012),
    ],
)
def test_application_refused(entra: Entra, session: requests.Session, secret: str, scope: str, number: int) -> None:
    """A wrong secret and a single scope are refused."""
    assert number == code_of(for_app(entra, session, secret, scope))


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"client_id": CLIENT_ID, "grant_type": "client_credentials"}, 7000216),
        ({"client_id": APP_ID, "grant_type": "refresh_token"}, 7000218),
        ({"client_id": APP_ID, "grant_type": "refresh_token", "client_secret": "no"}, 7000215),
    ],
)
def test_secret_is_demanded(entra: Entra, session: requests.Session, fields: dict[str, str], number: int) -> None:
    """Who has to prove an identity and does not is refused with status 401."""
    answer = session.post(f"{entra.authority}/{TENANT}/oauth2/v2.0/token", data=fields)

    assert (401, [number]) == (answer.status_code, answer.json()["error_codes"])


def test_application_needs_its_tenant(entra: Entra, session: requests.Session) -> None:
    """An application has no home in /common: 9001023."""
    fields = {"client_id": APP_ID, "grant_type": "client_credentials", "client_secret": APP_SECRET}

    answer = session.post(f"{entra.authority}/common/oauth2/v2.0/token", data=fields)

    assert [9001023] == answer.json()["error_codes"]


CERTIFICATE, OTHER = AppCertificate(), AppCertificate()
ISSUER = Issuer()


def by_certificate(shown: AppCertificate, signed_with: AppCertificate) -> dict[str, str]:
    """Return what MSAL takes: the certificate that is named, and the key that signs."""
    key = signed_with.pem().decode().partition("-----BEGIN CERTIFICATE")[0]
    return {"private_key": key, "public_certificate": shown.public}


@pytest.mark.parametrize(
    ("proof", "number"),
    [
        (by_certificate(CERTIFICATE, CERTIFICATE), 0),
        (by_certificate(OTHER, OTHER), 700027),
        (by_certificate(CERTIFICATE, OTHER), 700027),
    ],
    ids=["registered", "another", "signed by another"],
)
def test_application_with_a_certificate(
    entra: Entra, session: requests.Session, clock: FakeTime, proof: dict[str, str], number: int
) -> None:
    """MSAL's own assertion is checked: the certificate is a registered one, and its key has signed."""
    clock.now = time.time()
    entra.register(Client(APP_ID, (), certificates=(CERTIFICATE.public,)))
    result = for_app(entra, session, proof, "https://outlook.office365.com/.default")

    assert number == (0 if "access_token" in result else code_of(result))


def test_application_with_an_old_thumbprint(entra: Entra, session: requests.Session, clock: FakeTime) -> None:
    """SHA-1 and RS256 are what older programs send."""
    clock.now = time.time()
    entra.register(Client(APP_ID, (), certificates=(CERTIFICATE.public,)))
    thumbprint = CERTIFICATE.certificate.fingerprint(hashes.SHA1()).hex()
    proof = by_certificate(CERTIFICATE, CERTIFICATE) | {"thumbprint": thumbprint}

    assert "access_token" in for_app(entra, session, proof, "https://outlook.office365.com/.default")


def with_assertion(entra: Entra, session: requests.Session, assertion: str, **more: str) -> int:
    """Ask with an assertion; return the number that it is refused with, 0 for a token."""
    fields = {
        "client_id": APP_ID,
        "grant_type": "client_credentials",
        "client_assertion": assertion,
        "client_assertion_type": ASSERTION_TYPE,
        "scope": "https://outlook.office.com/.default",
    }
    answer = session.post(f"{entra.authority}/{TENANT}/oauth2/v2.0/token", data=fields | more).json()
    return 0 if "access_token" in answer else int(answer["error_codes"][0])


@pytest.mark.parametrize(
    ("claims", "number"),
    [
        ({}, 0),
        ({"iss": "https://elsewhere.example"}, 700211),
        ({"sub": "system:serviceaccount:mail:other"}, 700213),
        ({"aud": "api://else"}, 700212),
        ({"exp": 1.0}, 700024),
        ({"iss": APP_ID, "sub": "another"}, 700027),
    ],
)
def test_federated_assertion(entra: Entra, session: requests.Session, claims: dict[str, Any], number: int) -> None:
    """An issuer outside vouches for the application, if a federated credential names it to the letter."""
    entra.register(Client(APP_ID, (), federations=(ISSUER.federation,)))

    assert number == with_assertion(entra, session, ISSUER.assertion(entra.directory.now(), **claims))


def test_assertion_that_is_none(entra: Entra, session: requests.Session) -> None:
    """What is no JWT, is not said to be one, or has somebody else's signature is refused."""
    entra.register(Client(APP_ID, (), federations=(ISSUER.federation,)))
    forged = replace(ISSUER, key=OTHER.key).assertion(entra.directory.now())

    assert 50027 == with_assertion(entra, session, "x.y.z")
    assert 90014 == with_assertion(entra, session, forged, client_assertion_type="")
    assert 50013 == with_assertion(entra, session, forged)


@pytest.mark.parametrize(
    ("claims", "number"),
    [
        ({}, 0),
        ({"sub": "another"}, 700021),
        ({"aud": "https://elsewhere.example"}, 700023),
        ({"alg": "none"}, 700027),
    ],
)
def test_assertion_of_the_applications_own(
    entra: Entra, session: requests.Session, claims: dict[str, str], number: int
) -> None:
    """A certificate's assertion is for this application and this endpoint, and no other's can be used for it."""
    entra.register(Client(APP_ID, (), certificates=(CERTIFICATE.public,)))
    now, endpoint = entra.directory.now(), f"{entra.authority}/{TENANT}/oauth2/v2.0/token"
    said = {"iss": APP_ID, "sub": APP_ID, "aud": endpoint, "nbf": now, "exp": now + 600} | claims
    thumbprint = b64url(CERTIFICATE.certificate.fingerprint(hashes.SHA256()))
    head = {"alg": said.pop("alg", "RS256"), "typ": "JWT", "x5t#S256": thumbprint}
    signed = ".".join(b64url(json.dumps(part).encode()) for part in (head, said))
    signature = b64url(CERTIFICATE.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))

    assert number == with_assertion(entra, session, f"{signed}.{signature}")


def test_expired_secret(entra: Entra, session: requests.Session) -> None:
    """The right secret, too late: 7000222."""
    entra.register(Client(APP_ID, (), secret=APP_SECRET, expired=True))

    assert 7000222 == code_of(for_app(entra, session, APP_SECRET, "https://outlook.office365.com/.default"))


# --- introspection


@pytest.mark.parametrize("life", [-1, 0])
def test_expired_token_is_inactive(entra: Entra, life: float) -> None:
    """A token at or past its end is inactive."""
    assert {"active": False} == entra.introspect(entra.mint(A, life=life))


def test_introspection_over_http(entra: Entra, session: requests.Session) -> None:
    """Dovecot's question is answered with the user, the bare scopes of mail and the end of the token."""
    token = entra.mint(A, SCOPES[:1], life=60)

    told = session.get(entra.introspect_url + token).json()

    assert (True, A, A, "SMTP.Send", 1_800_000_060) == (
        told["active"],
        told["email"],
        told["username"],
        told["scope"],
        told["exp"],
    )


@pytest.mark.parametrize("token", ["", "garbage", "a.b.c", "ü"])
def test_garbage_is_inactive(entra: Entra, session: requests.Session, token: str) -> None:
    """Anything that is no token of this sandbox's is inactive, a changed one as well."""
    good = entra.mint(A)

    for bad in (token, good[:-1] + ("A" if good[-1] != "A" else "B"), good.replace(".", "!", 1)):
        answer = session.get(f"{entra.plain_url}/introspect", params={"token": bad}).json()
        assert {"active": False} == answer


def test_token_for_graph_opens_no_mailbox(entra: Entra) -> None:
    """The scope of another resource's token is told with that resource, so that no mail server takes it."""
    told = entra.introspect(entra.mint(A, ["SMTP.Send"]))

    assert "https://graph.microsoft.com/SMTP.Send" == told["scope"]


def test_token_size(entra: Entra) -> None:
    """Tokens are as long as wanted, and as long as they are where less is wanted."""
    entra.token_size = 4096
    long = entra.mint(A)
    entra.token_size = 0

    assert 4093 <= len(long) <= 4096
    assert len(entra.mint(A)) < 1000


def test_token_life_is_told(mail: Mail, entra: Entra) -> None:
    """expires_in is the configured life, and the token really ends then."""
    entra.token_life = 7

    result = mail.sign_in()

    assert 7 == result["expires_in"]
    assert 1_800_000_007 == entra.introspect(result["access_token"])["exp"]


# --- faults


def test_server_error_then_recovery(mail: Mail, entra: Entra) -> None:
    """A 503 that strikes once is MSAL's exception once."""
    mail.sign_in()
    entra.faults.add(Fault("status", status=503))

    with pytest.raises(MsalServiceError):
        mail.refresh()

    assert "access_token" in mail.refresh()


def test_throttled(entra: Entra, session: requests.Session) -> None:
    """429 carries Retry-After."""
    entra.faults.add(Fault("status", status=429, retry_after="120"))

    answer = session.post(f"{entra.authority}/common/oauth2/v2.0/token", data={})

    assert (429, "120") == (answer.status_code, answer.headers["Retry-After"])


def test_reset(mail: Mail, entra: Entra) -> None:
    """A reset connection is an exception of requests."""
    mail.sign_in()
    entra.faults.add(Fault("reset"))

    with pytest.raises(requests.ConnectionError):
        mail.refresh()


@pytest.mark.parametrize("kind", ["html", "truncated"])
def test_answers_that_are_none(mail: Mail, entra: Entra, kind: str) -> None:
    """A page instead of JSON and half of JSON come with status 200 and make MSAL raise."""
    mail.sign_in()
    entra.faults.add(Fault(kind))

    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        mail.refresh()

    assert [200, 200] == [each.status for each in entra.asked()]


def test_lost_answer(mail: Mail, entra: Entra) -> None:
    """With `after` the refresh token has been used although its answer is lost; without, it has not."""
    entra.refuse_reuse = True
    first = mail.sign_in()["refresh_token"]
    entra.faults.add(Fault("truncated"))
    entra.faults.add(Fault("truncated", after=True))

    for _ in range(2):
        with pytest.raises(ValueError, match="Unterminated"):
            mail.redeem(first)

    assert 70000 == code_of(mail.redeem(first))


def test_silence_ends_with_clear(mail: Mail, entra: Entra) -> None:
    """A silent request is answered as usual once the faults are cleared."""
    mail.sign_in()
    entra.faults.add(Fault("silence", seconds=600))
    results: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: results.append(mail.refresh()))
    asking.start()
    assert entra.wait_for(1, grant_type="refresh_token")

    entra.faults.clear()
    asking.join(10)

    assert [True] == ["access_token" in result for result in results]


def test_silence_times_out(mail: Mail, entra: Entra) -> None:
    """A client with a deadline gives up on a silence; stopping the sandbox does not wait for the silence."""
    mail.sign_in()
    entra.faults.add(Fault("silence", seconds=600))
    url = f"{entra.authority}/common/oauth2/v2.0/token"

    with pytest.raises(requests.ReadTimeout):
        requests.post(url, data={"client_id": CLIENT_ID}, verify=entra.ca_file, timeout=0.1)


@pytest.mark.parametrize("number", [50173, 50076, 65001, 700082, 53003, 99999])
def test_any_refusal(mail: Mail, entra: Entra, number: int) -> None:
    """Any AADSTS number can be refused with, known or not; claims come along."""
    mail.sign_in()
    entra.faults.add(Fault("aadsts", aadsts=number, claims=CLAIMS))

    refused = mail.refresh()

    assert (number, CLAIMS) == (code_of(refused), refused["claims"])
    assert KINDS.get(number, KINDS[50173]).error == refused["error"]


def test_refusal_at_authorize(mail: Mail, entra: Entra) -> None:
    """A scripted refusal of a sign-in goes back to the application."""
    entra.faults.add(Fault("aadsts", "authorize", aadsts=90094))

    result = mail.sign_in()

    assert ("access_denied", True) == (result["error"], "AADSTS90094" in result["error_description"])
    assert [90094] == [each.aadsts for each in entra.asked("authorize")]


def test_refusal_on_a_page_of_its_own(mail: Mail, entra: Entra) -> None:
    """Or it stays with the person at the browser, and the application hears nothing."""
    entra.faults.add(Fault("page", "authorize", aadsts=50105))

    with pytest.raises(Stuck, match="AADSTS50105"):
        mail.sign_in()
    assert [50105] == [each.aadsts for each in entra.asked("authorize")]
    assert "access_token" in mail.sign_in()


def test_wrong_user(mail: Mail, entra: Entra) -> None:
    """Somebody else signs in than was meant to."""
    entra.faults.add(Fault("wrong-user", "authorize", user=A, as_user=B))

    assert B == mail.sign_in()["id_token_claims"]["preferred_username"]


def test_faults_match_what_they_name(entra: Entra, session: requests.Session) -> None:
    """A fault of one user's leaves others alone; one of devicecode leaves tokens alone."""
    a, b = Mail(entra, session), Mail(entra, session)
    a.sign_in(A)
    b.sign_in(B)
    entra.faults.add(Fault("aadsts", user=A.upper(), grant_type="refresh_token", times=None))
    entra.faults.add(Fault("status", "devicecode", status=500))

    assert ["error", "access_token", "error"] == [
        next(key for key in ("error", "access_token") if key in each.refresh()) for each in (a, b, a)
    ]
    assert "user_code" not in a.app.initiate_device_flow(SCOPES)


def test_discovery_can_fail(entra: Entra, session: requests.Session) -> None:
    """Discovery has faults of its own."""
    entra.faults.add(Fault("status", "discovery", status=500))

    with pytest.raises(MsalServiceError):
        Mail(entra, session)


def test_down_and_up(mail: Mail, entra: Entra) -> None:
    """While it is down connections are refused; afterwards everything is as it was, on the same port."""
    mail.sign_in()
    entra.faults.add(Fault("html"))
    entra.go_down()

    with pytest.raises(requests.ConnectionError):
        mail.refresh()
    entra.come_up()

    assert 1 == entra.faults.left()
    entra.faults.clear()
    assert "access_token" in mail.refresh()


# --- what was asked


def test_requests_are_counted(mail: Mail, entra: Entra) -> None:
    """Every request is on record with what it was for, and no record holds a secret."""
    result = mail.sign_in()
    mail.refresh()

    assert ["authorization_code", "refresh_token"] == [each.grant_type for each in entra.asked()]
    assert [A, A] == [each.user for each in entra.asked()]
    assert 1 == entra.count("discovery")
    assert (1, 0) == (entra.count(grant_type="refresh_token", user=A), entra.count(user=B))
    assert len(entra.requests) == entra.count("")
    assert result["refresh_token"] not in repr(entra.requests)


def test_waiting_for_requests_has_an_end(entra: Entra) -> None:
    """Waiting for what never comes says so."""
    assert entra.wait_for(1, seconds=0.01) is False


def test_unknown_paths(entra: Entra, session: requests.Session) -> None:
    """Both servers answer 404 for what they do not know."""
    statuses = [session.get(f"{base}/nothing").status_code for base in (entra.authority, entra.plain_url)]

    assert [404, 404] == statuses


def test_answers_are_json(entra: Entra, session: requests.Session) -> None:
    """The configuration document names every endpoint that MSAL uses, below the tenant that was asked for."""
    document = json.loads(session.get(f"{entra.authority}/organizations/v2.0/.well-known/openid-configuration").text)

    base = f"{entra.authority}/organizations/oauth2/v2.0"
    assert [f"{base}/authorize", f"{base}/token", f"{base}/devicecode"] == [
        document[f"{name}_endpoint"] for name in ("authorization", "token", "device_authorization")
    ]
