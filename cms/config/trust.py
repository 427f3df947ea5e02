"""Checks who can write a file before cms runs it, because a configuration is a program.

A file is trusted if only the user who reads it and root can change it. That depends on the owner and the permission
bits of the file, of every folder above it, and of every symbolic link on the way. A sticky folder such as /tmp passes:
other users can add files to it, but not rename or replace a file of this user. ACLs are not read: the group bits show
their mask.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cms.system.users import group_id, user_id, user_name
from cms_oauth.moves import Command

Lstat = Callable[[Path], os.stat_result]
Step = tuple[Path, os.stat_result]

# The number of symbolic links that Linux follows for one path (path_resolution(7)).
MAX_LINKS = 40

# The mounts, as this process sees them.
MOUNTS = "/proc/self/mountinfo"
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
# The kernel's escape for a space, a tab, a newline or a backslash in a path (proc_pid_mountinfo(5)).
_OCTAL = re.compile(r"\\([0-7]{3})")

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(Exception):
    """The file must not be run. `hint` says what its owner can do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint


def in_memory(path: str) -> bool:
    """True if a file at this path is kept in memory and not on a disk."""
    # The last mount above the path counts, because it hides the earlier ones.
    types = [kind for where, kind in _mounts() if Path(path).resolve().is_relative_to(where)]
    return bool(types) and types[-1] in _MEMORY_FILESYSTEMS


def _mounts() -> Iterator[tuple[str, str]]:
    """Yield each mount point and the type of its file system, in the order of mounting."""
    for line in Path(MOUNTS).read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        where = _OCTAL.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        yield where, after.partition(" ")[0]


@dataclass(frozen=True, slots=True)
class System:
    """The system calls and look-ups that loading a configuration uses. Tests replace them."""

    caller: Callable[[], int] = os.geteuid
    lstat: Lstat = os.lstat
    user_id: Callable[[str], int | None] = user_id
    group_id: Callable[[str], int | None] = group_id
    user_name: Callable[[int], str] = user_name
    in_memory: Callable[[str], bool] = in_memory


SYSTEM = System()


def read(path: str, system: System) -> bytes:
    """Return the content of a file that only this user and root can write.

    Raises Untrusted, and OSError if the file cannot be read.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise Untrusted("it is not a regular file", "name the file itself")
        steps = list(_steps(Path(path), system.lstat))
        # The file that is checked must be the file that is read.
        if not os.path.samestat(steps[-1][1], facts):
            raise Untrusted("it was replaced while it was being read", "try again")
        # From the file upwards: for another user's file in that user's folder, its owner is the most useful message.
        for where, each in reversed(steps):
            _judge(where, each, system)
        return file.read()


def check(path: str, system: System) -> None:
    """Raise Untrusted if a user other than the caller and root could change the file at this path. Raises OSError."""
    for where, facts in _steps(Path(path), system.lstat):
        _judge(where, facts, system)


def keeps_others_out(path: str, system: System) -> bool:
    """True if a folder above `path` is closed to users who are neither its owner nor in its group.

    A missing folder counts as closed, because cms creates it for its owner only. A folder that cannot be read counts as
    closed too: the listener reports it.
    """
    try:
        folders = [facts for _, facts in _steps(Path(path).parent, system.lstat)]
    except OSError:
        return True
    return any(stat.S_ISDIR(facts.st_mode) and not facts.st_mode & stat.S_IXOTH for facts in folders)


def _steps(path: Path, lstat: Lstat) -> Iterator[Step]:
    """Yield every folder and link on the way to `path`, from the root down, then the file itself."""
    root, *names = (Path.cwd() / path).parts
    pending = names[::-1]
    here = Path(root)
    links = 0
    yield here, lstat(here)
    while pending:
        name = pending.pop()
        step = here.parent if name == ".." else here / name
        facts = lstat(step)
        yield step, facts
        if not stat.S_ISLNK(facts.st_mode):
            here = step
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(step))
        # Joining an absolute target starts again at the root: `here / "/"` is "/".
        pending += step.readlink().parts[::-1]


def _judge(where: Path, facts: os.stat_result, system: System) -> None:
    """Raise Untrusted if a user other than the caller and root can change what is at `where`."""
    what = _describe(where, facts.st_mode)
    if facts.st_uid not in {0, system.caller()}:
        raise Untrusted(*_strange_owner(what, where, facts.st_uid, system))
    if stat.S_ISLNK(facts.st_mode) or (stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX):
        return
    if facts.st_mode & _WRITABLE_BY_OTHERS:
        whom = "everyone" if facts.st_mode & stat.S_IWOTH else "its group"
        raise Untrusted(
            f"{what} can be written by {whom}, and a configuration is a program",
            f"`{Command(('chmod', 'go-w', str(where)))}`",
        )


def _strange_owner(what: str, where: Path, owner: int, system: System) -> tuple[str, str]:
    name = system.user_name(owner)
    if system.caller() == 0:
        return (
            f"{what} belongs to {name}, and root runs no other user's configuration",
            f"`{Command(('sudo', '-u', name, 'cms'))} ...`",
        )
    me = system.user_name(system.caller())
    return (
        f"{what} belongs to {name}, who could change what cms runs as {me}",
        f"`{Command(('chown', me, str(where)))}`, or use a copy",
    )


def _describe(where: Path, mode: int) -> str:
    if stat.S_ISREG(mode):
        return "the file"
    return f"the {'symbolic link' if stat.S_ISLNK(mode) else 'folder'} {where}"
