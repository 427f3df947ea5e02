"""Connections of both kinds of socket: admitted, evicted, ended in time and drained, each without harm to the others."""

from __future__ import annotations

import itertools
import os
import select
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.keeper import SECRET, token
from support.sockets import CLOSED, KINDS, STRANGER, Kind, connections_are_from, read_all, serving
from support.trio_run import TEST_SECONDS, in_trio, in_trio_jumps, jump

from cms.core.policy import _DENIED, Peer
from cms.daemon.serving import connections, socketmap
from cms.daemon.serving.connections import REPLY_SECONDS, ClientConnection, Connections, Next, Wanted
from cms.daemon.serving.postfix_table import PostfixTable
from cms.daemon.serving.token_socket import TokenSocket
from cms.system import listener
from cms.system.listener import Accepted, Listener
from cms_oauth import wire

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection stays idle, however slow the machine is."""
    for each in (TokenSocket, PostfixTable):
        monkeypatch.setattr(each, "IDLE_SECONDS", TEST_SECONDS)


# A reply that no socket takes in one piece.
LARGE = "x" * (4 * 1024 * 1024)


@in_trio
async def test_a_peer_that_may_not_ask_is_refused(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request costs no keeper anything, ends its connection, and is in the log; the owner's twin is served."""
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, STRANGER, os.getuid())
        # With more to come, which is not read.
        refused = await read_all(await served.connect(kind.request() * 2))
        asked = len(served.keeper.asked)
        granted = await served.ask(kind.request())

        expected = {"token": b"", "postfix": socketmap.temporary(f"{_DENIED.message}: {_DENIED.hint}")}[kind.name]
        assert (expected, 0, kind.granted()) == (refused, asked, granted)
        assert ["denied", "granted"] == served.outcomes
    assert "denied" in capsys.readouterr().out


