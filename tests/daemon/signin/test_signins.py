"""Sign-ins: one flow for each grant, told apart by state, given up with their last holder, and a page that says no more than it must."""

from __future__ import annotations

import html
import os
import re
import shlex
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode

import pytest
import trio
from support.trio_run import in_trio, in_trio_clock

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Transient, Trouble
from cms.daemon.signin import signins
from cms.daemon.signin.flow import FLOW_SECONDS, MAX_PASTED, Flow
from cms.daemon.signin.http import Address, Unreachable
from cms.daemon.signin.signins import SignIns
from cms.grants.messages import Prompt

SECRET = "eyJ.access.token"
GRANTED = Granted(SECRET, 10.0, 3600.0, sign_in=SignInFacts(who="A@example.test"))
REFUSED = Refused(Trouble("refused", "consent is required", "ask your administrator"))


def grant(login: str = "a@example.test", redirect_uri: str = "http://127.0.0.1/back") -> Grant:
    return Grant("https://login.example.test/common", "client", login, redirect_uri=redirect_uri)


class FakeSession:
    """A worker's sign-in that ends when a test or a redirect says so."""

    def __init__(self, worker: FakeWorker, asked: Grant, method: str) -> None:
        self.worker = worker
        self.grant = asked
        self.method = method
        self.fields: list[dict[str, str]] = []
        self.end: Outcome = GRANTED
        self.ended = trio.Event()

    async def prompt(self) -> Prompt | Outcome:
        await trio.lowlevel.checkpoint()
        if self.worker.early:
            return self.worker.early
        code = "ABCD-1234" if self.method == "device" else ""
        url = f"https://login.example.test/authorize?login_hint={self.grant.login}"
        return Prompt(1, self.method, url, code, 600.0, self.grant.redirect_uri, f"state-of-{self.grant.login}")

    async def redirected(self, fields: Mapping[str, str]) -> None:
        self.fields.append(dict(fields))
        self.ended.set()

    async def outcome(self) -> Outcome:
        await self.ended.wait()
        return self.end


class FakeWorker:
    """Starts sessions and remembers them; `early` ends each before its prompt."""

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.left: list[FakeSession] = []
        self.early: Outcome | None = None

    @asynccontextmanager
    async def sign_in(self, asked: Grant, method: str) -> AsyncIterator[FakeSession]:
        session = FakeSession(self, asked, method)
        self.sessions.append(session)
        try:
            yield session
        finally:
            self.left.append(session)


class House:
    """Sign-ins over a fake worker, and a browser."""

    def __init__(self, waiting: Callable[[], Sequence[Grant]] = tuple, uid: int | None = None) -> None:
        self.worker = FakeWorker()
        self.ends: list[tuple[Grant, Outcome]] = []
        self.prompts: list[Prompt] = []
        self.uid: int | None = os.getuid() if uid is None else uid
        self.signins = SignIns(
            self.worker.sign_in,
            owner=os.getuid(),
            signed_in=lambda asked, outcome: self.ends.append((asked, outcome)),
            prompted=lambda _grant, prompt: self.prompts.append(prompt),
            waiting=waiting,
            status=lambda: "<status>",
            uid_of=lambda _peer, _ours: self.uid,
        )


@asynccontextmanager
async def running(house: House) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        await nursery.start(house.signins.run)
        yield house
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def browsing(
    waiting: Callable[[], Sequence[Grant]] = tuple, uid: int | None = None
) -> AsyncIterator[tuple[House, Flow]]:
    """Give a house in which the default grant's browser flow waits."""
    async with running(House(waiting, uid)) as house:
        flow = house.signins.start(grant(), "browser")
        with flow.held():
            await flow.prompt()
            yield house, flow


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


HERE = Address("127.0.0.1", 0, "/back")
BACK = "/back?code=the-code&state=state-of-a@example.test"


