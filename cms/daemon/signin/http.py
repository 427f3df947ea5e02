"""A small HTTP/1.1 server on loopback addresses, for the browser of one user. Each connection has one request.

h11 reads the requests; this file listens, sets the limits, and knows where a redirect address wants its listener.
`signins.py` decides what a request means.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import field
from functools import partial
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import trio

from cms.daemon.signin.pages import POLICY
from cms.system.logs import get_logger
from cms.system.tcp_owner import End, holder_of
from cms_oauth.frozen import dataclass

# An authorization code of Entra's has 1-2 KB, and a browser sends a few KB of headers with it.
MAX_HEAD = 32 * 1024
# A form_post brings code, state and session_state.
MAX_BODY = 32 * 1024
MAX_FIELDS = 32
# A browser sends its request at once: a person decides before it, not during it.
REQUEST_SECONDS = 10.0
# How long an answer may take. The answer to a redirect waits until the provider has redeemed the code.
ANSWER_SECONDS = 60.0
# How long to read and throw away the rest of a request, so that a reset does not overtake the answer.
LINGER_SECONDS = 1.0
# A browser opens half a dozen connections to a host. More than this many do not come from a browser.
MAX_CONNECTIONS = 32
# Connections of other users get a refusal. They are counted apart, so that they cannot use up the limit above.
MAX_STRANGERS = 8

HTTP_PORT = 80

# The IP addresses to listen on for each host name.
_LOOPBACK = {"127.0.0.1": ("127.0.0.1",), "localhost": ("127.0.0.1", "::1"), "::1": ("::1",)}
# The errors of listening on a machine without IPv4, or without IPv6.
_NO_SUCH_KIND = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_CHUNK = 4096
# Headers that decide something: a second one is an attempt to be understood in two ways.
_SINGLE = frozenset({"host", "origin", "content-length", "content-type"})
# What h11 corrects silently: a line that ends in LF alone, a folded line, and the same length given twice. No browser
# sends these, and another program may read them in another way.
_AMBIGUOUS = re.compile(
    rb"(?<!\r)\n|\n[ \t]|\ncontent-length:(?:[^\n]*,|.*\ncontent-length:)", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One HTTP request. Header names are in lower case; query and body may hold an authorization code."""

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response: a page of HTML, or another text of this media type."""

    status: int
    page: str = ""
    kind: str = "text/html"


class BadHttp(ValueError):
    """This server does not take such a request. The text never quotes it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """cms cannot listen where a redirect address leads. Both texts are for a person."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Address:
    """Where a redirect address wants its listener. `port` is 0 for any; `host` is the name that browsers use."""

    host: str
    port: int
    path: str

    @property
    def binds(self) -> tuple[str, ...]:
        return _LOOPBACK[self.host]

    @property
    def url(self) -> str:
        """The address of the local page there."""
        return f"http://{self._name}:{self.port}/"

    @property
    def redirect_uri(self) -> str:
        return f"http://{self._name}:{self.port}{self.path}"

    @property
    def _name(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def address_of(redirect_uri: str) -> Address:
    """Return where to listen for a redirect address, or raise Unreachable where this machine cannot."""
    parts = urlsplit(redirect_uri)
    host = parts.hostname or ""
    if parts.scheme != "http" or host not in _LOOPBACK:
        raise Unreachable(
            f"the redirect address {redirect_uri} is not plain HTTP on this machine",
            "sign in with --paste: open the link anywhere and paste back the address that the browser ends at",
        )
    return Address(host, parts.port or 0, parts.path or "/")


Handler = Callable[[PageRequest, int], Awaitable[Response]]
UidOf = Callable[[End, End], int | None]


class Loopback:
    """HTTP on loopback ports, each open only while a block needs it.

    `handler` gets each request that a user of `allowed` sends, and the port. Other users, and those whose uid cannot be
    found, get `refusal`: what they sent is not looked at.
    """

    def __init__(self, handler: Handler, *, uid_of: UidOf, allowed: Collection[int], refusal: Response) -> None:
        self._handler = handler
        self._uid_of = uid_of
        self._allowed = allowed
        self._refusal = render(refusal)
        # By IP address and port: http://localhost:8080 and http://127.0.0.1:8080 share one on 127.0.0.1.
        self._ports: dict[tuple[str, int], _Port] = {}
        self._opening = trio.Lock()
        self._connections = 0
        self._strangers = 0
        self._left = trio.Event()
        self._log = get_logger()

    @asynccontextmanager
    async def open(self, address: Address, nursery: trio.Nursery) -> AsyncIterator[int]:
        """Listen while the block runs; yield the port number. Raises Unreachable. Blocks with the same port share it.

        Answers that are on their way when the last block ends still arrive: they run in `nursery`.
        """
        held: list[_Port] = []
        try:
            async with self._opening:
                await self._hold(address, held, nursery)
            yield held[0].number
        finally:
            for port in held:
                port.holders -= 1
                if not port.holders:
                    port.scope.cancel()

    def host(self, address: Address) -> str:
        """Return the IP address that is listened on for an open address: the first, if there are two."""
        return next(host for host in address.binds if (host, address.port) in self._ports)

    async def idle(self) -> None:
        """Wait until no connection of an allowed user is open."""
        while self._connections:
            await self._left.wait()

    async def _hold(self, address: Address, held: list[_Port], nursery: trio.Nursery) -> None:
        """Add the ports of an address to `held`, each with one holder more. A machine may have IPv4 or IPv6 only."""
        number = address.port
        for host in address.binds:
            try:
                port = await self._port(host, number, nursery)
            except OSError as error:
                if error.errno in _NO_SUCH_KIND:
                    continue
                raise _unreachable(number, error) from None
            port.holders += 1
            held.append(port)
            number = port.number
        if not held:
            kind = "IPv6" if address.host == "::1" else "IPv4"
            raise Unreachable(
                f"this machine has no {kind}, and the redirect address goes to {address.host}",
                "sign in with --device or --paste; an application of your own can have http://localhost as its redirect",
            )

    async def _port(self, host: str, number: int, nursery: trio.Nursery) -> _Port:
        port = self._ports.get((host, number))
        if port and port.holders:
            return port
        if port:
            await port.closed.wait()
        # Loaded only now: a daemon waits for a browser a few minutes a year, and h11 takes memory.
        import h11  # noqa: F401, PLC0415 - `read_request` uses it

        listeners = await trio.open_tcp_listeners(number, host=host)
        port = _Port(listeners[0].socket.getsockname()[1])
        self._ports[host, port.number] = port
        nursery.start_soon(self._listen, host, port, listeners, nursery)
        return port

    async def _listen(
        self, host: str, port: _Port, listeners: list[trio.SocketListener], nursery: trio.Nursery
    ) -> None:
        try:
            with port.scope:
                await trio.serve_listeners(partial(self.serve, port=port.number), listeners, handler_nursery=nursery)
        finally:
            for listener in listeners:
                listener.socket.close()
            del self._ports[host, port.number]
            port.closed.set()

    async def serve(self, stream: trio.SocketStream, port: int) -> None:
        """Serve one connection to a port. An error in it ends this connection only."""
        try:
            # Asked first, while the other end is certainly there.
            uid = self._uid_of(stream.socket.getpeername()[:2], stream.socket.getsockname()[:2])
            await (self._serve_one(stream, port) if uid in self._allowed else self._turn_away(stream))
        except (OSError, trio.BrokenResourceError):
            pass
        except Exception as error:  # noqa: BLE001 - a fault in one answer must not end the sign-in of others
            self._log.error("sign-in page failed", error=type(error).__name__)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, stream: trio.SocketStream, port: int) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                await self._exchange(stream, port)
        finally:
            self._connections -= 1
            self._left.set()
            self._left = trio.Event()

    async def _exchange(self, stream: trio.SocketStream, port: int) -> None:
        with trio.move_on_after(REQUEST_SECONDS) as scope:
            try:
                request = await read_request(stream)
                scope.deadline = trio.current_time() + ANSWER_SECONDS
                response = await self._handler(request, port)
            except BadHttp as bad:
                response = Response(bad.status)
            await stream.send_all(render(response))
            await stream.send_eof()
        await _linger(stream)

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        """Answer another user with the refusal, after a second of silence at the latest."""
        self._strangers += 1
        try:
            if self._strangers <= MAX_STRANGERS:
                # A browser that gets an answer before it has asked takes it for a broken connection, and asks again.
                with trio.move_on_after(LINGER_SECONDS):
                    await stream.receive_some(MAX_HEAD)
                with trio.move_on_after(LINGER_SECONDS):
                    await stream.send_all(self._refusal)
                    await stream.send_eof()
                await _linger(stream)
        finally:
            self._strangers -= 1


async def _linger(stream: trio.SocketStream) -> None:
    with trio.move_on_after(LINGER_SECONDS):
        while await stream.receive_some(MAX_HEAD):
            pass


class _Port:
    """One port that is listened on at one IP address, and how many blocks hold it open."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.holders = 0
        self.scope = trio.CancelScope()
        self.closed = trio.Event()


