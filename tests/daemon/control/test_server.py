"""The control socket: the owner's and root's, one command a connection, lines of JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from support.trio_run import in_trio, in_trio_clock

from cms.core.accounts import DEFAULT_REGISTRATION, Grant
from cms.core.json_lines import Garbled
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Trouble
from cms.core.policy import Peer
from cms.daemon.commands import Commands
from cms.daemon.control import answers, server
from cms.daemon.control.answers import Ask, Result, ended
from cms.daemon.control.server import Lines
from cms.daemon.signin.flow import FLOW_SECONDS, Flow
from cms.daemon.signin.http import Address
from cms.grants.messages import Place, Prompt
from cms.system.listener import open_listener

SECRET = "eyJ.access.token"
GRANT = Grant("https://login.example.test/common", DEFAULT_REGISTRATION.client_id, "a@example.test")
GRANTED = Granted(SECRET, 1.0, 3600.0, sign_in=SignInFacts(key_from="keyring", who="A@example.test"))


def new_flow() -> Flow:
    flow = Flow(GRANT, "paste")
    flow.prompted = Prompt(7, "paste", "https://login.example.test/authorize", state="the-state")
    return flow


@dataclass
class FakeCommands(Commands):
    """Remembers what it was told."""

    told: list[tuple[str, ...]] = field(default_factory=list)
    flow: Flow = field(default_factory=new_flow)
    refusal: Result | None = None

    async def look(self) -> None:
        self.told.append(("look",))

    def status(self, user: str = "") -> Result:
        if self.refusal:
            raise RuntimeError("bug")
        self.told.append(("status", user))
        return Result(True, "", extra={"json": {"version": 1}, "exit_code": 0})

    def login(self, user: str, method: str) -> Flow | Result:
        self.told.append(("login", user, method))
        return self.refusal or self.flow

    async def named_in(self, place: Place) -> str:
        return "b@x.test" if place.path == "/of-b" else ""

    async def bring_in(self, user: str, place: Place) -> Outcome | Result:
        self.told.append(("import", user, place.path, place.source, place.entry, place.password))
        if place.path == "/sealed" and not place.password:
            return Refused(Trouble("password", "it has a password"))
        return self.refusal or GRANTED

    async def errand(self, command: str, message: Mapping[str, Any], ask: Ask) -> Result:
        self.told.append((command, str(message.get("users"))))
        await ask({"event": "told", "message": "hello"})
        answer = await ask({"event": "question", "message": "Really?"})
        return Result(bool(answer.get("yes")), "done with it")

    async def logout(self, user: str) -> Result:
        self.told.append(("logout", user))
        return Result(True, "gone")

    async def refresh(self, user: str) -> Result:
        self.told.append(("refresh", user))
        return Result(False, "not now", "later")

    async def reload(self) -> Result:
        self.told.append(("reload",))
        return Result(True, "loaded")

    def stop(self) -> Result:
        self.told.append(("stop",))
        return Result(True, "stopping")


class Client(Lines):
    """The client's side of a connection; `stream` is what carries its lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.stream = stream


@dataclass
class Control:
    path: str
    commands: FakeCommands

    async def connect(self) -> Client:
        return Client(await trio.open_unix_socket(self.path))

    async def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        lines = await self.connect()
        await lines.send(message)
        reply = await lines.receive()
        await lines.stream.aclose()
        return reply


@asynccontextmanager
async def serving(folder: Path, owner: int | None = None) -> AsyncIterator[Control]:
    control = Control(str(folder / "control.sock"), FakeCommands())
    made = await open_listener(control.path, 0o600)
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            uid = os.getuid() if owner is None else owner
            await server.serve(made, control.commands, owner=uid, task_status=task_status)

        await nursery.start(run)
        yield control
        nursery.cancel_scope.cancel()


DONE = {
    "ping": (True, "here", ""),
    "logout": (True, "gone", ""),
    "refresh": (False, "not now", "later"),
    "reload": (True, "loaded", ""),
    "stop": (True, "stopping", ""),
}


