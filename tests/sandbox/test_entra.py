"""The contract of the simulated Entra: it refuses what Entra refuses, with Entra's numbers and Entra's error object.

That it grants what Entra grants, and that each fault strikes, is proved by every test of the worker and of the daemon
that signs in at it. These tests hold what those would not notice: a sandbox that forgives a client's mistakes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msal
import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from support.proofs import AppCertificate, Issuer
from support.waiting import PATIENCE

from cms.grants.entra import exchange
from cms.sandbox.assertions import ASSERTION_TYPE
from cms.sandbox.directory import APP_ID, APP_SECRET, CLIENT_ID, MAIL_SCOPES, TENANT, Client
from cms.sandbox.entra import Entra
from cms.sandbox.faults import CLAIMS, Fault, Faults
from cms.sandbox.person import Stuck
from cms.sandbox.tokens import b64url

A, B = "a@example.test", "b@example.test"
SCOPES = list(MAIL_SCOPES)
GRAPH = "https://graph.microsoft.com/Mail.Send"
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
        entra.register(Client("another", ("http://localhost",)))
        yield entra


@pytest.fixture
def session(entra: Entra) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = entra.ca_file
        yield session


class Mail:
    """A public client of MSAL's. `again` forgets the answers that MSAL would replay."""

    def __init__(self, entra: Entra, session: requests.Session, client_id: str = CLIENT_ID) -> None:
        self.entra = entra
        self.session = session
        self._replayed: dict[Any, Any] = {}
        self._app = msal.PublicClientApplication(
            client_id,
            authority=f"{entra.authority}/common",
            instance_discovery=False,
            http_client=session,
            http_cache=self._replayed,
        )

    @property
    def again(self) -> msal.PublicClientApplication:
        self._replayed.clear()
        return self._app

    def start(self, **more: Any) -> dict[str, Any]:
        flow: dict[str, Any] = self.again.initiate_auth_code_flow(
            SCOPES, redirect_uri=REDIRECT, response_mode="form_post", **more
        )
        return flow

    def finish(self, flow: dict[str, Any], fields: dict[str, str] | None = None) -> dict[str, Any]:
        fields = fields or dict(self.entra.sign_in(flow["auth_uri"], A, follow=False).fields)
        result: dict[str, Any] = self.again.acquire_token_by_auth_code_flow(flow, fields)
        return result

    def sign_in(self) -> dict[str, Any]:
        return self.finish(self.start())

    def redeem(self, refresh_token: str, scopes: list[str] = SCOPES) -> dict[str, Any]:
        result: dict[str, Any] = self.again.acquire_token_by_refresh_token(refresh_token, scopes)
        return result

    def poll(self, flow: dict[str, Any]) -> str:
        """Ask for a device's token without MSAL, which warns when it asks too soon; return the error, or ""."""
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": flow["device_code"]}
        return str(ask(self.entra, self.session, "common", client_id=CLIENT_ID, **grant).json().get("error", ""))


@pytest.fixture
def mail(entra: Entra, session: requests.Session) -> Mail:
    return Mail(entra, session)


def ask(entra: Entra, session: requests.Session, tenant: str = TENANT, **fields: str) -> requests.Response:
    """Ask the token endpoint without MSAL."""
    return session.post(f"{entra.authority}/{tenant}/oauth2/v2.0/token", data=fields)


def number(answer: dict[str, Any]) -> int:
    """Return the AADSTS number of a refusal, 0 for a token."""
    return 0 if "access_token" in answer else int(answer["error_codes"][0])


# --- what a person does


def test_a_sign_in_gives_msal_what_it_needs(mail: Mail, entra: Entra) -> None:
    """A token of usual length, an account, and a refresh token of which no record is kept."""
    result = mail.sign_in()

    assert 2190 <= len(result["access_token"]) <= 2200
    assert sorted(SCOPES) == sorted(result["scope"].split())
    assert [A] == [account["username"] for account in mail.again.get_accounts()]
    assert result["refresh_token"] not in repr(entra.requests)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"code_verifier": "x" * 43}, 501481),
        ({"redirect_uri": "http://127.0.0.1:8081/other"}, 50011),
        ({"code": "invented"}, 70000),
        ({"late": "601"}, 70008),
    ],
)
def test_a_code_is_for_one_sign_in(
    mail: Mail, entra: Entra, clock: FakeTime, change: dict[str, str], refusal: int
) -> None:
    """A code is redeemed within ten minutes, with its own verifier and redirect address, or not at all."""
    flow = mail.start()
    fields = dict(entra.sign_in(flow["auth_uri"], A, follow=False).fields)
    clock.now += float(change.get("late", "0"))

    refused = mail.finish({**flow, **change}, {**fields, "code": change.get("code", fields["code"])})

    assert ("invalid_grant" if refusal != 50011 else "invalid_request", refusal) == (refused["error"], number(refused))


