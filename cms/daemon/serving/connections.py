"""The connections of one listening socket: taken, capped, ended one by one, and drained.

What is said in a connection is its server's business. A connection *rests* while no whole request of it is in hand:
then it may be told to make room for another, the one that has rested longest first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from cms.core.policy import Peer
from cms.daemon.serving.recent import Recent
from cms.system.listener import Listener
from cms.system.logs import get_logger

# Connections without a whole request. The oldest makes room for a new one: a client that means it has sent its line
# long before so many others have come.
MAX_RESTING = 128

log = get_logger()


class Connection:
    """One client. `scope` ends it when its deadline comes, or when it has to make room."""

    __slots__ = ("peer", "scope", "sock")

    def __init__(self, sock: trio.socket.SocketType, peer: Peer) -> None:
        self.sock = sock
        self.peer = peer
        self.scope = trio.CancelScope()

    def expire_in(self, seconds: float) -> None:
        """End it so many seconds from now, whatever was said before."""
        self.scope.deadline = trio.current_time() + seconds

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            data = data[await self.sock.send(data) :]


class Connections:
    """One listener's connections; `converse` serves one to its end. `resting` has them in the order of their rest."""

    def __init__(
        self, listener: Listener, converse: Callable[[Connection], Awaitable[None]], recent: Recent | None = None
    ) -> None:
        self.resting: dict[Connection, None] = {}
        self._recent = recent
        self._listener = listener
        self._converse = converse
        self._draining = False

    async def run(self, draining: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled, or until `draining` is set and no request is in hand any more.

        The listener is closed as soon as no more connections are taken.
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
            while self.evict():
                pass

    def begin(self, connection: Connection) -> bool:
        """Take a connection's request in hand; False if it was told to make room while the last bytes came."""
        if connection not in self.resting:
            return False
        del self.resting[connection]
        return True

    def rest(self, connection: Connection) -> bool:
        """Let a connection wait for its next request; False if no more are taken."""
        if not self._draining:
            self.resting[connection] = None
        return not self._draining

    def evict(self) -> bool:
        """Give up the connection that has rested longest; whether there was one."""
        oldest = next(iter(self.resting), None)
        if oldest is None:
            return False
        del self.resting[oldest]
        oldest.scope.cancel()
        return True

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            sock, peer = await self._listener.accept(self.evict)
            if len(self.resting) >= MAX_RESTING:
                self.evict()
            connection = Connection(sock, peer)
            self.resting[connection] = None
            nursery.start_soon(self.serve, connection)

    async def serve(self, connection: Connection) -> None:
        """Serve one connection to its end. Nothing that happens in it reaches another."""
        with connection.sock:
            try:
                with connection.scope:
                    await self._converse(connection)
            except OSError:
                # It has gone, or was reset: nobody is left to tell.
                pass
            except Exception:
                log.exception("a request failed", pid=connection.peer.pid, uid=connection.peer.uid)
            finally:
                self.resting.pop(connection, None)

    def audit(self, peer: Peer, *, outcome: str, user: str, protocol: str, form: str) -> None:
        """Write the line that says who asked for what and got it or not, and keep it in mind: never the token."""
        log.info("request", outcome=outcome, user=user, protocol=protocol, form=form, uid=peer.uid, pid=peer.pid)
        if self._recent:
            self._recent.note(peer, outcome=outcome, user=user, protocol=protocol, form=form)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
