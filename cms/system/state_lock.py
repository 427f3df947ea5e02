"""The lock of the state folder: one daemon, or one command without a daemon, at a time.

A question to the daemon looks at it too, so this imports neither trio nor the log.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cms.system import users
from cms.system.files import LOCAL_DISK, make_folders, read_regular

# A file in the state folder that a daemon locks while it runs. It is never removed, because then two daemons could each
# lock a file with this name.
LOCK_FILE = "daemon.lock"
# What a daemon writes into it beside its process id.
DAEMON = "daemon"
# More than it writes, in bytes.
_LONGEST = 100


class NotOurs(Exception):
    """The state folder cannot be used. The text says why, and what to do."""


class InUse(NotOurs):
    """Another cms uses the state folder. It may be a daemon that is just starting."""


@contextmanager
def claimed(folder: str, as_what: str = "") -> Iterator[None]:
    """Lock the state folder for this process while the block runs; create it if it is missing. Raises NotOurs.

    Two daemons with the same folder would each use refresh tokens that the other has just replaced. `as_what` is DAEMON
    for a daemon, "" for a command that does without one.
    """
    try:
        _make_private(Path(folder))
        lock = os.open(Path(folder, LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotOurs(f"the state folder {folder} cannot be used: {error.strerror or error}") from None
    try:
        _lock(lock, folder, as_what)
        yield
    finally:
        # Closing the file releases the lock. So does the end of the process.
        os.close(lock)


def _make_private(folder: Path) -> None:
    make_folders(folder)
    found = folder.stat()
    if not users.is_mapped(found.st_uid):
        raise NotOurs(
            f"the state folder {folder} belongs to a user who is not in this user namespace: run cms outside of it"
        )
    if found.st_uid != os.geteuid():
        raise NotOurs(
            f"the state folder {folder} belongs to uid {found.st_uid}, and this is uid {os.geteuid()}: "
            f"run cms as its owner, as in `sudo -u '#{found.st_uid}' cms ...`"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def _lock(lock: int, folder: str, as_what: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            do = f"; {LOCAL_DISK}" if error.errno == errno.ENOLCK else ""
            raise NotOurs(f"the state folder {folder} cannot be locked: {error.strerror}{do}") from None
        raise InUse(
            f"another cms (process {_holder(lock)}) uses the state folder {folder}: stop it first, or see `cms status`"
        ) from None
    # Only for messages in other processes, so a full disk does no harm.
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {as_what}".strip().encode() + b"\n", 0)


def _holder(lock: int) -> str:
    pid = os.pread(lock, 20, 0).decode(errors="replace").strip().partition(" ")[0]
    return pid if pid.isdigit() else "unknown"


def daemon_of(folder: str) -> int | None:
    """Return the process id of the daemon that has claimed a state folder, None if none has.

    The lock is only looked up: to try it would be in the way of a daemon that is starting.
    """
    try:
        lock = Path(folder, LOCK_FILE)
        pid, _, what = read_regular(lock, _LONGEST).decode(errors="replace").strip().partition(" ")
        inode = str(lock.stat().st_ino)
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    # proc_locks(5): number, kind, mode, access, process, device:device:inode, range.
    mine = any(len(each) > 5 and (each[4], each[5].rpartition(":")[2]) == (pid, inode) for each in held)  # noqa: PLR2004
    return int(pid) if mine and what == DAEMON else None