@pytest.mark.parametrize("command", sorted(DONE))
@in_trio
async def test_each_command_is_carried_out(tmp_path: Path, command: str) -> None:
    """What the daemon makes of a command is the answer, whole."""
    ok, message, hint = DONE[command]
    async with serving(tmp_path) as control:
        reply = await control.ask({"command": command, "user": "a"})

    assert {"event": "done", "ok": ok, "message": message, "hint": hint} == reply


@in_trio
async def test_the_status_is_of_whom_it_is_asked(tmp_path: Path) -> None:
    """One account's, or of all."""
    async with serving(tmp_path) as control:
        await control.ask({"command": "status", "user": "a"})

    assert [("look",), ("status", "a")] == control.commands.told


@in_trio
async def test_status_is_answered_as_facts(tmp_path: Path) -> None:
    """An object for programs and for those who put it into words, and a number for monitoring."""
    async with serving(tmp_path) as control:
        reply = await control.ask({"command": "status"})

    assert reply is not None
    assert ({"version": 1}, 0) == (reply["json"], reply["exit_code"])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"command": "fly"}, "knows no command 'fly'"),
        ({"command": 3}, "sent no command"),
        ({}, "sent no command"),
        ({"command": "logout", "user": ["a"]}, "sent no command"),
        ({"command": "login", "method": "magic"}, "no such way"),
        ({"command": "login", "method": ["paste"]}, "no such way"),
    ],
)
@in_trio
async def test_what_makes_no_sense_is_said(tmp_path: Path, message: dict[str, Any], words: str) -> None:
    """A client of another version is told, and nothing is done."""
    async with serving(tmp_path) as control:
        reply = await control.ask(message)

    assert reply is not None
    assert words in reply["message"]
    assert [] == control.commands.told


@pytest.mark.parametrize("sent", [b"nonsense\n", b"[1]\n", b"x" * (server.MAX_LINE + 65_536)])
@in_trio
async def test_what_is_no_message_is_said_and_dropped(tmp_path: Path, sent: bytes) -> None:
    """Lines that are no JSON, no object, or endless."""
    async with serving(tmp_path) as control:
        stream = await trio.open_unix_socket(control.path)
        try:
            await stream.send_all(sent)
            said = await Lines(stream).receive()
            assert said is not None
            assert not said["ok"]
        except trio.BrokenResourceError:
            # It had heard enough before all was sent.
            assert len(sent) > server.MAX_LINE
        await stream.aclose()


@in_trio
async def test_a_look_at_the_socket_is_nothing(tmp_path: Path) -> None:
    """Who says nothing is told nothing."""
    async with serving(tmp_path) as control:
        stream = await trio.open_unix_socket(control.path)
        await stream.send_eof()

        assert b"" == await stream.receive_some()
        await stream.aclose()


