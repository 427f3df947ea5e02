"""Answers a request for a token: who may ask, for which account, the token, and the user name to log in with.

Both kinds of socket call `Issuer.token`, which never waits, and `Issuer.wait` for what it could not answer at once. The
time to wait is the request's own: neither a reload nor another token on the way gives it more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

from cms.core.accounts import Account, Grant, Scopes
from cms.core.lifecycle import Deny, Life, Need, Token, Wait
from cms.core.policy import NOT_SIGNED_IN, Peer, Rules, decide
from cms.core.preflight import misfit_of, permission_of
from cms.system.logs import get_logger
from cms_oauth.peer import ROOT
from cms_oauth.wire import TokenRequest

# Requests of one socket that wait for a token at one time. They wait only while none is held, 4 s each; the limit keeps
# a thundering herd from taking all descriptors. Those beyond it are told to come again.
MAX_WAITING = 512

_BUSY = Deny("busy", "too many requests wait for a token", "try again in a few seconds", 5.0)
_BROKEN = Deny("unavailable", "cms failed at this request", "see its log: this is a fault of cms to report", 60.0)

log = get_logger()


class Keeper(Protocol):
    """Keeps the tokens of one Grant. `who` is the user who has signed in to it, "" while that is not known."""

    @property
    def who(self) -> str: ...

    @property
    def lives(self) -> Mapping[Scopes, Life]: ...
    def answer(self, scopes: Scopes, need: Need, *, again: bool = False) -> Token | Wait | Deny: ...
    async def wait(self, scopes: Scopes, need: Need) -> Token | Deny: ...
    def without_waiting(self, scopes: Scopes, need: Need) -> Token | Deny: ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that may have a token of `account` which is not there yet, by these `rules`, and what is waited for."""

    peer: Peer
    request: TokenRequest
    rules: Rules
    account: Account
    scopes: Scopes
    keeper: Keeper
    need: Need


# The user for the SASL string, or as far as known for the log, and what this user gets.
NamedAnswer: TypeAlias = tuple[str, Token | Deny]


class Issuer:
    """Answers the requests of one socket. A reload replaces its `rules`. `keeper_of` may say why a grant has none for a uid."""

    def __init__(self, rules: Rules, keeper_of: Callable[[Grant, int], Keeper | Deny]) -> None:
        self.rules = rules
        self._keeper_of = keeper_of
        # The time limits of the requests that wait, and the latest of all when the daemon stops.
        self._waiting: set[trio.CancelScope] = set()
        self._latest = math.inf

    def token(
        self, peer: Peer, request: TokenRequest, before: Pending | None = None, had: Token | Deny | None = None
    ) -> NamedAnswer | Pending:
        """Return what a request gets, at once.

        After a wait, `before` is what was waited for, and `had` what its keeper has said: None if a reload came meanwhile.
        """
        account = decide(peer, request, self.rules, self._signed_in)
        if isinstance(account, Deny):
            return request.user, account
        scopes = account.scopes[request.protocol]
        permission = permission_of(account, request.protocol) if account.preflight else ""
        need = Need(permission, request.min_valid, request.rejected)
        try:
            # A mailbox that was waited for may be closed: that opens it no second time.
            keeper = before.keeper if before and had else self._keeper_of(account.grant, peer.uid)
            if isinstance(keeper, Deny):
                return account.user, keeper
            # One request makes a keeper fetch once.
            reply = had or keeper.answer(scopes, need, again=before is not None and before.keeper is keeper)
        except Exception:
            log.exception("a keeper failed at a request", user=account.user)
            return account.user, _BROKEN
        if isinstance(reply, Wait):
            return Pending(peer, request, self.rules, account, scopes, keeper, need)
        # Only now: the first token and the name of who signed in may have come together.
        user = account.user or keeper.who
        if isinstance(reply, Deny):
            return user, reply
        wrong = misfit_of(account, reply.claims, request.protocol) if account.preflight else None
        if wrong and wrong.certain:
            # A person has to mend it: mail waits for that.
            return user, Deny("sign-in-required", wrong.message, wrong.hint)
        return user, reply if user else NOT_SIGNED_IN

    async def wait(self, pending: Pending, deadline: float) -> NamedAnswer:
        """Wait until a request can be answered, at most until `deadline` by trio's clock, whatever is reloaded meanwhile."""
        account = pending.account
        if len(self._waiting) >= MAX_WAITING:
            return account.user or pending.keeper.who, _BUSY
        answer: NamedAnswer | Pending = pending
        limit = trio.CancelScope(deadline=min(deadline, self._latest))
        self._waiting.add(limit)
        try:
            with limit:
                while isinstance(answer, Pending):
                    reply = await answer.keeper.wait(answer.scopes, answer.need)
                    answer = self._after(answer, reply)
            # Its time is over.
            while isinstance(answer, Pending):
                answer = self._after(answer, answer.keeper.without_waiting(answer.scopes, answer.need))
        except Exception:
            log.exception("a keeper failed at a request", user=account.user)
            return account.user, _BROKEN
        finally:
            self._waiting.discard(limit)
        return answer

    def _after(self, pending: Pending, reply: Token | Deny) -> NamedAnswer | Pending:
        """Return what a request gets that has waited for this reply. After a reload the new rules decide, and a new keeper."""
        had = reply if pending.rules is self.rules else None
        return self.token(pending.peer, pending.request, pending, had)

    def close(self) -> None:
        """Answer every request that waits, or still comes, without waiting: the daemon stops."""
        self._latest = -math.inf
        for limit in self._waiting:
            limit.cancel()

    def _signed_in(self, grant: Grant) -> str:
        # This opens no mailbox, so it does not matter which user asks: a nameless account has no domain.
        keeper = self._keeper_of(grant, ROOT)
        return "" if isinstance(keeper, Deny) else keeper.who
