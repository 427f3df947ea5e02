"""The connections of one listening socket: accepted, admitted, limited in number, ended one by one, and drained.

Each kind of socket is a subclass that says what happens on a connection (`converse`). A connection is idle until a full
request has arrived; idle connections are evicted, oldest first, to make room for new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import trio

from cms.core.policy import Peer, admits
from cms.daemon.serving.issue import Issuer
from cms.system.listener import Listener
from cms.system.logs import get_logger
from cms_oauth import wire

# Idle connections. A client that means to ask sends its line long before so many others have come.
MAX_IDLE = 128

# What a client may take to read its reply, over what the keeper may take to find one.
REPLY_SECONDS = 5.0

log = get_logger()


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One client. `scope` ends it when its deadline comes, or when it has to make room."""

    sock: trio.socket.SocketType
    peer: Peer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def expire_in(self, seconds: float) -> None:
        """End it so many seconds from now, whatever its deadline was."""
        self.scope.deadline = trio.current_time() + seconds

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            data = data[await self.sock.send(data) :]


class Connections(ABC):
    """Serves one listener. `idle` has the idle connections, the oldest first."""

    # What the log says of a peer that is turned away before it has said anything.
    PROTOCOL = ""
    FORM = ""

    def __init__(self, listener: Listener, issuer: Issuer) -> None:
        self.idle: dict[ClientConnection, None] = {}
        self._listener = listener
        self._issuer = issuer
        self._draining = False

    @abstractmethod
    async def converse(self, connection: ClientConnection) -> None:
        """Serve a connection whose peer may ask, to its end. It has `wire.REQUEST_SECONDS` for its first request."""

    async def run(self, draining: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until `draining` is set and the last full request is answered.

        The listener is closed as soon as no more connections are accepted.
        """
        accepting = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, draining, accepting)
            task_status.started()
            try:
                with accepting:
                    await self._accept(nursery)
            finally:
                self._listener.close()
            self._draining = True
            while self._evict():
                pass

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            sock, peer = await self._listener.accept(self._evict)
            if len(self.idle) >= MAX_IDLE:
                self._evict()
            connection = ClientConnection(sock, peer)
            self.idle[connection] = None
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: ClientConnection) -> None:
        """Serve one connection to its end. A failure in it reaches no other."""
        with connection.sock:
            try:
                connection.scope.deadline = trio.current_time() + wire.REQUEST_SECONDS
                with connection.scope:
                    # Before a byte is read.
                    if admits(connection.peer, self._issuer.rules):
                        await self.converse(connection)
                    else:
                        self._issuer.audit(
                            connection.peer, outcome="denied", user="", protocol=self.PROTOCOL, form=self.FORM
                        )
            except OSError:
                # The client has gone or was reset: there is no one to tell.
                pass
            except Exception:
                log.exception("a request failed", pid=connection.peer.pid, uid=connection.peer.uid)
            finally:
                self.idle.pop(connection, None)

    def begin(self, connection: ClientConnection) -> bool:
        """Answer a connection's request from now on: it is idle no more. False if it was evicted as the request came."""
        if connection not in self.idle:
            return False
        del self.idle[connection]
        connection.scope.deadline = trio.current_time() + wire.WAIT_SECONDS + REPLY_SECONDS
        return True

    def rest(self, connection: ClientConnection) -> bool:
        """Let a connection wait for its next request; False if no more are accepted."""
        if not self._draining:
            self.idle[connection] = None
        return not self._draining

    def _evict(self) -> bool:
        """End the connection that has been idle longest; return whether there was one."""
        oldest = next(iter(self.idle), None)
        if oldest is None:
            return False
        del self.idle[oldest]
        oldest.scope.cancel()
        return True


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
