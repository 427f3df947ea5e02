"""The route to a provider through a proxy: its address, with the password in it.

cms asks the proxy for a tunnel (CONNECT) and speaks TLS with the provider in it. The proxy sees the host's name and nothing
else, unless it has a certificate authority that this machine trusts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

from cms.core.accounts import Proxy
from cms.core.proxies import Route, Through, route
from cms.grants.secret_sources import Missing, read_source


class Routes:
    """The way to each host, by the configuration's proxy, if there is one, else by the environment.

    The password of the configuration's proxy is read when it is first needed, and again after `forget_password`.
    """

    def __init__(self, proxy: Proxy | None, environ: Mapping[str, str]) -> None:
        self._proxy = proxy
        # A copy: os.environ decodes all that is in it at each look.
        self._environ = dict(environ)
        self._password: str | None = None
        self._lock = threading.Lock()

    def to(self, url: str) -> Route:
        """Return the way to an https:// address, without a password of the configuration's."""
        return route(url, self._proxy, self._environ)

    def opened(self, found: Through) -> Through:
        """Return the way with its password. Raises Missing."""
        if self._proxy is None or self._proxy.password is None:
            return found
        with self._lock:
            if self._password is None:
                self._password = _password(self._proxy)
            return replace(found, password=self._password)

    def forget_password(self) -> None:
        """Read the password again next time."""
        with self._lock:
            self._password = None


def _password(proxy: Proxy) -> str:
    assert proxy.password is not None, "the caller has looked"
    try:
        return read_source(proxy.password).decode().strip()
    except Missing as missing:
        raise Missing(f"{proxy.password} {missing}") from None
    except UnicodeDecodeError:
        raise Missing(f"{proxy.password} is not text") from None