@in_trio
async def test_a_browser_comes_back_and_is_told_that_it_worked() -> None:
    """The redirect's fields reach the worker, and its outcome the page, the keeper and the holder."""
    async with browsing() as (house, flow):
        status, page = await visit(flow, BACK)
        outcome = await flow.outcome()

    assert [{"code": "the-code", "state": "state-of-a@example.test"}] == house.worker.sessions[0].fields
    assert (200, GRANTED) == (status, outcome)
    assert "A@example.test is signed in" in page
    assert SECRET not in page
    assert [(grant(), GRANTED)] == house.ends
    assert 1 == len(house.prompts)


@in_trio
async def test_a_form_post_works_as_well() -> None:
    """Entra may send the fields as a form, from its own origin."""
    async with browsing() as (house, flow):
        form = "code=the-code&state=state-of-a%40example.test"
        status, _ = await visit(flow, "/back", method="POST", form=form, origin="https://login.example.test")

    assert 200 == status
    assert "the-code" == house.worker.sessions[0].fields[0]["code"]


@in_trio
async def test_a_failure_is_told_with_its_next_move() -> None:
    """What the provider refused is on the page, message and hint."""
    async with browsing() as (house, flow):
        house.worker.sessions[0].end = REFUSED
        _, page = await visit(flow, "/back?error=access_denied&state=state-of-a@example.test")

    assert "consent is required" in page
    assert "ask your administrator" in page


@in_trio
async def test_the_end_is_in_the_log_with_its_next_move(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reads the log alone knows what happened and what to do."""
    async with browsing() as (house, flow):
        house.worker.sessions[0].end = REFUSED
        await visit(flow, "/back?error=access_denied&state=state-of-a@example.test")
    ended = next(line for line in capsys.readouterr().out.splitlines() if "sign-in ended" in line)

    assert "consent is required" in ended
    assert "ask your administrator" in ended


@pytest.mark.parametrize(
    "target",
    [
        "/back?code=x&state=wrong",
        "/back?code=x&state=",
        "/back?code=x&state=%C3%A4",
        "/other?code=x&state=state-of-a@example.test",
        "/back?code=x&state=a&state=state-of-a@example.test",
    ],
)
@in_trio
async def test_a_redirect_that_is_not_ours_changes_nothing(target: str) -> None:
    """A wrong state or a wrong path is refused, without a word of what would be right."""
    async with browsing() as (house, flow):
        status, page = await visit(flow, target)

    assert 400 == status
    assert [] == house.worker.sessions[0].fields
    assert "example.test" not in page


@in_trio
async def test_a_repeated_redirect_counts_once() -> None:
    """A browser that asks twice brings one code."""
    async with browsing() as (house, flow):
        await flow.redirected({"code": "one"})
        await flow.redirected({"code": "two"})

    assert [{"code": "one"}] == house.worker.sessions[0].fields


@in_trio
async def test_the_last_page_can_be_loaded_again() -> None:
    """A browser that brings the same once more is told the same, and the worker hears of it once."""
    async with browsing(lambda: [grant("b@example.test")]) as (house, flow):
        _, first = await visit(flow, BACK)
        await flow.outcome()
        status, again = await visit(flow, BACK)

    assert (200, first) == (status, again)
    assert 1 == len(house.worker.sessions[0].fields)


@in_trio
async def test_a_redirect_after_an_end_without_one_is_too_late() -> None:
    """Who comes back to a sign-in that was given up is told how it ended, and the worker hears nothing."""
    async with browsing() as (house, flow), house.signins._loopback.open(flow.address or HERE, house.signins._here):
        house.signins.start(grant(), "device")
        status, page = await visit(flow, BACK)

    assert 200 == status
    assert "another sign-in took its place" in page
    assert [] == house.worker.sessions[0].fields


@in_trio
async def test_a_stranger_is_not_served() -> None:
    """Another user's browser, or one that nobody is known to own, gets nothing."""
    for uid in (os.getuid() + 1, -1):
        async with browsing(uid=uid) as (house, flow):
            house.uid = None if uid < 0 else uid
            status, page = await visit(flow, BACK)

        assert (403, []) == (status, house.worker.sessions[0].fields)
        assert ("status" not in page, True) == (True, "paste it into the terminal" in page)


@in_trio
async def test_root_is_served() -> None:
    """Root could read it all anyway, and some desktops' forwarders run as root."""
    async with browsing() as (house, flow):
        house.uid = 0
        status, _ = await visit(flow, "/")

    assert 200 == status


@in_trio
async def test_a_foreign_host_name_is_refused() -> None:
    """A name that somebody's DNS points at 127.0.0.1 opens nothing."""
    async with browsing() as (house, flow):
        status, _ = await visit(flow, BACK, host="evil.example.test:80")

    assert (400, []) == (status, house.worker.sessions[0].fields)


@pytest.mark.parametrize(("method", "target", "expected"), [("GET", "/favicon.ico", 404), ("PUT", "/", 405)])
@in_trio
async def test_there_is_nothing_else(method: str, target: str, expected: int) -> None:
    """Other paths and other methods are nothing."""
    async with browsing() as (_, flow):
        status, _ = await visit(flow, target, method=method)

    assert expected == status


@in_trio
async def test_a_form_that_is_no_text_is_refused() -> None:
    """A body is ASCII."""
    async with browsing() as (_, flow):
        status, _ = await visit(flow, "/back", method="POST", form="ä")

    assert 400 == status


# --- the page ---

OTHER = grant("b@example.test", "http://127.0.0.1/back")
WHOEVER = grant("")


@in_trio
async def test_the_page_lists_who_waits_and_the_status() -> None:
    """A flow under way has a link, the others a button; the status is escaped."""
    async with browsing(lambda: [grant(), OTHER, WHOEVER]) as (_, flow):
        status, page = await visit(flow, "/")

    assert 200 == status
    assert 1 == page.count("a@example.test: <a")
    assert f'value="{OTHER.key}">b@example.test <button' in page
    assert "whoever signs in" in page
    assert "&lt;status&gt;" in page
    assert "state-of" not in page


@in_trio
async def test_a_button_starts_a_flow_and_goes_on_to_the_provider() -> None:
    """A POST from our own page starts the other account's sign-in, which no holder's leaving ends."""
    async with browsing(lambda: [OTHER]) as (house, flow):
        assert flow.address is not None
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, page = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)
        session = house.worker.sessions[-1]

        assert (200, "b@example.test") == (status, session.grant.login)
        assert "url=https://login.example.test/authorize?login_hint=b@example.test" in page
        assert house.signins.awaited(OTHER).startswith("open http://127.0.0.1:")


