"""What the running processes show of themselves. What they print is searched at the end of every run (conftest.py)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.evidence import descendants
from support.programs import require_root
from support.reachable import ALICE, BOB

from cms.sandbox.entra import Entra

USER = "secret@example.test"


@pytest.fixture
def running(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """An ordinary user's daemon, not signed in."""
    require_root()
    entra.add_user(USER)
    daemon = make_daemon(ALICE)
    daemon.configure(
        settings_lines(daemon.home, entra)
        + account_line("account", USER, entra)
        + f'CredentialServer("{daemon.sockets}/cms.sock", accounts=[account], protocols=["SMTP", "IMAP"])\n'
    )
    daemon.start()
    return daemon


def processes(daemon: Daemon) -> dict[str, int]:
    """Return broker and worker by name."""
    assert daemon.process is not None
    broker = daemon.process.pid
    below = [int(each) for each in descendants(broker)]
    workers = {f"worker {each}": each for each in below if b"cms.grants" in Path(f"/proc/{each}/cmdline").read_bytes()}
    return {"broker": broker, **workers}


def test_memory_is_nobodys_to_read(running: Daemon, entra: Entra) -> None:
    """Broker and worker leave no core dumps, and no other program of the same user may look into them."""
    seen: dict[str, tuple[str, int]] = {}

    def look(url: str) -> str:
        for name, process in processes(running).items():
            limits = Path(f"/proc/{process}/limits").read_text()
            core = re.search(r"^Max core file size +(\S+ +\S+)", limits, re.MULTILINE)
            # The kernel gives the files of a process that is not dumpable to root.
            seen[name] = (core[1].split()[1] if core else "?", Path(f"/proc/{process}/environ").stat().st_uid)
        return entra.sign_in(url, USER, follow=False).url

    running.log_in(USER, look)

    assert len(seen) >= 2, "there is a worker during a sign-in"
    assert {("0", 0)} == set(seen.values()), seen


def test_no_process_is_told_a_secret(running: Daemon, entra: Entra) -> None:
    """The token that was served is in no argument and no environment of any process of cms's."""
    running.sign_in(USER, entra)
    token = ask(running.sockets / "cms.sock", f"SMTP,token {USER}".encode())

    assert token
    for process in processes(running).values():
        for name in ("cmdline", "environ"):
            assert token not in Path(f"/proc/{process}/{name}").read_bytes()


def test_nothing_readable_is_left_for_others(running: Daemon, entra: Entra) -> None:
    """State, key and control socket are the owner's alone; the log and the vault hold no token in clear."""
    running.sign_in(USER, entra)
    token = ask(running.sockets / "cms.sock", f"SMTP,token {USER}".encode())
    state = running.home / "state" / "cms"
    private = [state, running.home / "vault-key", running.home / "run" / "cms", *running.home.rglob("control.sock")]
    files = [path for path in running.home.rglob("*") if path.is_file()]

    assert 4 == len(private)
    assert [] == [str(path) for path in private if path.stat().st_mode & 0o077]
    assert any(path.is_relative_to(state) for path in files), "there is a vault"
    assert not any(token in path.read_bytes() for path in files)
    assert token.decode() not in running.log


def test_the_control_socket_is_the_owners(running: Daemon) -> None:
    """Another user can neither see the status nor sign anybody out."""
    control = next(running.home.rglob("control.sock"))
    running.home.chmod(0o755)
    (running.home / "run").chmod(0o755)

    owner = running.cms("status")
    other = running.run("cms", "status", uid=BOB)

    assert control.exists()
    assert USER in owner.stdout
    assert (True, "") == (other.returncode != 0, other.stdout)


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("check",), ("logout",)])
def test_no_command_shows_a_token(running: Daemon, entra: Entra, arguments: tuple[str, ...]) -> None:
    """Whatever the owner asks cms, the token is not in the answer."""
    running.sign_in(USER, entra)
    token = ask(running.sockets / "cms.sock", f"SMTP,token {USER}".encode()).decode()
    where = () if arguments[0] == "status" else ("-c", str(running.config))

    done = running.cms(*arguments, *where)

    assert 0 == done.returncode, done.stderr
    assert token not in done.stdout + done.stderr
