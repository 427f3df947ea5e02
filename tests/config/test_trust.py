"""Who could have written a file: the walk, with made-up owners and modes over real files, and with real ones."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cms.config import trust
from cms.config.trust import System, Untrusted

ME = 1000
OTHER = 1001
NAMES = {0: "root", ME: "me", OTHER: "other"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def facts_of(real: os.stat_result, uid: int, mode: int) -> os.stat_result:
    """The same file with another owner and other permission bits."""
    return os.stat_result((stat.S_IFMT(real.st_mode) | mode, *tuple(real)[1:4], uid, *tuple(real)[5:10]))


def machine(told: Mapping[Path, tuple[int, int]], caller: int = ME) -> System:
    """A machine where root owns each path and others have no rights, except for `told`: path to (owner, mode)."""

    def lstat(path: Path) -> os.stat_result:
        return facts_of(path.lstat(), *told.get(path, (0, 0o755)))

    return System(caller=lambda: caller, lstat=lstat, user_name=lambda uid: NAMES[uid])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    found = tmp_path / "folder" / "cms.cfg"
    found.write_bytes(b"content")
    return found


def refusal(path: Path, system: System) -> Untrusted:
    with pytest.raises(Untrusted) as caught:
        trust.read(str(path), system)
    return caught.value


class TestRead:
    @pytest.mark.parametrize("owner", [ME, 0])
    def test_own(self, file: Path, owner: int) -> None:
        """A file of the caller's or of root's, in folders of theirs, is read."""
        system = machine({file: (owner, 0o600), file.parent: (owner, 0o700)})

        assert b"content" == trust.read(str(file), system)

    @pytest.mark.parametrize(("mode", "whom"), [(0o664, "its group"), (0o646, "everyone"), (0o622, "everyone")])
    def test_writable_file(self, file: Path, mode: int, whom: str) -> None:
        """A file that others can write is refused, with the chmod that mends it."""
        found = refusal(file, machine({file: (ME, mode)}))

        assert f"the file can be written by {whom}, and a configuration is a program" == found.message
        assert f"`chmod go-w {file}`" == found.hint

    def test_writable_folder(self, file: Path) -> None:
        """A folder that others can write lets them put another file in place: refused, wherever it is on the way."""
        above = file.parent.parent
        found = refusal(file, machine({above: (ME, 0o775)}))

        assert f"the folder {above} can be written by its group, and a configuration is a program" == found.message

    def test_sticky_folder(self, file: Path) -> None:
        """A sticky folder of root's passes though every user can write to it."""
        system = machine({file: (ME, 0o600), file.parent: (0, 0o1777)})

        assert b"content" == trust.read(str(file), system)

    def test_sticky_folder_of_another(self, file: Path) -> None:
        """A sticky folder's owner can replace what is in it, so it must be the caller's or root's all the same."""
        found = refusal(file, machine({file.parent: (OTHER, 0o1777)}))

        assert f"the folder {file.parent} belongs to other, who could change what cms runs as me" == found.message

    def test_another_users_file(self, file: Path) -> None:
        """A file of another user's is refused, and the message says how to make it one's own."""
        found = refusal(file, machine({file: (OTHER, 0o600)}))

        assert "the file belongs to other, who could change what cms runs as me" == found.message
        assert f"`chown me {file}`, or use a copy" == found.hint

    def test_root_runs_no_other_users(self, file: Path) -> None:
        """cms tells root the sudo command that runs the configuration as its owner, who also owns the folder."""
        found = refusal(file, machine({file: (OTHER, 0o600), file.parent: (OTHER, 0o700)}, caller=0))

        assert "the file belongs to other, and root runs no other user's configuration" == found.message
        assert "`sudo -u other cms ...`" == found.hint

    def test_root_file_in_a_users_folder(self, file: Path) -> None:
        """Root's own file is refused where a user could put another in its place."""
        found = refusal(file, machine({file.parent: (OTHER, 0o700)}, caller=0))

        assert (
            f"the folder {file.parent} belongs to other, and root runs no other user's configuration" == found.message
        )

    def test_link(self, file: Path) -> None:
        """A symbolic link is followed, and its permission bits mean nothing."""
        link = file.with_name("link")
        link.symlink_to("../folder/./cms.cfg")

        assert b"content" == trust.read(str(link), machine({link: (ME, 0o777)}))

    def test_link_of_another(self, file: Path) -> None:
        """Who owns a link decides where it leads, so it must be the caller's or root's."""
        link = file.with_name("link")
        link.symlink_to(file)
        found = refusal(link, machine({link: (OTHER, 0o777)}))

        assert f"the symbolic link {link} belongs to other, who could change what cms runs as me" == found.message

    def test_folder_behind_a_link(self, file: Path, tmp_path: Path) -> None:
        """The folders that a link leads through are judged as well."""
        link = tmp_path / "link"
        link.symlink_to(file)
        found = refusal(link, machine({file.parent: (ME, 0o777)}))

        assert f"the folder {file.parent} can be written by everyone, and a configuration is a program" == found.message

    def test_link_loop(self, file: Path) -> None:
        """A loop of links is an OSError, from the system or from the walk."""
        link = file.with_name("link")
        link.symlink_to("link")

        with pytest.raises(OSError, match="symbolic links"):
            trust.read(str(link), machine({}))
        assert trust.keeps_others_out(str(link / "cms.sock"), machine({}))

    def test_relative(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative path is judged from the root down too."""
        monkeypatch.chdir(file.parent)
        found = refusal(Path("cms.cfg"), machine({file.parent.parent: (OTHER, 0o755)}))

        assert (
            f"the folder {file.parent.parent} belongs to other, who could change what cms runs as me" == found.message
        )

    def test_no_regular_file(self, tmp_path: Path) -> None:
        """A FIFO is refused at once, without waiting for its writer."""
        os.mkfifo(tmp_path / "fifo")

        assert "it is not a regular file" == refusal(tmp_path / "fifo", machine({})).message

    def test_replaced(self, file: Path) -> None:
        """A file that is not the one that was judged is not read."""
        twin = file.with_name("twin")
        twin.write_bytes(b"other content")
        system = machine({})
        swapped = replace(system, lstat=lambda path: system.lstat(twin if path == file else path))

        assert "it was replaced while it was being read" == refusal(file, swapped).message

    @needs_root
    def test_real_owners(self, file: Path) -> None:
        """With a real owner: root's run of a file of the user `nobody` is refused, and the message names that user."""
        os.chown(file, 65534, 65534)

        assert "`sudo -u nobody cms ...`" == refusal(file, trust.SYSTEM).hint


class TestKeepsOthersOut:
    @pytest.mark.parametrize(("mode", "closed"), [(0o755, False), (0o750, True), (0o700, True), (0o711, False)])
    def test_folder(self, tmp_path: Path, mode: int, *, closed: bool) -> None:
        """A folder without x for others keeps them out, however far above."""
        (tmp_path / "a" / "b").mkdir(parents=True)

        assert closed == trust.keeps_others_out(
            str(tmp_path / "a" / "b" / "cms.sock"), machine({tmp_path / "a": (ME, mode)})
        )

    def test_missing_folder(self, tmp_path: Path) -> None:
        """A folder that is missing will be made for its owner alone."""
        assert trust.keeps_others_out(str(tmp_path / "none" / "cms.sock"), machine({}))


class TestInMemory:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/run/me/token", True),
            ("/run/me/no/such/folder/token", True),
            ("/run/me/disk over it/token", False),
            ("/running/token", False),
            ("/home/me/token", False),
        ],
    )
    def test_the_last_mount_above_counts(
        self, path: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is mounted over a folder decides for all below it, whatever the folder was before."""
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            "22 1 0:20 / / rw shared:1 - ext4 /dev/sda1 rw\n"
            "23 22 0:21 / /run/me rw shared:2 master:3 - ext4 /dev/sdb1 rw\n"
            "24 22 0:22 / /run/me rw - tmpfs tmpfs rw,size=1k\n"
            "25 24 8:1 / /run/me/disk\\040over\\040it rw - ext4 /dev/sdc1 rw\n"
        )
        monkeypatch.setattr(trust, "MOUNTS", str(mounts))

        assert expected == trust.in_memory(path)

    def test_nothing_is_mounted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without mount information, cms takes the folder for a disk."""
        (tmp_path / "mountinfo").write_text("")
        monkeypatch.setattr(trust, "MOUNTS", str(tmp_path / "mountinfo"))

        assert not trust.in_memory("/run/token")

    def test_this_machine(self) -> None:
        """The kernel's own list is read."""
        assert (True, False) == (trust.in_memory("/dev/shm/token"), trust.in_memory("/proc/token"))
