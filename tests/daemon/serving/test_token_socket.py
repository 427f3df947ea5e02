"""The token socket: requests answered, strangers and nonsense dropped, and nobody kept waiting by anybody else."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest
import trio
import trio.testing
from support.keeper import SCOPES, SECRET, FakeKeeper
from support.trio_run import in_trio, in_trio_clock, until

from cms.core.accounts import Account, Grant
from cms.core.lifecycle import Deny
from cms.core.policy import Peer, Rules
from cms.daemon.serving import connections, issue, token_socket
from cms.daemon.serving.connections import Connection
from cms.system.clock import Clock
from cms.system.listener import Listener, open_listener
from cms_oauth import wire

GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (SCOPES,))
ACCOUNT = Account("A@example.test", GRANT, {"SMTP": SCOPES})
NOBODY = Account("", replace(GRANT, login=""), {"SMTP": SCOPES})
RULES = Rules(os.getuid(), (ACCOUNT,), ("SMTP",))


class Stopped(Clock):
    """Ten minutes after the token was issued, for ever."""

    def boot(self) -> float:
        return 10_600.0

    def wall(self) -> float:
        return 1_700_000_600.0


@dataclass
class House:
    """A server at a path, and how to ask it."""

    path: str
    keeper: FakeKeeper
    draining: trio.Event
    clients: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        client = await trio.open_unix_socket(self.path)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes, *, half_close: bool = False) -> bytes:
        client = await self.connect()
        await client.send_all(request)
        if half_close:
            await client.send_eof()
        return await read_all(client)


async def read_all(client: trio.SocketStream) -> bytes:
    """Return what the daemon says until it closes, or resets, the connection."""
    said = b""
    try:
        while chunk := await client.receive_some():
            said += chunk
    except trio.BrokenResourceError:
        pass
    await client.aclose()
    return said


@asynccontextmanager
async def serving(
    folder: Path, *, rules: Callable[[], Rules] = lambda: RULES, names: Mapping[str, str] | None = None
) -> AsyncIterator[House]:
    """Run a server; the keeper answers at once unless a test gives it another event."""
    house = House(str(folder / "cms.sock"), FakeKeeper(), trio.Event())
    house.keeper.open.set()
    made = await open_listener(house.path, 0o600)
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await token_socket.serve(
                made,
                rules,
                lambda _grant: house.keeper,
                lambda: names if names is not None else {},
                draining=house.draining,
                clock=Stopped(),
                task_status=task_status,
            )

        await nursery.start(run)
        yield house
        for client in house.clients:
            await trio.aclose_forcefully(client)
        nursery.cancel_scope.cancel()


PLAIN = {
    "xoauth2": b"user=A@example.test\x01auth=Bearer eyJ.access.token\x01\x01",
    "token": SECRET.encode(),
    "oauthbearer": b"n,a=A@example.test,\x01auth=Bearer eyJ.access.token\x01\x01",
}


@in_trio
async def test_a_request_ends_with_a_newline_or_a_half_close(tmp_path: Path) -> None:
    """Both the original protocol's half-close and a newline get the bytes, nothing else, and the end."""
    async with serving(tmp_path) as house:
        by_line = await house.ask(b"SMTP a@example.test\n")
        by_half_close = await house.ask(b"SMTP a@example.test", half_close=True)

    assert (PLAIN["xoauth2"], PLAIN["xoauth2"]) == (by_line, by_half_close)


@pytest.mark.parametrize("form", sorted(PLAIN))
@in_trio
async def test_each_form_is_given_with_the_configured_spelling(tmp_path: Path, form: str) -> None:
    """Whatever the letters of the request, the SASL user is the account's own."""
    async with serving(tmp_path) as house:
        said = await house.ask(f"SMTP,{form} a@EXAMPLE.test\n".encode())

    assert PLAIN[form] == said


@in_trio
async def test_a_request_that_comes_in_pieces_is_one(tmp_path: Path) -> None:
    """A slow writer is waited for."""
    async with serving(tmp_path) as house:
        client = await house.connect()
        for piece in (b"SM", b"TP,token", b" a@example.test", b"\n"):
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()

        assert SECRET.encode() == await read_all(client)


