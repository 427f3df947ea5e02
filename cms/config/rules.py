"""What a socket's specification means on this machine: who may ask there, by number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from cms.config.model import SocketSpec
from cms.core.policy import Bits, Rules
from cms.system import users

# No user and no group has it (chown(2)).
_NONE = 2**32 - 1


def rules_of(spec: SocketSpec, owner: int) -> tuple[Rules, list[str]]:
    """Return the rules of a socket as a daemon of this owner applies them, and the names that are unknown here.

    Unknown names admit nobody. May block: user databases can lie behind a network.
    """
    unknown = list[str]()
    admitted = _numbers(spec.users, users.user_id, unknown), _numbers(spec.groups, users.group_id, unknown)
    return Rules(owner, spec.accounts, spec.protocols, *admitted, spec.default, users.unmapped()), unknown


def bits_of(spec: SocketSpec, owner: int) -> Bits:
    """Return the socket's file as a daemon of this owner makes it. May block."""
    return Bits(spec.mode, owner, _group_of(spec, owner))


def strict_rules_of(spec: SocketSpec, owner: int) -> Rules:
    """Return the rules of a socket that may have been made by another program: held to the file as it is configured."""
    return replace(rules_of(spec, owner)[0], held_to=bits_of(spec, owner))


def _group_of(spec: SocketSpec, owner: int) -> int:
    """Return the group of the socket's file: the one that the configuration names, or its owner's primary group."""
    if spec.group is not None:
        named = users.group_id(spec.group)
        return _NONE if named is None else named
    if owner == os.geteuid():
        return os.getegid()
    known = users.user(owner)
    return known.pw_gid if known else owner


def _numbers(
    names: Iterable[str] | None, number_of: Callable[[str], int | None], unknown: list[str]
) -> frozenset[int] | None:
    """Return the numbers of users or groups, and add the names to `unknown` that have none."""
    if names is None:
        return None
    found = {name: number_of(name) for name in names}
    unknown += [name for name, number in found.items() if number is None]
    return frozenset(number for number in found.values() if number is not None)
