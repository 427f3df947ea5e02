"""Who could have written a file: the walk, with made-up owners and modes over real files, and with real ones."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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


def machine(told: Mapping[Path, tuple[int, int]], caller: int = ME, **more: Any) -> System:
    """A machine where root owns each path and others have no rights, except for `told`: path to (owner, mode)."""

    def lstat(path: Path) -> os.stat_result:
        return facts_of(path.lstat(), *told.get(path, (0, 0o755)))

    usual: dict[str, Any] = {"is_alone_in": lambda _gid, _uid: False, "has_acl": lambda _path: False}
    return System(caller=lambda: caller, lstat=lstat, user_name=lambda uid: NAMES[uid], **usual | more)


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
        assert f"`sudo chown me {file}`, or use a copy" == found.hint

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

    def test_all_at_once(self, file: Path, tmp_path: Path) -> None:
        """One command for everything that others can write."""
        found = refusal(file, machine({file: (ME, 0o664), file.parent: (ME, 0o775), tmp_path: (ME, 0o757)}))

        assert (
            f"the file, the folder {file.parent} and the folder {tmp_path} can be written by other users, and a"
            " configuration is a program" == found.message
        )
        assert f"`chmod go-w {file} {file.parent} {tmp_path}`" == found.hint

    @pytest.mark.parametrize("caller", [ME, 0])
    @pytest.mark.parametrize("owner", [0, OTHER])
    @pytest.mark.parametrize("mode", [0o755, 0o775])
    def test_the_systems_folders(self, file: Path, caller: int, owner: int, mode: int) -> None:
        """Nobody is told to change the owner or the mode of a folder that is not theirs alone."""
        top = Path("/", *file.parts[1:2])
        if owner == 0 and mode == 0o755:
            assert b"content" == trust.read(str(file), machine({top: (owner, mode)}, caller))
            return
        found = refusal(file, machine({top: (owner, mode)}, caller))

        assert str(top) in found.message
        assert "use a copy in a folder that only you and root can write to" == found.hint

    def test_a_folder_of_ones_own_in_one(self, file: Path) -> None:
        """In a folder of the user's, another user's folder can be taken over; a file of root's is changed by root."""
        told = {file.parent.parent: (ME, 0o755), file.parent: (OTHER, 0o755)}
        assert f"`sudo chown me {file.parent}`, or use a copy" == refusal(file, machine(told)).hint
        assert f"`sudo chmod go-w {file}`" == refusal(file, machine({file: (0, 0o664)})).hint

    def test_a_user_without_a_name(self, file: Path) -> None:
        """chown(1) takes a number as it is, sudo(8) with its mark."""
        nameless = machine({file: (OTHER, 0o600)})
        nameless = replace(nameless, user_name=lambda uid: f"#{uid}")

        assert f"`sudo chown {ME} {file}`, or use a copy" == refusal(file, nameless).hint
        assert "`sudo -u '#1001' cms ...`" == refusal(file, replace(nameless, caller=lambda: 0)).hint

    @pytest.mark.parametrize("where", ["file", "folder", "both"])
    def test_a_private_group(self, file: Path, where: str) -> None:
        """A group in which the user is alone may write: umask 002 makes such files."""
        asked: list[tuple[int, int]] = []

        def alone(gid: int, uid: int) -> bool:
            asked.append((gid, uid))
            return True

        told = {
            file: (ME, 0o600 if where == "folder" else 0o664),
            file.parent: (0, 0o775 if where != "file" else 0o755),
        }

        assert b"content" == trust.read(str(file), machine(told, is_alone_in=alone))
        assert {(file.stat().st_gid, ME)} == set(asked)
        assert (
            "the file can be written by everyone"
            in refusal(file, machine({file: (ME, 0o666)}, is_alone_in=alone)).message
        )

    def test_an_access_list_on_a_private_group(self, file: Path) -> None:
        """With one, the group's bits are its mask, and it may name anybody."""
        found = refusal(
            file, machine({file: (ME, 0o660)}, is_alone_in=lambda *_: True, has_acl=lambda path: path == file)
        )

        assert "the file can be written by users of its access list, and a configuration is a program" == found.message
        assert f"`chmod go-w {file}`" == found.hint

    @needs_root
    def test_real_owners(self, file: Path) -> None:
        """With a real owner: root's run of a file of the user `nobody` is refused, and the message names that user."""
        os.chown(file, 65534, 65534)

        assert "`sudo -u nobody cms ...`" == refusal(file, trust.SYSTEM).hint


