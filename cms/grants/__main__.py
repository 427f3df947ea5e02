"""The grant worker: `python -I -m cms.grants` with one end of a socketpair as its standard input.

The only process that ever holds a refresh token, a client secret or the vault's key. See `cms.grants.messages` for
what is said over the socket, and `cms.grants.dispatcher` for how long it lives.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

from cms.grants.dispatcher import Dispatcher, unexpected
from cms.grants.entra.client import Entra
from cms.grants.messages import Open
from cms.grants.service import Service
from cms.grants.vault import open_vault

_PR_SET_DUMPABLE = 4

# The broker serves mail programs; refreshing is never as urgent as that.
NICENESS = 15


def protect() -> None:
    """Let no other process of this user read our memory, and no crash write it to a disk."""
    # exec has made the process dumpable again, whatever the broker had set.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def detach() -> None:
    """Stand behind the broker, and outlive what is meant for its terminal: only the socket ends this process."""
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    # Refused to a process that leads a session already, which is as good.
    with suppress(PermissionError):
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def crash(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Report a crash as any other bug: Python's own report would quote the exception, which may hold anything."""
    unexpected(error)


def open_service(opened: Open) -> Service:
    """Return what answers the questions."""
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
