"""The table for Postfix: senders and hosts, and "not found" for nobody but strangers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.keeper import SCOPES, SECRET, FakeKeeper, token
from support.trio_run import in_trio, in_trio_jumps, jump

from cms.core.accounts import Account, Grant
from cms.core.lifecycle import Deny
from cms.core.policy import Rules
from cms.daemon.serving import connections, postfix_table, socketmap
from cms.system.listener import open_listener
from cms_oauth import wire

GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (SCOPES,))
A = Account("A@example.test", GRANT, {"SMTP": SCOPES})
B = Account("b@example.test", replace(GRANT, login="b@example.test"), {"SMTP": SCOPES})
SOMEBODY = Account("", replace(GRANT, login=""), {"SMTP": SCOPES})
ONE = Rules(os.getuid(), (A,), ("SMTP",))
TWO = replace(ONE, accounts=(A, B))

HOST = "[smtp.office365.com]:587"
STRANGER = socketmap.not_found()


def login(user: str = "A@example.test") -> bytes:
    return socketmap.found(user, SECRET)


@dataclass
class Table:
    """A table that is served, and how Postfix asks it."""

    path: str
    keeper: FakeKeeper
    draining: trio.Event
    ended: trio.Event
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        self.clients.append(await trio.open_unix_socket(self.path))
        return self.clients[-1]

    async def ask(self, *keys: str) -> list[bytes]:
        """Ask for keys, one after the other on one connection."""
        client = await self.connect()
        return [await ask(client, key) for key in keys]


async def ask(client: trio.SocketStream, key: str) -> bytes:
    await client.send_all(socketmap.query("cms", key))
    return bytes(await client.receive_some())


@asynccontextmanager
async def serving(
    folder: Path, rules: Rules | Callable[[], Rules] = ONE, names: Mapping[str, str] | None = None
) -> AsyncIterator[Table]:
    """Serve a table; the keeper answers at once unless a test gives it another event."""
    table = Table(str(folder / "postfix.sock"), FakeKeeper(), trio.Event(), trio.Event())
    table.keeper.open.set()
    listening = await open_listener(table.path, 0o600)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        now = rules if callable(rules) else lambda: rules
        await postfix_table.serve(
            listening,
            now,
            lambda _grant: table.keeper,
            lambda: {} if names is None else names,
            draining=table.draining,
            task_status=task_status,
        )
        table.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield table
        for client in table.clients:
            await trio.aclose_forcefully(client)
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_sender_gets_its_login(tmp_path: Path) -> None:
    """User and token, with the configured spelling, whatever the letters of the sender."""
    async with serving(tmp_path, TWO) as table:
        assert [login(), login("b@example.test")] == await table.ask("a@EXAMPLE.test", "b@example.test")


@in_trio
async def test_a_host_means_the_only_account(tmp_path: Path) -> None:
    """With and without a port."""
    async with serving(tmp_path) as table:
        assert [login(), login()] == await table.ask(HOST, "smtp.office365.com")


@in_trio
async def test_a_host_means_the_default(tmp_path: Path) -> None:
    """Where there are several accounts."""
    async with serving(tmp_path, replace(TWO, default=B)) as table:
        assert [login("b@example.test")] == await table.ask(HOST)


@in_trio
async def test_the_default_may_be_whoever_signed_in(tmp_path: Path) -> None:
    """Its name is the one that the provider reported; before there is one, mail waits, and the keeper says for what."""
    rules, names = replace(ONE, accounts=(A, SOMEBODY), default=SOMEBODY), dict[str, str]()
    async with serving(tmp_path, rules, names) as table:
        table.keeper.reply = Deny("sign-in-required", "nobody has signed in", "`cms login`")
        (before,) = await table.ask(HOST)
        table.keeper.reply = token()
        names[SOMEBODY.grant.key] = "who@example.test"
        (after,) = await table.ask(HOST)

    assert socketmap.temporary("nobody has signed in: `cms login`") == before
    assert login("who@example.test") == after


@pytest.mark.parametrize(
    "rules", [replace(ONE, accounts=(SOMEBODY,)), replace(ONE, accounts=(A, SOMEBODY), default=SOMEBODY)]
)
@in_trio
async def test_who_signed_in_may_become_known_with_the_token(tmp_path: Path, rules: Rules) -> None:
    """As after a start, when the first query waits for the first token; and no login is ever one of nobody's."""
    names = dict[str, str]()
    async with serving(tmp_path, rules, names) as table:
        (nobody,) = await table.ask(HOST)
        table.keeper.open = trio.Event()
        client = await table.connect()
        await client.send_all(socketmap.query("cms", HOST))
        await trio.testing.wait_all_tasks_blocked()
        names[SOMEBODY.grant.key] = "who@example.test"
        table.keeper.open.set()
        somebody = bytes(await client.receive_some())

    assert b"TEMP nobody has signed in to this account yet" in nobody
    assert login("who@example.test") == somebody


@in_trio
async def test_a_host_without_a_default_waits(tmp_path: Path) -> None:
    """Several accounts and no default: a temporary failure that says what to do, and never "not found"."""
    async with serving(tmp_path, TWO) as table:
        (said,) = await table.ask(HOST)

    assert b"TEMP Postfix asks by host" in said
    assert b"default=" in said


@in_trio
async def test_a_strangers_sender_is_not_found(tmp_path: Path) -> None:
    """It is not this table's: Postfix asks for the host next, and then another relay may do without a login."""
    async with serving(tmp_path) as table:
        assert [STRANGER, STRANGER] == await table.ask("stranger@example.test", "@example.test")
        assert [] == table.keeper.asked


