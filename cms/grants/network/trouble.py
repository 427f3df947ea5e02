"""What it means that a request to a provider got no answer, or that of something in between: whose move it is.

OpenSSL's reason for a TLS failure is always in the message.
"""

from __future__ import annotations

import re
import sys
from urllib.parse import urlsplit

import requests

from cms.core.accounts import Grant
from cms.core.lifecycle import Trouble
from cms.core.proxies import DIRECTIVE, Malformed, Through
from cms.grants.network.session import BadProxy, HttpSession, NoAuthorities, NoPassword
from cms_oauth import tls
from cms_oauth.diagnosis import certificates
from cms_oauth.moves import Command, fill

# How http.client tells of a proxy that refuses a tunnel. Its words behind the number are the proxy's.
_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")
_WANTS_PASSWORD = 407

# What OpenSSL says of an answer in another language than TLS, such as HTML: by its 3.0, and by later ones.
_NO_TLS = re.compile("wrong version number|record layer failure|http request", re.IGNORECASE)


def network_trouble(error: OSError, grant: Grant, session: HttpSession) -> Trouble:
    """Say what became of a request. requests' exceptions are OSErrors."""
    host = urlsplit(grant.authority).netloc
    if isinstance(error, requests.Timeout):
        return Trouble("timeout", f"{host} did not answer in time", fill("{nothing_to_do}"))
    if isinstance(error, NoPassword):
        return no_password(str(error))
    if isinstance(error, BadProxy):
        return no_proxy(error.found, host)
    if isinstance(error, NoAuthorities):
        return no_authorities(error.named_by, str(error), host)
    route = session.route(grant.authority)
    reason, is_certificate = tls.reason_of(error)
    proxy = route if isinstance(route, Through) else None
    if proxy and isinstance(error, requests.exceptions.InvalidSchema):
        return no_socks(proxy)
    if proxy and isinstance(error, requests.exceptions.ProxyError):
        if proxy.scheme == "https" and is_certificate:
            return untrusted(reason, proxy.place, session.trust())
        is_plain = proxy.scheme == "https" and _NO_TLS.search(reason)
        return speaks_no_tls(proxy) if is_plain else refusal(str(error), host, proxy)
    if is_certificate:
        return untrusted(reason, host, session.trust())
    if isinstance(error, requests.exceptions.SSLError):
        return no_tls(reason, host) or Trouble("network", f"no TLS connection to {host}: {reason}", fill("{retries}"))
    by = f" through the proxy {proxy.place} ({proxy.named_by})" if proxy else ""
    return Trouble("network", f"{host} cannot be reached{by}, or the connection broke", fill("{retries}"))


def untrusted(reason: str, host: str, trusted: tls.Authorities) -> Trouble:
    """Say that a certificate is not trusted, and which variables have no part in that because they are wrong."""
    said = "; ".join((reason, *trusted.ignored))
    return Trouble("network", f"no trusted TLS connection to {host}: {said}", certificates.login_move(said, host))


def no_authorities(named_by: str, why: str, host: str) -> Trouble:
    """Say that the certificate authorities to trust cannot be loaded."""
    if named_by == tls.DIRECTIVE:
        move = fill("put the certificates there, or correct Tls(ca=...) in the configuration, then {reload}; {retries}")
    else:
        move = fill(
            f"put certificates there, or change {named_by} where cms is started, and start it again; {{retries}}"
        )
    return Trouble("network", f"no trusted TLS connection to {host}: {why}", move)


def garbage(grant: Grant, fault: str = "") -> Trouble:
    """Say that the answer was not one of an identity provider; or, with a `fault`, what is wrong with its answer."""
    host = urlsplit(grant.authority).netloc
    if fault:
        hint = fill("{retries}; if it lasts, a proxy in between may change the answers")
        return Trouble("garbage", f"the answer of {host} cannot be used: {fault}", hint)
    return Trouble(
        "garbage",
        f"what answered for {host} was not an identity provider",
        fill("{retries}; a captive portal or a proxy may be in between"),
    )


def no_password(why: str) -> Trouble:
    """Say that the proxy's password cannot be read."""
    hint = fill("check password= of Proxy(...) in the configuration; {retries}")
    return Trouble("network", f"the proxy's password cannot be read: {why}", hint)


def refusal(reason: str, host: str, proxy: Through) -> Trouble:
    """Say what a proxy's refusal means. `reason` is what the libraries have made of it."""
    found = _REFUSED.search(reason)
    if found is None:
        return Trouble(
            "network",
            f"the proxy on the way to {host} cannot be reached: {_shown(proxy)}",
            fill(f"{{retries}}; check {_where(proxy)}"),
        )
    status = int(found[1])
    if status == _WANTS_PASSWORD:
        return Trouble(
            "network",
            f"the proxy on the way to {host} does not let this user through (HTTP {status})",
            fill(
                'set a user in the configuration: Proxy("http://USER@HOST:PORT", password=File("PATH")), then {reload};'
                " a proxy that knows no passwords, only Kerberos or NTLM, needs a helper such as cntlm"
            ),
        )
    return Trouble(
        "network",
        f"the proxy does not let cms through to {host} (HTTP {status})",
        fill(
            "{retries}; ask the proxy's administrator to allow it, or name the host in NO_PROXY or in Proxy(no_proxy=[...])"
        ),
    )


def _shown(proxy: Through) -> str:
    """Return a proxy with what names it, for people."""
    return f"{proxy.place}, from {proxy.named_by}"


def _where(proxy: Through) -> str:
    """Return where a person changes the proxy."""
    if proxy.named_by == DIRECTIVE:
        return f"{DIRECTIVE} in the configuration"
    return f"{proxy.named_by} where cms is started"


def speaks_no_tls(proxy: Through) -> Trouble:
    """Say that a proxy is spoken to over TLS, and knows none."""
    return Trouble(
        "network",
        f"the proxy {_shown(proxy)} does not speak TLS",
        fill(
            f"write http:// for https:// in {_where(proxy)}, and start cms again: what goes through is encrypted anyway"
        ),
    )


def no_socks(proxy: Through) -> Trouble:
    """Say that what cms needs for a SOCKS proxy is missing."""
    return Trouble(
        "network",
        f"{proxy.named_by} names a SOCKS proxy, which needs the Python package PySocks",
        fill(
            "in the source folder of cms, run {install}, or name an HTTP proxy; {retries}",
            {"install": Command((f"{sys.prefix}/bin/pip", "install", ".[socks]"))},
        ),
    )


def no_proxy(found: Malformed, host: str) -> Trouble:
    """Say that the environment names an invalid proxy. The configuration's was checked when it was loaded."""
    return Trouble(
        "network",
        f"the environment names a way to {host} that cms cannot use: {found.named_by} {found.why}",
        fill(
            f"{found.named_by} is http://HOST:PORT, and SOCKS works too: change it where cms is started, and start it"
            " again; or put Proxy(...) into the configuration, which counts before HTTPS_PROXY and ALL_PROXY, then {reload}"
        ),
    )


def no_tls(reason: str, host: str) -> Trouble | None:
    """Say that something answered which does not speak TLS; None where `reason` is another fault of TLS."""
    if not _NO_TLS.search(reason):
        return None
    return Trouble(
        "network",
        f"what answered for {host} does not speak TLS",
        fill("{retries}; a captive portal or a proxy may be in between, or a proxy's port may be wrong"),
    )
