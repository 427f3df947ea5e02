"""Runs `cms login`, `cms logout` and similar commands without a daemon.

The daemon's own command code runs in a thread of this process and serves one connection. Meanwhile this process holds
the daemon's lock, so that no two processes work on one state folder. It serves no tokens.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import trio

from cms.cli.client import Remote, not_listening
from cms.cli.failure import Failure
from cms.cli.load import load_config
from cms.cli.terminal import complain
from cms.config.model import Config
from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Refused, Transient
from cms.core.policy import Peer
from cms.daemon.commands import Commands
from cms.daemon.control import server
from cms.daemon.control.vault_commands import VaultCommands
from cms.daemon.registry import Registry
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import WORKER_ARGV, Worker
from cms.grants.messages import (
    CheckCredentials,
    CredentialEnd,
    CredentialEnds,
    Ended,
    Explore,
    Explored,
    FleetReport,
    FleetWork,
    Housekeeping,
    Open,
)
from cms.system import logs, users
from cms.system.clock import SystemClock
from cms.system.process import harden
from cms.system.state_lock import InUse, NotOurs, claimed
from cms_oauth import paths

# How long a daemon that starts may take from locking its state folder to listening at its control socket, in seconds. It
# loads libraries and its configuration in between.
STARTING_SECONDS = 5.0
_POLL_SECONDS = 0.05


@contextmanager
def stand_in(config: str, running: Callable[[], Remote | None]) -> Iterator[Remote]:
    """Yield a connection to this process, or to a daemon that has just started. Raises Failure.

    `config` is the configuration's path; `running` connects to the daemon, if one runs.
    """
    logs.setup(level="error")
    harden()
    loaded = load_config(config)
    with ExitStack() as stack:
        yield _own_or_running(loaded, running, stack)


def _own_or_running(config: Config, running: Callable[[], Remote | None], stack: ExitStack) -> Remote:
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            own = stack.enter_context(daemonless(config, paths.state_folder()))
        except NotOurs as error:
            if not isinstance(error, InUse) or time.monotonic() > deadline:
                unusable = Failure(str(error), status=os.EX_CANTCREAT)
                raise (not_listening() if isinstance(error, InUse) else None) or unusable from None
        else:
            complain("no daemon is running; continuing without one")
            return own
        time.sleep(_POLL_SECONDS)
        found = running()
        if found:
            return stack.enter_context(found)


@contextmanager
def daemonless(config: Config, state_folder: str, *, argv: Sequence[str] = WORKER_ARGV) -> Iterator[Remote]:
    """Yield a connection to the daemon's commands in this process. Raises NotOurs if the lock is taken."""
    with claimed(state_folder):
        ours, theirs = socket.socketpair()
        args = (_serve, theirs, config, _opened(config, state_folder), argv)
        thread = threading.Thread(target=trio.run, args=args, name="sign-in")
        thread.start()
        try:
            with Remote(ours) as remote:
                yield remote
        finally:
            # The connection is closed now, so the thread cancels what it is doing and ends.
            thread.join()


def _opened(config: Config, state_folder: str) -> Open:
    """Return what opens a worker that ends with this command: a sign-in that is in its memory only would be lost."""
    return Open(
        state_folder,
        config.vault_key,
        config.ca,
        persist=True,
        proxy=config.proxy,
        old_key=config.vault_old_key,
        fleet=config.fleet,
    )


def explored(url: str, ca: str, *, argv: Sequence[str] = WORKER_ARGV) -> Explored:
    """Return what `cms init` needs to know: the tenant that Entra reports for a domain, and whether there is a keyring.

    `url` is the domain's authority, "" to ask none; `ca` a file of certificate authorities, "" for the usual ones.
    """
    end = trio.run(_ask_worker, lambda number: Explore(number, url), _nothing_stored(ca or None), argv)
    if isinstance(end, Explored):
        return end
    return Explored("", _why_not(end), unknown=False, no_keyring="the grant worker did not answer")


def credential_ends(grants: Sequence[Grant], *, argv: Sequence[str] = WORKER_ARGV) -> tuple[CredentialEnd, ...] | str:
    """Return when the certificates of these grants' applications end, or an error message."""
    end = trio.run(_ask_worker, lambda number: CheckCredentials(number, tuple(grants)), _nothing_stored(), argv)
    return end.items if isinstance(end, CredentialEnds) else _why_not(end)


def fleet_work(config: Config, ask: Callable[[int], FleetWork], *, argv: Sequence[str] = WORKER_ARGV) -> FleetReport:
    """Have a new worker make, change or examine the fleet's database. Raises Failure.

    A daemon may run at the same time: each sign-in has its own lock.
    """
    end = trio.run(_ask_worker, ask, _opened(config, paths.state_folder()), argv)
    if isinstance(end, FleetReport):
        return end
    raise Failure(_why_not(end), end.trouble.hint if isinstance(end, Transient | Refused) else "")


def _nothing_stored(ca: str | None = None) -> Open:
    """Return what opens a worker that gets no state folder, so that it stores nothing."""
    return Open(os.devnull, Source("memory"), ca)


async def _ask_worker(ask: Callable[[int], Housekeeping], message: Open, argv: Sequence[str]) -> Ended:
    """Ask a new worker one question."""
    worker = Worker(message, argv=argv)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        end = await worker.housekeeping(ask)
        nursery.cancel_scope.cancel()
    return end


def _why_not(end: Ended) -> str:
    return end.trouble.message if isinstance(end, Transient | Refused) else "the grant worker did not answer"


async def _serve(sock: socket.socket, config: Config, opened: Open, argv: Sequence[str]) -> None:
    """Serve one connection, then end."""
    worker, clock = Worker(opened, argv=argv), SystemClock()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    # Not started: its keepers request no tokens.
    registry = Registry(config, worker.acquire, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        signins = SignIns(worker, registry, owner=users.own_uid())
        await nursery.start(signins.run)
        vault = VaultCommands(worker, registry, opened.state_folder)
        commands = Commands(worker, registry, signins, vault, clock=clock)
        peer = Peer(os.getpid(), os.geteuid(), os.getegid())
        await server.serve_one(stream, peer, commands, os.geteuid())
        await signins.settle()
        nursery.cancel_scope.cancel()
