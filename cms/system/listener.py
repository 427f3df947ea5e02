"""Listening Unix sockets: created atomically, or passed by systemd, and put back if their files are lost.

A client never finds a socket missing, not yet listening, or open to the wrong user (`socket_file`).

Folders below /run/user vanish at a logout, and a person or a script may remove, replace or change any file: then no
client can connect, although the socket still listens. `Listener.damage` sees that, and `Listener.mend` puts it right.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import stat
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from cms.core.policy import Peer
from cms.system import socket_file, users
from cms.system.files import has_acl, make_folders
from cms.system.logs import get_logger
from cms.system.peer_groups import groups
from cms.system.socket_file import BACKLOG, MAX_PATH, SocketFile
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT, credentials

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


# A connected socket, and who is at its other end. It is one without the comforts of `socket.socket`, which cost too much
# where each request has a connection.
Accepted: TypeAlias = tuple[socket.SocketType, Peer]

# An `accept` that finds nothing takes seven times as long as a look. Where so many have come there are mostly more, and no look
# is worth its time.
_LOOKED_FOR = 2


def has_come(sock: socket.SocketType, looks: int = 1) -> bool:
    """True if a connection, bytes or an end waits at a socket, or comes within so many looks."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    # Without `any`: a generator takes as long as a look.
    while looks and not poll.poll(0):
        looks -= 1
    return looks > 0


# Raises ListenError if nothing may listen at a path.
Check: TypeAlias = Callable[[str], object]


def _anywhere(_path: str) -> None:
    pass


_RELOAD = "`cms reload`"
DISPLACED = (
    "systemd's socket was lost, and cms has made its own in its place: to give it back to systemd, stop its service, "
    "restart its socket unit, and start the service"
)


class ListenError(Exception):
    """A socket cannot be created. The text tells the person who configured the path what happened and what to do."""


