"""Gathers facts about the network for `cms doctor`: names, the login hosts over TLS, proxies, ports of mail servers.

The way to a login host and the TLS context are the grant worker's (`cms.core.proxies`, `cms_oauth.tls`). Each step of a call
has a time limit; the doctor limits the whole.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from cms.cli.doctor.assess_network import Https, Names, Reached
from cms.core.accounts import Proxy
from cms.core.proxies import Direct, Malformed, Route, Through, route
from cms_oauth import tls

# The time for one step of a probe: a name, a connection, an answer.
STEP_SECONDS = 4.0

_DIRECT = Direct()


def names(host: str) -> Names:
    """Return the addresses of a host. May take as long as the resolver does."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Names(host, error=error.strerror or str(error))
    return Names(host, tuple(dict.fromkeys(str(each[4][0]) for each in found)))


def reached(host: str, port: int, seconds: float = STEP_SECONDS) -> Reached:
    """Return whether a host accepts connections at a port."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        said = error.strerror or str(error) or type(error).__name__
        return Reached(host, port, said, nameless=isinstance(error, socket.gaierror))
    return Reached(host, port)


@dataclass(frozen=True, slots=True)
class Door:
    """How to reach a login host: `ca` is the file of Tls(ca=), "" for none; `route` is the way."""

    host: str
    port: int
    ca: str = ""
    route: Route = _DIRECT

    @property
    def place(self) -> str:
        return self.host if self.port == http.client.HTTPS_PORT else f"{self.host}:{self.port}"

    @property
    def known(self) -> Https:
        """What is known of it before anything is asked."""
        if isinstance(self.route, Through):
            return Https(self.place, proxy=self.route.place, named_by=self.route.named_by, ca=self.ca)
        return Https(self.place, ca=self.ca)


def door(login: str, ca: str | None, proxy: Proxy | None, environ: Mapping[str, str]) -> Door:
    """Return how to reach a login host, `https://HOST[:PORT]`: the same way as the grant worker."""
    parts = urlsplit(login)
    return Door(parts.hostname or "", parts.port or http.client.HTTPS_PORT, ca or "", route(login, proxy, environ))


def https(
    where: Door,
    environ: Mapping[str, str],
    seconds: float = STEP_SECONDS,
    wall: Callable[[], float] = time.time,
) -> Https:
    """Connect to a login host over TLS and ask for its time. If its certificate is not trusted, find out who issued it."""
    known, way = where.known, where.route
    if isinstance(way, Malformed):
        return replace(known, named_by=way.named_by, error=f"{way.named_by} {way.why}")
    trusted = tls.authorities(where.ca, environ)
    try:
        context = tls.client_context(trusted)
        try:
            with closing(_connected(where, _dialled(where, context, seconds), context)) as connection:
                return replace(_seen(known, connection), skew=_skew(where, connection, wall))
        except ssl.SSLCertVerificationError as error:
            said = "; ".join((error.verify_message, *trusted.ignored))
            return replace(known, error=said, **_shown_unverified(where, _dialled(where, context, seconds)))
    except tls.Unusable as error:
        return replace(known, error=str(error), unusable=error.named_by)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return replace(known, error=_in_words(error), nameless=isinstance(error, socket.gaierror))


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {tls.reason_of(error)[0]}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _connected(where: Door, plain: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Begin TLS with a login host, in a connection that leads there."""
    try:
        if isinstance(plain, ssl.SSLSocket):
            within: ssl.SSLSocket = _within(plain, context, where.host)
            return within
        return context.wrap_socket(plain, server_hostname=where.host)
    except BaseException:
        plain.close()
        raise


