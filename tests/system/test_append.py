"""Lines that are added to a file: whose it is, what happens when it is renamed, gone or full, and what is counted."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.mounts import small_disk

from cms.system import append
from cms.system.append import FREE_PART, AppendFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "audit.log"


@contextmanager
def opened(path: Path) -> Iterator[AppendFile]:
    file = AppendFile(str(path))
    yield file
    file.close()


def test_lines_are_added_and_private(path: Path) -> None:
    """The folder and the file are made for their owner only, and what is there stays."""
    with opened(path) as file:
        file.write(["one", "two"])
    with opened(path) as file:
        file.write(["three"])

    assert "one\ntwo\nthree\n" == path.read_text()
    assert (0o600, 0o700) == tuple(stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent))


def test_many_lines_are_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many calls as there are rounds."""
    writes, write = list[bytes](), os.write

    def noted(where: int, data: bytes) -> int:
        # Other threads of these tests write to other files.
        if os.path.samestat(os.fstat(where), path.stat()):
            writes.append(data)
        return write(where, data)

    with opened(path) as file:
        monkeypatch.setattr("os.write", noted)
        file.write(["one", "two", "three"])

    assert [b"one\ntwo\nthree\n"] == writes


def test_it_follows_a_rename_when_told(path: Path) -> None:
    """As logrotate does it: until then the lines go to the renamed file, afterwards to a new one, and none is lost."""
    with opened(path) as file:
        file.write(["one"])
        path.rename(path.with_suffix(".1"))
        file.write(["two"])
        file.reopen()
        file.write(["three"])

    assert ("one\ntwo\n", "three\n") == (path.with_suffix(".1").read_text(), path.read_text())
    assert 0 == file.lost


def test_one_that_was_deleted_is_made_again(path: Path) -> None:
    """And one that was only renamed is left as it is: logrotate will say."""
    with opened(path) as file:
        path.unlink()
        file.mend()
        file.write(["one"])
        path.rename(path.with_suffix(".1"))
        file.mend()
        file.write(["two"])

    assert ("one\ntwo\n", False) == (path.with_suffix(".1").read_text(), path.exists())


def link(path: Path) -> None:
    path.with_name("victim").write_text("mine\n")
    path.symlink_to(path.with_name("victim"))


def hard_link(path: Path) -> None:
    path.with_name("victim").write_text("mine\n")
    path.hardlink_to(path.with_name("victim"))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def read_pipe(path: Path) -> None:
    """A pipe with a reader can be opened."""
    os.mkfifo(path)
    _readers.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def listening(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.close()


def folder(path: Path) -> None:
    path.mkdir()


_readers: list[int] = []


@pytest.mark.parametrize("prepare", [link, hard_link, pipe, read_pipe, listening, folder])
def test_what_another_put_there_is_not_written_to(path: Path, prepare: object) -> None:
    """A link, another file's second name, a pipe, a socket: nothing is written, nothing waits, and the log says so."""
    path.parent.mkdir()
    prepare(path)  # type: ignore[operator]
    with capture_logs() as lines, opened(path) as file:
        file.write(["one", "two"])

    assert (2, True) == (file.lost, bool(file.trouble))
    assert [file.trouble] == [line["reason"] for line in lines]
    victim = path.with_name("victim")
    assert not victim.exists() or victim.read_text() == "mine\n"
    while _readers:
        os.close(_readers.pop())


def test_another_users_file_is_not_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could read it, or give it another content."""
    path.parent.mkdir()
    path.write_text("theirs\n")
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1)
    with opened(path) as file:
        file.write(["one"])

    assert ("theirs\n", "it belongs to another user") == (path.read_text(), file.trouble)


def test_what_is_in_the_way_goes_and_it_is_written_again(path: Path) -> None:
    """A look puts it right, the log says it once each time, and what was lost stays counted."""
    path.mkdir(parents=True)
    with capture_logs() as lines, opened(path) as file:
        file.write(["lost"])
        file.mend()
        path.rmdir()
        file.mend()
        file.write(["kept"])

    assert ("kept\n", 1, "") == (path.read_text(), file.lost, file.trouble)
    assert ["a file cannot be written: what belongs into it is lost", "a file can be written again"] == [
        line["event"] for line in lines
    ]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond this size, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        # Or what is logged meanwhile would not fit into a file either.
        with capture_logs():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_lines_and_no_error(path: Path) -> None:
    """What did not fit is counted, and when there is room again no line is joined to the rest of another."""
    with opened(path) as file:
        with room_for(10):
            file.write(["one", "two", "three"])
            full = file.lost, bool(file.trouble)
            file.write(["four"])
        file.write(["five", "six"])

    assert (1, True) == full
    assert ("one\ntwo\nth\nfive\nsix\n", 2, "") == (path.read_text(), file.lost, file.trouble)


@pytest.mark.parametrize("part", [FREE_PART, 10**9], ids=["as it is", "without the measure"])
def test_a_twentieth_of_the_disk_is_left_to_others(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes lines without end fills no disk: the rest is counted. Without the measure, nobody else can write."""
    monkeypatch.setattr(append, "FREE_PART", part)
    with small_disk() as disk, capture_logs() as said, opened(disk.folder / "audit.log") as file:
        while not file.lost:
            file.write(["x" * 1000] * 4)
        left = os.statvfs(disk.folder)
        told = file.trouble
        (disk.folder / "audit.log").write_text("")
        file.write(["rotated"])

    measure = part == FREE_PART
    assert measure == (left.f_bavail > left.f_blocks // FREE_PART - 3)
    assert measure == (told == "the disk is nearly full")
    assert ("", ["a file cannot be written: what belongs into it is lost", "a file can be written again"]) == (
        file.trouble,
        [line["event"] for line in said],
    )
