"""Sockets: ready before they can be found, adopted from systemd, and never taken from another program."""

from __future__ import annotations

import errno
import grp
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from support.trio_run import in_trio, in_trio_clock, until

from cms.core.policy import Peer
from cms.system import listener
from cms.system.listener import Listener, ListenError, adopt, close_unclaimed, open_listener
from cms.system.socket_file import MAX_PATH
from cms_oauth.peer import credentials


async def one(listener: Listener, relieve: Callable[[], bool] = bool) -> tuple[socket.SocketType, Peer]:
    """Return the only connection that waits."""
    while not (found := listener.accept()):
        await listener.wait(relieve)
    ((sock, peer),) = found
    return sock, peer


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cms.sock")


def dial(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def dead_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def refusal(path: str, mode: int = 0o600, group: str | None = None) -> str:
    with pytest.raises(ListenError) as raised:
        await open_listener(path, mode, group=group)
    return str(raised.value)


@in_trio
async def test_listens_with_exactly_the_mode_that_was_asked_for(path: str) -> None:
    """The permission bits are those of the configuration, whatever the umask."""
    before = os.umask(0o077)
    try:
        made = await open_listener(path, 0o666)
    finally:
        os.umask(before)

    assert 0o666 == mode_of(path)
    made.close()


@in_trio
async def test_accepts_and_says_who(path: str) -> None:
    """A connection comes with the pid, uid and groups that the kernel vouches for."""
    made = await open_listener(path, 0o600)
    with dial(path):
        sock, peer = await one(made)

    assert (os.getpid(), os.getuid(), os.getgid()) == (peer.pid, peer.uid, peer.gid)
    assert set(os.getgroups()) == set(peer.groups())
    sock.close()
    made.close()


@in_trio
async def test_nothing_but_the_socket_is_left_in_the_folder(path: str, tmp_path: Path) -> None:
    """The temporary name is gone once the socket is there, and the socket once it is closed."""
    made = await open_listener(path, 0o600)
    during = [each.name for each in tmp_path.iterdir()]
    made.close()
    made.close()

    assert ["cms.sock"] == during
    assert [] == list(tmp_path.iterdir())


@in_trio
async def test_a_client_is_never_refused_while_a_socket_is_replaced(path: str) -> None:
    """Replacing our own socket leaves no moment without one, and closing the old one keeps the new."""
    first = await open_listener(path, 0o600)
    second = await open_listener(path, 0o660, replaces=first)
    first.close()
    with dial(path):
        sock, _ = await one(second)

    assert 0o660 == mode_of(path)
    sock.close()
    second.close()


@in_trio
async def test_a_dead_socket_is_replaced(path: str) -> None:
    """A file that a killed daemon left behind is no obstacle."""
    dead_socket(path)
    made = await open_listener(path, 0o600)
    with dial(path):
        sock, _ = await one(made)

    sock.close()
    made.close()


@in_trio
async def test_a_live_socket_of_another_daemon_stays(path: str) -> None:
    """A daemon that listens is never displaced, and the message names it."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        message = await refusal(path)

        assert f"pid {os.getpid()}" in message
        dial(path).close()


@in_trio
async def test_a_busy_daemon_counts_as_live(path: str) -> None:
    """A full queue is a sign of life, not of death."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        message = await refusal(path)
        for client in waiting:
            client.close()

        assert "another daemon listens" in message


@in_trio
async def test_a_file_that_is_no_socket_stays(path: str) -> None:
    """A mistyped path removes no file."""
    Path(path).write_text("precious")

    assert "is not a socket" in await refusal(path)
    assert "precious" == Path(path).read_text()


@in_trio
async def test_a_link_at_the_path_stays(path: str, tmp_path: Path) -> None:
    """A symbolic link is not followed and not replaced."""
    Path(path).symlink_to(tmp_path / "elsewhere")

    assert "is not a socket" in await refusal(path)


@in_trio
async def test_missing_folders_are_made_for_us_alone(tmp_path: Path) -> None:
    """Every folder that has to be made is 0700."""
    made = await open_listener(str(tmp_path / "a" / "b" / "cms.sock"), 0o666)

    assert (0o700, 0o700) == (mode_of(str(tmp_path / "a")), mode_of(str(tmp_path / "a" / "b")))
    made.close()


@in_trio
async def test_a_path_that_is_too_long_is_refused_with_the_limit(tmp_path: Path) -> None:
    """The message gives the number of bytes that Linux allows."""
    assert "107 bytes" in await refusal(str(tmp_path / ("x" * 107)))


@in_trio
async def test_the_longest_path_works(tmp_path: Path) -> None:
    """All 107 bytes can be used, however short the name: the temporary one is never longer."""
    folder = tmp_path / ("d" * (MAX_PATH - len(str(tmp_path)) - 4))
    for name in ("ab", "b"):
        made = await open_listener(str(folder / name), 0o600)
        dial(str(folder / name)).close()
        made.close()


@in_trio
async def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A file where a folder should be gives a message, not a traceback."""
    (tmp_path / "file").write_text("")

    assert "cannot listen at" in await refusal(str(tmp_path / "file" / "cms.sock"))


@in_trio
async def test_a_group_gets_the_socket(path: str) -> None:
    """`group` owns the file, by name or by number."""
    for group in (grp.getgrgid(os.getgid()).gr_name, str(os.getgid())):
        made = await open_listener(path, 0o660, group=group)

        assert os.getgid() == Path(path).stat().st_gid
        made.close()


@in_trio
async def test_an_unknown_group_is_refused(path: str) -> None:
    """A group that this machine does not have is named."""
    assert "no group 'nobody-has-this'" in await refusal(path, group="nobody-has-this")


@pytest.mark.parametrize(
    ("error", "group", "words"),
    [
        (OSError(errno.EPERM, "no"), "mail", "usermod -aG mail"),
        (OSError(errno.EACCES, "no"), None, "may not write to /run/x"),
        (OSError(errno.EROFS, "Read-only file system"), None, "Read-only file system"),
    ],
)
def test_each_failure_says_what_to_do(error: OSError, group: str | None, words: str) -> None:
    """What the kernel says is put in terms of the configuration."""
    assert words in str(listener._explained("/run/x/cms.sock", group, error))


@in_trio
async def test_a_failure_leaves_nothing_behind(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that cannot get its mode is taken away again."""

    def refuse(*_args: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "chmod", refuse)

    assert "may not write" in await refusal(path)
    assert [] == list(tmp_path.iterdir())


def refuse_folder(path: str) -> None:
    raise ListenError(f"{path}: others can write there")


@in_trio
async def test_nothing_listens_in_a_folder_that_is_refused(path: str, tmp_path: Path) -> None:
    """No socket is made there, that of systemd is not used, and a lost one is not put back."""
    with pytest.raises(ListenError, match="others can write there"):
        await open_listener(path, 0o600, check_folder=refuse_folder)
    assert [] == list(tmp_path.iterdir())
    with bound(path) as passed:
        passed.listen()
        with pytest.raises(ListenError, match="others can write there"):
            await open_listener(path, 0o777, inherited={path: passed}, check_folder=refuse_folder)
    Path(path).unlink()
    made = await open_listener(path, 0o600)
    Path(path).unlink()
    made.check_folder = refuse_folder
    made.mend()

    assert "others can write there" in made.trouble
    assert not Path(path).exists()
    made.close()


# --- inherited sockets ---


def bound(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    return made


def test_sockets_of_another_process_are_not_adopted() -> None:
    """LISTEN_FDS of an ancestor is nothing to us, and no child of ours sees it."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}

    assert {} == adopt(environ, 2)
    assert {"HOME": "/"} == environ


@pytest.mark.parametrize("count", ["", "-1", "many", "0"])
def test_an_invalid_count_adopts_nothing(count: str) -> None:
    """Whatever the variable holds, nothing breaks."""
    assert {} == adopt({"LISTEN_PID": "2", "LISTEN_FDS": count}, 2)


_ADOPTER = """
import os, socket, sys, warnings
from cms.system.listener import adopt
os.environ["LISTEN_PID"] = str(os.getpid())
found = adopt(os.environ, os.getpid())
print(sorted(found), [each.get_inheritable() for each in found.values()], "LISTEN_FDS" in os.environ)
"""


def test_sockets_are_adopted_by_path_and_not_passed_on(tmp_path: Path) -> None:
    """The descriptors from 3 on become sockets by path, closed on exec; any other than a listening Unix socket is dropped."""
    path = str(tmp_path / "cms.sock")
    with (
        bound(path) as good,
        socket.socket(socket.AF_UNIX) as deaf,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        (tmp_path / "file").open("w") as file,
    ):
        good.listen()
        passed = [good.fileno(), deaf.fileno(), tcp.fileno(), file.fileno()]
        # The shell puts each where systemd would.
        moves = " ".join(f"{3 + place}<&{fd}" for place, fd in enumerate(passed))
        finished = subprocess.run(
            ["bash", "-c", f'exec "$0" -c "$1" {moves}', sys.executable, _ADOPTER],
            pass_fds=passed,
            env={**os.environ, "LISTEN_FDS": "5"},
            capture_output=True,
            text=True,
            check=True,
        )

    assert f"['{path}'] [False] False" == finished.stdout.splitlines()[-1]


def test_what_systemd_passed_is_told_apart(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: the listening socket is adopted, all else that was passed is closed."""
    monkeypatch.setattr(listener, "LISTEN_FDS_START", 300)
    with bound(path) as good, socket.socket(socket.AF_UNIX) as deaf, socket.create_server(("127.0.0.1", 0)) as tcp:
        good.listen()
        for place, sock in enumerate((good, deaf, tcp)):
            os.dup2(sock.fileno(), 300 + place)
        found = adopt({"LISTEN_PID": "7", "LISTEN_FDS": "4"}, 7)

        assert [os.path.realpath(path)] == list(found)
        close_unclaimed(found)


@in_trio
async def test_an_inherited_socket_serves_its_path_and_stays(path: str) -> None:
    """The socket that systemd made for a path is used, and left in place when we end."""
    with bound(path) as passed:
        passed.listen()
        inherited = {os.path.realpath(path): passed}
        made = await open_listener(path, 0o777, inherited=inherited)
        with dial(path):
            sock, _ = await one(made)
        sock.close()
        made.close()

    assert {} == inherited
    assert Path(path).exists()


@in_trio
async def test_an_inherited_socket_is_found_through_a_link(tmp_path: Path) -> None:
    """/var/run/cms.sock and /run/cms.sock are one socket."""
    (tmp_path / "run").mkdir()
    (tmp_path / "var-run").symlink_to(tmp_path / "run")
    with bound(str(tmp_path / "run" / "cms.sock")) as passed:
        made = await open_listener(
            str(tmp_path / "var-run" / "cms.sock"), 0o777, inherited={str(tmp_path / "run" / "cms.sock"): passed}
        )

        assert not made.ours
        made.close()


@in_trio
async def test_an_inherited_socket_that_is_open_too_wide_is_named(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd's SocketMode= is 0666 unless it is set: who configured less is told."""
    with bound(path) as passed:
        Path(path).chmod(0o666)
        made = await open_listener(path, 0o600, inherited={path: passed})
        made.close()

    assert "SocketMode=" in capsys.readouterr().out


def test_an_unused_inherited_socket_is_closed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """cms closes and names an inherited socket that no CredentialServer uses, instead of leaving it unanswered."""
    passed = bound(path)
    inherited = {path: passed}
    close_unclaimed(inherited)

    assert (-1, {}) == (passed.fileno(), inherited)
    assert path in capsys.readouterr().out


# --- shortages ---


class FakeSocket:
    """Accepts what a list says: errors are raised, sockets returned."""

    def __init__(self, *steps: OSError | socket.socket) -> None:
        self.steps = list(steps)
        # There is always something to read.
        self._file = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._file)

    def fileno(self) -> int:
        return self._file

    def _accept(self) -> tuple[int, object]:
        step = self.steps.pop(0)
        if isinstance(step, OSError):
            raise step
        return step.detach(), None


@pytest.fixture
def accepted() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        yield ours


def fake(*steps: OSError | socket.socket) -> Listener:
    return Listener("/x", FakeSocket(*steps))  # type: ignore[arg-type]  # the methods that are used


def test_what_has_not_come_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client costs one `accept`: none is tried in vain, neither behind it nor after it."""
    tried, accept = list[socket.socket](), socket.socket._accept  # type: ignore[attr-defined]

    def count(sock: socket.socket) -> object:
        tried.append(sock)
        return accept(sock)

    monkeypatch.setattr(socket.socket, "_accept", count, raising=False)
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.setblocking(False)
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        client.connect(str(tmp_path / "s"))
        made = Listener("/x", sock)
        found = [*made.accept(64), *made.accept(64)]
        for each, _ in found:
            each.close()

    assert (1, 1) == (len(found), len(tried))


def test_a_connection_that_comes_a_little_later_is_found(tmp_path: Path) -> None:
    """It is there in time if it comes while the listener looks for it; who does not want to look for long finds none."""
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.setblocking(False)
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        made = Listener("/x", sock)
        before = signal.signal(signal.SIGALRM, lambda *_: client.connect(str(tmp_path / "s")))
        try:
            at_once = made.accept(64)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            ((found, _peer),) = made.accept(64, looks=sys.maxsize)
        finally:
            # A timer that is left would end the whole test process.
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        found.close()

    assert not at_once


@in_trio_clock
async def test_a_shortage_is_waited_out(accepted: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    """Out of descriptors, accepting goes on after a pause, says so once and takes no processor time."""
    errors = [OSError(number, "short") for number in sorted(listener.SHORTAGES)]
    before = trio.current_time()
    sock, _ = await one(fake(*errors, accepted))
    sock.close()

    assert len(errors) * listener.SHORTAGE_SECONDS == pytest.approx(trio.current_time() - before)
    assert 1 == capsys.readouterr().out.count("cannot accept")


@in_trio_clock
async def test_a_shortage_that_comes_and_goes_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One that ends and begins with every connection is one line; one of another time is another."""
    pairs = [socket.socketpair() for _ in range(3)]
    steps = [step for ours, _ in pairs for step in (OSError(errno.EMFILE, "short"), ours)]
    made = fake(*steps)
    for pause in (0, listener.SHORTAGE_NEWS_SECONDS, 0):
        (await one(made))[0].close()
        await trio.sleep(pause)
    for _, theirs in pairs:
        theirs.close()

    assert 2 == capsys.readouterr().out.count("cannot accept")


@in_trio_clock
async def test_what_can_be_relieved_is_not_waited_for(accepted: socket.socket) -> None:
    """When something could be closed, the next try is at once."""
    asked = []

    def relieve() -> bool:
        asked.append(1)
        return True

    before = trio.current_time()
    sock, _ = await one(fake(OSError(errno.EMFILE, "short"), accepted), relieve)
    sock.close()

    assert ([1], before) == (asked, trio.current_time())


@in_trio_clock
async def test_nothing_is_given_up_that_has_not_had_its_turn(accepted: socket.socket) -> None:
    """Tasks of connections that came just before the shortage have run when `relieve` is asked."""
    rounds = 0
    seen = []

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await trio.lowlevel.checkpoint()

    def relieve() -> bool:
        seen.append(rounds)
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        sock, _ = await one(fake(OSError(errno.EMFILE, "short"), accepted), relieve)
        nursery.cancel_scope.cancel()
    sock.close()

    assert seen[0] >= 1


@in_trio_clock
async def test_a_client_that_left_early_is_nothing(accepted: socket.socket) -> None:
    """ECONNABORTED concerns one client, who has gone."""
    sock, _ = await one(fake(OSError(errno.ECONNABORTED, "gone"), accepted))
    sock.close()


@in_trio_clock
async def test_any_other_error_is_a_bug() -> None:
    """An error that no waiting mends is raised."""
    with pytest.raises(OSError, match="bad"):
        await one(fake(OSError(errno.EBADF, "bad")))


@in_trio
async def test_a_connection_whose_peer_is_unknown_is_dropped(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer without a user is not served."""
    made = await open_listener(path, 0o600)
    names = iter([OSError(errno.EINVAL, "no"), None])

    def once(sock: socket.SocketType) -> tuple[int, int, int]:
        problem = next(names)
        if problem:
            raise problem
        return credentials(sock)

    monkeypatch.setattr(listener, "credentials", once)
    with dial(path) as first, dial(path):
        sock, _ = await one(made)

        assert b"" == first.recv(1)
        sock.close()
    made.close()


# --- lost files ---


@dataclass(frozen=True)
class Place:
    """Where a test's socket is: in a folder of its own, which may vanish."""

    base: Path

    @property
    def folder(self) -> Path:
        return self.base / "run" / "cms"

    @property
    def path(self) -> Path:
        return self.folder / "cms.sock"

    def move_folder(self) -> None:
        self.folder.rename(self.base / "elsewhere")

    def remove_folder(self) -> None:
        shutil.rmtree(self.folder)

    def remove_folders(self) -> None:
        shutil.rmtree(self.base / "run")

    def put_a_dead_socket(self) -> None:
        self.path.unlink()
        dead_socket(str(self.path))

    def put_new_folder(self) -> None:
        self.move_folder()
        self.folder.mkdir()

    def swap_link(self) -> None:
        """Let a link that is a folder of the path lead somewhere else."""
        moved = self.base / "moved"
        (self.base / "run").rename(moved)
        (self.base / "run").symlink_to(self.base / "nowhere")
        (self.base / "nowhere").mkdir()

    def chown(self) -> None:
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(self.path, 4242, -1)

    def chgrp(self) -> None:
        if os.geteuid():
            pytest.skip("only root can give a file to any group")
        os.chown(self.path, -1, 4242)


LOSSES: dict[str, tuple[Callable[[Place], object], str]] = {
    "removed": (lambda place: place.path.unlink(), "is gone"),
    "renamed": (lambda place: place.path.rename(place.folder / "old"), "is gone"),
    "its folder removed": (Place.remove_folder, "is gone"),
    "its folder renamed": (Place.move_folder, "is gone"),
    "its folder replaced": (Place.put_new_folder, "is gone"),
    "two folders removed": (Place.remove_folders, "is gone"),
    "a link of its path changed": (Place.swap_link, "is gone"),
    "a dead socket in its place": (Place.put_a_dead_socket, "is another socket now"),
    "closed to all": (lambda place: place.path.chmod(0), "has another mode or owner"),
    "opened to all": (lambda place: place.path.chmod(0o666), "has another mode or owner"),
    "given away": (Place.chown, "has another mode or owner"),
    "given to another group": (Place.chgrp, "has another mode or owner"),
}


def facts(path: Path) -> tuple[int, int, int, int]:
    """Who may connect at a path, and who may enter its folder."""
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, stat.S_IMODE(path.parent.stat().st_mode)


@pytest.mark.parametrize("loss", LOSSES)
@in_trio
async def test_a_lost_socket_is_put_back(tmp_path: Path, loss: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen, put back as it was, and told once; who was accepting goes on, and who had connected before is accepted."""
    place, (lose, damage) = Place(tmp_path), LOSSES[loss]
    place.folder.mkdir(parents=True)
    place.folder.chmod(0o755)
    made = await open_listener(str(place.path), 0o640)
    before = facts(place.path)
    assert ("", "") == (made.damage(), made.trouble)
    accepted: list[tuple[int, int]] = []

    async def accept() -> None:
        while True:
            sock, peer = await one(made)
            accepted.append((peer.pid, len(sock.recv(10))))
            sock.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        # No other task runs until the socket has been put back.
        early = dial(str(place.path))
        early.sendall(b"early")
        lose(place)
        assert damage in made.damage()
        assert made.trouble.startswith(f"the socket {place.path} {damage}")
        assert "`cms reload`" in made.trouble
        made.mend()
        late = dial(str(place.path))
        late.sendall(b"late!!")
        await until(lambda: len(accepted) == 2)
        nursery.cancel_scope.cancel()

    assert [(os.getpid(), 5), (os.getpid(), 6)] == sorted(accepted)
    assert (before, "") == (facts(place.path), made.trouble)
    made.mend()
    assert 1 == capsys.readouterr().out.count("a socket was put back")
    early.close()
    late.close()
    made.close()
    assert not place.path.exists()


def put_a_file(place: Place) -> None:
    place.path.unlink()
    place.path.write_text("precious")


def put_a_folder(place: Place) -> None:
    place.path.unlink()
    place.path.mkdir()


def put_a_link(place: Place) -> None:
    place.path.rename(place.folder / "moved")
    place.path.symlink_to(place.folder / "moved")


def put_a_live_socket(place: Place) -> None:
    place.path.unlink()
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(place.path))
    other.listen()
    OTHERS.append(other)


def put_a_file_for_the_folder(place: Place) -> None:
    place.move_folder()
    place.folder.write_text("precious")


# Sockets that listen until a test has ended.
OTHERS: list[socket.socket] = []
OBSTACLES: dict[str, tuple[Callable[[Place], object], str]] = {
    "a file": (put_a_file, "is not a socket"),
    "a folder": (put_a_folder, "is not a socket"),
    "a link": (put_a_link, "is not a socket"),
    "a live socket": (put_a_live_socket, f"another daemon listens at .* \\(pid {os.getpid()}"),
    "a file for the folder": (put_a_file_for_the_folder, "cannot listen at"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
@in_trio
async def test_what_is_in_the_way_of_a_socket_stays(
    tmp_path: Path, obstacle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status names it as long as it is there, the log once; when it has gone the socket is put back."""
    place, (put, reason) = Place(tmp_path), OBSTACLES[obstacle]
    made = await open_listener(str(place.path), 0o600)
    put(place)
    for _ in range(3):
        made.mend()
    told = made.trouble

    assert re.search(f"cannot be put back: .*{reason}", told)
    assert 1 == capsys.readouterr().out.count("cannot be put back")
    assert (
        "precious" in [each.read_text() for each in (place.path, place.folder) if each.is_file()]
        or "file" not in obstacle
    )
    in_the_way = place.folder if place.folder.is_file() else place.path
    in_the_way.rename(tmp_path / "away")
    while OTHERS:
        OTHERS.pop().close()
    made.mend()
    dial(str(place.path)).close()
    assert "" == made.trouble
    made.close()


@in_trio
async def test_a_socket_on_which_systemd_listens(path: str) -> None:
    """Its unit was restarted, or somebody runs cms by hand beside it: the service is what to start. comm(5) is the fake."""
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    with bound(path) as theirs:
        theirs.listen()
        try:
            comm.write_text("systemd")
            said = await refusal(path)
        finally:
            comm.write_text(before)

    assert f"systemd listens at {path} for a service: (re)start that service" in said
    assert "another daemon listens" not in said


@in_trio
async def test_a_folder_that_cannot_be_entered_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time that it happens, and that it is over. Root can enter every folder: the kernel's answer is the fake."""
    made = await open_listener(path, 0o600)

    def refuse(_path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", refuse)
            assert "cannot be seen any more (Permission denied): cms puts it back" in made.trouble
            made.mend()
            assert "may not write to" in made.trouble
        assert "" == made.trouble
        made.mend()
    log = capsys.readouterr().out
    assert (2, 2) == (log.count("cannot be put back"), log.count("as it should be again"))
    made.close()


@in_trio
async def test_an_access_list_is_its_owners(path: str) -> None:
    """setfacl changes the bits of the group: who gave another user a way in keeps it."""
    made = await open_listener(path, 0o600)
    # acl(5) as the kernel stores it: version 2; then tag, permissions and id of each entry.
    entries = [(0x01, 6, -1), (0x02, 6, 4242), (0x04, 0, -1), (0x10, 6, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("this file system has no access lists")

    assert (0o660, "") == (mode_of(path), made.damage())
    made.close()


@in_trio
async def test_a_socket_of_systemds_is_replaced_by_our_own(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As open as it was, whatever the configuration says; in the end it is removed as our own."""
    with bound(path) as passed:
        Path(path).chmod(0o666)
        if os.geteuid() == 0:
            # As SocketUser= and SocketGroup= say.
            os.chown(path, 4242, 4343)
        before = facts(Path(path))
        made = await open_listener(path, 0o600, inherited={path: passed})
        assert ("", False) == (made.damage(), made.ours)
        Path(path).unlink()
        made.mend()
        with dial(path):
            sock, _ = await one(made)
        sock.close()

        assert (before, True, True) == (facts(Path(path)), made.ours, made.displaced)
        assert "restart its socket unit" in capsys.readouterr().out
        made.close()
    assert not Path(path).exists()


@in_trio
async def test_a_lost_socket_of_systemds_is_not_adopted(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No client could reach it: cms makes its own, with what the configuration says."""
    passed = bound(path)
    Path(path).unlink()
    made = await open_listener(path, 0o600, inherited={path: passed})
    dial(path).close()

    assert (-1, 0o600, True, True) == (passed.fileno(), mode_of(path), made.ours, made.displaced)
    assert "systemd's socket was lost" in capsys.readouterr().out
    made.close()


_OTHER = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print(1, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_daemon(path: str) -> Iterator[int]:
    """A process that listens at a path while the block runs."""
    with subprocess.Popen([sys.executable, "-c", _OTHER, path], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout
        other.stdout.readline()
        yield other.pid
        other.communicate("")


@in_trio
async def test_a_socket_of_systemds_that_another_daemon_replaced_is_not_adopted(path: str) -> None:
    """Who connects there comes to the other daemon, which is not displaced."""
    passed = bound(path)
    Path(path).unlink()
    with another_daemon(path) as pid, pytest.raises(ListenError, match=rf"another daemon listens at .* \(pid {pid},"):
        await open_listener(path, 0o600, inherited={path: passed})

    assert -1 == passed.fileno()


@in_trio
async def test_a_socket_of_systemds_in_another_place_is_served_unwatched(tmp_path: Path) -> None:
    """In a container clients see folders that the daemon does not: nothing there can be judged."""
    path = str(tmp_path / "host" / "cms.sock")
    (tmp_path / "host").mkdir()
    with bound(path) as passed:
        (tmp_path / "host").rename(tmp_path / "outside")
        made = await open_listener(path, 0o600, inherited={path: passed})
        made.mend()
        with dial(str(tmp_path / "outside" / "cms.sock")):
            sock, _ = await one(made)
        sock.close()

        assert ("", False, False) == (made.trouble, made.ours, (tmp_path / "host").exists())
        made.close()