def _within(outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> Any:
    """Return TLS within the TLS of a proxy: what urllib3 has for it does all that is asked of a socket here."""
    # Imported here, because few have such a proxy.
    from urllib3.util.ssltransport import SSLTransport  # noqa: PLC0415

    return SSLTransport(outer, context, server_hostname=host)


def _dialled(where: Door, context: ssl.SSLContext, seconds: float) -> socket.socket:
    """Return a connection in which TLS with the login host can begin."""
    proxy = where.route
    if not isinstance(proxy, Through):
        return socket.create_connection((where.host, where.port), seconds)
    if proxy.is_socks:
        return _through_socks(where, proxy, seconds)
    sock = socket.create_connection((proxy.host, proxy.port), seconds)
    try:
        if proxy.scheme == "https":
            sock = _secured(sock, proxy, context)
        _ask_for_tunnel(sock, where, proxy)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, proxy: Through, context: ssl.SSLContext) -> socket.socket:
    """Begin TLS with a proxy. Raises OSError with the reason."""
    try:
        return context.wrap_socket(sock, server_hostname=proxy.host)
    except ssl.SSLError as error:
        reason, is_certificate = tls.reason_of(error)
        if is_certificate:
            raise OSError(f"the certificate of the proxy {proxy.place} is not trusted: {reason}") from None
        said = f"the proxy {proxy.place} does not speak TLS ({reason})"
        raise OSError(f"{said}: write http:// for https:// in {proxy.named_by}") from None


def _ask_for_tunnel(sock: socket.socket, where: Door, proxy: Through) -> None:
    place = f"[{where.host}]:{where.port}" if ":" in where.host else f"{where.host}:{where.port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.user:
        lines.append(f"Proxy-Authorization: Basic {b64encode(f'{proxy.user}:{proxy.password}'.encode()).decode()}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    with closing(http.client.HTTPResponse(sock, method="CONNECT")) as response:
        response.begin()
        if response.status != http.client.OK:
            raise OSError(f"the proxy refuses: {response.status} {response.reason}")


def _through_socks(where: Door, proxy: Through, seconds: float) -> socket.socket:
    try:
        # Imported here because it is optional.
        import socks  # noqa: PLC0415
    except ImportError:
        raise OSError("a SOCKS proxy needs the Python package PySocks, which is not installed") from None
    connected: socket.socket = socks.create_connection(
        (where.host, where.port),
        seconds,
        proxy_type=socks.SOCKS4 if proxy.scheme.startswith("socks4") else socks.SOCKS5,
        proxy_addr=proxy.host,
        proxy_port=proxy.port,
        proxy_rdns=proxy.resolves,
        proxy_username=proxy.user or None,
        proxy_password=proxy.password or None,
    )
    return connected


def _seen(known: Https, sock: ssl.SSLSocket) -> Https:
    # typeshed has one type for all fields of a certificate.
    parts: Any = (sock.getpeercert() or {}).get("issuer", ())
    issuer = {name: value for part in parts for name, value in part}
    named = issuer.get("organizationName") or issuer.get("commonName") or "an issuer without a name"
    return replace(known, trusted=True, issuer=named, version=str(sock.version()))


def _skew(where: Door, sock: ssl.SSLSocket, wall: Callable[[], float]) -> float | None:
    """Return by how many seconds this machine's clock is ahead of the server's, None if the server sends no time."""
    connection: Any = http.client.HTTPConnection(where.host, where.port)
    connection.sock = sock
    with suppress(OSError, http.client.HTTPException, ValueError, TypeError):
        before = wall()
        connection.request("HEAD", "/", headers={"Connection": "close", "User-Agent": "cms"})
        told = connection.getresponse().headers["Date"]
        # The server wrote its Date between these two moments, in whole seconds.
        return (before + wall()) / 2 - parsedate_to_datetime(told).timestamp()
    return None


def _shown_unverified(where: Door, plain: socket.socket) -> dict[str, Any]:
    """Return issuer and validity of a certificate that is not trusted. It sends no data over this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with closing(_connected(where, plain, context)) as connection:
            certificate = connection.getpeercert(binary_form=True)
    except OSError:
        certificate = None
    issuer, valid = facts_of(certificate or b"")
    return {"issuer": issuer or "an unknown authority", "valid": valid}


def facts_of(certificate: bytes) -> tuple[str, str]:
    """Return who issued a certificate in DER (the organization, else the common name), and when it is valid.

    Both are "" for anything else.
    """
    # Imported here because it takes half a second, and only a certificate that is not trusted needs it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    try:
        found = x509.load_der_x509_certificate(certificate)
        named = (found.issuer.get_attributes_for_oid(oid) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME))
        valid = f"{found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}"
    except (ValueError, x509.InvalidVersion):
        return "", ""
    return next((str(each[0].value) for each in named if each), ""), valid
