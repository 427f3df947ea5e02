"""Checks who can write a file before cms runs it, because a configuration is a program; and the folder of a socket.

A file is trusted if only the user who reads it and root can change it. That depends on the owner and the permission
bits of the file, of every folder above it, and of every symbolic link on the way. For the folder of a socket or a token
file it is the same: who can write it can put a socket of another daemon there, or another token.

- A sticky folder such as /tmp passes: other users can add files to it, but not rename or replace a file of this user. It
  is no folder for a socket or a token file, which others could put there while cms does not run.
- A group may write if nobody else is in it. Without an ACL, that is: with one, the group's bits show the ACL's mask.
- In a user namespace without root (user_namespaces(7)) the system's folders, from / down, belong to a user who is not in
  it. They pass; a file or a link of such a user does not.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from cms.system.files import has_acl
from cms.system.users import group_id, is_alone_in, is_mapped, user_id, user_name
from cms_oauth import paths
from cms_oauth.frozen import dataclass
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT

Lstat = Callable[[Path], os.stat_result]
Step = tuple[Path, os.stat_result]

# The number of symbolic links that Linux follows for one path (path_resolution(7)).
MAX_LINKS = 40

# The mounts, as this process sees them.
MOUNTS = "/proc/self/mountinfo"
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})
# The kernel's escape for a space, a tab, a newline or a backslash in a path (proc_pid_mountinfo(5)).
_OCTAL = re.compile(r"\\([0-7]{3})")

_COPY = "use a copy in a folder that only you and root can write to"

# The root and the folders in it are the system's, and so is what is below these (hier(7)).
_TOP = 2
_SHARED = ("usr", "var")


@dataclass(frozen=True, slots=True)
class _Purpose:
    """How a refusal is worded. The first says why nobody else may write; `do` is the move if no command mends it."""

    because: str
    of_another: str
    of_another_for_root: str
    do: str


_CONFIGURATION = _Purpose(
    "and a configuration is a program",
    "who could change what cms runs as {me}",
    "and root runs no other user's configuration",
    _COPY,
)
_OF_ACCOUNTS = "who could change which accounts cms has"
ACCOUNTS = _Purpose(_OF_ACCOUNTS, _OF_ACCOUNTS, _OF_ACCOUNTS, _COPY)
_FOLDER = _Purpose(
    "who could put something else in place of what cms has there",
    "who could put something else in place of what cms has there",
    "who could put something else in place of what cms has there",
    "use a folder that only you and root can write to, such as /run/user/UID/cms, or /run/cms for a service",
)


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


def service_of(file: str) -> int | None:
    """Return the uid of the service that has this configuration, if this process is root's and the service is not."""
    uid = paths.service_uid() if os.geteuid() == ROOT and paths.is_service_config(file) else None
    return uid or None


@dataclass(frozen=True, slots=True)
class System:
    """The system calls and look-ups that loading a configuration uses. Tests replace them."""

    caller: Callable[[], int] = os.geteuid
    service_of: Callable[[str], int | None] = service_of
    lstat: Lstat = os.lstat
    user_id: Callable[[str], int | None] = user_id
    group_id: Callable[[str], int | None] = group_id
    user_name: Callable[[int], str] = user_name
    in_memory: Callable[[str], bool] = in_memory
    is_alone_in: Callable[[int, int], bool] = is_alone_in
    is_mapped: Callable[[int], bool] = is_mapped
    has_acl: Callable[[Path], bool] = has_acl


SYSTEM = System()


def read(path: str, system: System, purpose: _Purpose = _CONFIGURATION) -> bytes:
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
        _judge(steps, system, purpose)
        return file.read()


def check_program(path: str, system: System) -> None:
    """Raise Untrusted if a user other than the caller and root could change the program at this path. Raises OSError."""
    _judge(list(_steps(Path(path), system.lstat)), system, programs=True)


def check_place(path: str, system: System) -> None:
    """Raise Untrusted if a file at this path would not be trusted, whether or not it and its folders exist."""
    steps = list[Step]()
    with suppress(OSError):
        steps.extend(_steps(Path(path), system.lstat))
    _judge(steps, system)


def check_folder(path: str, system: System) -> None:
    """Raise Untrusted if another user can put a socket or a file at this path. Folders that do not exist yet pass.

    So a folder to come in /tmp passes: cms makes it for its owner only, and asks again then. Raises OSError if a folder
    cannot be looked at.
    """
    steps, shared = list[Step](), None
    with suppress(FileNotFoundError):
        steps.extend(_steps(Path(path).parent, system.lstat))
        shared = steps[-1][0]
    _judge(steps, system, _FOLDER, shared=shared)


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
    # An absolute path needs no current folder, which may have been removed.
    root, *names = (path if path.is_absolute() else Path.cwd() / path).parts
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


