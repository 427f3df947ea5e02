"""The worker process itself: how it is protected, what it prints, how it ends."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.grants import BEN, PATIENCE, SCOPES, grant_for, kind, opened, process
from support.programs import require_root
from support.signals import dispositions
from support.waiting import until

from cms.core.accounts import Source
from cms.core.lifecycle import Granted
from cms.grants.messages import Acquire, SignIn
from cms.sandbox.entra import Entra, Fault

# The flag in /proc/net/unix of a socket that listens (linux/net.h).
SO_ACCEPTCON = 0x10000

# A worker whose limit of locked memory is unlimited. Not every root may raise it.
UNLIMITED = (
    "-c",
    (
        "import resource, sys; resource.getrlimit = lambda _which: (resource.RLIM_INFINITY,) * 2; "
        "from cms.grants.__main__ import main; sys.exit(main())"
    ),
)


def listening() -> set[str]:
    """Return the sockets of this machine that accept connections, as `/proc/PID/fd` names them."""
    tcp = (each for name in ("tcp", "tcp6") for each in Path("/proc/net", name).read_text().splitlines()[1:])
    # proc(5): the fourth field is the state, 0A to listen, the tenth the inode; of a Unix socket, a flag, and the seventh.
    found = {line.split()[9] for line in tcp if line.split()[3] == "0A"}
    unix = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    found.update(words[6] for words in unix if int(words[3], 16) & SO_ACCEPTCON)
    return {f"socket:[{inode}]" for inode in found}


class TestProcess:
    """`python -I -m cms.grants`, as the daemon starts it."""

    def status(self, pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def test_whole_life(self, state: Path, entra: Entra) -> None:
        """Sign in, redeem, forget, over the socket; nothing on stdout and stderr; it ends when the socket closes."""
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "no-sign-in" == kind(worker.broker.acquire(grant))
            for method in ("browser", "paste", "device"):
                entra.device_interval = 1
                assert "granted" == kind(worker.broker.sign_in(grant, entra, method=method))
            assert "granted" == kind(worker.broker.acquire(grant))
            assert "granted" == kind(worker.broker.sign_out(grant))
            assert (0, "") == worker.end()

    def test_protected(self, state: Path, entra: Entra) -> None:
        """The process cannot be dumped or traced, leads its session, is nice, and ignores the terminal's signals."""
        with process(opened(state, entra)) as worker:
            worker.broker.acquire(grant_for(entra))
            pid = worker.pid
            status = self.status(pid)
            limits = Path(f"/proc/{pid}/limits").read_text()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

            caught = int(status["SigCgt"], 16)
            assert all(caught >> (number - 1) & 1 for number in (1, 2, 15))
            assert ["Max", "core", "file", "size", "0", "0", "bytes"] == next(
                line.split() for line in limits.splitlines() if line.startswith("Max core")
            )
            assert worker.popen.pid == int(fields[3])
            nice = max(8, os.getpriority(os.PRIO_PROCESS, 0))
            assert nice == int(fields[16])
            # So is its session, where the kernel has a niceness for that.
            session = Path(f"/proc/{pid}/autogroup")
            assert not session.exists() or session.read_text().endswith(f" nice {nice}\n")
            # The files of a process that is not dumpable belong to root, whatever its uid.
            assert 0 == Path(f"/proc/{pid}/environ").stat().st_uid
            for number in (1, 2, 15):
                os.killpg(worker.popen.pid, number)
            assert "no-sign-in" == kind(worker.broker.acquire(grant_for(entra)))

    def test_it_listens_to_its_parent_alone(self, state: Path, entra: Entra) -> None:
        """Nobody can connect to it, also while it waits for a person: it has sockets, and none that accepts."""
        with process(opened(state, entra)) as worker, socket.create_server(("127.0.0.1", 0)) as server:
            worker.broker.acquire(grant_for(entra))
            worker.broker.send(SignIn(worker.broker.number(), grant_for(entra), "browser"))
            assert worker.broker.receive()
            links = [str(each.readlink()) for each in Path(f"/proc/{worker.pid}/fd").iterdir()]
            sockets = {link for link in links if link.startswith("socket:")}
            twin, accepting = str(Path(f"/proc/self/fd/{server.fileno()}").readlink()), listening()

        assert sockets
        assert twin in accepting
        assert set() == sockets & accepting

    def test_not_dumpable(self, state: Path, entra: Entra) -> None:
        """The kernel itself says that the process is not dumpable."""
        program = (
            "import ctypes, sys; from cms.grants.__main__ import protect; "
            "before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0); protect(); "
            "print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
        )
        output = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout

        assert "1 0\n" == output

    def test_killed(self, state: Path, entra: Entra) -> None:
        """Whichever of its two processes is killed, the other one ends too, and the exit status says how."""
        for which in ("worker", "waiting"):
            with process(opened(state, entra)) as worker:
                assert "no-sign-in" == kind(worker.broker.acquire(grant_for(entra)))
                os.kill(worker.pid if which == "worker" else worker.popen.pid, signal.SIGKILL)
                with suppress(ConnectionResetError):
                    assert worker.broker.receive() is None
                assert -signal.SIGKILL == worker.popen.wait(PATIENCE)

    def test_memory_is_locked_where_that_is_unlimited(self, state: Path, entra: Entra) -> None:
        """`LimitMEMLOCK=infinity` keeps what the worker holds off the disk; with a limit it works without that."""
        require_root()
        locked = list[str]()
        for program in (UNLIMITED, ("-m", "cms.grants")):
            with process(opened(state, entra), command=[sys.executable, "-I", *program]) as worker:
                assert "no-sign-in" == kind(worker.broker.acquire(grant_for(entra)))
                locked.append(self.status(worker.pid)["VmLck"].strip())

        assert locked[0] != "0 kB" == locked[1]

    def test_hostile_folder(self, state: Path, entra: Entra, tmp_path: Path) -> None:
        """Modules that lie in the current folder are not imported, whatever their names."""
        hostile = tmp_path / "hostile"
        hostile.mkdir()
        for name in ("keyring", "msal", "requests", "cryptography", "secretstorage", "json", "cms", "sitecustomize"):
            (hostile / f"{name}.py").write_text("raise SystemExit('hostile')\n")
        grant = grant_for(entra)
        # No key is named, so that the keyring is really imported.
        with process(
            replace(opened(state, entra), key=None), cwd=hostile, environment={"HOME": str(tmp_path)}
        ) as worker:
            outcome = worker.broker.sign_in(grant, entra)
            assert isinstance(outcome, Granted)
            assert "memory only" == outcome.sign_in.key_from
            assert (0, "") == worker.end()

    def test_leaves_when_idle(self, state: Path, entra: Entra) -> None:
        """An idle worker is gone, with status 0."""
        with process(replace(opened(state, entra), idle=0.01)) as worker:
            worker.broker.acquire(grant_for(entra))
            assert worker.broker.receive() is None
            assert 0 == worker.popen.wait(PATIENCE)

    def test_memory_only_stays(self, state: Path, entra: Entra) -> None:
        """A worker that holds a sign-in in memory stays, and redeems it whenever it is asked."""
        grant = grant_for(entra)
        with process(replace(opened(state, entra, key=Source("memory")), idle=0.01)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            for _ in range(3):
                time.sleep(0.05)
                assert "granted" == kind(worker.broker.acquire(grant))
            assert not list(state.parent.glob("state/*"))
            assert (0, "") == worker.end()

    def test_garbage(self, state: Path) -> None:
        """Garbage ends it with a status that is not 0, and a note that does not quote it."""
        with process(opened(state)) as worker:
            worker.broker.sock.sendall(b"the-secret\n")
            status, printed = worker.end()

        assert 65 == status
        assert "error: the daemon sent a line that is not a JSON object\n" == printed

    def test_a_keys_command_can_be_stopped(self) -> None:
        """The worker ignores the signals that end programs, and what it starts does not."""
        program = (
            "from cms.grants.__main__ import detach; from cms.grants.secret_sources import run_command; "
            "detach(); print(run_command(['cat', '/proc/self/status']).decode())"
        )
        output = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
        ).stdout

        assert (set(), set()) == dispositions(output)

    def test_not_started_by_cms(self) -> None:
        """A person who starts it by hand reads what it is."""
        done = subprocess.run(
            [sys.executable, "-I", "-m", "cms.grants"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

        assert os.EX_USAGE == done.returncode
        assert "is started by cms" in done.stderr

    def test_finishes_what_was_sent(self, state: Path, entra: Entra) -> None:
        """A daemon that is killed during a redemption costs nothing: the worker stores what it gets, and then ends."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            worker.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            worker.broker.sock.close()
            assert worker.popen.poll() is None
            entra.faults.clear()
            assert 0 == worker.popen.wait(PATIENCE)

        with process(opened(state, entra)) as successor:
            assert "granted" == kind(successor.broker.acquire(grant))

    def test_late_answer_is_stored(self, state: Path, entra: Entra) -> None:
        """A redemption that takes longer than its deadline is answered as a fault; its result is not lost."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
        entra.faults.add(Fault("silence", seconds=PATIENCE))
        with process(replace(opened(state, entra), timeout=0.2)) as worker:
            assert "timeout" == kind(worker.broker.acquire(grant))
            entra.faults.clear()
            assert (0, "") == worker.end()

        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.acquire(grant))

    def test_orphan_and_successor(self, state: Path, entra: Entra) -> None:
        """A second process waits for the first one's redemption, and redeems its successor: never the same one twice."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as orphan, process(opened(state, entra)) as successor:
            assert "granted" == kind(orphan.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            orphan.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            orphan.broker.sock.close()
            successor.broker.send(Acquire(1, grant, SCOPES))
            # It is at work, and has nothing to wait for but the lock.
            successor.broker.send(Acquire(2, grant_for(entra, BEN), SCOPES))
            assert "no-sign-in" == kind(successor.broker.done())
            assert 1 == entra.count("token", grant_type="refresh_token")
            entra.faults.clear()
            assert "granted" == kind(successor.broker.done())

        redeemed = [asked.refresh for asked in entra.asked("token", grant_type="refresh_token")]
        assert 2 == len(set(redeemed)) == len(redeemed)

    @pytest.mark.parametrize("round_", range(5))
    def test_killed_during_a_redemption(self, state: Path, entra: Entra, round_: int) -> None:
        """Killed after Entra has rotated: as documented nothing is lost, and where reuse is refused that is the reason."""
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            worker.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            worker.popen.kill()
        entra.faults.clear()
        until(lambda: entra.asked(grant_type="refresh_token")[0].status, "the rotation")
        entra.refuse_reuse = round_ % 2 == 1
        with process(opened(state, entra)) as successor:
            outcome = successor.broker.acquire(grant)
        if not entra.refuse_reuse:
            assert "granted" == kind(outcome)
        else:
            assert "reused" == kind(outcome)


def test_command_line_has_no_secret(state: Path, entra: Entra) -> None:
    """The arguments of the process hold neither a key nor a token."""
    grant = grant_for(entra)
    with process(opened(state, entra)) as worker:
        outcome = worker.broker.sign_in(grant, entra)
        assert isinstance(outcome, Granted)
        seen = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    key = (state.parent / "vault.key").read_bytes().strip()

    for secret in (outcome.secret.encode(), key, base64.b64decode(key), base64.b64decode(key).hex().encode()):
        assert secret not in seen