@in_trio
async def test_json_has_the_token_and_its_time(tmp_path: Path) -> None:
    """The json form gives the life that is left by the boot clock, and its end by the wall clock of now."""
    async with serving(tmp_path) as house:
        said = json.loads(await house.ask(b"SMTP,json a@example.test\n"))

    assert (1, SECRET, 1_700_003_600) == (said["version"], said["token"], said["expires_at"])
    assert 3_000 == said["expires_in"]


@in_trio
async def test_options_reach_the_keeper(tmp_path: Path) -> None:
    """min= and rejected= are the keeper's to weigh."""
    async with serving(tmp_path) as house:
        await house.ask(b"SMTP,min=900,rejected=0123456789abcdef a@example.test\n")

    assert [(SCOPES, 900, "0123456789abcdef")] == house.keeper.asked


@in_trio
async def test_an_account_without_a_user_is_whoever_signed_in(tmp_path: Path) -> None:
    """The SASL user of such an account is the name that the provider reported."""
    rules = replace(RULES, accounts=(NOBODY,))
    async with serving(tmp_path, rules=lambda: rules, names={NOBODY.grant.key: "Who@example.test"}) as house:
        said = await house.ask(b"SMTP\n")

    assert said.startswith(b"user=Who@example.test\x01")


@pytest.mark.parametrize("request_", [b"SMTP b@example.test\n", b"POP a@example.test\n", b"no request\n", b"\n"])
@in_trio
async def test_a_plain_refusal_is_nothing(tmp_path: Path, request_: bytes) -> None:
    """No tool may ever send an error text as a credential."""
    async with serving(tmp_path) as house:
        assert b"" == await house.ask(request_)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"SMTP,json b@example.test\n", "unknown-account"),
        (b"POP,json a@example.test\n", "unknown-protocol"),
        (b"smtp,json a@example.test\n", "bad-request"),
        (b"SMTP,json,token a@example.test\n", "bad-request"),
        (b"SMTP,json " + b"x" * wire.MAX_REQUEST, "bad-request"),
    ],
)
@in_trio
async def test_a_refusal_as_json_says_why(tmp_path: Path, request_: bytes, code: str) -> None:
    """Who asks for JSON is told what is wrong, of a bad request too."""
    async with serving(tmp_path) as house:
        said = json.loads(await house.ask(request_, half_close=True))

    assert code == said["error"]["code"]
    assert said["error"]["message"]
    assert said["error"]["hint"]


@in_trio
async def test_a_keepers_refusal_is_passed_on(tmp_path: Path) -> None:
    """What the keeper cannot give is explained in its words, and plainly it is nothing."""
    async with serving(tmp_path) as house:
        house.keeper.reply = Deny("sign-in-required", "nobody has signed in", "cms login", 0.0)
        plain = await house.ask(b"SMTP a@example.test\n")
        said = json.loads(await house.ask(b"SMTP,json a@example.test\n"))

    assert b"" == plain
    assert "sign-in-required" == said["error"]["code"]


@in_trio
async def test_a_stranger_is_turned_away_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not ask is cut off before a byte is read, and the log has it."""
    asked: list[int] = []

    def admits(peer: Peer, _rules: Rules) -> bool:
        asked.append(peer.uid)
        return False

    # Tests may run as root, whom every rule admits: the rule itself is the fake here.
    monkeypatch.setattr(token_socket, "admits", admits)
    async with serving(tmp_path) as house:
        client = await house.connect()
        said = await read_all(client)

    assert (b"", [os.getuid()]) == (said, asked)
    assert "denied" in capsys.readouterr().out


@in_trio
async def test_the_audit_line_has_who_and_what_and_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each request: uid, pid, protocol, outcome, and whose token it was though none was named."""
    async with serving(tmp_path) as house:
        await house.ask(b"SMTP\n")
        await house.ask(b"POP b@example.test\n")
    lines = [line for line in capsys.readouterr().out.splitlines() if "request" in line]

    assert 2 == len(lines)
    for word in ("granted", "A@example.test", "SMTP", str(os.getuid()), str(os.getpid())):
        assert word in lines[0]
    assert "unknown-account" in lines[1]
    assert SECRET not in "".join(lines)


