"""Gets tokens from keepers for the clients of one socket: not for too many at one time, and whatever a keeper does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cms.core.accounts import Grant, Scopes, permission_for
from cms.core.lifecycle import Deny, Token
from cms.core.policy import Allow
from cms.core.preflight import misfit
from cms.system.logs import get_logger

# Whole requests that wait for a token at one time. They wait only while none is held, 4 s each; a limit keeps a
# thundering herd from taking all descriptors. Those beyond it are told to come again.
MAX_WAITING = 512

_BUSY = Deny("busy", "too many requests wait for a token", "try again in a few seconds", 5.0)
_BROKEN = Deny("unavailable", "cms failed at this request", "see its log: this is a fault of cms to report", 60.0)

log = get_logger()


class Keeper(Protocol):
    """What answers for the tokens of one Grant."""

    async def ask(
        self, scopes: Scopes, *, permission: str = "", min_valid: int | None = None, rejected: str = ""
    ) -> Token | Deny: ...


def _checked(reply: Token | Deny, protocol: str, scopes: Scopes) -> Token | Deny:
    """Return a refusal in place of a token that says of itself that it cannot open this protocol."""
    wrong = None if isinstance(reply, Deny) else misfit(reply.claims, protocol, scopes)
    # A person has to mend it: mail waits for that.
    return Deny("sign-in-required", wrong.message, wrong.hint) if wrong and wrong.certain else reply


class Teller:
    """One socket's way to the keepers. `keeper_of` is asked anew for each token."""

    def __init__(self, keeper_of: Callable[[Grant], Keeper]) -> None:
        self._keeper_of = keeper_of
        self._waiting = 0

    async def token(
        self, allowed: Allow, protocol: str, *, min_valid: int | None = None, rejected: str = ""
    ) -> Token | Deny:
        """Return the token that was allowed for this protocol, or why there is none."""
        if self._waiting >= MAX_WAITING:
            return _BUSY
        self._waiting += 1
        try:
            keeper = self._keeper_of(allowed.account.grant)
            looked_into = allowed.account.preflight
            permission = permission_for(protocol, allowed.scopes) if looked_into else ""
            reply = await keeper.ask(allowed.scopes, permission=permission, min_valid=min_valid, rejected=rejected)
            return _checked(reply, protocol, allowed.scopes) if looked_into else reply
        except Exception:
            log.exception("a keeper failed at a request", user=allowed.account.user)
            return _BROKEN
        finally:
            self._waiting -= 1
