"""What a process does with signals, as the kernel says it."""

from __future__ import annotations

import re
import signal

# A program's first lines: it ignores and blocks every signal that it can.
HOSTILE = """import signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
"""


def dispositions(status: str) -> tuple[set[str], set[str]]:
    """Return the names of the signals that a process ignores, and of those that it blocks, from its /proc/PID/status."""
    return _named(status, "SigIgn"), _named(status, "SigBlk")


def _named(status: str, field: str) -> set[str]:
    found = re.search(rf"^{field}:\t([0-9a-f]+)$", status, re.MULTILINE)
    assert found, status
    bits = int(found[1], 16)
    return {each.name for each in signal.Signals if bits >> (each - 1) & 1}
