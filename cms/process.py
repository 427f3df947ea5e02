"""What the daemon asks of the kernel for itself: a memory that nobody else reads, room for sockets, signals."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

from cms.logs import get_logger, log_uncaught

# prctl(2)
_PR_SET_DUMPABLE = 4

# Each client holds a descriptor while it asks. More than this serves nobody, and some libraries close every descriptor
# up to the limit one by one.
MANY_FILES = 65_536

# What a signal asks for. SIGINT is Ctrl-C of `cms run` in a terminal.
SIGNALS = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}

log = get_logger()


def harden() -> None:
    """Keep this process's memory, which holds access tokens, out of files and of other processes.

    No core dumps: a dump is the memory, on a disk, often readable by the administrator's crash reporter. Not dumpable:
    a program of the same user could otherwise attach as a debugger or read /proc/PID/mem. The limit of the one alone
    is not enough, as a pipe in core_pattern ignores it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("this process cannot be hidden from debuggers", errno=ctypes.get_errno())


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one, within reason: the usual 1,024 are few for a busy host."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def log_bugs() -> None:
    """Send the tracebacks of uncaught exceptions to the log, where they are masked, instead of to standard error."""
    sys.excepthook = log_uncaught
    threading.excepthook = _thread_died
    sys.unraisablehook = _unraisable


def _thread_died(died: threading.ExceptHookArgs) -> None:
    log.error("a thread ended by a bug", exc_info=died.exc_value)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    log.error("an exception that could not be raised", exc_info=lost.exc_value)


class Signals:
    """A stream of what signals ask for: "stop" or "reload"."""

    def __init__(self, received: AsyncIterator[int]) -> None:
        self._received = received

    def __aiter__(self) -> Signals:
        return self

    async def __anext__(self) -> str:
        return SIGNALS[signal.Signals(await anext(self._received))]


@contextmanager
def signals() -> Iterator[Signals]:
    """Take this process's signals while the block runs. In the main thread only."""
    with trio.open_signal_receiver(*SIGNALS) as received:
        yield Signals(received)
