"""What goes wrong in a soak: one function for each kind, which does it, lets it last, and undoes it.

A fault tells the model what it excuses before it begins. What it does is drawn from the world's own chance, so that a
seed repeats a schedule.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from soak import strangers as stranger
from soak.model import GONE, LATE, LOCKED, Wrong
from soak.world import LAST, LOGINS, World, rights
from support.mounts import SmallDisk
from support.reachable import ALICE, bare_environment, base_python
from support.waiting import until

from cms.sandbox.faults import Fault

HOUR = 3600.0

# In real seconds: how long a fault lasts at most. Every deadline of a client's is longer.
LONGEST = 0.3

# In real seconds: how long it takes at most until a new worker finds the keyring away, if there is anything to renew. On a
# busy machine it is far from ready when another fault has passed.
NOTICED = 3.0

# More than the daemon lets in at one time.
CROWD = 1500


async def _last(world: World) -> None:
    await trio.sleep(world.chance.uniform(0.0, LONGEST))


def _make_due(world: World) -> None:
    """Let so much time pass that tokens have to be renewed, and sometimes so much that they have expired."""
    world.model.excuse(LATE)
    world.clock.advance(world.chance.uniform(0.5, 1.2) * HOUR)


async def network(world: World) -> None:
    """Entra cannot be reached, or connections to it break."""
    _make_due(world)
    if world.chance.random() < 0.5:
        world.entra.go_down()
        await _last(world)
        world.entra.come_up()
        return
    kind = world.chance.choice(("reset", "silence"))
    world.entra.faults.add(Fault(kind, times=None, after=world.chance.random() < 0.5))
    await _last(world)
    world.entra.faults.clear()


_ENTRA = (
    Fault("status", times=None, status=500),
    Fault("status", times=None, status=429, retry_after="120"),
    Fault("status", times=None, status=503, after=True),
    Fault("html", times=None),
    Fault("truncated", times=None),
    Fault("fields", times=None, fields={"access_token": ""}),
    Fault("fields", times=None, fields={"expires_in": -1, "refresh_token": ...}),
    Fault("aadsts", times=None, aadsts=90033),
)


async def entra(world: World) -> None:
    """Entra answers with nonsense, or ends somebody's sign-in."""
    if world.chance.random() < 0.1:
        login = world.chance.choice(sorted(set(LOGINS.values())))
        world.model.revoke(login)
        world.entra.revoke(login)
        _make_due(world)
        await _last(world)
        return
    _make_due(world)
    world.entra.faults.add(world.chance.choice(_ENTRA))
    await _last(world)
    world.entra.faults.clear()


async def disk(world: World) -> None:
    """The state folder's disk is full, or read-only."""
    _make_due(world)
    full = world.chance.random() < 0.5
    await trio.to_thread.run_sync(world.disk.fill if full else partial(_forbid_writing, world.disk))
    await _last(world)
    await trio.to_thread.run_sync(world.disk.make_room if full else partial(_insist, world.disk.allow_writing))


def _forbid_writing(disk: SmallDisk) -> None:
    """Turn the disk read-only, as soon as nobody writes."""

    def attempt() -> None:
        try:
            disk.forbid_writing()
        except subprocess.CalledProcessError:
            _insist(disk.allow_writing)
            raise

    _insist(attempt)


def _insist(action: Callable[[], None]) -> None:
    """Do something to a mount, again and again while a process is just at work there."""

    def done() -> bool:
        with suppress(subprocess.CalledProcessError):
            action()
            return True
        return False

    until(done, "a mount that is not busy")


async def keyring(world: World) -> None:
    """The keyring hangs, is locked or ends, while a new worker needs the vault's key."""
    desktop = world.desktop
    _make_due(world)
    world.model.excuse(LOCKED)
    kind = world.chance.choice(("frozen", "locked", "gone"))
    world.skip_log()
    if kind == "frozen":
        desktop.freeze(frozen=True)
    else:
        await trio.to_thread.run_sync(desktop.lock if kind == "locked" else desktop.stop_keyring)
    _kill_workers(world)
    await _last(world)
    if kind == "frozen":
        desktop.freeze(frozen=False)
        return
    with trio.move_on_after(NOTICED):
        await world.said("notice=locked")
    if kind == "locked":
        await trio.to_thread.run_sync(desktop.stop_keyring)
    await trio.to_thread.run_sync(desktop.start_keyring)
    # A worker that has seen the keyring away may say so at any later moment, when nothing excuses it any more. What the
    # daemon has not read of its answers, it reads after its end: within `GATHER_SECONDS`.
    ended = world.workers
    _kill_workers(world)
    await trio.to_thread.run_sync(
        until, lambda: not any(Path(f"/proc/{each}").exists() for each in ended), "dead workers"
    )


