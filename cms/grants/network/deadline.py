"""One deadline for a whole exchange with a provider, and HTTPS connections that keep to it.

requests bounds each attempt to connect and each read. An exchange can have any number of both (a name with many dead
addresses, a server that sends one byte at a time), and a name lookup has no bound at all. A `Deadline` bounds everything
together: names are looked up and addresses are tried within it, and when it is over the connection is shut, whatever it
is doing.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeAlias

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from cms.system import threads

# This leaves some of messages.QUESTION_SECONDS for the vault and its key.
EXCHANGE_SECONDS = 20.0

_Address: TypeAlias = tuple[Any, ...]

# The boot-clock moment until which what this thread redeems is its own to redeem.
_UNTIL: ContextVar[float] = ContextVar("until", default=math.inf)


@contextmanager
def within(until: float) -> Iterator[None]:
    """Let this thread send nothing in the block whose answer could come after `until`, a moment of the boot clock.

    The boot clock goes on while the machine is suspended, when no other clock of an exchange does.
    """
    token = _UNTIL.set(until)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def may_send() -> bool:
    """Return whether there is enough time for an exchange, by `within`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) <= _UNTIL.get() - EXCHANGE_SECONDS


class Deadline:
    """The deadline of one exchange, from now. Its requests are made one after the other, in one thread."""

    def __init__(self) -> None:
        self.moment = time.monotonic() + EXCHANGE_SECONDS
        # Whether the last request may have reached the server: false only while its connection was being made.
        self.reached = True
        # Whether a connection was shut: what it brought may look whole, and not be.
        self.cut = False
        self._lock = threading.Lock()
        self._guarded: socket.socket | None = None

    @property
    def left(self) -> float:
        """Return the seconds that are left, 0 for none."""
        return max(0.0, self.moment - time.monotonic())

    @contextmanager
    def bind(self) -> Iterator[None]:
        """Shut the connections that this thread uses in the block when the time is over."""
        _TIMER.add(self)
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)
            _TIMER.remove(self)
            self._watch(None)

    def guard(self, connection: Any) -> None:
        """Shut this connection when the time is over: a socket, or what urllib3 has for TLS within TLS."""
        # A duplicate descriptor: TLS takes over the socket object's, and the number of a closed one may be reused.
        self._watch(socket.socket(fileno=os.dup(connection.fileno())))
        if not self.left:
            self.shut()

    def _watch(self, sock: socket.socket | None) -> None:
        with self._lock:
            if self._guarded:
                self._guarded.close()
            self._guarded = sock

    def shut(self) -> None:
        """Shut the connection that is in use."""
        with self._lock, suppress(OSError):
            if self._guarded:
                self.cut = True
                self._guarded.shutdown(socket.SHUT_RDWR)

    def dial(self, host: str, port: int, options: Any) -> socket.socket:
        """Return a connection. Each address gets a fair share of what is left. Raises OSError."""
        addresses = _resolve(host, port, self.left)
        failure = OSError("there is no address")
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.left / (len(addresses) - place))
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                sock.settimeout(self.left)
                return sock
        raise failure


class _Timer:
    """Shuts the connections of deadlines that are over. All share one thread, which ends when there is no deadline left.

    A `threading.Timer` starts a thread for each request, which costs a tenth of a redemption.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: set[Deadline] = set()
        self._running = False
        # When the thread looks next.
        self._next = 0.0

    def add(self, deadline: Deadline) -> None:
        with self._changed:
            self._deadlines.add(deadline)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, daemon=True).start()
            elif deadline.moment < self._next:
                self._changed.notify()

    def remove(self, deadline: Deadline) -> None:
        with self._changed:
            self._deadlines.discard(deadline)

    def _run(self) -> None:
        with self._changed:
            while self._deadlines:
                now = time.monotonic()
                late = {each for each in self._deadlines if each.moment <= now}
                for each in late:
                    each.shut()
                self._deadlines -= late
                self._next = min((each.moment for each in self._deadlines), default=now)
                self._changed.wait(self._next - now)
            self._running = False


_TIMER = _Timer()

# The deadline of the exchange that this thread is in.
_CURRENT: ContextVar[Deadline] = ContextVar("deadline")


def _resolve(host: str, port: int, seconds: float) -> list[_Address]:
    """Return a host's addresses. Raises what getaddrinfo raises, and TimeoutError: getaddrinfo itself has no deadline."""
    answer = threads.start(lambda: socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
    return answer.result(seconds)


class DeadlineConnection(HTTPSConnection):
    """A connection that keeps to the deadline of the thread that uses it."""

    def connect(self) -> None:
        deadline = _CURRENT.get()
        deadline.reached = False
        super().connect()
        deadline.reached = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        deadline = _CURRENT.get()
        if not may_send():
            deadline.reached = False
            raise ConnectTimeoutError(self, "the time to ask is over")
        # A connection that was kept from an earlier exchange gets this one's deadline.
        deadline.guard(self.sock)
        super().request(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        """Return a socket, or raise what urllib3 expects of this."""
        deadline = _CURRENT.get()
        try:
            sock = deadline.dial(self._dns_host, self.port, self.socket_options)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection to {self.host}: {error}") from error
        deadline.guard(sock)
        return sock


class Pool(HTTPSConnectionPool):
    """Connections to one host."""

    ConnectionCls = DeadlineConnection


POOLS = {"http": HTTPConnectionPool, "https": Pool}