@in_trio
async def test_a_sender_may_be_who_signs_in_later(tmp_path: Path) -> None:
    """While an account's user is not known yet, no sender is a stranger."""
    async with serving(tmp_path, replace(ONE, accounts=(SOMEBODY,))) as table:
        (said,) = await table.ask("a@example.test")

    assert b"TEMP " in said


@pytest.mark.parametrize("key", ["a@example.test", HOST])
@in_trio
async def test_no_token_is_a_temporary_failure(tmp_path: Path, key: str) -> None:
    """The message waits in the queue, and Postfix's log has the reason and the next move."""
    async with serving(tmp_path) as table:
        table.keeper.reply = Deny("sign-in-required", "nobody has signed in", "`cms login`")
        hinted = await table.ask(key)
        table.keeper.reply = Deny("unavailable", "the network is down", "")
        bare = await table.ask(key)

    assert [socketmap.temporary("nobody has signed in: `cms login`")] == hinted
    assert [socketmap.temporary("the network is down")] == bare


@in_trio
async def test_a_bug_in_a_keeper_is_a_temporary_failure(tmp_path: Path) -> None:
    """Whatever goes wrong in cms, mail waits."""
    async with serving(tmp_path) as table:
        table.keeper.fails = RuntimeError("bug")

        assert b"TEMP cms failed" in (await table.ask(HOST))[0]


@in_trio
async def test_a_connection_carries_queries_as_long_as_it_lives(tmp_path: Path) -> None:
    """In one piece or in many, and under the rules of the moment."""
    rules = ONE
    async with serving(tmp_path, lambda: rules) as table:
        client = await table.connect()
        query = socketmap.query("cms", "b@example.test")
        for piece in (query[:1], query[1:9], query[9:] + query[:4]):
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        before = bytes(await client.receive_some())
        rules = TWO
        await client.send_all(query[4:])
        after = bytes(await client.receive_some())

    assert (STRANGER, login("b@example.test")) == (before, after)


@in_trio
async def test_two_queries_in_one_piece_get_two_replies(tmp_path: Path) -> None:
    """Nothing that was sent is forgotten."""
    async with serving(tmp_path) as table:
        client = await table.connect()
        await client.send_all(socketmap.query("cms", HOST) * 2)
        said = b""
        while len(said) < 2 * len(login()):
            said += await client.receive_some()

    assert login() * 2 == said


@in_trio
async def test_nonsense_is_a_permanent_failure_and_the_end(tmp_path: Path) -> None:
    """Who speaks something else is told so, once."""
    async with serving(tmp_path) as table:
        client = await table.connect()
        await client.send_all(b"SMTP a@example.test\n")
        said = [bytes(chunk) async for chunk in client]

    assert socketmap.permanent("a query begins with its length") == b"".join(said)


@in_trio
async def test_a_peer_that_may_not_ask_is_turned_away_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is cut off before a byte is read, which Postfix takes for a temporary failure, and the log has it."""
    # Tests may run as root, whom every rule admits: the rule itself is the fake here.
    monkeypatch.setattr(postfix_table, "admits", lambda _peer, _rules: False)
    async with serving(tmp_path) as table:
        client = await table.connect()
        said = [bytes(chunk) async for chunk in client]

    assert [] == said
    assert "denied" in capsys.readouterr().out


@in_trio
async def test_the_audit_line_has_the_user_and_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each query, in the form of the token socket's."""
    async with serving(tmp_path) as table:
        await table.ask(HOST, "stranger@example.test")
    lines = [line for line in capsys.readouterr().out.splitlines() if "request" in line]

    assert 2 == len(lines)
    for word in ("granted", "A@example.test", "postfix", str(os.getuid()), str(os.getpid())):
        assert word in lines[0]
    assert "unknown-account" in lines[1]
    assert SECRET not in "".join(lines)


@in_trio_jumps
async def test_a_query_that_does_not_come_to_its_end_is_dropped(tmp_path: Path) -> None:
    """It has five seconds; a connection between queries has half a minute."""
    async with serving(tmp_path) as table:
        idle, slow = await table.connect(), await table.connect()
        await ask(idle, HOST)
        await slow.send_all(b"18:cms")
        await trio.testing.wait_all_tasks_blocked()
        jump(wire.REQUEST_SECONDS)
        dropped = [bytes(chunk) async for chunk in slow]
        still = await ask(idle, HOST)
        await trio.testing.wait_all_tasks_blocked()
        jump(postfix_table.IDLE_SECONDS)
        ended = [bytes(chunk) async for chunk in idle]

    assert ([], login(), []) == (dropped, still, ended)


@in_trio
async def test_the_oldest_idle_connection_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postfix connects again by itself; a query in hand is answered first."""
    monkeypatch.setattr(connections, "MAX_RESTING", 2)
    async with serving(tmp_path) as table:
        table.keeper.open = trio.Event()
        busy = await table.connect()
        await busy.send_all(socketmap.query("cms", HOST))
        await trio.testing.wait_all_tasks_blocked()
        first, *_ = [await table.connect() for _ in range(3)]
        ended = [bytes(chunk) async for chunk in first]
        table.keeper.open.set()
        answered = bytes(await busy.receive_some())

    assert ([], login()) == (ended, answered)


@in_trio
async def test_draining_ends_idle_connections_and_answers_the_rest(tmp_path: Path) -> None:
    """A query in hand is answered, and then its connection ends too."""
    async with serving(tmp_path) as table:
        table.keeper.open = trio.Event()
        idle, busy = await table.connect(), await table.connect()
        await busy.send_all(socketmap.query("cms", HOST))
        await trio.testing.wait_all_tasks_blocked()
        table.draining.set()
        ended = [bytes(chunk) async for chunk in idle]
        table.keeper.open.set()
        answered = b"".join([bytes(chunk) async for chunk in busy])
        await table.ended.wait()

    assert ([], login(), False) == (ended, answered, Path(table.path).exists())
