"""The `cms demo` command. What it shows is in `stage.py`, which needs the libraries of the extra "sandbox"."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

INTERRUPTED = 130

_MISSING = (
    "cms demo needs a library that is not installed: {name}. In the folder with the source of cms, say `make demo`, "
    "or install it with: pip install '.[sandbox]'"
)


def main(argv: Sequence[str] = ()) -> int:
    """Run the demonstration; return the exit status. It takes no arguments."""
    if argv:
        print("cms demo takes no arguments", file=sys.stderr)
        return os.EX_USAGE
    try:
        from cms.sandbox.stage import run_demo  # noqa: PLC0415 - only here is it known whether it can be imported
    except ModuleNotFoundError as error:
        print(_MISSING.format(name=(error.name or "").partition(".")[0]), file=sys.stderr)
        return os.EX_UNAVAILABLE
    # However it is ended, the daemon that it has started is ended as well.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return run_demo()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
