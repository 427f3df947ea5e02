"""The mark of a redemption: a folder that takes nothing is known before anything is redeemed, whatever lies there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.grants import NoRing
from support.mounts import SmallDisk, small_disk

from cms.core.accounts import Grant, Source
from cms.grants.secret_sources import Unavailable
from cms.grants.vault.entry_file import RESERVED, Entry, draft_of, mark_of
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault

GRANT = Grant("https://login.example/common", "client", "ann@example.test")
ENTRY = Entry('{"RefreshToken": {}}', "oid.tid", "ann@example.test", 1700000000.0)
NEWER = replace(ENTRY, who="Ann")


class Lab:
    """A state folder with one sign-in."""

    def __init__(self, state: Path, key: Path) -> None:
        self.state = state
        self.vault = Vault(str(state), Keys(Source("file", (str(key),)), environ={}, ring=NoRing()))
        self.file = state / f"{GRANT.key}.vault"
        self.mark = mark_of(self.file)
        self.redeem(ENTRY)

    def redeem(self, entry: Entry) -> None:
        """Do what a refresh does, and what a sign-in or an import does after the person has signed in."""
        with self.vault.hold(GRANT) as held:
            held.inspect()
            held.prepare()
            held.store(entry)

    def interrupt(self) -> None:
        """Break off in the middle of that."""
        with self.vault.hold(GRANT) as held:
            held.read()
            held.prepare()

    def look(self) -> str:
        """Return why nothing is redeemed, "" if all is well."""
        try:
            with self.vault.hold(GRANT) as held:
                held.read()
                held.prepare()
                held.release()
        except Unavailable as unavailable:
            trouble = unavailable.outcome.trouble
            return f"{trouble.kind}: {trouble.message}"
        return ""

    def read(self) -> Entry | None:
        with self.vault.hold(GRANT) as held:
            return held.read()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "state", tmp_path / "key")


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk() as mounted:
        yield mounted


AILMENTS: dict[str, tuple[Callable[[SmallDisk], None], Callable[[SmallDisk], None], str]] = {
    "read-only": (SmallDisk.forbid_writing, SmallDisk.allow_writing, "Read-only file system"),
    "immutable": (SmallDisk.close, SmallDisk.open, "Operation not permitted"),
    "append-only": (lambda disk: disk.close("a"), lambda disk: disk.open("a"), "Operation not permitted"),
    "no inodes": (SmallDisk.use_up_inodes, SmallDisk.free_inodes, "No space left on device"),
    "immutable file": (
        lambda disk: disk.close(name=f"{GRANT.key}.vault"),
        lambda disk: disk.open(name=f"{GRANT.key}.vault"),
        "cannot be replaced",
    ),
}


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", AILMENTS)
def test_a_folder_that_takes_nothing(disk: SmallDisk, tmp_path: Path, name: str, *, interrupted: bool) -> None:
    """It is noticed before the provider is asked, also where an earlier redemption has left its mark; then it mends."""
    lab = Lab(disk.folder, tmp_path / "key")
    if interrupted:
        lab.interrupt()
    begin, end, says = AILMENTS[name]
    begin(disk)
    try:
        for _ in range(2):
            said = lab.look()
            assert (True, True) == (said.startswith("storage: "), says in said)
        assert interrupted == lab.mark.exists()
    finally:
        end(disk)
    assert ENTRY == lab.read()
    assert "" == lab.look()
    lab.redeem(NEWER)
    assert (NEWER, False) == (lab.read(), lab.mark.exists())
    assert not draft_of(lab.mark).exists()


def test_a_full_disk(disk: SmallDisk, tmp_path: Path) -> None:
    """Without a mark there is no room; the room of a mark that lies there is enough for the successor."""
    lab = Lab(disk.folder, tmp_path / "key")
    disk.fill()
    assert "No space left on device" in lab.look()
    disk.make_room()
    lab.interrupt()
    disk.fill()

    assert "" == lab.look()
    lab.redeem(NEWER)
    assert NEWER == lab.read()


def a_link(mark: Path) -> None:
    mark.symlink_to(mark.with_name("elsewhere"))
    mark.with_name("elsewhere").write_text("mine")


def a_dead_link(mark: Path) -> None:
    mark.symlink_to("/nonexistent/place")


def another_users(mark: Path) -> None:
    mark.touch(0o400)
    with suppress(PermissionError):
        os.chown(mark, 12345, 12345)


MARKS: dict[str, Callable[[Path], object]] = {
    "empty": Path.touch,
    "small": lambda mark: mark.write_bytes(b"x"),
    "pipe": os.mkfifo,
    "link": a_link,
    "dead link": a_dead_link,
    "another user's": another_users,
}


@pytest.mark.parametrize("name", MARKS)
def test_a_mark_may_be_anything(lab: Lab, name: str) -> None:
    """A new one takes its place, with room for the successor; nothing is written through a link."""
    MARKS[name](lab.mark)
    with lab.vault.hold(GRANT) as held:
        held.read()
        assert held.interrupted
        held.prepare()
        status = lab.mark.lstat()
        assert (RESERVED, os.geteuid(), False) == (status.st_size, status.st_uid, lab.mark.is_symlink())
        held.store(NEWER)

    assert (NEWER, False) == (lab.read(), lab.file.is_symlink())
    if name == "link":
        assert "mine" == lab.mark.with_name("elsewhere").read_text()


def test_a_folder_in_its_place(lab: Lab) -> None:
    """It is named, nothing is redeemed, and whatever is in it stays."""
    lab.mark.mkdir()
    (lab.mark / "file").touch()

    assert f"{lab.mark.name} is a folder" in lab.look()
    assert (ENTRY, True) == (lab.read(), (lab.mark / "file").exists())


def test_a_draft_that_a_break_has_left(lab: Lab) -> None:
    """It is in no one's way, and goes with a logout."""
    draft_of(lab.mark).write_bytes(b"half")
    assert "" == lab.look()
    draft_of(lab.mark).write_bytes(b"half")
    with lab.vault.hold(GRANT) as held:
        held.delete()

    assert {"key-id", "key.lock"} == {path.name for path in lab.state.iterdir()}


def test_a_refusal_by_reuse_is_remembered(lab: Lab) -> None:
    """As long as the mark lies there, whatever is tried meanwhile and by whom; a new sign-in ends it."""
    lab.interrupt()
    with lab.vault.hold(GRANT) as held:
        assert (True, False) == (held.interrupted, held.reused)
        held.remember_reuse()
        assert held.reused
    for _ in range(2):
        assert "" == lab.look()
        with lab.vault.hold(GRANT) as held:
            assert held.reused
    lab.redeem(NEWER)
    lab.interrupt()
    with lab.vault.hold(GRANT) as held:
        assert (True, False) == (held.interrupted, held.reused)
