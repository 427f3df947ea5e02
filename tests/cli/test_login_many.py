"""`cms login` for several accounts: whose turn it is, the table of codes, and what becomes of each."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from support.command_line import done

from cms.cli import login_many
from cms.cli.client import NoDaemon, Remote
from cms.cli.failure import Failure
from cms.cli.login_many import AT_ONCE, by_code, one_after_another, waiting

USERS = [f"box{number:03}@example.test" for number in range(200)]


def row(user: str, state: str = "sign-in-required", **more: str) -> dict[str, str]:
    return {"user": user, "state": state, "grant": user, **more}


class Daemon:
    """Gives each connection its answers at once; `statuses` are what it says of the accounts, the last for ever."""

    def __init__(self, *statuses: list[dict[str, str]], answers: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self._statuses = list(statuses)
        self._answers = answers or {}
        self._ends = ExitStack()
        self.asked: list[dict[str, Any]] = []
        self.open = 0
        self.most = 0

    def connect(self) -> Remote:
        ours, theirs = socket.socketpair()
        self._ends.enter_context(theirs)
        return Line(ours, theirs, self)

    def answer(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        self.asked.append(message)
        if message["command"] == "status":
            rows = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
            return [done(json={"accounts": rows})]
        prompt = {"event": "prompt", "method": "device", "url": "https://login.test/device", "user_code": "ABC123DEF"}
        return self._answers.get(message["user"], [prompt, done(message="signed in")])

    def close(self) -> None:
        self._ends.close()


class Line(Remote):
    """A connection to it, which counts as one."""

    def __init__(self, ours: socket.socket, theirs: socket.socket, daemon: Daemon) -> None:
        super().__init__(ours)
        self._theirs = theirs
        self._daemon = daemon
        daemon.open += 1
        daemon.most = max(daemon.most, daemon.open)

    def send(self, message: Any) -> None:
        for event in self._daemon.answer(dict(message)):
            self._theirs.sendall(json.dumps(event).encode() + b"\n")

    def close(self) -> None:
        self._daemon.open -= self.fileno() >= 0
        super().close()


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_who_needs_a_sign_in_is_asked_of_the_daemon() -> None:
    """Each sign-in once; not what works, what an application does, and what has no name to ask for."""
    rows = [
        row("a@x.test"),
        row("a2@x.test", grant="a@x.test"),
        row("desk@x.test", grant="boss@x.test", who="boss@x.test"),
        row("b@x.test", "signing-in"),
        row("c@x.test", "ok"),
        row("d@x.test", "refused"),
        row(""),
    ]
    daemon = Daemon(rows)

    assert [("a@x.test", "a@x.test"), ("desk@x.test", "boss@x.test"), ("b@x.test", "b@x.test")] == waiting(
        daemon.connect, "*@x.test"
    )
    assert [{"command": "status", "user": "*@x.test"}] == daemon.asked
    daemon.close()


@pytest.mark.parametrize("device", [False, True])
def test_every_address_of_a_domain_needs_no_person(ends: ExitStack, *, device: bool) -> None:
    """`*@domain.com` may be a pattern and an account: what an application opens is not signed in to, and that is said."""
    daemon = Daemon([row("*@x.test", "ok", sign_in="app"), row("vm@x.test", "ok", sign_in="managed-identity")])
    ends.callback(daemon.close)
    many = (lambda *of: by_code(daemon.connect, "*@x.test", *of)) if device else _in_turn(daemon, "*@x.test")

    with pytest.raises(Failure, match=r"no person signs in to \*@x\.test: an application"):
        many(print)


def test_people_of_a_domain_beside_its_application(ends: ExitStack) -> None:
    """They have their turns, and its application has none."""
    rows = [row("*@x.test", "refused", sign_in="app"), row("ann@x.test", sign_in="browser")]
    daemon, turns = Daemon(rows), list[str]()
    ends.callback(daemon.close)

    def sign_in(_found: Remote, user: str) -> int:
        turns.append(user)
        return 0

    assert 0 == one_after_another(daemon.connect, "*@x.test", sign_in, print)
    assert ["ann@x.test"] == turns


def test_a_pattern_without_an_account_is_said(ends: ExitStack) -> None:
    """In the daemon's words."""

    class Unknown(Daemon):
        def answer(self, message: dict[str, Any]) -> list[dict[str, Any]]:
            return [done(ok=False, message=f"there is no account {message['user']}", hint="name one")]

    daemon = Unknown()
    ends.callback(daemon.close)

    with pytest.raises(Failure, match="there is no account"):
        waiting(daemon.connect, "*@z.test")


