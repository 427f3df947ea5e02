"""TODO(docstring) cms.system.users."""

from __future__ import annotations

import grp
import pwd


def user_id(name: str) -> int | None:
    """Return a user's number, None when this machine knows no such user. Digits stand for themselves."""
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def group_id(name: str) -> int | None:
    """Return a group's number, None when this machine knows no such group. Digits stand for themselves."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def user_name(uid: int) -> str:
    """Return a user's name, in the form that `sudo -u` takes where the number has none: a shell wants that quoted."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
