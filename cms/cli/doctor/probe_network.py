"""Gathers facts about the network for `cms doctor`: names, the login hosts over TLS, proxies, ports of mail servers.

It uses the standard library's connections, which behave like those of requests and MSAL, without their retries. Each
step of a call has a time limit; the doctor limits the whole.
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
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi

from cms.cli.doctor.assess import Https, Names, Reached
from cms.core.accounts import Proxy
from cms_oauth.tls import client_context

# The time for one step of a probe: a name, a connection, an answer.
STEP_SECONDS = 4.0


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
        return Reached(host, port, error.strerror or str(error) or type(error).__name__)
    return Reached(host, port)


@dataclass(frozen=True, slots=True)
class Door:
    """How to reach a login host: `ca` is the file of Tls(ca=), "" for none; `proxy` an http:// address, "" for none."""

    host: str
    port: int
    ca: str = ""
    proxy: str = ""
    credentials: str = ""

    @property
    def place(self) -> str:
        return self.host if self.port == http.client.HTTPS_PORT else f"{self.host}:{self.port}"


def door(login: str, ca: str | None, environ: Mapping[str, str]) -> Door:
    """Return how to reach a login host, `https://HOST[:PORT]`, with the environment's proxy."""
    parts = urlsplit(login)
    host, port = parts.hostname or "", parts.port or http.client.HTTPS_PORT
    proxies = {
        name.lower().removesuffix("_proxy"): value for name, value in environ.items() if name.lower().endswith("_proxy")
    }
    proxy = proxies.get("https") or proxies.get("all") or ""
    beside = tuple(filter(None, (each.strip() for each in proxies.get("no", "").split(","))))
    if not proxy or not Proxy(proxy, beside).serves(host):
        return Door(host, port, ca or "")
    return through(Door(host, port, ca or ""), proxy)


def through(plain: Door, proxy: str, user: str = "", password: str = "") -> Door:
    """Return the same door with a proxy. `Door.proxy` has no credentials, so it can be shown."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    given = user or unquote(parts.username or ""), password or unquote(parts.password or "")
    credentials = ":".join(given) if given[0] else ""
    return replace(plain, proxy=f"{parts.scheme}://{parts.hostname}:{parts.port or 8080}", credentials=credentials)


def authorities(ca: str, environ: Mapping[str, str]) -> str:
    """Return the file or folder of the authorities that the grant worker trusts, chosen as requests and cms choose it."""
    named = (
        environ.get(name, "") for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    )
    return ca or next((path for path in named if path and Path(path).exists()), certifi.where())


def https(
    where: Door,
    environ: Mapping[str, str],
    seconds: float = STEP_SECONDS,
    wall: Callable[[], float] = time.time,
) -> Https:
    """Connect to a login host over TLS and ask for its time. If its certificate is not trusted, find out who issued it."""
    known = Https(where.place, proxy=where.proxy, ca=where.ca)
    try:
        with closing(_connection(where, client_context(authorities(where.ca, environ)), seconds)) as connection:
            connection.connect()
            seen = _seen(known, connection.sock)
            return replace(seen, skew=_skew(connection, wall))
    except ssl.SSLCertVerificationError as error:
        return replace(known, error=error.verify_message, issuer=_issuer_unverified(where, seconds))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return replace(known, error=_in_words(error))


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _connection(where: Door, context: ssl.SSLContext, seconds: float) -> http.client.HTTPSConnection:
    if not where.proxy:
        return http.client.HTTPSConnection(where.host, where.port, timeout=seconds, context=context)
    parts = urlsplit(where.proxy)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=seconds, context=context)
    told = (
        {"Proxy-Authorization": f"Basic {b64encode(where.credentials.encode()).decode()}"} if where.credentials else {}
    )
    connection.set_tunnel(where.host, where.port, told)
    return connection


def _seen(known: Https, sock: object) -> Https:
    assert isinstance(sock, ssl.SSLSocket), "the connection is over TLS"
    # typeshed has one type for all fields of a certificate.
    parts: Any = (sock.getpeercert() or {}).get("issuer", ())
    issuer = {name: value for part in parts for name, value in part}
    named = issuer.get("organizationName") or issuer.get("commonName") or "an issuer without a name"
    return replace(known, trusted=True, issuer=named, version=str(sock.version()))


def _skew(connection: http.client.HTTPSConnection, wall: Callable[[], float]) -> float | None:
    """Return by how many seconds this machine's clock is ahead of the server's, None if the server sends no time."""
    with suppress(OSError, http.client.HTTPException, ValueError, TypeError):
        before = wall()
        connection.request("HEAD", "/", headers={"Connection": "close", "User-Agent": "cms"})
        told = connection.getresponse().headers["Date"]
        # The server wrote its Date between these two moments, in whole seconds.
        return (before + wall()) / 2 - parsedate_to_datetime(told).timestamp()
    return None


def _issuer_unverified(where: Door, seconds: float) -> str:
    """Return who issued a certificate that is not trusted. It sends no data over this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with closing(_connection(where, context, seconds)) as connection:
            connection.connect()
            certificate = connection.sock.getpeercert(binary_form=True)
    except (OSError, http.client.HTTPException):
        certificate = None
    return issuer_of(certificate or b"") or "an unknown authority"


def issuer_of(certificate: bytes) -> str:
    """Return who issued a certificate in DER: the organization, else the common name. "" for anything else."""
    # Imported here because it takes half a second, and only a certificate that is not trusted needs it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    try:
        issuer = x509.load_der_x509_certificate(certificate).issuer
    except (ValueError, x509.InvalidVersion):
        return ""
    named = (issuer.get_attributes_for_oid(oid) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME))
    return next((str(found[0].value) for found in named if found), "")
