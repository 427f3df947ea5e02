"""The grant worker and the doctor go the same way to Entra, whatever the environment and the configuration say."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Made
from support.proxy import Proxy as Company
from support.proxy import proxies, socks

from cms.cli.doctor import assess_network
from cms.cli.doctor.assess_network import Https
from cms.cli.doctor.probe_network import door, https
from cms.core.accounts import Grant, Proxy
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import CodeFlow
from cms.sandbox.entra import Entra

NAMES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "No_Proxy")
USER, PASSWORD = "corp\\ann", "p@ss/w#ö"
QUOTED = "corp%5Cann:p%40ss%2Fw%23%C3%B6"


@pytest.fixture(scope="module")
def entra() -> Iterator[Entra]:
    with Entra(["ann@example.test"]) as running:
        yield running


@pytest.fixture
def company() -> Iterator[Company]:
    with proxies() as running:
        yield running


class Way:
    """Both go to Entra with an environment: `worker` is what the worker says of it, "" if it got there."""

    def __init__(
        self,
        entra: Entra,
        monkeypatch: pytest.MonkeyPatch,
        environ: dict[str, str],
        proxy: Proxy | None = None,
        ca: str = "",
    ) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        ca = ca or entra.ca_file
        grant = Grant(f"{entra.authority}/common", "client", "ann@example.test", (("https://x/A",),))
        outcome: Any = Provider(ca, proxy).begin(grant, "browser")
        self.worker = "" if isinstance(outcome, CodeFlow) else f"{outcome.trouble.message} - {outcome.trouble.hint}"
        self.doctor: Https = https(door(entra.authority, ca, proxy, environ), environ)

    @property
    def arrived(self) -> tuple[bool, bool]:
        return not self.worker, self.doctor.trusted


# With {p} for the proxy's address without a scheme, {e} for Entra's port.
THROUGH = (
    {"HTTPS_PROXY": "http://{p}"},
    {"https_proxy": "http://{p}/", "HTTPS_PROXY": "http://127.0.0.1:9"},
    {"ALL_PROXY": "{p}"},
    {"HTTPS_PROXY": " HTTP://{p} "},
    {"HTTPS_PROXY": "//{p}", "NO_PROXY": "example.com,.host,ocalhost,local host2"},
    {"HTTPS_PROXY": "http://{p}", "NO_PROXY": "127.0.0.1/8, localhost:1, *.localhost"},
    {"HTTPS_PROXY": "http://{p}", "NO_PROXY": "localhost", "no_proxy": "other"},
    {"HTTPS_PROXY": "http://{p}", "NO_PROXY": "other, *"},
)
PAST: tuple[dict[str, str], ...] = (
    {},
    {"https_proxy": "", "HTTPS_PROXY": "http://127.0.0.1:9"},
    {"http_proxy": "http://127.0.0.1:9"},
    {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"},
    {"HTTPS_PROXY": "http://127.0.0.1:9", "No_Proxy": "*"},
    {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "example.com, ..localhost"},
    {"HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "localhost:{e}"},
    {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "LOCALHOST"},
    {"HTTPS_PROXY": "no address", "NO_PROXY": "localhost"},
)


def filled(environ: dict[str, str], entra: Entra, company: Company) -> dict[str, str]:
    here = {"p": f"127.0.0.1:{company.port}", "e": entra.authority.rpartition(":")[2]}
    return {name: value.format(**here) for name, value in environ.items()}


@pytest.mark.parametrize("environ", THROUGH, ids=str)
def test_both_go_through(
    entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """The proxy makes a tunnel for each, and the doctor names it."""
    way = Way(entra, monkeypatch, filled(environ, entra, company))

    assert (True, True) == way.arrived
    assert [entra.authority.removeprefix("https://")] * 2 == company.tunnels
    assert f"http://127.0.0.1:{company.port}" == way.doctor.proxy


@pytest.mark.parametrize("environ", PAST, ids=str)
def test_both_go_past(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    """NO_PROXY, or nothing: no proxy is asked, and the doctor says that there is none."""
    way = Way(entra, monkeypatch, filled(environ, entra, company))

    assert (True, True) == way.arrived
    assert ("pass", f"none on the way to {entra.authority.removeprefix('https://')}") == (
        assess_network.proxy(way.doctor).level,
        assess_network.proxy(way.doctor).message,
    )


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("HTTPS_PROXY", "ftp://127.0.0.1:9"),
        ("https_proxy", "http:///nowhere"),
        ("ALL_PROXY", "http://127.0.0.1:99999"),
        ("all_proxy", f"http://{USER}:{PASSWORD}@127.0.0.1:9"),
        ("Https_Proxy", '"http://127.0.0.1:9"'),
        ("HTTPS_PROXY", "http:127.0.0.1:9"),
        ("HTTPS_PROXY", "socks://127.0.0.1:9"),
    ],
)
def test_both_name_a_variable_that_names_no_proxy(
    entra: Entra, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    """By its name, with what is wrong, and without the password that may be in it."""
    way = Way(entra, monkeypatch, {name: address})
    finding = assess_network.proxy(way.doctor)

    assert (False, False) == way.arrived
    assert f"cannot use: {name} " in way.worker
    assert way.doctor.error in way.worker
    assert ("fail", True) == (finding.level, name in finding.message)
    assert "w#" not in f"{way.worker}{way.doctor}{finding}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_both_log_in(entra: Entra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str) -> None:
    """User and password come from the address; a proxy that is spoken to over TLS is verified as every server is."""
    with proxies(tls_of_proxy(tmp_path) if scheme == "https" else None) as company:
        company.user, company.password = USER, PASSWORD
        ca = trusting(entra, tmp_path)
        way = Way(entra, monkeypatch, {"HTTPS_PROXY": company.url.replace("://", f"://{QUOTED}@")}, ca=ca)
        company.user = "somebody else"
        refused = Way(entra, monkeypatch, {"HTTPS_PROXY": company.url.replace("://", f"://{QUOTED}@")}, ca=ca)

    assert (True, True) == way.arrived
    assert 2 == len(company.tunnels)
    assert "HTTP 407" in refused.worker
    assert "407" in refused.doctor.error


AUTHORITY = Made("Company CA", is_authority=True)


def tls_of_proxy(folder: Path) -> ssl.SSLContext:
    return Made("proxy", AUTHORITY).server(folder)


def trusting(entra: Entra, folder: Path) -> str:
    """Return a file with the authorities of Entra and of the proxy."""
    path = folder / "both.pem"
    path.write_bytes(Path(entra.ca_file).read_bytes() + AUTHORITY.pem)
    return str(path)


def test_both_refuse_a_proxy_that_is_not_trusted(entra: Entra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is said to a proxy whose certificate is not trusted, least of all the password."""
    with proxies(tls_of_proxy(tmp_path)) as company:
        way = Way(entra, monkeypatch, {"HTTPS_PROXY": company.url.replace("://", f"://{QUOTED}@")})

    assert (False, False) == way.arrived
    assert f"no trusted TLS connection to {company.url}: unable to get local issuer certificate" in way.worker
    assert "unable to get local issuer certificate" in way.doctor.error
    assert [] == company.tunnels