def test_a_code_works_once(mail: Mail, entra: Entra) -> None:
    """The second redemption of a code is refused with 54005."""
    flow = mail.start()
    fields = dict(entra.sign_in(flow["auth_uri"], A, follow=False).fields)

    assert [0, 54005] == [number(mail.finish(flow, fields)) for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"client_id": "00000000-0000-0000-0000-000000000000"}, 700016),
        ({"redirect_uri": "https://elsewhere.example/"}, 50011),
        ({"redirect_uri": "https://localhost/x"}, 50011),
        ({"scope": ""}, 90014),
        ({"response_type": "token"}, 90014),
        ({"client_id": SPA, "code_challenge": ""}, 90014),
        ({"user": "nobody@example.test"}, 50034),
    ],
)
def test_a_broken_link_shows_a_page(mail: Mail, entra: Entra, change: dict[str, str], refusal: int) -> None:
    """What is wrong with the request itself is shown to the person, and the browser is sent nowhere."""
    parts = urlsplit(mail.start()["auth_uri"])
    fields = {name: value[0] for name, value in parse_qs(parts.query).items()} | change
    url = requests.Request("GET", parts._replace(query="").geturl(), params=fields).prepare().url or ""

    with pytest.raises(Stuck, match=f"AADSTS{refusal}:"):
        entra.sign_in(url, change.get("user", A))


def test_a_device_waits_for_its_person(mail: Mail, entra: Entra, clock: FakeTime) -> None:
    """Pending at the interval, slow_down sooner than that, once after the person has come, and never again."""
    flow = mail.again.initiate_device_flow(SCOPES)
    answers = []
    for pause in (0, 1, 5):
        clock.now += pause
        answers.append(mail.poll(flow))
    entra.approve_device(flow["user_code"].lower(), A)
    answers += [mail.poll(flow), mail.poll(flow)]

    assert ["authorization_pending", "slow_down", "authorization_pending", "", "bad_verification_code"] == answers


def test_a_device_without_its_person(mail: Mail, entra: Entra, clock: FakeTime) -> None:
    """A code expires, a person may decline, and a code that no device shows is refused on the page."""
    late, declined = (mail.again.initiate_device_flow(SCOPES) for _ in range(2))
    entra.approve_device(declined["user_code"], A, decision="decline")
    answers = [mail.poll(declined)]
    clock.now += 900
    answers.append(mail.poll(late))

    assert ["authorization_declined", "expired_token"] == answers
    with pytest.raises(Stuck, match="AADSTS70018"):
        entra.approve_device("XXXXXXXXX", A)


# --- refreshing


def _reused(mail: Mail, token: str) -> dict[str, Any]:
    mail.entra.refuse_reuse = True
    mail.redeem(token)
    return mail.redeem(token)


def _idle(mail: Mail, token: str) -> dict[str, Any]:
    clock = mail.entra.directory.now
    assert isinstance(clock, FakeTime)
    clock.now += 90 * 86_400
    return mail.redeem(token)


@pytest.mark.parametrize(
    ("redeem", "refusal"),
    [
        (Mail.redeem, 0),
        (lambda mail, token: mail.redeem(mail.redeem(token)["refresh_token"]), 0),
        (lambda mail, token: (mail.redeem(token), mail.redeem(token))[1], 0),
        (_reused, 70000),
        (_idle, 700082),
        (lambda mail, token: Mail(mail.entra, mail.session, "another").redeem(token), 700003),
        (lambda mail, _token: mail.redeem("invented"), 70000),
        (lambda mail, token: mail.redeem(token, [GRAPH]), 65001),
        (lambda mail, token: mail.redeem(token, [*SCOPES, GRAPH]), 28000),
        (lambda mail, token: mail.redeem(token, []), 70011),
    ],
    ids=["usual", "next", "old", "reused", "idle", "stranger", "invented", "no consent", "two resources", "none"],
)
def test_refresh(mail: Mail, redeem: Callable[[Mail, str], dict[str, Any]], refusal: int) -> None:
    """A refresh token is good for its application, for ninety days, for one resource that was consented to.

    Redemption gives a new one, and the old one stays good, as Entra documents.
    """
    assert refusal == number(redeem(mail, mail.sign_in()["refresh_token"]))


