"""Who may do what, tried as unprivileged users: each right with the user who has it and the one who has not."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.broker import Broker, signed_in
from support.daemon import Daemon, account_line, ask, settings_lines
from support.programs import require_root
from support.reachable import ALICE, BOB, CAROL, Installation, become
from support.waiting import PATIENCE, until

from cms.daemon.serving.audit import MAX_REFUSALS
from cms.sandbox.entra import Entra

USER = "rights@example.test"
ROOT = 0
# A group that is no user's primary group.
SHARED = 64100

CANNOT_START = os.EX_CANTCREAT
REFUSED = os.EX_NOPERM
UNTRUSTED = os.EX_TEMPFAIL

# name of a socket -> its arguments. All of them serve the same account.
SOCKETS = {
    "mine": "mode=0o600",
    "users": f'users=["{BOB}"]',
    "groups": f'groups=["{CAROL}", "{SHARED}"]',
    "both": f'users=["{BOB}"], groups=["{SHARED}"]',
    "group": f'group="{SHARED}"',
}

Peer = tuple[int, Sequence[int]]
OWNER: Peer = (ALICE, ())
OTHER: Peer = (BOB, ())
THIRD: Peer = (CAROL, ())
MEMBER: Peer = (BOB, (SHARED,))
THIRD_MEMBER: Peer = (CAROL, (SHARED,))
# More groups than Python's getsockopt has room for.
MANY = tuple(range(70_000, 70_300))
BUSY_MEMBER: Peer = (BOB, (*MANY, SHARED))
BUSY_OTHER: Peer = (BOB, MANY)
EVERYTHING: Peer = (ROOT, ())

# A name -> who gets a token there, and who does not.
RIGHTS = {
    # The permission bits decide.
    "mine": ([OWNER, EVERYTHING], [OTHER, THIRD, MEMBER]),
    # Exactly the named users, the owner and root.
    "users": ([OWNER, EVERYTHING, OTHER], [THIRD, THIRD_MEMBER]),
    # CAROL belongs to it by her primary group, members of SHARED by a supplementary one.
    "groups": ([OWNER, EVERYTHING, THIRD, MEMBER, BUSY_MEMBER], [OTHER, BUSY_OTHER]),
    "both": ([OWNER, EVERYTHING, OTHER, THIRD_MEMBER], [THIRD]),
    # Mode 0660 for the group that owns the file.
    "group": ([OWNER, EVERYTHING, MEMBER, THIRD_MEMBER], [OTHER, THIRD]),
}
CASES = [
    (name, peer, allowed)
    for name, sides in RIGHTS.items()
    for allowed, peers in zip((True, False), sides, strict=True)
    for peer in peers
]

OPEN_TO_ALL = ("sh", "-c", 'umask 0; exec "$@"', "sh")


@pytest.fixture(scope="module")
def broker(installation: Installation) -> Iterator[Broker]:
    """ALICE's daemon, signed in. She is a member of SHARED, and her umask makes new files writable by everyone."""
    require_root()
    with signed_in(installation, ALICE, USER, groups=[SHARED], more=more_sockets, before=OPEN_TO_ALL) as running:
        # Others come as far as the control socket: no folder is to be what keeps them out.
        for folder in Path(running.control).relative_to(running.daemon.folder).parents:
            (running.daemon.folder / folder).chmod(0o755)
        yield running


def more_sockets(daemon: Daemon) -> str:
    """Return the directives for SOCKETS."""
    return (
        "".join(
            f'CredentialServer("{daemon.sockets}/{name}.sock", accounts=[account], protocols=["SMTP"], {arguments})\n'
            for name, arguments in SOCKETS.items()
        )
        + f'Audit("{audit_file(daemon)}")\n'
    )


def audit_file(daemon: Daemon) -> Path:
    return daemon.home / "audit" / "audit.log"


