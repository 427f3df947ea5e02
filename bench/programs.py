"""Programs that are run, and what the kernel says of their processes."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from bench.measure import Failed, Figures

Command: TypeAlias = Sequence[str | Path]

# What has not happened by now never will.
PATIENCE = 120.0

_TICKS = os.sysconf("SC_CLK_TCK")


class Tools:
    """The programs of bench/c, compiled into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not shutil.which("cc"):
            raise SystemExit("bench: there is no C compiler. Run: apt install gcc libc6-dev")
        for source in (Path(__file__).parent / "c").glob("*.c"):
            subprocess.run(["cc", "-O2", "-o", folder / source.stem, source], check=True)

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def load(self, sock: str, request: str, options: str, *, uid: int | None = None) -> subprocess.Popen[str]:
        """Begin a load, as `load.c` says; `loaded` waits for its end. `uid` is the user who asks, this one for None."""
        command = [self.path("load"), *options.split(), sock, request.replace("\n", "\\n")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, user=uid, group=uid)

    def once(self, command: Command, env: Mapping[str, str], *, status: int = 0, copies: int = 1) -> Figures:
        """Run a command, so many copies at once, and return what it cost. Raises Failed if one alone ends with another status."""
        full = [self.path("once"), str(copies), *command]
        done = subprocess.run(full, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
        numbers = [int(word) for word in done.stdout.split()]
        failures = len([each for each in numbers[3:] if each != status])
        if done.returncode or (copies == 1 and failures):
            raise Failed(f"{' '.join(map(str, command))} ended with {numbers[3:]}, not with {status}")
        found = {"wall": numbers[0] / 1e6, "cpu": numbers[1] / 1e6, "memory": numbers[2] * 1024.0}
        return found | ({"failures": failures} if copies > 1 else {})


def output(command: Command, env: Mapping[str, str], said: str = "") -> str:
    """Return what a command prints that is `said` something on standard input. Raises Failed if it fails."""
    done = subprocess.run(command, env=env, input=said, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout


def loaded(load: subprocess.Popen[str], *, end: bool = False) -> Figures:
    """Return what a load has measured; with `end`, tell it to end now. Raises Failed where replies were wrong."""
    if end:
        load.terminate()
    said, _ = load.communicate(timeout=PATIENCE)
    if load.returncode:
        raise Failed(f"the load ended with status {load.returncode}")
    rate, p50, p99, slowest, replies, failed = map(float, said.split())
    if failed or not replies:
        raise Failed(f"{replies:g} requests were answered and {failed:g} were not")
    return {"rate": rate, "p50": p50 / 1e6, "p99": p99 / 1e6, "slowest": slowest / 1e6, "replies": replies}


def cpu_of_children(pid: int) -> float:
    """Return the seconds of CPU that those children of a process have used that have ended."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15])) / _TICKS


def own_cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used, more precisely than /proc says it."""
    # What clock_getcpuclockid(3) makes of a pid.
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> float:
    """Return how many bytes of a process are in memory."""
    return 1024.0 * sum(map(int, re.findall(r"(?m)^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())))


def descriptors(pid: int) -> int:
    """Return how many descriptors of a process are open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wakeups(pid: int) -> Counter[str]:
    """Return how often each thread of a process has gone to sleep, and so was woken."""
    texts = {path: path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")}
    counts = {path: re.findall(r"(?m)^voluntary_ctxt_switches:\s+(\d+)", text) for path, text in texts.items()}
    return Counter({str(path): int(found[0]) for path, found in counts.items() if found})


def until(condition: Callable[[], object], what: str, *, pause: float = 0.02) -> None:
    """Wait until something is true; raise Failed, naming it, if it is not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {PATIENCE:g} s")
        time.sleep(pause)


def ask(path: str | Path, request: str) -> bytes:
    """Be a client: write, and read a line or to the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(request.encode())
        reply = b""
        while not reply.endswith(b"\n") and (chunk := client.recv(65536)):
            reply += chunk
        return reply


def is_answered(path: str, request: str) -> bool:
    """True if someone listens, and has an answer."""
    try:
        return bool(ask(path, request))
    except OSError:
        return False
