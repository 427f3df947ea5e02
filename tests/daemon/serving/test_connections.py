"""Connections: capped while they rest, ended one by one, and drained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from support.trio_run import in_trio

from cms.daemon.serving import connections
from cms.daemon.serving.connections import Connection, Connections
from cms.system.listener import open_listener


class Echo:
    """Gives back each byte as a request of its own; an `!` fails."""

    def __init__(self) -> None:
        self.connections: Connections
        self.turned_away = 0

    async def converse(self, connection: Connection) -> None:
        while chunk := await connection.sock.recv(1):
            if chunk == b"!":
                raise RuntimeError("bug")
            if not self.connections.begin(connection):
                self.turned_away += 1
                return
            await connection.send(chunk)
            if not self.connections.rest(connection):
                return


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Echo, Callable[[], Awaitable[trio.SocketStream]], trio.Event]]:
    """Serve echoes; yield the server, what connects to it, and what drains it."""
    echo, draining, path = Echo(), trio.Event(), str(folder / "echo.sock")
    echo.connections = Connections(await open_listener(path, 0o600), echo.converse)
    clients: list[trio.SocketStream] = []

    async def connect() -> trio.SocketStream:
        clients.append(await trio.open_unix_socket(path))
        await trio.testing.wait_all_tasks_blocked()
        return clients[-1]

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await echo.connections.run(draining, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield echo, connect, draining
        for client in clients:
            await trio.aclose_forcefully(client)
        nursery.cancel_scope.cancel()


async def said(client: trio.SocketStream) -> bytes:
    """Return all that comes until the end."""
    return b"".join([bytes(chunk) async for chunk in client])


@in_trio
async def test_the_one_that_rested_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has just had its answer is the youngest again."""
    monkeypatch.setattr(connections, "MAX_RESTING", 2)
    async with serving(tmp_path) as (echo, connect, _):
        first, second = await connect(), await connect()
        await first.send_all(b"x")
        answered = bytes(await first.receive_some())
        await trio.testing.wait_all_tasks_blocked()
        await connect()
        ended = await said(second)
        resting = len(echo.connections.resting)

    assert (b"x", b"", 2) == (answered, ended, resting)


@in_trio
async def test_a_fault_ends_one_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log has it, and others go on."""
    async with serving(tmp_path) as (echo, connect, _):
        bad, good = await connect(), await connect()
        await bad.send_all(b"!")
        ended = await said(bad)
        await good.send_all(b"x")
        answered = bytes(await good.receive_some())
        await trio.testing.wait_all_tasks_blocked()
        resting = len(echo.connections.resting)

    assert (b"", b"x", 1) == (ended, answered, resting)
    assert "a request failed" in capsys.readouterr().out


@in_trio
async def test_one_that_was_told_to_make_room_is_not_answered(tmp_path: Path) -> None:
    """Its last bytes came at that very moment: it stays unanswered, not half answered."""
    async with serving(tmp_path) as (echo, connect, _):
        client = await connect()
        (connection,) = echo.connections.resting
        del echo.connections.resting[connection]
        await client.send_all(b"x")
        ended = await said(client)

    assert (b"", 1) == (ended, echo.turned_away)


@in_trio
async def test_draining_ends_what_rests(tmp_path: Path) -> None:
    """No connection is taken any more, and the socket's file is gone."""
    async with serving(tmp_path) as (_, connect, draining):
        client = await connect()
        draining.set()
        ended = await said(client)
        with pytest.raises(OSError, match="No such file"):
            await connect()

    assert b"" == ended