def run_as(peer: Peer, daemon: Daemon, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of cms's commands as this user, with the daemon's environment."""
    uid, groups = peer
    command = [daemon.installation.command(name), *arguments]
    return subprocess.run(
        become(uid, command, groups=groups) if uid else command,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=daemon.environment,
    )


@pytest.mark.parametrize(("name", "peer", "allowed"), CASES)
def test_a_socket_lets_in_whom_it_names(broker: Broker, name: str, peer: Peer, allowed: bool) -> None:
    """Permission bits, users, groups and the file's group: only those that the configuration names get the token."""
    where = f"--cms_sock={broker.daemon.sockets}/{name}.sock"
    asked = run_as(peer, broker.daemon, "cms-oauth", f"--user={USER}", where)

    assert (0 if allowed else REFUSED) == asked.returncode, asked.stderr
    assert asked.stdout.startswith(f"user={USER}\x01auth=Bearer ") == allowed
    assert bool(asked.stdout) == allowed


# Asks for a token a thousand times, and holds hundreds of connections that ask nothing, until it is told to end.
_FLOOD = """
import socket, sys
held = []
for _ in range(1000):
    asks, silent = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    silent.connect(sys.argv[1])
    held = [*held[-400:], silent]
    asks.connect(sys.argv[1])
    asks.sendall(b"SMTP,json\\n")
    assert b'"denied"' in asks.recv(4096)
    asks.close()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_flood_by_who_may_not_ask(broker: Broker) -> None:
    """Each request is refused, few of the refusals are in the log, and who may ask is served meanwhile."""
    path, began = broker.daemon.sockets / "users.sock", time.monotonic()
    before = len(broker.daemon.log)
    flood = become(CAROL, ["/usr/bin/python3", "-c", _FLOOD, path])
    with subprocess.Popen(flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdin
        assert attacker.stdout
        said = attacker.stdout.readline()
        served = broker.daemon.token(path, USER, uid=BOB)
        attacker.stdin.close()
    seconds = time.monotonic() - began
    written = broker.daemon.log[before:].count("outcome=denied")

    assert ("ready\n", 0) == (said, served.returncode), served.stderr
    # Those of one second may be written in the next.
    assert 0 < written <= MAX_REFUSALS * (seconds + 2)


@pytest.mark.parametrize(
    ("name", "mode", "gid"),
    [("mine", 0o600, ALICE), ("users", 0o666, ALICE), ("groups", 0o666, ALICE), ("group", 0o660, SHARED)],
)
def test_a_socket_file_is_as_configured(broker: Broker, name: str, mode: int, gid: int) -> None:
    """Owner, group and mode, whatever the umask."""
    status = (broker.daemon.sockets / f"{name}.sock").stat()

    assert (ALICE, gid, mode) == (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


@pytest.mark.parametrize(
    ("peer", "allowed"), [(OWNER, True), (EVERYTHING, True), (OTHER, False), (MEMBER, False)], ids=str
)
def test_commands_are_taken_from_owner_and_root(broker: Broker, peer: Peer, allowed: bool) -> None:
    """The control socket answers only the owner and root; other users learn nothing of the accounts."""
    told = run_as(peer, broker.daemon, "cms", "status")

    assert 0o600 == stat.S_IMODE(Path(broker.control).stat().st_mode)
    assert (allowed, allowed) == (told.returncode == 0, USER in told.stdout + told.stderr)


def rotate(broker: Broker, renamed: Path) -> None:
    """Do as logrotate does."""
    record = audit_file(broker.daemon)
    record.rename(renamed)
    os.kill(broker.pid, signal.SIGHUP)
    until(record.exists, "a new file")


def whole_lines(record: Path, least: int) -> list[str]:
    """Return the lines of a file once there are so many; none before."""
    lines = [line for line in record.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return lines if len(lines) >= least else []


def test_each_grant_and_refusal_is_on_record(broker: Broker) -> None:
    """Who asked and what they got, in a file for the owner only; after a rename and SIGHUP, in a new one; and in the status."""
    record = audit_file(broker.daemon)
    rotate(broker, record.with_suffix(".0"))
    where = f"--cms_sock={broker.daemon.sockets}/users.sock"
    codes = [
        run_as(peer, broker.daemon, "cms-oauth", f"--user={user}", where).returncode
        for peer, user in ((OTHER, USER), (THIRD, USER), (OWNER, "nobody@example.test"))
    ]
    lines = until(lambda: whole_lines(record, 3), "three records")
    rotate(broker, record.with_suffix(".1"))
    run_as(OWNER, broker.daemon, "cms-oauth", f"--user={USER}", where)
    later = until(lambda: whole_lines(record, 1), "a record in the new file")
    status = json.loads(run_as(OWNER, broker.daemon, "cms", "status", "--json").stdout)

    assert [0, REFUSED, os.EX_NOUSER] == codes
    words = [dict(word.split("=", 1) for word in line.split()) for line in (*lines, *later)]
    assert [
        ("granted", USER, "SMTP", str(BOB)),
        ("denied", USER, "SMTP", str(CAROL)),
        ("unknown-account", "nobody@example.test", "SMTP", str(ALICE)),
        ("granted", USER, "SMTP", str(ALICE)),
    ] == [(each["outcome"], each["account"], each["protocol"], each["uid"]) for each in words]
    assert all({"time", "form", "gid", "pid", "program"} <= each.keys() for each in words)
    assert (0o600, ALICE) == (stat.S_IMODE(record.stat().st_mode), record.stat().st_uid)
    # Nothing was written to the old file meanwhile.
    assert lines == whole_lines(record.with_suffix(".1"), 3)
    assert (ALICE, "SMTP") == tuple(status["accounts"][0]["last_taken"][each] for each in ("uid", "protocol"))
    assert [str(record)] == status["daemon"]["audit"]["places"]


def test_an_open_control_socket_takes_no_others_commands(broker: Broker) -> None:
    """Should its mode be changed behind cms's back, the kernel's word on who asks still decides."""
    Path(broker.control).chmod(0o666)
    # The answer comes before the question: not a byte of a stranger's is read.
    script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.makefile().read())"
    command = become(BOB, ["/usr/bin/python3", "-c", script, broker.control])
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    Path(broker.control).chmod(0o600)

    assert "from its owner and from root only" in told.stdout
    assert USER not in told.stdout


def test_what_is_stored_is_the_owners_alone(broker: Broker) -> None:
    """Folders 0700 and files 0600, though the umask of the daemon is 0."""
    state = broker.daemon.home / "state"
    found = {path: path.stat() for path in (state / "cms").rglob("*")} | {state / "cms": (state / "cms").stat()}

    assert any(path.suffix == ".vault" for path in found)
    for path, status in found.items():
        wanted = 0o700 if path.is_dir() else 0o600
        assert (ALICE, wanted) == (status.st_uid, stat.S_IMODE(status.st_mode)), path
    assert 0o600 == stat.S_IMODE((broker.daemon.home / "vault-key").stat().st_mode)


# --- a stranger's daemon in place of the one that is asked ---

# Renames the socket, and answers in its place with a token of another account, in the form that is asked for.
FALSE_DAEMON = """
import contextlib, os, socket, sys
path = sys.argv[1]
os.rename(path, path + ".mine")
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    print("listens", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            asked = connection.makefile("rb").readline()
            told = b'{"version": 1, "user": "rights@example.test", "token": "STRANGERS"}'
            plain = b"user=rights@example.test\\x01auth=Bearer STRANGERS\\x01\\x01"
            connection.sendall(told if b"json" in asked else plain)
"""
STRANGERS = "STRANGERS"
SCRIPT = "import cms_oauth, sys; print(cms_oauth.token(sys.argv[1], socket=sys.argv[2]))"


def ask_in_every_way(daemon: Daemon, uid: int, path: str) -> dict[str, subprocess.CompletedProcess[str]]:
    """Ask for a token at this path with every client that cms has."""
    return {
        "cms-oauth": daemon.token(path, USER, uid=uid),
        "json": daemon.token(path, USER, "--output=json", uid=uid),
        "git": daemon.run("git-credential-cms", f"--cms_sock={path}", "get", stdin=MAIL_SERVER, uid=uid),
        "library": daemon.run(str(daemon.installation.python), "-I", "-c", SCRIPT, USER, path, uid=uid),
    }


MAIL_SERVER = f"protocol=smtp\nhost=smtp.example.test\nusername={USER}\n\n"


@pytest.fixture
def shared(broker: Broker) -> Iterator[str]:
    """A socket that admits BOB, in a folder as it should be; what others do there is undone."""
    path = Path(broker.daemon.sockets / "users.sock")
    yield str(path)
    path.parent.chmod(0o755)
    Path(f"{path}.mine").unlink(missing_ok=True)
    assert 0 == broker.daemon.cms("reload").returncode


def test_who_can_write_a_sockets_folder_gives_nobody_a_token(broker: Broker, shared: str) -> None:
    """CAROL puts up a daemon in place of ALICE's: every client of BOB's, ALICE's and root's refuses what it says.

    A program that believes every socket does get CAROL's token there. So the attack works.
    """
    Path(shared).parent.chmod(0o777)
    attack = become(CAROL, ["/usr/bin/python3", "-c", FALSE_DAEMON, shared])
    with subprocess.Popen(attack, stdout=subprocess.PIPE, text=True) as stranger:
        try:
            assert stranger.stdout
            assert "listens\n" == stranger.stdout.readline()
            believed = ask(shared, f"SMTP {USER}\n".encode())
            asked = {uid: ask_in_every_way(broker.daemon, uid, shared) for uid in (BOB, ALICE, ROOT)}
        finally:
            stranger.kill()

    assert STRANGERS.encode() in believed
    for each in asked.values():
        assert [] == [done for done in each.values() if f"uid {CAROL} answers at {shared}" not in done.stderr]
        assert all(STRANGERS not in done.stdout + done.stderr for done in each.values())
        assert (UNTRUSTED, "") == (each["cms-oauth"].returncode, each["cms-oauth"].stdout)
        assert (UNTRUSTED, "") == (each["json"].returncode, each["json"].stdout)
        assert (UNTRUSTED, "quit=1\n") == (each["git"].returncode, each["git"].stdout)
        assert (1, "") == (each["library"].returncode, each["library"].stdout)
        assert each["cms-oauth"].stderr.count("\n") == 1


def test_a_service_is_believed_in_a_folder_that_is_its_own(broker: Broker, shared: str) -> None:
    """There CAROL cannot rename the socket; BOB, whom `users=` names, and ALICE and root get the token in every way."""
    attack = become(CAROL, ["/usr/bin/python3", "-c", FALSE_DAEMON, shared])
    attacked = subprocess.run(attack, capture_output=True, text=True, check=False, timeout=PATIENCE)

    assert "PermissionError" in attacked.stderr
    for uid in (BOB, ALICE, ROOT):
        asked = ask_in_every_way(broker.daemon, uid, shared)
        assert {0} == {done.returncode for done in asked.values()}, asked
        assert f"username={USER}\npassword=" in asked["git"].stdout


def test_root_talks_to_no_strangers_daemon(broker: Broker) -> None:
    """ALICE's control socket is hers, and root may use it, unless others could have put up theirs."""
    assert 0 == run_as(EVERYTHING, broker.daemon, "cms", "status").returncode
    folder = Path(broker.control).parent
    before = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o777)
    told = run_as(EVERYTHING, broker.daemon, "cms", "status")
    folder.chmod(before)

    assert os.EX_UNAVAILABLE == told.returncode
    assert f"other users can write the folder {folder}" in told.stderr
    assert USER not in told.stdout + told.stderr


# --- what keeps a daemon from starting ---


@pytest.fixture
def alice(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """A daemon of ALICE's that could start."""
    require_root()
    entra.add_user(USER)
    daemon = make_daemon(ALICE)
    configure(daemon, entra, f"{daemon.sockets}/cms.sock")
    return daemon


def configure(daemon: Daemon, entra: Entra, path: str, more: str = "") -> None:
    """Give a daemon one account and one socket."""
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("account", USER, entra)
        + f'CredentialServer("{path}", accounts=[account]{more})\n'
    )


def failed_start(daemon: Daemon, *before: str) -> tuple[int, str]:
    """Start a daemon that must not; return its exit status and what it said."""
    daemon.launch(before=before)
    assert daemon.process
    daemon.process.wait(PATIENCE)
    said = daemon.log
    return daemon.stop(), said


def make_folder(path: Path, uid: int, mode: int) -> Path:
    """Make a folder and its missing parents, all with this owner and mode."""
    if not path.parent.exists():
        make_folder(path.parent, uid, mode)
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=["own", "sticky"])
def test_a_configuration_of_ones_own_is_read(alice: Daemon, mode: int) -> None:
    """Only ALICE can change it there: neither her folder nor one like /tmp lets others do so."""
    alice.home.chmod(mode)
    alice.start()

    assert 0 == alice.stop()


