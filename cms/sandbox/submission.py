"""A submission server that requires a valid token: STARTTLS, XOAUTH2 and OAUTHBEARER.

It answers as Exchange Online does, in two steps or in one line, asks an introspection whether the token is active, is
the named user's and is meant for SMTP, and keeps what it is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import threading
from base64 import b64decode
from binascii import Error as Base64Error
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult

from cms.sandbox.habits import GOOGLE_MAIL
from cms.sandbox.web import HOST
from cms_oauth import sasl

# Lines of an authentication exchange may have 12288 octets (RFC 4954, section 4). aiosmtpd's own limits, 512 for
# commands and 1001 for lines, are too short for a token.
AUTH_LINE = 12_288

START_SECONDS = 10.0

ACCEPTED = "235 2.7.0 Authentication successful"
REFUSED = "535 5.7.3 Authentication unsuccessful [SANDBOX.PROD.OUTLOOK.COM]"
MALFORMED = "501 5.5.124 Invalid XOAUTH2 auth data"

_OAUTHBEARER = re.compile(r"n,a=(?P<user>[^,]*),\x01(?:\w+=[^\x01]*\x01)*?auth=Bearer (?P<token>[^\x01]+)\x01\x01")

# The permission that an access token needs: as a person's, or as an application's; and Google's.
_PERMISSIONS = frozenset(("SMTP.Send", "SMTP.SendAsApp", GOOGLE_MAIL))

Introspection = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Received:
    """One message; `user` authenticated for it."""

    user: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SmtpLogin:
    """One attempt to authenticate."""

    mechanism: str
    user: str
    accepted: bool


@dataclass
class Submission:
    """The server, in its own thread from `start` to `stop`; `port` is 0 for one of the system's choice.

    With `error_challenge` a failure comes as a JSON challenge first, as Google does it and the RFC says.
    """

    introspect: Introspection
    cert_file: str
    port: int = 0
    error_challenge: bool = False
    messages: list[Received] = field(default_factory=list)
    logins: list[SmtpLogin] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; raises OSError when that fails."""
        # aiosmtpd logs text that it cannot decode, which may be part of a credential.
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True)
        self._thread.start()
        self._loop, self._stopping = listening.result(START_SECONDS)

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self, listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        sessions: set[_SmtpSession] = set()
        try:
            context.load_cert_chain(self.cert_file)
            server = await loop.create_server(lambda: _SmtpSession(self, context, loop, sessions), HOST, self.port)
        except OSError as error:
            listening.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        listening.set_result((loop, stopping))
        await stopping.wait()
        server.close()
        for session in tuple(sessions):
            session.hang_up()
        while sessions:  # noqa: ASYNC110 - the sessions already end: this takes a few turns of the loop
            await asyncio.sleep(0)

    # aiosmtpd finds the hooks below by their names.

    async def auth_XOAUTH2(self, server: _SmtpSession, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        """Authenticate by XOAUTH2."""
        return await self._authenticate(server, args, sasl.split)

    async def auth_OAUTHBEARER(self, server: _SmtpSession, args: list[str]) -> AuthResult:  # noqa: N802 - as above
        """Authenticate by OAUTHBEARER (RFC 7628)."""
        return await self._authenticate(server, args, _oauthbearer)

    async def handle_DATA(self, server: _SmtpSession, session: Any, envelope: Any) -> str:  # noqa: ARG002, N802 - as above
        """Keep a message."""
        recipients = tuple(envelope.rcpt_tos)
        self.messages.append(Received(session.auth_data, envelope.mail_from, recipients, envelope.original_content))
        return "250 2.0.0 OK"

    async def _authenticate(
        self, server: _SmtpSession, args: list[str], split: Callable[[str], tuple[str, str]]
    ) -> AuthResult:
        mechanism, *initial = args
        response = _decode(initial[0]) if initial else await server.challenge_auth("")
        if not isinstance(response, bytes):
            return AuthResult(success=False, handled=True)  # "*", or no base64: aiosmtpd has answered
        try:
            user, token = split(response.decode())
        except ValueError:
            return AuthResult(success=False, handled=False, message=MALFORMED)
        told = await asyncio.get_running_loop().run_in_executor(None, self.introspect, token)
        accepted = _permits(told, user)
        self.logins.append(SmtpLogin(mechanism, user, accepted))
        if not accepted and self.error_challenge:
            await server.challenge_auth(json.dumps({"status": "401", "schemes": "bearer", "scope": "SMTP.Send"}))
        message = ACCEPTED if accepted else REFUSED
        return AuthResult(success=accepted, handled=False, message=message, auth_data=user)


class _SmtpSession(SMTP):
    """One connection, with lines long enough for a credential."""

    line_length_limit = AUTH_LINE

    def __init__(
        self, owner: Submission, context: ssl.SSLContext, loop: asyncio.AbstractEventLoop, sessions: set[_SmtpSession]
    ) -> None:
        self._sessions = sessions
        # A separate table: aiosmtpd's is shared by every server in the process.
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


def _oauthbearer(text: str) -> tuple[str, str]:
    found = _OAUTHBEARER.fullmatch(text)
    if found is None:
        raise ValueError("not a whole OAUTHBEARER string")
    return found["user"].replace("=2C", ",").replace("=3D", "="), found["token"]


def _permits(told: dict[str, Any], user: str) -> bool:
    """True if the introspection of a token allows this user to send."""
    names = [told.get("email", ""), *told.get("mailboxes", ())]
    may = user.lower() in (name.lower() for name in names if name)
    return bool(told["active"]) and may and not _PERMISSIONS.isdisjoint(told["scope"].split())
