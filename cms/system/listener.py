"""Listening Unix sockets: created atomically, or passed by systemd.

A socket is bound to a temporary name, gets its group and mode, starts to listen, and is then renamed to its path. So a
client never finds it missing, not yet listening, or open to the wrong user. The umask is not changed.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import socket
import stat
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import trio

from cms.core.policy import Peer
from cms.system import users
from cms.system.files import make_folders
from cms.system.logs import get_logger
from cms_oauth.moves import Command
from cms_oauth.peer import credentials

# sockaddr_un has 108 bytes for a path, and the last is a NUL.
MAX_PATH = 107

# The kernel's usual maximum. A client with a timeout that finds the queue full fails at once (EAGAIN).
BACKLOG = 4096

# The first descriptor that systemd passes (sd_listen_fds(3)).
LISTEN_FDS_START = 3

# Errors of accept() that pass when something is closed, and the pause if nothing could be closed.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SHORTAGE_SECONDS = 0.1
# A shortage may end and begin again with every connection. It is logged at most once in this many seconds.
SHORTAGE_NEWS_SECONDS = 60.0
# Rounds of trio's scheduler until a new connection's task has read the data that has arrived, or until an evicted
# connection is closed: in the first round the task runs, and after the second its effect is visible.
_SETTLING_ROUNDS = 2


# A connected socket, and who is at its other end.
Accepted: TypeAlias = tuple[socket.socket, Peer]


class ListenError(Exception):
    """A socket cannot be created. The text tells the person who configured the path what happened and what to do."""


@dataclass(eq=False)
class Listener:
    """A listening socket. `inode` is (device, inode) of its file, None for a socket that systemd created."""

    path: str
    sock: socket.socket
    inode: tuple[int, int] | None = None
    _quiet_until: float = -math.inf

    async def accept(self, relieve: Callable[[], bool] = bool, *, most: int = 1) -> list[Accepted]:
        """Return the connections that wait, at least one and at `most` so many: sockets that do not block, and their peers.

        If the process or the machine has no free descriptors or memory, `relieve` is called to close a connection. It
        returns True if it has closed one.
        """
        await trio.lowlevel.checkpoint()
        while True:
            found, problem = self._accepted(most)
            if found:
                return found
            if problem:
                await self._survive(problem, relieve)
            else:
                await trio.lowlevel.wait_readable(self.sock)

    def _accepted(self, most: int) -> tuple[list[Accepted], OSError | None]:
        """Accept what waits; return it, and the error that ended that, if there is no more. An unknown peer is closed."""
        found = list[Accepted]()
        while len(found) < most:
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                return found, None
            except OSError as error:
                return found, error
            try:
                sock.setblocking(False)
                found.append((sock, Peer(*credentials(sock))))
            except OSError:
                sock.close()
        return found, None

    def last(self) -> list[Accepted]:
        """Stop listening, and return the connections that are waiting to be accepted.

        systemd's socket goes on listening: connections that wait there are for the next daemon.
        """
        if self.inode is None:
            return []
        self._remove()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)
        found, _ = self._accepted(BACKLOG)
        return found

    async def _survive(self, error: OSError, relieve: Callable[[], bool]) -> None:
        if error.errno == errno.ECONNABORTED:
            return
        if error.errno not in SHORTAGES:
            raise error
        if trio.current_time() >= self._quiet_until:
            get_logger().error("cannot accept connections for now", socket=self.path, error=os.strerror(error.errno))
            self._quiet_until = trio.current_time() + SHORTAGE_NEWS_SECONDS
        # The newest connection may have sent a whole request. Let its task read that first, so that it is not evicted.
        await settle()
        if relieve():
            await settle()
        else:
            await trio.sleep(SHORTAGE_SECONDS)

    def close(self) -> None:
        """Stop listening, and remove the file if it is still this socket's. May be called more than once."""
        self._remove()
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()

    def _remove(self) -> None:
        inode, self.inode = self.inode, None
        with suppress(OSError):
            if _inode(os.lstat(self.path)) == inode:
                Path(self.path).unlink()


async def settle() -> None:
    """Let every task that can go on without waiting go on."""
    for _ in range(_SETTLING_ROUNDS):
        await trio.lowlevel.checkpoint()


def adopt(environ: MutableMapping[str, str], pid: int) -> dict[str, socket.socket]:
    """Return the listening sockets that systemd passed, by path, and remove the variables from the environment.

    They are ignored unless LISTEN_PID is `pid`: then they are meant for a parent process. A descriptor that is not a
    listening Unix socket is closed with a warning.
    """
    named = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if named != str(pid) or not count.isascii() or not count.isdigit():
        return {}
    found = {}
    for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)):
        adopted = _adopted(fd)
        if adopted:
            found[_same(adopted.getsockname())] = adopted
    return found


def _adopted(fd: int) -> socket.socket | None:
    log = get_logger()
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        log.warning("a descriptor that LISTEN_FDS announces is not a socket", fd=fd)
        return None
    sock.set_inheritable(False)
    name = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listens and isinstance(name, str) and name:
        return sock
    log.warning("a socket of LISTEN_FDS is not a listening Unix socket with a path: closed", fd=fd)
    sock.close()
    return None


