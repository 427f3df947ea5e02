"""The route to Entra through an HTTP proxy: its address with the password in it, and what it means when it refuses.

The proxy is asked for a tunnel (CONNECT), in which TLS goes on to Entra: it sees the name of the host and nothing else,
unless it has a certificate authority that this machine trusts.
"""

from __future__ import annotations

import re
import threading
from urllib.parse import quote, urlsplit

from cms.core.accounts import Proxy
from cms.core.lifecycle import Trouble
from cms.grants.secret_sources import Missing, read_source
from cms_oauth.moves import fill

# How http.client tells of a proxy that refuses a tunnel. Its words behind the number are the proxy's.
_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")
_WANTS_PASSWORD = 407

# What OpenSSL says of an answer in another language than TLS, such as HTML: by its 3.0, and by later ones.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST", re.IGNORECASE)


class ProxyRoute:
    """A proxy of the configuration's. Its password is read when it is first needed, and again after `forget_password`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._address = ""
        self._lock = threading.Lock()

    def to(self, url: str) -> dict[str, str]:
        """Return the proxy for an address, by scheme; nothing for one that is reached without. Raises Missing."""
        if not self._proxy.serves(urlsplit(url).hostname or ""):
            return {}
        with self._lock:
            self._address = self._address or _address(self._proxy)
            return {"https": self._address, "http": self._address}

    def forget_password(self) -> None:
        """Read the password again next time."""
        with self._lock:
            self._address = ""


def _address(proxy: Proxy) -> str:
    if not proxy.user:
        return proxy.url
    scheme, _, place = proxy.url.partition("://")
    password = _password(proxy)
    return f"{scheme}://{quote(proxy.user, safe='')}:{quote(password, safe='')}@{place}"


def _password(proxy: Proxy) -> str:
    if proxy.password is None:
        return ""
    try:
        return read_source(proxy.password).decode().strip()
    except Missing as missing:
        raise Missing(f"{proxy.password} {missing}") from None
    except UnicodeDecodeError:
        raise Missing(f"{proxy.password} is not text") from None


def no_password(why: str) -> Trouble:
    """Say that the proxy's password cannot be read."""
    hint = fill("check password= of Proxy(...) in the configuration; {retries}")
    return Trouble("network", f"the proxy's password cannot be read: {why}", hint)


def refusal(reason: str, host: str) -> Trouble:
    """Say what a proxy's refusal means. `reason` is what the libraries have made of it."""
    found = _REFUSED.search(reason)
    if found is None:
        return Trouble(
            "network",
            f"the proxy on the way to {host} cannot be reached",
            fill("{retries}; check Proxy(...) in the configuration, or HTTPS_PROXY where it is not there"),
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


def no_proxy(host: str) -> Trouble:
    """Say that the environment names an invalid proxy. The configuration's was checked when it was loaded."""
    return Trouble(
        "network",
        f"the environment names a way to {host} that cms cannot use",
        fill(
            "HTTPS_PROXY and ALL_PROXY are http://HOST:PORT (SOCKS needs the Python package PySocks beside cms): change them"
            " where cms is started, and start it again; or put Proxy(...) into the configuration, which counts before them, then {reload}"
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
