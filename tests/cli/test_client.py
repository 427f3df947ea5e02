"""The client's end of the control socket."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cms.cli import client
from cms.cli.client import NoDaemon, NotOurs, Remote, connect
from cms.system import state_lock
from cms.system.users import user_name
from cms_oauth import impostor
from cms_oauth.peer import ROOT

QUEUE = 4


@pytest.fixture
def ends() -> Iterator[tuple[Remote, socket.socket]]:
    """A connection, and the daemon's end of it."""
    ours, theirs = socket.socketpair()
    with Remote(ours) as made, theirs:
        yield made, theirs


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[str]:
    """The path of a control socket at which a server listens."""
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)
        made.listen(QUEUE)
        yield path


def test_a_command_is_a_line_and_so_is_its_answer(ends: tuple[Remote, socket.socket]) -> None:
    """Question and answer are one JSON object each."""
    made, theirs = ends
    theirs.sendall(b'{"ok": true}\n{"more": 1}\n')
    answer = made.ask("refresh", user="a")

    assert {"ok": True} == answer
    assert b'{"command": "refresh", "user": "a"}\n' == theirs.recv(1024)
    assert made.ready
    assert ({"more": 1}, False) == (made.receive(), made.ready)


@pytest.mark.parametrize("answer", [b"", b'{"ok": tr'])
def test_a_daemon_that_leaves_is_said(ends: tuple[Remote, socket.socket], answer: bytes) -> None:
    """No answer, or half of one: it has ended."""
    made, theirs = ends
    theirs.sendall(answer)
    theirs.close()

    with pytest.raises(NoDaemon, match="ended before"):
        made.receive()


def test_a_daemon_that_has_left_hears_nothing(ends: tuple[Remote, socket.socket]) -> None:
    """Sending to it says the same."""
    made, theirs = ends
    theirs.close()

    with pytest.raises(NoDaemon, match="ended before"):
        made.ask("status")


def test_a_connection_that_breaks_is_said(ends: tuple[Remote, socket.socket]) -> None:
    """Any error of the socket is the daemon's end."""
    made, theirs = ends
    made.send({"command": "status"})
    # Its end leaves the command unread: the kernel resets the connection.
    theirs.close()

    with pytest.raises(NoDaemon, match="ended before"):
        made.receive()


def test_a_daemon_that_is_silent_is_said(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[Remote, socket.socket], daemon: str
) -> None:
    """One that is stopped or hangs holds up no command for ever: neither at a question nor at the door."""
    monkeypatch.setattr(client, "STATUS_SECONDS", 0.01)
    made, _ = ends
    with pytest.raises(NoDaemon, match="does not answer"):
        made.ask("status")
    with ExitStack() as stack:
        # These fill the queue of a daemon that accepts no connection.
        for _ in range(QUEUE + 1):
            stack.enter_context(connect([daemon]))
        with pytest.raises(NoDaemon, match="does not answer"):
            connect([daemon])


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[]\n"])
def test_an_invalid_answer_is_said(ends: tuple[Remote, socket.socket], answer: bytes) -> None:
    """An answer that is not a JSON object comes from another version or another program."""
    made, theirs = ends
    theirs.sendall(answer)

    with pytest.raises(NoDaemon, match="makes no sense"):
        made.receive()


def test_an_answer_that_is_nested_too_deeply_to_be_written_is_said() -> None:
    """Some versions of Python read more than they can write with an indent, as `cms status --json` does."""
    found: list[Any] = []
    for _ in range(200_000):
        found = [found]

    with pytest.raises(NoDaemon, match="makes no sense"), client.understood():
        json.dumps(found, indent=2)


def test_an_endless_answer_is_cut(ends: tuple[Remote, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs no memory."""
    monkeypatch.setattr(client, "MAX_ANSWER", 10)
    made, theirs = ends
    theirs.sendall(b"x" * 11)
    theirs.close()

    with pytest.raises(NoDaemon):
        made.receive()


def test_the_first_daemon_that_listens_is_taken(daemon: str, tmp_path: Path) -> None:
    """Missing and dead sockets are passed over."""
    dead = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(dead)
    with connect([str(tmp_path / "missing.sock"), dead, daemon]) as found:
        assert found.fileno() >= 0


def test_no_daemon_names_the_next_command(tmp_path: Path) -> None:
    """No daemon listens: start it."""
    with pytest.raises(NoDaemon) as raised:
        connect([str(tmp_path / "missing.sock")])

    assert "cms run" in raised.value.hint


def test_a_daemon_that_has_lost_its_socket_is_no_missing_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cms run` would be refused: it is to be waited for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with state_lock.claimed(str(tmp_path / "cms"), state_lock.DAEMON), pytest.raises(client.NotListening) as raised:
        connect([str(tmp_path / "missing.sock")])

    assert f"process {os.getpid()}" in raised.value.message
    assert "cms run" not in raised.value.hint
    with state_lock.claimed(str(tmp_path / "cms")), pytest.raises(client.NotRunning):
        connect([str(tmp_path / "missing.sock")])


def test_another_users_daemon_is_told_nothing(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user could have put the socket there to read a pasted address."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(client, "ROOT", 4243)

    with pytest.raises(NotOurs) as raised:
        connect([daemon])

    ours = user_name(os.getuid())
    assert f"belongs to {ours}" in raised.value.message
    assert f"`sudo -u {shlex.quote(ours)} cms ...`" in raised.value.hint


def test_a_socket_that_may_not_be_opened_is_another_users(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode says whose it is."""

    class Closed(socket.socket):
        def connect(self, _path: object) -> None:
            raise PermissionError

    monkeypatch.setattr(socket, "socket", Closed)

    with pytest.raises(NotOurs) as raised:
        connect([daemon])
    with pytest.raises(NotOurs) as unseen:
        connect([f"{daemon}/in-a-folder-of-theirs"])

    assert f"belongs to {user_name(os.getuid())}" in raised.value.message
    assert "belongs to another user" in unseen.value.message
    assert "`sudo -u USER cms ...`" in unseen.value.hint


def test_a_user_without_a_name_is_given_so_that_a_shell_takes_it(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number alone would be the beginning of a comment."""
    monkeypatch.setattr(client, "user_name", lambda uid: f"#{uid}")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(client, "ROOT", 4243)

    with pytest.raises(NotOurs) as raised:
        connect([daemon])

    assert f"`sudo -u '#{os.getuid()}' cms ...`" in raised.value.hint


def test_root_may_talk_to_every_users_daemon(daemon: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a third user could have put it there. Any user may also talk to root's daemon."""
    found = list[impostor.Suspicion]()
    monkeypatch.setattr(os, "geteuid", lambda: ROOT)
    monkeypatch.setattr(impostor, "suspect", lambda path, uid: found[0] if found else None)
    connect([daemon]).__exit__(None, None, None)
    found.append(impostor.Suspicion("may be a stranger", "move it"))
    with pytest.raises(NotOurs, match="may be a stranger") as raised:
        connect([daemon])
    assert "move it" == raised.value.hint
    found.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(client, "ROOT", os.getuid())
    connect([daemon]).__exit__(None, None, None)
