"""One, a hundred, a thousand and ten thousand accounts in one daemon, each with a sign-in of its own."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial

from bench.broker import NOBODY, Broker, broker
from bench.chapters.fetch import BARE, PASS
from bench.chapters.start import CORE, LIBRARIES, imports
from bench.entra import Sandbox, first_refresh_token, sandbox, user
from bench.ground import CMS, INSIDE, Ground, Installation
from bench.measure import Figures, Run, Section, Target
from bench.programs import Command, cpu_of_children, is_answered, loaded, memory, output, own_cpu, until
from cms.sandbox.directory import CLIENT_ID, EXCHANGE

_SANDBOX, _MSAL = "the sandbox alone", "MSAL alone"
_SPREAD = "refreshes of 10,000 accounts"
_SCOPE = f"{EXCHANGE}/SMTP.Send"


def measure(ground: Ground) -> Section:
    """Start, use and reload daemons of all sizes, in turns."""
    sizes = ground.pick((1, 100, 1_000, 10_000), (1, 5))
    section = Section("Scale", _targets(sizes))
    bare = partial(ground.tools.once, [ground.python, "-c", "pass"], {})
    # A sandbox that gives way to nothing: what it needs is part of the question.
    with sandbox() as entra:
        for size in sizes:
            with ExitStack() as stack:
                brokers = [stack.enter_context(broker(ground, cms, size, entra)) for cms in ground.cms]
                runs = [Run(each.cms.who, accounts(size), partial(_life, ground, each, entra)) for each in brokers]
                for who, kind in {_SANDBOX: "plain", _MSAL: "msal"}.items() if ground.peers else ():
                    runs.append(Run(who, accounts(size), partial(_redeem, ground, entra, size, kind)))
                if ground.peers:
                    # More often than the others, because they take so little time that chance has a large part in it.
                    runs += [Run(LIBRARIES, CORE, partial(imports, ground, CORE)), Run(BARE, PASS, bare)] * 4
                section.take_turns(runs, ground.pick(3, 1))
    for cms in ground.cms:
        _share(section, cms.who, sizes)
    section.take_turns([Run(cms.who, _SPREAD, partial(_spread, cms, ground.pick(24, 2))) for cms in ground.cms], 1)
    return section


def accounts(number: int) -> str:
    """Return what a case is called."""
    return f"{number:,} account{'s' * (number > 1)}"


def _targets(sizes: tuple[int, ...]) -> tuple[Target, ...]:
    *_, many, most = (accounts(size) for size in sizes)
    started, fresh, refresh = (CMS, most, "answer"), (CMS, most, "fresh"), (CMS, many, "cpu_refresh")
    return (
        Target(f"until the socket answers, {most}, beside `{CORE}`", started, (LIBRARIES, CORE, "wall"), 10),
        Target(f"each account beyond the first, {most}", (CMS, most, "memory_each"), None, 8),
        Target(f"p99 while {most} are reloaded, beside quiet", (CMS, most, "p99_reload"), (CMS, most, "p99_quiet"), 50),
        Target(f"a cold start of {most}, beside {_SANDBOX}", fresh, (_SANDBOX, most, "fresh"), 1.5),
        Target(f"a cold start of {most}, beside {_MSAL}", fresh, (_MSAL, most, "fresh")),
        Target(f"{_MSAL}, {most}, beside {_SANDBOX}", (_MSAL, most, "fresh"), (_SANDBOX, most, "fresh")),
        Target(f"CPU of a refresh, {many}, beside a bare interpreter", refresh, (BARE, PASS, "cpu"), 0.6),
        Target(f"CPU of a refresh, {many}, beside {_MSAL}", refresh, (_MSAL, many, "cpu_refresh")),
        Target("refreshes of the busiest minute", (CMS, _SPREAD, "busiest"), None, 3),
        Target(f"CPU of a request, {most}, beside one", (CMS, most, "cpu_each"), (CMS, accounts(1), "cpu_each"), 1.15),
    )


def _share(section: Section, who: str, sizes: tuple[int, ...]) -> None:
    """Add what each account beyond the first takes."""
    for size in sizes[1:]:
        pairs = zip(
            section.rounds.get((who, accounts(1)), ()), section.rounds.get((who, accounts(size)), ()), strict=False
        )
        for one, many in pairs:
            many["memory_each"] = (many["memory"] - one["memory"]) / (size - 1)


def _life(ground: Ground, each: Broker, entra: Sandbox) -> Figures:
    """Start with nothing held, serve, refresh, reload, and stop."""
    each.forget_log()
    each.sign_all_in()
    each.configure()
    entra.forget()
    begun = time.monotonic()
    each.launch()
    until(lambda: is_answered(each.sock, NOBODY), "an answer", pause=0.002)
    found, before = {"answer": time.monotonic() - begun}, own_cpu(each.pid)
    found["fresh"] = entra.wait_for(each.accounts) - begun
    used = own_cpu(each.pid) - before
    each.rest()
    # The worker's as well, from its start to its end.
    found["cpu_refresh"] = (used + cpu_of_children(each.pid)) / each.accounts
    each.check_all_fresh()
    found["memory"] = memory(each.pid)
    # Each client's is another, so that each is decided for itself.
    request = f"SMTP,min=% {user(each.accounts - 1)}\n"
    load, seconds = partial(ground.tools.load, each.sock, request), ground.pick(2.0, 0.1)
    before = own_cpu(each.pid)
    replies = loaded(load(f"-c 16 -t {seconds} -b 2000"))["replies"]
    found["cpu_each"] = (own_cpu(each.pid) - before) / replies
    found["p99_quiet"] = loaded(load(f"-c 1 -t {seconds} -b 2000"))["p99"]
    each.configure(early=1200)
    asking, begun = load("-c 1 -b 2000"), time.monotonic()
    try:
        each.tell("reload")
        found["reload"] = time.monotonic() - begun
    finally:
        during = loaded(asking, end=True)
    each.stop()
    return {**found, "p99_reload": during["p99"], "slowest": during["slowest"]}


def _redeem(ground: Ground, entra: Sandbox, size: int, kind: str) -> Figures:
    """Do what the sandbox has to do for a cold start, and nothing else."""
    entra.have(size + 1)
    # Not the first user's, which is another one since the sign-in.
    tokens = json.dumps([first_refresh_token(user(number)) for number in range(1, size + 1)])
    command: Command = [
        ground.python,
        "-I",
        INSIDE / "redeem.py",
        kind,
        entra.authority,
        entra.ca_file,
        CLIENT_ID,
        _SCOPE,
    ]
    seconds, used = map(float, output(command, {}, tokens).split())
    return {"fresh": seconds, "cpu_refresh": used / size}


def _spread(cms: Installation, hours: int) -> Figures:
    command: Command = [cms.python, "-I", INSIDE / "spread.py", "10000", str(hours)]
    return {"busiest": float(output(command, {}))}