@pytest.mark.parametrize("origin", ["", "https://evil.example.test", "http://evil.example.test", "null", "127.0.0.1:1"])
@in_trio
async def test_only_our_own_page_starts_flows(origin: str) -> None:
    """Another site's form, or one without an origin, starts nothing."""
    async with browsing(lambda: [OTHER]) as (house, flow):
        status, _ = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert (403, 1) == (status, len(house.worker.sessions))


@in_trio
async def test_only_who_waits_can_be_started() -> None:
    """A grant that is good, or that nobody knows, is not started from the page."""
    async with browsing() as (house, flow):
        assert flow.address is not None
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, _ = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert (404, 1) == (status, len(house.worker.sessions))


@in_trio
async def test_a_flow_that_cannot_start_says_so_on_the_page() -> None:
    """An end before a prompt is a page as well."""
    async with browsing(lambda: [OTHER]) as (house, flow):
        assert flow.address is not None
        house.worker.early = Transient(Trouble("network", "the provider cannot be reached"))
        origin = f"http://127.0.0.1:{flow.address.port}"
        status, page = await visit(flow, "/start", method="POST", form=f"grant={OTHER.key}", origin=origin)

    assert 200 == status
    assert "the provider cannot be reached" in page


@in_trio
async def test_after_one_account_the_page_leads_to_the_next() -> None:
    """The page stays up for who else waits, and offers them."""
    async with browsing(lambda: [OTHER]) as (_, flow):
        _, page = await visit(flow, BACK)
        await flow.outcome()
        status, _ = await visit(flow, "/")

    assert f'value="{OTHER.key}"' in page
    assert 200 == status


