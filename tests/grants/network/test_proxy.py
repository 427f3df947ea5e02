"""The way to Entra through a proxy, with MSAL, real TLS and a proxy on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.evidence import keep_secret
from support.grants import grant_for
from support.proxy import Proxy as Company
from support.proxy import proxies

from cms.core.accounts import Proxy, Source
from cms.core.lifecycle import Transient, Trouble
from cms.core.proxies import Through
from cms.grants.entra import client as module
from cms.grants.entra.flows import CodeFlow
from cms.grants.network.proxy import Routes
from cms.grants.network.trouble import no_tls, refusal
from cms.grants.providers import Flow
from cms.sandbox.entra import Entra

ANN = "ann@example.test"
PASSWORD = "p@ss:w/ö rd"
LOGIN = "https://login.microsoftonline.com/common"


@pytest.fixture(scope="module")
def entra() -> Iterator[Entra]:
    with Entra([ANN]) as running:
        yield running


@pytest.fixture
def company() -> Iterator[Company]:
    with proxies() as running:
        yield running


def secret(folder: Path, text: bytes = PASSWORD.encode() + b"\n", mode: int = 0o600) -> Source:
    path = folder / "password"
    path.write_bytes(text)
    path.chmod(mode)
    return Source("file", (str(path),))


def begin(entra: Entra, proxy: Proxy | None) -> Flow | object:
    """Ask Entra for its discovery document, which is how every exchange begins."""
    return module.Entra(entra.ca_file, proxy).begin(grant_for(entra), "browser")


def trouble(entra: Entra, proxy: Proxy | None) -> Trouble:
    outcome = begin(entra, proxy)
    assert isinstance(outcome, Transient), outcome
    return outcome.trouble


def test_a_proxy_is_gone_through(entra: Entra, company: Company) -> None:
    """What the configuration names is the way."""
    assert isinstance(begin(entra, Proxy(company.url)), CodeFlow)
    assert [entra.authority.removeprefix("https://")] == company.tunnels


def test_the_configuration_decides(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment's does not count beside one of the configuration's, nor does its NO_PROXY."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "*")

    assert isinstance(begin(entra, Proxy(company.url)), CodeFlow)
    assert 1 == len(company.tunnels)


def test_no_proxy(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is named is reached directly, past the environment's proxy as well."""
    monkeypatch.setenv("HTTPS_PROXY", company.url)

    assert isinstance(begin(entra, Proxy(company.url, ("localhost",))), CodeFlow)
    assert [] == company.tunnels


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_environment(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without a word in the configuration the usual variables are the way."""
    monkeypatch.setenv(name, company.url)

    assert isinstance(begin(entra, None), CodeFlow)
    assert 1 == len(company.tunnels)


@pytest.mark.parametrize("names", ["localhost", ".example.com,localhost", "*"])
def test_environment_no_proxy(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    """NO_PROXY is followed."""
    monkeypatch.setenv("HTTPS_PROXY", company.url)
    monkeypatch.setenv("NO_PROXY", names)

    assert isinstance(begin(entra, None), CodeFlow)
    assert [] == company.tunnels


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:9", "http:///nowhere"])
def test_environment_with_no_proxy(entra: Entra, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What is no HTTP proxy is told with the variables and with what takes their place."""
    monkeypatch.setenv("HTTPS_PROXY", address)

    found = trouble(entra, None)

    assert "the environment names a way to localhost" in found.message
    assert "HTTPS_PROXY" in found.hint
    assert "Proxy(...)" in found.hint


def test_password(entra: Entra, company: Company, tmp_path: Path) -> None:
    """A proxy that wants a password gets the one that the source holds, whatever is in it."""
    keep_secret(PASSWORD)
    company.user, company.password = "ann@corp", PASSWORD

    assert isinstance(begin(entra, Proxy(company.url, (), "ann@corp", secret(tmp_path))), CodeFlow)


def test_wrong_password(entra: Entra, company: Company) -> None:
    """Who is not let through is told how to say who asks."""
    company.user, company.password = "ann", PASSWORD

    found = trouble(entra, Proxy(company.url, (), "ann"))

    assert "the proxy on the way to localhost" in found.message
    assert "HTTP 407" in found.message
    assert 'Proxy("http://USER@HOST:PORT", password=File("PATH"))' in found.hint


def test_changed_password(entra: Entra, company: Company, tmp_path: Path) -> None:
    """A password that was changed is read after the next pause, without a restart."""
    company.user, company.password = "ann", "new"
    client = module.Entra(entra.ca_file, Proxy(company.url, (), "ann", secret(tmp_path, b"old")))
    assert isinstance(client.begin(grant_for(entra), "browser"), Transient)

    secret(tmp_path, b"new")
    client.rest()

    assert isinstance(client.begin(grant_for(entra), "browser"), CodeFlow)


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [(b"x", 0o644, "has mode 0644"), (b"\xff", 0o600, "is not text"), (b"", 0, "does not exist")],
)
def test_no_password(entra: Entra, company: Company, tmp_path: Path, *, text: bytes, mode: int, why: str) -> None:
    """A password that cannot be read is told with where it was looked for, and nothing is asked."""
    source = secret(tmp_path, text, mode) if text else Source("file", (f"{tmp_path}/none",))

    found = trouble(entra, Proxy(company.url, (), "ann", source))

    assert f"the proxy's password cannot be read: {source} {why}" in found.message
    assert "password= of Proxy(...)" in found.hint
    assert [] == company.tunnels


