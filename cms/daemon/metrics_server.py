"""Answers `GET /metrics` on a TCP port or a Unix socket, for a configuration with `Metrics`. One request a connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

import trio

from cms.config.model import MetricsSpec
from cms.daemon.serving.folders import check_folder
from cms.daemon.signin.http import BadHttp, PageRequest, Response, names_loopback, read_request, render
from cms.system.listener import Listener, ListenError, open_listener
from cms.system.logs import get_logger

# Prometheus gives up after ten seconds, and asks again after a minute.
SCRAPE_SECONDS = 10.0
# Prometheus opens one. More than this many at one time do not come from monitoring.
MAX_CONNECTIONS = 8

log = get_logger()


class MetricsServer:
    """`text` makes the metrics, and their media type.

    `port` is the TCP port if this is a loopback address, else 0: the Host header is checked there, so that a web page cannot
    read the metrics through a name that its own DNS points at this machine.
    """

    def __init__(self, text: Callable[[], Awaitable[tuple[bytes, str]]], port: int = 0) -> None:
        self._text = text
        self._port = port
        # What ends each connection, the oldest first, and those of them that wait for their clients: to ask, or to read.
        self._connections: dict[trio.CancelScope, None] = {}
        self._waiting: dict[trio.CancelScope, None] = {}

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection. An error in it ends this connection only.

        If there are too many, the oldest that waits for its client makes room: at a port, everybody can connect and be silent.
        """
        if len(self._connections) >= MAX_CONNECTIONS and self._waiting:
            oldest = next(iter(self._waiting))
            self._forget(oldest)
            oldest.cancel()
        scope = trio.CancelScope(deadline=trio.current_time() + SCRAPE_SECONDS)
        try:
            if len(self._connections) < MAX_CONNECTIONS:
                self._connections[scope] = self._waiting[scope] = None
                with scope:
                    reply = render(await self._response(stream, scope))
                    self._waiting[scope] = None
                    await stream.send_all(reply)
                    await stream.send_eof()
        except (OSError, trio.BrokenResourceError):
            pass
        except Exception:
            log.exception("metrics failed")
        finally:
            self._forget(scope)
            await trio.aclose_forcefully(stream)

    def _forget(self, scope: trio.CancelScope) -> None:
        self._connections.pop(scope, None)
        self._waiting.pop(scope, None)

    async def _response(self, stream: trio.abc.ReceiveStream, scope: trio.CancelScope) -> Response:
        try:
            request = await read_request(stream)
        except BadHttp as bad:
            return Response(bad.status)
        self._waiting.pop(scope, None)
        if wrong := self._wrong(request):
            return Response(wrong)
        text, kind = await self._text()
        return Response(200, text.decode(), kind.removesuffix("; charset=utf-8"))

    def _wrong(self, request: PageRequest) -> int:
        """Return the status of a refusal, 0 for none."""
        if self._port and not names_loopback(request.headers.get("host", ""), self._port):
            return 421
        if request.path != "/metrics":
            return 404
        return 0 if request.method == "GET" else 405


class Metrics:
    """Listens where the configuration says. `open` does what can fail, and `apply` switches over without waiting."""

    def __init__(self, text: Callable[[], Awaitable[tuple[bytes, str]]]) -> None:
        self._text = text
        self._spec = MetricsSpec()
        self._scope = trio.CancelScope()
        self._listener: Listener | None = None

    def mend(self) -> None:
        """Put the socket back if its file was lost."""
        if self._listener:
            self._listener.mend()

    async def open(self, spec: MetricsSpec) -> list[trio.SocketListener] | Listener | None:
        """Return what listens there, None if that is nothing new. Raises ListenError."""
        if spec == self._spec or spec == MetricsSpec():
            return None
        if spec.path:
            return await open_listener(spec.path, 0o600, check_folder=check_folder)
        try:
            return await trio.open_tcp_listeners(spec.port, host=spec.host)
        except OSError as error:
            raise ListenError(f"{spec.host}:{spec.port}: {error.strerror or error}") from None

    @staticmethod
    def discard(opened: list[trio.SocketListener] | Listener | None) -> None:
        """Close what was opened, because something else could not be."""
        if isinstance(opened, Listener):
            opened.close()
        for each in opened if isinstance(opened, list) else ():
            each.socket.close()

    def apply(
        self, spec: MetricsSpec, opened: list[trio.SocketListener] | Listener | None, nursery: trio.Nursery
    ) -> None:
        """Serve what was opened in place of what was served before."""
        if spec == self._spec:
            return
        self._scope.cancel()
        self._spec, self._scope = spec, trio.CancelScope()
        self._listener = opened if isinstance(opened, Listener) else None
        if opened is not None:
            nursery.start_soon(self._serve, opened, self._scope, nursery)

    async def _serve(
        self, opened: list[trio.SocketListener] | Listener, scope: trio.CancelScope, nursery: trio.Nursery
    ) -> None:
        loopback = bool(self._spec.host) and ipaddress.ip_address(self._spec.host).is_loopback
        server = MetricsServer(self._text, self._spec.port if loopback else 0)
        with scope:
            if isinstance(opened, Listener):
                await _serve_socket(opened, server, nursery)
            else:
                await trio.serve_listeners(server.serve, opened, handler_nursery=nursery)


async def _serve_socket(listener: Listener, server: MetricsServer, nursery: trio.Nursery) -> None:
    try:
        while True:
            await listener.wait()
            for sock, _ in listener.accept():
                nursery.start_soon(server.serve, trio.SocketStream(trio.socket.socket(fileno=sock.detach())))
    finally:
        listener.close()
