"""A keeper that answers what a test tells it to."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from cms.core.accounts import Scopes
from cms.core.lifecycle import Deny, Token

SECRET = "eyJ.access.token"
SCOPES: Scopes = ("https://outlook.office.com/SMTP.Send",)


def token() -> Token:
    """A token that was issued ten minutes before a test begins."""
    return Token(SECRET, 10_000.0, 13_600.0, 12_000.0, SCOPES)


@dataclass
class FakeKeeper:
    """Answers what it is told to, once `open` is set."""

    reply: Token | Deny = field(default_factory=token)
    # What it answers later, in turn.
    after: list[Token | Deny] = field(default_factory=list)
    fails: Exception | None = None
    asked: list[tuple[Scopes, int | None, str]] = field(default_factory=list)
    permissions: list[str] = field(default_factory=list)
    open: trio.Event = field(default_factory=trio.Event)

    async def ask(
        self, scopes: Scopes, *, permission: str = "", min_valid: int | None = None, rejected: str = ""
    ) -> Token | Deny:
        self.asked.append((scopes, min_valid, rejected))
        self.permissions.append(permission)
        if self.fails:
            raise self.fails
        await self.open.wait()
        reply = self.reply
        self.reply = self.after.pop(0) if self.after else reply
        return reply