@in_trio
async def test_a_fault_in_a_command_ends_with_its_connection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next command is carried out."""
    async with serving(tmp_path) as control:
        control.commands.refusal = Result(False, "x")
        first = await control.ask({"command": "status"})
        second = await control.ask({"command": "ping"})

    assert (None, True) == (first, bool(second and second["ok"]))
    assert "a command failed" in capsys.readouterr().out


@in_trio
async def test_silent_connections_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest that has not sent its command is closed. One whose command is carried out is not."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    async with serving(tmp_path) as control:
        login = await control.connect()
        await login.send({"command": "login", "user": "a@example.test", "method": "paste"})
        assert await login.receive()
        silent = [await control.connect() for _ in range(8)]
        reply = await control.ask({"command": "ping"})
        gone = [await each.receive() for each in silent[:6]]
        finish(control.commands.flow, GRANTED)
        done = await login.receive()
        for each in (login, *silent):
            await each.stream.aclose()

    assert reply == {"event": "done", "ok": True, "message": "here", "hint": ""}
    assert [None] * 6 == gone
    assert done is not None
    assert done["ok"]


@in_trio
async def test_too_many_commands_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes while as many commands as allowed are carried out is told so."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving(tmp_path) as control:
        login = await control.connect()
        await login.send({"command": "login", "user": "a@example.test", "method": "paste"})
        assert await login.receive()
        refused = await control.ask({"command": "ping"})
        await login.stream.aclose()

    assert refused is not None
    assert (False, "the daemon carries out too many commands") == (refused["ok"], refused["message"])


@pytest.mark.parametrize("path", ["/a\0b", "a\0b", "\ud800", "/a\ud800"])
@in_trio
async def test_what_can_be_no_files_name_is_refused(tmp_path: Path, path: str) -> None:
    """A NUL or a lone surrogate: it never gets as far as the worker."""
    async with serving(tmp_path) as control:
        reply = await control.ask({"command": "import", "user": "a", "path": path})

    assert reply is not None
    assert (False, "no file can have this name") == (reply["ok"], reply["message"])
    assert [] == control.commands.told


# --- logins ---


@in_trio
async def test_a_login_shows_its_prompt_and_its_end(tmp_path: Path) -> None:
    """The prompt has what a person needs and no state; the end has no token."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "login", "user": "a@example.test", "method": "paste"})
        shown = await lines.receive()
        finish(control.commands.flow, GRANTED)
        done = await lines.receive()
        await lines.stream.aclose()

    assert shown is not None
    assert ("prompt", "https://login.example.test/authorize") == (shown["event"], shown["url"])
    assert DEFAULT_REGISTRATION.caveat in shown["registration"]
    assert "the-state" not in json.dumps(shown)
    assert done is not None
    assert (True, True, "A@example.test is signed in (saved, key from keyring)") == (
        done["ok"],
        done["persisted"],
        done["message"],
    )
    assert SECRET not in json.dumps(done)
    assert [("login", "a@example.test", "paste")] == control.commands.told


@in_trio
async def test_an_import_goes_to_the_account_that_the_file_names(tmp_path: Path) -> None:
    """Which is said; where the person names one, that counts."""
    async with serving(tmp_path) as control:
        done = [await control.ask({"command": "import", "path": "/of-b", **user}) for user in ({}, {"user": "a"})]

    assert ["b@x.test", "a"] == [told[1] for told in control.commands.told]
    messages = [each["message"] for each in done if each]
    assert f"the file is b@x.test's: {messages[1]}" == messages[0]


@in_trio
async def test_an_import_is_carried_out(tmp_path: Path) -> None:
    """For whom, from where, and what it is; the end is that of a sign-in."""
    async with serving(tmp_path) as control:
        done = await control.ask({"command": "import", "user": "a", "path": "/f", "source": "oama", "entry": "e"})

    assert done is not None
    assert (True, "A@example.test is signed in (saved, key from keyring)") == (done["ok"], done["message"])
    assert SECRET not in json.dumps(done)
    assert [("import", "a", "/f", "oama", "e", "")] == control.commands.told


@in_trio
async def test_a_password_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    """In the middle of the command; a person may take their time."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "import", "path": "/sealed"})
        asked = await lines.receive()
        await lines.send({"password": "open"})
        done = await lines.receive()
        await lines.stream.aclose()

    assert {"event": "password", "message": "it has a password"} == asked
    assert done is not None
    assert done["ok"]
    assert ["", "open"] == [told[-1] for told in control.commands.told]


@pytest.mark.parametrize("answer", [{}, {"password": ""}, {"password": 1}, None, "nonsense"])
@in_trio
async def test_without_a_password_nothing_is_imported(tmp_path: Path, answer: object) -> None:
    """A client that leaves or sends no password has changed nothing."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "import", "path": "/sealed"})
        await lines.receive()
        if isinstance(answer, dict):
            await lines.send(answer)
        elif answer:
            await lines.stream.send_all(b"nonsense\n")
        else:
            await lines.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert 1 == len(control.commands.told)
        await lines.stream.aclose()


@pytest.mark.parametrize("said", [{}, {"path": ""}, {"path": 1}, {"path": "/f", "source": []}])
@in_trio
async def test_an_import_of_nothing_is_refused(tmp_path: Path, said: dict[str, Any]) -> None:
    """As from a command of another version."""
    async with serving(tmp_path) as control:
        done = await control.ask({"command": "import", **said})

    assert done is not None
    assert (False, "cms was not told what to import") == (done["ok"], done["message"])


