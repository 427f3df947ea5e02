"""One round trip on a Unix socket, and everything that may come in between."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scripted import HANG_UP, HOLD, PATIENCE, Daemon, refuse_to_connect

from cms_oauth import dial, impostor

LIMIT = 100_000


def ask(
    path: object, request: bytes = b"SMTP u\n", seconds: float = PATIENCE, limit: int = LIMIT
) -> dial.DaemonReply | dial.Failed:
    return dial.round_trip(str(path), request, dial.now() + seconds, limit)


def open_sockets() -> int:
    """Return how many there are. Other threads of these tests open files at any time, and no sockets."""
    return sum(each.is_socket() for each in Path("/proc/self/fd").iterdir())


def reply(answer: dial.DaemonReply | dial.Failed) -> dial.DaemonReply:
    assert isinstance(answer, dial.DaemonReply)
    return answer


def failed(answer: dial.DaemonReply | dial.Failed) -> dial.Failed:
    assert isinstance(answer, dial.Failed)
    return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cms.sock"


@pytest.fixture
def full_queue(path: Path) -> Iterator[socket.socket]:
    """A listener with no place left in its queue."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        yield listener


@pytest.mark.parametrize("answer", [b"", b"x", b"y" * LIMIT])
def test_a_round_trip_returns_all_that_comes_until_the_end(path: Path, answer: bytes) -> None:
    """The request arrives whole, and the whole answer comes back."""
    with Daemon(path, answer) as daemon:
        got = reply(ask(path))

    assert [b"SMTP u\n"] == daemon.requests
    assert answer == got.text
    assert not got.unread


def test_the_writing_side_is_closed_after_the_request(path: Path) -> None:
    """A daemon that waits for the end of the request, as CMS's did, sees it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = threading.Thread(target=ask, args=(path,))
        client.start()
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        with connection, connection.makefile("rb") as stream:
            assert b"SMTP u\n" == stream.read()
        client.join(PATIENCE)


def test_a_reply_beyond_the_limit_is_refused(path: Path) -> None:
    """A peer that sends without end is not cms, and costs no memory."""
    with Daemon(path, b"y" * (LIMIT + 1)):
        got = failed(ask(path))

    assert "unavailable" == got.code
    assert f"more than {LIMIT} bytes" in got.message


def test_no_socket(path: Path) -> None:
    """The daemon was never started here, or the path is wrong: then what is wrong with it is said."""
    below = Path(__file__) / "below"
    for missing, why in [
        (path, ""),
        (path / "below", f": {path} does not exist"),
        (path / "below" / "it", f": {path} does not exist"),
        (below, f": {__file__} is not a folder"),
    ]:
        got = failed(ask(missing))

        assert "no-daemon" == got.code
        assert f"there is no socket at {missing}{why}" == got.message
        assert "cms run" in got.hint


def test_a_relative_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders are those of the current folder."""
    monkeypatch.chdir(path.parent)

    assert "there is no socket at no.sock" == failed(ask("no.sock")).message
    assert "there is no socket at no/no.sock: no does not exist" == failed(ask("no/no.sock")).message


def test_no_daemon_listens(path: Path) -> None:
    """A socket file whose daemon has gone."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    got = failed(ask(path))

    assert "no-daemon" == got.code
    assert f"nobody listens on {path}: the daemon that created it is not running" == got.message


def test_what_is_no_socket_is_said_to_be_none(path: Path) -> None:
    """The kernel refuses the connection as it does to a socket whose daemon has gone; a person has another mistake."""
    path.touch()
    file, folder = failed(ask(path)), failed(ask(path.parent))

    assert ("no-daemon", f"{path} is a file, not a socket") == (file.code, file.message)
    assert f"{path.parent} is a folder, not a socket" == folder.message
    assert "--cms_sock" in file.hint
    path.unlink()
    os.mkfifo(path)
    assert f"{path} is a file, not a socket" == failed(ask(path)).message


ASK_AS_ANOTHER = """
import os, sys
from cms_oauth import dial, impostor
os.geteuid() or os.setuid(65534)
answer = dial.round_trip(sys.argv[1], b"", dial.now() + 5, 10)
print(os.geteuid(), answer.code, answer.message)
"""


def ask_as_another(path: Path) -> list[str]:
    """Return the uid that asked, the code and the message."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_AS_ANOTHER, str(path)], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip().split(" ", 2)


