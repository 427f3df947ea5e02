"""Notices changes of the network: the kernel reports when an address or a route is added or removed.

After a change, a fetch that failed without a network may succeed, so it is tried before its pause is over. The content
of the kernel's message (rtnetlink(7)) is not read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from cms.system.logs import get_logger

# rtnetlink(7): groups of changes. Python has no names for them.
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV6_IFADDR = 0x100
RTMGRP_IPV6_ROUTE = 0x400
GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE

# A cable or a VPN causes many changes, and its name server is configured last.
SETTLING_SECONDS = 2.0

# Longer than the kernel's messages. The rest of a longer one would not matter.
_CHUNK = 64 * 1024

log = get_logger()


def listen() -> socket.socket:
    """Return a socket that becomes readable when the network has changed. Raises OSError if that is not allowed."""
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        heard.bind((0, GROUPS))
    except OSError:
        heard.close()
        raise
    return heard


async def watch(changed: Callable[[], None], open_socket: Callable[[], socket.socket] = listen) -> None:
    """Call `changed` after every change of the network, until cancelled. Returns if the kernel does not report them."""
    try:
        heard = trio.socket.from_stdlib_socket(open_socket())
    except OSError as error:
        # Failed fetches are still tried again, but later.
        log.info("changes of the network are not noticed here", reason=error.strerror)
        return
    with heard:
        while await _next(heard):
            await trio.sleep(SETTLING_SECONDS)
            changed()


async def _next(heard: trio.socket.SocketType) -> bool:
    """Wait for a change; return False if no more can come."""
    try:
        return bool(await heard.recv(_CHUNK))
    except OSError:
        # ENOBUFS: there were more changes than the socket could buffer. So there was a change.
        return True
