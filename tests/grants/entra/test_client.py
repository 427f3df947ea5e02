from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from support.canned import AUTHORITY, DISCOVERED, Canned
from support.exchanges import Person, granted, refused, transient
from support.grants import ANN, BEN, PATIENCE, SCOPES, grant_for

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Refused, Transient, Trouble
from cms.grants.entra import client as module
from cms.grants.entra.exchange import Call, recognised
from cms.grants.entra.flows import CodeFlow, DeviceFlow
from cms.grants.network import deadline
from cms.grants.network.http import MAX_ANSWER
from cms.grants.providers import ExchangeEnd
from cms.grants.token_answer import LONGEST_TOKEN
from cms.sandbox.directory import APP_ID, APP_SECRET
from cms.sandbox.entra import Entra, Fault


class TestTraps:
    """Traps 1 to 7 of working with MSAL, each by its number in the project's reference on Microsoft."""

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_trap_1_server_errors_are_outcomes(self, person: Person, status: int) -> None:
        """MSAL raises its own exception for 5xx: here it is a transient fault like any other."""
        person.server.faults.add(Fault("status", status=status))

        assert "server" == transient(person.redeem())

    @pytest.mark.parametrize(
        "fault", [Fault("aadsts", aadsts=50076), Fault("status", status=503), Fault("status", status=429)]
    )
    def test_trap_2_failures_are_not_replayed(self, person: Person, fault: Fault) -> None:
        """MSAL replays a failed answer for a minute: here the next call asks Entra again."""
        person.server.faults.add(fault)
        assert not isinstance(person.redeem().outcome, Granted)

        granted(person.redeem().outcome)
        assert 2 == person.server.count("token", grant_type="refresh_token")

    def test_trap_2_in_a_device_flow(self, entra: Entra) -> None:
        """A poll that failed is not replayed for the next ones either."""
        client = module.Entra(entra.ca_file)
        flow = client.begin(grant_for(entra), "device")
        assert isinstance(flow, DeviceFlow)
        entra.faults.add(Fault("status", status=503))
        assert flow.poll() is None
        entra.approve_device(flow.user_code, ANN)

        answer = flow.poll()
        assert answer is not None
        granted(answer.outcome)

    def test_trap_3_is_for_the_vault(self, person: Person) -> None:
        """Nothing in MSAL single-flights: two calls are two requests, so the caller must hold the grant's lock."""
        threads = [threading.Thread(target=person.redeem) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert 2 == person.server.count("token", grant_type="refresh_token")

    def test_trap_4_every_request_has_a_deadline(self, entra: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
        """MSAL's own HTTP waits for ever: each of our requests has what is left of its exchange's time."""
        seen: list[float] = []
        send = requests.adapters.HTTPAdapter.send

        def spy(self: Any, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            seen.append(kwargs["timeout"])
            return send(self, request, **kwargs)

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", spy)
        Person(entra).redeem()

        assert 3 == len(seen)
        assert all(0.0 < seconds <= deadline.EXCHANGE_SECONDS for seconds in seen)

    def test_trap_4_silence_ends(self, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """A entra that says nothing is given up on."""
        monkeypatch.setattr(deadline, "EXCHANGE_SECONDS", 0.2)
        person.server.faults.add(Fault("silence", seconds=20.0))
        answer = person.redeem()
        person.server.faults.clear()

        assert "timeout" == transient(answer)
        assert answer.unsure

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_trap_5_environment_never_overrides_the_configuration(
        self, entra: Entra, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`Tls(ca=...)` is final: a bundle in the environment neither replaces it nor adds to it."""
        (tmp_path / "other.pem").write_text("")
        monkeypatch.setenv(variable, str(tmp_path / "other.pem"))
        granted(Person(entra).redeem().outcome)
        monkeypatch.setenv(variable, entra.ca_file)
        with Entra([ANN]) as stranger:
            flow = module.Entra(stranger.ca_file).begin(grant_for(entra), "browser")

        assert isinstance(flow, Transient)
        assert "Tls(ca=...)" in flow.trouble.hint

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
    def test_trap_5_environment_counts_without_a_configuration(
        self, entra: Entra, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without `Tls(ca=...)` a company's variables are followed; without both the entra is not trusted."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        grant = grant_for(entra)

        assert isinstance(module.Entra().begin(grant, "browser"), Transient)
        monkeypatch.setenv(variable, entra.ca_file)
        assert isinstance(module.Entra().begin(grant, "browser"), CodeFlow)

    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
    @pytest.mark.parametrize("content", [None, ""], ids=["missing", "empty"])
    def test_trap_5_a_variable_that_names_nothing_is_named(
        self, entra: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: str | None
    ) -> None:
        """Neither a proxy nor an authority is blamed for it; when it is put right, the next question is answered."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content)
        monkeypatch.setenv(variable, str(path))
        worker = module.Entra()
        outcome = worker.begin(grant_for(entra), "browser")

        assert isinstance(outcome, Transient)
        assert f"{variable} names {path}, which" in outcome.trouble.message
        assert "proxy" not in outcome.trouble.hint
        assert "where cms is started" in outcome.trouble.hint
        if variable != "SSL_CERT_DIR":
            path.write_bytes(Path(entra.ca_file).read_bytes())
            assert isinstance(worker.begin(grant_for(entra), "browser"), CodeFlow)

    def test_trap_5_a_file_that_is_gone(self, entra: Entra, tmp_path: Path) -> None:
        """`Tls(ca=...)` was good when the configuration was read; nothing was sent, so nothing was redeemed."""
        answer = Person(entra).redeem(module.Entra(str(tmp_path / "gone.pem")))

        assert isinstance(answer.outcome, Transient)
        assert f"Tls(ca=...) names {tmp_path}/gone.pem, which does not exist" in answer.outcome.trouble.message
        assert "correct Tls(ca=...) in the configuration" in answer.outcome.trouble.hint
        assert not answer.unsure

    def test_trap_5_an_authority_that_was_renewed(self, entra: Entra, tmp_path: Path) -> None:
        """The file is read again after a failure, and after a rest."""
        path = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(path)
        worker = module.Entra(str(path))
        assert isinstance(worker.begin(grant_for(entra), "browser"), Transient)

        path.write_bytes(Path(entra.ca_file).read_bytes())

        assert isinstance(worker.begin(grant_for(entra), "browser"), CodeFlow)

    def test_trap_5_a_folder_of_certificates(
        self, entra: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SSL_CERT_DIR is a folder whose files have their certificates' hashes for names."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "ca.pem").write_bytes(Path(entra.ca_file).read_bytes())
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))

        assert isinstance(module.Entra().begin(grant_for(entra), "browser"), CodeFlow)

    def test_trap_6_offline_is_an_outcome(self, person: Person) -> None:
        """Making an MSAL app asks the network and raises: here an outage is a transient fault, and it ends."""
        person.server.go_down()
        fresh = module.Entra(person.server.ca_file)
        assert "network" == transient(person.redeem(fresh))
        person.server.come_up()

        granted(person.redeem(fresh).outcome)

    def test_trap_6_discovery_once(self, person: Person) -> None:
        """A worker asks for an authority's endpoints once, and for nothing else but tokens."""
        threads = [threading.Thread(target=person.redeem) for _ in range(8)]
        fresh = module.Entra(person.server.ca_file)
        threads += [threading.Thread(target=person.redeem, args=(fresh,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert 2 == person.server.count("discovery")
        assert 17 == person.server.count("token")
        assert {"page", "authorize", "discovery", "token"} == {asked.endpoint for asked in person.server.requests}

    def test_trap_7_nothing_secret_leaves(self, person: Person) -> None:
        """MSAL's result holds refresh token, id token and client info: none of them is in what we answer."""
        answer = person.redeem()
        text = json.dumps(asdict(granted(answer.outcome)))
        kept = json.loads(answer.cache)

        for secret in [entry["secret"] for entry in kept["RefreshToken"].values()]:
            assert secret not in text
        assert {"RefreshToken", "Account", "AppMetadata"} == set(kept)
        for word in ("refresh_token", "id_token", "client_info"):
            assert word not in text
        assert granted(answer.outcome).secret not in answer.cache
        assert granted(answer.outcome).secret not in repr(answer)
        assert not any(part in repr(answer) for part in ("RefreshToken", "secret="))


class TestRedeem:
    """A refresh token for an access token."""

    def test_granted(self, person: Person) -> None:
        """The token has the scopes that were asked for, a life that counts from the answer, and whose it is."""
        person.server.token_life = 1234.0
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        outcome = granted(person.redeem().outcome)
        after = time.clock_gettime(time.CLOCK_BOOTTIME)

        assert SCOPES == outcome.scopes
        assert 1234.0 == outcome.expires_in
        assert before <= outcome.issued <= after
        assert ANN == outcome.sign_in.who
        assert ANN == person.server.introspect(outcome.secret)["username"]

    def test_rotation(self, person: Person) -> None:
        """The successor of the refresh token is what the vault is given to keep; one that stays is no news."""
        answer = person.redeem()
        assert answer.cache != person.answer.cache
        person.answer = answer
        person.server.rotate = False

        assert answer.cache == person.redeem().cache

    def test_refused(self, person: Person) -> None:
        """A revoked grant needs a sign-in; nothing is kept, and it is certain that nothing was redeemed."""
        person.server.revoke(ANN)
        answer = person.redeem()

        assert isinstance(answer.outcome, Refused)
        assert 50173 == answer.outcome.trouble.aadsts
        assert answer.outcome.trouble.correlation_id
        assert "" == answer.cache
        assert not answer.unsure

    def test_claims_are_carried(self, person: Person) -> None:
        """A conditional-access challenge comes with the refusal, and satisfies Entra in the next sign-in."""
        person.server.challenge(ANN)
        answer = person.redeem()
        assert isinstance(answer.outcome, Refused)
        assert answer.outcome.trouble.claims
        assert isinstance(person.sign_in().outcome, Refused)

        granted(person.sign_in(claims=answer.outcome.trouble.claims).outcome)

    def test_empty_vault(self, person: Person) -> None:
        """A cache without a refresh token means that the person has not signed in."""
        person.answer = replace(person.answer, cache="{}")

        assert "no-sign-in" == refused(person.redeem())

    @pytest.mark.parametrize(
        ("value", "seconds"), [("120", 120.0), ("99999999", 3600.0), ("soon", 0.0), ("", 0.0), ("-5", 0.0)]
    )
    def test_retry_after(self, person: Person, value: str, seconds: float) -> None:
        """Retry-After is passed on, up to an hour; an invalid value is ignored."""
        person.server.faults.add(Fault("status", status=429, retry_after=value))
        outcome = person.redeem().outcome

        assert isinstance(outcome, Transient)
        assert ("throttled", seconds) == (outcome.trouble.kind, outcome.retry_after)

    def test_loop_detection(self, person: Person) -> None:
        """AADSTS50196 is a pause, not the end of the sign-in."""
        person.server.faults.add(Fault("aadsts", aadsts=50196))
        outcome = person.redeem().outcome

        assert isinstance(outcome, Transient)
        assert outcome.retry_after >= 300.0

    @pytest.mark.parametrize(("fault", "kind"), [("reset", "network"), ("html", "garbage"), ("truncated", "garbage")])
    def test_broken_answers(self, person: Person, fault: str, kind: str) -> None:
        """A broken answer is a transient fault, and leaves open whether the refresh token was redeemed."""
        person.server.faults.add(Fault(fault, after=True))
        answer = person.redeem()

        assert kind == transient(answer)
        assert answer.unsure
        assert "" == answer.cache

    def test_down_is_certain(self, person: Person) -> None:
        """Where no connection was made nothing was redeemed."""
        person.redeem()
        person.server.go_down()
        person.client.rest()
        answer = person.redeem()
        person.server.come_up()

        assert "network" == transient(answer)
        assert not answer.unsure

    def test_origin(self, person: Person) -> None:
        """The Origin header goes with token requests of a grant that has one, and with no other's."""
        person.redeem()
        person.grant = replace(person.grant, origin="http://127.0.0.1:8080/")
        person.redeem()

        assert ["", "http://127.0.0.1:8080/"] == [
            asked.origin for asked in person.server.asked("token", grant_type="refresh_token")
        ]

    def test_scopes_that_differ(self, person: Person, capsys: pytest.CaptureFixture[str]) -> None:
        """A entra that grants other scopes than it was asked for is noted once; more scopes are no difference."""
        grant = person.grant
        wanted = ("https://outlook.office365.com/SMTP.Send", "https://outlook.office.com/IMAP.AccessAsUser.All")
        for _ in range(2):
            person.client._compare(grant, wanted, {"scope": f"{wanted[1].upper()} openid another"})
        assert 1 == capsys.readouterr().err.count("\n")
        person.client._compare(grant, wanted[1:], {"scope": " ".join(wanted)})
        person.client._compare(grant, wanted, {})
        person.client._compare(grant, ("https://outlook.office365.com/.default",), {"scope": "x"})

        assert "" == capsys.readouterr().err

    def test_scope_note_says_what_differs(self, person: Person, capsys: pytest.CaptureFixture[str]) -> None:
        """The note names the account and the scope, and is a warning."""
        person.client._compare(person.grant, ("https://a/X",), {"scope": "https://b/X"})

        assert (
            "warning: ann@example.test: asked for https://a/X, but the provider granted other scopes\n"
            == capsys.readouterr().err
        )

    def test_unwritable_ca(self, person: Person) -> None:
        """A CA file that is not there is an outcome that names the setting."""
        answer = person.redeem(module.Entra("/no/such/ca.pem"))

        assert "network" == transient(answer)
        assert isinstance(answer.outcome, Transient)
        assert "Tls(ca=...)" in answer.outcome.trouble.hint


class TestDiscovery:
    """The endpoints of an authority."""

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault("html", "discovery"), "garbage"),
            (Fault("truncated", "discovery"), "garbage"),
            (Fault("status", "discovery", status=503), "server"),
            (Fault("status", "discovery", status=429, retry_after="77"), "throttled"),
            (Fault("reset", "discovery"), "network"),
        ],
    )
    def test_faults_are_transient_and_forgotten(self, person: Person, fault: Fault, kind: str) -> None:
        """A fault here costs one try, and is never taken for a wrong configuration."""
        fresh = module.Entra(person.server.ca_file)
        person.server.faults.add(fault)
        answer = person.redeem(fresh)

        assert kind == transient(answer)
        assert isinstance(answer.outcome, Transient)
        assert (77.0 if fault.retry_after else 0.0) == answer.outcome.retry_after
        assert not answer.unsure
        granted(person.redeem(fresh).outcome)

    def test_unknown_tenant(self, person: Person) -> None:
        """A tenant that does not exist is Entra's refusal, with its number."""
        person.server.faults.add(Fault("aadsts", "discovery", aadsts=90002))
        answer = person.redeem(module.Entra(person.server.ca_file))

        assert isinstance(answer.outcome, Refused)
        assert 90002 == answer.outcome.trouble.aadsts

    def test_read_anew_after_a_rest(self, person: Person) -> None:
        """A worker that stays for long does not go by an old document for ever."""
        person.client.rest()
        person.redeem()

        assert 2 == person.server.count("discovery")


CACHE = json.dumps(
    {
        "RefreshToken": {
            "oid.tid-login.test-refreshtoken-client--": {
                "credential_type": "RefreshToken",
                "secret": "the-refresh-token",
                "home_account_id": "oid.tid",
                "environment": "login.test",
                "client_id": "client",
                "target": "",
            }
        }
    }
)
OFFLINE = Grant(AUTHORITY, "client", ANN, (("https://x.test/A",),))


def exchange(canned: Canned, grant: Grant = OFFLINE) -> ExchangeEnd:
    client = module.Entra()
    client._session.adapters["https"] = canned
    return client.redeem(grant, grant.scope_sets[0], CACHE, "oid.tid")


def told(body: Any, status: int = 200) -> ExchangeEnd:
    """Return what becomes of one answer of the token endpoint."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return exchange(Canned((200, DISCOVERED), (status, raw)))


def refresh_tokens(answer: ExchangeEnd) -> set[str]:
    """Return the refresh tokens that the vault is to keep."""
    return {each["secret"] for each in json.loads(answer.cache)["RefreshToken"].values()}


TOKEN = {"access_token": "at", "expires_in": 3600, "token_type": "Bearer", "refresh_token": "rt2"}


class TestOddAnswers:
    """Answers that no identity provider gives, and whatever stands in front of one does."""

    def test_usual(self) -> None:
        """The canned answers are answers."""
        answer = told(TOKEN)

        assert "at" == granted(answer.outcome).secret
        assert "rt2" in answer.cache

    @pytest.mark.parametrize(
        "body",
        [[], None, "text", 5, {}, {"token_type": "Bearer"}, b"", b"\xff\xfe", b"<html>"],
        ids=lambda body: repr(body)[:60],
    )
    def test_garbage(self, body: Any) -> None:
        """None of them is a token, an exception or the end of a sign-in."""
        answer = told(body)

        assert "garbage" == transient(answer)
        assert answer.unsure

    @pytest.mark.parametrize(
        "fields",
        [
            {"access_token": 5},
            {"access_token": None},
            {"access_token": ""},
            {"access_token": "  "},
            {"access_token": "two words"},
            {"access_token": "at\r\nuser=other"},
            {"access_token": "at\x01\x01"},
            {"access_token": "a\u0301t"},
            {"access_token": "x" * (LONGEST_TOKEN + 1)},
            {"access_token": ["at"]},
            {"token_type": "pop"},
            {"token_type": ""},
            {"token_type": 5},
            {"expires_in": None},
            {"expires_in": "soon"},
            {"expires_in": 0},
            {"expires_in": -1},
            {"expires_in": "-3599"},
            {"expires_in": True},
            {"expires_in": 1e300},
            {"expires_in": 10**400},
            {"expires_in": [1]},
            {"expires_in": float("nan")},
            {"expires_in": float("inf")},
            {"expires_in": "3599.5"},
            {"ext_expires_in": "soon"},
            {"refresh_in": "soon"},
            {"id_token": "x"},
            {"id_token": 5},
            {"client_info": "?"},
            {"scope": 5},
            {"foci": [], "client_info": 5},
        ],
        ids=lambda fields: repr(fields)[:60],
    )
    def test_an_answer_that_cannot_be_used(self, fields: dict[str, Any]) -> None:
        """It is no token and no end of a sign-in, and the new refresh token in it is kept."""
        answer = told({**TOKEN, **fields})

        assert "garbage" == transient(answer)
        assert ({"rt2"}, False) == (refresh_tokens(answer), answer.unsure)

    @pytest.mark.parametrize("name", ["access_token", "expires_in"])
    def test_an_answer_without_what_it_needs(self, name: str) -> None:
        """What is missing is as bad as what makes no sense."""
        answer = told({each: value for each, value in TOKEN.items() if each != name})

        assert "garbage" == transient(answer)
        assert {"rt2"} == refresh_tokens(answer)

    @pytest.mark.parametrize("fields", [{"token_type": "bEARER"}, {"token_type": None}, {"expires_in": 0.5}])
    def test_what_is_odd_and_good(self, fields: dict[str, Any]) -> None:
        """Small differences do no harm."""
        assert "at" == granted(told({**TOKEN, **fields}).outcome).secret

    @pytest.mark.parametrize("successor", ["", " ", 7, None, [], "a\nb", "\x7f", "r\u00e9"])
    def test_a_refresh_token_that_cannot_be_one(self, successor: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """The access token is good; the refresh token of before stays, and it is unsure whether that is still good."""
        answer = told({**TOKEN, "refresh_token": successor})

        assert "at" == granted(answer.outcome).secret
        assert ({"the-refresh-token"}, successor is not None) == (refresh_tokens(answer), answer.unsure)
        assert (successor is not None) == ("refresh token that cannot be one" in capsys.readouterr().err)

    def test_nothing_in_an_answer_can_be_used(self) -> None:
        """The refresh token of before stays, and it is unsure whether it is still good."""
        answer = told({**TOKEN, "access_token": "", "refresh_token": ""})

        assert "garbage" == transient(answer)
        assert ({"the-refresh-token"}, True) == (refresh_tokens(answer), answer.unsure)

    @pytest.mark.parametrize("status", [201, 302, 400, 403])
    def test_tokens_with_another_status(self, status: int) -> None:
        """Whatever that is, it is no answer of a token endpoint (RFC 6749, 5.1)."""
        assert "garbage" == transient(told(TOKEN, status))

    def test_endless(self) -> None:
        """An answer without end counts as no answer."""
        assert "garbage" == transient(told(b" " * (MAX_ANSWER + 1)))

    @pytest.mark.parametrize("status", [302, 307])
    def test_redirect(self, status: int) -> None:
        """Nor is one that leads elsewhere."""
        assert "garbage" == transient(told(b"", status))

    def test_lifetime_as_text(self) -> None:
        """A lifetime that comes as text is one."""
        assert 3599.0 == granted(told({**TOKEN, "expires_in": "3599"}).outcome).expires_in

    @pytest.mark.parametrize(
        ("scope", "expected"),
        [
            ({"scope": "https://x.test/B"}, ("https://x.test/B",)),
            ({"scope": "openid HTTPS://Y.test/a https://x.test/B"}, ("HTTPS://Y.test/a", "https://x.test/B")),
            ({"scope": "https://x.test/B HTTPS://X.test/a"}, ("https://x.test/A",)),
            ({"scope": "openid profile email"}, ("https://x.test/A",)),
            ({"scope": ""}, ("https://x.test/A",)),
            ({}, ("https://x.test/A",)),
        ],
    )
    def test_the_scopes_are_the_answers(self, scope: dict[str, str], expected: tuple[str, ...]) -> None:
        """As the provider names them, and those that were asked for where it names none."""
        assert expected == granted(told({**TOKEN, **scope}).outcome).scopes

    def test_all_that_was_consented_to(self) -> None:
        """Asked for as a whole, it is one, however the answer spells it out."""
        default = ("https://x.test/.default",)
        body = json.dumps({**TOKEN, "scope": "https://x.test/A"}).encode()
        answer = exchange(Canned((200, DISCOVERED), (200, body)), replace(OFFLINE, scope_sets=(default,)))

        assert default == granted(answer.outcome).scopes

    @pytest.mark.parametrize("status", [408, 429, 500])
    def test_status_decides(self, status: int) -> None:
        """What comes with such a status is a fault, whatever it says of the grant."""
        assert isinstance(told({"error": "invalid_grant"}, status).outcome, Transient)

    def test_retry_after_with_an_error(self) -> None:
        """Retry-After counts whatever error the provider has put into such an answer."""
        body = json.dumps({"error": "temporarily_unavailable"}).encode()
        canned = Canned((200, DISCOVERED), (503, body), headers={"Retry-After": "300"})
        outcome = exchange(canned).outcome

        assert isinstance(outcome, Transient)
        assert 300.0 == outcome.retry_after


class TestSignIn:
    """Signing in."""

    def test_browser(self, person: Person) -> None:
        """The person of the grant signs in: a token, who it is, and what the vault keeps."""
        answer = person.answer

        assert ANN == answer.who
        assert ANN == granted(answer.outcome).sign_in.who
        assert SCOPES == granted(answer.outcome).scopes
        assert "." in answer.subject
        granted(person.redeem().outcome)

    @pytest.mark.parametrize("login", [BEN, "Ben@Example.test"])
    def test_wrong_user(self, entra: Entra, login: str) -> None:
        """Another person's sign-in is refused, both are named, and nothing is kept."""
        person = Person(entra, grant_for(entra, login))
        answer = person.answer

        assert "wrong-user" == refused(answer)
        assert isinstance(answer.outcome, Refused)
        assert ANN in answer.outcome.trouble.message
        assert login in answer.outcome.trouble.message
        assert "" == answer.cache

    def test_case_of_the_name(self, entra: Entra) -> None:
        """Names compare without case."""
        assert ANN == granted(Person(entra, grant_for(entra, "ANN@example.TEST")).answer.outcome).sign_in.who

    def test_a_grant_without_a_name(self, entra: Entra) -> None:
        """A grant without a name takes the person who signs in, and reports the name."""
        assert ANN == granted(Person(entra, grant_for(entra, "")).answer.outcome).sign_in.who

    def test_nothing_to_keep(self, person: Person) -> None:
        """A sign-in without a refresh token would end with its access token: it is refused."""
        call = person.client._call(person.grant, "")
        assert isinstance(call, Call)
        result = {**TOKEN, "id_token_claims": {"upn": ANN}}

        assert "refused" == refused(call.signed_in(result, SCOPES))

    def test_no_name(self, person: Person) -> None:
        """A provider that does not say who signed in has not shown that it was the right person."""
        call = person.client._call(person.grant, "")
        assert isinstance(call, Call)

        assert "wrong-user" == refused(call.signed_in(dict(TOKEN), SCOPES))

    @pytest.mark.parametrize(
        ("claims", "home", "who"),
        [
            ({"preferred_username": "ANN@example.test"}, "new", "ANN@example.test"),
            ({"upn": ANN}, "new", ANN),
            ({"preferred_username": "mail@else.test", "upn": ANN}, "new", ANN),
            ({"preferred_username": "anna@example.test"}, "home", "anna@example.test"),
            ({}, "home", ""),
            ({"preferred_username": "anna@example.test"}, "new", None),
            ({"preferred_username": "anna@example.test", "upn": BEN}, "", None),
        ],
    )
    def test_recognised(self, claims: dict[str, str], home: str, who: str | None) -> None:
        """By either name, in whatever case, or by the account that has signed in before under another name."""
        grant = Grant("https://login.example/tenant", "id", ANN)
        found = recognised(grant, {"id_token_claims": claims}, home, "home")

        assert who == (None if isinstance(found, Trouble) else found)

    def test_an_unknown_person_is_no_account(self) -> None:
        """No account is not the same as no account before."""
        grant = Grant("https://login.example/tenant", "id", ANN)

        assert isinstance(recognised(grant, {}, "", ""), Trouble)

    def test_a_protocol_without_consent_leaves_the_others_their_token(
        self, person: Person, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A scope added after the sign-in is left out until the person consents; the log names it and the command."""
        more = (*SCOPES, "https://outlook.office.com/EWS.AccessAsUser.All")
        answer = person.redeem(scopes=more)

        assert SCOPES == granted(answer.outcome).scopes
        assert "EWS.AccessAsUser.All" in capsys.readouterr().err
        assert ANN == answer.who
        assert answer.cache

    def test_no_consent_at_all(self, person: Person) -> None:
        """A sign-in that covers nothing of what is asked for is refused, whatever it was given for before."""
        graph = ("https://graph.microsoft.com/Mail.Send",)
        foreign = person.redeem(scopes=graph)
        person.server.withdraw_consent(ANN)
        same, more = person.redeem(), person.redeem(scopes=(*SCOPES, "https://outlook.office.com/EWS.AccessAsUser.All"))

        assert ["refused"] * 3 == [refused(answer) for answer in (foreign, same, more)]

    def test_confidential(self, entra: Entra) -> None:
        """An application with a secret signs a person in and redeems; without the secret it may not."""
        client = entra.directory.client(APP_ID)
        entra.register(replace(client, redirects=("http://localhost/*",)))
        person = Person(entra)
        person.grant = replace(person.grant, client_id=APP_ID)
        person.answer = person.sign_in(secret=APP_SECRET)
        granted(person.answer.outcome)
        granted(person.redeem(secret=APP_SECRET).outcome)

        assert isinstance(person.redeem().outcome, Refused)
        assert isinstance(person.redeem(secret="wrong").outcome, Refused)

    def test_confidential_device(self, person: Person) -> None:
        """The device flow is for public applications: one with a secret is told so."""
        outcome = person.client.begin(person.grant, "device", secret="x")

        assert isinstance(outcome, Refused)
        assert "client secret" in outcome.trouble.message

    def test_offline(self, person: Person) -> None:
        """Without a network a sign-in does not begin."""
        person.server.go_down()
        outcome = module.Entra(person.server.ca_file).begin(person.grant, "browser")
        person.server.come_up()

        assert isinstance(outcome, Transient)


def test_libraries_are_silent(
    person: Person, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """MSAL logs what is not JSON, and its cache events: nothing of that gets anywhere, at any level."""
    caplog.set_level(logging.DEBUG)
    person.client = module.Entra(person.server.ca_file)
    for fault in ("html", "truncated"):
        person.server.faults.add(Fault(fault, after=True))
        person.redeem()
    person.redeem()

    assert "" == capfd.readouterr().err
    assert not [record for record in caplog.records if record.name.split(".")[0] in ("msal", "urllib3", "requests")]


def test_requests_of_other_libraries_are_not_silenced() -> None:
    """Only the libraries that could log a secret are."""
    module.silence()

    assert logging.getLogger("cms").isEnabledFor(logging.ERROR)
    assert not logging.getLogger("msal.oauth2cli.oauth2").isEnabledFor(logging.CRITICAL)