@dataclass(eq=False)
class Listener:
    """A listening socket. `file` is its file as it was made, None if that is not known here.

    `ours` is False while the file is systemd's: that one stays when we end. `displaced` says that it was systemd's and is
    ours now, because it was lost.
    """

    path: str
    sock: socket.socket
    file: SocketFile | None = None
    ours: bool = True
    displaced: bool = False
    # Raises ListenError if other users can write the folder.
    check_folder: Check = _anywhere
    _quiet_until: float = -math.inf
    # Why the file could not be put back, "" if it was not tried or was done.
    _reason: str = ""
    # Connections that were waiting at a socket whose file was lost.
    _left: list[Accepted] = field(default_factory=list)
    # Why no more could be accepted the last time, None if there were no more.
    _problem: OSError | None = None
    # There may be more, because as many were found as were wanted.
    _more: bool = False

    async def wait(self, relieve: Callable[[], bool] = bool) -> None:
        """Wait until a connection can be accepted. All other tasks have a turn first.

        If the process or the machine has no free descriptors or memory, `relieve` is called to close a connection. It
        returns True if it has closed one.
        """
        if self._problem:
            await self._survive(self._problem, relieve)
        elif self._left or self._more:
            await trio.lowlevel.checkpoint()
        else:
            # `mend` closes the socket, and another is in its place.
            with suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self.sock)

    def accept(self, most: int = 1, looks: int = 1) -> list[Accepted]:
        """Return connections that can be accepted, at most so many; the first may come while we look so many times.

        Never waits: without any, call `wait`.
        """
        if self._left:
            found, self._left = self._left[:most], self._left[most:]
            return found
        return self._accepted(most, looks)

    def _accepted(self, most: int, looks: int = 1) -> list[Accepted]:
        """Accept what waits. A connection whose peer is unknown is closed; the error that ended all others is kept."""
        self._problem = None
        found: list[Accepted] = []
        while len(found) < most:
            if len(found) < _LOOKED_FOR and not has_come(self.sock, 1 if found else looks):
                break
            try:
                # What the standard library makes `accept` of, whose objects cost as much as the answer to a request.
                number, _ = self.sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - mypy's stubs lack it too
            except BlockingIOError:
                break
            except ConnectionAbortedError:
                # One client, who has gone.
                continue
            except OSError as error:
                self._problem = error
                break
            sock = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
            try:
                found.append((sock, Peer(*credentials(sock), partial(groups, sock))))
            except OSError:
                sock.close()
        self._more = len(found) == most
        return found

    def last(self) -> list[Accepted]:
        """Stop listening, and return the connections that are waiting to be accepted.

        systemd's socket goes on listening: connections that wait there are for the next daemon.
        """
        if self.ours:
            self._remove()
            self._drain()
        left, self._left = self._left, []
        return left

    def _drain(self) -> None:
        """Accept the connections that are waiting. No more can come to a socket of our own."""
        if self.ours:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RD)
        self._left += self._accepted(BACKLOG)

    async def _survive(self, error: OSError, relieve: Callable[[], bool]) -> None:
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

    def damage(self) -> str:
        """Return what has happened to the file, in words that follow its path; "" if clients can connect there as ever."""
        if self.file is None:
            return ""
        try:
            found = os.lstat(self.path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return "is gone"
            return f"cannot be seen any more ({error.strerror})"
        if not _is(found, self.file):
            return "is another socket now" if stat.S_ISSOCK(found.st_mode) else "is not a socket any more"
        now = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
        unchanged = now == (self.file.mode, self.file.uid, self.file.gid)
        # Who gave another user a way in by an access list has changed the mode too: that is theirs to do.
        return "" if unchanged or has_acl(Path(self.path)) else "has another mode or owner than it had"

    @property
    def trouble(self) -> str:
        """Why clients cannot connect, and the next move; "" if they can."""
        damage = self.damage()
        if not damage:
            return ""
        if self._reason:
            return f"the socket {self.path} {damage}, and cannot be put back: {self._reason}; then {_RELOAD}"
        return f"the socket {self.path} {damage}: cms puts it back within half a minute, and {_RELOAD} at once"

    def mend(self) -> None:
        """Put the socket back if clients cannot connect there as ever. Logs what was done, and why something cannot be."""
        damage = self.damage()
        if self._reason and not damage:
            get_logger().info("a socket is as it should be again", socket=self.path)
            self._reason = ""
        if not damage or self.file is None:
            return
        try:
            folder = Path(self.path).parent
            make_folders(folder.parent)
            make_folders(folder, self.file.folder_mode)
            self.check_folder(self.path)
            _check_free(self.path, self)
            # Only root can give the file to another user.
            anew = _listen(self.path, self.file.mode, self.file.gid, self.file.uid if os.geteuid() == ROOT else -1)
        except (ListenError, OSError) as error:
            explained = error if isinstance(error, ListenError) else _explained(self.path, str(self.file.gid), error)
            if str(explained) != self._reason:
                self._reason = str(explained)
                get_logger().error("a socket cannot be put back", socket=self.path, lost=damage, reason=self._reason)
            return
        get_logger().warning("a socket was put back", socket=self.path, lost=damage)
        if not self.ours:
            get_logger().warning(DISPLACED, socket=self.path)
        self._drain()
        lost, self.sock, self.file = self.sock, anew.sock, anew.file
        self.displaced, self.ours, self._reason = self.displaced or not self.ours, True, ""
        _close(lost)

    def close(self) -> None:
        """Stop listening, and remove the file if it is still this socket's. May be called more than once."""
        if self.ours:
            self._remove()
        _close(self.sock)

    def _remove(self) -> None:
        file, self.file = self.file, None
        with suppress(OSError):
            if file and _is(os.lstat(self.path), file):
                Path(self.path).unlink()


def _close(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()


def _is(found: os.stat_result, file: SocketFile) -> bool:
    return (found.st_dev, found.st_ino) == (file.device, file.inode)


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
    check_folder: Check = _anywhere,
) -> Listener:
    """Listen at a path with these permission bits and this group, or on the inherited socket for that path.

    The socket file of a dead daemon is replaced atomically, and so is that of `replaces`. A socket on which another
    daemon listens, or any other file, is never replaced. Raises ListenError, also what `check_folder(path)` raises when the
    folder is there.
    """
    inherited = inherited or {}
    try:
        if _same(path) in inherited:
            await trio.to_thread.run_sync(check_folder, path)
        passed = inherited.pop(_same(path), None)
        made = _inherited(path, mode, passed) if passed else None
        if made is None:
            # In a thread, because a group may be looked up over the network, and the daemon must not wait.
            gid = await trio.to_thread.run_sync(_gid, group)
            if len(os.fsencode(path)) > MAX_PATH:
                raise ListenError(
                    f"the socket path {path} is too long: Linux allows {MAX_PATH} bytes; choose a shorter one"
                )
            # Their owner can change the mode later.
            make_folders(Path(path).parent)
            await trio.to_thread.run_sync(check_folder, path)
            _check_free(path, replaces)
            made = _listen(path, mode, gid)
            made.displaced = passed is not None
    except OSError as error:
        raise _explained(path, group, error) from error
    made.check_folder = check_folder
    return made


def _inherited(path: str, mode: int, sock: socket.socket) -> Listener | None:
    """Return the listener of a socket that systemd passed; None if clients cannot reach it, because its file was lost."""
    sock.listen(BACKLOG)
    sock.setblocking(False)
    if not Path(path).parent.exists():
        # In a container, clients see other folders than we do.
        return Listener(path, sock, None, ours=False)
    if not _leads_to_us(path):
        get_logger().warning(DISPLACED, socket=path)
        sock.close()
        return None
    found = os.stat(path)  # noqa: PTH116 - the same as everywhere here
    actual = stat.S_IMODE(found.st_mode)
    if actual & ~mode:
        get_logger().warning(
            "systemd made a socket for more users than the configuration says, and cms refuses those: set SocketMode= of its unit",
            socket=path,
            socket_mode=f"{actual:04o}",
            configured=f"{mode:04o}",
        )
    return Listener(path, sock, socket_file.facts(path, found), ours=False)


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
    if replaces and replaces.file and _is(found, replaces.file):
        return
    holder = _holder(path)
    if holder is not None and _is_systemd(holder.pid):
        raise ListenError(
            f"systemd listens at {path} for a service: (re)start that service, or stop its socket unit first"
        )
    if holder is not None:
        who = f" (pid {holder.pid}, uid {holder.uid})" if holder.pid else ""
        raise ListenError(f"another daemon listens at {path}{who}: stop it first, or choose another path for this one")


def _is_systemd(pid: int) -> bool:
    """True for systemd, the machine's or a user's: it listens for services with socket activation."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"
    except OSError:
        return False


def _holder(path: str) -> Peer | None:
    """Return which process listens at a socket, None if none does. Its pid is 0 if it is too busy to say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dialled:
        dialled.setblocking(False)
        try:
            dialled.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            # Its queue is full: a daemon listens, and is busy.
            return Peer(0, 0, 0)
        return Peer(*credentials(dialled))


def _leads_to_us(path: str) -> bool:
    """True if who connects at this path comes to a socket of this process, as far as that can be seen."""
    try:
        holder = _holder(path)
    except OSError:
        return True
    return holder is not None and holder.pid in (0, os.getpid())


def _listen(path: str, mode: int, gid: int, uid: int = -1) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        file = socket_file.make(sock, path, mode, uid, gid)
    except BaseException:
        sock.close()
        raise
    return Listener(path, sock, file)


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
    return ListenError(f"cannot listen at {path} ({error.strerror or error}): mend that, or choose another path")
