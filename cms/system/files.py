"""Files on this machine: what is at a path, and private files that are whole or not there at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# What a path can lead to that is no file, in words.
_ODDITIES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

# The mode of a file that only its owner may read.
PRIVATE = 0o600

# Random bytes in the name of a draft: two writers never meet, and no user's file has such a name by chance.
_RANDOM_BYTES = 8


def oddity(path: Path) -> str:
    """Return what is at a path that is no regular file ("a device"), "" for a file, and for nothing that can be seen."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return _ODDITIES.get(stat.S_IFMT(mode), "")


def write_private(
    path: Path, content: bytes, mode: int = PRIVATE, place: Callable[[Path, Path], object] = os.replace
) -> None:
    """Make a file hold this content, whole or not at all: a crash leaves the old file, or none.

    The content is written to a draft beside the file, which `place(draft, path)` then gives its name: `os.replace`
    replaces what is there, `os.link` and `place_new` raise FileExistsError. Raises OSError; the draft is gone then.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}.cms-new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        # The caller has named the file, not the draft.
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Before the content, so that only those who may read it ever can. A FAT file system refuses any mode, and
            # what was just created is private already.
            if mode != PRIVATE:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        place(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    # Some folders cannot be read, and some network file systems sync none: the file is there all the same.
    with suppress(OSError):
        sync_folder(path.parent)


def place_new(draft: Path, path: Path) -> None:
    """Give a draft its name, unless a file has it already. Raises FileExistsError."""
    try:
        # Unlike a rename, a link never replaces a file that another program has put there meanwhile.
        os.link(draft, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # The file systems of most memory sticks know no second name for a file.
        if os.path.lexists(path):
            raise _exists(path) from None
        draft.rename(path)


def _exists(path: Path) -> FileExistsError:
    """Return an error that names the file, and not the draft."""
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def sweep_drafts(path: Path) -> None:
    """Delete the drafts that a crash has left of this file. Only its one writer may call this."""
    draft = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.cms-new")
    # A draft that cannot be listed or deleted is not in the way of the next one, which has another name.
    with suppress(OSError):
        for each in path.parent.iterdir():
            if draft.fullmatch(each.name):
                each.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