@pytest.mark.parametrize(
    ("uid", "mode", "folder", "said"),
    [
        (BOB, 0o644, 0o700, "belongs to"),
        (ALICE, 0o666, 0o700, "can be written by everyone"),
        (ALICE, 0o664, 0o700, "can be written by its group"),
        (ALICE, 0o600, 0o777, "can be written by everyone"),
        (ALICE, 0o600, 0o770, "can be written by its group"),
    ],
)
def test_a_configuration_of_others_is_refused(alice: Daemon, uid: int, mode: int, folder: int, said: str) -> None:
    """A configuration is a program: who else could have written it, or put it there, is named, and it is not run."""
    alice.config.chmod(mode)
    os.chown(alice.config, uid, uid)
    alice.home.chmod(folder)
    status, log = failed_start(alice)

    assert os.EX_CONFIG == status
    assert said in log
    assert not (alice.sockets / "cms.sock").exists()


def test_root_runs_no_other_users_configuration(alice: Daemon) -> None:
    """The daemon and every command that reads the file tell root to run them as its owner."""
    for arguments in (["run"], ["check"], ["login", USER]):
        done = run_as(EVERYTHING, alice, "cms", *arguments, "-c", str(alice.config))

        assert os.EX_CONFIG == done.returncode
        assert f"sudo -u '#{ALICE}' cms" in done.stderr


