"""The grant worker: `python -I -m cms.grants` with one end of a socketpair as its standard input.

It is the only process that ever holds a refresh token, a client secret or the vault's key. `cms.grants.messages` has the
messages on the socket, `cms.grants.dispatcher` the main loop.

It is two processes. The first hides its memory, looks for a debugger, forks, and waits. The second does the work, and
its memory was hidden from its first moment: a `/proc/PID/mem` that another program opened before that shows the first
process only, which never holds a secret.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4

# mlockall(2): all memory, now and later, as soon as it is used.
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

# Refreshing is less urgent than the daemon's work for mail programs: with 5, a hundred refreshes at once made the slowest
# requests wait for twice as long as with 8. But a refresh has a time limit. On a busy machine the worker gets a seventh of
# what another process gets; with 15 that was a thirtieth, and it did not answer in time.
NICENESS = 8

_libc = ctypes.CDLL(None, use_errno=True)


def protect() -> None:
    """Prevent other processes of this user from reading our memory and files, and core dumps."""
    # exec makes a process dumpable again, whatever the daemon has set.
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)


def debugger() -> str:
    """Return the name of a program, not root's, that traces this process; "" for none.

    It attached before `protect` ran: afterwards only root can. It would trace a fork too.
    """
    with suppress(OSError):
        tracer = _status("self")["TracerPid"]
        if tracer != "0":
            traces = _status(tracer)
            return "" if traces["Uid"].split()[:2] == ["0", "0"] else traces["Name"]
    return ""


def _status(process: str) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path("/proc", process, "status").read_text(errors="replace").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def detach() -> None:
    """Run at low priority, and ignore signals from the daemon's terminal: only the socket ends this process."""
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    # With the kernel's autogroups, which desktops have, niceness counts within a session only, and each session has one of
    # its own (sched(7)). setsid fails if the process leads a session already.
    with suppress(OSError):
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(niceness))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN: a key's command would inherit that, and nobody could stop it.
        signal.signal(number, _ignore)


def _ignore(_number: int, _frame: object) -> None:
    pass


def lock_memory() -> None:
    """Keep this process's memory off the disks that the system swaps to, if its limit of locked memory is unlimited.

    With a limit, memory that is requested later would be refused. A fork does not inherit the lock.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def work(waiting: int) -> int:
    """Answer the daemon's questions; return the exit status. `waiting` is the process that waits for this one."""
    # That is the one that the daemon knows, and kills.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != waiting:
        return os.EX_UNAVAILABLE
    lock_memory()
    from cms.grants.serve import serve  # noqa: PLC0415 - MSAL and the rest, which the process that waits does without

    return serve()


def main() -> int:
    # First: the files in /proc of a protected process are root's.
    detach()
    protect()
    if name := debugger():
        print(f"error: {name} traces the grant worker and could read its secrets, so it ended", file=sys.stderr)
        return os.EX_NOPERM
    first = os.getpid()
    worker = os.fork()
    if not worker:
        # At once: to take down all that MSAL has loaded is an eighth of the work for one refresh.
        os._exit(work(first))
    # Only the worker has the socket: the daemon sees when it closes it.
    os.close(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if ended < 0:
        signal.raise_signal(-ended)
    return ended


if __name__ == "__main__":
    sys.exit(main())
