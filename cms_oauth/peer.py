"""The peer of a Unix socket, as the kernel recorded it at connect(): process, user and groups."""

import struct

try:
    import _socket as socket
except ImportError:  # pragma: no cover - only interpreters other than CPython have no _socket
    import socket  # type: ignore[no-redef] # the same names, more slowly

# Type checkers treat this like typing.TYPE_CHECKING. Importing `typing` would cost as much as a whole fetch.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Socket(Protocol):
        """A connected Unix socket: of the standard library, or of trio."""

        def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


# The uid of root.
ROOT = 0

# getsockopt(2) of Linux 4.13 and newer; Python has no name for it. It takes at most 1,024 bytes from Python: 256
# groups. For a peer in more groups only uid and primary group are known.
SO_PEERGROUPS = 59
_GROUPS_BYTES = 1024
_CREDENTIALS = struct.Struct("=iII")


def credentials(sock: "Socket") -> tuple[int, int, int]:
    """Return the peer's process id, uid and primary gid. Raises OSError."""
    return _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))


def groups(sock: "Socket") -> tuple[int, ...]:
    """Return the peer's supplementary groups, none if they are unknown."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        packed = b""
    return struct.unpack(f"{len(packed) // 4}I", packed)
