"""The table that Postfix asks for its logins (socketmap): many queries on one connection, one at a time.

A key with @ is a sender; any other is a host, and means the table's `default` or its only account. Only a sender whom
the table does not serve is "not found": without a token the message has to wait, and not go out without a login.
"""

from __future__ import annotations

from cms.core.lifecycle import Deny, Token
from cms.core.policy import Peer
from cms.daemon.serving import socketmap
from cms.daemon.serving.connections import REPLY_SECONDS, ClientConnection, Connections
from cms.daemon.serving.issue import NamedAnswer, Pending
from cms.daemon.serving.socketmap import BadQuery, Query
from cms_oauth import wire

# Postfix keeps a connection for its next query, and closes it by itself after 10 s without one, 100 s in all.
IDLE_SECONDS = 30.0

_NO_DEFAULT = Deny(
    "unknown-account",
    "Postfix asks by host, and this table serves several accounts",
    "name one as default= of this PostfixTable, or set smtp_sender_dependent_authentication = yes in Postfix",
)


class PostfixTable(Connections):
    """Serves one table."""

    PROTOCOL = "SMTP"
    FORM = "postfix"

    async def converse(self, connection: ClientConnection) -> None:
        """Answer queries until the client closes, with one line in the log about each."""
        received = b""
        try:
            while True:
                query, received = await _receive(connection, received)
                if query is None or not self.begin(connection):
                    return
                await self._tell(connection, query)
                if not self.rest(connection):
                    return
        except BadQuery as bad:
            connection.expire_in(REPLY_SECONDS)
            self._audit(connection.peer, "", "bad-request")
            await connection.send(socketmap.permanent(str(bad)))

    async def _tell(self, connection: ClientConnection, query: Query) -> None:
        answer = self._answer(connection.peer, query)
        user, reply = await self._issuer.wait(answer) if isinstance(answer, Pending) else answer
        try:
            await connection.send(_rendered(query, user, reply))
        finally:
            self._audit(connection.peer, user, reply.code if isinstance(reply, Deny) else "granted")

    def _answer(self, peer: Peer, query: Query) -> NamedAnswer | Pending:
        rules = self._issuer.rules
        if query.sender:
            return self._issuer.token(peer, wire.TokenRequest(self.PROTOCOL, user=query.sender))
        if rules.default is None and len(rules.accounts) != 1:
            return "", _NO_DEFAULT
        return self._issuer.token(peer, wire.TokenRequest(self.PROTOCOL))

    def _audit(self, peer: Peer, user: str, outcome: str) -> None:
        self._issuer.audit(peer, outcome=outcome, user=user, protocol=self.PROTOCOL, form=self.FORM)


def _rendered(query: Query, user: str, reply: Token | Deny) -> bytes:
    if isinstance(reply, Token):
        return socketmap.found(user, reply.secret)
    if reply.code == "unknown-account" and query.sender:
        return socketmap.not_found()
    return socketmap.temporary(f"{reply.message}: {reply.hint}" if reply.hint else reply.message)


async def _receive(connection: ClientConnection, received: bytes) -> tuple[Query | None, bytes]:
    """Return the next query, None at the end of the connection, and what has come after it. Raises BadQuery."""
    query, received = socketmap.take(received)
    connection.expire_in(wire.REQUEST_SECONDS if received else IDLE_SECONDS)
    while query is None:
        chunk = await connection.sock.recv(socketmap.MAX_QUERY)
        if not chunk:
            return None, b""
        if not received:
            connection.expire_in(wire.REQUEST_SECONDS)
        query, received = socketmap.take(received + chunk)
    return query, received
