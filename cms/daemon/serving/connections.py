"""The connections of one listening socket: accepted, admitted, limited in number, ended one by one, and drained.

Each kind of socket is a subclass that knows its protocol: which bytes are a whole request (`take`), and the bytes of the
reply (`render`). Neither waits, nor does the answer to a request whose token is held (`issue`).

A connection is idle until a whole request has arrived; idle connections are evicted, oldest first, to make room for new
ones. A whole request is always answered, and has one line in the log.
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import trio

from cms.core.lifecycle import Deny, Token
from cms.core.policy import Peer, admits
from cms.daemon.serving.issue import Issuer, Pending
from cms.system.listener import Listener, settle
from cms.system.logs import get_logger
from cms_oauth import wire

# Idle connections. A client that means to ask sends its line long before so many others have come.
MAX_IDLE = 128

# What a client may take to read its reply, over what may be taken to find one.
REPLY_SECONDS = 5.0

# How much is read at once: a whole request of either protocol, and a byte that shows that it is too long.
_CHUNK = 1025

log = get_logger()


@dataclass(frozen=True, slots=True)
class Question:
    """One whole request. `wrong` is why nobody can answer it, None if it is well-formed; `last` ends the connection."""

    request: wire.TokenRequest
    wrong: Deny | None = None
    last: bool = False


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One client. `scope` ends it while it is idle: when its time is over, or when it has to make room.

    `received` is what has come and is not answered, and `last` when the last of it came. `began` is when the first byte
    of the request in hand came: every deadline of a request counts from then, whatever happens meanwhile.
    """

    sock: socket.socket
    peer: Peer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    received: bytes = b""
    last: float = 0.0
    began: float = 0.0

    async def send(self, data: bytes) -> None:
        """Send all of it: at once if the client's buffer has room. Raises TimeoutError if the request's time is over."""
        with trio.CancelScope(deadline=self.began + wire.WAIT_SECONDS + REPLY_SECONDS):
            while data:
                try:
                    data = data[self.sock.send(data) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.sock)
        if data:
            raise TimeoutError

    def has_unread(self) -> bool:
        """True if something has come that is not read yet: perhaps a whole request."""
        look = select.poll()
        look.register(self.sock.fileno(), select.POLLIN)
        return bool(look.poll(0))


class Connections(ABC):
    """Serves one listener. `idle` has the idle connections, the oldest first."""

    # What the log says of a peer that is turned away before it has said anything.
    PROTOCOL = ""
    FORM = ""

    # How long a connection may lie idle.
    IDLE_SECONDS = wire.REQUEST_SECONDS

    def __init__(self, listener: Listener, issuer: Issuer) -> None:
        self.idle: dict[ClientConnection, None] = {}
        self._listener = listener
        self._issuer = issuer
        self._draining = False

    @abstractmethod
    def take(self, received: bytes, *, ended: bool) -> tuple[Question | None, bytes]:
        """Return the first whole request in these bytes, None if there is none yet, and what comes after it.

        `ended` says that no more bytes will come.
        """

    @abstractmethod
    def render(self, question: Question, user: str, reply: Token | Deny) -> bytes:
        """Return the bytes of a reply."""

    async def run(self, draining: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, or until `draining` is set and the last whole request is answered.

        The listener is closed as soon as no more connections are accepted.
        """
        accepting = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, draining, accepting)
            task_status.started()
            try:
                with accepting:
                    while True:
                        self._begin(*await self._listener.accept(self._evict), nursery)
                # These have connected in time. Perhaps they have asked already.
                for sock, peer in self._listener.last():
                    self._begin(sock, peer, nursery)
            finally:
                self._listener.close()
            await self._drain()

    def _begin(self, sock: socket.socket, peer: Peer, nursery: trio.Nursery) -> None:
        if len(self.idle) >= MAX_IDLE:
            self._evict()
        connection = ClientConnection(sock, peer)
        self.idle[connection] = None
        nursery.start_soon(self._serve, connection)

    async def _drain(self) -> None:
        """End the idle connections, except for those whose request has come."""
        self._draining = True
        while self._evict():
            pass
        # What has come is read now.
        await settle()
        for connection in self.idle:
            connection.scope.cancel()

    async def _serve(self, connection: ClientConnection) -> None:
        """Serve one connection to its end. A failure in it reaches no other."""
        with connection.sock:
            try:
                # Before a byte is read.
                if admits(connection.peer, self._issuer.rules):
                    await self._converse(connection)
                else:
                    refused = wire.TokenRequest(self.PROTOCOL, self.FORM)
                    self._issuer.audit(connection.peer, refused, "", "denied")
            except OSError:
                # The client has gone or was reset: there is no one to tell.
                pass
            except Exception:
                log.exception("a request failed", pid=connection.peer.pid, uid=connection.peer.uid)
            finally:
                self.idle.pop(connection, None)

    async def _converse(self, connection: ClientConnection) -> None:
        """Answer the requests of a connection, one after the other, with one line in the log about each."""
        more = True
        while question := await self._next(connection, more=more):
            # From here on nothing waits if the token is held.
            answer = ("", question.wrong) if question.wrong else self._issuer.token(connection.peer, question.request)
            if isinstance(answer, Pending):
                answer = await self._issuer.wait(answer, connection.began + wire.WAIT_SECONDS)
            user, reply = answer
            try:
                await connection.send(self.render(question, user, reply))
                if question.last:
                    # The client reads to the end: it need not wait for the log.
                    connection.sock.shutdown(socket.SHUT_WR)
            finally:
                outcome = reply.code if isinstance(reply, Deny) else "granted"
                self._issuer.audit(connection.peer, question.request, user, outcome)
            if question.last:
                return
            # A client that always has another request ready must not keep others waiting.
            await trio.lowlevel.cancel_shielded_checkpoint()
            # While the socket is drained, only what has come already is answered.
            more = not self._draining
            connection.scope = trio.CancelScope()
            self.idle[connection] = None

    async def _next(self, connection: ClientConnection, *, more: bool) -> Question | None:
        """Wait for the next whole request, for as long as its client may take; None if there is none.

        `more` says whether the client may send more. No other task runs between the last read and the return.
        """
        question = None
        # What is left came with the last bytes of the request before.
        connection.began = connection.last
        with connection.scope:
            connection.scope.deadline = trio.current_time() + self.IDLE_SECONDS
            await trio.lowlevel.checkpoint_if_cancelled()
            while True:
                if connection.received:
                    connection.scope.deadline = connection.began + wire.REQUEST_SECONDS
                    question, connection.received = self.take(connection.received, ended=not more)
                if question or not more:
                    break
                try:
                    chunk = connection.sock.recv(_CHUNK)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(connection.sock)
                    continue
                more, connection.last = bool(chunk), trio.current_time()
                if not connection.received:
                    connection.began = connection.last
                connection.received += chunk
        self.idle.pop(connection, None)
        return question

    def _evict(self) -> bool:
        """End the connection that has been idle longest and has sent nothing unread; return whether there was one."""
        oldest = next((each for each in self.idle if not each.has_unread()), None)
        if oldest is None:
            return False
        del self.idle[oldest]
        oldest.scope.cancel()
        return True


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