def _unreachable(port: int, error: OSError) -> Unreachable:
    ways = "or sign in with --device or --paste"
    if error.errno == errno.EADDRINUSE:
        return Unreachable(f"port {port} is in use{holder_of(port)}", f"stop that program and try again, {ways}")
    if error.errno == errno.EACCES:
        return Unreachable(f"uid {os.getuid()} may not listen on port {port}", f"try as root, {ways}")
    return Unreachable(f"cms cannot listen on port {port}: {error.strerror or error}", f"fix that, {ways}")


async def read_request(stream: trio.abc.ReceiveStream) -> PageRequest:
    """Return one whole request, or raise BadHttp for anything longer or stranger than a browser's."""
    import h11  # noqa: PLC0415 - `Loopback` loaded it when it opened the port

    connection, received = h11.Connection(h11.SERVER, MAX_HEAD), b""
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            if len(received) == MAX_HEAD:
                raise BadHttp("the head is too long", 413)
            chunk = bytes(await stream.receive_some(min(_CHUNK, MAX_HEAD - len(received))))
            received += chunk
            connection.receive_data(chunk)
        if not isinstance(event, h11.Request):
            raise BadHttp("the connection ends without a request")
        # h11 takes HTTP/9.9, and the targets that proxies get.
        if event.http_version[:2] != b"1." or event.target[:1] != b"/":
            raise BadHttp("not an HTTP/1 request for a path")
        headers = _headers(received[: len(received) - len(connection.trailing_data[0])], event.headers)
        body, method, target = b"", event.method.decode("ascii"), event.target.decode("ascii")
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                body += event.data
            else:
                connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
    except h11.RemoteProtocolError:
        # The text of h11's error quotes the request, which may hold an authorization code.
        raise BadHttp("not an HTTP/1 request") from None
    path, _, query = target.partition("?")
    return PageRequest(method, path, query, headers, body)