@in_trio
async def test_an_import_that_cannot_be_tried_says_why(tmp_path: Path) -> None:
    """No such user, for instance."""
    async with serving(tmp_path) as control:
        control.commands.refusal = Result(False, "there is no account b")
        done = await control.ask({"command": "import", "user": "b", "path": "/f"})

    assert done is not None
    assert (False, "there is no account b") == (done["ok"], done["message"])


def finish(flow: Flow, outcome: Outcome) -> None:
    flow.end = outcome
    flow.announce()


@in_trio
async def test_what_is_pasted_reaches_the_flow(tmp_path: Path) -> None:
    """An address that will not do is answered with why, and the login goes on."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "login"})
        await lines.receive()
        await lines.send({"pasted": "the-code"})
        told = await lines.receive()
        await lines.send({"pasted": "http://x.test/?code=c&state=the-state"})
        await trio.testing.wait_all_tasks_blocked()
        finish(control.commands.flow, GRANTED)
        done = await lines.receive()
        await lines.stream.aclose()

    assert told is not None
    assert "no state" in told["message"]
    assert done is not None
    assert "done" == done["event"]


@in_trio
async def test_a_login_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """No such user, or an account that needs no login."""
    async with serving(tmp_path) as control:
        control.commands.refusal = Result(False, "there is no account b", "the configuration has a")
        reply = await control.ask({"command": "login", "user": "b"})

    assert {
        "event": "done",
        "ok": False,
        "message": "there is no account b",
        "hint": "the configuration has a",
    } == reply


@in_trio
async def test_a_login_that_ends_before_its_prompt_says_why(tmp_path: Path) -> None:
    """Then there is one line: the end."""
    async with serving(tmp_path) as control:
        finish(control.commands.flow, Refused(Trouble("refused", "no", "ask somebody")))
        reply = await control.ask({"command": "login"})

    assert {"event": "done", "ok": False, "message": "no", "hint": "ask somebody"} == reply


@pytest.mark.parametrize("goodbye", [b"", b"nonsense\n"])
@in_trio
async def test_a_client_that_leaves_gives_its_flow_up(tmp_path: Path, goodbye: bytes) -> None:
    """Ctrl-C at `cms login` ends the sign-in if no other client waits for it."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "login"})
        await lines.receive()
        if goodbye:
            await lines.stream.send_all(goodbye)
        else:
            await lines.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert control.commands.flow.scope.cancel_called
        await lines.stream.aclose()


@in_trio
async def test_a_client_that_leaves_leaves_others_their_flow(tmp_path: Path) -> None:
    """Two logins for one account: the second goes on when the first is given up."""
    async with serving(tmp_path) as control:
        first, second = await control.connect(), await control.connect()
        for lines in (first, second):
            await lines.send({"command": "login"})
            await lines.receive()
        await first.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()

        assert not control.commands.flow.scope.cancel_called
        finish(control.commands.flow, GRANTED)
        assert await second.receive()
        await second.stream.aclose()


def test_the_end_says_where_the_sign_in_is_kept() -> None:
    """If it is only in memory, the result says so and what to do; an account without a name is "the account"."""
    result = ended(Granted(SECRET, 1.0, 3600.0, sign_in=SignInFacts(persisted=False)))

    assert "the account is signed in (kept in memory only)" == result.message
    assert 'add Vault(key=File("...")) to the configuration' in result.hint
    assert "" == ended(Granted(SECRET, 1.0, 3600.0, sign_in=SignInFacts(persisted=True, key_from="keyring"))).hint
    assert {"persisted": False} == result.extra


def test_an_application_of_ones_own_is_named_by_its_id() -> None:
    """`cms login` says whose application it is about to use."""
    flow = Flow(Grant("https://login.example.test/common", "my-own", ""), "paste")

    event = server.prompt_event(flow, Prompt(1, "paste", "https://x.test/"))

    assert "my-own" in event["registration"]
    assert "microsoft" == event["provider"]