class TestUserNamespaces:
    """In a user namespace, `nobody`'s number stands for every user who is not in it (user_namespaces(7))."""

    NOBODY = 65534

    def inside(self, told: Mapping[Path, tuple[int, int]], caller: int = ME, *mapped: int) -> System:
        return machine(told, caller, is_mapped=lambda uid: uid in (mapped or (caller,)))

    def outer(self, path: Path) -> dict[Path, tuple[int, int]]:
        return dict.fromkeys(path.parents, (self.NOBODY, 493))

    def test_the_systems_folders_pass(self, file: Path) -> None:
        """Without root in it, / and /home are nobody's: a user's own file in a folder of their own is read."""
        told = {**self.outer(file.parent), file.parent: (ME, 0o700), file: (ME, 0o600)}

        assert b"content" == trust.read(str(file), self.inside(told))
        assert b"content" == trust.read(
            str(file), self.inside({each: (0 if who == ME else who, mode) for each, (who, mode) in told.items()}, 0)
        )

    def test_nobodys_files_do_not(self, file: Path) -> None:
        """They may be anybody's, and no command in here changes that."""
        link = file.with_name("link")
        link.symlink_to(file)
        told = {**self.outer(file), link: (self.NOBODY, 0o777), file: (ME, 0o600)}

        for path, what in ((file, "the file"), (link, f"the symbolic link {link}")):
            system = self.inside(told if path == link else {**told, file: (self.NOBODY, 0o600)})
            found = refusal(path, system)
            assert f"{what} belongs to a user who is not in this user namespace" == found.message
            assert "run cms outside of the namespace, as the owner" == found.hint

    def test_a_program_of_the_systems(self, file: Path) -> None:
        """`sh` is nobody's as well, and as safe as outside; a link to it from a folder of one's own is followed."""
        link = file.with_name("link")
        link.symlink_to(file)
        everything = {**self.outer(file), file: (self.NOBODY, 0o755), link: (self.NOBODY, 0o777)}
        trust.check_program(str(link), self.inside(everything))

        with pytest.raises(Untrusted, match="the file can be written by everyone"):
            trust.check_program(str(link), self.inside({**everything, file: (self.NOBODY, 0o757)}))

    def test_a_folder_of_nobodys_below_ones_own(self, file: Path, tmp_path: Path) -> None:
        """It is no folder of the system's: its owner could put another file in place."""
        told = {**self.outer(tmp_path), tmp_path: (ME, 0o755), file.parent: (self.NOBODY, 0o755), file: (ME, 0o600)}

        assert "who is not in this user namespace" in refusal(file, self.inside(told)).message

    def test_with_root_in_it(self, file: Path, tmp_path: Path) -> None:
        """/ is root's as everywhere, so a folder of nobody's is another user's."""
        told = {tmp_path: (self.NOBODY, 0o755), file: (ME, 0o600)}

        found = refusal(file, self.inside(told, ME, 0, ME))
        assert f"the folder {tmp_path} belongs to a user who is not in this user namespace" == found.message

    def test_a_folder_that_others_can_write(self, file: Path) -> None:
        """Whoever owns it."""
        told = {**self.outer(file), Path("/"): (self.NOBODY, 0o777), file: (ME, 0o600)}

        assert "the folder / can be written by everyone" in refusal(file, self.inside(told)).message

    def test_without_users(self, file: Path) -> None:
        """There everybody's files look like one's own, and everybody's requests too."""
        found = refusal(file, machine({}, self.NOBODY, is_mapped=lambda _uid: False))

        assert "this user namespace has no users, so that cms cannot tell whose the file is" == found.message
        assert "chown" not in found.hint


