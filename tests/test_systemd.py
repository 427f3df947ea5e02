"""The units of systemd/, checked by systemd's own tools, and the daemon under what they do to it.

systemd need not be process 1 for any of this.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.programs import require_program, require_root
from support.reachable import ALICE, Installation, bare_environment
from support.waiting import until

from cms.sandbox.entra import Entra
from cms_oauth import paths

UNITS = Path(__file__).parents[1] / "systemd"
USER = "unit@example.test"

# Tenths of systemd's "exposure level", as systemd 252 measures it. What is left has its reason in the unit.
THRESHOLD = 17

# They need a user namespace in a user's unit, where every other user, root included, looks like `nobody`.
NAMESPACES = re.compile(
    r"^(Protect\w+|Private\w+|CapabilityBoundingSet|ReadWritePaths|RootDirectory|BindPaths)=", re.MULTILINE
)

# Refuse memory that is writable and executable (prctl(2), Linux 6.3): what MemoryDenyWriteExecute= comes down to.
DENY_WRITE_EXECUTE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def signed_in(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """An ordinary user's daemon, signed in once and not running."""
    entra.add_user(USER)
    daemon = make_daemon(ALICE if os.geteuid() == 0 else os.geteuid())
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("account", USER, entra)
        + f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account])\n'
    )
    daemon.start()
    daemon.sign_in(USER, entra)
    daemon.stop()
    return daemon


