"""The clients of a soak: those that ask as the protocol says, whose every answer is judged, and those that do not."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from soak.model import GONE, Model, Wrong

# Requests that are no request, and ask why.
MALFORMED = (
    b"smtp,why\n",
    b"SMTP,why ann ben\n",
    b"SMTP,why,why ann@example.test\n",
    b"SMTP,why,min=x\n",
    b"SMTP,why\nSMTP,why\n",
    b"SMTP,why,rejected=zzzz\n",
    b"SMTP,why \xff\n",
    b"SMTP,why " + b"x" * 1100 + b"\n",
)

PROTOCOLS = ("SMTP", "IMAP", "POP")
FORMS = ("xoauth2", "token", "json")
STRANGER = "nobody@example.test"

# Of a hundred clients so many are not good ones.
BAD = 20

# Seconds.
_AGAIN = 0.01

_RESET = struct.pack("ii", 1, 0)


class Clients:
    """As many clients at one time as there are tasks that `run` this, one after the other in each."""

    def __init__(self, path: str, model: Model, chance: random.Random) -> None:
        self.asked = 0
        self._path = path
        self._model = model
        self._chance = chance
        self._going = trio.Event()
        self._busy = 0
        self._idle = trio.Event()
        self._going.set()

    async def run(self) -> None:
        """Be one client after the other, until cancelled."""
        bad: tuple[Callable[[], Awaitable[None]], ...] = (self._malformed, self._silent, self._leaving, self._half)
        while True:
            await self._going.wait()
            self._busy += 1
            try:
                await (self._chance.choice(bad) if self._chance.randrange(100) < BAD else self._good)()
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
            self.asked += 1

    async def pause(self) -> None:
        """Let those who ask finish, and no other begin."""
        self._going = trio.Event()
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()

    def go_on(self) -> None:
        """Undo `pause`."""
        self._going.set()

    async def ask(self, user: str, protocol: str, form: str = "json", *, why: bool = False) -> tuple[str, bytes]:
        """Ask for a token; return it, "" for none, and the whole answer."""
        options = [*([] if form == "xoauth2" else [form]), *(["why"] if why else [])]
        if self._chance.random() < 0.1:
            options.append(f"min={self._chance.choice((0, 30, 300, 99999))}")
        line = f"{','.join((protocol, *options))} {user}\n".encode()
        with self._model.request(user, protocol, form, why=why) as asked:
            reply = await self._talk(line)
            if reply is None:
                if GONE not in asked.excuses:
                    raise Wrong(f"{asked}: no answer")
                return "", b""
            if not reply and GONE in asked.excuses:
                return "", b""
            return self._model.judge(asked, reply), reply

    async def _good(self) -> None:
        users = [*self._model.logins, STRANGER]
        form = self._chance.choice(FORMS)
        await self.ask(
            self._chance.choice(users), self._chance.choice(PROTOCOLS), form, why=self._chance.random() < 0.7
        )

    async def _malformed(self) -> None:
        line = self._chance.choice(MALFORMED)
        with self._model.request(STRANGER, "", "", why=True) as asked:
            reply = await self._talk(line)
        if not (reply or b"").startswith(b"!bad-request ") and GONE not in asked.excuses:
            raise Wrong(f"{line[:50]!r}: {reply!r}")

    async def _silent(self) -> None:
        with suppress(OSError):
            async with await trio.open_unix_socket(self._path):
                await trio.sleep(self._chance.uniform(0.0, 0.3))

    async def _leaving(self) -> None:
        """Ask, and be gone before the answer, with a reset."""
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(self._path) as stream:
                await stream.send_all(f"SMTP {next(iter(self._model.logins))}\n".encode())
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _half(self) -> None:
        """Say half of a request, and end it there: that is no request for anything."""
        with self._model.request(STRANGER, "", "", why=False) as asked:
            reply = await self._talk(b"SMTP,wh")
        if reply and GONE not in asked.excuses:
            raise Wrong(f"half a request: {reply!r}")

    async def _connect(self) -> trio.SocketStream:
        """Return a connection. While the kernel's queue of those who wait is full, a client comes again."""
        while True:
            try:
                return await trio.open_unix_socket(self._path)
            except BlockingIOError:
                await trio.sleep(_AGAIN)

    async def _talk(self, line: bytes) -> bytes | None:
        """Return what the daemon says to a line, None where nobody listens, or the connection breaks before it."""
        said = b""
        # A request that is too long is answered, and the rest of it reset.
        with suppress(OSError, trio.BrokenResourceError):
            async with await self._connect() as stream:
                # Who has been answered already, or dropped, cannot say more.
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(line)
                    if not line.endswith(b"\n") or self._chance.random() < 0.5:
                        await stream.send_eof()
                async for chunk in stream:
                    said += bytes(chunk)
                return said
        return said or None
