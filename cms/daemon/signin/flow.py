"""TODO(docstring) cms.daemon.signin.flow."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from typing import Protocol
from urllib.parse import urlsplit

import trio

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Outcome, Refused, Trouble
from cms.daemon.signin.http import (
    Address,
    BadHttp,
    parse_fields,
)
from cms.grants.messages import Prompt

# Long enough to find a phone and a password; an authorization code lives for 10 minutes itself.
FLOW_SECONDS = 600.0
# The longest address that a browser ends at: a code, a state and a session state.
MAX_PASTED = 16 * 1024


class Session(Protocol):
    """A sign-in that the grant worker carries out. Nothing here raises for what Entra or the worker did."""

    async def prompt(self) -> Prompt | Outcome: ...
    async def redirected(self, fields: Mapping[str, str]) -> None: ...
    async def outcome(self) -> Outcome: ...


SignIn = Callable[[Grant, str], AbstractAsyncContextManager[Session]]


def given_up(kind: str, message: str, hint: str = "start again with `cms login`") -> Refused:
    return Refused(Trouble(kind, message, hint))


# Entra tells the browser, and answers the device that polls as if nobody had come yet (Microsoft, "Conditional Access:
# Authentication flows").
_BLOCKED = (
    'organisations often block this way of signing in (a policy on "authentication flows"): the browser then shows '
    "AADSTS53003 or says that access is blocked, and nothing of that arrives here. The other ways: {login --browser} "
    "and {login --paste}. Or start again: {login --device}"
)


# Most refusals stay on a page of Entra's, which never leads back here.
_STAYED = (
    'start again: {login}. If the browser said "need admin approval", give the administrator the address that '
    "{consent} prints. If it showed an error with a number, such as AADSTS50105, paste that into the terminal while "
    "{login} waits, or look the number up in docs/troubleshooting.md"
)
_EXPIRED = {"device": _BLOCKED, "browser": _STAYED, "paste": _STAYED}

_WAITS_ON = "The sign-in still waits; Ctrl-C gives it up."


def explained(outcome: Outcome, flow: Flow) -> Outcome:
    """Say what may be behind a sign-in that nobody came back from."""
    text = _EXPIRED.get(flow.method)
    if text and isinstance(outcome, Refused) and outcome.trouble.kind == "expired":
        return Refused(replace(outcome.trouble, hint=refusals.hint(text, flow.grant)))
    return outcome


class Flow:
    """One sign-in under way, or just over. `method` is one of `METHODS`."""

    def __init__(self, grant: Grant, method: str) -> None:
        self.grant = grant
        self.method = method
        self.address: Address | None = None
        # The IP address that is listened at for it, "" for none: a machine may have one kind only.
        self.host = ""
        # The local page of a browser's flow; "" for other flows.
        self.page = ""
        # Why this is not the method that was asked for, "" if it is.
        self.instead = ""
        self.prompted: Prompt | None = None
        self.scope = trio.CancelScope()
        self.end: Outcome | None = None
        self._session: Session | None = None
        self._holders = 0
        self._redirected = False
        self._changed = trio.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the flow alive while the block runs."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self.scope.cancel()

    def keep(self) -> None:
        """Keep the flow alive to its end: a browser started it, and browsers do not say when they leave."""
        self._holders += 1

    async def prompt(self) -> Prompt | Outcome:
        """Return what a person must do, or the end of a flow that never came so far."""
        while True:
            known = self.end or self.prompted
            if known:
                return known
            await self._changed.wait()

    async def outcome(self) -> Outcome:
        """Return how the sign-in ended."""
        while self.end is None:
            await self._changed.wait()
        return self.end

    def brings(self, state: str) -> bool:
        """Whether this flow waits for a redirect with this state."""
        return self.end is None and self._has(state)

    def returns(self, state: str, path: str, port: int) -> bool:
        """Whether a redirect with this state at exactly this place is this flow's, under way or over."""
        here = self.address is not None and (self.address.path, self.address.port) == (path, port)
        return here and self._has(state)

    def _has(self, state: str) -> bool:
        expected = self.prompted.state if self.prompted else ""
        return bool(expected) and hmac.compare_digest(expected.encode(), state.encode())

    async def redirected(self, fields: Mapping[str, str]) -> None:
        """Hand on what the browser brought. Only the first time counts: browsers repeat requests."""
        if self._session is None or self._redirected or self.end is not None:
            return
        self._redirected = True
        await self._session.redirected(fields)

    async def pasted(self, text: str) -> str:
        """Hand on the address that a browser ended at. Returns "", or what is wrong with it in words for a person.

        An error that the browser shows instead is explained, by its number alone.
        """
        try:
            fields: Mapping[str, str] | None = _pasted_fields(text)
        except BadHttp:
            fields = None
        if not (fields and self.brings(fields.get("state", ""))):
            shown = refusals.of_page(text[:MAX_PASTED], self.grant)
            if shown:
                return f"{shown.message}\n{shown.hint}\n{_WAITS_ON}"
        if fields is None:
            return "that is no address that a sign-in ends at: copy it from the browser's address bar, whole"
        if "state" not in fields:
            return "the address has no state in it: paste all of it, not the code alone"
        if not self.brings(fields["state"]):
            return "that address is the end of another sign-in: open the link above, then paste where that one ends"
        if not {"code", "error"} & fields.keys():
            return "the address has neither a code nor an error in it: paste the one that the browser ends at"
        await self.redirected(fields)
        return ""

    async def run(self, sign_in: SignIn, grant: Grant, show: Callable[[Flow], None]) -> Outcome:
        """Carry the sign-in out, with `grant` as it is to be redirected to; return how it ended."""
        async with sign_in(grant, self.method) as session:
            shown = await session.prompt()
            if not isinstance(shown, Prompt):
                return shown
            self._session = session
            self.prompted = shown
            self.announce()
            show(self)
            return await session.outcome()

    def announce(self) -> None:
        """Wake whoever waits for a prompt or an end."""
        self._changed.set()
        self._changed = trio.Event()


def _pasted_fields(text: str) -> dict[str, str]:
    """Return the fields of a pasted address. Terminals and mail break long lines: white space in it means nothing."""
    if len(text) > MAX_PASTED:
        raise BadHttp("too long")
    address = "".join(text.split())
    try:
        parts = urlsplit(address)
    except ValueError:
        raise BadHttp("not an address") from None
    # Without a scheme it is what stands behind the question mark, as some browsers copy it.
    return parse_fields(parts.query or parts.fragment or (parts.path.lstrip("?#") if not parts.scheme else ""))


def in_words(flow: Flow) -> str:
    """Return what a person must do for a flow to go on; "" when nothing yet."""
    shown = flow.prompted
    if shown is None:
        return ""
    if flow.page:
        return f"open {flow.page} in a browser on this machine"
    if flow.method == "broker":
        return "sign in in the window that Microsoft's broker has opened on this machine's desktop"
    if shown.user_code:
        return f"open {shown.url} anywhere and enter {shown.user_code}"
    return f"open {shown.url} anywhere and give `cms login --paste` the address that the browser ends at"
