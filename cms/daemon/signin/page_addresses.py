"""Where the local sign-in page listens, and for how long: only at addresses that some account needs."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import lru_cache

import trio

from cms.core.accounts import Grant
from cms.daemon.registry import Registry
from cms.daemon.signin.http import Address, Loopback, Unreachable, address_of
from cms.system.logs import get_logger

# How long the page stays where a sign-in ended, for the other accounts that wait.
STAY_SECONDS = 600.0
# How long the page stays after the last account has signed in: a person sees there that all is well.
LINGER_SECONDS = 120.0
# How often to try a port again that another program holds.
RETRY_SECONDS = 30.0
# A thousand accounts at a start are one change, not a thousand.
GATHER_SECONDS = 0.1

log = get_logger()


class PageAddresses:
    """Opens and closes the page as accounts begin and cease to wait for a sign-in.

    While an account waits that the page can sign in, and for `LINGER_SECONDS` after that, the page is at the address that
    the configuration gives it, and at the redirect address of each such account that has a port. Call `changed` when the
    registry has other accounts that wait, or another configuration.
    """

    def __init__(self, loopback: Loopback, registry: Registry) -> None:
        self._loopback = loopback
        self._registry = registry
        # Where the page is up for accounts that wait, and what ends that.
        self._open: dict[Address, trio.CancelScope] = {}
        # Until when it lingers where no account waits for it any more.
        self._ends: dict[Address, float] = {}
        # Where it could not be opened, which is in the log.
        self._taken: set[Address] = set()
        self._news = trio.Event()

    async def run(self, nursery: trio.Nursery) -> None:
        """Listen at every address where the page is needed, and at no other, until cancelled."""
        while True:
            news = self._news
            needed = self._needed()
            now = trio.current_time()
            self._ends = {each: self._ends.get(each, now + LINGER_SECONDS) for each in self._open if each not in needed}
            for address in [each for each, end in self._ends.items() if end <= now]:
                del self._ends[address]
                self._open.pop(address).cancel()
            self._taken &= needed.keys()
            for address in needed:
                if address not in self._open:
                    await nursery.start(self._show_at, address, nursery)
            next_look = min(self._ends.values(), default=math.inf)
            with trio.move_on_at(min(next_look, now + RETRY_SECONDS) if self._taken else next_look):
                await news.wait()
            await trio.sleep(GATHER_SECONDS)

    def changed(self) -> None:
        """Look again where the page is needed."""
        self._news.set()
        self._news = trio.Event()

    def where(self, grant: Grant) -> str:
        """Return the address of the page at which this grant can be signed in now, "" if there is none."""
        if not self._open or not signs_in(grant):
            return ""
        own = self._own()
        return (own if own in self._open else next(iter(self._open))).url

    async def open_beside(self, redirect: Address, stack: AsyncExitStack, nursery: trio.Nursery) -> str:
        """Return the page's address during a sign-in that comes back to `redirect`: its own if it can be opened."""
        own = self._own()
        if own:
            try:
                await stack.enter_async_context(self._loopback.open(own, nursery))
            except Unreachable as error:
                log.warning("the sign-in page is not at its address", page=own.url, reason=error.message)
            else:
                return own.url
        return redirect.url

    async def stay(self, address: Address, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep the page where a sign-in ended, for a person who signs in several accounts, one after the other."""
        async with self._loopback.open(address, nursery):
            task_status.started()
            with trio.move_on_after(STAY_SECONDS - LINGER_SECONDS):
                while any(map(signs_in, self._registry.waiting())):
                    await self._news.wait()
            await trio.sleep(LINGER_SECONDS)

    def _needed(self) -> dict[Address, None]:
        """Return where a browser may look for the page now; people are told the first."""
        # Each address once: ten thousand accounts that wait have a few.
        waiting = dict.fromkeys(grant.redirect_uri for grant in self._registry.waiting() if signs_in(grant))
        redirects = [address_of(redirect_uri) for redirect_uri in waiting]
        fixed = [replace(address, path="/") for address in redirects if address.port]
        own = self._own() if waiting else None
        return dict.fromkeys([own, *fixed] if own else fixed)

    def _own(self) -> Address | None:
        page = self._registry.config.page
        return replace(address_of(page), path="/") if page else None

    async def _show_at(self, address: Address, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        """Have the page at an address until cancelled. If another program is there, log it once."""
        try:
            with trio.CancelScope() as scope:
                async with self._loopback.open(address, nursery):
                    self._open[address] = scope
                    self._taken.discard(address)
                    log.info("the sign-in page is up: accounts wait for a browser", page=address.url)
                    task_status.started()
                    await trio.sleep_forever()
        except Unreachable as error:
            if address not in self._taken:
                log.warning("the sign-in page cannot be shown", reason=error.message, do=error.hint)
            self._taken.add(address)
            task_status.started()


def signs_in(grant: Grant) -> bool:
    """Whether the page can sign a grant in: it is for a browser, which comes back to this machine."""
    return grant.sign_in == "browser" and not obstacle(grant)


def obstacle(grant: Grant) -> str:
    """Return why a grant's redirect address does not lead to this machine, "" if it does."""
    return _obstacle(grant.redirect_uri)


@lru_cache
def _obstacle(redirect_uri: str) -> str:
    try:
        address_of(redirect_uri)
    except Unreachable as error:
        return error.message
    return ""
