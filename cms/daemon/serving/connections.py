"""The connections of one listening socket: accepted, admitted, limited in number, ended one by one, and drained.

Each kind of socket is a subclass that knows its protocol: which bytes are a whole request (`take`), and the bytes of the
reply (`render`). Neither waits, nor does the answer to a request whose token is held (`issue`).

A connection is idle until a whole request has arrived; idle connections are evicted, oldest first, to make room for new
ones. A whole request is always answered, and given to the audit once.

A peer that may not ask is a stranger: it is told so when its request is whole, and that ends its connection. Strangers have
few places to be idle in, make room first, and are answered after all others; of very many that come together, most are
hung up on unread, and counted.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import zip_longest
from typing import TypeAlias

import trio

from cms.core.lifecycle import Deny, Token
from cms.core.policy import DENIED, Peer, admits
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.issue import Issuer, NamedAnswer, Pending
from cms.system.listener import Accepted, Listener, has_come, settle
from cms.system.logs import get_logger
from cms_oauth import wire

# Connections that are served before other tasks have their turn: a millisecond's work, and four where they come one by one.
MAX_ROUND = 64

# Idle connections. A client that means to ask sends its line long before so many others have come.
MAX_IDLE = 128

# Those of them that strangers may have, and strangers that wait for an answer: enough to tell a few programs that ask at the
# wrong socket so. An answer takes ten times as long as to hang up, and the kernel's queue may be full of strangers.
MAX_STRANGERS = 16

# Strangers that are answered between two looks for new connections: who may ask waits for few of them.
STRANGERS_AT_ONCE = 3

# If no more than these have come together, it is likely that no other client is asking right now.
_FEW = 2

# What a client may take to read its reply, over what may be taken to find one.
REPLY_SECONDS = 5.0

# How often we look for a client that asks again as soon as it is answered. It needs 10 us for that, and is mostly there when the
# line of its last request is written. If it is a little later, trio would take 20 us to say so, and these looks take 10.
_LOOKS = 30

# How much is read at once: a whole request of either protocol, and a byte that shows that it is too long.
_CHUNK = 1025

log = get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One whole request. `wrong` is why nobody can answer it, None if it is well-formed; `last` ends the connection."""

    request: wire.TokenRequest
    wrong: Deny | None = None
    last: bool = False


class Wanted(Enum):
    """What has to come before a connection can go on."""

    # More bytes of its client.
    BYTES = auto()
    # Room in its client's buffer, for its reply.
    ROOM = auto()
    # Its turn: a client that always has another request ready must not keep others waiting.
    TURN = auto()


# What a connection waits for, None at its end. A `Pending` is a request whose token is not there yet.
Next: TypeAlias = Wanted | Pending | None

# What each uid that may ask was told to a question, at one moment. The token socket has one object for equal questions.
Decided: TypeAlias = dict[tuple[int, Question], NamedAnswer]


@dataclass(eq=False, slots=True)
class ClientConnection:
    """One client, and how far its conversation is.

    - `received` is what has come and is not answered, and `last` when the last of it came. `open` is False once no more
      will come.
    - `question` is the request in hand, and `began` when its first byte came: every deadline of a request counts from then,
      whatever happens meanwhile.
    - `reply` is what is not sent of the answer, which is recorded already.
    - `scope` ends the connection while it is idle: when its time is over, or when it has to make room.
    - `stranger`: may not ask, by the rules of the moment in which it connected, or of its last request.
    """

    sock: socket.SocketType
    peer: Peer
    stranger: bool = False
    received: bytes = b""
    last: float = 0.0
    open: bool = True
    question: Question | None = None
    began: float = 0.0
    reply: bytes = b""
    scope: trio.CancelScope | None = None