def _headers(head: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that h11 has read in a head; raise BadHttp if the head has two meanings, or a long body."""
    if _AMBIGUOUS.search(head):
        raise BadHttp("a header with two meanings")
    headers: dict[str, str] = {}
    for raw_name, value in pairs:
        name = raw_name.decode("ascii")
        if name in headers and name in _SINGLE:
            raise BadHttp("a header is there twice")
        headers[name] = value.decode("latin-1")
    if "transfer-encoding" in headers:
        raise BadHttp("a chunked body")
    if int(headers.get("content-length", "0")) > MAX_BODY:
        raise BadHttp("the body is too long", 413)
    return headers


def parse_fields(text: str) -> dict[str, str]:
    """Return query or form fields. Raises BadHttp if there are too many, or one is there twice."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise BadHttp("malformed fields") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadHttp("a field is there twice")
    return fields


def names_loopback(host: str, port: int) -> bool:
    """Whether a Host header names loopback and this port. Any other name may be one that an attacker's DNS points here."""
    # Browsers leave out the port that is HTTP's own.
    ends = (f":{port}", "") if port == HTTP_PORT else (f":{port}",)
    return host.lower() in {name + end for name in ("127.0.0.1", "localhost", "[::1]") for end in ends}


def render(response: Response) -> bytes:
    """Return the bytes of a response. Browsers may not store it, frame it, or name its address to another site.

    With `no-referrer` a browser would send `Origin: null` with our own forms (Fetch, "append a request Origin header").
    """
    page = response.page.encode()
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"Content-Type: {response.kind}; charset=utf-8",
        f"Content-Length: {len(page)}",
        "Cache-Control: no-store",
        f"Content-Security-Policy: {POLICY}",
        "Referrer-Policy: same-origin",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + page
