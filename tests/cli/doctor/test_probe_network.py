"""What the doctor sees of the network: names, certificates, clocks, proxies, ports; and that nothing hangs."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from support.ports import closed_port

from cms.cli.doctor import assess_network, probe_network
from cms.cli.doctor.assess_network import Https, Names, Reached
from cms.cli.doctor.probe_network import Door, door, facts_of, https, names, reached
from cms.core.accounts import Proxy
from cms.core.proxies import Direct, Route, Through, route
from cms.sandbox.entra import Entra

# Short enough for a test, and long enough for a machine that is busy to refuse a connection.
SHORT = 0.5

# A test that took longer has waited for something that never comes.
_HANG = 20.0


@contextmanager
def silent() -> Iterator[int]:
    """Take connections at a port, and say nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def where(entra: Entra, *, trusted: bool = True) -> Door:
    parts = urlsplit(entra.authority)
    return Door(parts.hostname or "", parts.port or 0, str(entra.ca_file) if trusted else "")


def through(plain: Door, address: str) -> Door:
    """Return the same door, with the proxy that the environment names."""
    return replace(plain, route=route(f"https://{plain.place}", None, {"HTTPS_PROXY": address}))


def test_names() -> None:
    """Each address once, or the reason why there is no address."""
    assert "127.0.0.1" in names("localhost").addresses
    assert Names("no.such.host.invalid", error=names("no.such.host.invalid").error) == names("no.such.host.invalid")
    assert names("no.such.host.invalid").error


def test_ports() -> None:
    """Open, or closed, or silent: a name that means nothing is an error as well."""
    with silent() as port:
        assert Reached("127.0.0.1", port) == reached("127.0.0.1", port)
    with closed_port() as port:
        assert Reached("127.0.0.1", port, "Connection refused") == reached("127.0.0.1", port)
    assert reached("no.such.host.invalid", port).nameless
    assert https(Door("no.such.host.invalid", port), {}).nameless


def test_a_login_host(entra: Entra) -> None:
    """Its certificate's issuer, its TLS, and how far this machine's clock is from its own."""
    seen = https(where(entra), {}, wall=lambda: time.time() + 600)

    assert (True, "trustme", "") == (seen.trusted, seen.issuer.partition(" ")[0], seen.error)
    assert seen.version.startswith("TLSv1.")
    assert seen.skew is not None
    assert 595 < seen.skew < 605


def test_a_certificate_that_is_not_trusted(entra: Entra) -> None:
    """Whose it is, is told all the same; nothing is sent there."""
    seen = https(where(entra, trusted=False), {})

    assert (False, "trustme", None) == (seen.trusted, seen.issuer.partition(" ")[0], seen.skew)
    assert seen.error


def test_a_refused_connection() -> None:
    """The kernel's words say why there is no connection."""
    with closed_port() as port:
        assert Https(f"127.0.0.1:{port}", error="Connection refused") == https(Door("127.0.0.1", port), {})


@pytest.mark.parametrize("proxied", [False, True])
def test_a_server_that_never_answers_is_told_not_waited_for(proxied: bool) -> None:
    """Whether it is the login host or the proxy before it."""
    begun = time.monotonic()
    with silent() as port:
        plain = Door("127.0.0.1", port)
        seen = https(through(Door("login.invalid", 443), f"http://127.0.0.1:{port}") if proxied else plain, {}, SHORT)

    assert "no answer in time" == seen.error
    assert time.monotonic() - begun < _HANG


def test_a_login_host_without_tls() -> None:
    """Something else listens there: the probe reports that TLS failed, and does not hang."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_say_hello, args=(listener,))
        thread.start()
        seen = https(Door("127.0.0.1", listener.getsockname()[1]), {})
        thread.join(60)

    assert not seen.trusted
    assert seen.error


def _say_hello(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.sendall(b"220 hello, I speak SMTP\r\n" * 4)
        client.recv(1024)


def test_a_host_that_tells_no_time(entra: Entra, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock is not known, and that is all."""

    def no_date(*_: object) -> None:
        raise TypeError

    monkeypatch.setattr(probe_network, "parsedate_to_datetime", no_date)
    seen = https(where(entra), {})

    assert (True, None) == (seen.trusted, seen.skew)


