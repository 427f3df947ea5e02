"""A keeper that answers what a test tells it to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from cms.core.accounts import Scopes
from cms.core.lifecycle import Deny, Life, Need, Token, Wait

SECRET = "eyJ.access.token"
SCOPES: Scopes = ("https://outlook.office.com/SMTP.Send",)
RENEWED = Deny("unavailable", "the token is being renewed", "try again in a few seconds", 1.0)


def token() -> Token:
    """A token that was issued ten minutes before a test begins."""
    return Token(SECRET, 10_000.0, 13_600.0, 12_000.0, SCOPES)


@dataclass
class FakeKeeper:
    """Answers what it is told to: at once if `open` is set, otherwise as soon as it is, or a refusal to who cannot wait."""

    reply: Token | Deny = field(default_factory=token)
    # What it answers later, in turn.
    after: list[Token | Deny] = field(default_factory=list)
    fails: Exception | None = None
    who: str = ""
    lives: Mapping[Scopes, Life] = field(default_factory=dict)
    asked: list[tuple[Scopes, Need]] = field(default_factory=list)
    # How often it was asked to fetch: not where a request asks again.
    demanded: int = 0
    open: trio.Event = field(default_factory=trio.Event)

    def answer(self, scopes: Scopes, need: Need, *, again: bool = False) -> Token | Wait | Deny:
        self.asked.append((scopes, need))
        self.demanded += not again
        if self.fails:
            raise self.fails
        return self._next() if self.open.is_set() else Wait()

    async def wait(self, _scopes: Scopes, _need: Need) -> Token | Deny:
        await self.open.wait()
        if self.fails:
            raise self.fails
        return self._next()

    def without_waiting(self, _scopes: Scopes, _need: Need) -> Token | Deny:
        if self.fails:
            raise self.fails
        return RENEWED

    def _next(self) -> Token | Deny:
        reply = self.reply
        self.reply = self.after.pop(0) if self.after else reply
        return reply
