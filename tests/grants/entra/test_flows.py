"""Sign-ins of a person, from the link that is shown to the end that the provider gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msal
import pytest
from support.exchanges import Person, code_flow, granted, refused, transient
from support.grants import ANN, BEN, SCOPES, grant_for

from cms.core.lifecycle import Refused, Transient
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import DeviceFlow
from cms.grants.exchange import SIGN_IN_SECONDS
from cms.grants.network.http import HttpReply
from cms.sandbox.entra import Entra, Fault

CLAIMS = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


class TestCode:
    """The authorization code flow."""

    def test_what_the_link_carries(self, entra: Entra) -> None:
        """The link has PKCE, the hint, the redirect address and the prompt, and asks for an answer to be read."""
        grant = grant_for(entra, prompt="select_account")
        flow = code_flow(Provider(entra.ca_file).begin(grant, "paste", '{"access_token":{}}'))
        for words in (
            "code_challenge_method=S256",
            "login_hint=ann%40example.test",
            "redirect_uri=http%3A%2F%2Flocalhost%3A1%2Foauth2",
            "prompt=select_account",
            "response_mode=query",
            "claims=",
            "offline_access",
            f"state={flow.state}",
        ):
            assert words in flow.url
        assert "code_verifier" not in flow.url
        assert grant.redirect_uri == flow.redirect_uri

    @pytest.mark.parametrize("fields", [{}, {"state": "other", "code": "x"}, {"code": "x"}])
    def test_foreign_answer(self, person: Person, fields: dict[str, str]) -> None:
        """What another sign-in brought is not redeemed."""
        flow = code_flow(person.client.begin(person.grant, "browser"))

        assert "refused" == refused(flow.finish(fields))
        assert "refused" == refused(flow.finish({"state": flow.state}))
        assert 1 == person.server.count("token")

    def test_declined(self, person: Person) -> None:
        """A person who declines ends the sign-in, with Entra's number."""
        flow = code_flow(person.client.begin(person.grant, "browser"))
        page = person.server.sign_in(flow.url, ANN, decision="decline", follow=False)
        answer = flow.finish(page.fields)

        assert isinstance(answer.outcome, Refused)
        assert answer.outcome.trouble.aadsts

    def test_code_twice(self, person: Person) -> None:
        """A code is good once."""
        flow = code_flow(person.client.begin(person.grant, "browser"))
        fields = person.server.sign_in(flow.url, ANN, follow=False).fields
        granted(flow.finish(fields).outcome)

        assert "refused" == refused(flow.finish(fields))

    def test_token_endpoint_down(self, person: Person) -> None:
        """An outage while the code is redeemed is a transient fault."""
        flow = code_flow(person.client.begin(person.grant, "browser"))
        fields = person.server.sign_in(flow.url, ANN, follow=False).fields
        person.server.faults.add(Fault("status", status=503))

        assert "server" == transient(flow.finish(fields))

    def test_foreign_nonce(self, person: Person) -> None:
        """An id token of another sign-in is no answer to this one."""
        flow = code_flow(person.client.begin(person.grant, "browser"))
        fields = person.server.sign_in(flow.url, ANN, follow=False).fields
        flow._flow["nonce"] = "another"

        assert "garbage" == transient(flow.finish(fields))

    def test_two_resources(self, entra: Entra) -> None:
        """A sign-in asks consent for every scope set, and redeems for the first one."""
        graph = ("https://graph.microsoft.com/Mail.Send",)
        person = Person(entra, replace(grant_for(entra), scope_sets=(SCOPES, graph)))

        assert SCOPES == granted(person.answer.outcome).scopes
        assert graph == granted(person.redeem(scopes=graph).outcome).scopes

    def test_no_scopes(self, entra: Entra) -> None:
        """An account that no socket serves yet has a link to sign in by."""
        flow = code_flow(Provider(entra.ca_file).begin(replace(grant_for(entra), scope_sets=()), "browser"))

        assert "outlook" not in flow.url


