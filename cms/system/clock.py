"""The two clocks that the shell asks; the pure rungs are told the time instead."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def boot(self) -> float:
        """Return seconds that go on in suspend and that no clock step moves: what decides everything."""
        ...

    def wall(self) -> float:
        """Return Unix time: for display, and for what outlives a boot."""
        ...


class SystemClock(Clock):
    """The machine's own clocks."""

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()
