"""The token socket: one connection is one request, one reply, close.

wire -> policy -> keeper -> wire, under a deadline and a size limit. The kernel's word on who the peer is comes before a
byte of it is read. trio sockets are used directly: SocketStream halves what the daemon can serve (measured).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import trio

from cms.core.accounts import Grant
from cms.core.lifecycle import Deny, Token
from cms.core.policy import NOBODY, Peer, Rules, admits, decide, name_of
from cms.daemon.serving.connections import Connection, Connections
from cms.daemon.serving.issue import Keeper, Teller
from cms.daemon.serving.recent import Recent
from cms.system.clock import Clock, SystemClock
from cms.system.listener import Listener
from cms_oauth import wire

# What a client may take to read its reply, over what the keeper may take to find one.
REPLY_SECONDS = 5.0

# The line and its LF; a byte more shows that it is too long.
_MOST = wire.MAX_REQUEST + 1

_NAMELESS = wire.Request("")
_HOW_TO_ASK = "a request is PROTOCOL[,option...] [USER], as in `SMTP user@domain`: see docs/protocol.md"


class _Server:
    """One socket's connections."""

    def __init__(
        self,
        listener: Listener,
        rules: Callable[[], Rules],
        keeper_of: Callable[[Grant], Keeper],
        names: Callable[[], Mapping[str, str]],
        clock: Clock,
        *,
        recent: Recent | None = None,
    ) -> None:
        self.connections = Connections(listener, self._converse, recent)
        self._rules = rules
        self._names = names
        self._clock = clock
        self._teller = Teller(keeper_of)

    async def _converse(self, connection: Connection) -> None:
        connection.expire_in(wire.REQUEST_SECONDS)
        if not admits(connection.peer, self._rules()):
            self._audit(connection.peer, _NAMELESS, "", "denied")
            return
        received = await _receive(connection.sock)
        if self.connections.begin(connection) and received:
            connection.expire_in(wire.WAIT_SECONDS + REPLY_SECONDS)
            await self._answer(connection, received)

    async def _answer(self, connection: Connection, received: bytes) -> None:
        """Answer a whole request, and leave one line in the log about it."""
        request, user, reply = await self._find(connection.peer, received)
        outcome = reply.code if isinstance(reply, Deny) else "granted"
        try:
            await connection.send(self._rendered(request, user, reply))
            # The client reads to the end: it need not wait for the log.
            connection.sock.shutdown(trio.socket.SHUT_WR)
        finally:
            self._audit(connection.peer, request, user, outcome)

    def _audit(self, peer: Peer, request: wire.Request, user: str, outcome: str) -> None:
        self.connections.audit(peer, outcome=outcome, user=user, protocol=request.protocol, form=request.form)

    async def _find(self, peer: Peer, received: bytes) -> tuple[wire.Request, str, Token | Deny]:
        """Return the request, the user for the SASL string, and the token or why there is none."""
        try:
            request = wire.parse_request(received)
        except wire.BadRequest as bad:
            return wire.Request("", bad.form), "", Deny("bad-request", bad.message, _HOW_TO_ASK)
        while True:
            rules = self._rules()
            user, reply = await self._decided(peer, request, rules)
            # A refusal by a configuration that a reload has replaced meanwhile is nobody's: it is asked again.
            if isinstance(reply, Token) or rules is self._rules():
                return request, user, reply

    async def _decided(self, peer: Peer, request: wire.Request, rules: Rules) -> tuple[str, Token | Deny]:
        decision = decide(peer, request, rules, self._names())
        if isinstance(decision, Deny):
            return request.user, decision
        token = await self._teller.token(
            decision, request.protocol, min_valid=request.min_valid, rejected=request.rejected
        )
        # Who signed in may have become known only while the token was waited for.
        user = name_of(decision.account, self._names())
        return user, token if user or isinstance(token, Deny) else NOBODY

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
    recent: Recent | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a socket until cancelled, or until `draining` is set and the last whole request is answered.

    `rules`, `keeper_of` and `names` (grant key to whoever signed in) are asked anew for each request; `recent` hears of
    it. The listener is closed as soon as no more connections are taken.
    """
    server = _Server(listener, rules, keeper_of, names, clock or SystemClock(), recent=recent)
    await server.connections.run(draining, task_status=task_status)


async def _receive(sock: trio.socket.SocketType) -> bytes:
    """Return what a client sends: up to LF, up to its half-close, or a byte more than a request may have."""
    received = await sock.recv(_MOST)
    while received and not wire.is_whole(received) and len(received) < _MOST:
        chunk = await sock.recv(_MOST - len(received))
        if not chunk:
            break
        received += chunk
    return received


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"
