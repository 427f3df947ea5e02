from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.trio_run import in_trio

from cms.system import process, users

PROGRAM = """
import ctypes, os, resource
from cms.system.process import harden
harden()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_hardened_process_dumps_no_core_and_cannot_be_traced() -> None:
    """Both core limits are 0 and the kernel's dumpable flag (prctl 3) is 0."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert "(0, 0) 0\n" == done.stdout


class NoPrctl:
    """A C library whose kernel refuses."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def prctl(self, *_args: int) -> int:
        return -1


def test_a_kernel_that_refuses_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the process cannot be hidden, the log says so and the daemon runs."""
    monkeypatch.setattr(ctypes, "CDLL", NoPrctl)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    process.harden()

    assert "cannot be hidden from debuggers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 4096), [(4096, 4096)]),
        ((1024, resource.RLIM_INFINITY), [(process.MANY_FILES, resource.RLIM_INFINITY)]),
        ((1024, 10**6), [(process.MANY_FILES, 10**6)]),
        ((process.MANY_FILES, 10**6), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_open_files_are_allowed_within_reason(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: list[tuple[int, int]]
) -> None:
    """The soft limit goes up to the hard one or to MANY_FILES, and never down."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: seen.append(wanted))
    process.allow_many_files()

    assert raised == seen


def test_uncaught_exceptions_go_to_the_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the main thread, of other threads, and those that cannot be raised: each is a line of the log."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    process.log_bugs()
    sys.excepthook(ValueError, ValueError("one"), None)
    thread = threading.Thread(target=int, args=["two"])
    thread.start()
    thread.join()
    Broken().leave()

    said = capsys.readouterr().out
    expected = ("cms ends by a bug", "a thread ended by a bug", "an exception that could not be raised")
    assert [True] * 3 == [text in said for text in expected]


class Broken:
    """Raises where no code can catch it."""

    def leave(self) -> None:
        self.left = True

    def __del__(self) -> None:
        raise ValueError("three")


@in_trio
async def test_signals_say_what_they_ask_for() -> None:
    """SIGHUP asks for a reload, SIGTERM and SIGINT for the end."""
    heard: list[str] = []
    numbers = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]
    with process.signals() as asked:
        os.kill(os.getpid(), numbers[0])
        async for what in asked:
            heard.append(what)
            if len(heard) == len(numbers):
                break
            os.kill(os.getpid(), numbers[len(heard)])

    assert ["reload", "stop", "stop"] == heard


def test_a_state_folder_is_made_private(tmp_path: Path) -> None:
    """It is made with its parents for the owner alone, and one that lets others in is closed to them."""
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    with process.claimed(str(tmp_path / "a" / "b")), process.claimed(str(loose)):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b", loose, loose / "daemon.lock")]

    assert [0o700, 0o700, 0o600] == modes


def test_one_daemon_for_each_state_folder(tmp_path: Path) -> None:
    """The second is refused and told who has it; when the first ends, the folder is free."""
    with process.claimed(str(tmp_path)), pytest.raises(process.NotOurs, match=rf"process {os.getpid()}\)"):
        enter(tmp_path)
    enter(tmp_path)


def test_a_lock_without_a_name_is_a_lock(tmp_path: Path) -> None:
    """A holder that could not write its id is still a holder."""
    with process.claimed(str(tmp_path)):
        (tmp_path / "daemon.lock").write_bytes(b"\xff not a number")
        with pytest.raises(process.NotOurs, match=r"process unknown\)"):
            enter(tmp_path)


def test_a_full_disk_keeps_no_daemon_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id in the lock file is a courtesy."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    enter(tmp_path)


def test_the_daemon_of_a_folder_is_known_while_it_runs(tmp_path: Path) -> None:
    """By its lock, which is not touched; a command that does without a daemon is none."""
    before = process.daemon_of(str(tmp_path))
    with process.claimed(str(tmp_path), process.DAEMON):
        during = process.daemon_of(str(tmp_path))
        with pytest.raises(process.NotOurs, match=rf"process {os.getpid()}\)"):
            enter(tmp_path)
    after = process.daemon_of(str(tmp_path))
    with process.claimed(str(tmp_path)):
        command = process.daemon_of(str(tmp_path))

    assert (None, os.getpid(), None, None) == (before, during, after, command)


def test_a_lock_file_that_says_something_else_names_no_daemon(tmp_path: Path) -> None:
    """Whatever is in it, and however it came there."""
    for text in ("", "\xff", "4242 daemon", f"{os.getpid()} other", "daemon"):
        with process.claimed(str(tmp_path), process.DAEMON):
            (tmp_path / "daemon.lock").write_text(text)

            assert process.daemon_of(str(tmp_path)) is None


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who runs cms as another user, root included, reads how to run it as the owner."""
    monkeypatch.setattr(os, "geteuid", lambda: 65_533)
    with pytest.raises(process.NotOurs, match=f"belongs to uid {os.getuid()}.*sudo -u '#{os.getuid()}'"):
        enter(tmp_path)


def test_a_state_folder_of_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace the owner has no name to run cms as."""
    monkeypatch.setattr(users, "is_mapped", lambda _uid: False)

    with (
        pytest.raises(
            process.NotOurs, match="belongs to a user who is not in this user namespace: run cms outside of it"
        ),
        process.claimed(str(tmp_path)),
    ):
        raise AssertionError


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place, or a link instead of the lock: a sentence with the path and the reason."""
    (tmp_path / "file").write_text("")
    (tmp_path / "daemon.lock").symlink_to("/nowhere")
    with pytest.raises(process.NotOurs, match="file/state cannot be used: Not a directory"):
        enter(tmp_path / "file" / "state")
    with pytest.raises(process.NotOurs, match="cannot be used: Too many levels"):
        enter(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock there is no daemon: two could not be told apart."""

    def unlockable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    with pytest.raises(process.NotOurs, match="cannot be locked: No locks available"):
        enter(tmp_path)


def enter(folder: Path) -> None:
    with process.claimed(str(folder)):
        pass
