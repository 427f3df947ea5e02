"""The supplementary groups of a Unix socket's peer, as the kernel recorded them at connect()."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

# getsockopt(2) of Linux 4.13 and newer; Python has no name for it.
SO_PEERGROUPS = 59

# Python's getsockopt takes no more: 256 groups.
_FEW_BYTES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def groups(sock: socket.SocketType) -> tuple[int, ...]:
    """Return the peer's supplementary groups, none if they are unknown."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _FEW_BYTES)
    except OSError as error:
        packed = _many(sock.fileno()) if error.errno == errno.ERANGE else b""
    return struct.unpack(f"{len(packed) // 4}I", packed)


def _many(descriptor: int) -> bytes:
    """Return the groups of a peer that is in more than Python can ask for: up to NGROUPS_MAX, 65,536."""
    size = ctypes.c_uint(0)
    option = descriptor, socket.SOL_SOCKET, SO_PEERGROUPS
    # Without room the kernel fails, and says how much is needed.
    _libc.getsockopt(*option, None, ctypes.byref(size))
    room = ctypes.create_string_buffer(size.value)
    if _libc.getsockopt(*option, room, ctypes.byref(size)):
        return b""
    return room.raw[: size.value]
