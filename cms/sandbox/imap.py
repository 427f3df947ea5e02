"""An IMAP server that requires a valid token: TLS from the first byte, XOAUTH2 and OAUTHBEARER, mail in memory.

It has what mutt, mbsync and cms ask of a server (RFC 3501 without SEARCH and MIME parts; IDLE, UIDPLUS, SASL-IR), and says
so to a client that asks for more. Each account of the sandbox has an INBOX with a message of welcome.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate
from typing import TYPE_CHECKING

from cms.sandbox.habits import GOOGLE_MAIL
from cms.sandbox.imap_commands import CAPABILITIES, COMMANDS, KEEP_NUMBERS, Client, Refused
from cms.sandbox.imap_words import LITERAL, Word, nested, text, tokens
from cms.sandbox.mail_server import FORMS, MailServer
from cms.sandbox.mailboxes import INBOX, Mailbox, Unknown
from cms.sandbox.web import HOST

if TYPE_CHECKING:
    from cms.sandbox.submission import Received

# As Exchange says it.
REFUSED = "NO AUTHENTICATE failed."

# The longest line: a credential, or thousands of UIDs in one command.
LINE = 65_536

# The longest command of a client that has logged in, with a message in it: what aiosmtpd takes.
MAX_COMMAND = 32 * 1024 * 1024

_WELCOME = """\
This mailbox is simulated, and everything in it is gone when you end
`cms demo --keep`.

The program that shows you this message has logged in with a token from
cms. A message to {user}, from any account of the
sandbox, arrives here.
"""


@dataclass
class Imap(MailServer):
    """The server, with a mailbox for each of `users`. `now` is Unix time."""

    permissions = frozenset(("IMAP.AccessAsUser.All", "IMAP.AccessAsApp", GOOGLE_MAIL))

    users: Iterable[str] = ()
    now: Callable[[], float] = time.time
    mailboxes: dict[str, Mailbox] = field(init=False)

    def __post_init__(self) -> None:
        self.mailboxes = {user.lower(): Mailbox() for user in self.users}
        for user in self.users:
            self._put((user,), _welcome(user, self.now()))

    async def listen(self, context: ssl.SSLContext) -> asyncio.Server:
        """Accept connections."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _ImapSession(self, reader, writer).serve()

        return await asyncio.start_server(serve, HOST, self.port, ssl=context, limit=LINE)

    def deliver(self, message: Received) -> None:
        """Put a message into the INBOX of each recipient who has a mailbox here. May be called in any thread.

        A client that asks afterwards sees it, because the server's loop does one thing at a time.
        """
        whole = f"Return-Path: <{message.sender}>\r\n".encode() + message.content
        self._loop.call_soon_threadsafe(self._deliver, message.recipients, whole)

    def _deliver(self, recipients: Iterable[str], content: bytes) -> None:
        self._put(recipients, content)
        self.stir()

    def _put(self, recipients: Iterable[str], content: bytes) -> None:
        for recipient in recipients:
            if mailbox := self.mailboxes.get(recipient.lower()):
                mailbox.folders[INBOX].add(content, self.now())

    def stir(self) -> None:
        """Tell the clients that wait for news."""
        for each in self.sessions:
            assert isinstance(each, _ImapSession)
            each.stirred()


class _ImapSession:
    """One connection."""

    def __init__(self, server: Imap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._client = Client(writer.write, server.stir, server.now)
        self._idles = False

    def hang_up(self) -> None:
        """Close the connection without an answer."""
        self._writer.transport.abort()

    def stirred(self) -> None:
        """There may be news for a client that waits for them."""
        if self._idles:
            self._client.tell_news()

    async def serve(self) -> None:
        """Answer commands until the client leaves."""
        self._server.sessions.add(self)
        try:
            self._client.say(f"* OK [CAPABILITY {CAPABILITIES}] The IMAP server of the sandbox is ready.")
            # A client that just disconnects, or sends a line that is too long, gets no answer.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while await self._answer():
                    await self._writer.drain()
        finally:
            self._server.sessions.discard(self)
            self._writer.close()

    async def _line(self) -> bytes:
        return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def _answer(self) -> bool:
        """Read one command and answer it. False if it was the last one."""
        line = await self._line()
        tag, name = line.partition(b" ")[0].decode(errors="replace") or "*", ""
        try:
            _, second, *words = await self._command(line)
            name = text(second).upper()
            said = await self._perform(name, words)
            self._client.tell_news(gone=name not in KEEP_NUMBERS)
            self._client.say(f"{tag} OK {said or f'{name} completed.'}")
        except Refused as why:
            self._client.say(f"{tag} {why}")
        except Unknown as what:
            self._client.say(f"{tag} BAD The sandbox has no {what}.")
        except (ValueError, IndexError):
            self._client.say(f"{tag} BAD The sandbox cannot read this command.")
        return name != "LOGOUT"

    async def _command(self, line: bytes) -> list[Word]:
        """Return the words of the command that begins with this line; read its literals. Raises Unreadable."""
        flat = list[bytes | str]()
        room = MAX_COMMAND if self._client.mailbox else LINE
        while True:
            ahead = LITERAL.search(line)
            flat += tokens(line[: ahead.start()] if ahead else line)
            if not ahead:
                return nested(iter((*flat, ")")))
            room -= len(line) + int(ahead[1])
            if room < 0:
                raise asyncio.LimitOverrunError("the command is too long", 0)
            if not ahead[2]:
                self._client.say("+ Go on.")
            flat.append(await self._reader.readexactly(int(ahead[1])))
            line = await self._line()

    async def _perform(self, name: str, words: list[Word]) -> str:
        """Do what a command says; return the end of the answer, "" for the usual one."""
        if name == "LOGOUT":
            self._client.say("* BYE The sandbox closes the connection.")
            return ""
        if name == "AUTHENTICATE":
            return await self._authenticate(text(words[0]).upper(), words[1:])
        if name == "IDLE":
            return await self._idle()
        if name not in COMMANDS:
            raise Unknown(f"command {name}")
        return COMMANDS[name](self._client, words)

    async def _authenticate(self, mechanism: str, initial: list[Word]) -> str:
        if mechanism not in FORMS:
            raise Refused(f"NO The sandbox takes only tokens, by {' or '.join(FORMS)}.")
        if not initial:
            self._client.say("+ ")
        response = text(initial[0]) if initial else (await self._line()).decode()
        if response == "*":
            raise Refused("BAD Cancelled.")
        user, token = FORMS[mechanism](b64decode(response, validate=True).decode())
        if not await self._server.permits(mechanism, user, token) or user.lower() not in self._server.mailboxes:
            raise Refused(REFUSED)
        self._client.mailbox = self._server.mailboxes[user.lower()]
        return f"[CAPABILITY {CAPABILITIES}] You are logged in."

    async def _idle(self) -> str:
        self._client.own()
        self._client.say("+ The news follow.")
        self._client.tell_news()
        self._idles = True
        try:
            if (await self._line()).upper() != b"DONE":
                raise Refused("BAD Only DONE ends IDLE.")
        finally:
            self._idles = False
        return ""


def _welcome(user: str, now: float) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = f"The sandbox of cms <cms@{user.partition('@')[2]}>"
    message["To"] = user
    message["Subject"] = "Welcome to the sandbox of cms"
    message["Date"] = formatdate(now, localtime=True)
    message["Message-ID"] = f"<welcome.{user}>"
    message.set_content(_WELCOME.format(user=user))
    return message.as_bytes()
