"""What a daemon costs that has nothing to do: memory, wake-ups and CPU, with systemd's watchdog."""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.broker import NOBODY, Broker, broker
from bench.chapters.start import CORE, LIBRARIES
from bench.ground import CMS, Ground, Installation
from bench.measure import Figures, Run, Section, Target
from bench.programs import memory, own_cpu, wakeups
from cms.system.descendants import descendants

_ONE, _STAYS, _WORKER = "1 account", "1 account, its worker has to stay", "the worker that has to stay"

# As the units of cms have it.
_WATCHDOG = {"WATCHDOG_USEC": "60000000"}

# Threads that a start has used end after ten seconds without work, and the line for systemd of ten thousand accounts is
# renewed a minute after the start (STATUS_PAUSE_EACH of `cms.daemon.app`).
_SETTLED_SECONDS = 75.0
_PER_SECONDS = 30.0


def measure(ground: Ground) -> Section:
    """Let daemons idle side by side, once."""
    many = ground.pick(10_000, 20)
    crowd = f"{many:,} accounts"
    section = Section("Idle", _targets(crowd))
    seconds = ground.pick(2 * _PER_SECONDS, 0.3)
    with ExitStack() as stack:
        idle = []
        for cms in ground.cms:
            for case, accounts, key in ((_ONE, 1, ""), (_STAYS, 1, '"memory"'), (crowd, many, "")):
                idle.append((case, stack.enter_context(_idle(ground, cms, accounts, key))))
        alone = stack.enter_context(_interpreter(ground))
        time.sleep(ground.pick(_SETTLED_SECONDS, 0.0))
        runs = [Run(LIBRARIES, CORE, lambda: {"memory": memory(alone)})]
        for case, each in idle:
            for name, pids in {case: [each.pid], _WORKER: descendants(each.pid)}.items():
                if pids:
                    runs.append(Run(each.cms.who, name, partial(_since, pids, *_used(pids), seconds)))
        time.sleep(seconds)
        section.take_turns(runs, 1)
    return section


def _targets(crowd: str) -> tuple[Target, ...]:
    return (
        Target(f"memory with one account, beside `{CORE}`", (CMS, _ONE, "memory"), (LIBRARIES, CORE, "memory"), 1.08),
        *(Target(f"wake-ups, {case}", (CMS, case, "wakeups"), None, 1) for case in (_ONE, crowd)),
        # What one wake-up takes.
        *(Target(f"CPU, {case}", (CMS, case, "cpu_idle"), None, 1) for case in (_ONE, crowd)),
        Target(f"memory of {_WORKER}", (CMS, _WORKER, "memory")),
    )


@contextmanager
def _idle(ground: Ground, cms: Installation, accounts: int, key: str) -> Iterator[Broker]:
    """Run a daemon that has all its tokens, under a watchdog; its worker has gone, if it can go."""
    with broker(ground, cms, accounts) as each, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(place := str(each.home / "notify"))
        each.environment |= {**_WATCHDOG, "NOTIFY_SOCKET": place}
        each.configure(key=key)
        ground.entra.forget()
        each.start(NOBODY)
        if key:
            each.sign_in()
        else:
            ground.entra.wait_for(accounts)
            each.rest()
        each.check_all_fresh()
        yield each


@contextmanager
def _interpreter(ground: Ground) -> Iterator[int]:
    """Run an interpreter that has imported the libraries of a daemon and does nothing; yield its pid."""
    command = [ground.python, "-c", f"{CORE}; print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.kill()


def _used(pids: Sequence[int]) -> tuple[Counter[str], float]:
    return sum(map(wakeups, pids), Counter[str]()), sum(map(own_cpu, pids))


def _since(pids: Sequence[int], woken: Counter[str], used: float, seconds: float) -> Figures:
    share, (woken_now, used_now) = _PER_SECONDS / seconds, _used(pids)
    return {
        "memory": sum(map(memory, pids)),
        "wakeups": (woken_now - woken).total() * share,
        "cpu_idle": (used_now - used) * share,
    }
