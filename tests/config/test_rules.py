"""What a socket's specification means on this machine."""

from __future__ import annotations

import os
import pwd

import pytest

from cms.config.model import SocketSpec
from cms.config.rules import bits_of, rules_of, strict_rules_of
from cms.core.policy import Bits, Unmapped
from cms.system import users

NOBODY = pwd.getpwnam("nobody")


def spec(**changes: object) -> SocketSpec:
    fields = {"users": None, "groups": None, "group": None} | changes
    return SocketSpec("/x", (), (), 0o660, **fields, line=1)  # type: ignore[arg-type]


def test_names_are_numbers_here() -> None:
    """Of users and of groups; None where the bits decide. A name that is unknown admits nobody, and is told."""
    named, unknown = rules_of(spec(users=("nobody", "no-such-user"), groups=("0", "no-such-group")), 7)
    plain, none = rules_of(spec(), 7)

    assert (frozenset({NOBODY.pw_uid}), frozenset({0}), 7) == (named.users, named.groups, named.owner)
    assert (["no-such-user", "no-such-group"], []) == (unknown, none)
    assert (None, None) == (plain.users, plain.groups)


@pytest.mark.parametrize(
    ("group", "owner", "gid"),
    [
        ("root", 7, 0),
        ("no-such-group", 7, 2**32 - 1),
        (None, os.geteuid(), os.getegid()),
        (None, NOBODY.pw_uid, NOBODY.pw_gid),
        (None, 4_000_000, 4_000_000),
    ],
)
def test_whose_the_file_is(group: str | None, owner: int, gid: int) -> None:
    """The daemon's owner, and the group that is configured or the owner's own."""
    assert Bits(0o660, owner, gid) == bits_of(spec(group=group), owner)
    assert Bits(0o660, owner, gid) == strict_rules_of(spec(group=group), owner).held_to


def test_numbers_that_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules have them."""
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(65534, None))

    assert Unmapped(65534, None) == rules_of(spec(), 7)[0].unmapped
