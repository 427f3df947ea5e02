"""The table that Postfix asks for its logins (socketmap): many queries on one connection, one at a time.

A key with @ is a sender; any other is a host, and means the table's `default` or its only account. Only a sender whom
the table does not serve is "not found": without a token the message has to wait, and not go out without a login.
"""

from __future__ import annotations

from cms.core.lifecycle import Deny, Token
from cms.daemon.serving import socketmap
from cms.daemon.serving.connections import Connections, Question
from cms.daemon.serving.socketmap import BadQuery
from cms_oauth import wire

_NO_DEFAULT = Deny(
    "unknown-account",
    "Postfix asks by host, and this table serves several accounts",
    "name one as default= of this PostfixTable, or set smtp_sender_dependent_authentication = yes in Postfix",
)


class PostfixTable(Connections):
    """Serves one table."""

    PROTOCOL = "SMTP"
    FORM = "postfix"

    # Postfix keeps a connection for its next query, and closes it by itself after 10 s without one, 100 s in all.
    IDLE_SECONDS = 30.0

    def take(self, received: bytes, *, ended: bool) -> tuple[Question | None, bytes]:  # noqa: ARG002 - half a query is none
        """Return the first query. What is no query is answered as well, and ends the connection."""
        try:
            query, rest = socketmap.take(received)
        except BadQuery as bad:
            wrong = Deny("bad-request", str(bad), "")
            return Question(wire.TokenRequest(self.PROTOCOL, self.FORM), wrong, last=True), b""
        if query is None:
            return None, rest
        rules = self._issuer.rules
        unclear = not query.sender and rules.default is None and len(rules.accounts) - len(rules.domains) != 1
        request = wire.TokenRequest(self.PROTOCOL, self.FORM, query.sender)
        return Question(request, _NO_DEFAULT if unclear else None), rest

    def render(self, question: Question, user: str, reply: Token | Deny) -> bytes:
        """Return the login, or why there is none."""
        if isinstance(reply, Token):
            return socketmap.found(user, reply.secret)
        if question.last:
            return socketmap.permanent(reply.message)
        if reply.code == "unknown-account" and question.request.user:
            return socketmap.not_found()
        return socketmap.temporary(f"{reply.message}: {reply.hint}" if reply.hint else reply.message)
