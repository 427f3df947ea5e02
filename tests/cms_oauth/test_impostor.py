"""Which processes at a socket are believed: by whose they are, and by who could have put the socket there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.programs import require_root
from support.reachable import ALICE, BOB, CAROL, open_folder

from cms_oauth import impostor
from cms_oauth.peer import ROOT


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """ALICE's socket in her own folder, in folders that only root can write, as /run/cms is; BOB asks there."""
    require_root()
    with open_folder("impostor") as place:
        own = make(place / "cms", ALICE)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(own / "cms.sock"))
            monkeypatch.setattr(os, "geteuid", lambda: BOB)
            yield own / "cms.sock"


def make(folder: Path, owner: int, mode: int = 0o755) -> Path:
    folder.mkdir(parents=True)
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    return folder


def why(path: Path | str, uid: int = ALICE) -> str:
    """Return why a process of this user is not believed at this path, "" if it is."""
    found = impostor.suspect(str(path), uid)
    if found is None:
        return ""
    about, _, reason = found.message.partition(" and may be a stranger: ")
    assert about == f"uid {uid} answers at {path}"
    assert "cms" in found.hint
    return reason


@pytest.mark.parametrize(("uid", "believed"), [(ALICE, True), (BOB, True), (ROOT, True), (CAROL, False)])
def test_own_roots_and_the_owners_processes_are_believed(service: Path, uid: int, believed: bool) -> None:
    """In a folder that nobody but its owner can write; a third user's process is not."""
    assert ("" if believed else f"the folder {service.parent} belongs to uid {ALICE}") == why(service, uid)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777, 0o1775])
def test_a_folder_that_others_can_write(service: Path, mode: int) -> None:
    """Its owner is not believed there: who can write it can put up another socket. A sticky folder is one."""
    service.parent.chmod(mode)

    assert f"other users can write the folder {service.parent}" == why(service)
    assert "" == why(service, BOB)
    assert "" == why(service, ROOT)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_above_that_others_can_write(service: Path, mode: int) -> None:
    """There the whole folder can be renamed, or be made before its owner makes it."""
    service.parent.parent.chmod(mode)

    assert f"other users can write the folder {service.parent.parent}" == why(service)


@pytest.mark.parametrize("uid", [ALICE, CAROL])
def test_a_folder_above_that_is_another_users(service: Path, uid: int) -> None:
    """Its owner can write it: even the daemon's own user, who then need not be the one who was meant."""
    os.chown(service.parent.parent, uid, uid)

    assert f"uid {uid} can write the folder {service.parent.parent}" == why(service)


def test_a_folder_above_that_is_ones_own(service: Path) -> None:
    """What only root and the user who asks can write is no stranger's."""
    os.chown(service.parent.parent, BOB, BOB)

    assert "" == why(service)


@pytest.mark.parametrize("owner", [ROOT, BOB])
def test_any_process_is_believed_in_a_folder_of_roots_or_ones_own(service: Path, owner: int) -> None:
    """systemd made the socket in /run and gave it to a service; or a container has it from elsewhere."""
    os.chown(service.parent, owner, owner)

    assert "" == why(service)
    assert "" == why(service, CAROL)


