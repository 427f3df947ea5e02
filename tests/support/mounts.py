"""A small disk for a test, that can be filled up or turned read-only while a daemon uses it."""

from __future__ import annotations

import errno
import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.programs import require_program, require_root
from support.reachable import open_folder
from support.waiting import PATIENCE

# What a vault file's reservation takes several times over, and an instant to fill.
_SIZE = "512k"
_ZEROS = bytes(4096)
# More than a daemon's state takes.
_INODES = 100


class SmallDisk:
    """A tmpfs at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room for anything, whatever a daemon writes meanwhile."""
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while ballast.write(_ZEROS):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def make_room(self) -> None:
        """Undo `fill`."""
        self._ballast.unlink()

    def forbid_writing(self) -> None:
        """Turn the folder read-only. Descriptors that are open for writing would forbid a remount of the disk itself."""
        _run("mount", "--bind", self.folder, self.folder)
        _run("mount", "-o", "remount,bind,ro", self.folder)

    def allow_writing(self) -> None:
        """Undo `forbid_writing`."""
        _run("umount", self.folder)

    def use_up_inodes(self) -> None:
        """Leave room, and no file more."""
        for number in itertools.count():
            try:
                (self.folder / f"ballast{number}").touch()
            except OSError:
                return

    def free_inodes(self) -> None:
        """Undo `use_up_inodes`."""
        for each in self.folder.glob("ballast*"):
            each.unlink()

    def close(self, flag: str = "i", name: str = ".") -> None:
        """Make the folder, or a file in it, immutable; or append-only, with the flag "a"."""
        _run("chattr", f"+{flag}", self.folder / name, package="e2fsprogs")

    def open(self, flag: str = "i", name: str = ".") -> None:
        """Undo `close`."""
        _run("chattr", f"-{flag}", self.folder / name, package="e2fsprogs")


@contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """Mount a small disk at a new folder for the block."""
    require_root()
    # Not among pytest's own folders: it could not start again over a mount that a killed run has left there.
    with open_folder("disk") as place:
        folder = place / "state"
        folder.mkdir(mode=0o700)
        _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE},nr_inodes={_INODES},mode=0700", "tmpfs", folder)
        try:
            yield SmallDisk(folder)
        finally:
            # Mounts that a failed test has left on top are removed as well.
            while folder.is_mount():
                _run("umount", "--lazy", folder)


def _run(program: str, *arguments: str | Path, package: str = "mount") -> None:
    subprocess.run([require_program(program, package), *arguments], check=True, timeout=PATIENCE)