@in_trio
async def test_a_look_at_the_socket_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Connecting and leaving again is no request, and no line in the log."""
    async with serving(tmp_path) as house:
        assert b"" == await house.ask(b"", half_close=True)

    assert "request" not in capsys.readouterr().out


@in_trio
async def test_a_fault_in_the_keeper_is_an_answer(tmp_path: Path) -> None:
    """A bug behind one account is told to its client, and others are served on."""
    async with serving(tmp_path) as house:
        house.keeper.fails = RuntimeError("bug")
        said = json.loads(await house.ask(b"SMTP,json a@example.test\n"))
        house.keeper.fails = None

        assert "unavailable" == said["error"]["code"]
        assert SECRET.encode() == await house.ask(b"SMTP,token a@example.test\n")


@in_trio
async def test_a_fault_of_one_connection_ends_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong at one connection, the next is served."""
    faults = iter([True])

    def rules() -> Rules:
        if next(faults, False):
            raise RuntimeError("bug")
        return RULES

    async with serving(tmp_path, rules=rules) as house:
        assert b"" == await house.ask(b"SMTP a@example.test\n")
        assert SECRET.encode() == await house.ask(b"SMTP,token a@example.test\n")

    assert "a request failed" in capsys.readouterr().out


@in_trio
async def test_a_client_that_leaves_early_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reply that nobody reads any more is no event; the audit line has it as granted."""
    async with serving(tmp_path) as house:
        house.keeper.open = trio.Event()
        client = await house.connect()
        await client.send_all(b"SMTP a@example.test\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        house.keeper.open.set()
        await trio.testing.wait_all_tasks_blocked()
        said = capsys.readouterr().out

    assert "granted" in said
    assert "failed" not in said


@in_trio
async def test_an_endless_request_costs_no_memory(tmp_path: Path) -> None:
    """After a byte too many the connection is dropped, however much is to come."""
    async with serving(tmp_path) as house:
        client = await house.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"S" * 64 * 1024 * 1024)

        assert b"" == await read_all(client)


@in_trio
async def test_a_thousand_silent_clients_keep_nobody_waiting(tmp_path: Path) -> None:
    """The oldest that have said nothing make room; the 1,001st is served at once."""
    async with serving(tmp_path) as house:
        for _ in range(1000):
            await house.connect()
        with trio.fail_after(2):
            said = await house.ask(b"SMTP,token a@example.test\n")
        await trio.testing.wait_all_tasks_blocked()
        open_now = [client for client in house.clients if client.socket.fileno() >= 0 and not at_end(client)]

    assert SECRET.encode() == said
    assert connections.MAX_RESTING - 1 <= len(open_now) <= connections.MAX_RESTING


def at_end(client: trio.SocketStream) -> bool:
    """Whether the daemon has closed this connection."""
    with socket.socket(fileno=os.dup(client.socket.fileno())) as plain:
        plain.setblocking(False)
        try:
            return plain.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False


@in_trio
async def test_a_whole_request_is_never_evicted(tmp_path: Path) -> None:
    """Requests that wait for a token get it, whatever comes after them."""
    async with serving(tmp_path) as house:
        house.keeper.open = trio.Event()
        waiting = [await house.connect() for _ in range(20)]
        for client in waiting:
            await client.send_all(b"SMTP,token a@example.test\n")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(connections.MAX_RESTING + 50):
            await house.connect()
        await trio.testing.wait_all_tasks_blocked()
        house.keeper.open.set()
        said = {await read_all(client) for client in waiting}

        assert {SECRET.encode()} == said


@in_trio
async def test_too_many_waiting_requests_are_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the answer is busy, at once."""
    monkeypatch.setattr(issue, "MAX_WAITING", 3)
    async with serving(tmp_path) as house:
        house.keeper.open = trio.Event()
        for _ in range(3):
            await (await house.connect()).send_all(b"SMTP a@example.test\n")
        await trio.testing.wait_all_tasks_blocked()
        said = json.loads(await house.ask(b"SMTP,json a@example.test\n"))

    assert "busy" == said["error"]["code"]