@pytest.mark.parametrize("status", [403, 502, 503])
def test_refused(entra: Entra, company: Company, status: int) -> None:
    """A proxy that refuses with a page in HTML is told as that, and who has to move."""
    company.status = status

    found = trouble(entra, Proxy(company.url))

    assert "network" == found.kind
    assert f"the proxy does not let cms through to {entra.authority.removeprefix('https://')}" in found.message
    assert f"HTTP {status}" in found.message
    assert "ask the proxy's administrator" in found.hint


def test_babble(entra: Entra, company: Company) -> None:
    """A tunnel out of which HTML comes is told as something in between, not as a certificate that is missing."""
    company.babble = True

    found = trouble(entra, Proxy(company.url))

    assert "does not speak TLS" in found.message
    assert "captive portal" in found.hint


def test_proxy_down(entra: Entra, company: Company) -> None:
    """A proxy that is not there is told as that."""
    company.stop()

    found = trouble(entra, Proxy(company.url))

    assert "the proxy on the way to localhost" in found.message
    assert "cannot be reached" in found.message


def test_inspecting_proxy(entra: Entra, company: Company, tmp_path: Path) -> None:
    """A proxy that looks into TLS needs its authority named, and the message says where; then all is well."""
    company.inspector, company.upstream_ca = trustme.CA(), entra.ca_file
    company.inspector.cert_pem.write_to_path(tmp_path / "company.pem")

    found = trouble(entra, Proxy(company.url))
    client = module.Entra(str(tmp_path / "company.pem"), Proxy(company.url))

    assert "no trusted TLS connection" in found.message
    assert "Tls(ca=...)" in found.hint
    assert isinstance(client.begin(grant_for(entra), "browser"), CodeFlow)
    assert any("openid-configuration" in each for each in company.seen)


@pytest.mark.parametrize(
    ("no_proxy", "host", "served"),
    [
        ((), "login.example.com", True),
        (("example.com",), "login.example.com", False),
        ((".example.com",), "LOGIN.Example.COM", False),
        (("login.example.com",), "login.example.com", False),
        (("example.com",), "badexample.com", True),
        (("*",), "login.example.com", False),
        (("a.example", "b.example"), "b.example", False),
    ],
)
def test_names_without_a_proxy(no_proxy: tuple[str, ...], host: str, served: bool) -> None:
    """A name stands for itself and for what is below it, as in NO_PROXY."""
    assert served == Proxy("http://proxy:1", no_proxy).serves(host)


def test_the_password_is_in_the_address_only(tmp_path: Path) -> None:
    """User and password are quoted as addresses have them; without a user there is neither."""

    def opened(proxy: Proxy) -> Through:
        routes = Routes(proxy, {})
        found = routes.to(LOGIN)
        assert isinstance(found, Through)
        return routes.opened(found)

    named = opened(Proxy("http://proxy:3128", (), "corp\\ann", secret(tmp_path, b"a:b@c")))
    plain = opened(Proxy("http://proxy:3128"))

    assert "http://corp%5Cann:a%3Ab%40c@proxy:3128" == named.url
    assert "http://proxy:3128" == named.place == plain.url
    assert "b@c" not in repr(named)


def test_what_no_proxy_has_said() -> None:
    """Faults that are something else are left to others."""
    assert no_tls("certificate verify failed", "host") is None
    proxy = Through("http", "p", 1, "HTTPS_PROXY")
    assert "cannot be reached: http://p:1, from HTTPS_PROXY" in refusal("Unable to connect", "host", proxy).message
