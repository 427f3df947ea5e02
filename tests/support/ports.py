"""Ports that a test can name before a server listens at them."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 8000


def free_port() -> int:
    """Return a free port below the range from which the kernel picks ports by itself."""
    low = int(_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(low - _WIDTH, low)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def listens(port: int) -> bool:
    """Whether a server listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