def test_a_state_folder_of_anothers_is_refused(alice: Daemon) -> None:
    """Even where its permission bits would do, as root's in every folder; its owner is named."""
    make_folder(alice.home / "state" / "cms", BOB, 0o777)
    status, log = failed_start(alice)

    assert CANNOT_START == status
    assert f"belongs to uid {BOB}" in log


def test_an_open_state_folder_is_closed(alice: Daemon) -> None:
    """One's own is used, and others are shut out of it."""
    state = make_folder(alice.home / "state" / "cms", ALICE, 0o777)
    alice.start()

    assert 0o700 == stat.S_IMODE(state.stat().st_mode)


def test_signing_in_alone_is_for_the_owner_of_the_state(alice: Daemon, entra: Entra) -> None:
    """Without a daemon, `cms login` works for the user whose sign-ins these are, and not for root in their stead."""
    alice.sign_in(USER, entra)
    os.chown(alice.home, ROOT, ROOT)
    os.chown(alice.config, ROOT, ROOT)
    as_root = run_as(EVERYTHING, alice, "cms", "login", "-c", str(alice.config), USER, "--paste")

    assert {ALICE} == {path.stat().st_uid for path in (alice.home / "state" / "cms").iterdir()}
    assert CANNOT_START == as_root.returncode
    assert f"belongs to uid {ALICE}" in as_root.stderr


