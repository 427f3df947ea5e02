"""The token socket: one connection is one request, one reply, close."""

from __future__ import annotations

import json
from functools import lru_cache

from cms.core.lifecycle import Deny, Token
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.connections import Connections, Question
from cms.daemon.serving.issue import Issuer
from cms.system.clock import Clock
from cms.system.listener import Listener
from cms_oauth import wire

_HOW_TO_ASK = "a request is PROTOCOL[,option...] [USER], as in `SMTP user@domain`: see docs/protocol.md"


class TokenSocket(Connections):
    """Serves one token socket."""

    def __init__(self, listener: Listener, issuer: Issuer, audit: Audit, clock: Clock) -> None:
        super().__init__(listener, issuer, audit)
        self._clock = clock

    def take(self, received: bytes, *, ended: bool) -> tuple[Question | None, bytes]:
        """Return the request up to LF or the client's half-close. More after LF makes it a bad request."""
        if not ended and b"\n" not in received and len(received) <= wire.MAX_REQUEST:
            return None, received
        return _question(received), b""

    def render(self, question: Question, user: str, reply: Token | Deny) -> bytes:
        """Return the token in the form that was asked for.

        A refusal has bytes only for those who ask for a reason, so that no other program sends them on as a credential.
        """
        request = question.request
        if request.form == "json":
            return json.dumps(self._as_json(request, user, reply)).encode() + b"\n"
        if isinstance(reply, Token):
            return wire.render(request.form, user, reply.secret)
        if request.why:
            return wire.refusal_line(reply.code, reply.message, reply.hint, reply.retry_after)
        return b""

    def _as_json(self, request: wire.TokenRequest, user: str, reply: Token | Deny) -> dict[str, object]:
        if isinstance(reply, Deny):
            return wire.json_refusal(reply.code, reply.message, reply.hint, reply.retry_after)
        left = reply.expires - self._clock.boot()
        # By the clock of this moment, which is what the client compares it with: it may have been set since.
        expires_at = self._clock.wall() + left
        return wire.json_reply(user, request.protocol, reply.secret, expires_in=left, expires_at=expires_at)


# The same few lines come again and again.
@lru_cache(maxsize=256)
def _question(received: bytes) -> Question:
    try:
        return Question(wire.parse_request(received), last=True)
    except wire.BadRequest as bad:
        wrong = Deny("bad-request", bad.message, _HOW_TO_ASK)
        return Question(wire.TokenRequest("", bad.form, why=bad.why), wrong, last=True)
