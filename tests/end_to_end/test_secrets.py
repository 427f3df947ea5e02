"""What the running processes show of themselves. What they print is searched at the end of every run (conftest.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
from support import evidence
from support.daemon import Daemon, account_line, ask, settings_lines
from support.evidence import is_cms
from support.programs import require_root
from support.reachable import ALICE
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


def test_nothing_that_the_owner_sees_has_the_token(running: Daemon, entra: Entra) -> None:
    """Whatever the owner asks cms, the token is in no answer, in no file below the home folder, and not in the log."""
    running.sign_in(USER, entra)
    token = ask(running.sockets / "cms.sock", f"SMTP,token {USER}".encode())
    assert token
    files = [path for path in running.home.rglob("*") if path.is_file()]
    where = ("-c", str(running.config))

    assert any(path.suffix == ".vault" for path in files)
    assert [] == [path for path in files if token in path.read_bytes()]
    for words in (("status",), ("status", "--json"), ("check", *where), ("refresh",), ("logout", *where)):
        done = running.cms(*words)
        assert 0 == done.returncode, done.stderr
        assert token.decode() not in done.stdout + done.stderr
    assert "level=debug" in running.log, "what only a log at debug level would say is searched as well"
    assert token.decode() not in running.log


# --- what the search at the end of every run looks through ---


@pytest.fixture
def gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of evidence of the test's own."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    monkeypatch.setenv(evidence.FOLDER_VARIABLE, str(folder))
    return folder


def test_what_a_daemon_leaves_is_searched(running: Daemon, entra: Entra, gathered: Path) -> None:
    """When its folder goes, its logs are searched, for the key that it has made as well, however that is written."""
    running.sign_in(USER, entra)
    planted = running.folder / "another.log"
    planted.write_text(f"level=debug got={entra.issue(USER)}")
    evidence.keep_files(running.folder)
    planted.unlink()  # the search at the end of this very run would find it too
    tokens = evidence.found_secrets(gathered)
    key = (running.home / "vault-key").read_bytes().strip()
    for name, spelt in (("as-stored", key.decode()), ("in-hex", b64decode(key).hex())):
        (gathered / f"logs-{name}").write_text(f"opened with {spelt}")
    keys = [leak for leak in evidence.found_secrets(gathered) if leak not in tokens]

    assert 1 == len(tokens)
    assert ["logs-as-stored: a secret of the sandbox's", "logs-in-hex: a secret of the sandbox's"] == sorted(keys)


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
