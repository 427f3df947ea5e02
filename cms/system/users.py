"""Users and groups of this machine: names to numbers and back. A number without a name is not an error.

A look-up may block, because user databases can be on the network.
"""

from __future__ import annotations

import grp
import pwd


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
