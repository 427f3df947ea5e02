"""Who asks the provider when, among very many: one task sleeps for all, and only those that ask have one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from support.trio_run import FakeClock, in_trio_clock

from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Granted, Need, Outcome, Refused, Transient, Trouble
from cms.daemon.keeper import Keeper
from cms.daemon.schedule import MOST_ASKING, Schedule

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
NO = Refused(Trouble("no-sign-in", "no person has signed in", "cms login"))
DOWN = Transient(Trouble("server", "the provider answers 503", "wait"))


class World:
    """A schedule with keepers, over a provider that takes a second for each answer."""

    def __init__(self, number: int) -> None:
        self.clock = FakeClock()
        self.schedule = Schedule(self.clock)
        self.ends: dict[str, Outcome] = {}
        self.asked: list[str] = []
        self.asking = self.most = 0
        self.keepers = [self.keeper(f"u{each}@x.test") for each in range(number)]

    def keeper(self, login: str) -> Keeper:
        grant = Grant("https://login.example.test/t", "client", login, (MAIL,))
        keeper = Keeper(grant, self.acquire, self.clock, jitter=lambda: 0.0, replan=self.schedule.plan)
        self.schedule.plan(keeper)
        return keeper

    async def acquire(self, grant: Grant, _scopes: Scopes, _held: str, _rejected: str, **_more: bool) -> Outcome:
        self.asked.append(grant.login)
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            await trio.sleep(1.0)
        finally:
            self.asking -= 1
        return self.ends.get(grant.login) or Granted("token", self.clock.boot(), 3600.0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.schedule.run)
            yield nursery
            nursery.cancel_scope.cancel()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@in_trio_clock
async def test_only_those_that_ask_have_a_task() -> None:
    """However many accounts wait for a refresh or for a person, there is no task for one of them, and no wake-up."""
    world = World(3 * MOST_ASKING)
    for each in world.keepers[::2]:
        world.ends[each.grant.login] = NO
    before = tasks()
    async with world.running():
        await trio.sleep(30.0)
        asked, idle = len(world.asked), tasks() - before
        woken: list[int] = []
        instrument = _CountsSteps(woken)
        trio.lowlevel.add_instrument(instrument)
        await trio.sleep(1200.0)
        trio.lowlevel.remove_instrument(instrument)

    assert (len(world.keepers), 1) == (asked, idle)
    # The test's own.
    assert len(woken) <= 2


class _CountsSteps(trio.abc.Instrument):
    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.seen.append(1)


@in_trio_clock
async def test_so_many_ask_at_once_and_no_more() -> None:
    """Each is asked for once, in the order in which they were due, and the worker never has more than its share."""
    world = World(2 * MOST_ASKING + 1)
    async with world.running():
        await trio.sleep(2.5)
        after_two = len(world.asked)
        await trio.sleep(1.0)

    assert (MOST_ASKING, 2 * MOST_ASKING + 1) == (world.most, after_two)
    assert sorted(each.grant.login for each in world.keepers) == sorted(world.asked)
    assert world.keepers[-1].grant.login == world.asked[-1]


@in_trio_clock
async def test_one_that_waits_keeps_its_place() -> None:
    """However often a client asks for a token that is due already: it loses no turn, and is asked for once."""
    world = World(3 * MOST_ASKING)
    last = world.keepers[MOST_ASKING]
    async with world.running():
        for _ in range(5):
            await trio.sleep(0.1)
            last.answer(MAIL, Need())
            last.wake()
        await trio.sleep(1.0)
        second = world.asked[MOST_ASKING:]
        await trio.sleep(5.0)

    # trio starts the tasks of one moment in any order.
    assert (MOST_ASKING, True) == (len(second), last.grant.login in second)
    assert world.asked.count(last.grant.login) == 1


@in_trio_clock
async def test_what_leaves_is_asked_no_more() -> None:
    """Neither while its question is under way, nor while it waits for its turn or for its time."""
    world = World(3)
    asking, waiting, _ = world.keepers
    world.ends[waiting.grant.login] = DOWN
    async with world.running():
        await trio.sleep(0.5)
        world.schedule.drop(asking)
        await trio.sleep(1.0)
        world.schedule.drop(waiting)
        await trio.sleep(2000.0)

    assert all(life.held is None for life in asking.lives.values())
    assert [1, 1, 2] == [world.asked.count(each.grant.login) for each in world.keepers]


@in_trio_clock
async def test_an_earlier_time_counts() -> None:
    """A keeper that becomes due before the one that is slept for is not late, nor is one that is added meanwhile."""
    world = World(2)
    first, _ = world.keepers
    async with world.running():
        await trio.sleep(10.0)
        first.refresh()
        world.keeper("new@x.test")
        await trio.sleep(0.5)

    # trio starts the tasks of one moment in any order.
    assert ["new@x.test", "u0@x.test"] == sorted(world.asked[2:])
