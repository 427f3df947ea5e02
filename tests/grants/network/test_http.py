"""HTTP to a provider: what is sent, what is read, and what it means that no answer came."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import Future
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from support.canned import AUTHORITY, DISCOVERED, TOKEN_ENDPOINT, Canned

from cms.core.accounts import Grant, Proxy, Source
from cms.core.lifecycle import Refused, Transient
from cms.grants.entra.client import places
from cms.grants.network import deadline
from cms.grants.network.deadline import POOLS, Deadline
from cms.grants.network.http import (
    MAX_ANSWER,
    Discovery,
    Http,
    HttpReply,
    Metadata,
    NoAnswer,
    is_discovery,
    is_fault,
    retry_after,
)
from cms.grants.network.proxy import Routes
from cms.grants.network.session import HttpSession, NotSent
from cms.grants.network.trouble import garbage, network_trouble

GRANT = Grant(AUTHORITY, "client", "ann@example.test", (("https://x.test/A",),))
ENDLESS = b" " * (MAX_ANSWER + 1)


def session(canned: Canned) -> HttpSession:
    opened = HttpSession()
    opened.adapters["https"] = canned
    return opened


def client(canned: Canned, origin: str | None = None) -> Http:
    return Http(session(canned), DISCOVERED.decode(), origin, Deadline())


def discovery(canned: Canned) -> Discovery:
    return Discovery(session(canned), places)


class TestRequests:
    """The client of one exchange."""

    def test_post(self) -> None:
        """It sends what MSAL wants to be sent, and returns what MSAL reads."""
        canned = Canned((200, b'{"a": "\xc3\xbc"}'))
        http = client(canned)
        reply = http.post(TOKEN_ENDPOINT, {"p": "1"}, {"d": "2"}, {"H": "3"})

        assert (200, '{"a": "ü"}') == (reply.status_code, reply.text)
        sent = canned.sent[0]
        assert (f"{TOKEN_ENDPOINT}?p=1", "d=2", "3") == (sent.url, sent.body, sent.headers["H"])
        assert (200, False) == (http.status, http.deadline.cut)
        assert http.asked

    def test_a_form_that_is_no_text(self) -> None:
        """A server may have named a lone surrogate to be sent back to it. Nothing is sent, and that is known."""
        canned = Canned()
        http = client(canned)
        with pytest.raises(NotSent):
            http.post(TOKEN_ENDPOINT, data={"device_code": "\ud800"})

        assert ([], False) == (canned.sent, http.unsure)

    def test_a_suspend_while_an_answer_is_under_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A token's life counts from the question: an answer that lay in a sleeping machine is no younger for it."""
        now = [1.0]
        monkeypatch.setattr(time, "clock_gettime", lambda _clock: now[0])

        class Suspended(Canned):
            def send(self, *given: Any, **named: Any) -> requests.Response:
                now[0] += 2 * 60 * 60
                return super().send(*given, **named)

        http = client(Suspended((200, b"{}")))
        http.post(TOKEN_ENDPOINT)

        assert 1.0 == http.asked

    def test_discovery_is_not_asked_for_again(self) -> None:
        """MSAL's GET is answered with what is known."""
        canned = Canned()

        assert DISCOVERED.decode() == client(canned).get(AUTHORITY).text
        assert [] == canned.sent

    @pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8080/"])
    def test_origin(self, origin: str | None) -> None:
        """The Origin header goes with each request, if there is one."""
        canned = Canned((200, b"{}"))
        client(canned, origin).post(TOKEN_ENDPOINT)

        assert origin == canned.sent[0].headers.get("Origin")

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_redirects_are_not_followed(self, status: int) -> None:
        """A refresh token goes to the token endpoint, and not to where that redirects."""
        canned = Canned((status, b""), headers={"Location": "https://evil.test/"})
        reply = client(canned).post(TOKEN_ENDPOINT)

        assert status == reply.status_code
        assert [TOKEN_ENDPOINT] == [request.url for request in canned.sent]

    def test_an_address_of_something_else(self) -> None:
        """What Entra's documents name need not be HTTP: nothing is sent then, and that is no bug of cms's."""
        http = client(Canned())
        with pytest.raises(NoAnswer):
            http.post("ftp://login.test/token")

        assert not http.unsure

    def test_endless(self) -> None:
        """An answer without end costs a bounded amount of memory."""
        http = client(Canned((200, ENDLESS)))
        with pytest.raises(ValueError, match="without end"):
            http.post(TOKEN_ENDPOINT)

        assert http.unsure

    def test_no_time_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where no time is left nothing is asked, so nothing was redeemed."""
        monkeypatch.setattr(deadline, "EXCHANGE_SECONDS", -1.0)
        canned = Canned()
        http = client(canned)
        with pytest.raises(requests.Timeout):
            http.post(TOKEN_ENDPOINT)

        assert ([], False) == (canned.sent, http.unsure)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (requests.ConnectTimeout("x"), "timeout"),
            (requests.ReadTimeout("x"), "timeout"),
            (requests.exceptions.SSLError("x"), "network"),
            (requests.exceptions.ProxyError("x"), "network"),
            (requests.ConnectionError(), "network"),
            (requests.exceptions.ChunkedEncodingError("x"), "network"),
            (requests.exceptions.InvalidProxyURL("x"), "network"),
        ],
        ids=lambda each: type(each).__name__,
    )
    def test_every_exception_of_requests(self, error: OSError, kind: str) -> None:
        """Each failure of a request is one trouble or another; where no connection of ours says so, all may have been sent."""
        http = client(Canned(error))
        with pytest.raises(NoAnswer) as raised:
            http.post(TOKEN_ENDPOINT)

        assert (kind, True) == (http.trouble(raised.value, GRANT).kind, http.unsure)

    def test_netrc_and_cookies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither ~/.netrc nor another account's cookie goes to Entra."""
        (tmp_path / ".netrc").write_text("default login x password y\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        canned = Canned((200, b"{}"), (200, b"{}"), headers={"Set-Cookie": "fpc=x"})
        http = client(canned)
        http.post(TOKEN_ENDPOINT)
        http.post(TOKEN_ENDPOINT)

        assert 2 == len(canned.sent)
        for request in canned.sent:
            assert not {"authorization", "cookie"} & {name.lower() for name in request.headers}

    def test_a_close_leaves_the_session_open(self) -> None:
        """MSAL may close its client: the next exchange goes on with the session."""
        http = client(Canned((200, b"{}"), (200, b"{}")))
        http.post(TOKEN_ENDPOINT)
        http.close()

        assert 200 == http.post(TOKEN_ENDPOINT).status_code

    def test_nothing_secret_in_a_reply_that_is_shown(self) -> None:
        """What MSAL reads holds tokens: its repr does not."""
        assert "secret" not in repr(HttpReply(200, "secret", {"x-secret": "secret"}))


@pytest.mark.parametrize(("status", "seen"), [(200, 200), (400, 400), (404, 503), (410, 503), (500, 500)])
def test_a_metadata_service_that_is_not_ready(status: int, seen: int) -> None:
    """What a machine's metadata service answers while it starts or is updated is a fault for now."""
    http = Metadata()
    canned = Canned((status, b"{}"))
    http._session.adapters["http"] = canned
    reply = http.get("http://metadata.test/token", params={"resource": "x"}, headers={"Metadata": "true"})

    assert (status, seen) == (reply.status_code, http.status)
    assert ("http://metadata.test/token?resource=x", "true") == (canned.sent[0].url, canned.sent[0].headers["Metadata"])


class TestDiscovery:
    """The endpoints of an authority."""

    def test_once(self) -> None:
        """A document is asked for once."""
        canned = Canned((200, DISCOVERED))
        found = discovery(canned)

        assert [DISCOVERED.decode()] * 2 == [found.document(GRANT, Deadline()) for _ in range(2)]
        assert [f"{AUTHORITY}/v2.0/.well-known/openid-configuration"] == [request.url for request in canned.sent]

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            ((200, b"<html>"), "garbage"),
            ((302, b""), "garbage"),
            ((200, ENDLESS), "garbage"),
            ((408, b""), "server"),
            ((429, b""), "throttled"),
            ((503, DISCOVERED), "server"),
            (requests.ConnectionError(), "network"),
            (FileNotFoundError("the CA file"), "network"),
        ],
    )
    def test_faults_are_transient_and_forgotten(self, answer: tuple[int, bytes] | Exception, kind: str) -> None:
        """A fault costs one try, and is never taken for a wrong configuration."""
        found = discovery(Canned(answer, (200, DISCOVERED)))
        outcome = found.document(GRANT, Deadline())

        assert isinstance(outcome, Transient)
        assert kind == outcome.trouble.kind
        assert DISCOVERED.decode() == found.document(GRANT, Deadline())

    def test_retry_after(self) -> None:
        """A pause that is asked for here counts as anywhere."""
        outcome = discovery(Canned((429, b""), headers={"Retry-After": "77"})).document(GRANT, Deadline())

        assert isinstance(outcome, Transient)
        assert 77.0 == outcome.retry_after

    def test_unknown_tenant(self) -> None:
        """A tenant that does not exist is Entra's refusal, with its number."""
        body = json.dumps({"error": "invalid_tenant", "error_codes": [90002]}).encode()
        outcome = discovery(Canned((400, body))).document(GRANT, Deadline())

        assert isinstance(outcome, Refused)
        assert 90002 == outcome.trouble.aadsts

    def test_a_question_of_another_thread_is_not_waited_for_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Discovery is shared, and so is waiting for it: each by its own deadline."""
        found = discovery(Canned())
        found._known[GRANT.authority] = Future()
        monkeypatch.setattr(deadline, "EXCHANGE_SECONDS", 0.1)
        outcome = found.document(GRANT, Deadline())

        assert isinstance(outcome, Transient)
        assert "timeout" == outcome.trouble.kind

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "[" * 4000, "\0", '{"token_endpoint": "http://x", "authorization_endpoint": "https://x"}'],
        ids=lambda text: str(text[:8]),
    )
    def test_what_is_no_document(self, text: str) -> None:
        """Only a document with endpoints over TLS is one."""
        assert not is_discovery(HttpReply(200, text))


class TestProxies:
    """The way that the configuration names, or the environment."""

    def proxies_of(self, proxy: Proxy | None, environ: dict[str, str]) -> dict[str, str]:
        """Return what a session makes of a request to the provider."""
        return HttpSession(Routes(proxy, environ)).proxies(TOKEN_ENDPOINT)

    def test_the_configuration_counts_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One proxy is the way, and the other one none."""
        # Nor does requests look into the environment itself.
        monkeypatch.setenv("https_proxy", "http://elsewhere.test:1")
        environ = {"https_proxy": "http://of-the-environment.test:1"}

        assert {"https": "http://of-the-environment.test:1"} == self.proxies_of(None, environ)
        assert {"https": "http://company.test:8080"} == self.proxies_of(Proxy("http://company.test:8080"), environ)
        assert {} == self.proxies_of(None, {})

    def test_a_password_that_cannot_be_read(self, tmp_path: Path) -> None:
        """It is a failure of the request, that says whose password it was; nothing was sent."""
        proxy = Proxy("http://company.test:8080", (), "ann", Source("file", (str(tmp_path / "missing"),)))
        http = Http(HttpSession(Routes(proxy, {})), "", None, Deadline())
        with pytest.raises(NoAnswer) as raised:
            http.post(TOKEN_ENDPOINT)

        assert "the proxy's password cannot be read" in http.trouble(raised.value, GRANT).message
        assert not http.unsure

    @pytest.mark.parametrize(
        ("name", "address", "why"),
        [
            ("HTTPS_PROXY", "ftp://company.test:1", "has another scheme than http, https, socks4"),
            ("all_proxy", "http://ann:pass#word@company.test:1", "percent-encoded"),
            ("Https_Proxy", "http://company.test:port", "is no address of a proxy"),
        ],
    )
    def test_an_invalid_proxy(self, name: str, address: str, why: str) -> None:
        """The message says which variable is no proxy's address, and no password; nothing was sent."""
        http = Http(HttpSession(Routes(None, {name: address})), "", None, Deadline())
        with pytest.raises(NoAnswer) as raised:
            http.post(TOKEN_ENDPOINT)
        trouble = http.trouble(raised.value, GRANT)

        assert f"{name} " in trouble.message
        assert why in trouble.message
        assert "word" not in repr(trouble).replace("password", "")
        assert not http.unsure

    def test_socks_without_its_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The package that is missing is named, with the variable."""

        def missing(*_args: object, **_kwargs: object) -> None:
            raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

        monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", missing)
        http = Http(HttpSession(Routes(None, {"ALL_PROXY": "socks5h://company.test"})), "", None, Deadline())
        with pytest.raises(NoAnswer) as raised:
            http.post(TOKEN_ENDPOINT)

        assert (
            "ALL_PROXY names a SOCKS proxy, which needs the Python package PySocks"
            in http.trouble(raised.value, GRANT).message
        )

    def test_who_asks_is_said_in_utf_8(self) -> None:
        """RFC 7617 has user and password so; without a user nothing is said."""
        adapter: Any = HttpSession().adapters["https"]
        expected = {"Proxy-Authorization": f"Basic {base64.b64encode('ann:ö'.encode()).decode()}"}

        assert expected == adapter.proxy_headers("http://ann:%C3%B6@company.test:1")
        assert {} == adapter.proxy_headers("http://company.test:1")

    def test_a_tunnel_keeps_to_the_deadline(self) -> None:
        """Connections through a proxy are ours as well."""
        adapter: Any = HttpSession().adapters["https"]

        assert POOLS == adapter.proxy_manager_for("http://company.test:1").pool_classes_by_scheme

    def test_a_socks_proxy_keeps_its_own_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its manager is left as it is: connections of ours would pass it by."""

        class Manager:
            def __init__(self, *_args: object, **_kwargs: object) -> None:
                self.pool_classes_by_scheme = {"https": None}

            def clear(self) -> None:
                pass

        monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", Manager)
        adapter: Any = HttpSession().adapters["https"]

        assert {"https": None} == adapter.proxy_manager_for("socks5://127.0.0.1:1").pool_classes_by_scheme


def test_retry_after_as_a_date() -> None:
    """Retry-After may be a date; one that has passed asks for nothing."""
    reply = HttpReply(503, "", {"Retry-After": formatdate(1000.0, usegmt=True)})

    assert 100.0 == retry_after(reply, lambda: 900.0)
    assert 0.0 == retry_after(reply, lambda: 1100.0)


@pytest.mark.parametrize("status", [200, 400, 407, 408, 500, 502, 504])
def test_retry_after_of_something_in_between(status: int) -> None:
    """Only a provider that throttles or is down asks for a pause: a proxy must not stop an account."""
    assert 0.0 == retry_after(HttpReply(status, "", {"Retry-After": "300"}))


@pytest.mark.parametrize(
    ("status", "expected"), [(200, False), (400, False), (404, False), (408, True), (429, True), (500, True)]
)
def test_what_is_a_fault_for_now(status: int, expected: bool) -> None:
    """Such a status decides, whatever comes with it."""
    assert expected == is_fault(status)


def test_troubles_name_the_host() -> None:
    """A person is told who was asked."""
    timeout = network_trouble(requests.Timeout(), GRANT, HttpSession())

    assert "login.test" in timeout.message
    assert "login.test" in garbage(GRANT).message
