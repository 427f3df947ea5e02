"""Ports that a test can name before a server listens at them, or while none does."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 8000

# Other processes of the same run take other ports: from the look at one until its server has it, minutes can pass.
_WORKERS = 16
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_turns = itertools.count(random.randrange(_WIDTH // _WORKERS))


def free_port() -> int:
    """Return a free port below the range from which the kernel picks ports by itself; each time another one."""
    low = int(_RANGE.read_text().split()[0])
    while True:
        port = low - _WIDTH + next(_turns) * _WORKERS % _WIDTH + _WORKER
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 at which no server listens: it is taken, so that none comes in the block."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server listens at a port of this machine."""
    try:
        socket.create_connection((address, port)).close()
    except ConnectionRefusedError:
        return False
    return True
