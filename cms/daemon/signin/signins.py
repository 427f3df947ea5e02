"""Every sign-in under way, one for each grant, and what the local page answers a browser.

A sign-in is a conversation with the grant worker that a person takes part in: it shows a `Prompt`, may bring back what
the browser was redirected with, and ends in an outcome. It is cancelled when the last client that waits for it leaves,
and after `FLOW_SECONDS` in any case. The worker keeps the verifier and the refresh token; they never come here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import trio

from cms.core import refusals
from cms.core.accounts import Grant, is_named
from cms.core.lifecycle import Granted, Outcome
from cms.daemon.registry import UNKNOWN, Registry
from cms.daemon.signin import pages
from cms.daemon.signin.cards import Card, Offer, card
from cms.daemon.signin.flow import FLOW_SECONDS, Flow, explained, given_up, in_words
from cms.daemon.signin.http import (
    BadHttp,
    Loopback,
    PageRequest,
    Response,
    UidOf,
    Unreachable,
    address_of,
    names_loopback,
    parse_fields,
)
from cms.daemon.signin.page_addresses import PageAddresses, obstacle, signs_in
from cms.daemon.signin.page_files import SCRIPT
from cms.daemon.worker import Worker
from cms.grants.messages import Prompt
from cms.system.logs import get_logger
from cms.system.tcp_owner import peer_uid
from cms_oauth.moves import Move, cms, fill
from cms_oauth.peer import ROOT

# How many sign-ins that are over a browser may load the last page of again.
REMEMBERED = 16
# How long `cms login` without a daemon waits for the last page to reach the browser before it ends.
SETTLE_SECONDS = 3.0

_NOT_YOURS = [
    "This page answers only the browser of the user who runs cms.",
    # A system's daemon runs as another user than the person at the desktop.
    "If your sign-in ended here: copy the address of this page, and paste it into the terminal where `cms login` waits.",
]
_OPEN_THE_OTHER = "Open the address that `cms login` shows."

log = get_logger()


class SignIns:
    """All sign-ins under way, and the local page: it lists the accounts that wait, with a button for each it can sign in.

    The worker carries a sign-in out; the registry names the accounts that wait, and is told of each prompt and outcome.
    `owner` is the uid whose browser may use the page.
    """

    def __init__(self, worker: Worker, registry: Registry, *, owner: int, uid_of: UidOf = peer_uid) -> None:
        self._worker = worker
        self._registry = registry
        refusal = Response(403, pages.ended("Not your page", _NOT_YOURS))
        self._loopback = Loopback(self._respond, uid_of=uid_of, allowed=(owner, ROOT), refusal=refusal)
        self.page = PageAddresses(self._loopback, registry)
        self._flows: dict[str, Flow] = {}
        self._over: deque[Flow] = deque(maxlen=REMEMBERED)
        self._nursery: trio.Nursery | None = None
        registry.awaited, registry.where = self.awaited, self.page.where
        registry.subscribe(lambda change: self.page.changed() if change.waiting else None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run sign-ins and the page. To cancel this cancels every sign-in."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self.page.run(nursery)

    def start(self, grant: Grant, method: str) -> Flow:
        """Return the grant's sign-in: the one under way if it has this method, else a new one that replaces it.

        One that its last client has left, and whose end takes a moment, is not joined any more.
        The caller holds it (`Flow.held`) as long as it wants it to live. Needs `run`.
        """
        instead = obstacle(grant) if method == "browser" else ""
        method = "paste" if instead else method
        flow = self._flows.get(grant.key)
        if flow and flow.scope.cancel_called:
            self._finish(flow, _cancelled(grant))
        elif flow and flow.method == method:
            return flow
        elif flow:
            self._finish(flow, given_up("cancelled", f"a newer sign-in with --{method} replaced this one", ""))
            flow.scope.cancel()
        flow = self._flows[grant.key] = Flow(grant, method)
        flow.instead = instead
        self._here.start_soon(self._carry, flow)
        return flow

    def awaited(self, grant: Grant) -> str:
        """Return what the grant's sign-in waits for, in words, "" if none is under way."""
        flow = self._flows.get(grant.key)
        return in_words(flow) if flow else ""

    def cancel(self, grant: Grant) -> None:
        """Cancel the grant's sign-in, if any: the grant was signed out, or left the configuration."""
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
        """Run a sign-in to its end, whatever that is."""
        outcome: Outcome = _cancelled(flow.grant)
        try:
            with flow.scope, trio.move_on_after(FLOW_SECONDS) as limit:
                outcome = await self._attempt(flow)
            if limit.cancelled_caught:
                minutes = int(FLOW_SECONDS / 60)
                outcome = given_up(
                    "expired", f"the sign-in was not completed within {minutes} minutes", _again(flow.grant)
                )
            outcome = explained(outcome, flow)
        finally:
            self._finish(flow, outcome)

    async def _attempt(self, flow: Flow) -> Outcome:
        if flow.method != "browser":
            return await flow.run(self._worker, flow.grant, self._registry.challenge(flow.grant), self._show)
        try:
            wanted = address_of(flow.grant.redirect_uri)
            async with AsyncExitStack() as stack:
                port = await stack.enter_async_context(self._loopback.open(wanted, self._here))
                flow.address = replace(wanted, port=port)
                flow.host = self._loopback.host(flow.address)
                flow.page = await self.page.open_beside(flow.address, stack, self._here)
                grant = flow.grant if wanted.port else replace(flow.grant, redirect_uri=flow.address.redirect_uri)
                outcome = await flow.run(self._worker, grant, self._registry.challenge(grant), self._show)
                if isinstance(outcome, Granted):
                    await self._here.start(self.page.stay, flow.address, self._here)
        except Unreachable as error:
            return given_up("cancelled", error.message, error.hint)
        return outcome

    def _show(self, flow: Flow) -> None:
        assert flow.prompted is not None, "shown when there is a prompt"
        log.warning("a sign-in waits for a person", account=flow.grant.login, do=in_words(flow))
        self._registry.prompted(flow.grant, flow.prompted)

    def _finish(self, flow: Flow, outcome: Outcome) -> None:
        """Tell the registry, the log and all who wait how a sign-in ended, once."""
        if flow.end is not None:
            return
        if self._flows.get(flow.grant.key) is flow:
            del self._flows[flow.grant.key]
        self._over.append(flow)
        if isinstance(outcome, Granted):
            log.info("signed in", account=flow.grant.login, who=outcome.sign_in.who)
        else:
            trouble = outcome.trouble
            log.warning("sign-in ended", account=flow.grant.login, reason=trouble.message, do=trouble.hint)
        self._registry.signed_in(flow.grant, outcome)
        flow.end = outcome
        flow.announce()
        self.page.changed()

    async def _respond(self, request: PageRequest, port: int) -> Response:
        """Answer one request of a browser."""
        if not names_loopback(request.headers.get("host", ""), port):
            return _told(400, "Unknown host", _OPEN_THE_OTHER)
        if (request.method, request.path) == ("GET", pages.SCRIPT_PATH):
            return Response(200, SCRIPT, "text/javascript")
        fields = parse_fields(request.query if request.method == "GET" else _text(request.body))
        if request.method == "POST" and request.path == pages.START_PATH:
            return await self._started(fields, request.headers.get("origin", ""), port)
        if request.method not in ("GET", "POST"):
            return _told(405, "Method not allowed", _OPEN_THE_OTHER)
        if "state" in fields:
            return await self._returned(fields, request.path, port)
        if request.path == "/":
            return Response(200, pages.front(*self._cards()))
        return _told(404, "Not found", _OPEN_THE_OTHER)

    async def _started(self, fields: Mapping[str, str], origin: str, port: int) -> Response:
        """Start the sign-in whose button was pressed. Only our own page may ask for that."""
        if not origin.startswith("http://") or not names_loopback(origin.removeprefix("http://"), port):
            return _told(403, "Not from this page", "Start the sign-in from the page itself.")
        grant = next((each for each in self._registry.waiting() if each.key == fields.get("grant")), None)
        if grant is None or not signs_in(grant):
            return _told(404, "Not waiting", "That account is no longer waiting for a sign-in.")
        flow = self.start(grant, "browser")
        flow.keep()
        shown = await flow.prompt()
        return Response(200, pages.onward(shown.url)) if isinstance(shown, Prompt) else self._ended(shown)

    async def _returned(self, fields: Mapping[str, str], path: str, port: int) -> Response:
        """Take what a browser was redirected with. The state says which of the port's sign-ins it belongs to."""
        known = [*self._flows.values(), *self._over]
        flow = next((each for each in known if each.returns(fields["state"], path, port)), None)
        if flow is None:
            return _told(400, "Not under way", "This sign-in is over, or was not started here.")
        # A page that is loaded again brings the same fields, and gets the same answer.
        await flow.redirected(fields)
        return self._ended(await flow.outcome())

    def _ended(self, outcome: Outcome) -> Response:
        if isinstance(outcome, Granted):
            said = [f"{outcome.sign_in.who or 'The account'} is signed in. You can close this page."]
            return Response(200, pages.ended("Signed in", said, *self._cards()))
        trouble = outcome.trouble
        return Response(200, pages.ended("Not signed in", [trouble.message, trouble.hint], *self._cards()))

    def _cards(self) -> tuple[list[Card], int]:
        """Return what the page says of the accounts, those first that a person can sign in, and how many it leaves out."""
        prompts = {flow.grant.key: flow.prompted for flow in self._flows.values() if flow.prompted}
        links = {key: prompts[key].url for key, flow in self._flows.items() if flow.page and key in prompts}
        waiting = {grant.key for grant in self._registry.waiting()} | links.keys()
        # Of those that share a sign-in, who signs in has the button.
        accounts = sorted(
            self._registry.config.accounts,
            key=lambda each: (
                each.grant.key not in waiting,
                bool(each.grant.login) and not is_named(each.user, each.grant.login),
            ),
        )
        cards, offered = list[Card](), set[str]()
        for account in accounts[: pages.MOST_CARDS]:
            grant, key = account.grant, account.grant.key
            rows, instead, offer = self._registry.rows([account]), "", None
            label = rows[0].user or UNKNOWN
            if key in offered:
                instead = f"It is signed in together with {grant.login or UNKNOWN}."
            elif key in links or (key in waiting and signs_in(grant)):
                offered.add(key)
                offer = Offer(key, grant.login or UNKNOWN, links.get(key, ""))
            elif key in prompts and prompts[key].complete_url:
                offered.add(key)
                offer = Offer(key, grant.login or UNKNOWN, prompts[key].complete_url)
                instead = f"The page there shows the code {prompts[key].user_code}, or asks for it."
            elif key in waiting and not self.awaited(grant):
                command = cms("login", grant.login, "--paste" if grant.sign_in == "browser" else "")
                instead = fill("Run {login} in a terminal.", {"login": command})
            cards.append(card(label, rows, offer, instead))
        return cards, max(0, len(accounts) - pages.MOST_CARDS)


def _cancelled(grant: Grant) -> Outcome:
    return given_up("cancelled", "the sign-in was cancelled", _again(grant))


def _again(grant: Grant) -> Move:
    return refusals.hint("start again with {login}", grant)


def _told(status: int, title: str, line: str) -> Response:
    return Response(status, pages.ended(title, [line]))


def _text(body: bytes) -> str:
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise BadHttp("a form is ASCII") from None
