"""What is there on this machine: versions, folders, keys, sockets and who gets to them, mail tools' files."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.programs import require_root

from cms.cli.doctor import probe_machine
from cms.cli.doctor.access import Identity, Tried
from cms.cli.doctor.assess import Folder, KeyFacts
from cms.config.model import Config, SocketSpec
from cms.core.accounts import Account, Grant, Source
from cms.core.policy import MAY_NOT_ASK

ACCOUNT = Account("a@example.test", Grant("https://login.example.test/common", "client", "a@example.test"), {})
ME = Identity(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid())
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def myself(monkeypatch: pytest.MonkeyPatch) -> Identity:
    """Who this process is, never root: the probe connects by itself."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    return Identity("me", 4242, 4242)


def spec(path: Path | str, **changes: object) -> SocketSpec:
    plain = SocketSpec(str(path), (ACCOUNT,), ("SMTP",), 0o600, None, None, None, 1)
    return replace(plain, **changes)  # type: ignore[arg-type] # a field's value, by name


def test_the_libraries_are_those_of_the_project() -> None:
    """Each with what is installed and what is needed; those of extras are for something else."""
    found = {each.name: each for each in probe_machine.libraries()}

    assert {"trio", "msal", "click"} <= found.keys()
    assert "aiosmtpd" not in found
    assert found["trio"].found
    assert found["trio"].lowest
    assert [] == probe_machine.libraries("no-such-distribution")
    assert "" == probe_machine._version("no-such-distribution")


def test_the_state_folder(tmp_path: Path) -> None:
    """Whose it is, its mode, its room, its sign-ins; or that it is not there, or out of sight."""
    tmp_path.chmod(0o700)
    (tmp_path / "one.vault").touch()
    found = probe_machine.state_folder(str(tmp_path))

    assert (True, os.geteuid(), 0o700, 1) == (found.exists, found.uid, found.mode, found.vaults)
    assert found.free > 0
    assert Folder(f"{tmp_path}/no", exists=False) == probe_machine.state_folder(f"{tmp_path}/no")
    assert "Not a directory" == probe_machine.state_folder(f"{tmp_path}/one.vault/no").error


def key(tmp_path: Path, mode: int = 0o600) -> Source:
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    return Source("file", (str(path),))


def test_a_key_file(tmp_path: Path) -> None:
    """Private, there where sign-ins need it, and a file."""
    missing = Source("file", (f"{tmp_path}/no",))

    assert "" == probe_machine.key(key(tmp_path), 1).problem
    assert "its mode is 0644: other users may read it" == probe_machine.key(key(tmp_path, 0o644), 1).problem
    assert ("", "it does not exist") == (probe_machine.key(missing, 0).problem, probe_machine.key(missing, 1).problem)
    assert "`cms vault rekey`" in probe_machine.key(missing, 1).step
    assert "" == probe_machine.key(missing, 1, key(tmp_path)).problem
    assert "its mode is 0644: other users may read it" == probe_machine.key(missing, 1, key(tmp_path, 0o644)).problem
    assert "" == probe_machine.key(key(tmp_path), 0, missing).problem
    assert "it is not a regular file" == probe_machine.key(Source("file", (str(tmp_path),)), 0).problem
    assert "Not a directory" == probe_machine.key(Source("file", (f"{tmp_path}/key/no",)), 0).problem


