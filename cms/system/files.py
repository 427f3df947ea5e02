"""Files: what is at a path, and atomic writes of private files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")

# What to do about a file system that lacks what the state folder needs.
LOCAL_DISK = "set XDG_STATE_HOME (for a service, StateDirectory=) to a folder on a local disk"

# How often a file on a network file system is looked up, if it was replaced on the server each time.
STALE_TRIES = 3

# Things at a path that are not regular files, in words.
_ODDITIES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

# The mode of a file that only its owner can read, and of such a folder.
PRIVATE = 0o600
PRIVATE_FOLDER = 0o700

# Random bytes in the name of a draft, so that two writers never use the same name, and no other file has it by chance.
_RANDOM_BYTES = 8


def make_folders(folder: Path, mode: int = PRIVATE_FOLDER) -> None:
    """Create the missing folders of a path with this mode, whatever the umask is. Raises OSError.

    By default they are for their owner only, as the XDG Base Directory specification says of a user's folders.
    """
    if folder.is_dir():
        return
    make_folders(folder.parent, mode)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER)
        # Not if it has all rights already: a FAT file system refuses to change a mode.
        if mode & ~folder.stat().st_mode:
            folder.chmod(mode)
    except FileExistsError:
        # Another process may have made it at the same time; if not, a file has its name.
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def has_acl(path: Path) -> bool:
    """True if an access control list may give other users rights to a file or folder (acl(5))."""
    try:
        os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
    except OSError as error:
        # No list, or a file system without lists.
        return error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
    return True


def oddity(path: Path) -> str:
    """Return what is at a path if it is not a regular file ("a device"), else "". Also "" if there is nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return _ODDITIES.get(stat.S_IFMT(mode), "")


def looked_up_again(call: Callable[[], T]) -> T:
    """Return the result of a call that opens files by their paths. Raises OSError.

    NFS reports ESTALE if another machine has replaced a file, or the server was restarted. Opened again, it is the new file.
    """
    for _ in range(STALE_TRIES - 1):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return call()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read it. Raises OSError, also for what is no regular file and for what can be no file's name."""
    try:
        # O_NONBLOCK: opening a pipe would wait for a writer. O_NOCTTY: a terminal would become this process's own.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        # A NUL, or a surrogate that stands for no byte.
        raise OSError(errno.EINVAL, "no file can have this name") from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"it is {_ODDITIES[kind]}, not a regular file", str(path))


def read_regular(path: str | Path, most: int) -> bytes:
    """Return the content of a file, at most so many bytes of it. Raises OSError as `open_regular` does."""

    def read() -> bytes:
        with open_regular(path) as file:
            return file.read(most)

    return looked_up_again(read)


def write_private(
    path: Path, content: bytes, mode: int = PRIVATE, place: Callable[[Path, Path], object] = os.replace
) -> None:
    """Write a file atomically: after a crash the old file is still there, or none.

    The content is written to a draft beside the file, and `place(draft, path)` then renames it: `os.replace` replaces an
    existing file, `os.link` and `place_new` raise FileExistsError. Raises OSError; the draft is deleted in any case.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(_RANDOM_BYTES).hex()}.cms-new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        # The error names the file and not the draft.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Set before the content is written, so that no other user can read it. Not set if it is PRIVATE, which the
            # draft is already: a FAT file system refuses to change a mode.
            if mode != PRIVATE:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        place(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    # Some folders cannot be read, and some network file systems do not sync them. The file is written all the same.
    with suppress(OSError):
        sync_folder(path.parent)


def place_new(draft: Path, path: Path) -> None:
    """Rename a draft, unless a file with that name exists. Raises FileExistsError."""
    try:
        # Unlike a rename, a link never replaces a file that another program has just created.
        os.link(draft, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # The file systems of most memory sticks have no hard links.
        if os.path.lexists(path):
            raise _exists(path) from None
        draft.rename(path)


def _exists(path: Path) -> FileExistsError:
    """Return an error that names the file and not the draft."""
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def sweep_drafts(path: Path) -> None:
    """Delete the drafts of this file that a crash has left. Only the file's single writer may call this."""
    draft = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.cms-new")
    # A draft that cannot be deleted does no harm: the next one has another name.
    with suppress(OSError):
        for each in path.parent.iterdir():
            if draft.fullmatch(each.name):
                each.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
