"""Sign-ins over a fake worker and a fake registry, and a browser that visits their page."""

from __future__ import annotations

import html
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from cms.config.model import Config
from cms.core.accounts import Account, Grant
from cms.core.lifecycle import Granted, Life, NeedsSignIn, Outcome, SignInFacts
from cms.core.status import AccountFacts, StatusRow, describe
from cms.daemon.registry import Change, Registry, Subscriber
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import SignInSession, Worker
from cms.grants.messages import Open, Prompt
from cms.system.clock import SystemClock
from support.status_rows import MAIL, NOW, REVOKED, TOKEN, WALL

SECRET = "eyJ.access.token"
GRANTED = Granted(SECRET, 10.0, 3600.0, sign_in=SignInFacts(who="A@example.test"))


def grant(login: str = "a@example.test", redirect_uri: str = "http://127.0.0.1/back") -> Grant:
    return Grant("https://login.example.test/common", "client", login, redirect_uri=redirect_uri)


class FakeSession(SignInSession):
    """A worker's sign-in that ends when a test or a redirect says so."""

    def __init__(self, worker: FakeWorker, asked: Grant, method: str, claims: str) -> None:
        self.worker = worker
        self.grant = asked
        self.method = method
        self.claims = claims
        self.fields: list[dict[str, str]] = []
        self.end: Outcome = GRANTED
        self.ended = trio.Event()

    async def prompt(self) -> Prompt | Outcome:
        await trio.lowlevel.checkpoint()
        if self.worker.early:
            return self.worker.early
        code = "ABCD-1234" if self.method == "device" else ""
        url = f"https://login.example.test/authorize?login_hint={self.grant.login}"
        complete, state = self.worker.complete_url if code else "", f"state-of-{self.grant.login}"
        return Prompt(1, self.method, url, code, 600.0, self.grant.redirect_uri, state, complete)

    async def redirected(self, fields: Mapping[str, str]) -> None:
        self.fields.append(dict(fields))
        self.ended.set()

    async def outcome(self) -> Outcome:
        await self.ended.wait()
        return self.end


class FakeWorker(Worker):
    """Starts sessions and remembers them; `early` ends each before its prompt. `complete_url` comes with a code."""

    def __init__(self) -> None:
        super().__init__(Open(""))
        self.sessions: list[FakeSession] = []
        self.left: list[FakeSession] = []
        self.early: Outcome | None = None
        self.complete_url = ""

    @asynccontextmanager
    async def sign_in(self, grant: Grant, method: str, claims: str = "") -> AsyncIterator[FakeSession]:
        session = FakeSession(self, grant, method, claims)
        self.sessions.append(session)
        try:
            yield session
        finally:
            self.left.append(session)


class FakeRegistry(Registry):
    """Knows the grants that a test says wait, and remembers what it is told."""

    def __init__(self, accounts_wait: Callable[[], Sequence[Grant]]) -> None:
        accounts = tuple(
            Account(each.login, each, {"SMTP": MAIL}) for each in dict.fromkeys([grant(), *accounts_wait()])
        )
        super().__init__(Config("cms.conf", accounts, (), None, None, ()), FakeWorker().acquire, SystemClock())
        self.accounts_wait = accounts_wait
        self.subscribers: list[Subscriber] = []
        self.ends: list[tuple[Grant, Outcome]] = []
        self.prompts: list[Prompt] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self.subscribers.append(subscriber)

    def tell(self, change: Change) -> None:
        for subscriber in self.subscribers:
            subscriber(change)

    def waiting(self) -> list[Grant]:
        return list(self.accounts_wait())

    def challenge(self, grant: Grant) -> str:
        return f"challenge of {grant.login}"

    def rows(self, accounts: Iterable[Account] | None = None) -> list[StatusRow]:
        lost = Life(None, NeedsSignIn(NOW, REVOKED))
        return describe(
            [
                AccountFacts(
                    each,
                    each.user,
                    {MAIL: lost if each.grant in self.waiting() else Life(TOKEN)},
                    signing_in=self.awaited(each.grant),
                )
                for each in accounts or ()
            ],
            NOW,
            WALL,
        )

    def prompted(self, grant: Grant, prompt: Prompt) -> None:
        self.prompts.append(prompt)

    def signed_in(self, grant: Grant, outcome: Outcome) -> None:
        self.ends.append((grant, outcome))

    def have_page(self, page: str) -> None:
        """Take over a configuration that gives the page an address."""
        self.config = replace(self.config, page=page)


class SignInDaemon:
    """The daemon's sign-ins, over a fake worker and a fake registry; `uid` owns the browser that comes."""

    def __init__(self, waiting: Callable[[], Sequence[Grant]] = tuple, uid: int | None = None) -> None:
        self.worker = FakeWorker()
        self.registry = FakeRegistry(waiting)
        self.uid: int | None = os.getuid() if uid is None else uid
        self.signins = SignIns(self.worker, self.registry, owner=os.getuid(), uid_of=lambda _peer, _ours: self.uid)


@asynccontextmanager
async def running(daemon: SignInDaemon) -> AsyncIterator[SignInDaemon]:
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.signins.run)
        yield daemon
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def browsing(
    waiting: Callable[[], Sequence[Grant]] = tuple, uid: int | None = None
) -> AsyncIterator[tuple[SignInDaemon, Flow]]:
    """Give a daemon in which the default grant's browser flow waits."""
    async with running(SignInDaemon(waiting, uid)) as daemon:
        flow = daemon.signins.start(grant(), "browser")
        with flow.held():
            await flow.prompt()
            yield daemon, flow


async def visit(
    flow: Flow, target: str, *, host: str = "", method: str = "GET", form: str = "", origin: str = ""
) -> tuple[int, str]:
    """Ask the flow's page for something as a browser does; return status and page."""
    assert flow.address is not None
    port = flow.address.port
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", f"Content-Length: {len(form)}"]
    lines += [f"Origin: {origin}"] if origin else []
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    said = b""
    async with stream:
        await stream.send_all("\r\n".join([*lines, "", form]).encode())
        await stream.send_eof()
        while chunk := await stream.receive_some():
            said += chunk
    head, _, page = said.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), page


def cards_of(page: str) -> dict[str, str]:
    """Return what a page shows, by account: the HTML of its card."""
    return {html.unescape(name): rest for name, rest in re.findall("<h2>(.*?)</h2>(.*?)</li>", page)}