def test_a_challenge_until_it_is_answered(mail: Mail, entra: Entra) -> None:
    """A challenge refuses with 50076 and its claims until a sign-in carries those claims."""
    token = mail.sign_in()["refresh_token"]
    entra.challenge(A)

    refused, without = mail.redeem(token), mail.sign_in()
    answered = mail.finish(mail.start(claims_challenge=refused["claims"]))

    assert (50076, CLAIMS, "basic_action") == (number(refused), refused["claims"], refused["suberror"])
    assert [50076, 0] == [number(without), number(answered)]


def test_a_refusal_has_microsofts_shape(entra: Entra, session: requests.Session) -> None:
    """A refusal has all the fields of Microsoft's, and the correlation id that the request came with."""
    correlation = "11111111-0000-4000-8000-000000000000"
    session.headers["client-request-id"] = correlation

    answer = ask(entra, session, client_id=CLIENT_ID, grant_type="refresh_token", refresh_token="x", scope=SCOPES[0])

    refusal = answer.json()
    assert 400 == answer.status_code
    assert (correlation, [70000], "bad_token", "2027-01-15 08:00:00Z") == (
        refusal["correlation_id"],
        refusal["error_codes"],
        refusal["suberror"],
        refusal["timestamp"],
    )
    assert refusal["error_uri"].endswith("/error?code=70000")
    assert refusal["error_description"].startswith("AADSTS70000: ")
    assert f" Correlation ID: {correlation} Timestamp: 2027-01-15 08:00:00Z" in refusal["error_description"]
    assert f" Trace ID: {refusal['trace_id']}" in refusal["error_description"]


@pytest.mark.parametrize(
    ("client_id", "origin", "refusal"), [(SPA, "", 9002327), (SPA, REDIRECT, 0), (CLIENT_ID, REDIRECT, 9002326)]
)
def test_only_a_single_page_application_sends_an_origin(
    entra: Entra, session: requests.Session, client_id: str, origin: str, refusal: int
) -> None:
    """It is refused without Origin, every other application with it."""
    mail = Mail(entra, session, client_id)
    session.headers.update({"Origin": origin} if origin else {})

    assert refusal == number(mail.sign_in())


def test_a_single_page_application_lasts_a_day(entra: Entra, session: requests.Session, clock: FakeTime) -> None:
    """Its refresh token ends a day after the sign-in, however often it is rotated."""
    mail = Mail(entra, session, SPA)
    session.headers["Origin"] = REDIRECT
    first = mail.sign_in()
    clock.now += 86_000
    rotated = mail.redeem(first["refresh_token"])
    clock.now += 401

    assert 700084 == number(mail.redeem(rotated["refresh_token"]))


# --- applications without a person

CERTIFICATE, OTHER, ISSUER = AppCertificate(), AppCertificate(), Issuer()
APP_ALONE = {"client_id": APP_ID, "grant_type": "client_credentials", "scope": "https://outlook.office.com/.default"}
NOT_ONE_RESOURCE = {"client_secret": APP_SECRET, "scope": "https://outlook.office365.com/SMTP.Send"}


@pytest.mark.parametrize(
    ("fields", "tenant", "status", "refusal"),
    [
        ({"client_secret": APP_SECRET}, TENANT, 200, 0),
        ({"client_secret": APP_SECRET}, "common", 400, 9001023),
        (NOT_ONE_RESOURCE, TENANT, 400, 1002012),
        ({"client_secret": "wrong"}, TENANT, 401, 7000215),
        ({"client_id": "expired", "client_secret": APP_SECRET}, TENANT, 401, 7000222),
        ({"client_id": CLIENT_ID}, TENANT, 401, 7000216),
        ({"grant_type": "refresh_token"}, TENANT, 401, 7000218),
        ({"grant_type": "refresh_token", "client_secret": "no"}, TENANT, 401, 7000215),
        ({"client_id": CLIENT_ID, "grant_type": "password"}, TENANT, 400, 90014),
    ],
)
def test_a_secret_is_demanded(
    entra: Entra, session: requests.Session, *, fields: dict[str, str], tenant: str, status: int, refusal: int
) -> None:
    """An application asks in its own tenant, for one resource's .default, with a secret that is right and current."""
    entra.register(Client("expired", (), secret=APP_SECRET, expired=True))

    answer = ask(entra, session, tenant, **(APP_ALONE | fields))

    assert (status, refusal) == (answer.status_code, number(answer.json()))