@in_trio
async def test_two_flows_share_a_port_and_are_told_apart() -> None:
    """The state says whose redirect it is."""
    async with browsing() as (house, flow):
        assert flow.address is not None
        there = replace(OTHER, redirect_uri=f"http://127.0.0.1:{flow.address.port}/back")
        second = house.signins.start(there, "browser")
        with second.held():
            await second.prompt()
            await visit(flow, "/back?code=for-b&state=state-of-b@example.test")
            await second.outcome()

    assert ([], "for-b") == (house.worker.sessions[0].fields, house.worker.sessions[1].fields[0]["code"])


@in_trio
async def test_the_redirect_address_gets_the_port_that_is_listened_at() -> None:
    """A registration of http://127.0.0.1/back matches any port: the worker is told which."""
    async with browsing() as (house, flow):
        assert flow.address is not None
        expected = f"http://127.0.0.1:{flow.address.port}/back"

    assert expected == house.worker.sessions[0].grant.redirect_uri


@in_trio_clock
async def test_a_redirect_that_leads_nowhere_here_is_pasted() -> None:
    """https://localhost is on no machine's loopback listener: the flow is one by pasting, and says why."""
    async with running(House()) as house:
        flow = house.signins.start(grant(redirect_uri="https://localhost"), "browser")
        with flow.held():
            shown = await flow.prompt()
            again = house.signins.start(grant(redirect_uri="https://localhost"), "browser")

            assert isinstance(shown, Prompt)
            assert ("paste", "paste", flow) == (flow.method, shown.method, again)
            assert "https://localhost is not plain HTTP on this machine" in flow.instead
            assert "" == flow.page


@in_trio
async def test_a_window_of_the_brokers_is_where_to_go() -> None:
    """Nothing listens for it, and no link leads to it."""
    async with running(House()) as house:
        flow = house.signins.start(grant(), "broker")
        with flow.held():
            assert isinstance(await flow.prompt(), Prompt)
            awaited = house.signins.awaited(grant())

    assert ("", "sign in in the window that Microsoft's broker has opened on this machine's desktop") == (
        flow.page,
        awaited,
    )


@in_trio
async def test_a_port_that_cannot_be_had_ends_the_flow_with_the_ways_around() -> None:
    """Somebody may stop the program that holds it, or sign in in another way."""
    async with running(House()) as house:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"http://127.0.0.1:{other.getsockname()[1]}/back"
            flow = house.signins.start(grant(redirect_uri=taken), "browser")
            with flow.held():
                end = await flow.prompt()

    assert isinstance(end, Refused)
    assert "--device or --paste" in end.trouble.hint
    assert [] == house.worker.sessions


@in_trio
async def test_settling_waits_for_the_last_page() -> None:
    """Without a daemon, the end of the command waits for the browser's last answer, and not for ever."""
    async with browsing() as (house, _):
        await house.signins.settle()


# --- flows without a browser, on a clock that jumps ---


@in_trio_clock
async def test_one_flow_for_each_grant_and_method() -> None:
    """A second login joins the first and gets the same prompt."""
    async with running(House()) as house:
        first = house.signins.start(grant(), "device")
        with first.held():
            second = house.signins.start(grant(), "device")
            shown = await second.prompt()

        assert first is second
        assert isinstance(shown, Prompt)
        assert "ABCD-1234" in house.signins.awaited(grant())


@in_trio_clock
async def test_another_method_takes_the_place() -> None:
    """Who asks for --paste after --device gets it; the first is told why it ended."""
    async with running(House()) as house:
        first = house.signins.start(grant(), "device")
        with first.held():
            await first.prompt()
            second = house.signins.start(grant(), "paste")
            with second.held():
                end = await first.outcome()
                shown = await second.prompt()
                await trio.testing.wait_all_tasks_blocked()

                assert isinstance(end, Refused)
                assert "--paste" in end.trouble.message
                assert isinstance(shown, Prompt)
                assert [house.worker.sessions[0]] == house.worker.left
                assert "--paste" in house.signins.awaited(grant())


