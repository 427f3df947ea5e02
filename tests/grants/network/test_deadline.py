"""One deadline for a whole exchange, against servers that keep a client waiting in every way there is."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from cms.grants.network import deadline
from cms.grants.network.deadline import EXCHANGE_SECONDS, Deadline, may_send, within
from cms.grants.network.http import HttpReply, fetch
from cms.grants.network.proxy import Routes
from cms.grants.network.session import HttpSession
from cms_oauth.tls import SYSTEMS, Authorities

# Long enough for a handshake on a slow machine, short enough to wait for.
SHORT = 0.5
# What nothing that keeps to a short deadline comes near.
LONG = 60.0

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Script = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection. `waits` is called when it begins to keep the client waiting."""

    def __init__(
        self, raw: socket.socket, context: ssl.SSLContext, stopped: threading.Event, waits: Callable[[], None]
    ) -> None:
        self.raw = raw
        self.sock = raw
        self._context = context
        self._stopped = stopped
        self._waits = waits

    def start_tls(self) -> None:
        self.sock = self._context.wrap_socket(self.raw, server_side=True)

    def read_request(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError
            data += more

    def drip(self, first: bytes = b"") -> None:
        """Send a byte at a time, none of which is the last one."""
        self._waits()
        self.sock.sendall(first)
        while not self._stopped.wait(SHORT / 10):
            self.sock.sendall(b"1")

    def hold(self) -> None:
        self._waits()
        self._stopped.wait(LONG)


class Server:
    """A TLS server that does what its script says with each connection."""

    def __init__(self, folder: Path, script: Script) -> None:
        authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._script = script
        self.waits: Callable[[], None] = lambda: None
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                thread = threading.Thread(target=self._converse, args=(raw,))
                self._threads.append(thread)
                thread.start()

    def _converse(self, raw: socket.socket) -> None:
        peer = Peer(raw, self._context, self._stopped, self.waits)
        with suppress(OSError):
            self._script(peer)
        peer.sock.close()

    def stop(self) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONG)
        self._listener.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Script], Server]]:
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(tmp_path, script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def session() -> Iterator[HttpSession]:
    with HttpSession(Routes(None, os.environ)) as opened:
        yield opened


def asked(session: HttpSession, method: str, url: str, ca: str | None, limit: Deadline) -> HttpReply:
    session.trust = lambda: Authorities(ca, "the test") if ca else SYSTEMS
    return fetch(session, method, url, limit)


def due_in(monkeypatch: pytest.MonkeyPatch, seconds: float = SHORT) -> Deadline:
    """Return a deadline in so many seconds."""
    with monkeypatch.context() as patched:
        patched.setattr(deadline, "EXCHANGE_SECONDS", seconds)
        return Deadline()


def hasten(limit: Deadline) -> None:
    """Let the time of an exchange under way be over soon."""
    limit.moment = time.monotonic() + SHORT
    deadline._TIMER.remove(limit)
    deadline._TIMER.add(limit)


def silent_before_tls(peer: Peer) -> None:
    peer.hold()


def silent(peer: Peer) -> None:
    peer.start_tls()
    peer.read_request()
    peer.hold()


def dripping_head(peer: Peer) -> None:
    peer.start_tls()
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX-Header: ")


def dripping_body(peer: Peer) -> None:
    peer.start_tls()
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def kept(peer: Peer) -> None:
    """Answer a first request well, and drip at the second one on the same connection."""
    peer.start_tls()
    peer.read_request()
    peer.sock.sendall(ANSWER)
    peer.read_request()
    peer.drip(b"HTTP/1.1 200 OK\r\nX-Header: ")


@pytest.mark.parametrize(
    ("script", "reached"),
    [(silent_before_tls, False), (silent, True), (dripping_head, True), (dripping_body, True)],
)
def test_an_answer_that_does_not_come_ends_in_time(
    serve: Callable[[Script], Server],
    session: HttpSession,
    script: Script,
    reached: bool,
) -> None:
    """Silent or dripping, before or after the headers: the deadline is one, and it is known whether anything was sent."""
    server = serve(script)
    limit = Deadline()
    server.waits = partial(hasten, limit)
    began = time.monotonic()
    with pytest.raises(requests.Timeout):
        asked(session, "POST", server.url, server.ca, limit)

    assert SHORT <= time.monotonic() - began < LONG / 2
    assert reached == limit.reached


def test_a_kept_connection_has_the_new_deadline(
    serve: Callable[[Script], Server], session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second exchange on the connection of the first is bounded like that, and the first one's end does not end it."""
    server = serve(kept)
    assert "{}" == asked(session, "GET", server.url, server.ca, Deadline()).text
    limit = due_in(monkeypatch)
    with pytest.raises(requests.Timeout):
        asked(session, "POST", server.url, server.ca, limit)

    assert limit.reached


def test_a_connection_outlives_the_deadline_that_made_it(
    serve: Callable[[Script], Server], session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered in time is over for its deadline: the connection is kept for others."""
    connections = itertools.count()
    numbers: list[int] = []

    def patient(peer: Peer) -> None:
        number = next(connections)
        peer.start_tls()
        while True:
            peer.read_request()
            numbers.append(number)
            peer.sock.sendall(ANSWER)

    server = serve(patient)
    limit = due_in(monkeypatch)
    asked(session, "GET", server.url, server.ca, limit)
    # As the timer would, had it not been told of the end.
    limit.shut()
    asked(session, "GET", server.url, server.ca, Deadline())
    session.close()

    assert [0, 0] == numbers


def test_a_deadline_that_is_over_asks_nothing(session: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request reaches the network."""
    limit = due_in(monkeypatch, 0.0)
    with pytest.raises(requests.Timeout):
        asked(session, "POST", "https://localhost:1/", None, limit)

    assert not limit.reached


def test_what_another_host_may_redeem_by_then_is_not_sent(
    serve: Callable[[Script], Server], session: HttpSession
) -> None:
    """With less time than an exchange may take, nothing reaches the provider, not over a kept connection either."""
    server = serve(kept)
    asked(session, "GET", server.url, server.ca, Deadline())
    limit, now = Deadline(), time.clock_gettime(time.CLOCK_BOOTTIME)
    with within(now + EXCHANGE_SECONDS - 1.0), pytest.raises(requests.Timeout):
        asked(session, "POST", server.url, server.ca, limit)

    assert not limit.reached
    with within(now + EXCHANGE_SECONDS + LONG):
        assert may_send()


def test_a_connection_made_too_late_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is made after the deadline is closed, and nothing is sent over it."""
    ours, theirs = socket.socketpair()
    limit = due_in(monkeypatch, 0.0)
    limit.guard(ours)
    with pytest.raises(BrokenPipeError):
        ours.sendall(b"x")
    limit._watch(None)
    ours.close()
    theirs.close()


def test_tls_that_breaks_after_the_question(serve: Callable[[Script], Server], session: HttpSession) -> None:
    """An error of TLS does not mean that nothing was sent."""

    def broken(peer: Peer) -> None:
        peer.start_tls()
        peer.read_request()
        # Past TLS, on a separate descriptor.
        with socket.socket(fileno=os.dup(peer.sock.fileno())) as raw:
            raw.sendall(b"no record of TLS at all\r\n" * 4)

    server = serve(broken)
    limit = Deadline()
    with pytest.raises(requests.exceptions.SSLError):
        asked(session, "POST", server.url, server.ca, limit)

    assert limit.reached


def test_tls_that_is_not_trusted(serve: Callable[[Script], Server], session: HttpSession, tmp_path: Path) -> None:
    """Another server's certificate ends the request before anything is sent."""
    server = serve(silent)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    limit = Deadline()
    with pytest.raises(requests.exceptions.SSLError):
        asked(session, "POST", server.url, str(tmp_path / "other.pem"), limit)

    assert not limit.reached


@contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that answers no attempt to connect: its queue is full."""
    with socket.socket() as listener, ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def resolves_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name mean these ports of 127.0.0.1, one after the other."""
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: addresses)


def test_dead_addresses_leave_time_for_a_live_one(
    serve: Callable[[Script], Server], session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address gets its share, so that a network where half of them are dead is only a slow one."""

    def answer(peer: Peer) -> None:
        peer.start_tls()
        peer.read_request()
        peer.sock.sendall(ANSWER)

    server = serve(answer)
    with black_hole() as hole:
        resolves_to(monkeypatch, hole, hole, server.port)
        # A third of it is the live one's, for a handshake on a machine that stops for a moment.
        reply = asked(session, "GET", server.url, server.ca, due_in(monkeypatch, 10 * SHORT))

    assert "{}" == reply.text


def test_a_black_hole_ends_in_time(session: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses a name has, nothing but the one deadline counts."""
    began = time.monotonic()
    with black_hole() as hole:
        resolves_to(monkeypatch, *[hole] * 9)
        limit = due_in(monkeypatch)
        with pytest.raises(requests.Timeout):
            asked(session, "POST", "https://localhost/", None, limit)

    assert time.monotonic() - began < LONG / 2
    assert not limit.reached


def test_a_name_server_that_does_not_answer(session: HttpSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a name cannot be ended; waiting for it can."""
    released = threading.Event()

    def ask(*_args: object, **_kwargs: object) -> list[Any]:
        released.wait(LONG)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    limit = due_in(monkeypatch)
    with pytest.raises(requests.Timeout):
        asked(session, "POST", "https://localhost/", None, limit)
    released.set()

    assert not limit.reached


@pytest.mark.parametrize("found", [socket.gaierror(-2, "unknown"), []], ids=["unknown", "no address"])
def test_a_name_that_means_nothing(session: HttpSession, monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    """An unknown name, and one without addresses, are connections that were not made."""

    def ask(*_args: object, **_kwargs: object) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    limit = Deadline()
    with pytest.raises(requests.ConnectionError):
        asked(session, "POST", "https://localhost/", None, limit)

    assert not limit.reached


def test_a_proxy_has_the_same_deadline(serve: Callable[[Script], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that takes the connection and does not make ours is given up on; nothing has reached the server."""
    server = serve(silent_before_tls)
    routes = Routes(None, {"HTTPS_PROXY": f"http://127.0.0.1:{server.port}"})
    limit = due_in(monkeypatch)
    with HttpSession(routes) as session, pytest.raises(requests.Timeout):
        asked(session, "POST", "https://login.test/", None, limit)

    assert not limit.reached
