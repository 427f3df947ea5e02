"""Users and groups of this machine."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from cms.core.policy import Unmapped
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


ME, OTHER, MINE, STAFF = 1000, 1001, 1000, 50


def database(
    monkeypatch: pytest.MonkeyPatch, people: dict[str, tuple[int, int]], groups: list[tuple[str, str, int, list[str]]]
) -> None:
    """Give the machine these users (name to number and primary group), and groups (name, password, number, members)."""
    entries = [pwd.struct_passwd((name, "x", uid, gid, "", "/", "")) for name, (uid, gid) in people.items()]
    known = [grp.struct_group(each) for each in groups]

    def find(found: list[Any], **wanted: object) -> Any:
        ((name, value),) = wanted.items()
        try:
            return next(each for each in found if getattr(each, name) == value)
        except StopIteration:
            raise KeyError(value) from None

    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: find(entries, pw_uid=uid))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: find(entries, pw_name=name))
    monkeypatch.setattr(grp, "getgrall", lambda: known)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: find(known, gr_gid=gid))


PEOPLE = {"root": (0, 0), "me": (ME, MINE), "other": (OTHER, OTHER)}


@pytest.mark.parametrize(
    ("people", "groups", "alone"),
    [
        pytest.param(PEOPLE, [("me", "x", MINE, [])], True, id="a private group, as useradd makes it"),
        pytest.param(PEOPLE, [("me", "", MINE, ["me"])], True, id="with its user listed"),
        pytest.param(PEOPLE, [("me", "x", MINE, ["me", "root"])], True, id="with root in it"),
        pytest.param(PEOPLE, [("mail-of-me", "!", MINE, [])], True, id="by another name"),
        pytest.param(
            {**PEOPLE, "alias": (ME, MINE)}, [("me", "x", MINE, ["alias"])], True, id="a second name of the user"
        ),
        pytest.param(PEOPLE, [("me", "x", MINE, ["other"])], False, id="with another member"),
        pytest.param(
            {**PEOPLE, "other": (OTHER, MINE)}, [("me", "x", MINE, [])], False, id="another user's primary group"
        ),
        pytest.param(PEOPLE, [("me", "x", MINE, ["gone"])], False, id="with a member who may be made again"),
        pytest.param(PEOPLE, [("me", "x", MINE, []), ("us", "x", MINE, ["other"])], False, id="two names, one number"),
        pytest.param(PEOPLE, [("me", "$6$hash", MINE, [])], False, id="a group with a password"),
        pytest.param(PEOPLE, [], False, id="a number without a name"),
        pytest.param({"root": (0, 0)}, [("me", "x", MINE, [])], False, id="a user without a name"),
        pytest.param({**PEOPLE, "me": (ME, STAFF)}, [("me", "x", MINE, [])], False, id="a group without members"),
        pytest.param({**PEOPLE, "me": (ME, STAFF)}, [("me", "x", MINE, ["me"])], True, id="by membership alone"),
    ],
)
def test_who_is_alone_in_a_group(
    monkeypatch: pytest.MonkeyPatch,
    people: dict[str, tuple[int, int]],
    groups: list[tuple[str, str, int, list[str]]],
    *,
    alone: bool,
) -> None:
    """The only member, by whatever entry, and nobody else's primary group."""
    database(monkeypatch, people, groups)

    assert alone == users.is_alone_in(MINE, ME)


@pytest.mark.parametrize(("name", "alone"), [("me", True), ("domain users", False)])
def test_a_database_that_lists_no_users(monkeypatch: pytest.MonkeyPatch, name: str, *, alone: bool) -> None:
    """A network's group that is everybody's primary group looks empty: only a group of the user's name is the user's."""
    database(monkeypatch, PEOPLE, [(name, "x", MINE, [])])
    monkeypatch.setattr(pwd, "getpwall", list)

    assert alone == users.is_alone_in(MINE, ME)


def test_roots_own_group_on_this_machine() -> None:
    """The real databases are asked."""
    assert not users.is_alone_in(NO_ONE, 0)
    assert users.is_alone_in(0, NO_ONE) is False


@pytest.mark.parametrize(
    ("lines", "mapped"),
    [
        ("         0          0 4294967295\n", [True, True, True]),
        ("      1000       1000          1\n", [False, True, False]),
        ("         0       1000          1\n         1     100000      65536\n", [True, True, True]),
        ("", [False, False, False]),
    ],
)
def test_who_is_in_a_user_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, mapped: list[bool]
) -> None:
    """Outside of all namespaces everybody is; in one that maps nobody, nobody."""
    (tmp_path / "uid_map").write_text(lines)
    monkeypatch.setattr(users, "_UID_MAP", str(tmp_path / "uid_map"))
    assert mapped == [users.is_mapped(uid) for uid in (0, 1000, 65534)]

    (tmp_path / "uid_map").unlink()
    assert users.is_mapped(65534)


@pytest.mark.parametrize(
    ("uids", "gids", "expected"),
    [
        ("0 0 4294967295", "0 0 4294967295", Unmapped(None, None)),
        ("1000 1000 1", "1000 1000 1", Unmapped(65534, 65533)),
        ("0 0 65536", "0 0 4294967295", Unmapped(65534, None)),
        ("0 0 4294967295", "0 1000 1\n1 100000 65536", Unmapped(None, 65533)),
        ("", "", Unmapped(65534, 65533)),
        # In two ranges.
        ("0 0 1000\n1000 1000 4294966295", "0 0 4294967295", Unmapped(None, None)),
    ],
)
def test_numbers_that_stand_for_all_who_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uids: str, gids: str, expected: Unmapped
) -> None:
    """Where not all users, or not all groups, are in the namespace; a kernel without namespaces has all."""
    for name, text in (("uid_map", uids), ("gid_map", gids), ("overflowuid", "65534\n"), ("overflowgid", "65533\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(users, f"_{name}".upper().replace("OVERFLOW", "OVERFLOW_"), str(tmp_path / name))
    assert expected == users.unmapped()

    (tmp_path / "overflowuid").unlink()
    assert expected == users.unmapped()
    for name in ("uid_map", "gid_map"):
        (tmp_path / name).unlink()
    assert Unmapped() == users.unmapped()


def test_ones_own_number_may_stand_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody has it."""
    assert os.geteuid() == users.own_uid()
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(os.geteuid(), None))
    assert -1 == users.own_uid()
