"""What the running processes show of themselves. What they print is searched at the end of every run (conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support import evidence, proc
from support.daemon import Daemon, account_line, ask, settings_lines
from support.evidence import is_cms
from support.programs import require_root
from support.reachable import ALICE, BOB
from support.waiting import until

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
    return {"broker": broker, **{f"worker {each}": each for each in proc.workers(broker)}}


def test_memory_is_nobodys_to_read(running: Daemon, entra: Entra) -> None:
    """Broker and worker leave no core dumps, and no other program of the same user may look into them."""
    seen: dict[str, tuple[str, int]] = {}

    def look(url: str) -> str:
        for name, process in processes(running).items():
            with suppress(FileNotFoundError, ProcessLookupError):  # a worker that has left meanwhile
                # The kernel gives the files of a process that is not dumpable to root.
                seen[name] = (proc.core_limits(process)[1], Path(f"/proc/{process}/environ").stat().st_uid)
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
            with suppress(FileNotFoundError, ProcessLookupError):  # a worker that has left meanwhile
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


# --- what the search at the end of every run looks through ---


@pytest.fixture
def gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of evidence of the test's own."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    monkeypatch.setenv(evidence.FOLDER_VARIABLE, str(folder))
    return folder


def test_the_log_is_at_its_most_talkative(running: Daemon, entra: Entra) -> None:
    """What only a log at debug level would say is searched as well."""
    running.sign_in(USER, entra)
    running.cms("refresh")

    assert "level=debug" in running.log


@pytest.mark.parametrize("spell", [bytes.decode, lambda key: b64decode(key).hex()], ids=["as stored", "in hex"])
def test_a_vault_key_in_a_log_is_found(
    running: Daemon, entra: Entra, gathered: Path, spell: Callable[[bytes], str]
) -> None:
    """The key that a daemon has made is among the secrets, and its log among what is searched."""
    running.sign_in(USER, entra)
    evidence.keep_files(running.folder)
    clean = evidence.found_secrets(gathered)
    key = (running.home / "vault-key").read_bytes().strip()
    (gathered / "logs-planted").write_text(f"opened with {spell(key)}")

    assert ([], ["logs-planted: a secret of the sandbox's"]) == (clean, evidence.found_secrets(gathered))


def test_a_token_in_a_daemons_log_is_found(running: Daemon, entra: Entra, gathered: Path) -> None:
    """The daemon's log is searched when its folder goes."""
    planted = running.folder / "another.log"
    planted.write_text(f"level=debug got={entra.mint(USER)}")
    evidence.keep_files(running.folder)
    # The search at the end of this very run would find it too.
    planted.unlink()

    assert 1 == len(evidence.found_secrets(gathered))


@pytest.mark.parametrize(("limit", "found"), [("unlimited", 1), ("0", 0)])
def test_a_process_that_dumps_its_memory_is_found(gathered: Path, limit: str, found: int) -> None:
    """A worker that a crash would write to a disk is reported; one with the limit of 0 is not."""
    command = ["prlimit", f"--core={limit}", sys.executable, "-c", "import sys; sys.stdin.read()", "cms.grants"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        until(lambda: is_cms(Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")), "the process")
        watch = evidence.Watch(patience=0.0)
        watch.start()
        until(lambda: list(gathered.glob("dumps-*")) or not found, "the report")
        process.communicate()
        watch.stop()

    assert found == len(evidence.found_secrets(gathered))


LEARNS = """
from support import evidence

def test_that_knows_a_secret():
    evidence.keep_secret({secret!r})
"""
PRINTS = """
def test_that_prints_it():
    print({text!r})
"""


def test_several_processes_of_tests_are_one_run(tmp_path: Path) -> None:
    """What one process of `make test` knows to be secret is found in what another one has printed."""
    secret = "1.AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"
    (tmp_path / "test_learns.py").write_text(LEARNS.format(secret=secret))
    (tmp_path / "test_prints.py").write_text(PRINTS.format(text=f"got {secret}"))
    options = [
        "-q",
        "-c",
        os.devnull,
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--numprocesses=2",
        "--dist=loadfile",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    # Its own evidence has the secret: ours must not.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout
        said = run.stdout.read()

    assert "2 passed" in said, said
    assert "SECRET in the evidence" in said
    assert run.returncode != 0
