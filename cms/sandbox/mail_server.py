"""What the sandbox's mail servers share: a thread with an event loop, and logins by XOAUTH2 and OAUTHBEARER.

A token counts if the introspection says that it is active, is the named user's, and is meant for the server's protocol.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from cms_oauth import sasl

# Lines of an authentication exchange may have 12288 octets (RFC 4954, section 4).
AUTH_LINE = 12_288

START_SECONDS = 60.0

_OAUTHBEARER = re.compile(r"n,a=(?P<user>[^,]*),\x01(?:\w+=[^\x01]*\x01)*?auth=Bearer (?P<token>[^\x01]+)\x01\x01")

Introspection = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class MailLogin:
    """One attempt to authenticate."""

    mechanism: str
    user: str
    accepted: bool


class Session(Protocol):
    """One connection."""

    def hang_up(self) -> None:
        """Close it without an answer."""


@dataclass
class MailServer(ABC):
    """A server in its own thread from `start` to `stop`; `port` is 0 for one of the system's choice.

    `permissions` are what a token needs one of.
    """

    permissions: ClassVar[frozenset[str]]

    introspect: Introspection
    cert_file: str
    port: int = 0
    logins: list[MailLogin] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; raises OSError when that fails."""
        listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.sessions: set[Session] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True)
        self._thread.start()
        self._loop, self._stopping = listening.result(START_SECONDS)

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    @abstractmethod
    async def listen(self, context: ssl.SSLContext) -> asyncio.Server:
        """Accept connections, each with a session in `sessions` while it is open."""

    async def permits(self, mechanism: str, user: str, token: str) -> bool:
        """True if this token opens the server to this user. Every answer is in `logins`."""
        told = await asyncio.get_running_loop().run_in_executor(None, self.introspect, token)
        names = [told.get("email", ""), *told.get("mailboxes", ())]
        may = user.lower() in (name.lower() for name in names if name)
        accepted = bool(told["active"]) and may and not self.permissions.isdisjoint(told["scope"].split())
        self.logins.append(MailLogin(mechanism, user, accepted))
        return accepted

    async def _serve(self, listening: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        stopping = asyncio.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert_file)
            server = await self.listen(context)
        except OSError as error:
            listening.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        listening.set_result((asyncio.get_running_loop(), stopping))
        await stopping.wait()
        server.close()
        for session in tuple(self.sessions):
            session.hang_up()
        while self.sessions:  # noqa: ASYNC110 - the sessions already end: this takes a few turns of the loop
            await asyncio.sleep(0)


def _oauthbearer(text: str) -> tuple[str, str]:
    found = _OAUTHBEARER.fullmatch(text)
    if found is None:
        raise ValueError("not a whole OAUTHBEARER string")
    return found["user"].replace("=2C", ",").replace("=3D", "="), found["token"]


# How each mechanism writes user and token. Raises ValueError for anything else.
FORMS: Mapping[str, Callable[[str], tuple[str, str]]] = {"XOAUTH2": sasl.split, "OAUTHBEARER": _oauthbearer}
