"""Runs `cms login`, `cms logout` and similar commands without a daemon.

The daemon's own command code runs in a thread of this process and serves one connection. Meanwhile this process holds
the daemon's lock, so that no two processes work on one state folder. It serves no tokens.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from cms.cli.client import Remote
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
    Housekeeping,
    Open,
)
from cms.system.clock import SystemClock
from cms.system.process import claimed


@contextmanager
def daemonless(config: Config, state_folder: str, *, argv: Sequence[str] = WORKER_ARGV) -> Iterator[Remote]:
    """Yield a connection to the daemon's commands in this process. Raises process.NotOurs if the lock is taken."""
    with claimed(state_folder):
        ours, theirs = socket.socketpair()
        # persist: the worker ends with this command, and a sign-in that is in its memory only would be lost.
        opened = Open(state_folder, config.vault_key, config.ca, persist=True, proxy=config.proxy)
        thread = threading.Thread(target=trio.run, args=(_serve, theirs, config, opened, argv), name="sign-in")
        thread.start()
        try:
            with Remote(ours) as remote:
                yield remote
        finally:
            # The connection is closed now, so the thread cancels what it is doing and ends.
            thread.join()


def explored(url: str, ca: str, *, argv: Sequence[str] = WORKER_ARGV) -> Explored:
    """Return what `cms init` needs to know: the tenant that Entra reports for a domain, and whether there is a keyring.

    `url` is the domain's authority, "" to ask none; `ca` a file of certificate authorities, "" for the usual ones.
    """
    end = trio.run(_ask_worker, lambda number: Explore(number, url), ca or None, argv)
    if isinstance(end, Explored):
        return end
    return Explored("", _why_not(end), unknown=False, no_keyring="the grant worker did not answer")


def credential_ends(grants: Sequence[Grant], *, argv: Sequence[str] = WORKER_ARGV) -> tuple[CredentialEnd, ...] | str:
    """Return when the certificates of these grants' applications end, or an error message."""
    end = trio.run(_ask_worker, lambda number: CheckCredentials(number, tuple(grants)), None, argv)
    return end.items if isinstance(end, CredentialEnds) else _why_not(end)


async def _ask_worker(ask: Callable[[int], Housekeeping], ca: str | None, argv: Sequence[str]) -> Ended:
    """Ask a new worker one question. It gets no state folder, so it stores nothing."""
    worker = Worker(Open(os.devnull, Source("memory"), ca), argv=argv)
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
        signins = SignIns(worker, registry, owner=os.geteuid())
        await nursery.start(signins.run)
        vault = VaultCommands(worker, registry, opened.state_folder)
        commands = Commands(worker, registry, signins, vault, clock=clock)
        peer = Peer(os.getpid(), os.geteuid(), os.getegid())
        await server.serve_one(stream, peer, commands, os.geteuid())
        await signins.settle()
        nursery.cancel_scope.cancel()
