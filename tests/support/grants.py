"""A grant worker as the daemon sees it, in this process or in a child, against the sandbox's Entra."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cms.core.accounts import Grant, Source
from cms.core.json_lines import Lines
from cms.core.lifecycle import Granted, Outcome
from cms.grants.dispatcher import Dispatcher
from cms.grants.entra.client import Entra as Provider
from cms.grants.messages import (
    MAX_MESSAGE,
    Acquire,
    Done,
    Ended,
    Heard,
    Open,
    Prompt,
    Question,
    Reached,
    Redirected,
    SignIn,
    SignOut,
    Told,
    WorkerReply,
    pack,
    unpack_reply,
)
from cms.grants.oauth2.client import OAuth2
from cms.grants.providers import Providers, TokenProvider
from cms.grants.secret_sources import Absent, Locked
from cms.grants.service import Service
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.directory import MAIL_SCOPES
from cms.sandbox.entra import CLIENT_ID, Entra
from cms.sandbox.host import Host
from support.evidence import children
from support.waiting import until

ANN = "ann@example.test"
BEN = "ben@example.test"
SCOPES = MAIL_SCOPES

# As the daemon starts it.
WORKER_ARGV = (sys.executable, "-I", "-m", "cms.grants")

# Long enough for any machine: only what hangs takes so long.
PATIENCE = 120.0


def grant_for(entra: Entra, login: str = ANN, **more: Any) -> Grant:
    """Return a grant of the sandbox."""
    more.setdefault("redirect_uri", "http://localhost:1/oauth2")
    return Grant(f"{entra.authority}/common", CLIENT_ID, login, (SCOPES,), **more)


class NoRing:
    """A desktop without a keyring."""

    origin = "keyring"
    makes = True

    def find(self, wanted: str) -> bytes:
        raise Absent("is not there")

    def make(self) -> bytes:
        raise Absent("is not there")

    def remove(self, wanted: str) -> bool:
        raise Absent("is not there")


class TurnsUpLocked(NoRing):
    """A keyring that is not there at first, and locked when it is."""

    there = False

    def find(self, wanted: str) -> bytes:
        if self.there:
            raise Locked("is locked")
        return super().find(wanted)

    def make(self) -> bytes:
        if self.there:
            raise Locked("is locked")
        return super().make()


def opened(state: Path, server: Host | None = None, **more: Any) -> Open:
    """Return a first message that needs no keyring."""
    more.setdefault("key", Source("file", (str(state.parent / "vault.key"),)))
    return Open(str(state), ca=server.ca_file if server else None, **more)


def service(
    first: Open,
    environ: Mapping[str, str] | None = None,
    *,
    entra: Provider | None = None,
    oauth2: TokenProvider | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Service:
    """Return what the worker builds of a first message, with no desktop around it."""
    keys = Keys(first.key, environ=environ or {}, ring=NoRing())
    vault = Vault(first.state_folder, keys, first.timeout)
    return Service(
        vault,
        Providers(lambda: entra or Provider(first.ca), lambda: oauth2 or OAuth2(first.ca)),
        clock,
        persist=first.persist,
    )


def kind(outcome: Ended) -> str:
    """Return "granted", or the kind of trouble that an outcome tells of."""
    assert isinstance(outcome, Outcome), outcome
    return "granted" if isinstance(outcome, Granted) else outcome.trouble.kind


class Broker:
    """The daemon's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.status: int | None = None
        self._lines = Lines(MAX_MESSAGE)
        self.told: list[Told] = []
        self._replies: list[WorkerReply] = []
        self._number = 0
        sock.settimeout(PATIENCE)

    def send(self, question: Question) -> None:
        self.sock.sendall(pack(question))

    def number(self) -> int:
        self._number += 1
        return self._number

    def receive(self) -> WorkerReply | None:
        """Return the next reply, None when the worker has closed its end. Whether a database answers is told at any time."""
        while not self._replies:
            data = self.sock.recv(65536)
            if not data:
                return None
            replies = [unpack_reply(line) for line in self._lines.feed(data)]
            self._replies += [each for each in replies if not isinstance(each, Reached)]
        return self._replies.pop(0)

    def answer(self) -> WorkerReply | None:
        """Return the next reply to a question. What a fleet's worker tells without being asked is in `told`."""
        while isinstance(reply := self.receive(), Told):
            self.told.append(reply)
        return reply

    def heard(self) -> tuple[str, ...]:
        """Return what a fleet's worker has heard of next: the keys of grants."""
        while True:
            reply = self.told.pop(0) if self.told else self.receive()
            assert isinstance(reply, Told), reply
            if isinstance(reply, Heard):
                return reply.keys

    def done(self) -> Outcome:
        """Return the outcome in the next answer."""
        reply = self.answer()
        assert isinstance(reply, Done), reply
        assert isinstance(reply.outcome, Outcome), reply
        return reply.outcome

    def prompt(self) -> Prompt:
        """Return the next answer, which is a prompt."""
        reply = self.answer()
        assert isinstance(reply, Prompt), reply
        return reply

    def acquire(self, grant: Grant) -> Outcome:
        self.send(Acquire(self.number(), grant, grant.scope_sets[0]))
        return self.done()

    def sign_out(self, grant: Grant, *, revoke: bool = False) -> Outcome:
        self.send(SignOut(self.number(), grant, revoke))
        return self.done()

    def sign_in(self, grant: Grant, entra: Host, user: str = "", method: str = "browser", claims: str = "") -> Outcome:
        """Sign in as `user`, or as the grant's own."""
        number = self.number()
        self.send(SignIn(number, grant, method, claims))
        reply = self.answer()
        if isinstance(reply, Done):
            assert isinstance(reply.outcome, Outcome), reply
            return reply.outcome
        assert isinstance(reply, Prompt)
        if method == "device":
            entra.approve_device(reply.user_code, user or grant.login)
        else:
            page = entra.sign_in(reply.url, user or grant.login, follow=False)
            self.send(Redirected(number, page.fields))
        return self.done()