@in_trio
async def test_draining_answers_what_is_whole_and_nothing_else(tmp_path: Path) -> None:
    """On the way out no connection is taken, the silent ones are dropped, and the last answer is still given."""
    async with serving(tmp_path) as house:
        house.keeper.open = trio.Event()
        waiting, silent = await house.connect(), await house.connect()
        await waiting.send_all(b"SMTP,token a@example.test\n")
        await trio.testing.wait_all_tasks_blocked()
        house.draining.set()
        await trio.testing.wait_all_tasks_blocked()

        assert b"" == await read_all(silent)
        assert not os.path.lexists(house.path)
        house.keeper.open.set()
        assert SECRET.encode() == await read_all(waiting)


# --- deadlines, on a clock that jumps ---


class FakeSocket:
    """A client's socket as the server sees it: silent after `chunks`, deaf after `room` bytes."""

    def __init__(self, *chunks: bytes, room: int = 1 << 20) -> None:
        self.chunks = list(chunks)
        self.room = room
        self.sent = b""
        self.closed_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.closed_at = trio.current_time()

    async def recv(self, size: int) -> bytes:
        if not self.chunks:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0)[:size]

    async def send(self, data: bytes) -> int:
        taken = min(len(data), 7, self.room - len(self.sent))
        if not taken:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.sent += data[:taken]
        return taken

    def shutdown(self, _how: int) -> None:
        pass


async def serve_alone(sock: FakeSocket, keeper: FakeKeeper, patience: float = 60.0) -> float:
    """Serve one connection; return after how many seconds it was closed."""
    listener = Listener("/x", trio.socket.socket(socket.AF_UNIX))
    one = token_socket._Server(listener, lambda: RULES, lambda _grant: keeper, dict, Stopped())
    connection = Connection(sock, Peer(1, os.getuid(), 1))  # type: ignore[arg-type]  # what is used
    one.connections.resting[connection] = None
    before = trio.current_time()
    with trio.move_on_after(patience):
        await one.connections.serve(connection)
    listener.sock.close()
    assert sock.closed_at is not None
    return sock.closed_at - before


@in_trio_clock
async def test_a_silent_client_has_five_seconds() -> None:
    """A request that is not whole in time is dropped."""
    assert wire.REQUEST_SECONDS == await serve_alone(FakeSocket(b"SMTP"), FakeKeeper())


@in_trio_clock
async def test_a_client_that_does_not_read_is_dropped() -> None:
    """A reply that is not taken in time is given up."""
    keeper = FakeKeeper()
    keeper.open.set()
    sock = FakeSocket(b"SMTP,token a@example.test\n", room=3)

    assert wire.WAIT_SECONDS + token_socket.REPLY_SECONDS == await serve_alone(sock, keeper)
    assert SECRET[:3].encode() == sock.sent


@in_trio_clock
async def test_a_reply_in_many_pieces_is_whole() -> None:
    """A socket may take less than it is given."""
    keeper = FakeKeeper()
    keeper.open.set()
    sock = FakeSocket(b"SMTP a@example.test\n")
    await serve_alone(sock, keeper)

    assert PLAIN["xoauth2"] == sock.sent


@in_trio_clock
async def test_a_client_that_was_told_to_make_room_is_not_answered() -> None:
    """A request that becomes whole at the moment of its eviction stays unanswered, not half answered."""
    listener = Listener("/x", trio.socket.socket(socket.AF_UNIX))
    keeper = FakeKeeper()
    one = token_socket._Server(listener, lambda: RULES, lambda _grant: keeper, dict, Stopped())
    sock = FakeSocket(b"SMTP a@example.test\n")
    connection = Connection(sock, Peer(1, os.getuid(), 1))  # type: ignore[arg-type]  # what is used
    await one._converse(connection)
    listener.sock.close()

    assert (b"", []) == (sock.sent, keeper.asked)