def test_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is there, a desktop to ask, or nothing that can be seen."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")

    assert KeyFacts("") == probe_machine.key(None, 0)
    assert KeyFacts("command", "sh") == probe_machine.key(Source("command", ("sh", "-c", "secret words")), 0)
    assert "there is no such program" == probe_machine.key(Source("command", ("/no/such/program",)), 0).problem
    assert "there is no such program" == probe_machine.key(Source("command", ("no-such-program",)), 0).problem
    assert KeyFacts("credential", "cms.key") == probe_machine.key(Source("credential", ("cms.key",)), 0)
    assert KeyFacts("keyring") == probe_machine.key(Source("keyring"), 0)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "there is no desktop session to ask" == probe_machine.key(Source("keyring"), 0).problem


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[list[bytes]]:
    """Be a daemon that says this to each request; None: that never answers."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                if answer is None:
                    ended.wait(60)
                    return
                asked.append(client.recv(1024))
                client.sendall(answer)

    ended = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_the_way_to_a_socket(tmp_path: Path) -> None:
    """Each folder from the root on, and the socket; the first part that is missing, or that cannot be seen."""
    path = tmp_path / "cms.sock"
    with listening(path, b""):
        found = probe_machine.socket_path(str(path))

    assert ("/", str(path)) == (found.steps[0].path, found.steps[-1].path)
    assert stat.S_ISSOCK(found.steps[-1].mode)
    assert (str(tmp_path / "no"), "") == (
        probe_machine.socket_path(f"{tmp_path}/no/x").missing,
        probe_machine.socket_path(f"{tmp_path}/no/x").error,
    )
    assert "Not a directory" in probe_machine.socket_path(f"{path}/x").error


def test_a_socket_that_is_to_be(tmp_path: Path) -> None:
    """As the daemon will make it, in a folder that is there; one whose folder is missing is no path yet."""
    group = grp.getgrgid(NOBODY.pw_gid).gr_name
    made = probe_machine.planned(spec(tmp_path / "cms.sock", mode=0o660, group=group), os.geteuid()).steps[-1]
    own = probe_machine.planned(spec(tmp_path / "cms.sock"), os.geteuid()).steps[-1]

    assert (stat.S_IFSOCK | 0o660, os.geteuid(), NOBODY.pw_gid) == (made.mode, made.uid, made.gid)
    assert (os.getegid(), 4_000_000) == (own.gid, probe_machine.planned(spec(tmp_path / "x"), 4_000_000).steps[-1].gid)
    assert probe_machine.planned(spec(tmp_path / "no" / "x"), 0).missing


def test_who_is_who() -> None:
    """Users by name and number, with their groups; no uid for an unknown name."""
    found = probe_machine.identity("nobody")

    assert found is not None
    assert ("nobody", NOBODY.pw_uid, NOBODY.pw_gid) == (found.name, found.uid, found.gid)
    assert Identity("#4000000", 4_000_000, 4_000_000) == probe_machine.identity("4000000")
    assert probe_machine.identity("no-such-user") is None


def test_who_has_to_reach_a_socket() -> None:
    """The named users and the members of the named groups, each once; without any, the daemon's user."""
    group = grp.getgrgid(NOBODY.pw_gid).gr_name
    named = spec("/x", users=("nobody", "no-such-user"), groups=(group, "no-such-group"))

    assert "nobody" in [each.name for each in probe_machine.expected(named, 0)]
    assert [ME.name] == [each.name for each in probe_machine.expected(spec("/x"), os.geteuid())]
    assert ["#4000000"] == [each.name for each in probe_machine.expected(spec("/x"), 4_000_000)]


@pytest.mark.parametrize(("there", "who"), [("nobody", "nobody"), ("no-such-user", ME.name)])
def test_postfix_needs_its_table(monkeypatch: pytest.MonkeyPatch, there: str, who: str) -> None:
    """As a user of its own, where there is that user: a table without users= does not let it in."""
    monkeypatch.setattr(probe_machine, "_POSTFIX", there)
    table = replace(spec("/x"), speaks="postfix")

    assert [who] == [each.name for each in probe_machine.expected(table, os.geteuid())]
    assert [ME.name] == [each.name for each in probe_machine.expected(replace(table, users=(ME.name,)), 0)]


@pytest.mark.parametrize(
    ("answer", "speaks", "expected"),
    [
        (b"{}", "tokens", Tried(reached=True, answered=True)),
        (b"9:NOTFOUND ,", "postfix", Tried(reached=True, answered=True)),
        (b"", "tokens", Tried(reached=True)),
        (f'{{"message": "{MAY_NOT_ASK}"}}'.encode(), "tokens", Tried(reached=True)),
        (f"TEMP {MAY_NOT_ASK}".encode(), "postfix", Tried(reached=True)),
        (None, "tokens", Tried(reached=False, hangs=True)),
    ],
)
def test_a_real_connection(
    tmp_path: Path, answer: bytes | None, speaks: str, expected: Tried, myself: Identity
) -> None:
    """An answer, none, or a daemon that hangs: no token is asked for."""
    path = tmp_path / "cms.sock"
    with listening(path, answer) as asked:
        tried = probe_machine.try_socket(spec(path, speaks=speaks), myself, 0.3)

    assert expected == tried
    assert asked in ([], [b"-,json\n"], [b"12:cms nobody@x,"])


def test_a_failed_connection(tmp_path: Path, myself: Identity) -> None:
    """The kernel's words say why there is no connection."""
    expected = Tried(reached=False, error="No such file or directory")

    assert expected == probe_machine.try_socket(spec(tmp_path / "no"), myself, 1.0)


@pytest.mark.parametrize(("answer", "answered"), [(b"{}", True), (b"", False)])
def test_a_socket_of_which_only_the_path_is_known(tmp_path: Path, answer: bytes, answered: bool) -> None:
    """It is asked in each way that a socket of cms's may speak, until it answers."""
    with listening(tmp_path / "cms.sock", answer):
        tried = probe_machine.try_path(str(tmp_path / "cms.sock"), ME)

    assert Tried(reached=True, answered=answered) == tried


