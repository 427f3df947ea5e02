"""Run an async test to its end: in real time under a deadline, or on a clock that jumps when all tasks wait."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing

from cms.system.clock import Clock

# A test that waits for real processes and sockets and has not ended by now never will.
TEST_SECONDS = 300.0

# How fast the clock of `in_trio_jumps` goes. It is to stand still between jumps, however long a busy machine takes there;
# and pauses of the code are to end.
_RATE = 0.2
_POLL = 0.01

Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])


def in_trio(test: Test) -> Callable[..., None]:
    """Run the test in real time; it fails when it takes minutes."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            with trio.fail_after(TEST_SECONDS):
                await test(*args, **kwargs)

        trio.run(bounded)

    return run


def in_trio_jumps(test: Test) -> Callable[..., None]:
    """Run the test on a slow clock that `jump` sets forward: for deadlines around real processes."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            with trio.fail_after(TEST_SECONDS):
                await test(*args, **kwargs)

        trio.run(bounded, clock=trio.testing.MockClock(rate=_RATE))

    return run


def jump(seconds: float) -> None:
    """Set the clock of an `in_trio_jumps` test forward. A test has `TEST_SECONDS` in all, jumps included."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


def in_trio_clock(test: Test) -> Callable[..., None]:
    """Run the test on a clock that jumps to the next deadline once every task waits: an hour passes at once.

    Not for tests with threads, processes or real sockets: trio takes waiting for those for idleness.
    """

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        trio.run(functools.partial(test, *args, **kwargs), clock=trio.testing.MockClock(autojump_threshold=0))

    return run


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another process or task does, where it has no other way to say so."""
    clock = trio.lowlevel.current_clock()
    rate = clock.rate if isinstance(clock, trio.testing.MockClock) else 1.0
    while not condition():  # noqa: ASYNC110 - as the docstring says
        await trio.sleep(_POLL * rate)


class FakeClock(Clock):
    """The boot clock as trio's clock and an offset: raise `asleep` to make a suspend, `stepped` to set the wall clock."""

    def __init__(self, *, boot: float = 10_000.0, wall: float = 1_700_000_000.0) -> None:
        self.asleep = boot
        self.stepped = wall

    def boot(self) -> float:
        return trio.current_time() + self.asleep

    def wall(self) -> float:
        return self.boot() + self.stepped
