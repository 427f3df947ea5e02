"""The table for Postfix: senders and hosts; it answers "not found" only for strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.keeper import SECRET, token
from support.sockets import NAMELESS, POSTFIXES, RULES, A, B, Kind, Served, connections_are_from, read_all, serving
from support.trio_run import in_trio, in_trio_jumps, jump

from cms.core.lifecycle import Deny
from cms.daemon.serving import connections, socketmap
from cms.daemon.serving.postfix_table import PostfixTable
from cms_oauth import wire

TWO = replace(RULES, accounts=(A, B))

HOST = "[smtp.office365.com]:587"
STRANGER = socketmap.not_found()


@pytest.fixture(params=POSTFIXES, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A table whose clients write all at once, and one whose clients do not."""
    kind: Kind = request.param
    return kind


def login(user: str = A.user) -> bytes:
    return socketmap.found(user, SECRET)


async def ask(client: trio.SocketStream, key: str) -> bytes:
    await client.send_all(socketmap.query("cms", key))
    return bytes(await client.receive_some())


async def ask_for(table: Served, *keys: str) -> list[bytes]:
    """Ask for keys, one after the other on one connection."""
    client = await table.connect(socketmap.query("cms", keys[0]))
    return [bytes(await client.receive_some()), *[await ask(client, key) for key in keys[1:]]]


@in_trio
async def test_a_host_means_the_only_account(tmp_path: Path, kind: Kind) -> None:
    """With and without a port."""
    async with serving(tmp_path, kind) as table:
        assert [login(), login()] == await ask_for(table, HOST, "smtp.office365.com")


@in_trio
async def test_a_host_means_the_default(tmp_path: Path, kind: Kind) -> None:
    """Where there are several accounts."""
    async with serving(tmp_path, kind, replace(TWO, default=B)) as table:
        assert [login("b@example.test")] == await ask_for(table, HOST)


@in_trio
async def test_the_default_may_be_an_account_without_a_user(tmp_path: Path, kind: Kind) -> None:
    """Its name is what the provider reported; before the first sign-in mail waits, and the keeper says why."""
    rules = replace(RULES, accounts=(A, NAMELESS), default=NAMELESS)
    async with serving(tmp_path, kind, rules) as table:
        table.keeper.reply = Deny("sign-in-required", "nobody has signed in", "`cms login`")
        (before,) = await ask_for(table, HOST)
        table.keeper.reply = token()
        table.keeper.who = "who@example.test"
        (after,) = await ask_for(table, HOST)

    assert socketmap.temporary("nobody has signed in: `cms login`") == before
    assert login("who@example.test") == after


@in_trio
async def test_a_host_without_a_default_waits(tmp_path: Path, kind: Kind) -> None:
    """Several accounts and no default: a temporary failure that says what to do, and never "not found"."""
    async with serving(tmp_path, kind, TWO) as table:
        (said,) = await ask_for(table, HOST)

    assert b"TEMP Postfix asks by host" in said
    assert b"default=" in said