def test_permission_denied(path: Path) -> None:
    """An unprivileged user at a 0600 socket is told so; the owner is not (root, were the test run as root)."""
    with Daemon(path, b"x"):
        assert b"x" == reply(ask(path)).text
        path.chmod(0o000)
        path.parent.chmod(0o000)
        try:
            uid, code, message = ask_as_another(path)
        finally:
            path.parent.chmod(0o700)

    assert "denied" == code
    assert re.fullmatch(f"permission denied on {re.escape(str(path))}: uid {uid} may not enter /.*", message)


def test_permission_denied_by_the_file_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names no folder if all of them are open."""
    refuse_to_connect(monkeypatch)
    answer = failed(ask(path))

    assert ("denied", f"permission denied on {path}") == (answer.code, answer.message)


def test_a_path_too_long_for_a_socket() -> None:
    """The interpreter refuses it before the kernel sees it; so is an end of string in it."""
    got = failed(ask("/" + "x" * 200))

    assert "bad-request" == got.code
    assert "shorter" in got.hint


def test_another_error_of_the_kernels_is_said_in_its_words(path: Path) -> None:
    """A datagram socket has the wrong type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        got = failed(ask(path))

    assert "no-daemon" == got.code
    assert "wrong type" in got.message


def test_one_deadline_covers_the_answer(path: Path) -> None:
    """A daemon that reads and says nothing is given up."""
    with Daemon(path, HOLD):
        before = dial.now()
        got = failed(ask(path, seconds=0.1))

    assert 0.1 <= dial.now() - before < 5
    assert "unavailable" == got.code
    assert "no answer in time" in got.message


def test_one_deadline_covers_sending(path: Path) -> None:
    """A daemon that accepts and never reads is given up, though the request does not fit the socket's buffer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        got = failed(ask(path, b"x" * 8_000_000, seconds=0.1))

    assert "no answer in time" in got.message


def test_a_deadline_in_the_past_is_a_timeout(path: Path) -> None:
    """Not a socket without blocking, which a timeout of 0 would mean."""
    with Daemon(path, b"x"):
        assert "unavailable" == failed(ask(path, seconds=0)).code


@pytest.mark.usefixtures("full_queue")
def test_one_deadline_covers_a_full_queue(path: Path) -> None:
    """A daemon that is stopped accepts no connection: the client waits for a place until its deadline."""
    assert "no answer in time" in failed(ask(path, seconds=0.1)).message


def test_a_place_in_a_full_queue_is_waited_for(path: Path, full_queue: socket.socket) -> None:
    """The kernel says EAGAIN at once to a socket with a timeout; a client that believed it would fail in a burst."""
    answers: list[dial.DaemonReply | dial.Failed] = []
    client = threading.Thread(target=lambda: answers.append(ask(path)))
    client.start()
    for text in (b"", b"for the second"):
        connection, _ = full_queue.accept()
        with connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(PATIENCE)
            if text:
                connection.recv(100)
    client.join(PATIENCE)

    assert b"for the second" == reply(answers[0]).text


def test_a_request_that_was_not_read_is_known_as_such(path: Path) -> None:
    """Who is not allowed to ask is hung up on before a byte is read: the kernel says that the request was unread."""
    with Daemon(path, HANG_UP):
        got = reply(ask(path))

    assert b"" == got.text
    assert got.unread


def test_the_other_side_may_leave_before_the_request_is_sent() -> None:
    """A broken pipe while sending is not the end: what was answered is still read."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"early")
    theirs.close()
    with ours:
        unread = dial._send(ours, b"SMTP u\n", dial.now() + 5)
        got = reply(dial._receive(ours, dial.now() + 5, LIMIT, unread=unread))

    assert b"early" == got.text
    assert got.unread


def test_no_socket_is_left_open(path: Path) -> None:
    """Whatever comes of it, the socket is closed."""
    before = open_sockets()
    with Daemon(path, b"x", HANG_UP, b"y" * (LIMIT + 1)):
        for _ in range(3):
            ask(path)
    ask(path.with_name("missing"))

    assert before == open_sockets()


def test_a_process_that_may_be_a_strangers_is_sent_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says whose it is; the refusal has its code, and the daemon's own uid is what is judged."""
    judged = []

    def suspect(where: str, uid: int) -> impostor.Suspicion:
        judged.append((where, uid))
        return impostor.Suspicion("may be a stranger", "move it")

    monkeypatch.setattr(impostor, "suspect", suspect)
    with Daemon(path, b"a token") as daemon:
        got = failed(ask(path))

    assert [(str(path), os.getuid())] == judged
    assert ("untrusted", "may be a stranger", "move it") == (got.code, got.message, got.hint)
    assert b"" == b"".join(daemon.requests)