@pytest.mark.parametrize(
    ("shown", "signed_with", "thumbprint", "refusal"),
    [
        (CERTIFICATE, CERTIFICATE, "", 0),
        (CERTIFICATE, CERTIFICATE, CERTIFICATE.certificate.fingerprint(hashes.SHA1()).hex(), 0),
        (OTHER, OTHER, "", 700027),
        (CERTIFICATE, OTHER, "", 700027),
    ],
    ids=["registered", "by its SHA-1", "another", "signed by another"],
)
def test_msals_assertion(
    entra: Entra,
    session: requests.Session,
    clock: FakeTime,
    *,
    shown: AppCertificate,
    signed_with: AppCertificate,
    thumbprint: str,
    refusal: int,
) -> None:
    """The certificate that MSAL's assertion names is a registered one, and its key has signed."""
    if exchange.NEEDS_THUMBPRINT:
        thumbprint = thumbprint or shown.certificate.fingerprint(hashes.SHA1()).hex()
    clock.now = time.time()
    entra.register(Client(APP_ID, (), certificates=(CERTIFICATE.public,)))
    key = signed_with.pem().decode().partition("-----BEGIN CERTIFICATE")[0]
    proof = {"private_key": key, "public_certificate": shown.public} | (
        {"thumbprint": thumbprint} if thumbprint else {}
    )
    app = msal.ConfidentialClientApplication(
        APP_ID, proof, authority=f"{entra.authority}/{TENANT}", instance_discovery=False, http_client=session
    )

    assert refusal == number(app.acquire_token_for_client([APP_ALONE["scope"]]))


def with_assertion(entra: Entra, session: requests.Session, assertion: str, kind: str = ASSERTION_TYPE) -> int:
    """Ask with an assertion; return the number that it is refused with."""
    proof = {"client_assertion": assertion, "client_assertion_type": kind}
    return number(ask(entra, session, **APP_ALONE, **proof).json())


@pytest.mark.parametrize(
    ("claims", "refusal"),
    [
        ({}, 0),
        ({"iss": "https://elsewhere.example"}, 700211),
        ({"sub": "system:serviceaccount:mail:other"}, 700213),
        ({"aud": "api://else"}, 700212),
        ({"exp": 1.0}, 700024),
        ({"iss": APP_ID, "sub": "another"}, 700027),
    ],
)
def test_a_federated_assertion(entra: Entra, session: requests.Session, claims: dict[str, Any], refusal: int) -> None:
    """An outside issuer vouches for the application, if a federated credential names it to the letter."""
    entra.register(Client(APP_ID, (), federations=(ISSUER.federation,)))

    assert refusal == with_assertion(entra, session, ISSUER.assertion(entra.directory.now(), **claims))


def test_no_assertion_at_all(entra: Entra, session: requests.Session) -> None:
    """What is no JWT, is not said to be one, or has another key's signature is refused."""
    entra.register(Client(APP_ID, (), federations=(ISSUER.federation,)))
    forged = replace(ISSUER, key=OTHER.key).assertion(entra.directory.now())

    assert 50027 == with_assertion(entra, session, "x.y.z")
    assert 90014 == with_assertion(entra, session, forged, "")
    assert 50013 == with_assertion(entra, session, forged)


@pytest.mark.parametrize(
    ("claims", "refusal"),
    [
        ({}, 0),
        ({"sub": "another"}, 700021),
        ({"aud": "https://elsewhere.example"}, 700023),
        ({"alg": "none"}, 700027),
    ],
)
def test_a_certificates_assertion(
    entra: Entra, session: requests.Session, claims: dict[str, str], refusal: int
) -> None:
    """It is for this application and this endpoint: no other's is taken for it."""
    entra.register(Client(APP_ID, (), certificates=(CERTIFICATE.public,)))
    now, endpoint = entra.directory.now(), f"{entra.authority}/{TENANT}/oauth2/v2.0/token"
    said = {"iss": APP_ID, "sub": APP_ID, "aud": endpoint, "nbf": now, "exp": now + 600} | claims
    thumbprint = b64url(CERTIFICATE.certificate.fingerprint(hashes.SHA256()))
    head = {"alg": said.pop("alg", "RS256"), "typ": "JWT", "x5t#S256": thumbprint}
    signed = ".".join(b64url(json.dumps(part).encode()) for part in (head, said))
    signature = b64url(CERTIFICATE.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))

    assert refusal == with_assertion(entra, session, f"{signed}.{signature}")


# --- what a mail server asks


def test_introspection(entra: Entra, session: requests.Session) -> None:
    """Dovecot's question is answered with the user, the bare scopes of mail and the end of the token."""
    told = session.get(entra.plain.introspect_url + entra.issue(A, SCOPES[:1], life=60)).json()

    assert (True, A, "SMTP.Send", 1_800_000_060) == (told["active"], told["email"], told["scope"], told["exp"])


