"""No core dumps, descriptor limit, signals."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import trio

from cms.system.logs import get_logger, log_uncaught

# prctl(2)
_PR_SET_DUMPABLE = 4

# Each client uses a descriptor while it asks. No host needs more than this, and some libraries close every descriptor up
# to the limit one by one.
MANY_FILES = 65_536

# What each signal asks for. SIGINT is Ctrl-C at `cms run` in a terminal.
SIGNALS = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}

log = get_logger()


def harden() -> None:
    """Protect this process's memory, which contains access tokens.

    A core dump would write the memory to a disk, where a crash reporter can often read it. PR_SET_DUMPABLE also stops
    programs of the same user from attaching a debugger or reading /proc/PID/mem. RLIMIT_CORE alone is not enough,
    because a pipe in core_pattern ignores it.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("this process cannot be hidden from debuggers", errno=ctypes.get_errno())


def give_back_memory() -> None:
    """Give back to the system what is free of this process's memory, after something large (malloc_trim(3)).

    Else the C library keeps it if something that is in use lies between the free pieces and the end.
    """
    # musl has no such function.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


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
