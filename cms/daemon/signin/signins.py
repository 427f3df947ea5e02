"""Signing in: one flow for each Grant, and the local page for a browser, up only as long as somebody waits for one.

A flow is a conversation with the grant worker that a person takes part in: it shows a `Prompt`, may bring back what
the browser was redirected with, and ends in an outcome. Whoever asked for it holds it; it is given up when its last
holder leaves, and after `FLOW_SECONDS` in any case. Neither verifier nor token ever comes here.

The page is at `SignIns.page`, if the configuration names an address, and at the redirect address of every account that
waits, where that has a port. An address without one is listened at while its flow is under way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import trio

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome
from cms.core.policy import ROOT
from cms.daemon.signin import pages
from cms.daemon.signin.flow import FLOW_SECONDS, Flow, SignIn, explained, given_up, in_words
from cms.daemon.signin.http import (
    Address,
    BadHttp,
    Loopback,
    Request,
    Response,
    UidOf,
    Unreachable,
    address_of,
    parse_fields,
)
from cms.grants.messages import Prompt
from cms.system.logs import get_logger
from cms.system.tcp_owner import peer_uid
from cms_oauth.moves import cms, fill

# How long the page stays for the other accounts that wait after one has been signed in.
WALK_SECONDS = 600.0
# What a port that somebody else holds is tried again after.
RETRY_SECONDS = 30.0
# A thousand accounts at a start are one change, not a thousand.
GATHER_SECONDS = 0.1
# How many sign-ins that are over a browser may load the last page of again.
REMEMBERED = 16
# How long the answer to a browser that has just signed in may delay the end of `cms login` without a daemon.
SETTLE_SECONDS = 3.0

HTTP_PORT = 80

_STRANGER = "this page answers only the browser of the user who runs cms"
# As with a daemon that is the system's: the desktop's user and the daemon's are two.
_ELSEWHERE = (
    "if a sign-in has ended here: copy the address of this page, and paste it into the terminal where `cms login` waits"
)


class SignIns:
    """All sign-ins under way, and the local page, which names everybody who waits and signs in whom it can.

    `sign_in` starts one in the worker; `signed_in` is told how each ended, `prompted` of each prompt, for the hooks; `waiting` gives the grants that a person has to sign in; `status` the text that the page shows. `owner` is the uid
    whose browser may use the page. Call `changed` when `waiting` or `page` has another answer.
    """

    def __init__(
        self,
        sign_in: SignIn,
        *,
        owner: int,
        signed_in: Callable[[Grant, Outcome], None],
        prompted: Callable[[Grant, Prompt], None] = lambda _grant, _prompt: None,
        waiting: Callable[[], Sequence[Grant]] = tuple,
        status: Callable[[], str] = str,
        uid_of: UidOf = peer_uid,
    ) -> None:
        self._sign_in = sign_in
        self._signed_in = signed_in
        self._prompted = prompted
        self._waiting = waiting
        self._status = status
        stranger = Response(403, pages.ended("Not your page", [_STRANGER, _ELSEWHERE]))
        self._loopback = Loopback(self._respond, uid_of=uid_of, serves=(owner, ROOT), otherwise=stranger)
        # The page's own address, "" for none: see `cms.config.Config.page`.
        self.page = ""
        self._flows: dict[str, Flow] = {}
        self._over: deque[Flow] = deque(maxlen=REMEMBERED)
        # Where the page is up for whoever waits, and what ends that.
        self._doors: dict[Address, trio.CancelScope] = {}
        # Where it could not be, which has been said.
        self._barred: set[Address] = set()
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._log = get_logger()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what flows and the page need alive; cancel it to give up every sign-in."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._keep_page()

    def start(self, grant: Grant, method: str) -> Flow:
        """Return the grant's flow: the one under way if it is of this method, else a new one in its place.

        The caller holds it (`Flow.held`) as long as it wants it to live. Needs `run`.
        """
        instead = _not_here(grant) if method == "browser" else ""
        method = "paste" if instead else method
        flow = self._flows.get(grant.key)
        if flow and flow.method == method:
            return flow
        if flow:
            self._finish(flow, given_up("cancelled", f"another sign-in took its place, with --{method}", ""))
            flow.scope.cancel()
        flow = self._flows[grant.key] = Flow(grant, method)
        flow.instead = instead
        self._here.start_soon(self._carry, flow)
        return flow

    def awaited(self, grant: Grant) -> str:
        """Return what the grant's sign-in waits for, in words; "" when there is none."""
        flow = self._flows.get(grant.key)
        return in_words(flow) if flow else ""

    def where(self, grant: Grant) -> str:
        """Return the address of the page at which this grant can be signed in now, "" where there is none."""
        if not self._doors or not _by_the_page(grant):
            return ""
        own = self._own_page()
        return (own if own in self._doors else next(iter(self._doors))).url

    def changed(self) -> None:
        """Have the page come and go with those who wait."""
        self._news.set()
        self._news = trio.Event()

    def forget(self, grant: Grant) -> None:
        """Give up the grant's sign-in, if any: it was signed out, or left the configuration."""
        flow = self._flows.get(grant.key)
        if flow:
            flow.scope.cancel()

    async def settle(self) -> None:
        """Wait a moment for pages that are on their way to a browser."""
        with trio.move_on_after(SETTLE_SECONDS):
            await self._loopback.idle()

    @property
    def _here(self) -> trio.Nursery:
        assert self._nursery is not None, "sign-ins live inside run()"
        return self._nursery

    async def _carry(self, flow: Flow) -> None:
        """Run a flow to its end, whatever that is."""
        outcome: Outcome = given_up("cancelled", "the sign-in was given up")
        try:
            with flow.scope, trio.move_on_after(FLOW_SECONDS) as limit:
                outcome = await self._attempt(flow)
            if limit.cancelled_caught:
                minutes = int(FLOW_SECONDS / 60)
                outcome = given_up("expired", f"nobody completed the sign-in within {minutes} minutes")
            outcome = explained(outcome, flow)
        finally:
            self._finish(flow, outcome)

    async def _attempt(self, flow: Flow) -> Outcome:
        if flow.method != "browser":
            return await flow.run(self._sign_in, flow.grant, self._show)
        try:
            wanted = address_of(flow.grant.redirect_uri)
            async with AsyncExitStack() as doors:
                port = await doors.enter_async_context(self._loopback.open(wanted, self._here))
                flow.address = replace(wanted, port=port)
                flow.host = self._loopback.host(flow.address)
                flow.page = await self._page_beside(flow.address, doors)
                grant = flow.grant if wanted.port else replace(flow.grant, redirect_uri=flow.address.redirect_uri)
                outcome = await flow.run(self._sign_in, grant, self._show)
                if isinstance(outcome, Granted):
                    await self._here.start(self._walk, flow.address)
        except Unreachable as error:
            return given_up("cancelled", error.message, error.hint)
        return outcome

    async def _page_beside(self, address: Address, doors: AsyncExitStack) -> str:
        """Return where the page is while a flow comes back to `address`: at its own address, if that can be had."""
        own = self._own_page()
        if own:
            try:
                await doors.enter_async_context(self._loopback.open(own, self._here))
            except Unreachable as error:
                self._log.warning("the sign-in page is not at its address", page=own.url, reason=error.message)
            else:
                return own.url
        return address.url

    async def _walk(self, address: Address, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the page where a flow ended, for a person who signs several accounts in, one after the other."""
        with trio.move_on_after(WALK_SECONDS):
            async with self._loopback.open(address, self._here):
                task_status.started()
                while any(map(_by_the_page, self._waiting())):
                    await self._news.wait()

    # The page, while somebody waits.

    async def _keep_page(self) -> None:
        """Listen at every address that `_wanted` names, and at no other, until cancelled."""
        while True:
            news = self._news
            wanted = self._wanted()
            for address in [*self._doors]:
                if address not in wanted:
                    self._doors.pop(address).cancel()
            self._barred &= wanted.keys()
            for address in wanted:
                if address not in self._doors:
                    await self._here.start(self._be_at, address)
            with trio.move_on_after(RETRY_SECONDS if self._barred else math.inf):
                await news.wait()
            await trio.sleep(GATHER_SECONDS)

    def _wanted(self) -> dict[Address, None]:
        """Return where a browser may look for the page now, in the order of what people are told first."""
        waiting = [grant for grant in self._waiting() if _by_the_page(grant)]
        own = [self._own_page()] if waiting else []
        return dict.fromkeys(filter(None, [*own, *(_fixed(grant.redirect_uri) for grant in waiting)]))

    def _own_page(self) -> Address | None:
        return replace(address_of(self.page), path="/") if self.page else None

    async def _be_at(self, address: Address, *, task_status: trio.TaskStatus[None]) -> None:
        """Have the page at an address until cancelled; say once who is in the way."""
        try:
            with trio.CancelScope() as scope:
                async with self._loopback.open(address, self._here):
                    self._doors[address] = scope
                    self._barred.discard(address)
                    self._log.info("the sign-in page is up: accounts wait for a browser", page=address.url)
                    task_status.started()
                    await trio.sleep_forever()
        except Unreachable as error:
            if address not in self._barred:
                self._log.warning("the sign-in page cannot be shown", reason=error.message, do=error.hint)
            self._barred.add(address)
            task_status.started()

    def _show(self, flow: Flow) -> None:
        assert flow.prompted is not None, "shown when there is a prompt"
        self._log.warning("a sign-in waits for a person", account=flow.grant.login, do=in_words(flow))
        self._prompted(flow.grant, flow.prompted)

    def _finish(self, flow: Flow, outcome: Outcome) -> None:
        """Make an end known, once."""
        if flow.end is not None:
            return
        if self._flows.get(flow.grant.key) is flow:
            del self._flows[flow.grant.key]
        self._over.append(flow)
        if isinstance(outcome, Granted):
            self._log.info("signed in", account=flow.grant.login, who=outcome.sign_in.who)
        else:
            trouble = outcome.trouble
            self._log.warning("sign-in ended", account=flow.grant.login, reason=trouble.message, do=trouble.hint)
        self._signed_in(flow.grant, outcome)
        flow.end = outcome
        flow.announce()
        self.changed()

    async def _respond(self, request: Request, port: int) -> Response:
        """Answer one request of a browser."""
        if not _is_ours(request.headers.get("host", ""), port):
            return _told(400, "Not this host", "open the address that `cms login` shows")
        fields = parse_fields(request.query if request.method == "GET" else _text(request.body))
        if request.method == "POST" and request.path == pages.START_PATH:
            return await self._started(fields, request.headers.get("origin", ""), port)
        if request.method not in ("GET", "POST"):
            return _told(405, "Not that way", "open the address that `cms login` shows")
        if "state" in fields:
            return await self._returned(fields, request.path, port)
        if request.path == "/":
            offers = self._offers()
            return Response(200, pages.front(offers, self._status(), self._named_elsewhere(offers)))
        return _told(404, "Nothing here", "open the address that `cms login` shows")

    async def _started(self, fields: Mapping[str, str], origin: str, port: int) -> Response:
        """Start the flow that a person chose on the page. Only our own page may ask for that."""
        if not _is_ours(origin.removeprefix("http://"), port) or not origin.startswith("http://"):
            return _told(403, "Not from this page", "start the sign-in from the page itself")
        grant = next((each for each in self._waiting() if each.key == fields.get("grant")), None)
        if grant is None or not _by_the_page(grant):
            return _told(404, "Nobody waits", "that account does not wait for a sign-in any more")
        flow = self.start(grant, "browser")
        flow.keep()
        shown = await flow.prompt()
        return Response(200, pages.onward(shown.url)) if isinstance(shown, Prompt) else self._ended(shown)

    async def _returned(self, fields: Mapping[str, str], path: str, port: int) -> Response:
        """Take what a browser was redirected with; every flow of the port is told apart by its state."""
        known = [*self._flows.values(), *self._over]
        flow = next((each for each in known if each.returns(fields["state"], path, port)), None)
        if flow is None:
            return _told(400, "Not under way", "this sign-in is over, or was never started here")
        # A page that is loaded again brings the same once more, and is answered the same.
        await flow.redirected(fields)
        return self._ended(await flow.outcome())

    def _ended(self, outcome: Outcome) -> Response:
        if isinstance(outcome, Granted):
            said = [f"{outcome.sign_in.who or 'The account'} is signed in; this page can be closed."]
            return Response(200, pages.ended("Signed in", said, self._offers()))
        trouble = outcome.trouble
        return Response(200, pages.ended("Not signed in", [trouble.message, trouble.hint], self._offers()))

    def _offers(self) -> list[pages.Offer]:
        """Return the accounts that wait, those under way with where they go on."""
        under_way = [flow for flow in self._flows.values() if flow.page and flow.prompted]
        offers = {flow.grant.key: _offer(flow.grant, flow.prompted.url if flow.prompted else "") for flow in under_way}
        waiting = filter(_by_the_page, self._waiting())
        return [*offers.values(), *(_offer(grant) for grant in waiting if grant.key not in offers)]

    def _named_elsewhere(self, offers: Sequence[pages.Offer]) -> list[str]:
        """Say of the accounts that wait, and that the page does not sign in, what does."""
        here = {offer.key for offer in offers}
        return [_elsewhere(grant) for grant in self._waiting() if grant.key not in here]


def _not_here(grant: Grant) -> str:
    """Say that a grant's redirect address is not on this machine, "" if it is."""
    try:
        address_of(grant.redirect_uri)
    except Unreachable as error:
        return error.message
    return ""


def _by_the_page(grant: Grant) -> bool:
    """Whether the page signs a grant in: its person wants a browser, and that comes back to this machine."""
    return grant.sign_in == "browser" and not _not_here(grant)


def _elsewhere(grant: Grant) -> str:
    """Return the command for an account that the page does not sign in. Its own way is what `cms login` takes."""
    command = cms("login", grant.login, "--paste" if grant.sign_in == "browser" else "")
    return fill("{who}: give {login} in a terminal", {"who": grant.login or "whoever signs in", "login": command})


def _fixed(redirect_uri: str) -> Address | None:
    """Return where the page is beside a redirect address, None if its port is not fixed."""
    address = address_of(redirect_uri)
    return replace(address, path="/") if address.port else None


def _offer(grant: Grant, url: str = "") -> pages.Offer:
    return pages.Offer(grant.key, grant.login or "whoever signs in", url)


def _told(status: int, title: str, line: str) -> Response:
    return Response(status, pages.ended(title, [line]))


def _text(body: bytes) -> str:
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise BadHttp("a form is ASCII") from None


def _is_ours(host: str, port: int) -> bool:
    """Whether a Host names this machine's loopback: a name that only resolves to it is somebody's DNS rebinding."""
    # Browsers leave out the port that is HTTP's own.
    ends = (f":{port}", "") if port == HTTP_PORT else (f":{port}",)
    return host.lower() in {name + end for name in ("127.0.0.1", "localhost", "[::1]") for end in ends}
