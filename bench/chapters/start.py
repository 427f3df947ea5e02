"""The start: until the socket answers, and until the first token from a stored sign-in."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from functools import partial

from bench.broker import NOBODY, Broker, broker
from bench.entra import user
from bench.ground import CMS, Ground
from bench.measure import Figures, Run, Section, Target
from bench.programs import is_answered, until

LIBRARIES = "an interpreter"
CORE = "import trio, structlog, platformdirs"
_WORKER = "that, and another one's import of msal, cryptography"
_SOCKET, _TOKEN = "the socket answers", "the first token is there"

TARGETS = (
    Target(f"until {_SOCKET}, beside `{CORE}`", (CMS, _SOCKET, "wall"), (LIBRARIES, CORE, "wall"), 1.5),
    Target(f"until {_TOKEN}, beside {_WORKER}", (CMS, _TOKEN, "wall"), (LIBRARIES, _WORKER, "wall"), 1.7),
)


def imports(ground: Ground, *statements: str) -> Figures:
    """Return how long interpreters take that import this and end, one after the other."""
    begun = time.monotonic()
    for statement in statements:
        subprocess.run([ground.python, "-c", statement], check=True)
    return {"wall": time.monotonic() - begun}


def measure(ground: Ground) -> Section:
    """Take turns with starts."""
    section = Section("Start", TARGETS)
    worker = "import msal, cryptography.hazmat.primitives.ciphers.aead"
    runs = [
        Run(LIBRARIES, CORE, partial(imports, ground, CORE)),
        Run(LIBRARIES, _WORKER, partial(imports, ground, CORE, worker)),
    ]
    with ExitStack() as stack:
        for cms in ground.cms:
            each = stack.enter_context(broker(ground, cms))
            runs.append(Run(cms.who, _SOCKET, partial(_until, each, NOBODY)))
            runs.append(Run(cms.who, _TOKEN, partial(_until, each, f"SMTP {user(0)}\n")))
        section.take_turns(runs, ground.pick(40, 1), warm_up=not ground.short)
    return section


def _until(each: Broker, request: str) -> Figures:
    begun = time.monotonic()
    each.launch()
    until(lambda: is_answered(each.sock, request), "an answer", pause=0.001)
    took = time.monotonic() - begun
    each.stop()
    return {"wall": took}
