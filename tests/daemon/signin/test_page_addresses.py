"""The page is up where accounts wait for it, and nowhere else. The clock jumps here, so there are no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from support.sign_ins import SignInDaemon, grant, running
from support.trio_run import in_trio_clock

from cms.core.accounts import Grant
from cms.daemon.keeper import Keeper
from cms.daemon.registry import Change
from cms.daemon.signin import page_addresses, signins
from cms.daemon.signin.http import Address, Unreachable
from cms.system.clock import SystemClock

OTHER = grant("b@example.test", "http://127.0.0.1/back")
FIRST = grant("a@example.test", "http://127.0.0.1:8080/oauth2/msal")
SECOND = grant("b@example.test", "http://localhost:9090")
ANY_PORT = grant("c@example.test", "http://localhost/")
NOT_HERE = grant("d@example.test", "https://localhost")

AT_FIRST, AT_SECOND = Address("127.0.0.1", 8080, "/"), Address("localhost", 9090, "/")
AT_PAGE = Address("localhost", 7070, "/")


class Doors:
    """Stands for the listeners: which ports are open, and which another program has."""

    def __init__(self) -> None:
        self.opened: list[Address] = []
        self.taken: set[Address] = set()
        self.tries = 0

    @asynccontextmanager
    async def open(self, address: Address, _nursery: object) -> AsyncIterator[int]:
        self.tries += 1
        await trio.lowlevel.checkpoint()
        if address in self.taken:
            raise Unreachable(f"port {address.port} is in use by thief (pid 7)", "stop that program")
        self.opened.append(address)
        try:
            yield address.port or 4242
        finally:
            self.opened.remove(address)

    def host(self, address: Address) -> str:
        return address.binds[0]


@asynccontextmanager
async def page_for(*waiting: Grant) -> AsyncIterator[tuple[SignInDaemon, Doors, list[Grant]]]:
    """Yield a daemon in which these wait, its doors, and the list of those who wait; call `changed` after changing it."""
    who = list(waiting)
    doors = Doors()
    with pytest.MonkeyPatch.context() as patched:
        # No real socket on a jumping clock.
        patched.setattr(signins, "Loopback", lambda *_args, **_options: doors)
        daemon = SignInDaemon(lambda: who)
    async with running(daemon):
        yield daemon, doors, who


async def gathered() -> None:
    """Let the page come."""
    await trio.sleep(2 * page_addresses.GATHER_SECONDS)


async def lingered() -> None:
    """Let the page go."""
    await trio.sleep(page_addresses.LINGER_SECONDS + 2 * page_addresses.GATHER_SECONDS)


@in_trio_clock
async def test_the_page_is_up_as_long_as_an_account_waits() -> None:
    """It is at each waiting account's redirect address, and closes with the last account that waits there."""
    async with page_for(FIRST, SECOND) as (daemon, doors, waiting):
        await gathered()
        both = set(doors.opened)
        waiting.remove(FIRST)
        daemon.signins.page.changed()
        await lingered()
        one = list(doors.opened)
        waiting.clear()
        daemon.signins.page.changed()
        await lingered()

        assert ({AT_FIRST, AT_SECOND}, [AT_SECOND], []) == (both, one, doors.opened)
        waiting.append(FIRST)
        daemon.signins.page.changed()
        await gathered()

        assert [AT_FIRST] == doors.opened


@in_trio_clock
async def test_the_page_stays_two_minutes_after_the_last_sign_in() -> None:
    """A person still sees there that all is well. If an account waits again meanwhile, the page does not close."""
    async with page_for(FIRST) as (daemon, doors, waiting):
        await gathered()
        waiting.clear()
        daemon.signins.page.changed()
        await trio.sleep(page_addresses.LINGER_SECONDS - 1)
        waiting.append(FIRST)
        daemon.signins.page.changed()
        await lingered()
        still = list(doors.opened)
        waiting.clear()
        daemon.signins.page.changed()
        await trio.sleep(page_addresses.LINGER_SECONDS - 1)
        lingers = list(doors.opened)
        await trio.sleep(2)

        assert ([AT_FIRST], [AT_FIRST], []) == (still, lingers, doors.opened)


@in_trio_clock
async def test_the_page_follows_the_registry() -> None:
    """It looks again when the registry says that other accounts wait, and at no other change."""
    async with page_for() as (daemon, doors, waiting):
        await gathered()
        waiting.append(FIRST)
        keeper = Keeper(FIRST, daemon.worker.acquire, SystemClock())
        daemon.registry.tell(Change(keeper))
        await gathered()
        before = list(doors.opened)
        daemon.registry.tell(Change(keeper, waiting=True))
        await gathered()

        assert ([], [AT_FIRST]) == (before, doors.opened)


