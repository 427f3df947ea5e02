"""The grant worker, the client's tests and the doctor trust the same certificates, directly and through a proxy.

Python 3.13 verifies strictly by default; here each context begins so, whatever the version.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import COMPANIES, Made, of_company
from support.proxy import proxies
from support.scripted import MailServer, Talk

from cms.cli.doctor.probe_network import door, https
from cms.core.accounts import Grant
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import CodeFlow
from cms.sandbox.entra import Entra
from cms_oauth.mailtest import run as mailtest

ANN = "ann@example.test"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes every later context begin as Python 3.13's default ones, and those of urllib3 there."""
    usual = ssl.SSLContext.__new__

    def new(cls: type[ssl.SSLContext], *args: Any, **kwargs: Any) -> ssl.SSLContext:
        made = usual(cls, *args, **kwargs)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.verify_flags &= ~ssl.VERIFY_X509_PARTIAL_CHAIN
        return made

    return lambda: monkeypatch.setattr(ssl.SSLContext, "__new__", new)


@pytest.fixture
def entra() -> Iterator[Entra]:
    with Entra([ANN]) as running:
        yield running


def show(entra: Entra, context: ssl.SSLContext) -> None:
    """Answer with another certificate from now on."""
    entra.go_down()
    entra.secure.context = context
    entra.come_up()


def worker_says(entra: Entra, ca: str) -> str:
    """Return what the worker says of Entra's certificate, "" if it trusts it."""
    outcome: Any = Provider(ca).begin(Grant(f"{entra.authority}/common", "client", ANN, (("https://x/A",),)), "browser")
    return "" if isinstance(outcome, CodeFlow) else str(outcome.trouble.message)


def doctor_says(entra: Entra, ca: str, environ: dict[str, str]) -> str:
    seen = https(door(entra.authority, ca, None, environ), environ)
    return "" if seen.trusted else seen.error


def client_says(context: ssl.SSLContext, ca: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SSL_CERT_FILE", ca)
    with MailServer(_greet, context) as server:
        report = mailtest.run("pop", f"localhost:{server.port}", ANN, "token")
    assert report.failed
    monkeypatch.delenv("SSL_CERT_FILE")
    return report.failed.message if "not trusted" in report.failed.message else ""


def _greet(talk: Talk) -> None:
    talk.say("+OK ready")
    talk.hear()
    talk.say("-ERR no capabilities here")
    talk.hear()


def chain_of(kind: str) -> tuple[Made, Made, tuple[Made, ...]]:
    """Return the authority that is named, the server's certificate, and what the server sends behind that."""
    if kind in COMPANIES:
        return *of_company(kind), ()
    root = Made("Root", is_authority=True)
    between = Made("Intermediate", root, is_authority=True)
    leaf = Made("server", between)
    return {"root": (root, leaf, (between,)), "intermediate": (between, leaf, ()), "itself": (leaf, leaf, ())}[kind]


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "through a proxy"])
@pytest.mark.parametrize("kind", [*COMPANIES, "root", "intermediate", "itself"])
def test_what_is_named_is_trusted(
    entra: Entra,
    strict: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    *,
    proxied: bool,
) -> None:
    """A company's authority without the details that RFC 5280 wants, an intermediate one alone, the certificate itself."""
    named, leaf, sent = chain_of(kind)
    ca = named.write(tmp_path / "ca.pem")
    context = leaf.server(tmp_path, *sent)
    show(entra, context)
    strict()

    with proxies() as proxy:
        environ = {"HTTPS_PROXY": proxy.url} if proxied else {}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        said = worker_says(entra, ca), doctor_says(entra, ca, environ), client_says(context, ca, monkeypatch)
        tunnels = len(proxy.tunnels)

    assert ("", "", "") == said
    assert (2 if proxied else 0) == tunnels


WRONG: dict[str, tuple[Made, dict[str, Any], str]] = {
    "expired": (Made("Root", is_authority=True), {"begins": -9.0, "ends": -1.0}, "certificate has expired"),
    "not yet valid": (Made("Root", is_authority=True), {"begins": 1.0, "ends": 9.0}, "certificate is not yet valid"),
    "another name": (Made("Root", is_authority=True), {"host": "other.test"}, "not valid for 'localhost'"),
    "a leaf that signs": (Made("No authority", host="x.test"), {}, "invalid CA certificate"),
}


@pytest.mark.parametrize("kind", [*WRONG, "another authority", "self-signed"])
def test_what_is_refused_is_refused_by_all(
    entra: Entra, strict: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All three say OpenSSL's own reason."""
    root, more, expected = WRONG.get(kind, (Made("Root", is_authority=True), {}, "self-signed certificate"))
    leaf = Made("server", None if kind == "self-signed" else root, **more)
    named = Made("Other", is_authority=True) if kind in ("another authority", "self-signed") else root
    expected = "self-signed certificate in certificate chain" if kind == "another authority" else expected
    ca, context = named.write(tmp_path / "ca.pem"), leaf.server(tmp_path, root)
    show(entra, context)
    strict()

    said = worker_says(entra, ca), doctor_says(entra, ca, {}), client_says(context, ca, monkeypatch)

    assert [expected] * 3 == [expected if expected in each else each for each in said]


def test_the_stricter_contexts_are_strict(strict: Callable[[], None], entra: Entra, tmp_path: Path) -> None:
    """Without cms's own context the certificates above would be refused: this test can fail."""
    authority, leaf = of_company("no key usage")
    show(entra, leaf.server(tmp_path))
    strict()
    context = ssl.create_default_context(cafile=authority.write(tmp_path / "ca.pem"))

    connection = http.client.HTTPSConnection("localhost", entra.secure.port, context=context, timeout=20)
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.connect()
    connection.close()
