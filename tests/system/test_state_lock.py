"""The lock of the state folder: one cms at a time, and who it is."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
from support.mounts import small_disk

from cms.system import state_lock, users


def test_a_state_folder_is_made_private(tmp_path: Path) -> None:
    """It is made with its parents for the owner alone, and one that lets others in is closed to them."""
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    with state_lock.claimed(str(tmp_path / "a" / "b")), state_lock.claimed(str(loose)):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b", loose, loose / "daemon.lock")]

    assert [0o700, 0o700, 0o600] == modes


def test_one_daemon_for_each_state_folder(tmp_path: Path) -> None:
    """The second is refused and told who has it; when the first ends, the folder is free."""
    with state_lock.claimed(str(tmp_path)), pytest.raises(state_lock.NotOurs, match=rf"process {os.getpid()}\)"):
        enter(tmp_path)
    enter(tmp_path)


def test_a_lock_without_a_name_is_a_lock(tmp_path: Path) -> None:
    """A holder that could not write its id is still a holder."""
    with state_lock.claimed(str(tmp_path)):
        (tmp_path / "daemon.lock").write_bytes(b"\xff not a number")
        with pytest.raises(state_lock.NotOurs, match=r"process unknown\)"):
            enter(tmp_path)


def test_a_full_disk_keeps_no_daemon_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id in the lock file is a courtesy."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    enter(tmp_path)


def test_the_daemon_of_a_folder_is_known_while_it_runs(tmp_path: Path) -> None:
    """By its lock, which is not touched; a command that does without a daemon is none."""
    before = state_lock.daemon_of(str(tmp_path))
    with state_lock.claimed(str(tmp_path), state_lock.DAEMON):
        during = state_lock.daemon_of(str(tmp_path))
        with pytest.raises(state_lock.NotOurs, match=rf"process {os.getpid()}\)"):
            enter(tmp_path)
    after = state_lock.daemon_of(str(tmp_path))
    with state_lock.claimed(str(tmp_path)):
        command = state_lock.daemon_of(str(tmp_path))

    assert (None, os.getpid(), None, None) == (before, during, after, command)


def test_a_lock_file_that_says_something_else_names_no_daemon(tmp_path: Path) -> None:
    """Whatever is in it, and however it came there."""
    for text in ("", "\xff", "4242 daemon", f"{os.getpid()} other", "daemon"):
        with state_lock.claimed(str(tmp_path), state_lock.DAEMON):
            (tmp_path / "daemon.lock").write_text(text)

            assert state_lock.daemon_of(str(tmp_path)) is None


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who runs cms as another user, root included, reads how to run it as the owner."""
    monkeypatch.setattr(os, "geteuid", lambda: 65_533)
    with pytest.raises(state_lock.NotOurs, match=f"belongs to uid {os.getuid()}.*sudo -u '#{os.getuid()}'"):
        enter(tmp_path)


def test_a_state_folder_of_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace the owner has no name to run cms as."""
    monkeypatch.setattr(users, "is_mapped", lambda _uid: False)

    with (
        pytest.raises(
            state_lock.NotOurs, match="belongs to a user who is not in this user namespace: run cms outside of it"
        ),
        state_lock.claimed(str(tmp_path)),
    ):
        raise AssertionError


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place, or a link instead of the lock: a sentence with the path and the reason."""
    (tmp_path / "file").write_text("")
    (tmp_path / "daemon.lock").symlink_to("/nowhere")
    with pytest.raises(state_lock.NotOurs, match="file/state cannot be used: Not a directory"):
        enter(tmp_path / "file" / "state")
    with pytest.raises(state_lock.NotOurs, match="cannot be used: Too many levels"):
        enter(tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock there is no daemon: two could not be told apart."""

    def unlockable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    with pytest.raises(
        state_lock.NotOurs, match=r"cannot be locked: No locks available; set XDG_STATE_HOME .* local disk"
    ):
        enter(tmp_path)


def test_a_read_only_file_system_is_named() -> None:
    """A daemon that could store nothing does not start."""
    with small_disk() as disk:
        disk.forbid_writing()
        with pytest.raises(state_lock.NotOurs, match="cannot be used: Read-only file system"):
            enter(disk.folder)
        disk.allow_writing()
        enter(disk.folder)


def enter(folder: Path) -> None:
    with state_lock.claimed(str(folder)):
        pass