def test_a_prompt_says_where_the_browser_comes_back_to() -> None:
    """The very address that is listened at, and no other that the name may have."""
    flow = Flow(Grant("https://login.example.test/common", "my-own", ""), "browser")
    flow.address, flow.host = Address("localhost", 8080, "/"), "::1"
    event = server.prompt_event(flow, Prompt(1, "browser", "https://x.test/"))

    assert ("::1", 8080) == (event["host"], event["port"])


def test_a_code_that_outlives_its_flow_is_no_promise() -> None:
    """Entra's device codes live for 15 minutes, a sign-in for 10."""
    event = server.prompt_event(new_flow(), Prompt(1, "device", "https://x.test/", "ABCD", expires_in=900.0))

    assert FLOW_SECONDS == event["expires_in"]


# --- who, and for how long ---


class FakeStream(trio.abc.Stream):
    """A client that says nothing."""

    def __init__(self) -> None:
        self.sent = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("uid", "heard"), [(1000, True), (0, True), (1001, False)])
@in_trio_clock
async def test_only_the_owner_and_root_are_heard(uid: int, heard: bool) -> None:
    """Another user is told so before a byte is read; who says nothing in time is dropped."""
    stream = FakeStream()
    before = trio.current_time()
    await server.serve_one(stream, Peer(1, uid, uid), FakeCommands(), 1000)

    assert (server.COMMAND_SECONDS if heard else 0.0) == trio.current_time() - before
    assert heard is (stream.sent == b"")


class BrokenStream(FakeStream):
    """A client that has gone."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError


@in_trio_clock
async def test_a_client_that_has_gone_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A client that has gone causes no traceback."""
    await server.serve_one(BrokenStream(), Peer(1, 7, 7), FakeCommands(), 1000)

    assert "failed" not in capsys.readouterr().out


@in_trio
async def test_what_an_answer_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of ten thousand accounts takes ten megabytes, which the daemon has no use for afterwards."""
    stream, told = FakeStream(), list[bool]()
    monkeypatch.setattr(server, "give_back_memory", lambda: told.append(bool(stream.sent)))
    await server.serve_one(stream, Peer(1, 7, 7), FakeCommands(), 1000)

    assert [True] == told


@in_trio
async def test_messages_come_in_any_pieces() -> None:
    """Two lines in one piece, one line in two."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    lines = Lines(stream)
    with theirs:
        theirs.sendall(b'{"a": 1}\n{"b": 2}\n{"c"')
        first, second = await lines.receive(), await lines.receive()
        theirs.sendall(b": 3}\n")
        third = await lines.receive()
        theirs.sendall(b"[]\n")
        with pytest.raises(Garbled):
            await lines.receive()
        theirs.close()

        assert [{"a": 1}, {"b": 2}, {"c": 3}, None] == [first, second, third, await lines.receive()]
    await stream.aclose()


@pytest.mark.parametrize("command", answers.ERRANDS)
@in_trio
async def test_an_errand_converses(tmp_path: Path, command: str) -> None:
    """What is told wants no answer, a question gets one, and the last line is the end."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": command, "users": ["a"]})
        events = [await lines.receive(), await lines.receive()]
        await lines.send({"yes": True})
        end = await lines.receive()
        await lines.stream.aclose()

    assert ["told", "question"] == [event["event"] for event in events if event]
    assert end is not None
    assert (True, "done with it") == (end["ok"], end["message"])
    assert [(command, "['a']")] == control.commands.told


@pytest.mark.parametrize("answer", [b"nonsense\n", b""])
@in_trio
async def test_only_a_yes_agrees(tmp_path: Path, answer: bytes) -> None:
    """An empty line, no answer and nonsense are not a yes."""
    async with serving(tmp_path) as control:
        lines = await control.connect()
        await lines.send({"command": "prune"})
        await lines.receive()
        await lines.receive()
        await lines.stream.send_all(answer)
        await lines.stream.send_eof()
        end = await lines.receive()
        await lines.stream.aclose()

    assert end is not None
    assert not end["ok"]
