"""Notices changes of the network: the kernel reports when an address or a route is added or removed (rtnetlink(7)).

After a change, a fetch that failed without a network may succeed, and so may one that was refused because of where the
machine was connected. Not every report is a change: an address is announced anew with each router advertisement and each
renewed lease, which is every few minutes, and containers come and go. So the reports are read, by `Connection`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeAlias

import trio

from cms.system.logs import get_logger

# rtnetlink(7): groups of changes. Python has no names for them.
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV6_IFADDR = 0x100
RTMGRP_IPV6_ROUTE = 0x400
GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE

# netlink(7): length, type, flags, sequence number and sender of a message; its types and flags.
_HEADER = struct.Struct("=IHHII")
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS, _NEW_ROUTE, _DEL_ROUTE = 20, 21, 22, 24, 25
_REQUEST, _MULTIPART, _DUMP = 0x1, 0x2, 0x300
# rtnetlink(7). Of an address: family, length of the prefix, flags, scope, interface. Of a route: family, lengths of the
# two prefixes, TOS, table, protocol, scope, type, flags. Then attributes: length and type of each.
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_IFA_ADDRESS, _RTA_INTERFACE, _RTA_GATEWAY = 1, 4, 5
# RT_SCOPE_LINK: addresses from this scope on lead to no other network. Each container's interface has one.
_LINK_SCOPE = 253
# A default route has a prefix of no bits. VPNs set two in front of it, of one bit each.
_LONGEST_DEFAULT = 1

# A cable or a VPN causes many changes, and its name server is configured last.
SETTLING_SECONDS = 2.0

# Longer than the kernel's messages. The rest of a longer one would not matter.
_CHUNK = 64 * 1024

# A network that the machine is in, or a default route; and the address in it, as a number.
_Place: TypeAlias = tuple[object, ...]
_Known: TypeAlias = tuple[_Place, int]

log = get_logger()


def listen() -> socket.socket:
    """Return a socket that becomes readable when the network has changed. Raises OSError if that is not allowed.

    What is read first are the addresses that the machine has.
    """
    heard = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        heard.bind((0, GROUPS))
    except OSError:
        heard.close()
        raise
    question = _HEADER.pack(_HEADER.size + _ADDRESS.size, _GET_ADDRESS, _REQUEST | _DUMP, 1, 0)
    with suppress(OSError):
        heard.send(question + _ADDRESS.pack(0, 0, 0, 0, 0))
    return heard


class Connection:
    """How the machine is connected: the networks that it has addresses in, and its default routes.

    It knows what the kernel has reported so far; a route that was there before counts as new when it is reported first.
    """

    def __init__(self) -> None:
        self._known: set[_Known] = set()

    def changes(self, reports: bytes) -> bool:
        """Take in reports of the kernel; return True if the machine is connected otherwise now, or if that is unclear."""
        changed = False
        try:
            for kind, flags, known in _read(reports):
                before = {place for place, _ in self._known}
                if kind in (_NEW_ADDRESS, _NEW_ROUTE):
                    self._known.add(known)
                else:
                    self._known.discard(known)
                gone = kind == _DEL_ROUTE and known[0] not in before
                differs = gone or before != {place for place, _ in self._known}
                # The answer to a question is no change.
                changed |= differs and not flags & _MULTIPART
        except (struct.error, ValueError):
            return True
        return changed


def _read(reports: bytes) -> Iterator[tuple[int, int, _Known]]:
    """Yield type, flags and content of the reports that are of interest. Raises ValueError or struct.error."""
    while reports:
        length, kind, flags, _, _ = _HEADER.unpack_from(reports)
        if not _HEADER.size <= length <= len(reports):
            raise ValueError("a report that was cut off")
        body, reports = reports[_HEADER.size : length], reports[_aligned(length) :]
        known = None
        if kind in (_NEW_ADDRESS, _DEL_ADDRESS):
            known = _address(body)
        elif kind in (_NEW_ROUTE, _DEL_ROUTE):
            known = _route(body)
        if known:
            yield kind, flags, known


def _address(body: bytes) -> _Known | None:
    family, prefix, _, scope, interface = _ADDRESS.unpack_from(body)
    found = _attributes(body[_ADDRESS.size :]).get(_IFA_ADDRESS, b"")
    if scope >= _LINK_SCOPE:
        return None
    address = int.from_bytes(found, "big")
    # Privacy extensions give a new address in the same network every day.
    return (family, interface, prefix, address >> max(0, 8 * len(found) - prefix)), address


def _route(body: bytes) -> _Known | None:
    family, prefix, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
    if prefix > _LONGEST_DEFAULT:
        return None
    found = _attributes(body[_ROUTE.size :])
    return (family, prefix, table, found.get(_RTA_INTERFACE), found.get(_RTA_GATEWAY)), 0


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    while len(body) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body)
        if not _ATTRIBUTE.size <= length <= len(body):
            raise ValueError("an attribute that was cut off")
        found[kind] = body[_ATTRIBUTE.size : length]
        body = body[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    """Return where the next part begins: at a multiple of 4."""
    return length + 3 & ~3


async def watch(
    changed: Callable[[], None],
    open_socket: Callable[[], socket.socket] = listen,
    *,
    stirred: Callable[[], None] = lambda: None,
) -> None:
    """Call `changed` after every change of the network, and `stirred` after a report that tells of none.

    Until cancelled. Returns if the kernel does not report changes.
    """
    try:
        heard = trio.socket.from_stdlib_socket(open_socket())
    except OSError as error:
        # Failed fetches are still tried again, but later.
        log.info("changes of the network are not noticed here", reason=error.strerror)
        return
    connection = Connection()
    with heard:
        while reports := await _next(heard):
            differs = connection.changes(reports)
            with trio.move_on_after(SETTLING_SECONDS):
                while reports := await _next(heard):
                    differs |= connection.changes(reports)
            (changed if differs else stirred)()


async def _next(heard: trio.socket.SocketType) -> bytes:
    """Wait for reports of the kernel; return nothing if no more can come."""
    try:
        return await heard.recv(_CHUNK)
    except OSError:
        # ENOBUFS: there were more than the socket could buffer. So something has changed.
        return _UNKNOWN


# No report, so that it counts as a change.
_UNKNOWN = b"?"
