"""The grant worker: `python -I -m cms.grants` with one end of a socketpair as its standard input.

It is the only process that ever holds a refresh token, a client secret or the vault's key. `cms.grants.messages` has the
messages on the socket, `cms.grants.dispatcher` the main loop.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from cms.grants.bugs import unexpected
from cms.grants.dispatcher import Dispatcher
from cms.grants.entra.client import Entra
from cms.grants.messages import Open
from cms.grants.service import Service
from cms.grants.vault import open_vault

_PR_SET_DUMPABLE = 4

# Refreshing is less urgent than the daemon's work for mail programs.
NICENESS = 15


def protect() -> None:
    """Prevent other processes of this user from reading our memory, and core dumps."""
    # exec makes a process dumpable again, whatever the daemon has set.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def detach() -> None:
    """Run at low priority, and ignore signals from the daemon's terminal: only the socket ends this process."""
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    # The call fails if the process leads a session already.
    with suppress(PermissionError):
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def crash(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Report a crash like any other bug: Python's report would quote the exception, which may contain a secret."""
    unexpected(error)


def open_service(opened: Open) -> Service:
    """Return the service that answers the questions."""
    return Service(open_vault(opened), Entra(opened.ca, opened.proxy), persist=opened.persist)


def main() -> int:
    protect()
    detach()
    sys.excepthook = crash
    try:
        sock = socket.socket(fileno=0)
    except OSError:
        print("error: this program is started by cms, with a socket as its standard input", file=sys.stderr)
        return os.EX_USAGE
    return Dispatcher(sock, open_service).run()


if __name__ == "__main__":
    sys.exit(main())
