"""Ports that a test can name before anybody listens at them."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_WIDTH = 8000


def free_port() -> int:
    """Return a port that nobody listens at and that the kernel gives to nobody by itself: it lies below its range."""
    low = int(_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(low - _WIDTH, low)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def listens(port: int) -> bool:
    """Whether somebody listens at a port of this machine's."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