class TestDevice:
    """The device flow."""

    @pytest.fixture
    def flow(self, entra: Entra) -> DeviceFlow:
        flow = Provider(entra.ca_file).begin(grant_for(entra), "device")
        assert isinstance(flow, DeviceFlow)
        return flow

    def test_polled(self, flow: DeviceFlow, entra: Entra) -> None:
        """Each poll is one request; the person's approval ends it."""
        assert (5.0, 900.0) == (flow.interval, flow.expires_in)
        assert flow.url.startswith("https://")
        assert flow.poll() is None
        entra.approve_device(flow.user_code, ANN)
        answer = flow.poll()

        assert answer is not None
        assert ANN == granted(answer.outcome).sign_in.who
        assert 2 == entra.count("token")

    def test_wrong_user(self, flow: DeviceFlow, entra: Entra) -> None:
        """Another person's approval is refused."""
        entra.approve_device(flow.user_code, BEN)
        answer = flow.poll()

        assert answer is not None
        assert "wrong-user" == refused(answer)

    def test_declined(self, flow: DeviceFlow, entra: Entra) -> None:
        """A person who declines ends it."""
        entra.approve_device(flow.user_code, ANN, decision="decline")
        answer = flow.poll()

        assert answer is not None
        assert isinstance(answer.outcome, Refused)

    def test_expired(self, flow: DeviceFlow, entra: Entra) -> None:
        """A code that has expired ends it."""
        entra.faults.add(Fault("aadsts", aadsts=70019))
        answer = flow.poll()

        assert answer is not None
        assert "expired" == refused(answer)

    @pytest.mark.parametrize("fault", ["reset", "html", "truncated", "status"])
    def test_faults_do_not_end_it(self, flow: DeviceFlow, entra: Entra, fault: str) -> None:
        """An outage while the person types is waited out."""
        entra.faults.add(Fault(fault))
        assert flow.poll() is None
        entra.approve_device(flow.user_code, ANN)

        assert flow.poll() is not None

    def test_retry_after(self, flow: DeviceFlow, entra: Entra) -> None:
        """A provider that asks for a pause gets it; after that its usual pace counts again."""
        entra.faults.add(Fault("status", status=429, retry_after="120"))
        assert flow.poll() is None
        assert 120.0 == flow.interval
        assert flow.poll() is None

        assert 5.0 == flow.interval

    def test_slow_down(self, flow: DeviceFlow, monkeypatch: pytest.MonkeyPatch) -> None:
        """A provider that wants fewer questions gets fewer."""

        def slow(_url: str, **_kwargs: object) -> HttpReply:
            return HttpReply(400, '{"error": "slow_down"}')

        monkeypatch.setattr(flow._call.http, "post", slow)

        assert flow.poll() is None
        assert 10.0 == flow.interval

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (Fault("aadsts", "devicecode", aadsts=7000218), Refused),
            (Fault("status", "devicecode", status=503), Transient),
            (Fault("html", "devicecode"), Transient),
            (Fault("reset", "devicecode"), Transient),
        ],
    )
    def test_no_code(self, entra: Entra, fault: Fault, expected: type) -> None:
        """Where Entra gives no code there is nothing to show, and the reason is its own."""
        entra.faults.add(fault)

        assert expected is type(Provider(entra.ca_file).begin(grant_for(entra), "device"))

    @pytest.mark.parametrize("claims", ["", CLAIMS])
    def test_an_older_msal(self, entra: Entra, monkeypatch: pytest.MonkeyPatch, claims: str) -> None:
        """MSAL before 1.34 knows no challenge here, and gives what it does not know to the HTTP client."""

        def as_in_1_32(app: Any, scopes: list[str], **kwargs: Any) -> Any:
            assert ({"claims_challenge"} if claims else set()) == set(kwargs)
            return app.client.initiate_device_flow(scope=app._decorate_scope(scopes), **kwargs)

        monkeypatch.setattr(msal.PublicClientApplication, "initiate_device_flow", as_in_1_32)
        flow = Provider(entra.ca_file).begin(grant_for(entra), "device", claims)

        assert isinstance(flow, DeviceFlow)
        assert claims == entra.asked("devicecode")[0].claims

    @pytest.mark.parametrize("claims", ["", CLAIMS])
    def test_a_challenge(self, entra: Entra, claims: str) -> None:
        """It is said when the code is asked for, and there is nothing of it where there is none."""
        Provider(entra.ca_file).begin(grant_for(entra), "device", claims)

        assert claims == entra.asked("devicecode")[0].claims

    @pytest.mark.parametrize(
        "broken",
        [
            lambda _app, _scopes: dict[str, str]()["no such key"],
            lambda app, _scopes: app.no_such_function(),
            lambda app, scopes: app.get_accounts(scopes, surprise=1),
            lambda app, _scopes: app.acquire_token_by_device_flow(),
            lambda app, _scopes: app.client._http_client.post("https://x.test", surprise=1),
        ],
    )
    def test_a_bug_is_no_captive_portal(
        self,
        entra: Entra,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        broken: Callable[[Any, list[str]], Any],
    ) -> None:
        """What fails before anything has answered, or because arguments do not fit, is not the network's fault."""
        monkeypatch.setattr(msal.PublicClientApplication, "initiate_device_flow", broken)
        outcome = Provider(entra.ca_file).begin(grant_for(entra), "device")

        assert isinstance(outcome, Transient)
        assert "worker" == outcome.trouble.kind
        assert "a bug in cms" in outcome.trouble.hint
        assert "most recent call last" in capsys.readouterr().err

    def test_a_bug_ends_the_polling(self, flow: DeviceFlow, monkeypatch: pytest.MonkeyPatch) -> None:
        """An outage is waited out, a bug is not: also after the answer that gave the code."""

        def broken(_app: Any, _flow: Any, **_kwargs: Any) -> Any:
            return int(surprise=1)  # type: ignore[call-overload]  # the bug

        monkeypatch.setattr(msal.PublicClientApplication, "acquire_token_by_device_flow", broken)
        answer = flow.poll()

        assert answer is not None
        assert "worker" == transient(answer)

    def test_one_resource(self, entra: Entra) -> None:
        """A device code asks for one resource: Entra refuses to mix them here."""
        graph = ("https://graph.microsoft.com/Mail.Send",)
        grant = replace(grant_for(entra), scope_sets=(SCOPES[:1], graph, SCOPES[1:]))
        Provider(entra.ca_file).begin(grant, "device")

        asked = entra.asked("devicecode")[0].scope.split()
        assert set(SCOPES) == {scope for scope in asked if scope.startswith("https://")}


