"""The token socket: one connection is one request, one reply, close.

trio sockets are used directly: SocketStream halves what the daemon can serve (measured).
"""

from __future__ import annotations

import json

import trio

from cms.core.lifecycle import Deny, Token
from cms.daemon.serving.connections import ClientConnection, Connections
from cms.daemon.serving.issue import Issuer, Pending
from cms.system.clock import Clock
from cms.system.listener import Listener
from cms_oauth import wire

# The line and its LF; a byte more shows that it is too long.
_MOST = wire.MAX_REQUEST + 1

_HOW_TO_ASK = "a request is PROTOCOL[,option...] [USER], as in `SMTP user@domain`: see docs/protocol.md"


class TokenSocket(Connections):
    """Serves one token socket."""

    FORM = wire.FORMS[0]

    def __init__(self, listener: Listener, issuer: Issuer, clock: Clock) -> None:
        super().__init__(listener, issuer)
        self._clock = clock

    async def converse(self, connection: ClientConnection) -> None:
        """Read a request, up to LF or the client's half-close; answer it; leave one line in the log about it."""
        sock, received = connection.sock, b""
        while b"\n" not in received and len(received) < _MOST:
            chunk = await sock.recv(_MOST - len(received))
            if not chunk:
                break
            received += chunk
        if not received or not self.begin(connection):
            return
        try:
            request = wire.parse_request(received)
            answer = self._issuer.token(connection.peer, request)
        except wire.BadRequest as bad:
            request, answer = wire.TokenRequest("", bad.form), ("", Deny("bad-request", bad.message, _HOW_TO_ASK))
        user, reply = await self._issuer.wait(answer) if isinstance(answer, Pending) else answer
        try:
            # A refusal has bytes only as JSON, so that no tool sends them as a credential.
            if request.form == "json":
                await connection.send(self._json(request, user, reply))
            elif isinstance(reply, Token):
                await connection.send(wire.render(request.form, user, reply.secret))
            # The client reads to the end: it need not wait for the log.
            sock.shutdown(trio.socket.SHUT_WR)
        finally:
            outcome = reply.code if isinstance(reply, Deny) else "granted"
            self._issuer.audit(
                connection.peer, outcome=outcome, user=user, protocol=request.protocol, form=request.form
            )

    def _json(self, request: wire.TokenRequest, user: str, reply: Token | Deny) -> bytes:
        if isinstance(reply, Deny):
            body = wire.json_refusal(reply.code, reply.message, reply.hint, reply.retry_after)
        else:
            left = reply.expires - self._clock.boot()
            # By the clock of this moment, which is what the client compares it with: it may have been set since.
            expires_at = self._clock.wall() + left
            body = wire.json_reply(user, request.protocol, reply.secret, expires_in=left, expires_at=expires_at)
        return json.dumps(body).encode() + b"\n"