@pytest.mark.usefixtures("patient")
@in_trio
async def test_a_peer_is_who_it_was_when_it_connected(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked once, before anything is read, and the rules of the moment in which the request is whole decide."""
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, STRANGER)
        client = await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        connections_are_from(monkeypatch, os.getuid())
        assert SECRET.encode() not in await served.say(client, kind.request())
        connections_are_from(monkeypatch, STRANGER)
        client = await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        served.issuer.rules = replace(CLOSED, users=frozenset({STRANGER}))

        assert kind.granted() == await served.say(client, kind.request())


@in_trio
async def test_a_look_at_the_socket_is_nothing(tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    """Connecting and leaving again is no request, and no line in the log."""
    async with serving(tmp_path, kind) as served:
        assert b"" == await served.ask(b"")

        assert [] == served.outcomes
    assert "request" not in capsys.readouterr().out


@in_trio
async def test_a_request_that_comes_in_pieces_is_one(tmp_path: Path, kind: Kind) -> None:
    """A slow writer is waited for."""
    async with serving(tmp_path, kind) as served:
        client = await served.connect()
        request = kind.request()
        for piece in (request[:2], request[2:7], request[7:-1], request[-1:]):
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        await client.send_eof()

        assert kind.granted() == await read_all(client)


@in_trio
async def test_only_what_waits_gets_a_task(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is given where the connection is accepted, if the whole request is there; a table waits for the next query."""
    begun, serve = list[Next](), Connections._serve

    async def noted(self: Connections, connection: ClientConnection, wanted: Next) -> None:
        begun.append(wanted)
        await serve(self, connection, wanted)

    monkeypatch.setattr(Connections, "_serve", noted)
    async with serving(tmp_path, kind) as served:
        said = await served.ask(kind.request())

    expected = {"token at once": [], "postfix at once": [Wanted.TURN]}.get(str(kind), [Wanted.BYTES])
    assert (kind.granted(), expected) == (said, begun)


@in_trio
async def test_a_fault_of_one_connection_ends_with_it(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong at one connection, the log has it and the next is served."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    async with serving(tmp_path, kind) as served:
        with monkeypatch.context() as patch:
            patch.setattr(served.connections, "take", fail)
            lost = await served.ask(kind.request())
        good = await served.ask(kind.request())
        await trio.testing.wait_all_tasks_blocked()
        idle = len(served.connections.idle)

    assert (b"", kind.granted(), 0) == (lost, good, idle)
    assert "a request failed" in capsys.readouterr().out


@in_trio
async def test_a_client_that_leaves_early_is_nothing(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reply that its client no longer reads is no event; the audit line has it as granted."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        client = await served.connect(kind.request())
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        served.keeper.open.set()
        await trio.testing.wait_all_tasks_blocked()

        assert ["granted"] == served.outcomes
    assert "failed" not in capsys.readouterr().out


@in_trio
async def test_an_endless_request_costs_no_memory(tmp_path: Path, kind: Kind) -> None:
    """After a byte too many the connection is dropped, however much is to come."""
    async with serving(tmp_path, kind) as served:
        client = await served.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"S" * 64 * 1024 * 1024)
        await trio.testing.wait_all_tasks_blocked()

        assert ["bad-request"] == served.outcomes


# --- rounds ---


@in_trio
async def test_other_tasks_have_their_turn(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many connections, however many more wait; those are served next."""
    monkeypatch.setattr(connections, "MAX_ROUND", 2)
    answered, wait = list[int](), Listener.wait
    async with serving(tmp_path, kind) as served:

        async def noted(self: Listener, relieve: Callable[[], bool]) -> None:
            answered.append(len(served.outcomes))
            await wait(self, relieve)

        monkeypatch.setattr(Listener, "wait", noted)
        for client in [plain_client(served.path, kind.request()) for _ in range(5)]:
            assert kind.granted() == await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(client)))

    assert [2, 4, 5] == answered


@in_trio
async def test_a_client_that_asks_again_at_once_has_no_other_task_before_it(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next request comes while the line of the one before is written, or is looked for, and is answered in the same round."""
    answered, wait, clients = list[int](), Listener.wait, list[socket.socket]()
    looked, accept = list[int](), Listener.accept
    async with serving(tmp_path, kind) as served:
        flush = served.audit.flush

        def ask_again() -> None:
            flush()
            if len(clients) == 1:
                clients.append(plain_client(served.path, kind.request()))

        async def noted(self: Listener, relieve: Callable[[], bool]) -> None:
            answered.append(len(served.outcomes))
            await wait(self, relieve)

        def look(self: Listener, most: int = 1, looks: int = 1) -> list[Accepted]:
            looked.append(looks)
            return accept(self, most, looks)

        monkeypatch.setattr(served.audit, "flush", ask_again)
        monkeypatch.setattr(Listener, "wait", noted)
        monkeypatch.setattr(Listener, "accept", look)
        clients.append(plain_client(served.path, kind.request()))
        for client in clients:
            assert kind.granted() == await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(client)))

    assert [2] == answered
    assert {connections._LOOKS} == set(looked)


@in_trio
async def test_users_take_turns(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has many connections keeps no other waiting."""
    uids = iter([1, 1, 1, 2, 3, 2])
    monkeypatch.setattr(listener, "credentials", lambda _sock: (7, next(uids), 100))
    async with serving(tmp_path, kind) as served:
        for client in [plain_client(served.path, kind.request()) for _ in range(6)]:
            await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(client)))

        assert [1, 2, 3, 1, 2, 1] == [each["uid"] for each in reversed(served.audit.as_data(0.0))]


@in_trio
async def test_what_came_together_is_decided_once(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal questions of one user get one answer, and a line each; another user's, another question and a later one do not."""
    uids = iter([1, 1, 2, 1, 1])
    monkeypatch.setattr(listener, "credentials", lambda _sock: (7, next(uids), 100))
    async with serving(tmp_path, kind) as served:
        users = ["a@example.test", "a@example.test", "a@example.test", "A@example.test"]
        clients = [plain_client(served.path, kind.request(user)) for user in users]
        replies = [await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(each))) for each in clients]
        together = len(served.keeper.asked)
        later = await served.ask(kind.request())

        assert [kind.granted()] * 5 == [*replies, later]
        assert 5 == served.audit.outcomes["granted"]
        # A Postfix table may have several questions on one connection, and does not look for equal ones.
        assert (3 if kind.name == "token" else 4, 1) == (together, len(served.keeper.asked) - together)


