"""Users and groups of this machine: names to numbers and back. A number without a name is not an error.

A look-up may block, because user databases can be on the network.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cms.core.policy import Unmapped

# The users and groups that exist in this process's user namespace, as ranges of numbers (user_namespaces(7)).
_UID_MAP = "/proc/self/uid_map"
_GID_MAP = "/proc/self/gid_map"
# The numbers of all others (proc_sys_kernel(5)).
_OVERFLOW_UID = "/proc/sys/kernel/overflowuid"
_OVERFLOW_GID = "/proc/sys/kernel/overflowgid"
_USUAL_OVERFLOW = 65534
# The number of uids, and of gids, without a namespace: -1 is none.
_ALL = 2**32 - 1


def user(who: str | int) -> pwd.struct_passwd | None:
    """Return the entry of a user in the user database, by name or number; None if there is no such user."""
    number = _number(who)
    try:
        return pwd.getpwnam(str(who)) if number is None else pwd.getpwuid(number)
    except (KeyError, OverflowError):
        return None


def group(which: str | int) -> grp.struct_group | None:
    """Return the entry of a group in the group database, by name or number; None if there is no such group."""
    number = _number(which)
    try:
        return grp.getgrnam(str(which)) if number is None else grp.getgrgid(number)
    except (KeyError, OverflowError):
        return None


def _number(given: str | int) -> int | None:
    return int(given) if isinstance(given, int) or (given.isascii() and given.isdecimal()) else None


def user_id(name: str) -> int | None:
    """Return a user's number, None if there is no such user. A name of digits is a number, whether or not it exists."""
    number = _number(name)
    known = user(name) if number is None else None
    return known.pw_uid if known else number


def group_id(name: str) -> int | None:
    """Return a group's number, None if there is no such group. A name of digits is a number, as for users."""
    number = _number(name)
    known = group(name) if number is None else None
    return known.gr_gid if known else number


def user_name(uid: int) -> str:
    """Return a user's name, or `#UID` if there is none, as `sudo -u` takes it. A shell needs that quoted."""
    known = user(uid)
    return known.pw_name if known else f"#{uid}"


def group_name(gid: int) -> str:
    """Return a group's name, or `#GID` if there is none."""
    known = group(gid)
    return known.gr_name if known else f"#{gid}"


def people(first: int, last: int) -> list[pwd.struct_passwd]:
    """Return the users with a number from `first` up to but not including `last`."""
    return [each for each in pwd.getpwall() if first <= each.pw_uid < last]


def members(name: str) -> list[str]:
    """Return the names of the users in a group: its members, and the users whose primary group it is."""
    known = group(name)
    if known is None:
        return []
    return list(
        dict.fromkeys([*known.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == known.gr_gid)])
    )


def is_alone_in(gid: int, uid: int) -> bool:
    """True if a group has no members but this user and root: it is the user's own private group, or root's.

    A member is who the group's entry lists, and whose primary group it is. Whom a network's database does not list is not
    seen, so the group of a user who is not listed either must have that user's name, as private groups do.
    """
    me, everyone = user(uid), pwd.getpwall()
    # Several entries may have the same number.
    entries = [each for each in (group(gid), *grp.getgrall()) if each and each.gr_gid == gid]
    if me is None or not entries or any((each.gr_passwd or "").strip("x!*") for each in entries):
        # With a group's password other users can join (newgrp(1)).
        return False
    names = {name for each in entries for name in each.gr_mem}
    names |= {each.pw_name for each in (me, *everyone) if each.pw_gid == gid}
    listed = any(each.pw_uid == uid for each in everyone)
    return (
        bool(names)
        and {user_id(name) for name in names} <= {0, uid}
        and (listed or me.pw_name in {each.gr_name for each in entries})
    )


def is_mapped(uid: int) -> bool:
    """True if this number stands for one user. In a user namespace, it may stand for all users that are not in it."""
    return any(first <= uid < first + count for first, count in _ranges(_UID_MAP))


def unmapped() -> Unmapped:
    """Return the uid and the gid that stand for all users and groups which are not in this process's user namespace."""
    from cms.core.policy import Unmapped  # noqa: PLC0415 - loads much, which asking a daemon does without

    return Unmapped(_overflow(_UID_MAP, _OVERFLOW_UID), _overflow(_GID_MAP, _OVERFLOW_GID))


def own_uid() -> int:
    """Return the uid of this process, or -1 if it stands for others as well."""
    uid = os.geteuid()
    return -1 if uid == unmapped().uid else uid


def _overflow(mapping: str, number: str) -> int | None:
    if sum(count for _, count in _ranges(mapping)) >= _ALL:
        return None
    try:
        return int(Path(number).read_text())
    except OSError:
        return _USUAL_OVERFLOW


def _ranges(mapping: str) -> list[tuple[int, int]]:
    """Return the first number of each range that is mapped, and how many it has."""
    try:
        lines = Path(mapping).read_text().splitlines()
    except OSError:
        # A kernel without user namespaces.
        return [(0, _ALL)]
    return [(int(first), int(count)) for first, _, count in map(str.split, lines)]
