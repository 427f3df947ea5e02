"""Small servers that follow a script: a token socket, and mail servers with and without TLS. Each runs in a thread."""

from __future__ import annotations

import _socket
import errno
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import pytest

# How long a script waits for its client before the test fails instead of hanging.
PATIENCE = 120.0

HANG_UP = "hang up"  # close the connection without having read anything
HOLD = "hold"  # read, and never answer

# What to send; or HANG_UP or HOLD; or what to send to a request.
Answer: TypeAlias = bytes | str | Callable[[bytes], bytes]


def refuse_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection as the kernel refuses another user's: root, who may run the tests, is never refused."""

    # `cms_oauth.dial` uses this half of `socket`.
    class Refused(_socket.socket):
        def connect(self, _address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_socket, "socket", Refused)


class _Server:
    """Accepts connections one by one and hands each to `converse`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            with connection:
                self.converse(connection)

    def converse(self, connection: socket.socket) -> None:
        raise NotImplementedError


class Daemon(_Server):
    """A token socket that gives these answers, one for each connection, the last one for ever.

    `requests` is what it was sent.
    """

    def __init__(self, path: Path, *answers: Answer) -> None:
        self.path = str(path)
        self.requests: list[bytes] = []
        self._answers = list(answers)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        super().__init__(listener)

    def converse(self, connection: socket.socket) -> None:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer == HANG_UP:
            # Not before there is something unread: else it is a close like any other.
            connection.recv(1, socket.MSG_PEEK)
            return
        with connection.makefile("rb") as stream:
            # Up to LF or the half-close, as the protocol says.
            self.requests.append(stream.readline())
        if callable(answer):
            answer = answer(self.requests[-1])
        if answer == HOLD:
            self._stopped.wait(PATIENCE)
        elif isinstance(answer, bytes):
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(answer)


class Talk:
    """One conversation of a mail server, as its script holds it."""

    def __init__(self, connection: socket.socket, heard: list[str], stopped: threading.Event) -> None:
        self._connection = connection
        self._heard = heard
        self._stopped = stopped

    def say(self, *lines: str) -> None:
        self._connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self) -> str:
        """Return the next line of the client's, "" when it has gone."""
        line = b""
        while not line.endswith(b"\n"):
            more = self._connection.recv(1)
            if not more:
                break
            line += more
        text = line.decode(errors="replace").rstrip("\r\n")
        self._heard.append(text)
        return text

    def start_tls(self, context: ssl.SSLContext) -> None:
        self._connection = context.wrap_socket(self._connection, server_side=True)

    def hold(self) -> None:
        """Say nothing more until the test is over."""
        self._stopped.wait(PATIENCE)

    def close(self) -> None:
        self._connection.close()


class MailServer(_Server):
    """A server on a TCP port of 127.0.0.1 whose conversations follow a script. `heard` is every line it was sent."""

    def __init__(self, script: Callable[[Talk], None], tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[str] = []
        self._script = script
        self._tls = tls
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        super().__init__(listener)

    def converse(self, connection: socket.socket) -> None:
        talk = Talk(connection, self.heard, self._stopped)
        # A client that leaves in the middle, or that does not like our certificate, ends the script.
        with suppress(OSError):
            if self._tls:
                talk.start_tls(self._tls)
            self._script(talk)
        talk.close()