@pytest.mark.parametrize(
    "fields",
    [
        {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://x.test/\x1b[2J"},
        {"verification_uri": "https://x.test/\nOpen https://evil.test"},
        {"verification_uri": 7},
        {"user_code": "A\nB"},
        {"user_code": "\x9b2J"},
        {"user_code": "\u202eA"},
        {"user_code": ["A"]},
        {"user_code": "A" * 1000},
    ],
)
def test_what_a_person_would_read_and_open_is_checked(entra: Entra, fields: dict[str, object]) -> None:
    """A provider that sends anything but a web address and a short code is not believed: cms tries again later."""
    entra.faults.add(Fault("fields", "devicecode", fields=fields))
    end = Provider(entra.ca_file).begin(grant_for(entra), "device")

    assert isinstance(end, Transient)
    assert "it names no web address to sign in at, or no code to enter there" in end.trouble.message


@pytest.mark.parametrize("fields", [{"expires_in": "soon"}, {"expires_in": float("inf")}, {"expires_in": -1}])
def test_a_codes_life_that_makes_no_sense(entra: Entra, fields: dict[str, object]) -> None:
    """The sign-in has the usual time, or is refused as an answer that cannot be used; it is no bug."""
    entra.faults.add(Fault("fields", "devicecode", fields=fields))
    end = Provider(entra.ca_file).begin(grant_for(entra), "device")

    if isinstance(end, Transient):
        assert "garbage" == end.trouble.kind
    else:
        assert SIGN_IN_SECONDS == end.expires_in  # type: ignore[union-attr]  # a flow