def close_unclaimed(inherited: MutableMapping[str, socket.socket]) -> None:
    """Close the inherited sockets that no CredentialServer uses, with a warning for each."""
    for path, sock in inherited.items():
        get_logger().warning("systemd passed a socket that no CredentialServer names: closed", socket=path)
        sock.close()
    inherited.clear()


async def open_listener(
    path: str,
    mode: int,
    *,
    group: str | None = None,
    inherited: MutableMapping[str, socket.socket] | None = None,
    replaces: Listener | None = None,
) -> Listener:
    """Listen at a path with these permission bits and this group, or on the inherited socket for that path.

    The socket file of a dead daemon is replaced atomically, and so is that of `replaces`. A socket on which another
    daemon listens, or any other file, is never replaced. Raises ListenError.
    """
    passed = (inherited or {}).pop(_same(path), None)
    if passed:
        return _inherited(path, mode, passed)
    # In a thread, because a group may be looked up over the network, and the daemon must not wait.
    gid = await trio.to_thread.run_sync(_gid, group)
    try:
        if len(os.fsencode(path)) > MAX_PATH:
            raise ListenError(
                f"the socket path {path} is too long: Linux allows {MAX_PATH} bytes; choose a shorter one"
            )
        # Their owner can change the mode later.
        make_folders(Path(path).parent)
        _check_free(path, replaces)
        return _listen(path, mode, gid)
    except OSError as error:
        raise _explained(path, group, error) from error


def _inherited(path: str, mode: int, sock: socket.socket) -> Listener:
    sock.listen(BACKLOG)
    with suppress(OSError):
        actual = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - the same as everywhere here
        if actual & ~mode:
            get_logger().warning(
                "systemd made a socket that lets in more than the configuration says: set SocketMode= of its unit",
                socket=path,
                socket_mode=f"{actual:04o}",
                configured=f"{mode:04o}",
            )
    sock.setblocking(False)
    return Listener(path, sock)


def _same(path: str) -> str:
    """Return a socket's path without symbolic links in its folders: /var/run is a link to /run."""
    folder, _, name = path.rpartition("/")
    return f"{Path(folder or '/').resolve()}/{name}"


def _gid(group: str | None) -> int:
    """Return a group's number by its name or number, -1 for none."""
    if group is None:
        return -1
    number = users.group_id(group)
    if number is None:
        raise ListenError(f"there is no group {group!r} here: check group= of the CredentialServer")
    return number


def _check_free(path: str, replaces: Listener | None) -> None:
    """Raise ListenError unless the path is free, or holds a dead socket or that of `replaces`."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"{path} already exists and is not a socket: remove it, or choose another path")
    if replaces and _inode(found) == replaces.inode:
        return
    holder = _holder(path)
    if holder is not None:
        raise ListenError(
            f"another daemon listens at {path}{holder}: stop it first, or choose another path for this one"
        )


def _holder(path: str) -> str | None:
    """Return which process listens at a socket, as the end of a sentence; None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dialled:
        dialled.setblocking(False)
        try:
            dialled.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            # Its queue is full: a daemon listens, and is busy.
            return ""
        pid, uid, *_ = credentials(dialled)
        return f" (pid {pid}, uid {uid})"


def _listen(path: str, mode: int, gid: int) -> Listener:
    """Create the socket under a temporary name, and rename it to its path when it listens."""
    temporary = _temporary(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # No other user can connect before the final mode is set.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(temporary)
        inode = _own(temporary, mode, gid)
        sock.listen(BACKLOG)
        os.rename(temporary, path)  # noqa: PTH104 - one system call, as the docstring says
    except BaseException:
        sock.close()
        Path(temporary).unlink(missing_ok=True)
        raise
    sock.setblocking(False)
    return Listener(path, sock, inode)


def _temporary(path: str) -> str:
    """Return an unused path in the same folder, short enough for a socket address."""
    folder, _, name = path.rpartition("/")
    unique = secrets.token_hex(4)
    candidate = f".{name}.{unique}"
    room = MAX_PATH - len(os.fsencode(folder)) - 1
    return f"{folder}/{candidate if len(os.fsencode(candidate)) <= room else unique[:room]}"


def _own(path: str, mode: int, gid: int) -> tuple[int, int]:
    """Set the group and mode of the new socket file, through a descriptor: another file may have taken its path."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        ours = f"/proc/self/fd/{fd}"
        if gid >= 0:
            os.chown(ours, -1, gid)
        os.chmod(ours, mode)  # noqa: PTH101 - as above
        return _inode(os.fstat(fd))
    finally:
        os.close(fd)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _explained(path: str, group: str | None, error: OSError) -> ListenError:
    """Return the ListenError for a failed system call."""
    folder, uid = str(Path(path).parent), os.geteuid()
    if error.errno == errno.EPERM and group is not None:
        return ListenError(
            f"uid {uid} may not give {path} to the group {group}: "
            f"make it a member (`{Command(('usermod', '-aG', group, 'USER'))}`) and start cms again, or run cms as root"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"uid {uid} may not write to {folder}: choose a folder of that user's, or change its mode")
    return ListenError(f"cannot listen at {path}: {error.strerror or error}")
