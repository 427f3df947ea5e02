"""Clients that are stuck or hostile, and very many at once: the others are served, and nothing stays behind."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

from bench.broker import Broker, broker
from bench.chapters.socket import HELD
from bench.entra import user
from bench.ground import CMS, Ground
from bench.measure import Figures, Run, Section, Target
from bench.programs import Command, ask, descriptors, loaded, memory

_QUIET, _SILENT = "16 clients", "16 clients, beside 1,200 silent ones"
_ENDLESS, _PROCESSES = "an endless request", "client processes at once"

_DESCRIPTORS = 1024
_STUCK = 1200

# Of an endless request: many times what a request may have.
_ENDLESS_CHUNKS = 1000
_CHUNK = b"x" * 65536

# A stuck client is closed 5 s after it has said something.
_CLOSED_SECONDS = 20.0

TARGETS = (
    Target(
        "throughput beside 1,200 silent clients and beside none",
        (CMS, _SILENT, "rate"),
        (CMS, _QUIET, "rate"),
        at_least=0.95,
    ),
    Target("lines on standard error because of them", (CMS, _SILENT, "lines"), None, 0, always=True),
    Target("silent clients in the end", (CMS, _SILENT, "left"), None, 0, always=True),
    Target("descriptors that they have left behind", (CMS, _SILENT, "descriptors"), None, 0, always=True),
    Target("an endless request", (CMS, _ENDLESS, "growth"), None, 1, always=True),
    Target("client processes that fail", (CMS, _PROCESSES, "failures"), None, 0, always=True),
)


def measure(ground: Ground) -> Section:
    """Take turns with clients that mean no good."""
    section = Section("Stuck and hostile clients", TARGETS)
    processes, rounds = ground.pick((300, 9), (10, 1))
    section.notes.append(f"The daemon may have {_DESCRIPTORS} descriptors. {processes} client processes at once.")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard >= 0 else 2 * _STUCK, hard))
    with ExitStack() as stack:
        brokers = [stack.enter_context(broker(ground, cms)) for cms in ground.cms]
        for each in brokers:
            each.before = ["prlimit", f"--nofile={_DESCRIPTORS}:{_DESCRIPTORS}"]
            each.start()
        section.take_turns([run for each in brokers for run in _runs(ground, each, processes)], rounds)
    return section


def _runs(ground: Ground, each: Broker, processes: int) -> Iterator[Run]:
    load = partial(ground.tools.load, each.sock, HELD, f"-c 16 -t {ground.pick(2.0, 0.1)} -b 2000")
    fetch: Command = [each.cms.command("cms-oauth"), f"--cms_sock={each.sock}", f"--user={user(0)}"]
    yield Run(each.cms.who, _QUIET, lambda: loaded(load()))
    yield Run(each.cms.who, _SILENT, lambda: _beside_silent(each, lambda: loaded(load())))
    yield Run(each.cms.who, _ENDLESS, partial(_endless, each))
    yield Run(each.cms.who, _PROCESSES, partial(_at_once, ground, each, fetch, processes))


def _at_once(ground: Ground, each: Broker, fetch: Command, processes: int) -> Figures:
    """Run so many clients at once, and start the daemon anew for the next round."""
    found = ground.tools.once(fetch, each.environment, copies=processes)
    # In one life it would answer more requests than the audit writes in a day for one user. The audit's warning about that
    # would count as a line on standard error.
    each.stop()
    each.start()
    return found


def _beside_silent(each: Broker, load: Callable[[], Figures]) -> Figures:
    # The worker's descriptors are closed when it leaves, and must not hide others.
    each.rest()
    each.forget_log()
    before = descriptors(each.pid)
    with ExitStack() as stack:
        stuck = [stack.enter_context(_dialled(each.sock)) for _ in range(_STUCK)]
        # After this they are all inside, or have been turned out.
        ask(each.sock, HELD)
        found, deadline = load(), time.monotonic() + _CLOSED_SECONDS
        left = sum(not _is_closed(client, deadline) for client in stuck)
    return {**found, "left": left, "descriptors": descriptors(each.pid) - before, "lines": each.lines()[1]}


def _dialled(path: str) -> socket.socket:
    """Return a client that has begun a request."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    # It may have been turned out already.
    with suppress(OSError):
        client.sendall(b"SMTP ")
    return client


def _is_closed(client: socket.socket, deadline: float) -> bool:
    """Wait until the daemon has closed a connection; return whether it has in time."""
    client.settimeout(max(deadline - time.monotonic(), 0.01))
    try:
        return not client.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


def _endless(each: Broker) -> Figures:
    """Send a request without an end, until the daemon has had enough; return the most memory that it takes for it."""
    before, seen = memory(each.pid), list[float]()
    with _dialled(each.sock) as client, suppress(OSError):
        client.settimeout(_CLOSED_SECONDS)
        for _ in range(_ENDLESS_CHUNKS):
            client.sendall(_CHUNK)
            seen.append(memory(each.pid))
    return {"growth": max(*seen, memory(each.pid), before) - before}
