"""Kills a process with all that it has started, also what has left its process group and its session."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

# A killed process is gone within a millisecond, unless the kernel is in the middle of something for it (a dead NFS server).
# This is how long to look for what is left, and how often.
KILL_SECONDS = 0.5
_LOOK_SECONDS = 0.005

_PROC = Path("/proc")
# The states of a process that has ended (proc_pid_stat(5)).
_ENDED = frozenset("ZXx")


def kill_with_descendants(pid: int) -> None:
    """Kill a child of this process, and every process below it.

    What is below a process that has ended is found if the child is a subreaper (PR_SET_CHILD_SUBREAPER). What this user may
    not kill, such as `sudo`, is left.
    """
    _send(pid, signal.SIGSTOP)  # so that it starts nothing more, and stays to be the parent of what is left
    deadline = time.monotonic() + KILL_SECONDS
    while sum(_send(each, signal.SIGKILL) for each in descendants(pid)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    _send(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process that have not ended, those that are nearer to it first."""
    children: dict[int, list[int]] = {}
    running = set[int]()
    for folder in _PROC.glob("[0-9]*"):
        # It may have ended meanwhile.
        with suppress(OSError):
            # The name is in brackets, and may have brackets and spaces in it.
            state, parent, *_ = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(parent), []).append(int(folder.name))
            if state not in _ENDED:
                running.add(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return [each for each in found[1:] if each in running]


def _send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a process; return False if it is gone, or may not be killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        return True
    return False
