"""The peer of a Unix socket, as the kernel recorded it at connect(): process, user and primary group."""

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

# A pid and two ids of 32 bits each.
_CREDENTIALS_BYTES = 12


def credentials(sock: "Socket") -> tuple[int, int, int]:
    """Return the peer's process id, uid and primary gid. Raises OSError."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS_BYTES)
    # The module `struct` would cost `cms-oauth` more than all that is here.
    pid, uid, gid = memoryview(packed).cast("I")
    return pid, uid, gid
