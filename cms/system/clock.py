"""The machine's two clocks. Code that decides is told the time instead."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    def boot(self) -> float:
        """Return seconds that go on in suspend and that no clock step moves: what decides everything."""
        ...

    def wall(self) -> float:
        """Return Unix time: for display, and for what outlives a boot."""
        ...


class SystemClock(Clock):
    """The machine's own clocks. Every request asks them, so these are the interpreter's own functions."""

    boot = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))
    wall = staticmethod(time.time)
