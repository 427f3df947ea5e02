"""Users and groups of this machine."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from cms.system import users

# A number that no user and no group has.
NO_ONE = 4294967000


@pytest.mark.parametrize("number_of", [users.user_id, users.group_id])
def test_a_number_is_found_by_name(number_of: object) -> None:
    """A number stands for itself, and an unknown name is None."""
    assert callable(number_of)
    assert [0, 4711, None, None] == [number_of(each) for each in ("root", "4711", "no-such-name", "٣")]


def test_a_name_is_found_by_number() -> None:
    """A number without a name is written as `sudo -u` takes it."""
    assert ("root", f"#{NO_ONE}") == (users.user_name(0), users.user_name(NO_ONE))
    assert ("root", f"#{NO_ONE}") == (users.group_name(0), users.group_name(NO_ONE))


@pytest.mark.parametrize("who", ["root", "0", 0])
def test_a_user_and_a_group_are_known_by_either(who: str | int) -> None:
    """By name, by number, and by a number that was written down."""
    assert (pwd.getpwuid(0), grp.getgrgid(0)) == (users.user(who), users.group(who))


@pytest.mark.parametrize("who", ["no-such-name", NO_ONE, 2**40, "-1"])
def test_who_is_unknown_is_none(who: str | int) -> None:
    """Even a number that no machine could have."""
    assert (None, None) == (users.user(who), users.group(who))


def test_members_are_those_listed_and_those_whose_own_group_it_is() -> None:
    """The second are in no list of /etc/group."""
    assert "root" in users.members("root")
    assert [] == users.members("no-such-name")


def test_people_are_users_in_a_range() -> None:
    """So that services can be told apart."""
    uid = os.getuid()

    assert [uid] == [each.pw_uid for each in users.people(uid, uid + 1)][:1]
    assert [] == users.people(uid, uid)
