"""The machine's two clocks. Only code that does I/O reads them; pure code gets the time as an argument."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    def boot(self) -> float:
        """Return CLOCK_BOOTTIME: seconds that also count during suspend. All decisions use this clock."""
        ...

    def wall(self) -> float:
        """Return Unix time, for display and for times that must outlive a boot."""
        ...


class SystemClock(Clock):
    """The machine's own clocks. The methods are built-in functions, because every request calls them."""

    boot = staticmethod(partial(time.clock_gettime, time.CLOCK_BOOTTIME))
    wall = staticmethod(time.time)
