"""Tells a stranger's program at a socket's path from the daemon that belongs there.

Who can write a folder can rename the socket in it and listen there instead. A token of the stranger's account would send
mail through that account. So an answer counts only if the process at the other end belongs to this user or to root, or
if all of this holds:

- Only its owner can write the socket's folder. The process is that owner's; in a folder of root's or of this user's, it
  may be any user's.
- Only root or this user can write the folders above it, and those of symbolic links on the way. A sticky folder, such as
  /tmp, is one that all can write: another user may be the first to make a folder in it.

Root can always write, and does not count. `cms-oauth` imports this for every mail, so it imports almost nothing.
"""

import os
import stat

from cms_oauth.peer import ROOT

TYPE_CHECKING = False  # `typing` itself costs the client twice its start
if TYPE_CHECKING:
    from collections.abc import Iterator

# The users that exist in this process's user namespace, and what the kernel shows for all others (user_namespaces(7)).
_UID_MAP = "/proc/self/uid_map"
_ALL_UIDS = 2**32 - 1
_OVERFLOW_UID = "/proc/sys/kernel/overflowuid"
_USUAL_OVERFLOW_UID = 65534

# Folders of root on every machine (hier(7)), also where a user namespace hides whose they are.
_ROOTS = ("/", "/run", "/var")

# An access list shows as the bits of the group.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

# The number of symbolic links that Linux follows for one path (path_resolution(7)).
_MOST_LINKS = 40

_MOVE = (
    "the daemon's owner must move it to a folder that only that user can write, in folders that only root can write: "
    'CredentialServer("/run/cms/cms.sock"), then: cms reload'
)


class Suspicion:
    """Why the process at a socket may be a stranger's. `hint` is the next move."""

    __slots__ = ("hint", "message")

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint


def suspect(path: str, uid: int) -> Suspicion | None:
    """Return why a process of user `uid` that answers at this path may be a stranger's, None if it may not."""
    me = os.geteuid()
    if uid == ROOT or (uid == me and _is_one_user(me)):
        return None
    try:
        folders = list(_folders(path))
    except OSError as error:
        return _suspicion(path, uid, f"a folder on the way cannot be read ({error.strerror})")
    if not folders:
        return _suspicion(path, uid, "an abstract socket is in no folder")
    own, facts = folders[-1]
    trusted = {ROOT, me} if _is_one_user(me) else {ROOT}
    for folder, each in folders:
        if each.st_mode & _OTHERS_WRITE:
            return _suspicion(path, uid, f"other users can write the folder {folder}")
        # Root's programs look into users' folders, such as /run/user/1000.
        fine = {*trusted, facts.st_uid} if folder == own or me == ROOT else trusted
        if each.st_uid not in fine and (folder not in _ROOTS or _is_one_user(each.st_uid)):
            return _suspicion(path, uid, f"uid {each.st_uid} can write the folder {folder}")
    if facts.st_uid in {*trusted, uid}:
        return None
    hint = f"uid {facts.st_uid} must look what listens there, and start the daemon again: cms run"
    return _suspicion(path, uid, f"the folder {own} belongs to uid {facts.st_uid}", hint)


def _suspicion(path: str, uid: int, why: str, hint: str = _MOVE) -> Suspicion:
    return Suspicion(f"uid {uid} answers at {path} and may be a stranger: {why}", hint)


def _folders(path: str) -> "Iterator[tuple[str, os.stat_result]]":
    """Yield each folder in which the kernel looks up a name of this path, links included; the socket's own is the last.

    An abstract socket (unix(7)) has none. Raises OSError.
    """
    # The kernel reads a path up to the first NUL; an abstract one begins with it.
    path = path.partition("\0")[0]
    if path and not path.startswith("/"):
        path = f"{os.getcwd()}/{path}"  # noqa: PTH109 - pathlib doubles the client's start
    here, names, links = "/", path.split("/"), 0
    while names:
        name = names.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)  # noqa: PTH120 - as above
            continue
        yield here, os.stat(here)  # noqa: PTH116 - as above
        step = f"{here.rstrip('/')}/{name}"
        if not stat.S_ISLNK(os.lstat(step).st_mode):
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(0, "too many symbolic links")
        target = os.readlink(step)  # noqa: PTH115 - as above
        names = target.split("/") + names
        if target.startswith("/"):
            here = "/"


def _is_one_user(uid: int) -> bool:
    """True if this number stands for one user, and not for all those that are not in this user namespace."""
    try:
        with open(_UID_MAP) as lines:  # noqa: PTH123 - as above
            known = sum(int(line.split()[2]) for line in lines)
        with open(_OVERFLOW_UID) as number:  # noqa: PTH123 - as above
            return known >= _ALL_UIDS or uid != int(number.read())
    except OSError:
        # There is no /proc.
        return uid != _USUAL_OVERFLOW_UID