@contextmanager
def dispatched(
    first: Open | None, open_service: Callable[[Open], Service] = service, clock: Callable[[], float] = time.monotonic
) -> Iterator[Broker]:
    """Run a dispatcher in a thread; its exit status is in `broker.status` after the block."""
    ours, theirs = socket.socketpair()
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(Dispatcher(theirs, open_service, clock).run()))
    thread.start()
    broker = Broker(ours)
    try:
        if first:
            broker.send(first)
        yield broker
    finally:
        ours.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    broker.status = statuses[0]


class Process:
    """A worker as a child process."""

    def __init__(
        self,
        first: Open | None,
        cwd: Path | None,
        environment: Mapping[str, str],
        command: Sequence[str] = WORKER_ARGV,
        inherited: Sequence[int] = (),
    ) -> None:
        ours, theirs = socket.socketpair()
        kept = {name: os.environ[name] for name in os.environ if name.startswith("COVERAGE_")}
        self.popen = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            cwd=cwd,
            env={"PATH": os.defpath, **kept, **environment},
        )
        theirs.close()
        self.broker = Broker(ours)
        if first:
            self.broker.send(first)

    @cached_property
    def pid(self) -> int:
        """The process that does the work. The one that was started waits for it."""
        return int(until(lambda: list(children(self.popen.pid)), "the working process")[0])

    def end(self) -> tuple[int, str]:
        """Close the socket; return the exit status, and what was printed."""
        self.broker.sock.close()
        out, err = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, (out + err).decode()


@contextmanager
def process(
    first: Open | None, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None, **more: Any
) -> Iterator[Process]:
    """Run a worker process for the block; it is gone after it. `more` is for `Process`."""
    worker = Process(first, cwd, environment or {}, **more)
    try:
        yield worker
    finally:
        worker.broker.sock.close()
        worker.popen.kill()
        worker.popen.communicate()
