"""The token socket: one connection is one request, one reply, close.

wire -> policy -> keeper -> wire, under a deadline and a size limit. The kernel's word on who the peer is comes before a
byte of it is read. trio sockets are used directly: SocketStream halves what the daemon can serve (measured).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from cms.accounts import Grant, Scopes
from cms.clock import Clock, SystemClock
from cms.lifecycle import Deny, Token
from cms.listener import Listener
from cms.logs import get_logger
from cms.policy import Allow, Peer, Rules, admits, decide
from cms_oauth import wire

# Connections whose request is not yet whole. The oldest makes room for a new one: a client that means it has sent its
# line long before so many others have come.
MAX_UNFINISHED = 128

# Whole requests that wait for a token at one time. They wait only while none is held, 4 s each; a limit keeps a
# thundering herd from taking all descriptors. Those beyond it are told to come again.
MAX_WAITING = 512

# What a client may take to read its reply, over what the keeper may take to find one.
REPLY_SECONDS = 5.0

# The line and its LF; a byte more shows that it is too long.
_MOST = wire.MAX_REQUEST + 1

_NAMELESS = wire.Request("")
_BUSY = Deny("busy", "too many requests wait for a token", "try again in a few seconds", 5.0)
_BROKEN = Deny("unavailable", "cms failed at this request", "see its log: this is a fault of cms to report", 60.0)
_HOW_TO_ASK = "a request is PROTOCOL[,option...] [USER], as in `SMTP user@domain`: see docs/protocol.md"

log = get_logger()


class Keeper(Protocol):
    """What answers for the tokens of one Grant."""

    async def ask(self, scopes: Scopes, *, min_valid: int | None = None, rejected: str = "") -> Token | Deny: ...


class _Connection:
    """One client. `scope` ends it when its deadline comes, or when it has to make room."""

    __slots__ = ("peer", "scope", "sock")

    def __init__(self, sock: trio.socket.SocketType, peer: Peer) -> None:
        self.sock = sock
        self.peer = peer
        self.scope = trio.CancelScope()


class _Server:
    """One socket's connections."""

    def __init__(
        self,
        listener: Listener,
        rules: Callable[[], Rules],
        keeper_of: Callable[[Grant], Keeper],
        names: Callable[[], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._rules = rules
        self._keeper_of = keeper_of
        self._names = names
        self._clock = clock
        # In the order in which they came; one leaves when its request is whole.
        self._unfinished: dict[_Connection, None] = {}
        self._waiting = 0

    async def accept(self, nursery: trio.Nursery) -> None:
        """Take connections until cancelled."""
        while True:
            sock, peer = await self._listener.accept(self.evict)
            if len(self._unfinished) >= MAX_UNFINISHED:
                self.evict()
            connection = _Connection(sock, peer)
            self._unfinished[connection] = None
            nursery.start_soon(self._serve, connection)

    def evict(self) -> bool:
        """Give up the oldest connection whose request is not whole; whether there was one."""
        oldest = next(iter(self._unfinished), None)
        if oldest is None:
            return False
        del self._unfinished[oldest]
        oldest.scope.cancel()
        return True

    async def _serve(self, connection: _Connection) -> None:
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
                self._unfinished.pop(connection, None)

    async def _converse(self, connection: _Connection) -> None:
        scope, peer = connection.scope, connection.peer
        scope.deadline = trio.current_time() + wire.REQUEST_SECONDS
        rules = self._rules()
        if not admits(peer, rules):
            _audit(peer, _NAMELESS, "", "denied")
            return
        received = await _receive(connection.sock)
        if connection not in self._unfinished:
            # It was told to make room while its last bytes came.
            return
        del self._unfinished[connection]
        if received:
            scope.deadline = trio.current_time() + wire.WAIT_SECONDS + REPLY_SECONDS
            await self._answer(connection, received, rules)

    async def _answer(self, connection: _Connection, received: bytes, rules: Rules) -> None:
        """Answer a whole request, and leave one line in the log about it."""
        request, user, reply = await self._find(connection.peer, received, rules)
        outcome = reply.code if isinstance(reply, Deny) else "granted"
        try:
            await _send(connection.sock, self._rendered(request, user, reply))
            # The client reads to the end: it need not wait for the log.
            connection.sock.shutdown(trio.socket.SHUT_WR)
        finally:
            _audit(connection.peer, request, user, outcome)

    async def _find(self, peer: Peer, received: bytes, rules: Rules) -> tuple[wire.Request, str, Token | Deny]:
        """Return the request, the user for the SASL string, and the token or why there is none."""
        try:
            request = wire.parse_request(received)
        except wire.BadRequest as bad:
            return wire.Request("", bad.form), "", Deny("bad-request", bad.message, _HOW_TO_ASK)
        decision = decide(peer, request, rules, self._names())
        if isinstance(decision, Deny):
            return request, request.user, decision
        return request, decision.account.user, await self._token(decision, request)

    async def _token(self, allowed: Allow, request: wire.Request) -> Token | Deny:
        if self._waiting >= MAX_WAITING:
            return _BUSY
        self._waiting += 1
        try:
            keeper = self._keeper_of(allowed.account.grant)
            return await keeper.ask(allowed.scopes, min_valid=request.min_valid, rejected=request.rejected)
        except Exception:
            log.exception("a keeper failed at a request", user=allowed.account.user)
            return _BROKEN
        finally:
            self._waiting -= 1

    def _rendered(self, request: wire.Request, user: str, reply: Token | Deny) -> bytes:
        """Return the bytes of a reply: a refusal has some only as JSON, so that no tool sends them as a credential."""
        if request.form != "json":
            return b"" if isinstance(reply, Deny) else wire.render(request.form, user, reply.secret)
        if isinstance(reply, Deny):
            return _json(wire.json_refusal(reply.code, reply.message, reply.hint, reply.retry_after))
        left = reply.expires - self._clock.boot()
        # By the clock of this moment, which is the one that the client compares it with: it may have been set since.
        expires_at = self._clock.wall() + left
        return _json(wire.json_reply(user, request.protocol, reply.secret, expires_in=left, expires_at=expires_at))


async def serve(
    listener: Listener,
    rules: Callable[[], Rules],
    keeper_of: Callable[[Grant], Keeper],
    names: Callable[[], Mapping[str, str]],
    *,
    draining: trio.Event,
    clock: Clock | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a socket until cancelled, or until `draining` is set and the last whole request is answered.

    `rules`, `keeper_of` and `names` (grant key to whoever signed in) are asked anew for each request. The listener is
    closed as soon as no more connections are taken.
    """
    server = _Server(listener, rules, keeper_of, names, clock or SystemClock())
    accepting = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when, draining, accepting)
        task_status.started()
        try:
            with accepting:
                await server.accept(nursery)
        finally:
            listener.close()
        while server.evict():
            pass


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _receive(sock: trio.socket.SocketType) -> bytes:
    """Return what a client sends: up to LF, up to its half-close, or a byte more than a request may have."""
    received = await sock.recv(_MOST)
    while received and not wire.is_whole(received) and len(received) < _MOST:
        chunk = await sock.recv(_MOST - len(received))
        if not chunk:
            break
        received += chunk
    return received


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await sock.send(data) :]


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def _audit(peer: Peer, request: wire.Request, user: str, outcome: str) -> None:
    """Write the line that says who asked for what and got it or not: never the token."""
    log.info(
        "request",
        outcome=outcome,
        user=user,
        protocol=request.protocol,
        form=request.form,
        uid=peer.uid,
        pid=peer.pid,
    )