def _judge(
    steps: Sequence[Step],
    system: System,
    purpose: _Purpose = _CONFIGURATION,
    *,
    programs: bool = False,
    shared: Path | None = None,
) -> None:
    """Raise Untrusted if a user other than the caller and root can change what is at one of these steps.

    With `programs`, a file of the system's passes in a user namespace without root, as its folders do. In the folder
    `shared`, others may not even add files: a sticky one does not pass.
    """
    caller = system.caller()
    if not system.is_mapped(caller):
        raise Untrusted(
            "this user namespace has no users, so that cms cannot tell whose the file is",
            "run cms outside of it, or make it with `unshare --map-current-user`",
        )
    outer = _outer(steps, system, with_files=programs)
    # From the file upwards: for another user's file in that user's folder, the file's owner is the most useful message.
    for where, facts in reversed(steps):
        if facts.st_uid not in {ROOT, caller} and where not in outer:
            raise _strange_owner(where, facts, dict(steps)[where.parent], system, purpose)
    writers = {where: _writer(where, facts, system, sticky=where == shared) for where, facts in reversed(steps)}
    writable = [(where, facts) for where, facts in reversed(steps) if writers[where]]
    if writable:
        whom = writers[writable[0][0]] if len(writable) == 1 else "other users"
        raise _writable(writable, whom, system, purpose)


def _outer(steps: Sequence[Step], system: System, *, with_files: bool) -> set[Path]:
    """Return the folders, from the root down, that belong to a user who is not in this user namespace: to the system.

    With `with_files`, also the links and files in them.
    """
    found = set[Path]()
    for where, facts in steps:
        at_top = where == where.parent or where.parent in found
        if at_top and (with_files or stat.S_ISDIR(facts.st_mode)) and not system.is_mapped(facts.st_uid):
            found.add(where)
    return found


def _writer(where: Path, facts: os.stat_result, system: System, *, sticky: bool) -> str:
    """Return who else can write what is at `where`, "" for nobody. With `sticky`, who can write a sticky folder counts."""
    is_sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(facts.st_mode) or (is_sticky and not sticky):
        return ""
    if facts.st_mode & stat.S_IWOTH:
        return "everyone"
    if not facts.st_mode & stat.S_IWGRP:
        return ""
    if not system.is_alone_in(facts.st_gid, system.caller()):
        return "its group"
    return "users of its access list" if system.has_acl(where) else ""


def _writable(found: Sequence[Step], whom: str, system: System, purpose: _Purpose) -> Untrusted:
    """Return the refusal of what `whom` can write, all of it at once."""
    names = [_describe(where, facts.st_mode) for where, facts in found]
    what = names[0] if len(found) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    caller = system.caller()
    mine = [(where, facts) for where, facts in found if not _is_the_systems(where, facts, caller)]
    sudo = ("sudo",) if any(facts.st_uid != caller for _, facts in mine) and caller else ()
    command = Command((*sudo, "chmod", "go-w", *(str(where) for where, _ in mine)))
    hint = f"`{command}`" if len(mine) == len(found) else purpose.do
    return Untrusted(f"{what} can be written by {whom}, {purpose.because}", hint)


def _strange_owner(
    where: Path, facts: os.stat_result, parent: os.stat_result, system: System, purpose: _Purpose
) -> Untrusted:
    """Return the refusal of another user's file, folder or link. `parent` are the facts of the folder that it is in."""
    what, caller = _describe(where, facts.st_mode), system.caller()
    if not system.is_mapped(facts.st_uid):
        hint = "run cms outside of the namespace, as the owner"
        return Untrusted(f"{what} belongs to a user who is not in this user namespace", hint)
    name, me = system.user_name(facts.st_uid), system.user_name(caller)
    if caller == ROOT:
        hint = f"`{Command(('sudo', '-u', name, 'cms'))} ...`"
        if purpose is not _CONFIGURATION or _is_the_systems(where, facts, caller):
            hint = purpose.do
        return Untrusted(f"{what} belongs to {name}, {purpose.of_another_for_root}", hint)
    own = not stat.S_ISDIR(facts.st_mode) or parent.st_uid == caller
    command = Command(("sudo", "chown", me.removeprefix("#"), str(where)))
    other = "use a copy" if purpose is _CONFIGURATION else purpose.do
    hint = f"`{command}`, or {other}" if own else purpose.do
    return Untrusted(f"{what} belongs to {name}, {purpose.of_another.format(me=me)}", hint)


def _is_the_systems(where: Path, facts: os.stat_result, caller: int) -> bool:
    """True for a folder that others use too, so that its owner and mode are not for the caller to change."""
    if not stat.S_ISDIR(facts.st_mode):
        return False
    return facts.st_uid != caller if caller else len(where.parts) <= _TOP or where.parts[1] in _SHARED


def _describe(where: Path, mode: int) -> str:
    if stat.S_ISREG(mode):
        return "the file"
    return f"the {'symbolic link' if stat.S_ISLNK(mode) else 'folder'} {where}"