@in_trio
async def test_a_refusal_of_what_came_together_is_decided_once(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that ask together for an account that is not there cost no more than those that get a token; each has its line."""
    async with serving(tmp_path, kind) as served:
        decided, decide = list[str](), served.issuer.token

        def count(peer: Peer, request: wire.TokenRequest) -> object:
            decided.append(request.user)
            return decide(peer, request)

        monkeypatch.setattr(served.issuer, "token", count)
        clients = [plain_client(served.path, kind.request("nobody@example.test")) for _ in range(3)]
        replies = {await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(each))) for each in clients}

        assert 1 == len(replies)
        assert 3 == served.audit.outcomes["unknown-account"]
        # As above.
        assert (1 if kind.name == "token" else 3) == len(decided)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["after", "before"])
@in_trio
async def test_a_stranger_is_not_given_what_another_was_granted(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch, order: tuple[int, int]
) -> None:
    """Not even one of the same user, whose process lacks the group, and who has asked the same thing at the same moment.

    Nor is the other given what the stranger was told.
    """
    gids = iter([(64_200, 64_201)[each] for each in order])
    monkeypatch.setattr(listener, "credentials", lambda _sock: (7, STRANGER, next(gids)))
    monkeypatch.setattr(listener, "groups", lambda _sock: ())
    async with serving(tmp_path, kind, replace(CLOSED, groups=frozenset({64_200}))) as served:
        clients = [plain_client(served.path, kind.request()) for _ in range(2)]
        said = [await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(each))) for each in clients]
        granted, refused = (said[each] for each in order)

        assert kind.granted() == granted
        assert SECRET.encode() not in refused
        assert (1, 1) == tuple(served.audit.outcomes[each] for each in ("granted", "denied"))


@in_trio
async def test_strangers_wait_for_who_may_ask(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has come together with a flood is served before it, and who comes later after a few of it."""
    strangers, at_once = 2 * connections.STRANGERS_AT_ONCE, connections.STRANGERS_AT_ONCE
    connections_are_from(monkeypatch, *[STRANGER] * strangers, os.getuid())
    async with serving(tmp_path, kind, CLOSED) as served:
        record, late = served.audit.record, list[socket.socket]()

        def come_later(peer: Peer, request: wire.TokenRequest, user: str, outcome: str) -> None:
            record(peer, request, user, outcome)
            if outcome == "denied" and not late:
                late.append(plain_client(served.path, kind.request()))

        monkeypatch.setattr(served.audit, "record", come_later)
        clients = [plain_client(served.path, kind.request()) for _ in range(strangers + 1)]
        for client in itertools.chain(clients, late):
            await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(client)))

        expected = ["granted", *["denied"] * at_once, "granted", *["denied"] * (strangers - at_once)]
        assert expected == served.outcomes


@in_trio
async def test_a_queue_full_of_strangers_is_hung_up_on(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may ask waits behind them for no answers but a few: the others are counted, unread."""
    strangers = 3 * connections.MAX_ROUND
    connections_are_from(monkeypatch, *[STRANGER] * strangers, os.getuid())
    async with serving(tmp_path, kind, CLOSED) as served:
        record, answered = served.audit.record, list[str]()

        def note(peer: Peer, request: wire.TokenRequest, user: str, outcome: str) -> None:
            record(peer, request, user, outcome)
            answered.append(outcome)

        monkeypatch.setattr(served.audit, "record", note)
        clients = [plain_client(served.path, kind.request()) for _ in range(strangers + 1)]
        for client in clients:
            await read_all(trio.SocketStream(trio.socket.from_stdlib_socket(client)))

        most = 4 * (connections.MAX_STRANGERS + connections.STRANGERS_AT_ONCE)
        assert 1 == answered.count("granted")
        assert connections.MAX_STRANGERS <= answered.count("denied") <= most
        assert strangers == served.audit.outcomes["denied"]


# --- eviction ---


@pytest.mark.usefixtures("patient")
@in_trio
async def test_strangers_crowd_nobody_out(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connect and say nothing, they have few places, and make room for each other alone."""
    monkeypatch.setattr(connections, "MAX_IDLE", 24)
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, os.getuid())
        admitted = [await served.connect() for _ in range(connections.MAX_IDLE)]
        await trio.testing.wait_all_tasks_blocked()
        connections_are_from(monkeypatch, STRANGER)
        strangers = [await served.connect() for _ in range(60)]
        await trio.testing.wait_all_tasks_blocked()

        assert connections.MAX_STRANGERS == sum(not at_end(each) for each in strangers)
        assert {kind.granted()} == {await served.say(each, kind.request()) for each in admitted}


