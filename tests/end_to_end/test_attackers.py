"""What another program of the same user cannot do to the processes of cms, however early it comes.

Each attack has a twin: the same attacker against the same work without the measure, which succeeds.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import attacker, proc
from support.grants import ANN, Process, grant_for, kind, opened, process
from support.programs import require_root
from support.reachable import ALICE, Installation, bare_environment, become, open_folder

from cms.sandbox.entra import Entra

# The grant worker as it would be without the fork, and without the look for a debugger.
WORKER = ("-m", "cms.grants")
UNFORKED = (
    "from cms.grants.__main__ import protect, detach\n"
    "protect()\ndetach()\n"
    "from cms.grants.serve import serve\nraise SystemExit(serve())\n"
)
TRUSTING = "from cms.grants import __main__ as worker\nworker.debugger = lambda: ''\nraise SystemExit(worker.main())\n"


@dataclass(frozen=True)
class Attack:
    """A grant worker of ALICE's, started by an attacker of hers."""

    entra: Entra
    worker: Process
    pipe: int
    key: Path

    def sign_in(self) -> str:
        """Sign in: from then on the worker knows the vault's key. Return how it ended."""
        return kind(self.worker.broker.sign_in(grant_for(self.entra), self.entra))

    def found(self) -> dict[str, Any]:
        """Return what the attacker can get at now."""
        os.write(self.pipe, base64.b64decode(self.key.read_bytes()).hex().encode() + b"\n")
        assert self.worker.popen.stdout is not None
        found: dict[str, Any] = json.loads(self.worker.popen.stdout.readline())
        return found


@contextmanager
def attacked(installation: Installation, mode: str, program: Sequence[str]) -> Iterator[Attack]:
    """Run a worker under an attacker for the block."""
    require_root()
    reading, writing = os.pipe()
    script = Path(attacker.__file__).read_text()
    worker = [str(installation.python), "-I", *program]
    command = become(ALICE, ["/usr/bin/python3", "-c", script, mode, str(reading), *worker])
    try:
        with open_folder("attack") as folder, Entra([ANN]) as entra:
            os.chown(folder, ALICE, ALICE)
            first = opened(folder / "state", entra)
            with process(first, command=command, inherited=[reading]) as running:
                yield Attack(entra, running, writing, folder / "vault.key")
    finally:
        os.close(reading)
        os.close(writing)


def test_memory_that_was_opened_early_shows_no_secret(installation: Installation) -> None:
    """A program that opened the worker's memory before its first instruction does not find the key there.

    Nor can it open or trace a process of the worker later. Without the fork, what it opened shows the key.
    """
    with attacked(installation, "open", WORKER) as attack:
        assert "granted" == attack.sign_in()
        found = attack.found()
        assert len(proc.workers(attack.worker.popen.pid)) == 1
    with attacked(installation, "open", ["-c", UNFORKED]) as attack:
        assert "granted" == attack.sign_in()
        twin = attack.found()

    assert {"kept": False, "traced": [], "opened": [], "seized": []} == found
    assert twin["kept"]


def test_a_worker_under_a_debugger_holds_no_secret(installation: Installation) -> None:
    """A worker that was started under a debugger says so, and ends before it has read anything; else it is traced."""
    with attacked(installation, "trace", WORKER) as attack:
        with suppress(ConnectionResetError):
            assert attack.worker.broker.receive() is None
        _, said = attack.worker.end()
        made = attack.key.exists()
    with attacked(installation, "trace", ["-c", TRUSTING]) as attack:
        assert "granted" == attack.sign_in()
        twin = attack.found()["traced"]

    assert "python3 traces the grant worker and could read its secrets, so it ended" in said
    assert not made
    assert len(twin) == 2


# Runs when Python starts, when cms is imported, and when cms imports a library.
TRAPS = ("sitecustomize.py", "cms/__init__.py", "click.py")


def test_an_isolated_cms_runs_nobody_elses_code(installation: Installation, tmp_path: Path) -> None:
    """Root's `cms` that begins with `python -I` does not follow PYTHONPATH into a folder of another user's.

    Neither does the daemon that it becomes. Without -I the code there runs.
    """
    for name in TRAPS:
        trap = tmp_path / name
        trap.parent.mkdir(exist_ok=True)
        trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').close()\n")
    environment = bare_environment(PYTHONPATH=str(tmp_path), HOME=str(tmp_path))
    # `-c` apart from its value is not the plain form: cms executes itself again.
    for words in (["--version"], ["check"], ["-c", "/nonexistent/cms.cfg", "run", "--log-level", "error"]):
        done = subprocess.run(
            [installation.command("cms"), *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout + done.stderr
        assert not (tmp_path / "sprung").exists(), words
    subprocess.run(
        [installation.python, "-m", "cms.main", "--version"], env=environment, capture_output=True, check=False
    )

    assert (tmp_path / "sprung").exists()
