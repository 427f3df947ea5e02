"""When each keeper asks the provider next: one task sleeps for all of them.

A sleeping task for each keeper would cost more memory than the token that it keeps. So a keeper has a task only while it
asks the provider.
"""

from __future__ import annotations

import heapq
import itertools
import math

import trio

from cms.daemon.keeper import Keeper
from cms.system.clock import Clock

# How many keepers ask at once. The grant worker handles 16 questions at a time, so more would only wait there, each with
# its task and its message.
MOST_ASKING = 128


class Schedule:
    """The keepers in the order in which they are due. `run` starts each of them when its time has come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When each keeper is due, on the boot clock. A keeper that asks now is not in here.
        self._due: dict[Keeper, float] = {}
        # The same, soonest first. An entry with another time than in `_due` has been replaced.
        self._queue: list[tuple[float, int, Keeper]] = []
        self._numbers = itertools.count()
        # The keepers that ask now, and how to stop each.
        self._asking: dict[Keeper, trio.CancelScope] = {}
        self._news = trio.Event()

    def plan(self, keeper: Keeper) -> None:
        """Take over when a keeper is due, which may have changed, and check the clock. One that asks plans anew itself."""
        if keeper in self._asking:
            return
        self._news.set()
        due, before = keeper.due(), self._due.get(keeper)
        if before == due or (before is not None and max(before, due) <= self._clock.boot()):
            # One that is due already keeps its place.
            return
        self._due.pop(keeper, None)
        if due < math.inf:
            self._due[keeper] = due
            heapq.heappush(self._queue, (due, next(self._numbers), keeper))

    def drop(self, keeper: Keeper) -> None:
        """Forget a keeper, and what it asks."""
        self._due.pop(keeper, None)
        asking = self._asking.get(keeper)
        if asking:
            asking.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start keepers when they are due, until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                # Nothing runs between this line and the wait, so no news is missed.
                self._news = trio.Event()
                for keeper in self._take_due():
                    self._asking[keeper] = trio.CancelScope()
                    nursery.start_soon(self._ask, keeper)
                with trio.move_on_after(self._pause()):
                    await self._news.wait()

    def _take_due(self) -> list[Keeper]:
        """Take the keepers off the queue that are to ask now."""
        now, found = self._clock.boot(), list[Keeper]()
        while self._queue and self._queue[0][0] <= now and len(self._asking) + len(found) < MOST_ASKING:
            due, _, keeper = heapq.heappop(self._queue)
            if self._due.get(keeper) == due:
                del self._due[keeper]
                found.append(keeper)
        return found

    def _pause(self) -> float:
        """Return the seconds until the next keeper is due. At the limit the end of one that asks is waited for."""
        if not self._queue or len(self._asking) >= MOST_ASKING:
            return math.inf
        return max(0.0, self._queue[0][0] - self._clock.boot())

    async def _ask(self, keeper: Keeper) -> None:
        scope = self._asking[keeper]
        try:
            with scope:
                await keeper.ask()
        finally:
            del self._asking[keeper]
        if not scope.cancel_called:
            self.plan(keeper)
        # There is room for another one.
        self._news.set()
