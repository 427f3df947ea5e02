"""A socket that is served over a keeper that a test plays, and how a client of either kind of socket asks it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from cms.core.accounts import Account, Grant
from cms.core.policy import Rules
from cms.daemon.serving import socketmap
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.connections import Connections
from cms.daemon.serving.issue import Issuer
from cms.daemon.serving.postfix_table import PostfixTable
from cms.daemon.serving.token_socket import TokenSocket
from cms.system import listener
from cms.system.clock import Clock
from cms.system.listener import Listener, open_listener
from support.keeper import SCOPES, SECRET, FakeKeeper

GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (SCOPES,))
A = Account("A@example.test", GRANT, {"SMTP": SCOPES})
B = Account("b@example.test", replace(GRANT, login="b@example.test"), {"SMTP": SCOPES})
# The account of the user who signs in.
NAMELESS = Account("", replace(GRANT, login=""), {"SMTP": SCOPES})
RULES = Rules(os.getuid(), (A,), ("SMTP",))
# The same for the owner and root alone, and a user who is neither.
CLOSED = replace(RULES, users=frozenset())
STRANGER = 64_100


class Stopped(Clock):
    """Ten minutes after the token was issued, for ever."""

    def boot(self) -> float:
        return 10_600.0

    def wall(self) -> float:
        return 1_700_000_600.0


@dataclass(frozen=True)
class Kind:
    """How one kind of socket is served and asked.

    `at_once`: a whole request is there when the daemon accepts its connection, so that it needs no task. Otherwise it comes
    in two pieces, each of which the daemon has to wait for.
    """

    name: str
    at_once: bool = True

    def __str__(self) -> str:
        return f"{self.name} at once" if self.at_once else f"{self.name} in pieces"

    def serve(self, listener: Listener, issuer: Issuer, audit: Audit) -> Connections:
        if self.name == "postfix":
            return PostfixTable(listener, issuer, audit)
        return TokenSocket(listener, issuer, audit, Stopped())

    def request(self, user: str = "a@example.test") -> bytes:
        """Return a request for a user's token, "" for none in particular."""
        if self.name == "postfix":
            return socketmap.query("cms", user or "[smtp.example.test]:587")
        return f"SMTP,token {user}".strip().encode() + b"\n"

    def granted(self, user: str = A.user, secret: str = SECRET) -> bytes:
        """Return the reply with a user's token."""
        return socketmap.found(user, secret) if self.name == "postfix" else secret.encode()


# Both ways of each.
TOKENS, POSTFIXES = ((Kind(name), Kind(name, at_once=False)) for name in ("token", "postfix"))
KINDS = (*TOKENS, *POSTFIXES)
TOKEN, POSTFIX = TOKENS[0], POSTFIXES[0]


@dataclass
class Served:
    """One socket, and its clients."""

    kind: Kind
    path: str
    keeper: FakeKeeper
    issuer: Issuer
    audit: Audit
    connections: Connections
    draining: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self, sent: bytes = b"", *, ended: bool = False) -> trio.SocketStream:
        """Connect, and send this; with `ended`, nothing comes after it."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        pieces = [sent] if self.kind.at_once else [sent[: len(sent) // 2], sent[len(sent) // 2 :]]
        for piece in pieces:
            if not self.kind.at_once:
                await trio.testing.wait_all_tasks_blocked()
            # The daemon may have had enough.
            with suppress(BrokenPipeError):
                client.sendall(piece)
        if ended:
            client.shutdown(socket.SHUT_WR)
        self.clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(client)))
        return self.clients[-1]

    async def ask(self, request: bytes) -> bytes:
        """Return all that a client is told that sends this and closes its writing side."""
        return await read_all(await self.connect(request, ended=True))

    async def say(self, client: trio.SocketStream, request: bytes) -> bytes:
        """Send this on a connection and end it; return all that the client is told."""
        await client.send_all(request)
        await client.send_eof()
        return await read_all(client)

    @property
    def outcomes(self) -> list[str]:
        """How the requests so far ended, in their order: the last ones, as the status has them."""
        return [each["outcome"] for each in reversed(self.audit.as_data(0.0))]


def connections_are_from(monkeypatch: pytest.MonkeyPatch, *uids: int) -> None:
    """Play the kernel: the next connections come from these users, and all after them from the last."""
    left = list(uids)

    def told(_sock: object) -> tuple[int, int, int]:
        return os.getpid(), left.pop(0) if len(left) > 1 else left[0], STRANGER

    monkeypatch.setattr(listener, "credentials", told)


async def read_all(client: trio.SocketStream) -> bytes:
    """Return what comes until the daemon closes, or resets, the connection."""
    said = b""
    try:
        while chunk := await client.receive_some():
            said += chunk
    except trio.BrokenResourceError:
        pass
    await client.aclose()
    return said


@asynccontextmanager
async def serving(folder: Path, kind: Kind = TOKEN, rules: Rules = RULES) -> AsyncIterator[Served]:
    """Serve a socket; the keeper answers at once unless a test gives it another event."""
    path, keeper, audit = str(folder / "cms.sock"), FakeKeeper(), Audit(Stopped().boot)
    keeper.open.set()
    issuer = Issuer(rules, lambda _grant, _uid: served.keeper)
    connections = kind.serve(await open_listener(path, 0o600), issuer, audit)
    served = Served(kind, path, keeper, issuer, audit, connections)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await connections.run(served.draining, task_status=task_status)
        served.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield served
        for client in served.clients:
            await trio.aclose_forcefully(client)
        nursery.cancel_scope.cancel()