def test_what_opens_no_mailbox(entra: Entra, session: requests.Session, clock: FakeTime) -> None:
    """Garbage, a changed, an expired and a revoked token are inactive; one for Graph says that it is for Graph."""
    good, graph = entra.issue(B), entra.issue(B, ["SMTP.Send"])
    revoked = entra.issue(A)
    entra.revoke(A, access=True)
    clock.now += 0.001

    for bad in (
        *("", "garbage", "a.b.c", "ü", revoked, entra.issue(A, life=-1), entra.issue(A, life=0)),
        *(good[:-1] + ("A" if good[-1] != "A" else "B"), good.replace(".", "!", 1)),
    ):
        assert {"active": False} == session.get(f"{entra.plain.url}/introspect", params={"token": bad}).json()
    assert [True, True] == [entra.introspect(each)["active"] for each in (good, entra.issue(A))]
    assert "https://graph.microsoft.com/SMTP.Send" == entra.introspect(graph)["scope"]


# --- faults


def test_a_fault_that_does_not_exist() -> None:
    """It is a mistake of the script's, and the kinds that exist are named."""
    with pytest.raises(ValueError, match="no such fault: 'meteor'; there are status, reset"):
        Fault("meteor")


@pytest.mark.parametrize(
    ("fault", "strikes"),
    [
        (Fault("reset"), True),
        (Fault("reset", "devicecode"), False),
        (Fault("reset", user="A@x"), True),
        (Fault("reset", user="b@x"), False),
        (Fault("reset", grant_type="refresh_token"), True),
        (Fault("reset", grant_type="authorization_code"), False),
    ],
)
def test_what_a_fault_strikes(fault: Fault, *, strikes: bool) -> None:
    """A fault strikes where everything that it names is so, as often as it says."""
    faults = Faults()
    faults.add(fault)
    struck = [faults.take("token", "a@x", "refresh_token") == (fault, 0) for _ in range(2)]

    assert [strikes, False] == struck


@pytest.mark.parametrize(("refusal", "error"), [(90033, "temporarily_unavailable"), (99999, "invalid_grant")])
def test_any_number_can_be_refused_with(mail: Mail, entra: Entra, refusal: int, error: str) -> None:
    """A scripted refusal has its number's error, and the claims that the script gives; most are invalid_grant."""
    token = mail.sign_in()["refresh_token"]
    entra.faults.add(Fault("aadsts", aadsts=refusal, claims=CLAIMS))

    refused = mail.redeem(token)

    assert (error, refusal, CLAIMS) == (refused["error"], number(refused), refused["claims"])


def test_a_lost_answer(mail: Mail, entra: Entra) -> None:
    """With `after` the refresh token has been used although its answer is lost; without, it has not."""
    entra.refuse_reuse = True
    token = mail.sign_in()["refresh_token"]
    for after in (False, True):
        entra.faults.add(Fault("truncated", after=after))
        with pytest.raises(ValueError, match="Unterminated"):
            mail.redeem(token)

    assert 70000 == number(mail.redeem(token))


def test_silence_ends_with_the_sandbox(entra: Entra, session: requests.Session) -> None:
    """A client with a deadline gives up on a silence; stopping the sandbox does not wait for its end."""
    entra.faults.add(Fault("silence", seconds=600))

    with pytest.raises(requests.ReadTimeout):
        session.post(f"{entra.authority}/common/oauth2/v2.0/token", data={"client_id": CLIENT_ID}, timeout=(60, 0.1))


def test_a_silence_that_is_released(mail: Mail, entra: Entra) -> None:
    """A request that was met with silence is answered as usual after `clear`."""
    token = mail.sign_in()["refresh_token"]
    entra.faults.add(Fault("silence", seconds=600))
    results: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: results.append(mail.redeem(token)))
    asking.start()
    assert entra.wait_for(1, grant_type="refresh_token")

    entra.faults.clear()
    asking.join(PATIENCE)

    assert [0] == [number(result) for result in results]


def test_a_silence_that_is_released_before_it_begins() -> None:
    """A test that has seen the request may end its silence before the request's thread begins it."""
    faults = Faults()
    faults.add(Fault("silence"))
    struck = faults.take("token", A, "")
    assert struck
    faults.release()

    faults.silence(600, struck[1])


def test_waiting_for_a_request_has_an_end(entra: Entra) -> None:
    """A test that waits for a request which never comes hears so."""
    assert entra.wait_for(1, seconds=0.01) is False
