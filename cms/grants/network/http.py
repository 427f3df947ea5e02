"""HTTP to a provider: the only file that imports requests. Plain synchronous code.

An exchange has one deadline (`cms.grants.network.deadline`) and a bound on size, no cookies, no redirects, no netrc, and nothing is
tried twice. Its client remembers what MSAL does not tell: status, Retry-After, and whether something was sent whose end is
not known. Discovery is here, and what it means that no answer came, or that of something in between.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.network.deadline import POOLS, Deadline
from cms.grants.network.proxy import ProxyRoute, no_password, no_proxy, no_tls, refusal
from cms.grants.secret_sources import Missing
from cms_oauth.moves import fill

# A token answer has some 10 KB, a discovery document less.
MAX_ANSWER = 1024 * 1024

# MSAL's own bound. A longer Retry-After is a mistake, and a day without mail would be its price.
MAX_RETRY_AFTER = 60 * 60.0

_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500
_UNAVAILABLE = 503
_OK = 200
# Microsoft ("How to use managed identities on an Azure VM", error handling): tried again, as any 5xx is.
_NOT_READY = (404, 410)

# How a request ends that gets no answer. It is an OSError.
NoAnswer = requests.RequestException


class Endless(ValueError):
    """A response that is longer than any of a provider's."""


class _NoCookies(DefaultCookiePolicy):
    """Accounts share one session, and must not share Entra's cookies."""

    def __init__(self) -> None:
        super().__init__(allowed_domains=[])


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for ~/.netrc, whose `default` entry would go to Entra as an Authorization header."""
    return request


class _NoPassword(requests.exceptions.ProxyError):
    """The proxy's password cannot be read. The text says why."""


class _HttpSession(requests.Session):
    """A session that uses the proxy of the configuration, else that of the environment."""

    def __init__(self, route: ProxyRoute | None) -> None:
        super().__init__()
        self._route = route

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
        if self._route:
            try:
                settings["proxies"] = self._route.to(url)
            except Missing as missing:
                raise _NoPassword(str(missing)) from None
        return settings


def new_session(route: ProxyRoute | None = None) -> requests.Session:
    """Return a session that threads may share: it keeps connections, and nothing else."""
    session = _HttpSession(route)
    session.cookies.set_policy(_NoCookies())
    session.auth = _no_auth
    # Nothing is tried twice: that is the keeper's to decide, and so is Retry-After.
    session.mount("https://", _Adapter(pool_maxsize=16))
    return session


class _Adapter(HTTPAdapter):
    """Makes connections that keep to a deadline."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        # A SOCKS proxy connects by other code, which is bounded by its timeouts alone.
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOLS
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Say who asks, in UTF-8, as RFC 7617 has it. requests knows Latin-1 only."""
        user, password = requests.utils.get_auth_from_url(proxy)
        if not user:
            return {}
        return {"Proxy-Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What MSAL reads of an HTTP response."""

    status_code: int
    text: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Http:
    """The HTTP client of one exchange. It remembers what MSAL does not tell."""

    def __init__(
        self, session: requests.Session, ca: str | None, discovered: str, origin: str | None, deadline: Deadline
    ) -> None:
        self.deadline = deadline
        self.status = 0
        self.retry_after = 0.0
        self.answered = 0.0
        # Something was sent, and how it ended is not known.
        self.unsure = False
        # Gets the form that was sent and its answer, and returns the answer for MSAL.
        self.judge: Callable[[Mapping[str, str], HttpReply], HttpReply] = lambda _form, reply: reply
        self._session = session
        self._ca = ca
        self._discovered = discovered
        self._origin = {"Origin": origin} if origin else {}

    def get(self, _url: str, **_kwargs: object) -> HttpReply:
        """Answer MSAL's only GET, which is for discovery."""
        return HttpReply(_OK, self._discovered)

    def post(
        self,
        url: str,
        params: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        claims_challenge: str = "",
    ) -> HttpReply:
        """Send a form. MSAL before 1.34 passes the challenge of a device flow on to here; later ones put it in the form."""
        data = {**(data or {}), **({"claims": claims_challenge} if claims_challenge else {})}
        reply = self._send("POST", url, params=params, data=data, headers={**(headers or {}), **self._origin})
        return self.judge(data, reply)

    def _send(self, method: str, url: str, **kwargs: Any) -> HttpReply:
        self.status, self.retry_after, self.unsure = 0, 0.0, True
        try:
            reply = fetch(self._session, method, url, self._ca, self.deadline, **kwargs)
        except requests.RequestException:
            self.unsure = self.deadline.reached
            raise
        self.answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.status = reply.status_code
        self.retry_after = retry_after(reply)
        return reply

    def close(self) -> None:
        """Leave the session alone: it is shared."""


class Metadata(Http):
    """The HTTP client of one question to the machine's own metadata service, which everything is read from."""

    def __init__(self) -> None:
        session = new_session()
        # It is on this machine, or next to it: no proxy leads there, and none may see what it answers.
        session.trust_env = False
        super().__init__(session, None, "", None, Deadline())

    def get(self, _url: str, **_kwargs: Any) -> HttpReply:
        """Ask. The service answers 404 and 410 while it starts or is updated."""
        with self._session:
            reply = self._send("GET", _url, **_kwargs)
        if self.status in _NOT_READY:
            self.status = _UNAVAILABLE
        return self.judge({}, reply)


def authorities(ca: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the file or folder of the certificate authorities to trust; None leaves it to requests.

    requests uses REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, but not SSL_CERT_FILE and SSL_CERT_DIR, which other programs use. A
    path that does not exist is ignored, as OpenSSL does.
    """
    if ca or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE"):
        return ca
    named = (environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return next((path for path in named if path and Path(path).exists()), None)


def fetch(
    session: requests.Session, method: str, url: str, ca: str | None, deadline: Deadline, **kwargs: Any
) -> HttpReply:
    """Return one whole response. Raises requests' exceptions, and Endless."""
    seconds = deadline.left
    if not seconds:
        deadline.reached = False
        raise requests.Timeout("no time left to ask")
    try:
        # As an argument it is final: see `authorities`.
        with (
            deadline.bind(),
            session.request(
                method, url, timeout=seconds, verify=ca, allow_redirects=False, stream=True, **kwargs
            ) as response,
        ):
            reply = HttpReply(response.status_code, _body(response), response.headers)
    except requests.RequestException:
        if deadline.left:
            raise
        # However the connection has put it, it was shut.
        raise requests.Timeout("an answer that takes too long") from None
    if deadline.cut:
        raise requests.Timeout("an answer that was cut off")
    return reply


def _body(response: requests.Response) -> str:
    body = b""
    for chunk in response.iter_content(16 * 1024):
        body += chunk
        if len(body) > MAX_ANSWER:
            raise Endless("an answer without end")
    return body.decode(errors="replace")


def is_fault(status: int) -> bool:
    """Say whether an HTTP status is a fault for now, whatever comes with it."""
    return status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT) or status >= _SERVER_ERROR


def retry_after(reply: HttpReply, now: Callable[[], float] = time.time) -> float:
    """Return the seconds that Retry-After asks for, as a number or a date; 0 for none that makes sense.

    With any other status, something between cms and the provider sent it.
    """
    if reply.status_code not in (_TOO_MANY_REQUESTS, _UNAVAILABLE):
        return 0.0
    value = reply.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now()), MAX_RETRY_AFTER)
    except (ValueError, OverflowError):
        return 0.0