@pytest.mark.usefixtures("patient")
@in_trio
async def test_a_stranger_makes_room_first(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a user who may ask, even one who has been idle for longer."""
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, os.getuid(), STRANGER)
        admitted, stranger = await served.connect(), await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert served.connections._evict()

        assert b"" == await read_all(stranger)
        assert kind.granted() == await served.say(admitted, kind.request())


@in_trio
async def test_a_stranger_without_a_place_is_dropped(
    tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each of the few places has something unread: there are never more."""
    monkeypatch.setattr(connections, "MAX_STRANGERS", 1)
    async with serving(tmp_path, kind, CLOSED) as served:
        connections_are_from(monkeypatch, STRANGER)
        first = await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        os.write(first.socket.fileno(), kind.request()[:3])
        # No other task runs before this one.
        second = ClientConnection(socket.socket(), Peer(1, STRANGER, STRANGER), stranger=True)

        assert (None, -1) == (served.connections._lie_idle(second, 0.0), second.sock.fileno())
        assert b"" == await served.say(first, b"")


@in_trio
async def test_a_thousand_silent_clients_keep_no_other_waiting(tmp_path: Path, kind: Kind) -> None:
    """The oldest that have said nothing make room; the 1,001st is served at once."""
    async with serving(tmp_path, kind) as served:
        for _ in range(1000):
            await served.connect()
        said = await served.ask(kind.request())
        await trio.testing.wait_all_tasks_blocked()
        open_now = [client for client in served.clients if client.socket.fileno() >= 0 and not at_end(client)]

    assert kind.granted() == said
    assert connections.MAX_IDLE - 1 <= len(open_now) <= connections.MAX_IDLE


def at_end(client: trio.SocketStream) -> bool:
    """Whether the daemon has closed this connection."""
    look = select.poll()
    # A hang-up is always reported.
    look.register(client.socket.fileno(), 0)
    return bool(look.poll(0))


@in_trio
async def test_a_full_request_is_never_evicted(tmp_path: Path, kind: Kind) -> None:
    """Requests that wait for a token get it, whatever comes after them."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        waiting = [await served.connect(kind.request()) for _ in range(20)]
        for client in waiting:
            await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(connections.MAX_IDLE + 50):
            await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        served.keeper.open.set()
        said = {await read_all(client) for client in waiting}

    assert {kind.granted()} == said


@in_trio
async def test_a_request_that_has_come_unread_is_never_evicted(tmp_path: Path, kind: Kind) -> None:
    """Not even in the moment in which the daemon has not looked at it yet; others make room."""
    async with serving(tmp_path, kind) as served:
        asks, silent = await served.connect(), await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        # No other task runs before the eviction.
        os.write(asks.socket.fileno(), kind.request())
        assert served.connections._evict()
        assert not served.connections._evict()
        await asks.send_eof()

        assert (kind.granted(), b"") == (await read_all(asks), await read_all(silent))
        assert ["granted"] == served.outcomes


# --- deadlines ---


@in_trio_jumps
async def test_a_request_that_does_not_come_to_its_end_is_dropped(tmp_path: Path, kind: Kind) -> None:
    """It has five seconds."""
    async with serving(tmp_path, kind) as served:
        client = await served.connect(kind.request()[:3])
        await trio.testing.wait_all_tasks_blocked()
        jump(wire.REQUEST_SECONDS - 0.5)
        await trio.testing.wait_all_tasks_blocked()
        early = at_end(client)
        jump(0.5)
        await trio.testing.wait_all_tasks_blocked()
        late = at_end(client)
        said = await read_all(client)

        assert (False, True, b"", []) == (early, late, said, served.outcomes)


@in_trio_jumps
async def test_the_time_for_a_request_begins_with_its_first_byte(tmp_path: Path, kind: Kind) -> None:
    """However long the connection lay idle before it."""
    async with serving(tmp_path, kind) as served:
        client = await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        jump(served.connections.IDLE_SECONDS - 0.5)
        await client.send_all(kind.request()[:3])
        await trio.testing.wait_all_tasks_blocked()
        jump(wire.REQUEST_SECONDS - 0.5)
        await client.send_all(kind.request()[3:])
        await client.send_eof()

        assert kind.granted() == await read_all(client)


@in_trio_jumps
async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path, kind: Kind) -> None:
    """A reply that is not taken in time is given up."""
    async with serving(tmp_path, kind) as served:
        served.keeper.reply = replace(token(), secret=LARGE)
        client = await served.connect(kind.request())
        await trio.testing.wait_all_tasks_blocked()
        # Its clock goes on beside the jumps: half of the time leaves a slow machine as much.
        jump((wire.WAIT_SECONDS + REPLY_SECONDS) / 2)
        await trio.testing.wait_all_tasks_blocked()
        early = at_end(client)
        jump((wire.WAIT_SECONDS + REPLY_SECONDS) / 2)
        await trio.testing.wait_all_tasks_blocked()
        late = at_end(client)
        said = await read_all(client)

        assert (False, True, ["granted"]) == (early, late, served.outcomes)
        assert 0 < len(said) < len(LARGE)


@in_trio
async def test_a_reply_in_many_pieces_is_whole(tmp_path: Path, kind: Kind) -> None:
    """A socket may take less than it is given."""
    async with serving(tmp_path, kind) as served:
        served.keeper.reply = replace(token(), secret=LARGE)

        assert kind.granted(secret=LARGE) == await served.ask(kind.request())


# --- draining ---


@in_trio
async def test_draining_answers_what_is_full_and_nothing_else(tmp_path: Path, kind: Kind) -> None:
    """No connection is accepted any more, idle ones are dropped, and the last answer is still given."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        waiting, idle = await served.connect(kind.request()), await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        served.draining.set()

        assert b"" == await read_all(idle)
        assert not os.path.lexists(served.path)
        assert not served.ended.is_set()
        served.keeper.open.set()
        assert kind.granted() == await read_all(waiting)
        await served.ended.wait()


@in_trio
async def test_draining_answers_what_has_come_in_time(tmp_path: Path, kind: Kind) -> None:
    """Requests that were sent before the socket closed, on connections that are not accepted or not read yet."""
    async with serving(tmp_path, kind) as served:
        begun = [await served.connect() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        # No other task runs before `draining` is set.
        for client in begun:
            os.write(client.socket.fileno(), kind.request())
        queued = [plain_client(served.path, kind.request()) for _ in range(20)]
        silent = plain_client(served.path)
        served.draining.set()
        clients = [*begun, *(trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in queued)]
        said = {await read_all(each) for each in clients}
        await served.ended.wait()

        assert ({kind.granted()}, ["granted"] * 23) == (said, served.outcomes)
        assert b"" == silent.recv(1)
        silent.close()


def plain_client(path: str, request: bytes = b"") -> socket.socket:
    """Connect at once, and send a whole request if there is one: no other task runs meanwhile."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    if request:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
    return client


@in_trio
async def test_draining_drops_half_a_request(tmp_path: Path, kind: Kind) -> None:
    """It may never come to its end."""
    async with serving(tmp_path, kind) as served:
        read, unread = await served.connect(kind.request()[:4]), await served.connect()
        await trio.testing.wait_all_tasks_blocked()
        os.write(unread.socket.fileno(), kind.request()[:4])
        served.draining.set()
        await served.ended.wait()

        assert (b"", b"", []) == (await read_all(read), await read_all(unread), served.outcomes)