def test_a_daemon_that_makes_no_sense_is_one_error(ends: ExitStack) -> None:
    """As for every command."""
    daemon = Daemon([{"user": "a"}])
    ends.callback(daemon.close)

    with pytest.raises(NoDaemon):
        waiting(daemon.connect, "")


def test_they_have_their_turns(ends: ExitStack) -> None:
    """One that fails keeps no other from its turn, and one that was signed in on the page meanwhile has none."""
    first, then = [row(each) for each in USERS[:4]], [row(each) for each in (USERS[0], USERS[1], USERS[3])]
    daemon, said, turns = Daemon(first, then), list[str](), list[str]()
    ends.callback(daemon.close)

    def sign_in(_found: Remote, user: str) -> int:
        turns.append(user)
        return int(user == USERS[1])

    assert 1 == one_after_another(daemon.connect, "", sign_in, said.append)
    assert [USERS[0], USERS[1], USERS[3]] == turns
    assert [f"1 of 4: {USERS[0]}", f"2 of 4: {USERS[1]}", f"4 of 4: {USERS[3]}", "2 of 3 signed in"] == said


@pytest.mark.parametrize("device", [False, True])
def test_nobody_needs_one(ends: ExitStack, *, device: bool) -> None:
    """That is no failure, and it is said."""
    daemon, said = Daemon([row("a@x.test", "ok")]), list[str]()
    ends.callback(daemon.close)
    many = (lambda *of: by_code(daemon.connect, "", *of)) if device else _in_turn(daemon)

    assert 0 == many(said.append)
    assert ["no account needs a sign-in"] == said


def _in_turn(daemon: Daemon, pattern: str = "") -> Any:
    return lambda say: one_after_another(daemon.connect, pattern, lambda *_: 0, say)


def test_two_hundred_codes_are_a_table(ends: ExitStack) -> None:
    """Address, code and link in a line each, then how it ended; never more connections than the daemon has places for."""
    late = [done(ok=False, message="the code expired", hint="start again")]
    direct = {
        "event": "prompt",
        "method": "device",
        "url": "https://x.test/",
        "user_code": "A",
        "complete_url": "https://x.test/A",
    }
    answers = {USERS[5]: late, USERS[7]: [direct, done(message="signed in")]}
    daemon, said = Daemon([row(each) for each in USERS], answers=answers), list[str]()
    ends.callback(daemon.close)

    assert 1 == by_code(daemon.connect, "", said.append)
    assert "ACCOUNT              CODE       LINK" == said[0]
    assert f"{USERS[7]}  A          https://x.test/A" in said
    assert 198 == len([line for line in said if line.endswith("  ABC123DEF  https://login.test/device")])
    assert f"{USERS[5]}: the code expired: start again" in said
    assert f"{USERS[6]}: signed in" in said
    assert "199 of 200 signed in" == said[-1]
    assert AT_ONCE == daemon.most
    assert {"device"} == {each["method"] for each in daemon.asked if each["command"] == "login"}


@pytest.mark.parametrize("device", [False, True])
def test_a_code_is_for_who_signs_in(ends: ExitStack, *, device: bool) -> None:
    """A shared mailbox has no owner who could enter it, and the daemon's hooks tell the same person."""
    daemon, said = Daemon([row("desk@x.test", who="boss@x.test")]), list[str]()
    ends.callback(daemon.close)
    many = (lambda *of: by_code(daemon.connect, "", *of)) if device else _in_turn(daemon)

    assert 0 == many(said.append)
    assert (said[1] if device else said[0]).startswith("boss@x.test  ABC123DEF" if device else "1 of 1: boss@x.test")


def test_a_daemon_forges_no_line(ends: ExitStack) -> None:
    """A prompt has to have a web address, as for one account."""
    odd = [{"event": "prompt", "method": "device", "url": "javascript:x", "user_code": "A"}]
    daemon = Daemon([row("a@x.test")], answers={"a@x.test": odd})
    ends.callback(daemon.close)

    with pytest.raises(Failure, match="without a web address"):
        login_many.by_code(daemon.connect, "", lambda _: None)
