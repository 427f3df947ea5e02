from __future__ import annotations

import time

from cms.system.clock import SystemClock


def test_the_boot_clock_is_the_one_that_goes_on_in_suspend() -> None:
    """boot() is CLOCK_BOOTTIME: between two readings of it by the kernel."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = SystemClock().boot()
    after = time.clock_gettime(time.CLOCK_BOOTTIME)

    assert before <= now <= after


def test_the_wall_clock_is_unix_time() -> None:
    """wall() is what the machine's clock shows."""
    before = time.time()
    now = SystemClock().wall()
    after = time.time()

    assert before <= now <= after
