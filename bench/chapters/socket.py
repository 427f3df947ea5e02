"""The token socket: how many requests it answers, how late the slowest are, and who can make others wait."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from bench.broker import Broker, broker
from bench.entra import user
from bench.ground import CMS, Ground
from bench.measure import Figures, Run, Section, Target
from bench.peers import ASYNCIO, FLOOR, ORIGINAL, PIZAUTH, Peer, running
from bench.programs import ask, loaded, own_cpu, until

HELD = f"SMTP {user(0)}\n"

# A uid that no account of the system has: it may not ask at the socket that only root may ask at.
_STRANGER = 64999

CLIENTS = _ONE, _MANY, _CROWD = ("1 client", "16 clients", "256 clients")
_STEADY = "5,000 requests/s at fixed times"
_UNKNOWN, _DENIED = "16 clients, an unknown account", "16 clients, a refused uid"
_FLOOD, _REFRESHING = "1 client, beside 16 of a refused uid", "1 client, while 100 grants refresh"
_SINGLE, _EXIT = "single requests", "16 clients, then an exit"
_OPTIONS = {_ONE: "-c 1", _MANY: "-c 16", _CROWD: "-c 256", _STEADY: "-c 64 -r 5000"}

TARGETS = (
    Target("throughput beside plain asyncio, 1 client", (CMS, _ONE, "rate"), (ASYNCIO, _ONE, "rate"), at_least=2.5),
    Target("throughput beside plain asyncio, 16 clients", (CMS, _MANY, "rate"), (ASYNCIO, _MANY, "rate"), at_least=3.5),
    Target(
        "throughput beside plain asyncio, 256 clients", (CMS, _CROWD, "rate"), (ASYNCIO, _CROWD, "rate"), at_least=3.5
    ),
    *(Target(f"p99 beside plain asyncio, {case}", (CMS, case, "p99"), (ASYNCIO, case, "p99"), 0.5) for case in CLIENTS),
    # What is left of one client's round trip if the server costs nothing.
    Target(f"throughput of {FLOOR}, beside plain asyncio, {_ONE}", (FLOOR, _ONE, "rate"), (ASYNCIO, _ONE, "rate")),
    Target(f"p99 of {FLOOR}, beside plain asyncio, {_ONE}", (FLOOR, _ONE, "p99"), (ASYNCIO, _ONE, "p99")),
    Target("a single request's line in the log", (CMS, _SINGLE, "late"), None, 100, always=True),
    Target("lines of the log that a clean exit loses", (CMS, _EXIT, "lost"), None, 0, always=True),
    Target("p99 while 100 grants refresh, beside quiet", (CMS, _REFRESHING, "p99"), (CMS, _ONE, "p99"), 1.8),
    Target(
        "CPU of a refusal beside a grant, unknown account", (CMS, _UNKNOWN, "cpu_each"), (CMS, _MANY, "cpu_each"), 1.1
    ),
    Target("CPU of a refusal beside a grant, refused uid", (CMS, _DENIED, "cpu_each"), (CMS, _MANY, "cpu_each"), 1.1),
    Target("p99 beside 16 flooding clients of a refused uid", (CMS, _FLOOD, "p99"), (CMS, _ONE, "p99"), 4),
)


def measure(ground: Ground) -> Section:
    """Take turns with loads of requests."""
    section = Section("The token socket", TARGETS)
    seconds, rounds = ground.pick((1.0, 11), (0.1, 1))
    with ExitStack() as stack:
        brokers = [stack.enter_context(broker(ground, cms, 100)) for cms in ground.cms]
        for each in brokers:
            each.start()
        size = len(ask(brokers[0].sock, HELD))
        section.notes.append(f"A reply has {size} bytes. The audit goes to a file, with a line for each request.")
        peers = running(stack, ground, ASYNCIO, FLOOR, ORIGINAL, PIZAUTH, size=size)
        runs = list[Run]()
        for case, options in _OPTIONS.items():
            load = partial(_load, ground, options=f"{options} -t {seconds} -b 2000")
            runs += [Run(each.cms.who, case, partial(load, each)) for each in brokers]
            runs += [
                Run(each.who, case, partial(load, each, request=each.request, more=each.options)) for each in peers
            ]
        # In the same rounds, because they are compared with those above.
        runs += [run for each in brokers for run in _alone(ground, each, seconds)]
        section.take_turns(runs, rounds)
    return section


def _load(
    ground: Ground,
    server: Broker | Peer,
    *,
    options: str,
    sock: str = "",
    request: str = HELD,
    more: str = "",
    uid: int | None = None,
) -> Figures:
    """Ask a server at its socket, or at this one."""
    before = own_cpu(server.pid)
    found = loaded(ground.tools.load(sock or server.sock, request, f"{options} {more}", uid=uid))
    return {**found, "cpu_each": (own_cpu(server.pid) - before) / found["replies"]}


def _alone(ground: Ground, each: Broker, seconds: float) -> Iterator[Run]:
    """Yield what is measured of cms only."""
    who, refused = each.cms.who, partial(_load, ground, each, options=f"-c 16 -t {seconds}")
    yield Run(who, _UNKNOWN, partial(refused, request="SMTP nobody@bench.example\n"))
    yield Run(who, _SINGLE, partial(_latest_line, each, ground.pick(20, 3)))
    yield Run(who, _REFRESHING, partial(_refreshing, ground, each))
    if os.geteuid() == 0:
        yield Run(who, _DENIED, partial(refused, sock=each.root_sock, uid=_STRANGER))
        yield Run(who, _FLOOD, partial(_flooded, ground, each, seconds))
    else:
        ground.missing[_DENIED] = ground.missing[_FLOOD] = "only root can ask as another user"
    yield Run(who, _EXIT, partial(_exit, ground, each, seconds))


def _latest_line(each: Broker, number: int) -> Figures:
    """Ask, look for the line, and again; return how late the latest line was."""
    late = []
    for _ in range(number):
        each.forget_log()
        ask(each.sock, HELD)
        begun = time.monotonic()
        until(lambda: each.lines()[0], "a line in the log", pause=0.001)
        late.append(time.monotonic() - begun)
    return {"late": max(late)}


def _refreshing(ground: Ground, each: Broker) -> Figures:
    """Ask for one token for as long as it takes to fetch all of them anew."""
    # The worker starts anew for them, as it does in the course of a day.
    each.rest()
    load = ground.tools.load(each.sock, HELD, "-c 1 -b 2000")
    try:
        each.tell("refresh", user="")
    finally:
        found = loaded(load, end=True)
    return found


def _flooded(ground: Ground, each: Broker, seconds: float) -> Figures:
    """Ask as one client that is admitted, beside many that are not."""
    flood = ground.tools.load(each.root_sock, HELD, "-c 16", uid=_STRANGER)
    try:
        return loaded(ground.tools.load(each.root_sock, HELD, f"-c 1 -t {seconds} -b 2000"))
    finally:
        loaded(flood, end=True)


def _exit(ground: Ground, each: Broker, seconds: float) -> Figures:
    """Run a load and end the daemon; return how many requests have no line in the log then."""
    each.forget_log()
    found = loaded(ground.tools.load(each.sock, HELD, f"-c 16 -t {seconds} -b 2000"))
    each.stop()
    lost = found["replies"] - each.lines()[0]
    each.start()
    # A line too many is as wrong.
    return {"lost": abs(lost)}