class Connections(ABC):
    """Serves one listener. `idle` has the idle connections, the oldest first."""

    # How long a connection may lie idle.
    IDLE_SECONDS = wire.REQUEST_SECONDS

    def __init__(self, listener: Listener, issuer: Issuer, audit: Audit) -> None:
        self.idle: dict[ClientConnection, None] = {}
        self._listener = listener
        self._issuer = issuer
        self._audit = audit
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
                        await self._listener.wait(self._evict)
                        self._round(nursery)
                # These have connected in time. Perhaps they have asked already.
                self._serve_new(self._listener.last(), [], nursery, at_once=None)
                self._audit.flush()
            finally:
                self._listener.close()
            await self._drain()

    def _round(self, nursery: trio.Nursery) -> None:
        """Serve the connections that wait, and those that come meanwhile, until other tasks must have their turn."""
        room, strangers = MAX_ROUND, list[ClientConnection]()
        while (accepted := self._listener.accept(room, 1 if strangers else _LOOKS)) or strangers:
            room -= len(accepted)
            self._serve_new(accepted, strangers, nursery)
            for each in strangers[MAX_STRANGERS:]:
                self._audit.count_unread(each.peer)
                self._end(each)
            del strangers[MAX_STRANGERS:]
            # A client that asks again as soon as it is answered does so while its line is written. Where there are more of
            # them, others ask meanwhile anyway, and one write for all costs less.
            if len(accepted) <= _FEW:
                self._audit.flush()
        self._audit.flush()

    def _serve_new(
        self,
        accepted: Sequence[Accepted],
        strangers: list[ClientConnection],
        nursery: trio.Nursery,
        at_once: int | None = STRANGERS_AT_ONCE,
    ) -> None:
        """Serve new connections, and so many `strangers` `at_once`, None for all; the others stay in that list.

        Those that wait for nothing get no task, which would cost more than all else.
        """
        if len({peer.uid for _, peer in accepted}) > 1:
            accepted = in_turns(accepted)
        now, rules = trio.current_time(), self._issuer.rules
        new = [ClientConnection(sock, peer, stranger=not admits(peer, rules)) for sock, peer in accepted]
        strangers += [each for each in new if each.stranger]
        served = [each for each in new if not each.stranger] + strangers[:at_once]
        del strangers[:at_once]
        # Nothing changes meanwhile, and programs that come together mostly ask for the same token: it is found once.
        decided: Decided = {}
        answered = [(each, self._answer(each, now, decided)) for each in served]
        # All replies at the end: a reply wakes its client, and to do the same thing many times is quicker than to alternate.
        for connection, wanted in answered:
            if still_wanted := self._send(connection) if wanted is Wanted.ROOM else wanted:
                nursery.start_soon(self._serve, connection, still_wanted)

    async def _serve(self, connection: ClientConnection, wanted: Next) -> None:
        """Serve a connection that waits for something, to its end."""
        try:
            while wanted:
                wanted = await self._after(connection, wanted)
                self._audit.flush()
        finally:
            self._end(connection)
            self._audit.flush()

    async def _drain(self) -> None:
        """End the idle connections, except for those whose request has come."""
        self._draining = True
        while self._evict():
            pass
        # What has come is read now.
        await settle()
        for connection in self.idle:
            if connection.scope:
                connection.scope.cancel()

    # What waits.

    async def _after(self, connection: ClientConnection, wanted: Wanted | Pending) -> Next:
        """Wait for what a connection wants, and go on; return what it wants next. It ends if its time is over."""
        match wanted:
            case Pending():
                answer = await self._issuer.wait(wanted, connection.began + wire.WAIT_SECONDS)
                return self._go_on(connection, trio.current_time(), answer)
            case Wanted.TURN:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return self._go_on(connection, trio.current_time())
            case Wanted.BYTES:
                scope, ready = connection.scope or trio.CancelScope(), trio.lowlevel.wait_readable
            case Wanted.ROOM:
                until = connection.began + wire.WAIT_SECONDS + REPLY_SECONDS
                scope, ready = trio.CancelScope(deadline=until), trio.lowlevel.wait_writable
        with scope:
            await ready(connection.sock)
        return None if scope.cancelled_caught else self._go_on(connection, trio.current_time())

    # What never waits.

    def _go_on(self, connection: ClientConnection, now: float, answer: NamedAnswer | None = None) -> Next:
        """Do all that can be done now; return what has to come first for the rest."""
        wanted = self._answer(connection, now, {}, answer)
        return self._send(connection) if wanted is Wanted.ROOM else wanted

    def _answer(
        self, connection: ClientConnection, now: float, decided: Decided, answer: NamedAnswer | None = None
    ) -> Next:
        """Read a request and make its reply; return what has to come first. A failure reaches no other connection.

        `now` is trio's clock, `decided` what others got at this moment, and `answer` what the request in hand was waiting for.
        """
        try:
            question = connection.question or self._next(connection, now)
            if not isinstance(question, Question):
                return self._lie_idle(connection, now) if question else self._end(connection)
            if connection.question is None:
                connection.question = question
                asked = connection.peer.uid, question
                known = None if connection.stranger else decided.get(asked)
                # A stranger is told nothing else, not even of a mistake.
                if question.wrong and admits(connection.peer, self._issuer.rules):
                    known = "", question.wrong
                found = known or self._issuer.token(connection.peer, question.request)
                if isinstance(found, Pending):
                    return found
                if not connection.stranger:
                    decided[asked] = found
                answer = found
            if answer:
                user, reply = answer
                connection.reply = self.render(question, user, reply)
                outcome = reply.code if isinstance(reply, Deny) else "granted"
                self._audit.record(connection.peer, question.request, user, outcome)
                connection.stranger |= outcome == DENIED
        except OSError:
            # The client was reset: there is no one to tell.
            pass
        except Exception:
            log.exception("a request failed", pid=connection.peer.pid, uid=connection.peer.uid)
        else:
            return Wanted.ROOM
        return self._end(connection)

    def _send(self, connection: ClientConnection) -> Next:
        """Send what is not sent of the reply, as far as there is room; return what has to come next."""
        try:
            while connection.reply:
                connection.reply = connection.reply[connection.sock.send(connection.reply, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return Wanted.ROOM
        except OSError:
            # The client has gone.
            return self._end(connection)
        if connection.question is None or connection.question.last or connection.stranger:
            return self._end(connection)
        connection.question = None
        # While the socket is drained, only what has come already is answered.
        connection.open = not self._draining
        return Wanted.TURN

    def _next(self, connection: ClientConnection, now: float) -> Question | Wanted | None:
        """Return the next whole request, or what has to come before there is one; None if none will come."""
        if not connection.received:
            # What is left came with the last bytes of the request before.
            connection.began = connection.last
        while True:
            if connection.received:
                question, connection.received = self.take(connection.received, ended=not connection.open)
                if question:
                    self.idle.pop(connection, None)
                    return question
            if not connection.open:
                return None
            try:
                chunk = connection.sock.recv(_CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return Wanted.BYTES
            connection.open, connection.last = bool(chunk), now
            if not connection.received:
                connection.began = now
            connection.received += chunk

    def _lie_idle(self, connection: ClientConnection, now: float) -> Next:
        """Let a connection wait for its client, for as long as that may take, or until another needs its place."""
        if connection not in self.idle and not self._make_room(connection):
            return self._end(connection)
        until = connection.began + wire.REQUEST_SECONDS if connection.received else now + self.IDLE_SECONDS
        connection.scope = trio.CancelScope(deadline=until)
        self.idle[connection] = None
        return Wanted.BYTES

    def _make_room(self, connection: ClientConnection) -> bool:
        """Evict a connection where this one would be one too many; return whether this one may stay."""
        if connection.stranger:
            strangers = [each for each in self.idle if each.stranger]
            return len(strangers) < MAX_STRANGERS or self._evict_oldest(strangers)
        if len(self.idle) >= MAX_IDLE:
            self._evict()
        return True

    def _evict(self) -> bool:
        """End an idle connection that has sent nothing unread, a stranger's before others'; return whether there was one."""
        return self._evict_oldest([each for each in self.idle if each.stranger]) or self._evict_oldest(self.idle)

    def _evict_oldest(self, connections: Iterable[ClientConnection]) -> bool:
        # What has come and is not read may be a whole request.
        oldest = next((each for each in connections if not has_come(each.sock)), None)
        if oldest is None or oldest.scope is None:
            return False
        del self.idle[oldest]
        oldest.scope.cancel()
        return True

    def _end(self, connection: ClientConnection) -> Next:
        self.idle.pop(connection, None)
        connection.sock.close()
        return None


def in_turns(accepted: Sequence[Accepted]) -> Sequence[Accepted]:
    """Return connections so that one of each user comes after the other: a user with many does not keep others waiting."""
    queues = dict[int, list[Accepted]]()
    for each in accepted:
        queues.setdefault(each[1].uid, []).append(each)
    return [each for turn in zip_longest(*queues.values()) for each in turn if each]


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