def test_a_folder_that_may_not_be_written_is_named(alice: Daemon, entra: Entra) -> None:
    """The folder, who may not write there, and what to do."""
    there = make_folder(alice.folder / "roots", ROOT, 0o755)
    configure(alice, entra, f"{there}/cms.sock")
    status, log = failed_start(alice)

    assert CANNOT_START == status
    assert f"uid {ALICE} may not write to {there}" in log


def test_a_group_that_one_is_no_member_of_is_named(alice: Daemon, entra: Entra) -> None:
    """A socket cannot be given to it; the remedy is told."""
    configure(alice, entra, f"{alice.sockets}/cms.sock", f', group="{SHARED}"')
    status, log = failed_start(alice)

    assert CANNOT_START == status
    assert f"to the group {SHARED}" in log
    assert "usermod" in log
    assert [] == list(alice.sockets.iterdir())


def test_missing_folders_are_made_for_the_owner_alone(alice: Daemon, entra: Entra) -> None:
    """Mode 0700, every one of them, whatever the umask."""
    path = alice.sockets / "one" / "two" / "cms.sock"
    configure(alice, entra, str(path))
    alice.start(before=OPEN_TO_ALL)

    assert path.is_socket()
    for folder in (path.parent, path.parent.parent):
        assert (ALICE, 0o700) == (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode))


