"""One sign-in that a person takes part in: what they must do, what the browser or a paste brought back, how it ended."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import trio

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Outcome, Refused, Trouble
from cms.daemon.signin.http import Address, BadHttp, parse_fields
from cms.daemon.worker import SignInSession, Worker
from cms.grants.messages import Prompt
from cms_oauth.microsoft import has_lost_the_code
from cms_oauth.moves import Move, Run, cms

# Enough time to find a phone and a password. An authorization code is valid for 10 minutes too.
FLOW_SECONDS = 600.0
# The address that a browser ends at holds a code, a state and a session state.
MAX_PASTED = 16 * 1024


def given_up(kind: str, message: str, hint: str) -> Refused:
    return Refused(Trouble(kind, message, hint))


# Entra tells only the browser. The device that polls hears "authorization pending" until its code expires (Microsoft,
# "Conditional Access: Authentication flows").
_BLOCKED = (
    'organisations often block this way of signing in (a policy on "authentication flows"): the browser then shows '
    "AADSTS53003 or says that access is blocked, and nothing of that arrives here. The other ways: {login --browser} "
    "and {login --paste}. Or start again: {login --device}"
)


# Most refusals are shown on a page of Entra's, which does not redirect back to cms.
_STAYED = (
    'start again: {login}. If the browser said "need admin approval", give the administrator the address that '
    "{consent} prints. If it showed an error with a number, such as AADSTS50105, paste that into the terminal while "
    "{login} waits, or look the number up in docs/troubleshooting.md"
)
# Of another provider's pages nothing is known but that people see them.
_SEEN = "start again: {login}. If the browser showed an error, look for its words in docs/troubleshooting.md"
_EXPIRED = {"device": _BLOCKED, "browser": _STAYED, "paste": _STAYED}

# What a pasted address says when Microsoft's own page was the redirect address.
_TAKEN = (
    "Microsoft's page has taken the code out of this address, as it does since January 2026: nothing that can be pasted "
    "from there signs you in."
)
_TAKEN_HINT = (
    "What works: {login --device}; or a redirect address on this machine: register http://localhost with the application, "
    'set redirect_uri="http://localhost" of the account, then {reload, login}'
)

_STILL_WAITING = "The sign-in is still waiting. Ctrl-C cancels it."


def explained(outcome: Outcome, flow: Flow) -> Outcome:
    """Add the likely reasons to a sign-in that expired: the browser may have shown one that cms did not see."""
    text = _SEEN if flow.grant.server else _EXPIRED.get(flow.method)
    if text and isinstance(outcome, Refused) and outcome.trouble.kind == "expired":
        return Refused(replace(outcome.trouble, hint=refusals.hint(text, flow.grant)))
    return outcome


class Flow:
    """One sign-in, under way or just over. `method` is one of `METHODS`.

    Each client that waits for it holds it; when the last one leaves, it is cancelled.
    """

    def __init__(self, grant: Grant, method: str) -> None:
        self.grant = grant
        self.method = method
        self.address: Address | None = None
        # The IP address that cms listens on for its redirect, "" for none. A machine may have IPv4 or IPv6 only.
        self.host = ""
        # The address of the local page if the method is "browser", else "".
        self.page = ""
        # Why this is another method than the one that was asked for, "" if it is the same.
        self.instead = ""
        self.prompted: Prompt | None = None
        self.scope = trio.CancelScope()
        self.end: Outcome | None = None
        self._session: SignInSession | None = None
        self._holders = 0
        self._redirected = False
        self._changed = trio.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the sign-in alive while the block runs."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self.scope.cancel()

    def keep(self) -> None:
        """Keep the sign-in alive to its end: a browser started it, and a browser does not say when it is closed."""
        self._holders += 1

    async def prompt(self) -> Prompt | Outcome:
        """Return what a person must do, or the outcome if the sign-in ended before it asked for anything."""
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
        """Whether this sign-in is waiting for a redirect with this state."""
        return self.end is None and self._has(state)

    def returns(self, state: str, path: str, port: int) -> bool:
        """Whether a redirect with this state to exactly this place belongs to this sign-in, under way or over."""
        here = self.address is not None and (self.address.path, self.address.port) == (path, port)
        return here and self._has(state)

    def _has(self, state: str) -> bool:
        expected = self.prompted.state if self.prompted else ""
        # What was pasted may hold lone surrogates.
        return bool(expected) and hmac.compare_digest(expected.encode(), state.encode(errors="surrogatepass"))

    async def redirected(self, fields: Mapping[str, str]) -> None:
        """Pass what the browser brought to the worker. Only the first time counts: browsers repeat requests."""
        if self._session is None or self._redirected or self.end is not None:
            return
        self._redirected = True
        await self._session.redirected(fields)

    async def pasted(self, text: str) -> str:
        """Pass the address that a browser ended at to the worker. Returns "", or what is wrong with it, for a person.

        If the text is an error that the browser showed, the answer explains it by its number; the text is not quoted.
        """
        try:
            fields: Mapping[str, str] | None = _pasted_fields(text)
        except BadHttp:
            fields = None
        if not (fields and self.brings(fields.get("state", ""))):
            shown = None if self.grant.server else refusals.of_page(text[:MAX_PASTED], self.grant)
            if shown:
                return f"{shown.message}\n{shown.hint}\n{_STILL_WAITING}"
        if not (fields and {"code", "error"} & fields.keys()) and has_lost_the_code(_unwrapped(text)):
            return f"{_TAKEN}\n{refusals.hint(_TAKEN_HINT, self.grant)}\n{_STILL_WAITING}"
        if fields is None:
            return (
                "this is not the address that a sign-in ends at: copy the whole address from the browser's address bar"
            )
        if "state" not in fields:
            return "this address has no state: paste the whole address, not only the code"
        if not self.brings(fields["state"]):
            return "this address belongs to another sign-in: open the link above, then paste the address where that one ends"
        if not {"code", "error"} & fields.keys():
            return "this address has neither a code nor an error: paste the address that the browser ends at"
        await self.redirected(fields)
        return ""

    async def run(self, worker: Worker, grant: Grant, challenge: str, show: Callable[[Flow], None]) -> Outcome:
        """Carry the sign-in out in the worker and return how it ended. `grant` has the redirect address of this time.

        `challenge` is the conditional-access challenge that it has to meet, "" for none.
        """
        async with worker.sign_in(grant, self.method, challenge) as session:
            shown = await session.prompt()
            if not isinstance(shown, Prompt):
                return shown
            self._session = session
            self.prompted = shown
            self.announce()
            show(self)
            return await session.outcome()

    def announce(self) -> None:
        """Wake those who wait for a prompt or an end."""
        self._changed.set()
        self._changed = trio.Event()


# What people, mail programs and chats put around an address, which no address has in it, and what may stand beside that.
# A code ends with a letter, a digit or `$`: nothing of it is taken off.
_QUOTES = re.compile('[<>"`\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a]')
_PUNCTUATION = "'\u2018\u2019()[]{}.,;:"
# `&` as HTML writes it.
_AMPERSAND = re.compile(r"&(?:amp|#38|#x26);", re.IGNORECASE)
_BEFORE = re.compile(r"[^?]*?(?=https?://)")
# What follows a state that ends the address: MSAL makes it of letters, digits, - and _.
_AFTER_STATE = re.compile(r"[^A-Za-z0-9_-]+\Z")


def _unwrapped(text: str) -> str:
    """Return a pasted address alone. Terminals and mail break long lines, so white space is ignored.

    So are backslashes: no address has one, and a shell's line has them before `&`.
    """
    pieces = _QUOTES.split("".join(text[:MAX_PASTED].split()).replace("\\", ""))
    address = max(pieces, key=lambda each: ("state=" in each, "://" in each, len(each)))
    return _BEFORE.sub("", _AMPERSAND.sub("&", address), count=1).strip(_PUNCTUATION)


def _pasted_fields(text: str) -> dict[str, str]:
    """Return the fields of a pasted address."""
    if len(text) > MAX_PASTED:
        raise BadHttp("too long")
    address = _unwrapped(text)
    try:
        parts = urlsplit(address)
    except ValueError:
        raise BadHttp("not an address") from None
    # Without a scheme it is the part behind the question mark, as some browsers copy it.
    fields = parse_fields(parts.query or parts.fragment or (parts.path.lstrip("?#") if not parts.scheme else ""))
    return {name: _AFTER_STATE.sub("", value) if name == "state" else value for name, value in fields.items()}


def in_words(flow: Flow) -> Move:
    """Return what a person must do now to sign in, "" for nothing yet."""
    shown = flow.prompted
    if shown is None:
        return Move()
    if flow.page:
        return Move(f"open {flow.page} in a browser on this machine")
    if flow.method == "broker":
        return Move("sign in in the window that Microsoft's broker has opened on this machine's desktop")
    if shown.user_code:
        do = "check that it shows" if shown.complete_url else "enter"
        return Move(f"open {shown.link} anywhere and {do} {shown.user_code}")
    paste = Run((cms("login", flow.grant.login, "--paste"),))
    return Move(f"open {shown.url} anywhere and give ", paste, " the address that the browser ends at")