@contextmanager
def proxy(target: int, asked: list[bytes], answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Iterator[int]:
    """Be an HTTP proxy for one connection, to a port of this machine, whatever is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_forward, args=(listener, target, asked, answer))
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


def _forward(listener: socket.socket, target: int, asked: list[bytes], answer: bytes) -> None:
    client, _ = listener.accept()
    with client, socket.create_connection(("127.0.0.1", target)) as server:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        asked.append(head)
        client.sendall(answer)
        back = threading.Thread(target=_pump, args=(server, client))
        back.start()
        _pump(client, server)
        back.join(60)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while chunk := source.recv(4096):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_proxy_is_asked_to_lead_there(entra: Entra) -> None:
    """With what it asks for, which is not shown."""
    asked: list[bytes] = []
    direct = where(entra)
    with proxy(direct.port, asked) as port:
        seen = https(through(direct, f"http://me:pass%20word@127.0.0.1:{port}"), {})

    assert (True, f"http://127.0.0.1:{port}") == (seen.trusted, seen.proxy)
    assert asked[0].startswith(f"CONNECT {direct.host}:{direct.port} ".encode())
    # base64 of me:pass word
    assert b"Proxy-Authorization: Basic bWU6cGFzcyB3b3Jk\r\n" in asked[0]


def test_a_proxy_that_refuses(entra: Entra) -> None:
    """Its refusal is the error."""
    asked: list[bytes] = []
    with proxy(where(entra).port, asked, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as port:
        seen = https(through(where(entra), f"127.0.0.1:{port}"), {})

    assert (False, "") == (seen.trusted, seen.issuer)
    assert "407" in seen.error


COMPANY = Through("http", "p", 3128, "HTTPS_PROXY")


@pytest.mark.parametrize(
    ("proxy", "environ", "expected"),
    [
        (None, {}, Direct()),
        (None, {"HTTPS_PROXY": "http://p:3128"}, COMPANY),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "other.test, example.test"}, Direct()),
        (Proxy("http://q:1"), {"HTTPS_PROXY": "http://p:3128"}, Through("http", "q", 1, "Proxy(...)")),
        (Proxy("http://q:1", ("example.test",)), {"HTTPS_PROXY": "http://p:3128"}, Direct()),
    ],
)
def test_the_way_is_the_workers(proxy: Proxy | None, environ: dict[str, str], expected: Route) -> None:
    """That of the configuration, else that of the environment."""
    assert expected == door("https://login.example.test", None, proxy, environ).route


def test_a_door_has_a_name() -> None:
    """With the port where that is not the usual one."""
    assert "login.example.test" == door("https://login.example.test", None, None, {}).place
    assert "localhost:8443" == door("https://localhost:8443", "/ca.pem", None, {}).place
    assert "/ca.pem" == door("https://localhost:8443", "/ca.pem", None, {}).ca


def test_authorities_may_be_a_folder(entra: Entra, tmp_path: Path) -> None:
    """A folder without the right certificate trusts no server."""
    seen = https(where(entra, trusted=False), {"SSL_CERT_DIR": str(tmp_path)})

    assert not seen.trusted


@pytest.mark.parametrize("named_by", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "Tls(ca=...)"])
@pytest.mark.parametrize("wrong", ["missing", "empty", "garbled", "a folder of nothing"])
def test_authorities_that_cannot_be_loaded_are_to_blame(
    entra: Entra, tmp_path: Path, named_by: str, wrong: str
) -> None:
    """Whose move it is follows from what names them: nobody is sent to a firewall or a proxy."""
    path = tmp_path / "ca"
    match wrong:
        case "empty":
            path.touch()
        case "garbled":
            path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        case "a folder of nothing":
            path.mkdir()
    configured = named_by.startswith("Tls")
    host = replace(where(entra), ca=str(path) if configured else "")
    found = assess_network.tls(https(host, {} if configured else {named_by: str(path)}))
    (verdict,) = found.verdicts

    assert ("fail", "wrong-authorities", True) == (
        found.level,
        verdict.name,
        f"{named_by} names {path}" in found.message,
    )
    assert [f"correct {named_by}"] == [each.split(",")[0] for each in verdict.steps]
    assert ("`cms reload`" in verdict.steps[0], "start it again" in verdict.steps[0]) == (configured, not configured)


def test_the_facts_of_a_certificate() -> None:
    """The organisation and the time, from a current certificate; nothing from bytes that are no certificate."""
    authority = trustme.CA(organization_name="Example Proxy CA")
    pem = authority.issue_cert("example.test").cert_chain_pems[0].bytes().decode()
    der = ssl.PEM_cert_to_DER_cert(pem)
    issuer, valid = facts_of(der)

    assert "Example Proxy CA" == issuer
    assert re.fullmatch(r"\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d", valid)
    assert [("", "")] * 3 == [facts_of(each) for each in (b"", der[:40], b"\x30\x03\x02\x01")]


@given(certificate=st.binary(max_size=200))
def test_no_certificate_breaks_the_reader(certificate: bytes) -> None:
    """Whatever a server sends."""
    assert isinstance(facts_of(certificate), tuple)
