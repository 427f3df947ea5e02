"""The daemon among faults of every kind and clients of every kind: no wrong answer, no lost sign-in, and it does not grow.

`make soak` does this for ten minutes, and longer where a machine is too slow for 1,000 faults and 100,000 clients in them;
`make test` does it for a minute. SOAK_SEED repeats a schedule.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest
import trio
from soak.faults import KINDS
from soak.world import FILES, LOGINS, World, world
from support import proc
from support.desktop import Desktop, entered

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
# At least.
FAULTS = int(os.environ.get("SOAK_FAULTS", "0"))
ASKING = int(os.environ.get("SOAK_CLIENTS", "0"))
SEED = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(2**32))

# Clients at one time.
CROWD = 20
# What a daemon may have grown by: the allocator's slack, and the caches of what it had not done before.
SLACK = 8 * proc.MB
# Faults one after the other, at most, before all accounts must be served again.
IN_A_ROW = 3


def schedule(chance: random.Random, *, kills: bool) -> Iterator[tuple[str, ...]]:
    """Yield which faults come in a row, for ever: each kind once, and then by chance."""
    kinds = [kind for kind in KINDS if kills or kind != "SIGKILL of the daemon"]
    first = ((kind,) for kind in chance.sample(kinds, len(kinds)))
    yield from chain(first, (tuple(chance.sample(kinds, chance.randint(1, IN_A_ROW))) for _ in repeat(None)))


async def suffer(world: World, done: Counter[str], *, kills: bool) -> None:
    """Let faults come until half of all is done, and each kind has come; after each, every account is served again."""
    start, asked, before = time.monotonic(), world.clients.asked, done.total()

    def enough() -> bool:
        halves = (
            (time.monotonic() - start, SECONDS),
            (done.total() - before, FAULTS),
            (world.clients.asked - asked, ASKING),
        )
        return all(part >= whole / 2 for part, whole in halves) and len(done) == len(KINDS)

    for kinds in schedule(world.chance, kills=kills):
        for kind in kinds:
            print(f"{time.monotonic() - start:.2f} after {world.clients.asked} clients: {kind}", flush=True)
            await KINDS[kind](world)
            done[kind] += 1
        await world.recover()
        if enough():
            return


async def soak(world: World) -> Counter[str]:
    """Soak a daemon; return how often each kind of fault has come."""
    done = Counter[str]()
    await world.start()
    for login in sorted(set(LOGINS.values())):
        await world.sign_in(login)
    async with trio.open_nursery() as nursery:
        for _ in range(CROWD):
            nursery.start_soon(world.clients.run)
        await suffer(world, done, kills=True)
        # The same daemon from here on.
        memory, descriptors = await world.rest()
        await suffer(world, done, kills=False)
        grown, _ = await world.rest(descriptors)
        nursery.cancel_scope.cancel()
    assert grown - memory < SLACK
    assert "Traceback" not in world.log
    return done


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A session whose keyring runs and is unlocked."""
    with entered(tmp_path / "desktop", monkeypatch) as session:
        session.start_keyring()
        yield session


def test_soak(tmp_path: Path, desktop: Desktop) -> None:
    """No answer is wrong, no sign-in is lost, memory and descriptors stay: the model says what is right."""
    print(f"SOAK_SEED={SEED}")
    with proc.many_files(FILES), world(tmp_path, desktop, SEED) as made:
        try:
            done = trio.run(soak, made)
        except BaseException as error:
            error.add_note(f"SOAK_SEED={SEED} repeats this schedule")
            raise
    print(f"{done.total()} faults: {dict(done)}")
    print(f"{made.clients.asked} clients, and answers: {dict(made.model.counts)}")

    assert set(KINDS) == set(done)
