"""A small threaded HTTP and HTTPS server on loopback, which can also simulate network faults.

A handler takes a `WebRequest` and returns a `WebReply`. One thread serves one connection, keep-alive included. Nothing is
logged. An exception that is a bug in the handler is answered with 500 and raised again by `stop`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit


def _loopback() -> str:
    """Return 127.0.0.1, or ::1 on a machine without IPv4."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return "::1"
    return "127.0.0.1"


HOST = _loopback()
# As it is written in a URL.
HOST_NAME = f"[{HOST}]" if ":" in HOST else HOST

NOT_FOUND = 404

# A connection that is silent for this long is closed. Tests wait for no keep-alive as long.
IDLE_SECONDS = 120.0

# The longest request body. Graph takes messages of 4 MB, and refuses longer ones itself.
MAX_BODY = 16 * 1024 * 1024

# How long `stop` waits for the threads of the connections that it has closed.
STOP_SECONDS = 60.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


@dataclass(frozen=True, slots=True)
class WebRequest:
    """One request. `fields` are those of the query and the form (which wins); `body` is what was posted."""

    method: str
    path: str
    fields: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class WebReply:
    """One answer. `reset` sends a TCP reset instead of an answer."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    reset: bool = False


Handler = Callable[[WebRequest], WebReply]


def as_json(body: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> WebReply:
    """Return a JSON answer."""
    return WebReply(status, json.dumps(body).encode(), headers=headers)


def as_html(text: str, status: int = 200) -> WebReply:
    """Return a page."""
    return WebReply(status, text.encode(), "text/html; charset=utf-8")


def redirect(url: str) -> WebReply:
    """Return a redirect."""
    return WebReply(302, headers=(("Location", url),))


class Server:
    """Serve a handler on `HOST` from `start` to `stop`; a second `start` takes the same port again.

    `now` is Unix time by the server's clock, for the header Date.
    """

    def __init__(
        self, handler: Handler, context: ssl.SSLContext | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.port = 0
        self._handler = handler
        self._now = now
        # For connections that are accepted later.
        self.context = context
        self._tcp: _Tcp | None = None
        self._thread: threading.Thread | None = None
        # Bound but not listening: keeps the port during a pause.
        self._kept: socket.socket | None = None

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        self._tcp = _Tcp((HOST, self.port), self._handler, self.context)
        self._tcp.now = self._now
        self._release()
        self.port = self._tcp.server_address[1]
        # stop() waits for up to a poll interval; the default of half a second adds up over many tests.
        self._thread = threading.Thread(target=self._tcp.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Refuse connections until `start`, and keep the port meanwhile."""
        self.stop()
        self._kept = socket.socket(_Tcp.address_family)
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind((HOST, self.port))

    def wait_until_left(self, at_most: int, seconds: float) -> bool:
        """Wait until no more connections than this are open; False when there were more at the end."""
        assert self._tcp is not None, "it has been started"
        return self._tcp.wait_until_left(at_most, seconds)

    def _release(self) -> None:
        if self._kept:
            self._kept.close()
            self._kept = None

    def stop(self) -> None:
        """Close the listener and every connection; raise what a handler raised. Does nothing when not started."""
        self._release()
        if self._tcp is None or self._thread is None:
            return
        tcp, self._tcp = self._tcp, None
        tcp.shutdown()
        self._thread.join()
        tcp.server_close()
        tcp.hang_up()
        if tcp.bug is not None:
            raise tcp.bug


class _Tcp(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Handler, context: ssl.SSLContext | None) -> None:
        super().__init__(address, _WebConnection)
        self.handler = handler
        self.now = time.time
        self.bug: Exception | None = None
        self._context = context
        self._open: set[socket.socket] = set()
        self._hung_up = False
        self._changed = threading.Condition()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its thread, from the TLS handshake on, which a silent client can delay."""
        request.settimeout(IDLE_SECONDS)
        # The table has a duplicate: wrapping the socket in TLS detaches the original.
        with request.dup() as mine:
            with self._changed:
                if self._hung_up:  # its thread comes late: it was accepted just before
                    return
                self._open.add(mine)
            try:
                self._serve(request, client_address)
            finally:
                with self._changed:
                    self._open.discard(mine)
                    self._changed.notify_all()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        if self._context is None:
            _WebConnection(request, client_address, self)
            return
        with self._context.wrap_socket(request, server_side=True) as wrapped:
            _WebConnection(wrapped, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """Close only: the base class sends FIN first, and a reset could not follow it."""
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors that a client caused by going away; the base class would print them."""

    def wait_until_left(self, at_most: int, seconds: float) -> bool:
        """Wait until no more connections than this are open; False when there were more at the end."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._open) <= at_most, seconds)

    def hang_up(self) -> None:
        """Shut down every open connection and wait for the threads that served them."""
        with self._changed:
            self._hung_up = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            if not self.wait_until_left(0, STOP_SECONDS):
                raise TimeoutError("a connection of the sandbox did not end")


class _WebConnection(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = "sandbox"
    sys_version = ""
    # Send an answer in one packet: two would wait 40 ms for a delayed acknowledgement in every request.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Tcp

    def _answer(self) -> None:
        request = self._request()
        try:
            reply = self.server.handler(request)
        except Exception as bug:  # noqa: BLE001 - a bug of the sandbox must fail the test, not one thread of it
            self.server.bug = bug
            reply = WebReply(500)
        self._send(reply)

    do_GET = do_POST = _answer  # noqa: N815 - the names that http.server looks up

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name for it
        """Log nothing: request lines carry authorization codes."""

    def _request(self) -> WebRequest:
        url = urlsplit(self.path)
        # A negative length would be all that comes.
        body = self.rfile.read(max(0, min(int(self.headers.get("Content-Length", 0)), MAX_BODY)))
        fields = dict(parse_qsl(url.query, keep_blank_values=True))
        if self.headers.get_content_type() == "application/x-www-form-urlencoded":
            fields |= dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return WebRequest(self.command, url.path, fields, headers, body)

    def _send(self, reply: WebReply) -> None:
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        self.send_header("Server", self.server_version)
        self.send_header("Date", self.date_time_string(self.server.now()))
        for name, value in (*reply.headers, ("Content-Type", reply.content_type), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