@in_trio_clock
async def test_the_page_has_the_configured_address() -> None:
    """It is also at the configured address, and that is the one that people read."""
    async with page_for(FIRST, ANY_PORT, NOT_HERE) as (daemon, doors, _):
        daemon.registry.have_page("http://localhost:7070")
        daemon.signins.page.changed()
        await gathered()

        assert {AT_PAGE, AT_FIRST} == set(doors.opened)
        told = {each.login: daemon.registry.where(each) for each in (FIRST, ANY_PORT, NOT_HERE)}
        page = "http://localhost:7070/"
        assert {FIRST.login: page, ANY_PORT.login: page, NOT_HERE.login: ""} == told


@in_trio_clock
async def test_without_a_fixed_port_there_is_no_page_before_a_flow() -> None:
    """cms opens no port that people could not know, and no page for accounts that it cannot sign in."""
    async with page_for(ANY_PORT, NOT_HERE) as (daemon, doors, waiting):
        await gathered()
        none = list(doors.opened)
        waiting.remove(ANY_PORT)
        daemon.registry.have_page("http://localhost:7070")
        daemon.signins.page.changed()
        await gathered()

        assert ([], [], "") == (none, doors.opened, daemon.registry.where(ANY_PORT))


@in_trio_clock
async def test_no_page_comes_for_those_whom_it_does_not_sign_in() -> None:
    """An account that is signed in with a code does not open the page."""
    device = replace(FIRST, sign_in="device")
    async with page_for(device, SECOND) as (daemon, doors, waiting):
        await gathered()
        with_another = list(doors.opened), daemon.registry.where(device)
        waiting.remove(SECOND)
        daemon.signins.page.changed()
        await lingered()

        assert (([AT_SECOND], ""), []) == (with_another, doors.opened)


@in_trio_clock
async def test_a_port_in_use_is_told_once_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The log names the program that has it; when that program has gone, the page comes up by itself."""
    async with page_for(FIRST, SECOND) as (daemon, doors, _):
        doors.taken.add(AT_FIRST)
        await trio.sleep(5 * page_addresses.RETRY_SECONDS)
        said, tries = capsys.readouterr().out, doors.tries
        elsewhere = daemon.registry.where(FIRST)
        doors.taken.clear()
        await trio.sleep(2 * page_addresses.RETRY_SECONDS)

        assert (1, 1) == (said.count("cannot be shown"), said.count("in use by thief (pid 7)"))
        assert 4 < tries < 8
        assert AT_SECOND.url == elsewhere
        assert {AT_FIRST, AT_SECOND} == set(doors.opened)


@in_trio_clock
async def test_a_flow_shows_the_page_at_its_own_address() -> None:
    """The page is there while a sign-in is under way, also if its account was not waiting."""
    async with page_for() as (daemon, doors, _):
        daemon.registry.have_page("http://localhost:7070")
        flow = daemon.signins.start(ANY_PORT, "browser")
        with flow.held():
            await flow.prompt()

            assert ("http://localhost:7070/", 4242) == (flow.page, flow.address and flow.address.port)
            assert AT_PAGE in doors.opened
        await gathered()

        assert [] == doors.opened


@in_trio_clock
async def test_a_flow_goes_on_without_the_pages_own_address() -> None:
    """If another program has that port, the page is where the browser comes back to."""
    async with page_for() as (daemon, doors, _):
        daemon.registry.have_page("http://localhost:7070")
        doors.taken.add(AT_PAGE)
        flow = daemon.signins.start(FIRST, "browser")
        with flow.held():
            await flow.prompt()

            assert AT_FIRST.url == flow.page


@in_trio_clock
async def test_the_page_stays_where_a_flow_ended_while_others_wait() -> None:
    """A person can sign in the next account at the same port, for ten minutes, or until two after none waits."""
    async with page_for(ANY_PORT, OTHER) as (daemon, doors, waiting):
        flow = daemon.signins.start(ANY_PORT, "browser")
        with flow.held():
            await flow.prompt()
            await flow.redirected({"code": "x"})
            await flow.outcome()
        await gathered()
        there = list(doors.opened)
        await trio.sleep(page_addresses.STAY_SECONDS)

        assert ([4242], []) == ([each.port for each in there], doors.opened)
        again = daemon.signins.start(ANY_PORT, "browser")
        with again.held():
            await again.prompt()
            await again.redirected({"code": "x"})
            await again.outcome()
        there = list(doors.opened)
        waiting.clear()
        daemon.signins.page.changed()
        await lingered()

        assert ([4242], []) == ([each.port for each in there], doors.opened)
