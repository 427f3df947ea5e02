"""No core dumps, descriptor limit, signals, state-folder lock."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from cms.system import users
from cms.system.files import make_folders
from cms.system.logs import get_logger, log_uncaught

# prctl(2)
_PR_SET_DUMPABLE = 4

# Each client uses a descriptor while it asks. No host needs more than this, and some libraries close every descriptor up
# to the limit one by one.
MANY_FILES = 65_536

# What each signal asks for. SIGINT is Ctrl-C at `cms run` in a terminal.
SIGNALS = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}

# A file in the state folder that a daemon locks while it runs. It is never removed, because then two daemons could each
# lock a file with this name.
LOCK_FILE = "daemon.lock"
# What a daemon writes into it beside its process id.
DAEMON = "daemon"

log = get_logger()


class NotOurs(Exception):
    """The state folder cannot be used. The text says why, and what to do."""


class InUse(NotOurs):
    """Another cms uses the state folder. It may be a daemon that is just starting."""


def harden() -> None:
    """Protect this process's memory, which contains access tokens.

    A core dump would write the memory to a disk, where a crash reporter can often read it. PR_SET_DUMPABLE also stops
    programs of the same user from attaching a debugger or reading /proc/PID/mem. RLIMIT_CORE alone is not enough,
    because a pipe in core_pattern ignores it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("this process cannot be hidden from debuggers", errno=ctypes.get_errno())


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard limit, up to `MANY_FILES`. 1,024 is too low for a busy host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def log_bugs() -> None:
    """Send tracebacks of uncaught exceptions to the log, where secrets are masked, instead of to standard error."""
    sys.excepthook = log_uncaught
    threading.excepthook = _thread_died
    sys.unraisablehook = _unraisable


def _thread_died(died: threading.ExceptHookArgs) -> None:
    log.error("a thread ended by a bug", exc_info=died.exc_value)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    log.error("an exception that could not be raised", exc_info=lost.exc_value)


class Signals:
    """An asynchronous iterator over the requests that signals make: "stop" or "reload"."""

    def __init__(self, received: AsyncIterator[int]) -> None:
        self._received = received

    def __aiter__(self) -> Signals:
        return self

    async def __anext__(self) -> str:
        return SIGNALS[signal.Signals(await anext(self._received))]


@contextmanager
def signals() -> Iterator[Signals]:
    """Handle this process's signals while the block runs. Works in the main thread only."""
    with trio.open_signal_receiver(*SIGNALS) as received:
        yield Signals(received)


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
            raise NotOurs(f"the state folder {folder} cannot be locked: {error.strerror}") from None
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
        pid, _, what = lock.read_text(errors="replace").strip().partition(" ")
        inode = str(lock.stat().st_ino)
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    # proc_locks(5): number, kind, mode, access, process, device:device:inode, range.
    mine = any(len(each) > 5 and (each[4], each[5].rpartition(":")[2]) == (pid, inode) for each in held)  # noqa: PLR2004
    return int(pid) if mine and what == DAEMON else None