@in_trio_clock
async def test_a_flow_ends_with_its_last_holder() -> None:
    """When the last one who asked has gone, the worker's sign-in is given up."""
    async with running(House()) as house:
        flow = house.signins.start(grant(), "device")
        with flow.held():
            with house.signins.start(grant(), "device").held():
                await flow.prompt()
            await trio.testing.wait_all_tasks_blocked()

            assert flow.end is None
        end = await flow.outcome()

        assert isinstance(end, Refused)
        assert "cancelled" == end.trouble.kind
        assert house.worker.sessions == house.worker.left
        assert "" == house.signins.awaited(grant())


@in_trio_clock
async def test_nobody_has_longer_than_ten_minutes() -> None:
    """A flow that nobody completes ends by itself."""
    async with running(House()) as house:
        before = trio.current_time()
        flow = house.signins.start(grant(), "device")
        with flow.held():
            end = await flow.outcome()

        assert FLOW_SECONDS == trio.current_time() - before
        assert isinstance(end, Refused)
        assert "expired" == end.trouble.kind


@in_trio_clock
async def test_a_device_code_that_ran_out_may_have_been_blocked() -> None:
    """A policy shows in the browser only: the person is told of it, and of the other ways; whoever noticed the time."""
    async with running(House()) as house:
        ends = []
        for early in (None, Refused(Trouble("expired", "the code has expired", "again"))):
            house.worker.early = early
            flow = house.signins.start(grant(), "device")
            with flow.held():
                ends.append(await flow.outcome())

        for end in ends:
            assert isinstance(end, Refused)
            assert "expired" == end.trouble.kind
            for word in ("authentication flows", "53003", "`cms login a@example.test --browser`", "--paste`"):
                assert word in end.trouble.hint


@pytest.mark.parametrize("method", ["browser", "paste"])
@in_trio_clock
async def test_a_sign_in_nobody_came_back_from_may_have_been_refused(method: str) -> None:
    """Whoever noticed the time: the approval that an administrator gives, and what to do with a number, are named."""
    async with running(House()) as house:
        ends = []
        for early in (None, Refused(Trouble("expired", "not in time", "again"))):
            house.worker.early = early
            flow = house.signins.start(grant(), method)
            with flow.held():
                ends.append(await flow.outcome())

        for end in ends:
            assert isinstance(end, Refused)
            assert "expired" == end.trouble.kind
            for word in (
                "`cms login a@",
                "need admin approval",
                "`cms admin-consent-url a@",
                "paste",
                "docs/troubleshooting.md",
            ):
                assert word in end.trouble.hint


@in_trio_clock
async def test_another_end_of_a_device_code_keeps_its_own_hint() -> None:
    """Only a code that ran out is explained so."""
    async with running(House()) as house:
        house.worker.early = REFUSED
        flow = house.signins.start(grant(), "device")
        with flow.held():
            assert REFUSED == await flow.outcome()


@in_trio_clock
async def test_a_sign_out_gives_the_flow_up() -> None:
    """What was signed out, or left the configuration, is not signed in by an old prompt."""
    async with running(House()) as house:
        flow = house.signins.start(grant(), "device")
        flow.keep()
        await flow.prompt()
        house.signins.forget(grant())
        house.signins.forget(OTHER)
        end = await flow.outcome()

    assert isinstance(end, Refused)


@in_trio_clock
async def test_a_flow_that_never_gets_to_a_prompt_ends_there() -> None:
    """prompt() gives the end where there was nothing to show."""
    async with running(House()) as house:
        house.worker.early = REFUSED
        flow = house.signins.start(grant(), "device")
        with flow.held():
            assert "" == house.signins.awaited(grant())
            assert REFUSED == await flow.prompt()


@in_trio_clock
async def test_stopping_ends_every_flow() -> None:
    """Whoever waits for a flow when cms stops is told an end."""
    house = House()
    async with running(house):
        flow = house.signins.start(grant(), "device")
        flow.keep()
        await flow.prompt()

    assert isinstance(flow.end, Refused)


