"""What is at a path, and private files that are whole or not there."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cms.system.files import (
    STALE_TRIES,
    has_acl,
    looked_up_again,
    make_folders,
    oddity,
    place_new,
    read_regular,
    sweep_drafts,
    write_private,
)


def names_in(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_private_file_has_its_content_and_itsmode_of(tmp_path: Path, mode: int) -> None:
    """The mode is exact whatever the umask, and no draft is left."""
    before = os.umask(0o077)
    try:
        write_private(tmp_path / "key", b"content", mode)
    finally:
        os.umask(before)

    assert ((tmp_path / "key").read_bytes(), mode_of(tmp_path / "key")) == (b"content", mode)
    assert names_in(tmp_path) == {"key"}


def test_the_content_is_only_ever_readable_by_whom_the_mode_lets(tmp_path: Path) -> None:
    """When the draft gets its name it has its mode already."""
    modes = []

    def look(draft: Path, path: Path) -> None:
        modes.append((mode_of(draft), draft.read_bytes()))
        draft.rename(path)

    write_private(tmp_path / "token", b"secret", 0o640, look)

    assert modes == [(0o640, b"secret")]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Who has the old file open reads the old content to its end."""
    path = tmp_path / "token"
    path.write_text("old and longer")
    with path.open() as reader:
        write_private(path, b"new")

        assert (reader.read(), path.read_text()) == ("old and longer", "new")


@pytest.mark.parametrize("place", [os.link, place_new])
def test_a_new_file_replaces_none(tmp_path: Path, place: object) -> None:
    """A file that is there stays as it is, and no draft is left."""
    path = tmp_path / "key"
    path.write_text("first")

    with pytest.raises(FileExistsError):
        write_private(path, b"second", place=place)  # type: ignore[arg-type]  # a parameter of pytest's

    assert (path.read_text(), names_in(tmp_path)) == ("first", {"key"})


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_system_without_hard_links_takes_a_new_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """As most memory sticks have it: the file is renamed there, and still replaces none."""

    def no_links(*_paths: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "export"
    if taken:
        path.write_text("first")
        with pytest.raises(FileExistsError):
            write_private(path, b"second", place=place_new)
    else:
        write_private(path, b"first", place=place_new)

    assert (path.read_text(), names_in(tmp_path)) == ("first", {"export"})


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    """The error comes through, and no draft is left."""
    path = tmp_path / "token"
    path.write_text("old")

    def fail(_draft: Path, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        write_private(path, b"new", place=fail)

    assert (path.read_text(), names_in(tmp_path)) == ("old", {"token"})


def test_an_error_names_the_file_and_not_its_draft(tmp_path: Path) -> None:
    """The caller has named the file."""
    with pytest.raises(FileNotFoundError) as raised:
        write_private(tmp_path / "none" / "key", b"")

    assert raised.value.filename == str(tmp_path / "none" / "key")


def test_a_folder_that_cannot_be_read_takes_a_file(tmp_path: Path) -> None:
    """A drop box, of mode 0300: its names cannot be synced, and the file is there all the same."""
    folder = tmp_path / "box"
    folder.mkdir()
    folder.chmod(0o300)
    try:
        write_private(folder / "token", b"content")
        assert (folder / "token").read_bytes() == b"content"
    finally:
        folder.chmod(0o700)


def test_drafts_that_a_crash_has_left_are_swept(tmp_path: Path) -> None:
    """Those of this file, and of no other."""
    kept = {".other.0123456789abcdef.cms-new", ".key.0123.cms-new", "key"}
    for name in (*kept, ".key.0123456789abcdef.cms-new"):
        (tmp_path / name).touch()

    sweep_drafts(tmp_path / "key")
    sweep_drafts(tmp_path / "none" / "key")

    assert names_in(tmp_path) == kept


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A folder, a device and a pipe are; a file and nothing at all are no oddity."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()

    found = [
        oddity(each) for each in (tmp_path, Path("/dev/null"), tmp_path / "pipe", tmp_path / "file", tmp_path / "no")
    ]

    assert found == ["a folder", "a device", "a pipe", "", ""]


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_folders_have_their_mode_whatever_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    """All that are made; those that exist stay as they are."""
    (tmp_path / "there").mkdir(mode=0o750)
    before = os.umask(umask)
    try:
        make_folders(tmp_path / "there" / "a" / "b", mode)
        make_folders(tmp_path / "there" / "a" / "b", 0o711)
    finally:
        os.umask(before)

    there = tmp_path / "there"
    assert [0o750, mode, mode] == [mode_of(each) for each in (there, there / "a", there / "a" / "b")]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    """With the path that is the file's."""
    (tmp_path / "file").touch()

    with pytest.raises(NotADirectoryError) as caught:
        make_folders(tmp_path / "file" / "a" / "b")
    assert str(tmp_path / "file") == caught.value.filename


def test_a_folder_that_another_process_has_just_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, which is all that matters."""
    real = Path.mkdir

    def twice(path: Path, mode: int) -> None:
        real(path, mode)
        real(path, mode)

    monkeypatch.setattr(Path, "mkdir", twice)
    make_folders(tmp_path / "a")

    assert (tmp_path / "a").is_dir()


def test_access_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is seen; what cannot be asked counts as one, except on a file system that has none."""
    assert not has_acl(tmp_path)
    for number, expected in ((errno.EOPNOTSUPP, False), (errno.EACCES, True), (0, True)):

        def answer(*_: object, number: int = number, **__: object) -> bytes:
            if number:
                raise OSError(number, "no")
            return b"list"

        monkeypatch.setattr(os, "getxattr", answer)
        assert expected == has_acl(tmp_path)


def _a_pipe(path: Path) -> None:
    os.mkfifo(path)


def _a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def _a_folder(path: Path) -> None:
    path.mkdir()


def _a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (_a_pipe, "it is a pipe, not a regular file"),
        (_a_folder, "it is a folder, not a regular file"),
        (_a_device, "it is a device, not a regular file"),
        (_a_socket, os.strerror(errno.ENXIO)),
    ],
)
def test_only_a_regular_file_is_read(tmp_path: Path, made: Callable[[Path], None], said: str) -> None:
    """Anything else is one error at once: nothing waits for a writer, and nothing is read without end."""
    path = tmp_path / "it"
    made(path)
    with pytest.raises(OSError, match=said) as caught:
        read_regular(path, 100)

    assert said == caught.value.strerror


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_what_can_be_no_files_name_is_an_error_of_the_system(name: str) -> None:
    """And not a ValueError, which would be a bug."""
    with pytest.raises(OSError, match="no file can have this name"):
        read_regular(f"/tmp/{name}", 100)


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    """As many bytes as asked for, and no more."""
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")

    assert (b"abc", b"abcdef") == (read_regular(path, 3), read_regular(str(path), 100))


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([], "read"),
        ([errno.ESTALE] * (STALE_TRIES - 1), "read"),
        ([errno.ESTALE] * STALE_TRIES, errno.ESTALE),
        ([errno.EIO], errno.EIO),
    ],
)
def test_a_stale_file_is_opened_again(errors: list[int], outcome: object) -> None:
    """It was replaced on its server; not without end, and after no other error."""

    def call() -> str:
        if errors:
            raise OSError(errors.pop(0), "")
        return "read"

    try:
        end: object = looked_up_again(call)
    except OSError as error:
        end = error.errno

    assert outcome == end
    assert [] == errors
