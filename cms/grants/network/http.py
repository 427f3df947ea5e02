"""HTTP to a provider. Plain synchronous code.

An exchange has one deadline (`cms.grants.network.deadline`) and a bound on size, no cookies, no redirects, no netrc, and nothing is
tried twice. Its client remembers what MSAL does not tell: status, Retry-After, and whether something was sent whose end is
not known. Discovery is here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import field
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.network.deadline import Deadline
from cms.grants.network.session import HttpSession, NotSent
from cms.grants.network.trouble import garbage, network_trouble
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object

# A token answer has some 10 KB, a discovery document less.
MAX_ANSWER = 1024 * 1024

# MSAL's own bound. A longer Retry-After is a mistake, and a day without mail would be its price.
MAX_RETRY_AFTER = 60 * 60.0

_TOO_MANY_REQUESTS = 429
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500
_UNAVAILABLE = 503
OK = 200
# Microsoft ("How to use managed identities on an Azure VM", error handling): tried again, as any 5xx is.
_NOT_READY = (404, 410)

# How a request ends that gets no answer. It is an OSError.
NoAnswer = requests.RequestException


class Endless(ValueError):
    """A response that is longer than any of a provider's."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What MSAL reads of an HTTP response."""

    status_code: int
    text: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Http:
    """The HTTP client of one exchange. It remembers what MSAL does not tell."""

    def __init__(self, session: HttpSession, discovered: str, origin: str | None, deadline: Deadline) -> None:
        self.deadline = deadline
        self.status = 0
        self.retry_after = 0.0
        # When the last request was sent, on the boot clock.
        self.asked = 0.0
        # Something was sent, and how it ended is not known.
        self.unsure = False
        # Gets the form that was sent and its answer, and returns the answer for MSAL.
        self.judge: Callable[[Mapping[str, str], HttpReply], HttpReply] = lambda _form, reply: reply
        self._session = session
        self._discovered = discovered
        self._origin = {"Origin": origin} if origin else {}

    def get(self, _url: str, **_kwargs: object) -> HttpReply:
        """Answer MSAL's only GET, which is for discovery."""
        return HttpReply(OK, self._discovered)

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
        self.asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            reply = fetch(self._session, method, url, self.deadline, **kwargs)
        except NotSent:
            self.unsure = False
            raise
        except requests.RequestException:
            self.unsure = self.deadline.reached
            raise
        self.status = reply.status_code
        self.retry_after = retry_after(reply)
        return reply

    def close(self) -> None:
        """Leave the session alone: it is shared."""

    def trouble(self, error: OSError, grant: Grant) -> Trouble:
        """Say what became of a request that got no answer."""
        return network_trouble(error, grant, self._session)


class Metadata(Http):
    """The HTTP client of one question to the machine's own metadata service, which everything is read from."""

    def __init__(self) -> None:
        # It is on this machine, or next to it: no proxy leads there, and none may see what it answers.
        super().__init__(HttpSession(), "", None, Deadline())

    def get(self, _url: str, **_kwargs: Any) -> HttpReply:
        """Ask. The service answers 404 and 410 while it starts or is updated."""
        with self._session:
            reply = self._send("GET", _url, **_kwargs)
        if self.status in _NOT_READY:
            self.status = _UNAVAILABLE
        return self.judge({}, reply)


def fetch(session: HttpSession, method: str, url: str, deadline: Deadline, **kwargs: Any) -> HttpReply:
    """Return one whole response. Raises requests' exceptions, and Endless."""
    seconds = deadline.left
    if not seconds:
        deadline.reached = False
        raise requests.Timeout("no time left to ask")
    try:
        with (
            deadline.bind(),
            session.send(method, url, seconds, **kwargs) as response,
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
    until = _moment(value)
    return 0.0 if until is None else min(max(0.0, until - now()), MAX_RETRY_AFTER)


def sent_at(reply: HttpReply) -> float | None:
    """Return when a response was sent, as Unix time by the server's clock, None if it does not say."""
    return _moment(reply.headers.get("Date", ""))


def _moment(date: str) -> float | None:
    """Return a date of HTTP as Unix time, None if it is none."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


class Discovery:
    """The discovery document of each authority, fetched once and shared by all threads.

    `places` returns the addresses at which an authority's may be. They are tried in order, until one has it or fails.
    """

    def __init__(self, session: HttpSession, places: Callable[[str], Sequence[str]]) -> None:
        self._session = session
        self._places = places
        self._lock = threading.Lock()
        self._known: dict[str, Future[HttpReply]] = {}

    def document(self, grant: Grant, deadline: Deadline) -> str | Transient | Refused:
        """Return the document of the grant's authority, or the outcome of what happened instead."""
        try:
            reply = self._reply(grant.authority, deadline)
        except OSError as error:
            return Transient(network_trouble(error, grant, self._session))
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
            for url in self._places(authority):
                reply = fetch(self._session, "GET", url, deadline)
                if is_discovery(reply) or is_fault(reply.status_code):
                    break
        except BaseException as error:  # noqa: BLE001 - passed on to every thread that waits for it
            del self._known[authority]
            future.set_exception(error)
            return
        if not is_discovery(reply):
            del self._known[authority]
        future.set_result(reply)


def is_discovery(reply: HttpReply) -> bool:
    """Say whether a response is a discovery document and not, for instance, a captive portal."""
    document = object_in(reply) if reply.status_code == OK else {}
    needed = (document.get("authorization_endpoint"), document.get("token_endpoint"))
    return all(isinstance(url, str) and url.startswith("https://") for url in needed)


def object_in(reply: HttpReply) -> dict[str, Any]:
    """Return the JSON object in a reply, an empty one if it has none."""
    try:
        return read_object(reply.text)
    except ValueError:
        return {}


def _no_discovery(reply: HttpReply, grant: Grant) -> Transient | Refused:
    after = retry_after(reply)
    if is_fault(reply.status_code):
        return Transient(refusals.of_status(reply.status_code), after)
    answer = object_in(reply)
    return refusals.explain(answer, grant) if "error" in answer else Transient(garbage(grant), after)
