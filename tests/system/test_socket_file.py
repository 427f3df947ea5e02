"""The file of a listening socket: where it is made, and that no other file gets its mode."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cms.system import socket_file

PATH = "cms.sock"


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


@pytest.mark.parametrize("folder", ["", "x" * 90])
def test_a_socket_is_made_as_it_is_wanted(tmp_path: Path, sock: socket.socket, folder: str) -> None:
    """With this mode, whatever the umask is, listening, and with nothing beside it; also where the path is long."""
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    before = os.umask(0o077)
    path = place / PATH if len(str(place / PATH)) <= socket_file.MAX_PATH else place / "s"
    made = socket_file.make(sock, str(path), 0o666, -1, os.getegid())
    os.umask(before)

    assert (0o666, os.geteuid(), os.getegid()) == (made.mode, made.uid, made.gid)
    assert (made.inode, True) == (path.stat().st_ino, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1)
    assert [path] == list(place.iterdir())


def test_a_mode_is_set_on_the_socket_that_was_bound_alone(
    tmp_path: Path, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on what a stranger who can write the folder puts there meanwhile: that is found by its name, ours is not."""
    bind, private = socket_file._bind, list[Path]()

    def swap_and_bind(sock: socket.socket, folder: str, *more: Any) -> Any:
        private.append(Path(folder))
        Path(folder).rename(tmp_path / "away")
        Path(folder).mkdir()
        return bind(sock, folder, *more)

    monkeypatch.setattr(socket_file, "_bind", swap_and_bind)
    with pytest.raises(FileNotFoundError):
        socket_file.make(sock, str(tmp_path / PATH), 0o666, -1, -1)

    assert not (tmp_path / PATH).exists()
    assert not stat.S_IMODE((private[0] / socket_file._SOCKET).stat().st_mode) & 0o022


def test_a_folder_that_another_made_is_not_used(
    tmp_path: Path, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the private one, between two system calls."""
    mkdir = os.mkdir

    def swapped(name: str, _mode: int) -> None:
        mkdir(name)
        Path(name).chmod(0o777)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(OSError, match="another user has replaced"):
        socket_file.make(sock, str(tmp_path / PATH), 0o666, -1, -1)

    assert [] == list(tmp_path.iterdir())
