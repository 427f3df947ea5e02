"""An HTTP proxy on loopback, such as companies have: it makes tunnels, and may ask who wants one or look into them."""

from __future__ import annotations

import http.client
import select
import socket
import socketserver
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme

# What companies' proxies say, in HTML, when they refuse a client.
_PAGE = b"<html><body>Access denied by your organisation</body></html>"

_PIECE = 65536


class Proxy:
    """What it does, which may be changed while it runs, and what it was asked for.

    `user` and `password` are demanded where they are not empty. `status` refuses every tunnel with an HTML page;
    `babble` promises one, and sends that page instead of TLS. With `inspector`, an authority of the company's, it
    opens what goes through; it trusts the file `upstream_ca` itself, and loses the answers to as many forms as `losing`
    says. `places` has other ends for tunnels. With `tls` it is spoken to over TLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.user = ""
        self.password = ""
        self.status = 0
        self.babble = False
        self.inspector: trustme.CA | None = None
        self.upstream_ca = ""
        self.losing = 0
        self.places: dict[str, str] = {}
        # The host:port of each tunnel that was made, and the requests that were seen in opened ones.
        self.tunnels: list[str] = []
        self.seen: list[str] = []
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen on a port of the system's choice."""
        self._server = _Server(("127.0.0.1", 0), self)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and end those that there are."""
        assert self._server
        self._server.shutdown()
        self._server.server_close()
        for each in list(self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def keep(self, connection: socket.socket) -> None:
        self._connections.add(connection)

    def drop(self, connection: socket.socket) -> None:
        self._connections.discard(connection)

    def admits(self, authorization: str) -> bool:
        """Whether a Proxy-Authorization header has a password that is accepted."""
        expected = b64encode(f"{self.user}:{self.password}".encode()).decode()
        return not self.user or authorization == f"Basic {expected}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], proxy: Proxy) -> None:
        super().__init__(address, _Handler)
        self.proxy = proxy

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        tls = self.proxy.tls
        # The handshake is the handler's, in its own thread.
        return (
            tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) if tls else connection
        ), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections break off in these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    target = ""

    def setup(self) -> None:
        super().setup()
        self.server.proxy.keep(self.connection)

    def finish(self) -> None:
        self.server.proxy.drop(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Keep quiet."""

    def do_CONNECT(self) -> None:
        proxy = self.server.proxy
        self.close_connection = True
        if not proxy.admits(self.headers.get("Proxy-Authorization", "")):
            return self._refuse(407)
        if proxy.status:
            return self._refuse(proxy.status)
        proxy.tunnels.append(self.path)
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if proxy.babble:
            # The greeting first: unread data would make the kernel discard the answer with the connection.
            self.connection.recv(_PIECE)
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + _PAGE)
            return None
        self.target = proxy.places.get(self.path, self.path)
        return self._inspect(proxy.inspector) if proxy.inspector else self._relay()

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 407:
            self.send_header("Proxy-Authenticate", 'Basic realm="company"')
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def _relay(self) -> None:
        host, _, port = self.target.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            _relay(self.connection, upstream)

    def _inspect(self, authority: trustme.CA) -> None:
        """Answer as the target, with a certificate of the company's, and go on with the requests inside."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(self.target.rpartition(":")[0]).configure_cert(context)
        with context.wrap_socket(self.connection, server_side=True) as opened:
            self.rfile, self.wfile = opened.makefile("rb"), opened.makefile("wb")
            self.close_connection = False
            while not self.close_connection:
                self.handle_one_request()

    def do_GET(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        proxy = self.server.proxy
        proxy.seen.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        context = ssl.create_default_context(cafile=proxy.upstream_ca)
        upstream = http.client.HTTPSConnection(self.target, context=context)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if proxy.losing and self.command == "POST":
            proxy.losing -= 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name in ("Content-Type", "Location", "Retry-After"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways, in one thread: two may not use one TLS connection. The first end ends both."""
    with suppress(OSError):
        while True:
            held = [each for each in (one, other) if isinstance(each, ssl.SSLSocket) and each.pending()]
            for source in held or select.select([one, other], [], [])[0]:
                piece = source.recv(_PIECE)
                if not piece:
                    return
                (other if source is one else one).sendall(piece)


class Socks:
    """A SOCKS 5 proxy on loopback, which resolves names. `asked` has what it was asked for."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.asked: list[str] = []
        self._login = (
            bytes([1, len(user)]) + user.encode() + bytes([len(password)]) + password.encode() if user else b""
        )
        self._server = _SocksServer(("127.0.0.1", 0), _SocksHandler)
        self._server.socks = self
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def converse(self, sock: socket.socket) -> None:
        _, methods = sock.recv(2)
        offered = sock.recv(methods)
        wanted = 2 if self._login else 0
        sock.sendall(bytes([5, wanted if wanted in offered else 255]))
        if self._login:
            right = sock.recv(len(self._login), socket.MSG_WAITALL) == self._login
            sock.sendall(bytes([1, 0 if right else 1]))
            if not right:
                return
        _, _, _, kind = sock.recv(4)
        host = sock.recv(sock.recv(1)[0]).decode() if kind == 3 else socket.inet_ntoa(sock.recv(4))
        port = int.from_bytes(sock.recv(2), "big")
        self.asked.append(f"{host}:{port}")
        with socket.create_connection((host, port)) as upstream:
            sock.sendall(b"\5\0\0\1" + bytes(6))
            _relay(sock, upstream)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _SocksServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    socks: Socks


class _SocksHandler(socketserver.BaseRequestHandler):
    server: _SocksServer

    def handle(self) -> None:
        with suppress(OSError, ValueError, IndexError):
            self.server.socks.converse(self.request)


@contextmanager
def socks(user: str = "", password: str = "") -> Iterator[Socks]:
    """Run a SOCKS proxy for a block."""
    running = Socks(user, password)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def proxies(tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run one for a block."""
    proxy = Proxy(tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