class Discovery:
    """The openid-configuration of each authority, fetched once and shared by all threads."""

    def __init__(self, session: requests.Session, ca: str | None) -> None:
        self._session = session
        self._ca = ca
        self._lock = threading.Lock()
        self._known: dict[str, Future[HttpReply]] = {}

    def document(self, grant: Grant, deadline: Deadline) -> str | Transient | Refused:
        """Return the document of the grant's authority, or the outcome of what happened instead."""
        try:
            reply = self._reply(grant.authority, deadline)
        except OSError as error:
            return Transient(network_trouble(error, grant))
        except Endless:
            return Transient(garbage(grant))
        return reply.text if is_discovery(reply) else _no_discovery(reply, grant)

    def _reply(self, authority: str, deadline: Deadline) -> HttpReply:
        """Return the document, or whatever the server said instead. Raises what `fetch` raises."""
        with self._lock:
            future = self._known.get(authority)
            first = future is None
            if future is None:
                future = self._known[authority] = Future()
        if first:
            self._fetch(authority, future, deadline)
        try:
            return future.result(deadline.left)
        except TimeoutError:
            raise requests.Timeout("another thread's question takes too long") from None

    def _fetch(self, authority: str, future: Future[HttpReply], deadline: Deadline) -> None:
        """Settle the future; those who wait share a failure, those who come later try anew."""
        try:
            url = f"{authority}/v2.0/.well-known/openid-configuration"
            reply = fetch(self._session, "GET", url, self._ca, deadline)
        except BaseException as error:  # noqa: BLE001 - passed on to every thread that waits for it
            del self._known[authority]
            future.set_exception(error)
            return
        if not is_discovery(reply):
            del self._known[authority]
        future.set_result(reply)


def is_discovery(reply: HttpReply) -> bool:
    """Say whether a response is an openid-configuration and not, for instance, a captive portal."""
    document = _object(reply.text) if reply.status_code == _OK else {}
    needed = (document.get("authorization_endpoint"), document.get("token_endpoint"))
    return all(isinstance(url, str) and url.startswith("https://") for url in needed)


def _object(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _no_discovery(reply: HttpReply, grant: Grant) -> Transient | Refused:
    after = retry_after(reply)
    if is_fault(reply.status_code):
        return Transient(refusals.of_status(reply.status_code), after)
    answer = _object(reply.text)
    return refusals.explain(answer, grant) if "error" in answer else Transient(garbage(grant), after)


def network_trouble(error: OSError, grant: Grant) -> Trouble:
    """Say what became of a request. requests' exceptions are OSErrors; an invalid CA file raises a bare OSError."""
    host = urlsplit(grant.authority).netloc
    if isinstance(error, requests.Timeout):
        return Trouble("timeout", f"{host} did not answer in time", fill("{nothing_to_do}"))
    if isinstance(error, _NoPassword):
        return no_password(str(error))
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        # Not the authority's own: that was read with the configuration.
        return no_proxy(host)
    if isinstance(error, requests.exceptions.ProxyError):
        return refusal(str(error), host)
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, requests.RequestException):
        return no_tls(str(error), host) or Trouble(
            "network",
            f"no trusted TLS connection to {host}",
            fill("{retries}; behind a proxy that inspects TLS, name its certificate authority: Tls(ca=...)"),
        )
    return Trouble("network", f"{host} cannot be reached, or the connection broke", fill("{retries}"))


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
