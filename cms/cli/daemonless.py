"""`cms login`, `cms logout` and the like without a daemon: its commands serve one conversation, in a thread.

The lock that a daemon holds is held meanwhile, so that no two processes work on one state folder. No token is served.
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
    """Yield a connection to a daemon of this very process. Raises process.NotOurs where there may be none."""
    with claimed(state_folder):
        ours, theirs = socket.socketpair()
        # The worker ends with this command, and so would a sign-in that only its memory holds.
        opened = Open(state_folder, config.vault_key, config.ca, persist=True, proxy=config.proxy)
        thread = threading.Thread(target=trio.run, args=(_serve, theirs, config, opened, argv), name="sign-in")
        thread.start()
        try:
            with Remote(ours) as remote:
                yield remote
        finally:
            # The other end has seen us leave, gives up what is under way, and ends.
            thread.join()


def explored(url: str, ca: str, *, argv: Sequence[str] = WORKER_ARGV) -> Explored:
    """Look around for a first configuration: whose tenant a discovery document tells of, which keyring there is.

    `url` is an authority, "" to ask none; `ca` a file of certificate authorities, "" for the usual ones.
    """
    end = trio.run(_ask_worker, lambda number: Explore(number, url), ca or None, argv)
    if isinstance(end, Explored):
        return end
    return Explored("", _why_not(end), unknown=False, no_keyring="nobody could look for a keyring")


def credential_ends(grants: Sequence[Grant], *, argv: Sequence[str] = WORKER_ARGV) -> tuple[CredentialEnd, ...] | str:
    """Ask a worker when the certificates of these grants' applications end; return why not if it cannot say."""
    end = trio.run(_ask_worker, lambda number: CheckCredentials(number, tuple(grants)), None, argv)
    return end.items if isinstance(end, CredentialEnds) else _why_not(end)


async def _ask_worker(ask: Callable[[int], Housekeeping], ca: str | None, argv: Sequence[str]) -> Ended:
    """Put one question to a worker that keeps nothing: it gets no state folder."""
    worker = Worker(Open(os.devnull, Source("memory"), ca), argv=argv)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        end = await worker.housekeeping(ask)
        nursery.cancel_scope.cancel()
    return end


def _why_not(end: Ended) -> str:
    return end.trouble.message if isinstance(end, Transient | Refused) else "the grant worker did not answer"


async def _serve(sock: socket.socket, config: Config, opened: Open, argv: Sequence[str]) -> None:
    """Serve one conversation, then end."""
    worker, clock = Worker(opened, argv=argv), SystemClock()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    # It does not run: its keepers ask for no token.
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
