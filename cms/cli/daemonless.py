"""`cms login` and `cms logout` without a daemon: one for a single command, in a thread, behind the same conversation.

It holds the lock that a daemon holds, so that no two processes work on one state folder, and it serves nobody.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from cms.cli.client import Remote
from cms.config.model import Config
from cms.core.accounts import Account, Grant, Source, Unclear, sign_ins_meant, users_in_words
from cms.core.lifecycle import Outcome, Refused, Transient
from cms.core.policy import Peer
from cms.daemon.control import server
from cms.daemon.control.answers import Ask, Result, nobody_signs_in, nothing_to_sign_out
from cms.daemon.control.vault_commands import ERRANDS, Custody, Left, farewell
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import WORKER_ARGV, Worker
from cms.grants.messages import (
    CheckCredentials,
    Chore,
    CredentialEnd,
    CredentialEnds,
    Ended,
    Explore,
    Explored,
    Open,
    Place,
)
from cms.system.process import claimed

_NO_DAEMON = Result(False, "no daemon is running", "start it with `cms run`")


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

    `url` is an authority, "" to ask nobody; `ca` a file of certificate authorities, "" for the usual ones.
    """
    end = trio.run(_ask_worker, lambda number: Explore(number, url), ca or None, argv)
    if isinstance(end, Explored):
        return end
    return Explored("", _why_not(end), unknown=False, no_keyring="nobody could look for a keyring")


def credential_ends(grants: Sequence[Grant], *, argv: Sequence[str] = WORKER_ARGV) -> tuple[CredentialEnd, ...] | str:
    """Ask a worker when the certificates of these grants' applications end; return why not if it cannot say."""
    end = trio.run(_ask_worker, lambda number: CheckCredentials(number, tuple(grants)), None, argv)
    return end.items if isinstance(end, CredentialEnds) else _why_not(end)


async def _ask_worker(ask: Callable[[int], Chore], ca: str | None, argv: Sequence[str]) -> Ended:
    """Put one question to a worker that keeps nothing: it gets no state folder."""
    worker = Worker(Open(os.devnull, Source("memory"), ca), argv=argv)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        end = await worker.attend(ask)
        nursery.cancel_scope.cancel()
    return end


def _why_not(end: Ended) -> str:
    return end.trouble.message if isinstance(end, Transient | Refused) else "the grant worker did not answer"


async def _serve(sock: socket.socket, config: Config, opened: Open, argv: Sequence[str]) -> None:
    """Serve one conversation, then end."""
    worker = Worker(opened, argv=argv)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        custody = Custody(worker, opened.state_folder, lambda: config.accounts, unserved=lambda: config.unserved)
        signins = SignIns(worker.sign_in, owner=os.geteuid(), signed_in=_nothing_to_tell)
        signins.page = config.page
        await nursery.start(signins.run)
        peer = Peer(os.getpid(), os.geteuid(), os.getegid())
        await server.serve_one(stream, peer, _Commands(config.accounts, worker, signins, custody), os.geteuid())
        await signins.settle()
        nursery.cancel_scope.cancel()


def _nothing_to_tell(_grant: Grant, _outcome: Outcome) -> None:
    """No keeper is here to hear of it: the worker has stored what matters."""


class _Commands:
    """What can be done without a daemon."""

    def __init__(self, accounts: Sequence[Account], worker: Worker, signins: SignIns, custody: Custody) -> None:
        self._custody = custody
        self._accounts = accounts
        self._worker = worker
        self._signins = signins

    def login(self, user: str, method: str) -> Flow | Result:
        grant = self._personal(user, "login")
        return grant if isinstance(grant, Result) else self._signins.start(grant, method or grant.sign_in)

    async def bring_in(self, user: str, place: Place) -> Outcome | Result:
        grant = self._personal(user, "import")
        return grant if isinstance(grant, Result) else await self._worker.bring_in(grant, place)

    async def logout(self, user: str) -> Result:
        grants = sign_ins_meant(self._accounts, user, "logout")
        if isinstance(grants, Unclear):
            strays = await self._custody.strays_of(user)
            return await self._custody.part_with(strays) if strays else Result(False, grants.message, grants.hint)
        for grant in grants:
            if grant.unattended:
                return nothing_to_sign_out(self._users_of(grant))
        return await self._forget(grants)

    async def _forget(self, grants: Sequence[Grant]) -> Result:
        outcome = await self._custody.forget(grants)
        if isinstance(outcome, Result):
            return outcome
        names = ", ".join(dict.fromkeys(each.login or "the account" for each in grants))
        return farewell(Left(tuple(grants), names, outcome.persisted, outcome.key_from), time.time())

    async def errand(self, command: str, message: Mapping[str, Any], ask: Ask) -> Result:
        if command != "leave":
            return await ERRANDS[command](self._custody, message, ask)
        grants = list({each.grant.key: each.grant for each in self._accounts if not each.grant.unattended}.values())
        return await self._custody.leave(partial(self._forget, grants))

    def _personal(self, user: str, command: str) -> Grant | Result:
        """Return the sign-in that a user name means, if it is a person's."""
        grants = sign_ins_meant(self._accounts, user, command)
        if isinstance(grants, Unclear):
            return Result(False, grants.message, grants.hint)
        # A name may stand for several, of which nobody here knows which one waits: each has its turn.
        grant = min(grants, key=self._custody.stored_at)
        if not grant.unattended:
            return grant
        return nobody_signs_in(self._users_of(grant), grant, alone=True)

    def _users_of(self, grant: Grant) -> str:
        return users_in_words(each for each in self._accounts if each.grant.key == grant.key)

    def status(self, user: str = "") -> Result:  # noqa: ARG002 - the protocol's
        return _NO_DAEMON

    async def refresh(self, user: str) -> Result:  # noqa: ARG002 - the protocol's
        return _NO_DAEMON

    async def reload(self) -> Result:
        return _NO_DAEMON

    def stop(self) -> Result:
        return _NO_DAEMON
