"""Makes the file of a listening Unix socket, with its owner, group and mode.

The socket is bound in a private folder, gets its group and mode there, starts to listen, and is then moved to its path. So a
client never finds it missing, not yet listening, or open to the wrong user; and no other user can put a file in its place
that would get the mode. The umask is not changed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cms.system.files import PRIVATE_FOLDER

# sockaddr_un has 108 bytes for a path, and the last is a NUL.
MAX_PATH = 107

# The kernel's usual maximum. A client with a timeout that finds the queue full fails at once (EAGAIN).
BACKLOG = 4096

# The name of a socket in the private folder where it is made.
_SOCKET = "s"
# Of a socket's name, in the name of that folder: 255 bytes is the limit (path_resolution(7)).
_LONGEST_PART = 60


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a socket: which one it is, who may connect there, and the mode of its folder."""

    device: int
    inode: int
    mode: int
    uid: int
    gid: int
    folder_mode: int


def make(sock: socket.socket, path: str, mode: int, uid: int, gid: int) -> SocketFile:
    """Bind a socket in a private folder beside its path, and move it there when it listens. Raises OSError."""
    private = _temporary(path)
    os.mkdir(private, PRIVATE_FOLDER)  # noqa: PTH102 - as below
    try:
        folder = os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            file = _bind(sock, private, folder, (mode, uid, gid))
            sock.listen(BACKLOG)
            sock.setblocking(False)
            os.rename(_SOCKET, path, src_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(_SOCKET, dir_fd=folder)
            raise
        finally:
            os.close(folder)
    finally:
        with suppress(OSError):
            os.rmdir(private)  # noqa: PTH106 - one system call, as the docstring says
    return file


def _bind(sock: socket.socket, private: str, folder: int, wanted: tuple[int, int, int]) -> SocketFile:
    """Bind in a private folder, open as `folder`, and give the file this mode, owner and group (-1 for as it is).

    What has become of the folder's name meanwhile does not matter: the file is found by the folder's descriptor.
    """
    mode, uid, gid = wanted
    found = os.fstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(errno.EBUSY, f"another user has replaced {private} just now", private)
    # `ss -xl` shows the name by which it was bound.
    named, made = f"{private}/{_SOCKET}", f"/proc/self/fd/{folder}/{_SOCKET}"
    sock.bind(named if len(os.fsencode(named)) <= MAX_PATH else made)
    if (uid, gid) != (-1, -1):
        os.chown(made, uid, gid, follow_symlinks=False)
    os.chmod(made, mode)  # noqa: PTH101 - as above
    return facts(private, os.lstat(made))


def _temporary(path: str) -> str:
    """Return an unused path in the same folder."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name[:_LONGEST_PART]}.{os.urandom(4).hex()}"


def facts(path: str, found: os.stat_result) -> SocketFile:
    """Return what there is to know of the socket at a path."""
    folder = stat.S_IMODE(Path(path).parent.stat().st_mode)
    return SocketFile(found.st_dev, found.st_ino, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, folder)
