"""One blocking round trip on a Unix socket, under the caller's deadline.

`_socket`, the C half of `socket`, has all that the client needs; importing `socket` would make its start two thirds
longer.
"""

import errno
import os
import time

try:
    import _socket as socket
except ImportError:  # pragma: no cover - only interpreters other than CPython have no _socket
    import socket  # type: ignore[no-redef] # the same names, more slowly

# Between two tries at a daemon whose queue of waiting connections is full.
_QUEUE_PAUSE = 0.02

# How much is taken off the socket at once: a reply with its token has some 2 KB.
_CHUNK = 16 * 1024


class Failed:
    """Nothing came of a round trip: `code` as in `wire.EXIT_CODES`, what happened, and the next move.

    `retry_after` is the seconds until cms itself tries again, 0 when that is unknown.
    """

    __slots__ = ("code", "hint", "message", "retry_after")

    def __init__(self, code: str, message: str, hint: str, retry_after: int = 0) -> None:
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after


class DaemonReply:
    """All that was sent back. `unread` says that the other side went away without having read the request."""

    __slots__ = ("text", "unread")

    def __init__(self, text: bytes, *, unread: bool = False) -> None:
        self.text = text
        self.unread = unread


def now() -> float:
    """Return the clock that deadlines are made of, in seconds: it goes on in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def round_trip(path: str, request: bytes, deadline: float, limit: int) -> DaemonReply | Failed:
    """Send a request, close the writing side, and return what comes back until the other side closes.

    `deadline` is a moment of `now()` and covers connecting, sending and reading. A reply of more than `limit` bytes
    is none.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, path, deadline)
        unread = _send(connection, request, deadline)
        return _receive(connection, deadline, limit, unread=unread)
    except TimeoutError:
        return Failed("unavailable", f"no answer in time from {path}", "try again; if it stays so, run: cms status")
    except OSError as error:
        return _no_connection(path, error)
    finally:
        connection.close()


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    """Connect, waiting for a place in a full queue: a socket with a timeout is told EAGAIN at once instead."""
    while True:
        connection.settimeout(_left(deadline))
        try:
            connection.connect(path)
        except BlockingIOError:
            time.sleep(min(_QUEUE_PAUSE, _left(deadline)))
        else:
            return


def _send(connection: socket.socket, request: bytes, deadline: float) -> bool:
    """Send all of a request and half-close; return whether the other side had left already."""
    connection.settimeout(_left(deadline))
    try:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def _receive(connection: socket.socket, deadline: float, limit: int, *, unread: bool) -> DaemonReply | Failed:
    received = b""
    while len(received) <= limit:
        connection.settimeout(_left(deadline))
        try:
            more = connection.recv(_CHUNK)
        except ConnectionResetError:
            # It closed with our request still unread: Linux says so, after what it had sent.
            return DaemonReply(received, unread=True)
        if not more:
            return DaemonReply(received, unread=unread)
        received += more
    return Failed(
        "unavailable", f"the reply has more than {limit} bytes: this is not cms", "see --cms_sock; is it cms's socket?"
    )


def _left(deadline: float) -> float:
    """Return the seconds left; raises TimeoutError when there are none, since a timeout of 0 means something else."""
    left = deadline - now()
    if left <= 0:
        raise TimeoutError
    return left


def _no_connection(path: str, error: OSError) -> Failed:
    """Say why no daemon answers at this path."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return Failed("no-daemon", f"there is no socket at {path}{_missing(path)}", "start the daemon, run: cms run")
    if error.errno == errno.ECONNREFUSED and (kind := _other_kind(path)):
        return Failed(
            "no-daemon",
            f"{path} is {kind}, not a socket",
            "name the daemon's socket with --cms_sock; cms status shows where it is",
        )
    if error.errno == errno.ECONNREFUSED:
        return Failed(
            "no-daemon",
            f"nobody listens on {path}: the daemon that made it is no longer there",
            "start the daemon, run: cms run",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Failed(
            "denied",
            f"permission denied on {path}{_closed(path)}",
            "its owner must let you in: CredentialServer(..., mode=, group= or users=), and into every folder on the way",
        )
    if error.errno is None:
        # Not the kernel's word: the interpreter refuses a path longer than a socket address can hold.
        return Failed("bad-request", f"{path} is no path for a socket: {error}", "name a shorter one with --cms_sock")
    return Failed("no-daemon", f"cannot talk to {path}: {error.strerror}", "run: cms status")


def _folders(path: str) -> list[str]:
    """Return the folders on the way to a path, the outermost first."""
    folders = []
    while (above := os.path.dirname(path)) != path:  # noqa: PTH120 - pathlib would double the client's start
        folders.append(above or ".")
        path = above
    return folders[::-1]


def _missing(path: str) -> str:
    """Name the first folder on the way that is not there, or is none."""
    for folder in _folders(path):
        if not os.path.isdir(folder):  # noqa: PTH112 - as above
            what = "is no folder" if os.path.exists(folder) else "does not exist"  # noqa: PTH110 - as above
            return f": {folder} {what}"
    return ""


def _closed(path: str) -> str:
    """Name the first folder on the way that this user may not enter."""
    # By the effective user, as the kernel judges a connection.
    folder = next((each for each in _folders(path) if not os.access(each, os.X_OK, effective_ids=True)), "")
    return f": uid {os.geteuid()} may not enter {folder}" if folder else ""


def _other_kind(path: str) -> str:
    """Return what a path is that is no socket, "" for a socket: the kernel refuses a connection to both alike."""
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return "a folder"
    return "a file" if os.path.isfile(path) else ""  # noqa: PTH113 - as above
