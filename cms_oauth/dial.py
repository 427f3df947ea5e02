"""One blocking round trip on a Unix socket, under the caller's deadline.

`_socket`, the C half of `socket`, has all that the client needs; importing `socket` would make its start two thirds
longer.
"""

import os
import stat
import time

from cms_oauth import impostor, peer

try:
    import _socket as socket
except ImportError:  # pragma: no cover - only interpreters other than CPython have no _socket
    import socket  # type: ignore[no-redef] # the same names, more slowly

# The pause before connecting again to a daemon whose queue of waiting connections is full.
_QUEUE_PAUSE = 0.02

# How much is read from the socket at once: a reply with its token has about 2 KB.
_CHUNK = 16 * 1024


class Failed:
    """A failed round trip: `code` as in `wire.EXIT_CODES`, what happened, and the next move.

    `retry_after` is the number of seconds until cms itself tries again, 0 if unknown.
    """

    __slots__ = ("code", "hint", "message", "retry_after")

    def __init__(self, code: str, message: str, hint: str, retry_after: int = 0) -> None:
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after


class DaemonReply:
    """The whole answer. `unread` is True if the other side closed the connection without reading the request."""

    __slots__ = ("text", "unread")

    def __init__(self, text: bytes, *, unread: bool = False) -> None:
        self.text = text
        self.unread = unread


def now() -> float:
    """Return the time for deadlines, in seconds, from a clock that runs on during a suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def round_trip(path: str, request: bytes, deadline: float, limit: int) -> DaemonReply | Failed:
    """Send a request, close the writing side, and return what comes back until the other side closes.

    Nothing is sent to a process that may be a stranger's (`impostor`). `deadline` is a time of `now()` for connecting,
    sending and reading together. A reply of more than `limit` bytes is a failure.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, path, deadline)
        _, uid, _ = peer.credentials(connection)
        doubt = impostor.suspect(path, uid)
        if doubt:
            return Failed("untrusted", doubt.message, doubt.hint)
        unread = _send(connection, request, deadline)
        return _receive(connection, deadline, limit, unread=unread)
    except TimeoutError:
        return Failed(
            "unavailable", f"no answer in time from {path}", "try again; if it keeps failing, run: cms status"
        )
    except OSError as error:
        return _no_connection(path, error)
    finally:
        connection.close()


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    """Connect, and try again while the daemon's queue is full: a socket with a timeout then fails with EAGAIN."""
    while True:
        connection.settimeout(_left(deadline))
        try:
            connection.connect(path)
        except BlockingIOError:
            time.sleep(min(_QUEUE_PAUSE, _left(deadline)))
        else:
            return


def _send(connection: socket.socket, request: bytes, deadline: float) -> bool:
    """Send a request and close the writing side; return True if the other side has already closed the connection."""
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
            # The other side closed without reading our request. Linux reports this after the data that it had sent.
            return DaemonReply(received, unread=True)
        if not more:
            return DaemonReply(received, unread=unread)
        received += more
    return Failed(
        "unavailable", f"the reply has more than {limit} bytes: this is not cms", "see --cms_sock; is it cms's socket?"
    )


def _left(deadline: float) -> float:
    """Return the seconds left. Raises TimeoutError if there are none, since a timeout of 0 means something else."""
    left = deadline - now()
    if left <= 0:
        raise TimeoutError
    return left


def _no_connection(path: str, error: OSError) -> Failed:
    """Return why no daemon answers at this path."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Failed("no-daemon", f"there is no socket at {path}{_missing(path)}", "start the daemon, run: cms run")
    refused = isinstance(error, ConnectionRefusedError)
    if refused and (kind := _other_kind(path)):
        return Failed(
            "no-daemon",
            f"{path} is {kind}, not a socket",
            "name the daemon's socket with --cms_sock; cms status shows where it is",
        )
    if refused:
        return Failed(
            "no-daemon",
            f"nobody listens on {path}: the daemon that created it is not running",
            "start the daemon, run: cms run",
        )
    if isinstance(error, PermissionError):
        return Failed(
            "denied",
            f"permission denied on {path}{_closed(path)}",
            "its owner must allow you: CredentialServer(..., mode=, group= or users=), and open every folder above it",
        )
    if error.errno is None:
        # The error comes from the interpreter: the path is longer than a socket address.
        return Failed("bad-request", f"{path} is not a path for a socket: {error}", "use a shorter one with --cms_sock")
    return Failed("no-daemon", f"cannot talk to {path}: {error.strerror}", "run: cms status")


def _folders(path: str) -> list[str]:
    """Return the folders above a path, the outermost first."""
    folders = []
    while (above := os.path.dirname(path)) != path:  # noqa: PTH120 - pathlib would double the client's start
        folders.append(above or ".")
        path = above
    return folders[::-1]


def _missing(path: str) -> str:
    """Name the first folder above a path that does not exist or is not a folder."""
    for folder in _folders(path):
        if not os.path.isdir(folder):  # noqa: PTH112 - as above
            what = "is not a folder" if os.path.exists(folder) else "does not exist"  # noqa: PTH110 - as above
            return f": {folder} {what}"
    return ""


def _closed(path: str) -> str:
    """Name the first folder above a path that this user may not enter."""
    # As the effective user, like the kernel's own check.
    folder = next((each for each in _folders(path) if not os.access(each, os.X_OK, effective_ids=True)), "")
    return f": uid {os.geteuid()} may not enter {folder}" if folder else ""


def _other_kind(path: str) -> str:
    """Return what a path is instead of a socket, "" for a socket: the kernel's error is the same for both."""
    if os.path.isdir(path):  # noqa: PTH112 - as above
        return "a folder"
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - as above
    except OSError:
        return ""
    return "" if is_socket else "a file"
