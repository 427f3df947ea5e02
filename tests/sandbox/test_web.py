"""The small HTTP server under the sandbox: what it does at its end, and where its handler or its client fails.

Every test that signs in at the sandbox proves what it does otherwise.
"""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.request
from typing import Any

import pytest
from support.waiting import PATIENCE

from cms.sandbox import web
from cms.sandbox.web import Server, WebReply, WebRequest, as_html


def handler(request: WebRequest) -> WebReply:
    """Greet, or fail."""
    if request.path == "/bug":
        raise RuntimeError("a bug")
    return as_html("hello", 201)


def greeted(server: Server) -> bool:
    """Whether the server answers."""
    with urllib.request.urlopen(f"http://{web.HOST_NAME}:{server.port}/", timeout=PATIENCE) as answer:
        return bool(answer.read() == b"hello")


def test_a_bug_reaches_the_test() -> None:
    """What a handler raises is a 500 for the client and raised again by stop, once."""
    server = Server(handler)
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /bug HTTP/1.1\r\n\r\n")
        answer = client.recv(100)

    assert answer.startswith(b"HTTP/1.1 500 ")
    with pytest.raises(RuntimeError, match="a bug"):
        server.stop()
    server.stop()


def test_a_length_below_nothing() -> None:
    """It is no permission to send without end: the request is answered at once."""
    server = Server(handler)
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=PATIENCE) as client:
        client.sendall(b"POST /page HTTP/1.1\r\nContent-Length: -1\r\n\r\n")

        assert client.recv(100).startswith(b"HTTP/1.1 201 ")
    server.stop()


def test_stop_ends_open_connections() -> None:
    """stop does not wait for a client that says nothing, and the port can be taken again."""
    server = Server(handler)
    server.start()
    port = server.port
    with socket.create_connection((web.HOST, port), timeout=PATIENCE) as idle:
        idle.sendall(b"GET /page HTTP/1.1\r\n\r\n")
        idle.recv(1)
        server.stop()

        assert idle.recv(65536)[-5:] == b"hello"
    server.start()
    assert (port, True) == (server.port, greeted(server))
    server.stop()


def test_stop_ends_a_connection_whose_thread_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was accepted before, and nothing is served on it after."""
    accepted, stopped = threading.Event(), threading.Event()
    finish = web._Tcp.finish_request

    def late(*args: Any) -> None:
        accepted.set()
        assert stopped.wait(PATIENCE)
        finish(*args)

    monkeypatch.setattr(web._Tcp, "finish_request", late)
    server = Server(handler)
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=PATIENCE) as client:
        assert accepted.wait(PATIENCE)
        server.stop()
        stopped.set()

        assert client.recv(100) == b""


def test_a_handshake_that_fails_is_the_clients_affair() -> None:
    """A client that does not speak TLS is dropped, and stop has nothing to complain of."""
    server = Server(handler, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            answer = client.recv(100)
        except ConnectionResetError:
            answer = b""
    server.stop()

    assert b"HTTP" not in answer


def test_a_connection_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that goes on after stop is an error, not a forgotten thread."""
    monkeypatch.setattr(web, "STOP_SECONDS", 0.01)
    asked, release = threading.Event(), threading.Event()

    def slow(_request: WebRequest) -> WebReply:
        asked.set()
        release.wait(PATIENCE)
        return WebReply()

    server = Server(slow)
    server.start()
    with socket.create_connection((web.HOST, server.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert asked.wait(PATIENCE)

        with pytest.raises(TimeoutError):
            server.stop()
        release.set()


def test_a_pause_keeps_the_port() -> None:
    """While it is paused it refuses connections and keeps its port, where it listens again after `start`."""
    server = Server(handler)
    server.start()
    before = server.port
    server.pause()

    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((web.HOST, before))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((web.HOST, before), timeout=PATIENCE)
    server.start()
    answered = greeted(server)
    server.stop()

    assert (before, True) == (server.port, answered)
