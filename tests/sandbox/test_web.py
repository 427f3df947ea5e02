"""The small HTTP server under the sandbox."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from cms.sandbox import web
from cms.sandbox.web import Reply, Request, Server, as_html, as_json, redirect


def handler(request: Request) -> Reply:
    """Answer each path in its own way."""
    if request.path == "/reset":
        return Reply(reset=True)
    if request.path == "/bug":
        raise RuntimeError("a bug")
    if request.path == "/away":
        return redirect("/elsewhere")
    if request.path == "/page":
        return as_html("hello", 201)
    return as_json({"method": request.method, "fields": dict(request.fields), "body": request.body.decode()})


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(handler)
    server.start()
    yield server
    server.stop()


def ask(
    server: Server, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(web.HOST, server.port, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    told = answer.status, answer.read().decode()
    connection.close()
    return told


def test_query_and_form_are_fields(server: Server) -> None:
    """Fields come from the query and, over them, from a posted form; empty ones are kept."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    told = ask(server, "POST", "/x?a=1&b=2&c=", "b=3&d=%2B", form)

    body = '{"method": "POST", "fields": {"a": "1", "b": "3", "c": "", "d": "+"}, "body": "b=3&d=%2B"}'
    assert (200, body) == told


def test_other_bodies_are_bodies(server: Server) -> None:
    """A body of another kind is no form."""
    assert '{"method": "POST", "fields": {}, "body": "{}"}' == ask(server, "POST", "/x", "{}")[1]


def test_pages_and_redirects(server: Server) -> None:
    """A page has its status; a redirect has a place."""
    assert [(201, "hello"), (302, "")] == [ask(server, "GET", path) for path in ("/page", "/away")]


def test_connection_is_kept(server: Server) -> None:
    """Requests follow each other on one connection."""
    connection = http.client.HTTPConnection(web.HOST, server.port, timeout=10)
    statuses, sockets = [], set()
    for _ in range(3):
        connection.request("GET", "/page")
        sockets.add(connection.sock)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()

    assert ([201, 201, 201], 1) == (statuses, len(sockets))


def test_reset_is_a_reset(server: Server) -> None:
    """A reset ends the connection with RST."""
    with socket.create_connection((web.HOST, server.port), timeout=10) as sock:
        sock.sendall(b"GET /reset HTTP/1.1\r\n\r\n")

        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_bug_reaches_the_test() -> None:
    """What a handler raises is a 500 for the client and raised again by stop, once."""
    server = Server(handler)
    server.start()

    told = ask(server, "GET", "/bug")

    assert (500, "") == told
    with pytest.raises(RuntimeError, match="a bug"):
        server.stop()
    server.stop()


def test_stop_ends_open_connections() -> None:
    """stop does not wait for a client that says nothing, and the port can be taken again."""
    server = Server(handler)
    server.start()
    port = server.port
    with socket.create_connection((web.HOST, port), timeout=10) as idle:
        idle.sendall(b"GET /page HTTP/1.1\r\n\r\n")
        idle.recv(1)
        server.stop()

        assert idle.recv(65536)[-5:] == b"hello"
    server.start()
    assert (port, (201, "hello")) == (server.port, ask(server, "GET", "/page"))
    server.stop()


def test_stop_without_start() -> None:
    """Stopping what was never started does nothing."""
    server = Server(handler)

    server.stop()

    assert 0 == server.port


def test_handshake_that_fails_is_the_clients_affair() -> None:
    """A client that does not speak TLS is dropped, and stop has nothing to complain of."""
    server = Server(handler, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            answer = sock.recv(100)
        except ConnectionResetError:
            answer = b""
    server.stop()

    assert b"HTTP" not in answer


def test_connection_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that goes on after stop is an error, not a thread that nobody knows of."""
    monkeypatch.setattr(web, "STOP_SECONDS", 0.01)
    asked, release = threading.Event(), threading.Event()

    def slow(_request: Request) -> Reply:
        asked.set()
        release.wait(10)
        return Reply()

    server = Server(slow)
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        asked.wait(10)

        with pytest.raises(TimeoutError):
            server.stop()
        release.set()


def test_a_pause_keeps_the_port() -> None:
    """While it is paused connections are refused, nobody else can listen at its port, and `start` is there again."""
    server = Server(handler)
    server.start()
    before = server.port
    server.pause()

    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((web.HOST, before))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((web.HOST, before), timeout=10)
    server.start()
    told = ask(server, "GET", "/page")
    server.stop()

    assert (before, (201, "hello")) == (server.port, told)
