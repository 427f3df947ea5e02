"""A clock that tests set forward, and the grant worker on the same clock: hours pass at once, in every process.

The offsets lie in a file of 16 bytes. The daemon under test is handed a `MovingClock`; the sandbox takes `truth`; and
the worker is started by running this very file, which moves the clocks of its process before it is the real worker:

    python -I moving_clock.py OFFSETS

With further words it is `cms` with these arguments instead, in a process of its own, and its workers are on the clock too.

Deadlines stay real: `time.monotonic` is left alone.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

# Seconds that have passed beside the real ones, and by how much the wall clock is wrong.
_OFFSETS = struct.Struct("=dd")


class MovingClock:
    """A `Clock` of cms's: the machine's, and the hours that a test lets pass. `stepped` is by how much the wall clock is wrong."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.passed = 0.0
        self.stepped = 0.0
        self._write()

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.passed

    def wall(self) -> float:
        return self.truth() + self.stepped

    def truth(self) -> float:
        """Return what the clocks of the rest of the world say, as Unix time."""
        return time.time() + self.passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds
        self._write()

    def step(self, seconds: float) -> None:
        """Set the wall clock, as its owner or a time server does."""
        self.stepped += seconds
        self._write()

    def _write(self) -> None:
        # In one piece: the worker may read at this very moment.
        draft = self.file.with_suffix(".draft")
        draft.write_bytes(_OFFSETS.pack(self.passed, self.stepped))
        draft.replace(self.file)


def _move_clocks(file: str) -> None:
    """Let this process see the clocks that the file tells of."""
    real_time, real_gettime = time.time, time.clock_gettime

    def moved_time() -> float:
        return real_time() + sum(_offsets(file))

    def moved_gettime(clock: int) -> float:
        return real_gettime(clock) + (_offsets(file)[0] if clock == time.CLOCK_BOOTTIME else 0.0)

    time.time, time.clock_gettime = moved_time, moved_gettime


def _offsets(file: str) -> tuple[float, float]:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        passed, stepped = _OFFSETS.unpack(os.read(descriptor, _OFFSETS.size))
    finally:
        os.close(descriptor)
    return passed, stepped


def main() -> int:
    """Be the grant worker, or `cms`."""
    offsets, *arguments = sys.argv[1:]
    _move_clocks(offsets)
    # Only now, so that whatever it imports finds the clocks moved.
    if arguments:
        from cms.daemon import worker  # noqa: PLC0415

        worker.WORKER_ARGV = (sys.executable, "-I", __file__, offsets)
        from cms.main import main as cms  # noqa: PLC0415

        return cms(arguments)
    from cms.grants.__main__ import main as work  # noqa: PLC0415

    return work()


if __name__ == "__main__":
    sys.exit(main())
