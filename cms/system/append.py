"""A file that lines are added to while other programs rename it, such as an audit log. Errors are counted, not raised."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from cms.system.files import PRIVATE, make_folders
from cms.system.logs import get_logger

# O_NOFOLLOW and O_NONBLOCK: a link is not followed, and opening a pipe does not wait for a reader.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# So much of a disk is left to others: a twentieth of it, and no more than these bytes. Whoever may ask can have a record
# made of each request, and what is full for this file is full for mail.
FREE_PART = 20
MOST_FREE = 256 * 1024 * 1024

log = get_logger()


class AppendFile:
    """One file. `lost` counts the lines that could not be written, and `trouble` says why the last could not, "" if it was.

    `distrust` returns why no file may be opened at a path, "" if one may: other users may have made its folder meanwhile.
    """

    def __init__(self, path: str, distrust: Callable[[str], str] = lambda _: "") -> None:
        self.place = path
        self._distrust = distrust
        self.lost = 0
        self.trouble = ""
        self._descriptor = -1
        # The end of the file may be a part of a line, which the disk had room for.
        self._torn = False
        self.reopen()

    def reopen(self) -> None:
        """Open the file that has this name now; create it if there is none."""
        self.close()
        try:
            make_folders(Path(self.place).parent)
            self._descriptor = _opened(self.place, self._distrust(self.place))
        except OSError as error:
            self._note(error.strerror or str(error))
        else:
            self._note("")

    def mend(self) -> None:
        """Open the file again if it could not be opened, or was deleted."""
        if self._descriptor < 0 or not os.fstat(self._descriptor).st_nlink:
            self.reopen()

    def write(self, lines: Sequence[str]) -> None:
        """Add these lines in one write. They have no line ends yet."""
        data = "".join(f"{line}\n" for line in lines).encode(errors="replace")
        if self._descriptor < 0:
            self.lost += len(lines)
            return
        try:
            _check_room(self._descriptor)
            written = os.write(self._descriptor, b"\n" + data if self._torn else data) - self._torn
        except OSError as error:
            self.lost += len(lines)
            self._note(error.strerror or str(error))
            return
        rest = data[written:]
        self.lost += rest.count(b"\n")
        self._torn = bool(rest)
        self._note(os.strerror(errno.ENOSPC) if rest else "")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _note(self, trouble: str) -> None:
        """Keep why a line could not be written, and log it when that changes."""
        if trouble and trouble != self.trouble:
            log.warning("a file cannot be written: what belongs into it is lost", file=self.place, reason=trouble)
        elif self.trouble and not trouble:
            log.warning("a file can be written again", file=self.place, lost=self.lost)
        self.trouble = trouble


def _check_room(descriptor: int) -> None:
    """Raise OSError if what is free on a file's disk is left to others."""
    disk = os.fstatvfs(descriptor)
    if disk.f_bavail * disk.f_frsize < min(disk.f_blocks * disk.f_frsize // FREE_PART, MOST_FREE):
        raise OSError(errno.ENOSPC, "the disk is nearly full")


def _opened(path: str, distrust: str) -> int:
    """Open a file to add to it; only its owner can read one that is created. Raises OSError for what another could have put there.

    `distrust` is why nothing may be opened at this path, "" if it may.
    """
    if distrust:
        raise OSError(errno.EPERM, distrust, path)
    descriptor = os.open(path, _FLAGS, PRIVATE)
    facts = os.fstat(descriptor)
    wrong = (
        "it is not a regular file"
        if not stat.S_ISREG(facts.st_mode)
        else "it belongs to another user"
        if facts.st_uid != os.geteuid()
        else "the file has a second name (a hard link)"
        if facts.st_nlink > 1
        else ""
    )
    if wrong:
        os.close(descriptor)
        raise OSError(errno.EINVAL, wrong, path)
    return descriptor
