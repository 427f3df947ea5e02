"""The HTTP session that the exchanges of a worker share: the way to each host, and whom to trust there.

Nothing of it comes from requests' own reading of the environment: proxies are `cms.core.proxies`, TLS is `cms_oauth.tls`,
both as in `cms doctor`, and there is no netrc.
"""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from cms.core.proxies import Direct, Malformed, Route
from cms.grants.network.deadline import POOLS
from cms.grants.network.proxy import Routes
from cms.grants.secret_sources import Missing
from cms_oauth import tls


class NotSent(requests.RequestException):
    """A request that cannot be made: nothing was sent. The text says why."""


class NoPassword(NotSent):
    """The proxy's password cannot be read."""


class NoAuthorities(NotSent):
    """The certificate authorities to trust cannot be loaded. `named_by` is the variable or directive."""

    def __init__(self, unusable: tls.Unusable) -> None:
        super().__init__(str(unusable))
        self.named_by = unusable.named_by


class BadProxy(NotSent):
    """The environment names no proxy that cms can use."""

    def __init__(self, found: Malformed) -> None:
        super().__init__(found.why)
        self.found = found


# What requests says of itself, and that it takes compressed answers.
_HEADERS = requests.utils.default_headers()
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class HttpSession:
    """Sends requests over connections that are kept. Threads may share it.

    It is not a `requests.Session`: that spends as much time as the connection itself on cookies, ~/.netrc and settings of
    the environment, none of which may be used here.

    Without `routes` no proxy is used. `trust` says which authorities count, and is asked again when that may have changed.
    """

    def __init__(
        self, routes: Routes | None = None, trust: Callable[[], tls.Authorities] = lambda: tls.SYSTEMS
    ) -> None:
        self.trust = trust
        self._routes = routes
        # Nothing is tried twice: that is the keeper's to decide, and so is Retry-After.
        self.adapters: dict[str, BaseAdapter] = {"https": _Adapter(self), "http": HTTPAdapter()}

    def send(
        self,
        method: str,
        url: str,
        seconds: float,
        *,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str | None] | str = "",
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request once; return the response, whose body is still to be read. Raises requests' exceptions.

        `data` is a form, or a body that is sent as it is.
        """
        request = requests.PreparedRequest()
        # requests takes longer to find out what kind of data this is than to encode it.
        body = data if isinstance(data, str) else _encoded(data)
        headers = {**_HEADERS, **(_FORM if body else {}), **(headers or {})}
        request.prepare(method, url, headers, data=body, params=params or None)
        adapter = self.adapters.get(urlsplit(url).scheme)
        if adapter is None:
            # A discovery document may name anything.
            raise NotSent("no address of HTTP")
        return adapter.send(request, stream=True, timeout=seconds, proxies=self.proxies(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The next request makes new ones."""
        for adapter in self.adapters.values():
            adapter.close()

    def route(self, url: str) -> Route:
        """Return the way to an address."""
        return self._routes.to(url) if self._routes else Direct()

    def proxies(self, url: str) -> dict[str, str]:
        """Return the proxy on the way to an address, as requests takes it. Raises NotSent."""
        found = self.route(url)
        if isinstance(found, Malformed):
            raise BadProxy(found)
        if isinstance(found, Direct) or self._routes is None:
            return {}
        try:
            return {"https": self._routes.opened(found).url}
        except Missing as missing:
            raise NoPassword(str(missing)) from None


def _encoded(form: Mapping[str, str | None]) -> str:
    try:
        return urlencode({each: form[each] for each in form if form[each] is not None})
    except UnicodeEncodeError:
        # A server's JSON may have a lone surrogate in what it wants back.
        raise NotSent("no text that can be sent") from None


class _Adapter(HTTPAdapter):
    """Makes connections that keep to a deadline, with cms's TLS context.

    The context is made when it is first needed, and again after `close` or a failure: a file of authorities that was put
    right or renewed counts.
    """

    def __init__(self, session: HttpSession) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._stale = True
        self._context: ssl.SSLContext | None = None
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        with self._lock:
            if self._stale:
                self._renew()
        try:
            return super().send(request, *args, **kwargs)
        except requests.exceptions.SSLError:
            self._stale = True
            raise

    def _renew(self) -> None:
        try:
            self._context = tls.client_context(self._session.trust())
        except tls.Unusable as unusable:
            raise NoAuthorities(unusable) from None
        # Connections are kept by context; a proxy's manager has it for TLS with the proxy itself.
        for manager in self.proxy_manager.values():
            manager.clear()
        self.proxy_manager.clear()
        self._stale = False

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        place, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return place, {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the connection alone: its context has whom to trust, and requests would add certifi's."""

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        # A SOCKS proxy connects by other code, which is bounded by its timeouts alone.
        if proxy.lower().startswith("socks"):
            return super().proxy_manager_for(proxy, **kwargs)
        manager = super().proxy_manager_for(proxy, proxy_ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Say who asks, in UTF-8, as RFC 7617 has it. requests knows Latin-1 only."""
        user, password = requests.utils.get_auth_from_url(proxy)
        if not user:
            return {}
        return {"Proxy-Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}

    def close(self) -> None:
        super().close()
        self._stale = True