@in_trio
async def test_who_may_not_ask_learns_of_no_accounts(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of how many there are: every query is a temporary failure in the same words."""
    async with serving(tmp_path, kind, replace(TWO, users=frozenset())) as table:
        connections_are_from(monkeypatch, 64_100)
        said = {await table.ask(socketmap.query("cms", each)) for each in (HOST, A.user, "no@example.test")}
        nonsense = await table.ask(b"nonsense,")

    (told,) = said
    assert b"TEMP this user may not ask at this socket" in told
    assert b"PERM this user may not ask at this socket" in nonsense


@in_trio
async def test_a_strangers_sender_is_not_found(tmp_path: Path, kind: Kind) -> None:
    """It is not this table's: Postfix asks for the host next, and then another relay may do without a login."""
    async with serving(tmp_path, kind) as table:
        assert [STRANGER, STRANGER] == await ask_for(table, "stranger@example.test", "@example.test")
        assert [] == table.keeper.asked


@in_trio
async def test_a_sender_may_be_who_signs_in_later(tmp_path: Path, kind: Kind) -> None:
    """While an account's user is not known yet, no sender is a stranger."""
    async with serving(tmp_path, kind, replace(RULES, accounts=(NAMELESS,))) as table:
        (said,) = await ask_for(table, "a@example.test")

    assert b"TEMP " in said


@pytest.mark.parametrize("key", ["a@example.test", HOST])
@in_trio
async def test_no_token_is_a_temporary_failure(tmp_path: Path, kind: Kind, key: str) -> None:
    """The message waits in the queue, and Postfix's log has the reason and the next move."""
    async with serving(tmp_path, kind) as table:
        table.keeper.reply = Deny("sign-in-required", "nobody has signed in", "`cms login`")
        hinted = await ask_for(table, key)
        table.keeper.reply = Deny("unavailable", "the network is down", "")
        bare = await ask_for(table, key)

    assert [socketmap.temporary("nobody has signed in: `cms login`")] == hinted
    assert [socketmap.temporary("the network is down")] == bare


@in_trio
async def test_a_connection_carries_queries_as_long_as_it_lives(tmp_path: Path, kind: Kind) -> None:
    """In one piece or in many, and under the rules of the moment."""
    async with serving(tmp_path, kind) as table:
        client = await table.connect()
        query = socketmap.query("cms", "b@example.test")
        for piece in (query[:1], query[1:9], query[9:] + query[:4]):
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        before = bytes(await client.receive_some())
        table.issuer.rules = TWO
        await client.send_all(query[4:])
        after = bytes(await client.receive_some())

    assert (STRANGER, login("b@example.test")) == (before, after)


@in_trio
async def test_two_queries_in_one_piece_get_two_replies(tmp_path: Path, kind: Kind) -> None:
    """Nothing that was sent is forgotten."""
    async with serving(tmp_path, kind) as table:
        client = await table.connect()
        await client.send_all(socketmap.query("cms", HOST) * 2)
        said = b""
        while len(said) < 2 * len(login()):
            said += await client.receive_some()

    assert login() * 2 == said


@in_trio
async def test_nonsense_is_a_permanent_failure_and_the_end(tmp_path: Path, kind: Kind) -> None:
    """Who speaks something else is told so, once."""
    async with serving(tmp_path, kind) as table:
        said = await read_all(await table.connect(b"SMTP a@example.test\n"))

    assert socketmap.permanent("a query begins with its length") == said


@in_trio_jumps
async def test_a_query_that_does_not_come_to_its_end_is_dropped(tmp_path: Path, kind: Kind) -> None:
    """It has five seconds; a connection between queries has half a minute."""
    async with serving(tmp_path, kind) as table:
        idle, slow = await table.connect(), await table.connect()
        await ask(idle, HOST)
        await slow.send_all(b"18:cms")
        await trio.testing.wait_all_tasks_blocked()
        jump(wire.REQUEST_SECONDS)
        dropped = await read_all(slow)
        still = await ask(idle, HOST)
        await trio.testing.wait_all_tasks_blocked()
        jump(PostfixTable.IDLE_SECONDS)
        ended = await read_all(idle)

    assert (b"", login(), b"") == (dropped, still, ended)


@in_trio
async def test_the_oldest_idle_connection_makes_room(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postfix connects again by itself; a query in hand is answered first."""
    monkeypatch.setattr(connections, "MAX_IDLE", 2)
    async with serving(tmp_path, kind) as table:
        table.keeper.open = trio.Event()
        busy = await table.connect()
        await busy.send_all(socketmap.query("cms", HOST))
        await trio.testing.wait_all_tasks_blocked()
        first, *_ = [await table.connect() for _ in range(3)]
        ended = await read_all(first)
        table.keeper.open.set()
        answered = bytes(await busy.receive_some())

    assert (b"", login()) == (ended, answered)


@in_trio
async def test_one_that_was_just_answered_is_the_youngest(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is in use outlives one that only lies there."""
    monkeypatch.setattr(connections, "MAX_IDLE", 2)
    async with serving(tmp_path, kind) as table:
        first, second = await table.connect(), await table.connect()
        await trio.testing.wait_all_tasks_blocked()
        before = await ask(first, HOST)
        await trio.testing.wait_all_tasks_blocked()
        await table.connect()
        ended = await read_all(second)
        after = await ask(first, HOST)

    assert (login(), b"", login()) == (before, ended, after)


EVERY = replace(A, user="*@example.test")


@in_trio
async def test_every_sender_of_a_domain(tmp_path: Path, kind: Kind) -> None:
    """Each logs in under its own name; a host means the only account of one address, and no account if there is none."""
    async with serving(tmp_path, kind, replace(RULES, accounts=(EVERY, B))) as table:
        assert [login("x@example.test"), login("b@example.test"), STRANGER, login("b@example.test")] == await ask_for(
            table, "X@example.test", "b@example.test", "x@other.test", HOST
        )
    async with serving(tmp_path, kind, replace(RULES, accounts=(EVERY,))) as table:
        (refused,) = await ask_for(table, HOST)
        assert b"Postfix asks by host" in refused