class TestCheckPlace:
    def test_what_is_not_there_yet(self, file: Path, tmp_path: Path) -> None:
        """The folders that exist are judged; one that is missing, or a file in its place, is not."""
        missing = str(file.parent / "a" / "b" / "cms.cfg")
        trust.check_place(missing, machine({}))
        trust.check_place(str(file / "cms.cfg"), machine({}))

        with pytest.raises(Untrusted, match="can be written by its group"):
            trust.check_place(missing, machine({tmp_path: (ME, 0o770)}))

    def test_without_a_current_folder(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An absolute path needs none: a daemon whose folder was removed reloads its configuration."""
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()

        assert b"content" == trust.read(str(file), machine({}))
        trust.check_program(str(file), machine({}))


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


class TestFolders:
    """The folders of sockets and token files."""

    @pytest.fixture
    def path(self, file: Path) -> Path:
        return file.with_name("cms.sock")

    def refusal(self, path: Path, system: System) -> Untrusted:
        with pytest.raises(Untrusted) as caught:
            trust.check_folder(str(path), system)
        return caught.value

    @pytest.mark.parametrize("owner", [ME, 0])
    @pytest.mark.parametrize("mode", [0o700, 0o755, 0o1755])
    def test_own(self, path: Path, owner: int, mode: int) -> None:
        """The caller's or root's passes, whether or not the socket is there, and whatever is there."""
        system = machine({path.parent: (owner, mode)})
        trust.check_folder(str(path), system)
        path.touch()
        trust.check_folder(str(path), machine({path: (OTHER, 0o666), path.parent: (owner, mode)}))

    def test_folders_to_come(self, path: Path) -> None:
        """cms makes them for its owner only; those above count now."""
        deep = path.parent / "a" / "b" / "cms.sock"
        trust.check_folder(str(deep), machine({path.parent: (ME, 0o755)}))

        assert (
            f"the folder {path.parent} can be written by everyone"
            in self.refusal(deep, machine({path.parent: (ME, 0o777)})).message
        )

    def test_a_folder_to_come_in_a_sticky_one(self, path: Path) -> None:
        """Passes, as /tmp/runtime-UID does that init writes where there is no /run/user: others cannot replace it then."""
        system = machine({path.parent: (0, 0o1777)})
        trust.check_folder(str(path.parent / "runtime" / "cms" / "cms.sock"), system)

        assert f"the folder {path.parent} can be written by everyone" in self.refusal(path, system).message

    @pytest.mark.parametrize(("mode", "whom"), [(0o775, "its group"), (0o777, "everyone"), (0o1777, "everyone")])
    def test_writable(self, path: Path, mode: int, whom: str) -> None:
        """Who can write the folder can take the socket's place: also in a sticky one, while cms does not run."""
        found = self.refusal(path, machine({path.parent: (ME, mode)}))

        assert (
            f"the folder {path.parent} can be written by {whom}, who could put something else in place" in found.message
        )
        assert f"`chmod go-w {path.parent}`" == found.hint

    def test_above_a_sticky_folder(self, path: Path) -> None:
        """A folder of one's own in /tmp cannot be renamed or replaced by others: it passes. One of another's does not."""
        above = path.parent.parent
        trust.check_folder(str(path), machine({above: (0, 0o1777), path.parent: (ME, 0o700)}))
        found = self.refusal(path, machine({above: (0, 0o1777), path.parent: (OTHER, 0o700)}))

        assert f"the folder {path.parent} belongs to other, who could put something else in place" in found.message
        assert "such as /run/user/UID/cms" in found.hint

    def test_a_folder_of_the_systems(self, path: Path) -> None:
        """/tmp is not for its user to change: another folder is."""
        found = self.refusal(path, machine({path.parent: (0, 0o1777)}))

        assert "such as /run/user/UID/cms" in found.hint

    def test_roots_daemon(self, path: Path) -> None:
        """For root too, another user's folder is none."""
        found = self.refusal(path, machine({path.parent: (OTHER, 0o755)}, caller=0))

        assert f"the folder {path.parent} belongs to other, who could put" in found.message
        assert "sudo" not in found.hint

    def test_ones_own_group(self, path: Path) -> None:
        """A group with nobody else in it may write."""
        trust.check_folder(str(path), machine({path.parent: (ME, 0o775)}, is_alone_in=lambda _gid, _uid: True))

    def test_an_access_list(self, path: Path) -> None:
        """It may let others write."""
        found = self.refusal(
            path,
            machine({path.parent: (ME, 0o770)}, is_alone_in=lambda _gid, _uid: True, has_acl=lambda _path: True),
        )

        assert "can be written by users of its access list" in found.message

    def test_a_link(self, path: Path) -> None:
        """It and where it leads must both be trusted."""
        link = path.parent.parent / "link"
        link.symlink_to(path.parent)
        trust.check_folder(str(link / "cms.sock"), machine({link: (ME, 0o777), path.parent: (ME, 0o700)}))

        assert "symbolic link" in self.refusal(link / "cms.sock", machine({link: (OTHER, 0o777)})).message
        assert (
            "can be written"
            in self.refusal(link / "cms.sock", machine({link: (ME, 0o777), path.parent: (ME, 0o1777)})).message
        )