# --- nonsense ---


def nonsense(jitter: random.Random) -> bytes:
    """Return random bytes, half of them near to a request."""
    raw = jitter.randbytes(jitter.randrange(1, 80))
    if jitter.random() < 0.5:
        return raw
    words = [b"SMTP", b"IMAP", b",json", b",token", b",min=", b" ", b"a@example.test", b"\n", b"\r", b"=", raw[:5]]
    return b"".join(jitter.choice(words) for _ in range(jitter.randrange(1, 8)))


@in_trio
async def test_ten_thousand_strings_of_nonsense_do_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, no credential for what is no request, no descriptor lost."""
    jitter = random.Random(2)
    async with serving(tmp_path) as house:
        await house.ask(b"x\n")
        before = open_files()
        for _ in range(10_000):
            request = nonsense(jitter)
            client = blocking_ask(house.path, request)
            await trio.testing.wait_all_tasks_blocked()
            said = read_now(client)
            assert SECRET.encode() not in said or is_good(request), request
            assert said == b"" or said == PLAIN["xoauth2"] or SECRET.encode() == said or b"{" == said[:1]
        after = open_files()

    assert before == after
    assert "failed" not in capsys.readouterr().out


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def blocking_ask(path: str, request: bytes) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    return client


def read_now(client: socket.socket) -> bytes:
    with client:
        client.setblocking(False)
        try:
            return client.recv(65_536)
        except (BlockingIOError, ConnectionResetError):
            return b""


def is_good(request: bytes) -> bool:
    try:
        return wire.parse_request(request).protocol == "SMTP"
    except wire.BadRequest:
        return False


@in_trio
async def test_a_request_is_judged_by_the_configuration_of_its_moment(tmp_path: Path) -> None:
    """An account that a reload has taken away between connecting and asking is unknown, and nothing fails."""
    rules = [RULES]
    async with serving(tmp_path, rules=lambda: rules[0]) as house:
        client = await house.connect()
        await client.send_all(b"SMTP,js")
        await trio.testing.wait_all_tasks_blocked()
        rules[0] = replace(RULES, accounts=(replace(ACCOUNT, user="b@example.test"),))
        await client.send_all(b"on a@example.test\n")
        said = json.loads(await read_all(client))

    assert "unknown-account" == said["error"]["code"]
    assert [] == house.keeper.asked


@in_trio
async def test_who_waits_over_a_reload_is_answered_by_the_new_configuration(tmp_path: Path) -> None:
    """A refusal under a configuration that is no more is not passed on: the question is put again."""
    rules = [RULES]
    async with serving(tmp_path, rules=lambda: rules[0]) as house:
        house.keeper.open = trio.Event()
        held = house.keeper.reply
        house.keeper.reply = Deny("unavailable", "the configuration has changed", "ask again")
        client = await house.connect()
        await client.send_all(b"SMTP,token a@example.test\n")
        await until(lambda: house.keeper.asked)
        rules[0] = replace(RULES)
        house.keeper.after = [held]
        house.keeper.open.set()
        said = await read_all(client)

    assert (PLAIN["token"], 2) == (said, len(house.keeper.asked))


@in_trio
async def test_a_name_that_comes_with_the_token_is_in_the_reply(tmp_path: Path) -> None:
    """An account without a user: its first token and its name come together; without a name there is no reply."""
    rules, names = replace(RULES, accounts=(NOBODY,)), dict[str, str]()
    async with serving(tmp_path, rules=lambda: rules, names=names) as house:
        nameless = json.loads(await house.ask(b"SMTP,json\n"))
        house.keeper.open = trio.Event()
        client = await house.connect()
        await client.send_all(b"SMTP\n")
        await until(lambda: len(house.keeper.asked) == 2)
        names[NOBODY.grant.key] = "A@example.test"
        house.keeper.open.set()
        said = await read_all(client)

    assert ("sign-in-required", PLAIN["xoauth2"]) == (nameless["error"]["code"], said)