@pytest.mark.parametrize(
    ("uid", "why"),
    [
        (ALICE, "another daemon listens at {path} (pid {pid}, uid {uid})"),
        # Root does not look for it in a folder of ALICE's.
        (ROOT, "{path}: the folder {folder} belongs to #{uid}, who could put something else in place"),
    ],
)
def test_a_live_socket_is_not_taken_over(
    make_daemon: Callable[..., Daemon], broker: Broker, entra: Entra, uid: int, why: str
) -> None:
    """A second daemon that is to listen at the same path says why not and ends; the first one does not notice."""
    second = make_daemon(uid)
    configure(second, entra, broker.path)
    before = Path(broker.path).stat().st_ino
    status, log = failed_start(second)

    assert CANNOT_START == status
    assert why.format(path=broker.path, pid=broker.pid, uid=ALICE, folder=broker.daemon.sockets) in log
    assert before == Path(broker.path).stat().st_ino
    assert ask(broker.path, b"SMTP").startswith(f"user={USER}\x01".encode())


def test_a_state_folder_is_used_once(alice: Daemon, make_daemon: Callable[..., Daemon], entra: Entra) -> None:
    """A second daemon with other sockets names the process that uses the folder, and exits; the first one goes on."""
    alice.start()
    assert alice.process
    second = make_daemon(ALICE)
    configure(second, entra, f"{second.sockets}/cms.sock")
    second.launch(XDG_STATE_HOME=str(alice.home / "state"))
    assert second.process
    second.process.wait(PATIENCE)

    assert f"another cms (process {alice.process.pid})" in second.log
    assert CANNOT_START == second.stop()
    assert 0 == alice.cms("status").returncode


def test_a_dead_socket_is_replaced(alice: Daemon) -> None:
    """A new daemon replaces the socket that a killed one left."""
    alice.start()
    alice.stop(signal.SIGKILL)
    assert (alice.sockets / "cms.sock").is_socket()
    alice.start()

    assert 0 == alice.cms("status").returncode


def test_a_file_that_is_no_socket_stays(alice: Daemon) -> None:
    """A wrong path removes no file."""
    mistaken = alice.sockets / "cms.sock"
    mistaken.write_text("a letter")
    status, log = failed_start(alice)

    assert (CANNOT_START, "a letter") == (status, mistaken.read_text())
    assert "is not a socket" in log
