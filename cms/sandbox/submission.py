"""A submission server that requires a valid token: STARTTLS, XOAUTH2 and OAUTHBEARER.

It answers as Exchange Online does, in two steps or in one line, keeps what it is sent, and hands it on for delivery.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from base64 import b64decode
from binascii import Error as Base64Error
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult

from cms.sandbox.habits import GOOGLE_MAIL
from cms.sandbox.mail_server import AUTH_LINE, FORMS, MailServer
from cms.sandbox.web import HOST

ACCEPTED = "235 2.7.0 Authentication successful"
REFUSED = "535 5.7.3 Authentication unsuccessful [SANDBOX.PROD.OUTLOOK.COM]"
MALFORMED = "501 5.5.124 Invalid XOAUTH2 auth data"


@dataclass(frozen=True, slots=True)
class Received:
    """One message; `user` authenticated for it."""

    user: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)


def _nowhere(_message: Received) -> None:
    """Deliver nothing."""


@dataclass
class Submission(MailServer):
    """The server. With `error_challenge` a failure comes as a JSON challenge first, as Google does it and the RFC says.

    `deliver` is called with each message, in the server's thread.
    """

    permissions = frozenset(("SMTP.Send", "SMTP.SendAsApp", GOOGLE_MAIL))

    error_challenge: bool = False
    deliver: Callable[[Received], None] = _nowhere
    messages: list[Received] = field(default_factory=list)

    async def listen(self, context: ssl.SSLContext) -> asyncio.Server:
        """Accept connections."""
        # aiosmtpd logs text that it cannot decode, which may be part of a credential.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _SmtpSession(self, context, loop), HOST, self.port)

    # aiosmtpd finds the hooks below by their names.

    async def auth_XOAUTH2(self, server: _SmtpSession, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        """Authenticate by XOAUTH2."""
        return await self._authenticate(server, args)

    async def auth_OAUTHBEARER(self, server: _SmtpSession, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        """Authenticate by OAUTHBEARER (RFC 7628)."""
        return await self._authenticate(server, args)

    async def handle_DATA(self, server: _SmtpSession, session: Any, envelope: Any) -> str:  # noqa: ARG002, N802 - as above
        """Keep a message."""
        recipients = tuple(envelope.rcpt_tos)
        message = Received(session.auth_data, envelope.mail_from, recipients, envelope.original_content)
        self.messages.append(message)
        self.deliver(message)
        return "250 2.0.0 OK"

    async def _authenticate(self, server: _SmtpSession, args: list[str]) -> AuthResult:
        mechanism, *initial = args
        response = _decode(initial[0]) if initial else await server.challenge_auth("")
        if not isinstance(response, bytes):
            return AuthResult(success=False, handled=True)  # "*", or no base64: aiosmtpd has answered
        try:
            user, token = FORMS[mechanism](response.decode())
        except ValueError:
            return AuthResult(success=False, handled=False, message=MALFORMED)
        accepted = await self.permits(mechanism, user, token)
        if not accepted and self.error_challenge:
            await server.challenge_auth(json.dumps({"status": "401", "schemes": "bearer", "scope": "SMTP.Send"}))
        message = ACCEPTED if accepted else REFUSED
        return AuthResult(success=accepted, handled=False, message=message, auth_data=user)


class _SmtpSession(SMTP):
    """One connection, with lines long enough for a credential."""

    line_length_limit = AUTH_LINE

    def __init__(self, owner: Submission, context: ssl.SSLContext, loop: asyncio.AbstractEventLoop) -> None:
        self._sessions = owner.sessions
        # A separate table: aiosmtpd's is shared by every server in the process. Its own limits, 512 for commands and
        # 1001 for lines, are too short for a token.
        self.command_size_limits = defaultdict(lambda: AUTH_LINE)
        super().__init__(
            owner,
            hostname="localhost",
            ident="Microsoft ESMTP MAIL Service ready (sandbox)",
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            auth_exclude_mechanism=("LOGIN", "PLAIN"),
            loop=loop,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, so that `stop` can end it. Called again after STARTTLS."""
        self._sessions.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._sessions.discard(self)
        super().connection_lost(error)

    def hang_up(self) -> None:
        """Close the connection without an answer."""
        transport = self._original_transport or self.transport
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _decode(initial: str) -> bytes:
    """Return an initial response; "=" is an empty one (RFC 4954)."""
    try:
        return b"" if initial == "=" else b64decode(initial, validate=True)
    except Base64Error:
        return b""