def installed(kind: str, folder: Path, installation: Installation) -> dict[str, Path]:
    """Return copies of the units whose commands exist."""
    units = {}
    for name in ("cms.service", "cms.socket"):
        text = (UNITS / kind / name).read_text()
        units[name] = folder / name
        units[name].write_text(
            re.sub(r"^(Exec\w+)=\S+", rf"\1={installation.command('cms')}", text, flags=re.MULTILINE)
        )
    for drop_in in (UNITS / kind).glob("*.d"):
        shutil.copytree(drop_in, folder / drop_in.name)
    return units


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    program = require_program("systemd-analyze", "systemd")
    environment = {**bare_environment(), "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(("kind", "mode"), [("system", "--system"), ("user", "--user")])
def test_the_units_are_in_order(kind: str, mode: str, tmp_path: Path, installation: Installation) -> None:
    """systemd finds nothing to say about the service and the socket, with their drop-ins."""
    units = installed(kind, tmp_path, installation)

    verified = analyze("verify", "--man=no", mode, *map(str, units.values()), folder=tmp_path)

    assert (0, "", "") == (verified.returncode, verified.stdout, verified.stderr)


def test_a_broken_unit_is_found(tmp_path: Path, installation: Installation) -> None:
    """The check above can fail: a directive that does not exist is reported, in a unit and in a drop-in."""
    units = installed("system", tmp_path, installation)
    text = units["cms.service"].read_text()
    units["cms.service"].write_text(text.replace("NoNewPrivileges=", "NoNewPrivilege="))
    exim = tmp_path / "cms.socket.d" / "exim.conf"
    exim.write_text(exim.read_text().replace("SocketGroup=", "SocketGroups="))

    verified = analyze("verify", "--man=no", *map(str, units.values()), folder=tmp_path)

    assert "NoNewPrivilege" in verified.stderr
    assert "SocketGroups" in verified.stderr


def missed(measured: str) -> set[str]:
    """Return the directives that systemd misses in a unit."""
    return {each.split("=")[0] for each in re.findall(r"^✗ (\S+=)", measured, re.MULTILINE)}


def named(unit: Path) -> set[str]:
    """Return the directives that a unit has, and those that it says why it has not."""
    return set(re.findall(r"(?:^#? ?|, |and )(\w+)=", unit.read_text(), re.MULTILINE))


def test_the_system_service_is_hardened(tmp_path: Path) -> None:
    """systemd's own measure of exposure stays at the threshold, and what it misses has its reason in the unit."""
    unit = UNITS / "system" / "cms.service"
    threshold = f"--threshold={THRESHOLD}"

    measured = analyze("security", "--offline=yes", threshold, "--no-pager", str(unit), folder=tmp_path)

    assert 0 == measured.returncode, measured.stdout
    assert "PrivateNetwork" in missed(measured.stdout), "this can fail"
    # A device and groups of system calls have their reason where the unit allows them.
    assert missed(measured.stdout) - {"DeviceAllow", "RestrictAddressFamilies"} <= named(unit)


def test_what_a_users_service_lacks_has_its_reason(tmp_path: Path) -> None:
    """Most needs a user namespace, or privileges that a user has not."""
    unit = UNITS / "user" / "cms.service"

    measured = analyze("security", "--offline=yes", "--no-pager", str(unit), folder=tmp_path)

    lacks = {each for each in missed(measured.stdout) if not each.startswith(("Private", "Protect"))}
    assert {"IPAddressDeny", "ProcSubset"} <= lacks, "this can fail"
    assert "# Protect...=, Private...= " in unit.read_text()
    # It is measured as if it were the system's: a user's service has the user's number anyway.
    assert lacks - {"User"} <= named(unit)
    refused = re.findall(r"^✗ SystemCallFilter=(~@\w+)", measured.stdout, re.MULTILINE)
    assert [] == [each for each in refused if f"# SystemCallFilter={each} " not in unit.read_text()]


def test_the_user_service_needs_no_namespace() -> None:
    """In a user namespace cms could not tell its clients apart."""
    text = (UNITS / "user" / "cms.service").read_text()

    assert [] == NAMESPACES.findall(text)


def test_the_sockets_outlive_the_service() -> None:
    """A socket unit's file lies in the runtime folder, which must not be removed when the service stops."""
    service = (UNITS / "system" / "cms.service").read_text()

    assert "ListenStream=/run/cms/" in (UNITS / "system" / "cms.socket").read_text()
    assert "RuntimeDirectory=cms\n" in service
    assert "RuntimeDirectoryPreserve=yes\n" in service


@pytest.mark.parametrize("kind", ["system", "user"])
def test_without_a_configuration_nothing_starts(kind: str) -> None:
    """Neither at boot nor by a client: a socket whose service cannot start would be tried again and again."""
    config = {"system": paths.system_config_file(), "user": "%E/cms/cms.cfg"}[kind]

    for name in ("cms.service", "cms.socket"):
        assert f"ConditionPathExists={config}\n" in (UNITS / kind / name).read_text()


def test_the_services_user_and_folder(tmp_path: Path) -> None:
    """systemd makes a user who cannot log in, and the folder of the sockets, which all can enter and only he can write.

    The folder is his before the service starts: else systemd gives him all that is in it, and takes the group away that
    cms.socket.d/exim.conf gives the socket.
    """
    (tmp_path / "etc").mkdir()
    for tool, action, name in (("systemd-sysusers", (), "sysusers"), ("systemd-tmpfiles", ("--create",), "tmpfiles")):
        command = [require_program(tool, "systemd"), f"--root={tmp_path}", *action, UNITS / "system" / f"{name}.conf"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr

    (user,) = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines() if line[:4] == "cms:"]
    assert ["/var/lib/cms", "/usr/sbin/nologin"] == user[-2:]
    assert "cms:!*:" in (tmp_path / "etc" / "shadow").read_text()
    folder = (tmp_path / "run" / "cms").stat()
    assert (0o755, int(user[2])) == (stat.S_IMODE(folder.st_mode), folder.st_uid)


def test_logrotate_renames_the_audit(tmp_path: Path) -> None:
    """It takes the file as it is, renames the audit, and leaves it to cms to make the new one."""
    audit = tmp_path / "audit.log"
    text = (UNITS / "system" / "logrotate.conf").read_text()
    unit = (UNITS / "system" / "cms.service").read_text()
    # The folder is another one here, and the user of the service need not exist.
    here = text.replace("/var/log/cms/", f"{tmp_path}/").replace("    su cms cms\n", "")
    config = tmp_path / "conf"
    config.write_text(here)
    config.chmod(0o644)
    audit.write_text("a record\n")
    command = [require_program("logrotate", "logrotate"), "--force", f"--state={tmp_path}/state", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert ("a record\n", False) == ((tmp_path / "audit.log.1").read_text(), audit.exists())
    assert ("    su cms cms\n" in text, "\nUser=cms\n" in unit, "\nLogsDirectory=cms\n" in unit) == (True, True, True)


def test_the_daemon_tells_systemd_how_it_is(signed_in: Daemon) -> None:
    """READY=1 once it serves, a STATUS= in words, WATCHDOG=1 within half the time, STOPPING=1 at the end."""
    signed_in.start(WATCHDOG_USEC="400000")
    until(lambda: signed_in.told("WATCHDOG=1"), "a sign of life")
    until(lambda: signed_in.told("STATUS="), "the status line")
    status = signed_in.stop()

    assert 0 == status
    assert any("STOPPING=1" in notice for notice in signed_in.notices)
    assert not any("READY=1" in notice and "STOPPING=1" in notice for notice in signed_in.notices)


def test_a_watchdog_of_another_process_is_not_fed(signed_in: Daemon) -> None:
    """WATCHDOG_PID names whom systemd watches; a child of that process keeps quiet."""
    signed_in.start(WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    until(lambda: signed_in.told("STATUS="), "the status line")
    signed_in.stop()

    assert not any("WATCHDOG=1" in notice for notice in signed_in.notices)


def test_the_socket_can_be_systemds(signed_in: Daemon) -> None:
    """A client connects before cms runs; systemd starts cms with the socket, and the client gets its token."""
    path = signed_in.sockets / "cms.sock"
    path.unlink(missing_ok=True)
    activate = require_program("systemd-socket-activate", "systemd")
    environment = (f"--setenv={name}" for name in signed_in.environment)
    signed_in.launch(before=[activate, f"--listen={path}", "--fdname=cms", "--setenv=NOTIFY_SOCKET", *environment])
    until(path.exists, "the socket")
    before = path.stat()

    # On a busy machine the first token takes longer than a client waits.
    answer = until(lambda: ask(path, f"SMTP {USER}\n".encode()), "a token")

    assert answer.startswith(f"user={USER}\x01auth=Bearer ".encode())
    assert (before.st_ino, before.st_mode) == (path.stat().st_ino, path.stat().st_mode)
    signed_in.stop()
    assert path.exists(), "an activated socket is systemd's to remove"


def test_no_memory_is_writable_and_executable(signed_in: Daemon) -> None:
    """MemoryDenyWriteExecute= breaks nothing: daemon, worker and libraries serve a token under it."""
    signed_in.start(before=[sys.executable if os.geteuid() else "/usr/bin/python3", "-c", DENY_WRITE_EXECUTE])

    answer = until(lambda: ask(signed_in.sockets / "cms.sock", f"SMTP {USER}".encode()), "a token")
    assert answer.startswith(b"user=")


# Calls that are traced though they are allowed: they show where the daemon starts, and that it and its worker are traced.
PROOFS = {"execve", "setpriority", "bind"}


@pytest.mark.parametrize("kind", ["system", "user"])
def test_the_system_call_filter_lets_everything_through(
    kind: str, signed_in: Daemon, entra: Entra, tmp_path: Path
) -> None:
    """A start, a sign-in, a token and a stop use no system call that the unit forbids."""
    require_root()
    trace = tmp_path / "trace"
    trace.mkdir()
    strace = require_program("strace", "strace")
    allowed = allowed_calls((UNITS / kind / "cms.service").read_text(), tmp_path)
    # A stop at each of the many calls that are allowed takes minutes on a busy machine. strace knows only some by name: ?.
    others = "trace=!" + ",".join(f"?{name}" for name in sorted(allowed - PROOFS))
    # The worker ends where anybody but root traces it.
    signed_in.start(tracer=[strace, "-f", "-ff", "-qq", "--seccomp-bpf", "-e", others, "-o", str(trace / "calls")])
    signed_in.sign_in(USER, entra)
    ask(signed_in.sockets / "cms.sock", f"SMTP {USER}".encode())
    signed_in.stop()

    # Up to there it was setpriv.
    start = f'execve("{signed_in.installation.command("cms")}"'
    texts = (file.read_text().rpartition(start)[2] for file in trace.iterdir())
    used = {name for text in texts for name in re.findall(r"^(\w+)\(", text, re.MULTILINE)}
    assert {"setpriority", "bind"} <= used, "the trace is of the daemon and of its worker"
    assert set() == used - allowed
    assert "bind" in used - allowed_calls("SystemCallFilter=@file-system @process\n", tmp_path), "this can fail"


def allowed_calls(unit: str, folder: Path) -> set[str]:
    """Return the system calls that a unit's filter allows."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        named = {call for name in line.removeprefix("~").split() for call in calls_of(name, folder)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def calls_of(name: str, folder: Path) -> set[str]:
    """Return the system calls of a group, groups within it followed."""
    if not name.startswith("@"):
        return {name}
    lines = analyze("syscall-filter", name, folder=folder).stdout.splitlines()[1:]
    words = (line.strip() for line in lines)
    return {call for word in words if word and not word.startswith("#") for call in calls_of(word, folder)}