async def clock(world: World) -> None:
    """The wall clock is set, by up to half a day. That excuses nothing."""
    world.clock.step(world.chance.uniform(-12.0, 12.0) * HOUR - world.clock.stepped)
    world.model.unsettle()
    await _last(world)


async def suspend(world: World) -> None:
    """The machine sleeps for a moment, or for hours."""
    world.model.excuse(LATE)
    world.clock.advance(world.chance.choice((10.0, 600.0, HOUR / 2, HOUR, 8 * HOUR)))
    await _last(world)


def _kill_workers(world: World) -> None:
    for each in world.workers:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


async def kill_daemon(world: World) -> None:
    """SIGKILL for the daemon, with or without its worker, and a new start. What it held is served, without Entra."""
    world.model.excuse(GONE, LATE)
    if world.chance.random() < 0.5:
        _make_due(world)
        await _last(world)
    if world.chance.random() < 0.5:
        _kill_workers(world)
    await world.end(signal.SIGKILL)
    owed = world.model.killed()
    world.entra.go_down()
    await world.start()
    await world.collect(owed)
    world.entra.come_up()


async def kill_worker(world: World) -> None:
    """SIGKILL for the worker, at any moment of a refresh."""
    _make_due(world)
    await _last(world)
    _kill_workers(world)


async def stop_daemon(world: World) -> None:
    """SIGSTOP for the daemon; it goes on after a while."""
    world.model.excuse(LATE)
    world.tell(signal.SIGSTOP)
    await _last(world)
    world.tell(signal.SIGCONT)


async def stop_worker(world: World) -> None:
    """SIGSTOP for the worker; it goes on after a while, if it is still there."""
    _make_due(world)
    await _last(world)
    stopped = world.workers
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, number)
        await _last(world)


async def reload(world: World) -> None:
    """SIGHUP, with an account or a protocol less, or with a file that is no configuration."""
    if world.chance.random() < 0.3:
        world.write("Office365_Account(\n")
        await world.reload("the reload failed")
        world.configure(world.model.served[-1])
        return
    for served in (world.chance.choice((rights(("SMTP",)), rights(without=LAST))), rights()):
        world.configure(served)
        world.model.excuse(LATE)
        world.model.change(served)
        world.model.forget()
        await world.reload("event=reloaded")
        world.model.changed()
        await _last(world)


async def crowd(world: World) -> None:
    """A thousand connections and more that say nothing, or the first half of something.

    Whoever has come and not yet spoken may be dropped with them; whoever has spoken is answered.
    """
    world.model.excuse(GONE)
    said = world.chance.choice((b"", b"SMTP "))
    with ExitStack() as stack:
        await trio.to_thread.run_sync(_come, stack, world.path, said)
        await _last(world)


async def strangers(world: World) -> None:
    """A user who may not ask connects without end. That excuses nothing: those who may ask are served before."""
    told = await trio.to_thread.run_sync(_be_strangers, world.path, world.chance.uniform(0.0, LONGEST))
    if told:
        raise Wrong(told)


def _be_strangers(path: str, seconds: float) -> str:
    """Run the program of strangers for so long once it has been refused; return what it says is wrong."""
    command = [base_python(), "-I", "-c", Path(stranger.__file__).read_text(), path]
    rights: Any = {"user": ALICE, "group": ALICE, "extra_groups": (), "env": bare_environment()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **rights) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.terminate()
        said: bytes = process.communicate()[1]
    return said.decode(errors="replace")


def _come(stack: ExitStack, path: str, said: bytes) -> None:
    for _ in range(CROWD):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(path)
        # One that came too early for the others has been dropped already.
        with suppress(ConnectionError):
            client.sendall(said)


KINDS: dict[str, Callable[[World], Awaitable[None]]] = {
    "network": network,
    "Entra": entra,
    "disk": disk,
    "keyring": keyring,
    "clock": clock,
    "suspend": suspend,
    "SIGKILL of the daemon": kill_daemon,
    "SIGKILL of the worker": kill_worker,
    "SIGSTOP of the daemon": stop_daemon,
    "SIGSTOP of the worker": stop_worker,
    "SIGHUP": reload,
    "crowd": crowd,
    "strangers": strangers,
}