# --- the page, while somebody waits; on a clock that jumps, and so without sockets ---

FIRST = grant("a@example.test", "http://127.0.0.1:8080/oauth2/msal")
SECOND = grant("b@example.test", "http://localhost:9090")
ANY_PORT = grant("c@example.test", "http://localhost/")
NOT_HERE = grant("d@example.test", "https://localhost")

AT_FIRST, AT_SECOND = Address("127.0.0.1", 8080, "/"), Address("localhost", 9090, "/")
AT_PAGE = Address("localhost", 7070, "/")


class Doors:
    """Stands for the listeners: which are open, and which somebody else has."""

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
async def page_for(*waiting: Grant) -> AsyncIterator[tuple[House, Doors, list[Grant]]]:
    """Give a house in which these wait, its doors, and who waits: change that list, and say so."""
    who = list(waiting)
    house, doors = House(lambda: who), Doors()
    house.signins._loopback = doors  # type: ignore[assignment]  # no real socket on a jumping clock
    async with running(house):
        yield house, doors, who


async def gathered() -> None:
    """Let the page come and go."""
    await trio.sleep(2 * signins.GATHER_SECONDS)


@in_trio_clock
async def test_the_page_is_up_as_long_as_somebody_waits() -> None:
    """It is at each one's redirect address, and goes with the last who waits there."""
    async with page_for(FIRST, SECOND) as (house, doors, waiting):
        await gathered()
        both = set(doors.opened)
        waiting.remove(FIRST)
        house.signins.changed()
        await gathered()
        one = list(doors.opened)
        waiting.clear()
        house.signins.changed()
        await gathered()

        assert ({AT_FIRST, AT_SECOND}, [AT_SECOND], []) == (both, one, doors.opened)
        waiting.append(FIRST)
        house.signins.changed()
        await gathered()

        assert [AT_FIRST] == doors.opened


@in_trio_clock
async def test_the_page_has_an_address_of_its_own() -> None:
    """It is at that as well, and people are told that one."""
    async with page_for(FIRST, ANY_PORT, NOT_HERE) as (house, doors, _):
        house.signins.page = "http://localhost:7070"
        house.signins.changed()
        await gathered()

        assert {AT_PAGE, AT_FIRST} == set(doors.opened)
        told = {each.login: house.signins.where(each) for each in (FIRST, ANY_PORT, NOT_HERE)}
        page = "http://localhost:7070/"
        assert {FIRST.login: page, ANY_PORT.login: page, NOT_HERE.login: ""} == told


@in_trio_clock
async def test_without_a_fixed_port_there_is_no_page_before_a_flow() -> None:
    """What nobody could find is not listened at; nor is a page for accounts that it cannot sign in."""
    async with page_for(ANY_PORT, NOT_HERE) as (house, doors, waiting):
        await gathered()
        none = list(doors.opened)
        waiting.remove(ANY_PORT)
        house.signins.page = "http://localhost:7070"
        house.signins.changed()
        await gathered()

        assert ([], [], "") == (none, doors.opened, house.signins.where(ANY_PORT))


@in_trio_clock
async def test_no_page_comes_for_those_whom_it_does_not_sign_in() -> None:
    """An account that is signed in with a code is named on a page that is there, and is no reason for one."""
    device = replace(FIRST, sign_in="device")
    async with page_for(device, SECOND) as (house, doors, waiting):
        await gathered()
        with_another = list(doors.opened), house.signins.where(device)
        waiting.remove(SECOND)
        house.signins.changed()
        await gathered()

        assert (([AT_SECOND], ""), []) == (with_another, doors.opened)