def test_both_are_told_of_a_proxy_that_knows_no_tls(
    entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`https://` before a proxy's address is a frequent mistake."""
    way = Way(entra, monkeypatch, {"HTTPS_PROXY": company.url.replace("http:", "https:")})

    assert (False, False) == way.arrived
    assert "does not speak TLS" in way.worker
    assert "write http:// for https:// in HTTPS_PROXY" in way.worker
    assert "does not speak TLS" in way.doctor.error
    assert "HTTPS_PROXY" in str(assess_network.proxy(way.doctor))


@pytest.mark.parametrize(
    ("scheme", "name"), [("socks5", "127.0.0.1"), ("socks5h", "localhost"), ("SOCKS5H", "localhost")]
)
@pytest.mark.parametrize("user", ["", "ann"])
def test_both_speak_socks(entra: Entra, monkeypatch: pytest.MonkeyPatch, scheme: str, name: str, user: str) -> None:
    """With socks5h the proxy resolves the name, with socks5 this machine."""
    with socks(user, "secret" if user else "") as proxy:
        who = f"{user}:secret@" if user else ""
        way = Way(entra, monkeypatch, {"ALL_PROXY": f"{scheme}://{who}127.0.0.1:{proxy.port}"})

    assert (True, True) == way.arrived
    assert [f"{name}:{entra.authority.rpartition(':')[2]}"] * 2 == proxy.asked


def test_both_name_a_socks_proxy_that_is_down(entra: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the proxy cannot be reached that is not the provider's fault."""
    way = Way(entra, monkeypatch, {"ALL_PROXY": "socks5://127.0.0.1:9"})

    assert "through the proxy socks5://127.0.0.1:9 (ALL_PROXY)" in way.worker
    assert ("socks5://127.0.0.1:9", False) == (way.doctor.proxy, way.doctor.trusted)


def test_the_configuration_counts_alone(entra: Entra, company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside `Proxy(...)` the environment says nothing: neither a proxy nor NO_PROXY."""
    environ = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}
    through = Way(entra, monkeypatch, environ, Proxy(company.url))
    past = Way(entra, monkeypatch, environ, Proxy("http://127.0.0.1:9", ("localhost",)))

    assert ((True, True), (True, True)) == (through.arrived, past.arrived)
    assert 2 == len(company.tunnels)
