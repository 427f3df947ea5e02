"""One fetch by command, as a mail program does for each mail; a refusal; and the commands that people type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from bench.broker import Broker, broker
from bench.entra import user
from bench.ground import CMS, INSIDE, Ground
from bench.measure import Figures, Run, Section, Target
from bench.peers import MUTT, OIDC_AGENT, ORIGINAL, PIZAUTH, running
from bench.programs import Command, ask, until

BARE, PASS = "a bare interpreter", "python3 -c pass"
_LEAST, _ONLY = "the least in Python", "a request and its reply"
FETCH, REFUSAL = "one fetch", "a refusal"
_TYPED = "cms --help", "cms status", "a completion"

_NOBODY = "nobody@bench.example"

# The exit status for an account that the socket does not serve.
_NO_USER = 67

TARGETS = (
    Target("one fetch, time, beside a bare interpreter", (CMS, FETCH, "wall"), (BARE, PASS, "wall"), 1.15),
    Target("one fetch, CPU, beside a bare interpreter", (CMS, FETCH, "cpu"), (BARE, PASS, "cpu"), 1.15),
    Target("one fetch, memory, beside a bare interpreter", (CMS, FETCH, "memory"), (BARE, PASS, "memory"), 1.05),
    Target("one fetch, time, beside the original's stand-in", (CMS, FETCH, "wall"), (ORIGINAL, FETCH, "wall"), 0.20),
    Target("a refusal, time, beside a bare interpreter", (CMS, REFUSAL, "wall"), (BARE, PASS, "wall"), 1.25),
    Target("a refusal, requests that it needs", (CMS, REFUSAL, "requests"), None, 1, always=True),
    *(
        Target(f"{each}, time, beside a bare interpreter", (CMS, each, "wall"), (BARE, PASS, "wall"), 12)
        for each in _TYPED
    ),
    # As the original's client was measured.
    Target("the stand-in, time, beside a bare interpreter", (ORIGINAL, FETCH, "wall"), (BARE, PASS, "wall"), 7, 5.5),
    Target("the least in Python, memory, beside a bare interpreter", (_LEAST, _ONLY, "memory"), (BARE, PASS, "memory")),
)


def measure(ground: Ground) -> Section:
    """Take turns with whole commands, from start to end."""
    section = Section("One fetch", TARGETS)
    with ExitStack() as stack:
        brokers = [stack.enter_context(broker(ground, cms)) for cms in ground.cms]
        for each in brokers:
            each.start()
        size = len(ask(brokers[0].sock, f"SMTP {user(0)}\n"))
        peers = running(stack, ground, ORIGINAL, OIDC_AGENT, MUTT, PIZAUTH, size=size)
        least: Command = [ground.python, INSIDE / "least_client.py", brokers[0].sock, user(0)]
        runs = [
            Run(BARE, PASS, partial(ground.tools.once, [ground.python, "-c", "pass"], brokers[0].environment)),
            Run(_LEAST, _ONLY, partial(ground.tools.once, least, brokers[0].environment)),
        ]
        runs += [run for each in brokers for run in _of_cms(ground, each)]
        runs += [Run(each.who, FETCH, partial(ground.tools.once, each.command, each.environment)) for each in peers]
        section.take_turns(runs, ground.pick(60, 1), warm_up=not ground.short)
    return section


def _of_cms(ground: Ground, each: Broker) -> Iterator[Run]:
    cms, fetch = each.cms.command("cms"), [each.cms.command("cms-oauth"), f"--cms_sock={each.sock}"]
    completion = {"_CMS_COMPLETE": "bash_complete", "COMP_WORDS": "cms st", "COMP_CWORD": "1"}

    def refusal() -> Figures:
        each.forget_log()
        found = ground.tools.once([*fetch, f"--user={_NOBODY}"], each.environment, status=_NO_USER)
        until(lambda: each.lines(_NOBODY)[0], "a line in the log")
        return {**found, "requests": each.lines(_NOBODY)[0]}

    yield Run(each.cms.who, FETCH, partial(ground.tools.once, [*fetch, f"--user={user(0)}"], each.environment))
    yield Run(each.cms.who, REFUSAL, refusal)
    typed: list[tuple[Command, dict[str, str]]] = [([cms, "--help"], {}), ([cms, "status"], {}), ([cms], completion)]
    for case, (command, more) in zip(_TYPED, typed, strict=True):
        yield Run(each.cms.who, case, partial(ground.tools.once, command, {**each.environment, **more}))