@in_trio_clock
async def test_a_port_in_use_is_told_once_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The log names who has it; when that program has gone, the page comes up by itself."""
    async with page_for(FIRST, SECOND) as (house, doors, _):
        doors.taken.add(AT_FIRST)
        await trio.sleep(5 * signins.RETRY_SECONDS)
        said, tries = capsys.readouterr().out, doors.tries
        elsewhere = house.signins.where(FIRST)
        doors.taken.clear()
        await trio.sleep(2 * signins.RETRY_SECONDS)

        assert (1, 1) == (said.count("cannot be shown"), said.count("in use by thief (pid 7)"))
        assert 4 < tries < 8
        assert AT_SECOND.url == elsewhere
        assert {AT_FIRST, AT_SECOND} == set(doors.opened)


@in_trio_clock
async def test_a_flow_shows_the_page_at_its_own_address() -> None:
    """Whether the grant waits or not, the page is there while its flow is under way."""
    async with page_for() as (house, doors, _):
        house.signins.page = "http://localhost:7070"
        flow = house.signins.start(ANY_PORT, "browser")
        with flow.held():
            await flow.prompt()

            assert ("http://localhost:7070/", 4242) == (flow.page, flow.address and flow.address.port)
            assert AT_PAGE in doors.opened
        await gathered()

        assert [] == doors.opened


@in_trio_clock
async def test_a_flow_goes_on_without_the_pages_own_address() -> None:
    """If somebody else has that port, the page is where the browser comes back to."""
    async with page_for() as (house, doors, _):
        house.signins.page = "http://localhost:7070"
        doors.taken.add(AT_PAGE)
        flow = house.signins.start(FIRST, "browser")
        with flow.held():
            await flow.prompt()

            assert AT_FIRST.url == flow.page


@in_trio_clock
async def test_the_page_stays_where_a_flow_ended_while_others_wait() -> None:
    """A walk through the accounts goes on at the port where the first ended; it ends with the last, or in ten minutes."""
    async with page_for(ANY_PORT, OTHER) as (house, doors, waiting):
        flow = house.signins.start(ANY_PORT, "browser")
        with flow.held():
            await flow.prompt()
            await flow.redirected({"code": "x"})
            await flow.outcome()
        await gathered()
        there = list(doors.opened)
        await trio.sleep(signins.WALK_SECONDS)

        assert ([4242], []) == ([each.port for each in there], doors.opened)
        await house.signins._here.start(house.signins._walk, AT_FIRST)
        waiting.clear()
        house.signins.changed()
        await gathered()

        assert [] == doors.opened


@in_trio
async def test_the_page_says_who_cannot_be_signed_in_there() -> None:
    """What wants no browser, or does not come back here, has the command instead of a button, and is not started."""
    device = replace(grant("e@example.test"), sign_in="device")
    begun = replace(grant("a@example.test"), sign_in="paste")
    odd = replace(grant("o'connor@example.test"), sign_in="device")
    async with browsing(lambda: [NOT_HERE, grant("", "https://localhost"), device, odd, begun]) as (house, flow):
        assert flow.address is not None
        _, page = await visit(flow, "/")
        origin = f"http://127.0.0.1:{flow.address.port}"
        for one in (NOT_HERE, device):
            status, _ = await visit(flow, "/start", method="POST", form=f"grant={one.key}", origin=origin)
            assert 404 == status

    assert "d@example.test: give `cms login d@example.test --paste` in a terminal" in page
    assert "whoever signs in: give `cms login --paste` in a terminal" in page
    assert "e@example.test: give `cms login e@example.test` in a terminal" in page
    (quoted,) = re.findall("give `(cms login [^`]*connor[^`]*)` in", html.unescape(page))
    assert ["cms", "login", "o'connor@example.test"] == shlex.split(quoted)
    # It has been begun in a browser all the same.
    assert "a@example.test: give" not in page
    assert 1 == len(house.worker.sessions)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("127.0.0.1", 80, True),
        ("LOCALHOST:80", 80, True),
        ("localhost", 8080, False),
        ("[::1]:8080", 8080, True),
        ("127.0.0.1:8081", 8080, False),
        ("localhost.evil.test:80", 80, False),
    ],
)
def test_a_host_is_this_machines_loopback_with_the_right_port(host: str, port: int, expected: bool) -> None:
    """Browsers leave out port 80, and no other."""
    assert expected == signins._is_ours(host, port)


# --- pasting ---


@asynccontextmanager
async def pasting() -> AsyncIterator[tuple[House, Flow]]:
    async with running(House()) as house:
        flow = house.signins.start(grant(), "paste")
        with flow.held():
            await flow.prompt()
            yield house, flow


GOOD = "code=the-code&state=state-of-a%40example.test"


@pytest.mark.parametrize(
    "address",
    [
        f"https://login.example.test/common/oauth2/nativeclient?{GOOD}",
        f"http://localhost/anything#{GOOD}",
        "  http://127.0.0.1:8080/oauth2/msal?code=the-\n  code&state=state-of-a%40example.test  ",
        GOOD,
        f"?{GOOD}",
        f"#{GOOD}",
        f"localhost:8080/?{GOOD}",
    ],
)
@in_trio_clock
async def test_an_address_is_taken_whatever_its_path(address: str) -> None:
    """Only state and code matter; broken lines and a fragment are fine."""
    async with pasting() as (house, flow):
        said = await flow.pasted(address)
        outcome = await flow.outcome()

    assert ("", GRANTED) == (said, outcome)
    assert "the-code" == house.worker.sessions[0].fields[0]["code"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the-code", "no state"),
        ("https://x.test/?code=the-code", "no state"),
        ("https://x.test/?code=the-code&state=other", "another sign-in"),
        ("https://x.test/?state=state-of-a%40example.test", "neither a code nor an error"),
        ("https://x.test/?code=1&code=2", "no address"),
        ("http://[", "no address"),
        ("x" * (MAX_PASTED + 1), "no address"),
        ("", "no state"),
        ("AADSTS", "no state"),
        ("Request Id: 12345678-aadd", "no state"),
    ],
)
@in_trio_clock
async def test_what_will_not_do_is_refused_with_a_sentence(text: str, words: str) -> None:
    """A code alone, another flow's address, or nonsense: the flow goes on waiting."""
    async with pasting() as (house, flow):
        said = await flow.pasted(text)

        assert words in said
        assert [] == house.worker.sessions[0].fields
        assert flow.end is None