def test_the_control_socket_of_a_configurations_owner(tmp_path: Path) -> None:
    """Where logind has a folder for that user; root's own daemon is found without."""
    (tmp_path / "cms.cfg").touch()
    if os.geteuid() == 0:
        os.chown(tmp_path / "cms.cfg", 1234, 1234)
    uid = (tmp_path / "cms.cfg").stat().st_uid

    assert f"/run/user/{uid}/cms/control.sock" == probe_machine.owners_control(str(tmp_path / "cms.cfg"))
    assert ["", ""] == [probe_machine.owners_control(path) for path in (str(tmp_path / "no"), "/")]


def test_another_user_connects_as_that_user(tmp_path: Path) -> None:
    """Root becomes each; a folder or a mode that bars the user bars the connection."""
    require_root()
    tmp_path.chmod(0o755)
    path = tmp_path / "cms.sock"
    other = Identity("nobody", NOBODY.pw_uid, NOBODY.pw_gid)
    with listening(path, b"{}"):
        path.chmod(0o600)
        barred, mine = probe_machine.try_socket(spec(path), other), probe_machine.try_socket(spec(path), ME)

    assert Tried(reached=False, error="Permission denied") == barred
    assert Tried(reached=True, answered=True) == mine


def test_only_root_can_try_other_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user who asks can be tried, other users only by root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    me = Identity("me", 1234, 1234)

    assert probe_machine.try_socket(spec(tmp_path / "no"), ME) is None
    assert Tried(reached=False, error="No such file or directory") == probe_machine.try_socket(
        spec(tmp_path / "no"), me
    )


def test_a_group_can_be_given_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """By root, and by its members."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "getegid", lambda: 1234)
    monkeypatch.setattr(os, "getgroups", lambda: [77])

    assert (True, True, False) == (
        probe_machine.may_give_to("77"),
        probe_machine.may_give_to("1234"),
        probe_machine.may_give_to("78"),
    )


def test_files_of_mail_programs(tmp_path: Path) -> None:
    """Regular files only: a pipe is never waited for, and a long file is read up to its limit."""
    (tmp_path / "b").write_text("host x\r\n\udcff", errors="surrogateescape")
    (tmp_path / "a").write_text("x" * 1_000_000)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    machine = probe_machine.mail_files(str(tmp_path), {"XDG_CONFIG_HOME": "/x"})

    assert (str(tmp_path), "/x", str(os.geteuid())) == (machine.home, machine.config_home, machine.environ["UID"])
    assert [f"{tmp_path}/a", f"{tmp_path}/b"] == machine.names(str(tmp_path))
    assert [] == machine.names(f"{tmp_path}/none")
    assert (256 * 1024, "host x\n\ufffd") == (len(machine.read(f"{tmp_path}/a")), machine.read(f"{tmp_path}/b"))
    for name, said in (("pipe", "it is a pipe, not a"), ("folder", "it is a folder"), ("none", "No such file")):
        assert not machine.is_file(f"{tmp_path}/{name}")
        with pytest.raises(OSError, match=said):
            machine.read(f"{tmp_path}/{name}")


def test_installed_programs(tmp_path: Path) -> None:
    """A program in the PATH, and the major number of its release; 0 if there is none."""
    machine = probe_machine.mail_files(str(tmp_path), {})

    assert (True, False) == (machine.installed("sh"), machine.installed("no-such-program"))
    assert (6, 0) == (machine.release("fetchmail"), machine.release("no-such-program"))


def test_ages_and_owners(tmp_path: Path) -> None:
    """How old a file is, and whose daemon a configuration is for: the owner of its socket, else this user's."""
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (1000, 1000))
    config = Config("/c", (ACCOUNT,), (spec(tmp_path / "no"), spec(file)), None, None, ())

    assert (50.0, None) == (probe_machine.age_of(str(file), 1050.0), probe_machine.age_of(f"{tmp_path}/no", 1.0))
    assert os.geteuid() == probe_machine.owner_of(config)
    assert os.geteuid() == probe_machine.owner_of(replace(config, sockets=()))


@pytest.mark.parametrize(
    ("host", "known"), [("m7x-of-q8z.example.test", {"m7x-of-q8z", "m7x-of-q8z.example.test"}), ("localhost", set())]
)
def test_personal_names_are_peoples(monkeypatch: pytest.MonkeyPatch, host: str, known: set[str]) -> None:
    """And this machine's, with its domain and without; never a service's or root's."""
    logins = [("root", 0, "/root"), ("mail", 8, "/var/mail"), ("ann", 1000, "/home/ann.lee"), ("nobody", 65534, "/")]
    entries = [pwd.struct_passwd((name, "x", uid, uid, "", home, "")) for name, uid, home in logins]
    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    monkeypatch.setattr(socket, "gethostname", lambda: host)

    assert {"ann", "ann.lee", *known} == set(probe_machine.personal_names())