def test_root_looks_into_users_folders(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /run/user/1000/cms is: the folder above is that user's too. A third user is not believed there."""
    monkeypatch.setattr(os, "geteuid", lambda: ROOT)
    above = service.parent.parent
    os.chown(above, ALICE, ALICE)

    assert "" == why(service)
    assert f"the folder {service.parent} belongs to uid {ALICE}" == why(service, CAROL)
    os.chown(above, CAROL, CAROL)
    assert f"uid {CAROL} can write the folder {above}" == why(service)


def test_the_folders_of_links_count(service: Path) -> None:
    """Who can write the folder of a link decides where it leads."""
    place = service.parent.parent
    for name, owner, mode in (("good", ROOT, 0o755), ("open", ROOT, 0o1777), ("carols", CAROL, 0o755)):
        folder = make(place / name, owner, mode)
        (folder / "socket").symlink_to(service)
        (folder / "relative").symlink_to("../cms")

    assert "" == why(place / "good/socket")
    assert "" == why(place / "good/relative/cms.sock")
    assert f"other users can write the folder {place}/open" == why(place / "open/socket")
    assert f"other users can write the folder {place}/open" == why(place / "open/relative/cms.sock")
    assert f"uid {CAROL} can write the folder {place}/carols" == why(place / "carols/socket")
    # Its names are looked up where it leads, not beside the link.
    (place / "good/up").symlink_to(make(place / "else/deep", ROOT))
    (place / "else/cms.sock").symlink_to(service)
    (place / "else").chmod(0o777)
    assert f"other users can write the folder {place}/else" == why(place / "good/up/../cms.sock")


def test_a_link_in_the_sockets_own_folder(service: Path) -> None:
    """It is its owner's, as the socket is."""
    (service.parent / "old.sock").symlink_to("cms.sock")

    assert "" == why(service.parent / "old.sock")


def test_a_relative_path(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders above the current folder count."""
    monkeypatch.chdir(service.parent)

    assert "" == why("cms.sock")
    assert "" == why("./../cms//cms.sock")
    service.parent.parent.chmod(0o777)
    assert f"other users can write the folder {service.parent.parent}" == why("cms.sock")


def test_an_abstract_socket(service: Path) -> None:
    """Everyone can take its name, so that only one's own and root's processes are believed."""
    assert "an abstract socket is in no folder" == why("\0cms")
    assert "" == why("\0cms", BOB)
    assert "" == why(f"{service}\0more"), "the kernel reads no further"


def test_a_path_that_cannot_be_followed(service: Path) -> None:
    """Links in a circle, or a folder that is gone."""
    (service.parent / "circle").symlink_to("circle")

    assert "a folder on the way cannot be read (too many symbolic links)" == why(service.parent / "circle")
    assert "a folder on the way cannot be read (No such file or directory)" == why(service.parent / "no/cms.sock")


NOBODY = 65534


@pytest.fixture
def container(service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user namespace that knows root and BOB only: it shows every other user as NOBODY. ALICE's folder is such a one."""
    (tmp_path / "uid_map").write_text(f"         0       1000          1\n {BOB} 100000 1\n")
    monkeypatch.setattr(impostor, "_UID_MAP", str(tmp_path / "uid_map"))
    os.chown(service.parent, NOBODY, NOBODY)
    return service


def test_a_daemon_outside_of_the_container(container: Path) -> None:
    """Its folder decides, as it does outside: nobody but its owner and root can write there, whoever they are."""
    assert "" == why(container, NOBODY)
    container.parent.chmod(0o775)
    assert f"other users can write the folder {container.parent}" == why(container, NOBODY)


def test_a_folder_above_of_a_user_outside_of_the_container(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be any user's, but for folders that are root's on every machine."""
    above = container.parent.parent
    os.chown(above, NOBODY, NOBODY)

    assert f"uid {NOBODY} can write the folder {above}" == why(container, NOBODY)
    monkeypatch.setattr(impostor, "_ROOTS", ("/", str(above)))
    assert "" == why(container, NOBODY)


def test_a_user_who_stands_for_many_is_not_oneself(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In such a namespace NOBODY's process may be any user's, and so may NOBODY's folder."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    container.parent.chmod(0o777)
    assert f"other users can write the folder {container.parent}" == why(container, NOBODY)
    container.parent.chmod(0o755)
    os.chown(container.parent.parent, NOBODY, NOBODY)
    assert f"uid {NOBODY} can write the folder {container.parent.parent}" == why(container, NOBODY)


def test_nobody_is_a_user_outside_of_namespaces(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every number is a user's, NOBODY's own daemon is NOBODY's."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    service.parent.chmod(0o777)

    assert "" == why(service, NOBODY)


def test_without_proc_the_usual_number_is_no_user(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is taken for the worse."""
    monkeypatch.setattr(impostor, "_UID_MAP", str(tmp_path / "none"))
    service.parent.chmod(0o777)

    assert "" == why(service, BOB)
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert f"other users can write the folder {service.parent}" == why(service, NOBODY)