@pytest.mark.parametrize(
    ("text", "number", "hint"),
    [
        ("AADSTS50105: Your administrator told <a>you</a> no.", 50105, "the administrator has to assign the user"),
        ("Message: aadsts90094: eve=1&x=2", 90094, "`cms admin-consent-url a@example.test`"),
        ("More details: Error Code: 53003 Request Id: 12345", 53003, "start again: `cms login a@example.test`"),
        ("AADSTS700016", 700016, "`cms login a@example.test`"),
        ("AADSTS99999", 99999, "`cms login a@example.test`"),
        ("https://x.test/?error=a&error_description=AADSTS65005&state=other", 65005, "registration"),
    ],
)
@in_trio_clock
async def test_an_error_page_is_explained(text: str, number: int, hint: str) -> None:
    """By its number, with the next move; no word of the page is repeated, and the flow goes on waiting."""
    async with pasting() as (house, flow):
        said = await flow.pasted(text)

        assert f"(AADSTS{number})" in said
        assert hint in said
        assert said.endswith("The sign-in still waits; Ctrl-C gives it up.")
        assert not [word for word in ("Your", "eve", "12345", "error_description") if word in said]
        assert ([], None) == (house.worker.sessions[0].fields, flow.end)
        assert "" == await flow.pasted(GOOD)


@in_trio_clock
async def test_an_address_with_an_error_is_the_end() -> None:
    """What Entra sends back goes to the worker, whose answer it is, though a number is in it."""
    fields = {"error": "access_denied", "error_description": "AADSTS65004: no", "state": "state-of-a@example.test"}
    async with pasting() as (house, flow):
        said = await flow.pasted(f"https://x.test/?{urlencode(fields)}")

    assert ("", [fields]) == (said, house.worker.sessions[0].fields)


@in_trio_clock
async def test_pasting_too_early_is_another_sign_in() -> None:
    """Before there is a prompt no address can be its end."""
    flow = Flow(grant(), "paste")
    await flow.redirected({"code": "x"})

    assert "another sign-in" in await flow.pasted(f"https://x.test/?{GOOD}")
