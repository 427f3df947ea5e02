"""The table that Postfix asks for its logins: socketmap -> policy -> keeper -> socketmap, one connection for many queries.

A key with @ is a sender; any other is a host, and means the table's `default` or its only account. Only a sender whom
the table does not serve is "not found": without a token the message has to wait, and not go out without a login.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import trio

from cms.core.accounts import Grant
from cms.core.lifecycle import Deny, Token
from cms.core.policy import NOBODY, Peer, Rules, admits, decide, name_of
from cms.daemon.serving import socketmap
from cms.daemon.serving.connections import Connection, Connections
from cms.daemon.serving.issue import Keeper, Teller
from cms.daemon.serving.recent import Recent
from cms.daemon.serving.socketmap import BadQuery, Query
from cms.system.listener import Listener
from cms_oauth import wire

# Postfix keeps a connection for its next query, and closes it by itself after 10 s without one, 100 s in all.
IDLE_SECONDS = 30.0

# What Postfix may take to read a reply, over what the keeper may take to find one.
REPLY_SECONDS = 5.0

PROTOCOL = "SMTP"
FORM = "postfix"

_NO_DEFAULT = Deny(
    "unknown-account",
    "Postfix asks by host, and this table serves several accounts",
    "name one as default= of this PostfixTable, or set smtp_sender_dependent_authentication = yes in Postfix",
)

# Postfix must not log in as "": the server's refusal would hide the cause.


class _Table:
    """One table's connections."""

    def __init__(
        self,
        listener: Listener,
        rules: Callable[[], Rules],
        keeper_of: Callable[[Grant], Keeper],
        names: Callable[[], Mapping[str, str]],
        recent: Recent | None = None,
    ) -> None:
        self.connections = Connections(listener, self._converse, recent)
        self._rules = rules
        self._names = names
        self._teller = Teller(keeper_of)

    async def _converse(self, connection: Connection) -> None:
        if not admits(connection.peer, self._rules()):
            self._audit(connection.peer, "", "denied")
            return
        try:
            await self._answer_all(connection)
        except BadQuery as bad:
            connection.expire_in(REPLY_SECONDS)
            self._audit(connection.peer, "", "bad-request")
            await connection.send(socketmap.permanent(str(bad)))

    async def _answer_all(self, connection: Connection) -> None:
        received = b""
        while True:
            query, received = await _receive(connection, received)
            if query is None or not self.connections.begin(connection):
                return
            connection.expire_in(wire.WAIT_SECONDS + REPLY_SECONDS)
            await self._answer(connection, query)
            if not self.connections.rest(connection):
                return

    async def _answer(self, connection: Connection, query: Query) -> None:
        user, reply = await self._find(connection.peer, query)
        outcome = reply.code if isinstance(reply, Deny) else "granted"
        try:
            await connection.send(_rendered(query, user, reply))
        finally:
            self._audit(connection.peer, user, outcome)

    def _audit(self, peer: Peer, user: str, outcome: str) -> None:
        self.connections.audit(peer, outcome=outcome, user=user, protocol=PROTOCOL, form=FORM)

    async def _find(self, peer: Peer, query: Query) -> tuple[str, Token | Deny]:
        """Return the user of a query's account, and its token or why there is none."""
        user = query.key if _is_sender(query) else ""
        rules = self._rules() if user else _rules_of_hosts(self._rules())
        if isinstance(rules, Deny):
            return user, rules
        decision = decide(peer, wire.Request(PROTOCOL, user=user), rules, self._names())
        if isinstance(decision, Deny):
            return user, decision
        reply = await self._teller.token(decision, PROTOCOL)
        # Who signed in may have become known only while the token was waited for.
        user = name_of(decision.account, self._names())
        return user, reply if user or isinstance(reply, Deny) else NOBODY


def _is_sender(query: Query) -> bool:
    return "@" in query.key


def _rules_of_hosts(rules: Rules) -> Rules | Deny:
    """Return the rules with no account but the one that a host's key means, whoever signs in to it."""
    if rules.default is None:
        return rules if len(rules.accounts) == 1 else _NO_DEFAULT
    return replace(rules, accounts=(rules.default,))


def _rendered(query: Query, user: str, reply: Token | Deny) -> bytes:
    if isinstance(reply, Token):
        return socketmap.found(user, reply.secret)
    if reply.code == "unknown-account" and _is_sender(query):
        return socketmap.not_found()
    return socketmap.temporary(f"{reply.message}: {reply.hint}" if reply.hint else reply.message)


async def _receive(connection: Connection, received: bytes) -> tuple[Query | None, bytes]:
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


async def serve(
    listener: Listener,
    rules: Callable[[], Rules],
    keeper_of: Callable[[Grant], Keeper],
    names: Callable[[], Mapping[str, str]],
    *,
    draining: trio.Event,
    recent: Recent | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a table until cancelled, or until `draining` is set and the last query is answered.

    `rules`, `keeper_of` and `names` (grant key to whoever signed in) are asked anew for each query; `recent` hears of
    it.
    """
    await _Table(listener, rules, keeper_of, names, recent).connections.run(draining, task_status=task_status)
