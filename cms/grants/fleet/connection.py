"""How the fleet's database is reached: the only file that knows psycopg, which only a fleet needs.

A `Database` keeps one connection, and makes another when it is lost. Each statement is one transaction that may be
repeated. Nothing is set for a session and nothing is prepared: a pooler may give each statement another connection.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from cms.core.accounts import Fleet
from cms.grants.fleet import statements
from cms.grants.fleet.schema import quoted
from cms.grants.providers import note
from cms.grants.secret_sources import Unavailable, unavailable
from cms_oauth.moves import RETRIES, Move
from cms_oauth.text import printable

if TYPE_CHECKING:
    import psycopg

    class Connection(psycopg.Connection[tuple[Any, ...]]):
        """What `_patient` makes."""

        limit: float


Row: TypeAlias = tuple[Any, ...]

# Seconds to connect, for each host that the connection string names.
CONNECT_SECONDS = 5

# The longest time for one statement. `statement_timeout` does not end a COMMIT that waits for an absent standby, so this
# host does not wait for it, and ends the connection.
STATEMENT_SECONDS = 5.0

# How often a statement is tried while the database is away, and for how long if nothing else is said.
PAUSE = 0.25
TRY_SECONDS = 6.0

# Set for every connection: only a server that takes writes, and a dead network is noticed within half a minute.
_OPTIONS: Mapping[str, Any] = {
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "gssencmode": "disable",
    "application_name": "cms",
}

# A host's name as the database has it is at most so long (gethostname(2) gives 64 characters).
MAX_HOST = 64

# How many characters of a schema's name are in a connection's: that has at most 63.
_NAMED = 40

# How many digits of a host's id tell it from the others there.
_DIGITS = 8

# The first libpq with `require_auth`.
_REQUIRES = 160_000

# What an administrator of the database may end or forbid for a while: tried again like a lost connection (SQLSTATE).
_READ_ONLY = "25006"

# A role without the right, or with that of hosts that serve only; everything else is a table or a function that lacks.
_FORBIDDEN = "42501"
_NO_RIGHT = (
    "make the user in Fleet(...) a member of cms_redeemer, or of cms_relay on a host without key= (docs/fleet.md); "
)
_NO_TABLES = "as the database's owner, give psql what `cms fleet init` prints (docs/fleet.md); "


class Away(Exception):
    """The database did not answer, or not for certain. The text says why, and quotes no value."""


def connect(fleet: Fleet, password: str = "", conninfo: str = "") -> Connection:
    """Return a new connection. `conninfo` replaces the fleet's own connection string. Raises Away, and Unavailable."""
    try:
        import psycopg  # noqa: PLC0415 - which only a fleet needs
    except ImportError:
        raise unavailable(
            "fleet", "Fleet(...) needs psycopg, which is not installed", 'install it: pip install "cms-oauth[fleet]"'
        ) from None
    secret: dict[str, Any] = {"password": password} if password else {}
    try:
        secret |= _mutual(conninfo or fleet.dsn, password)
        connection = _patient().connect(
            conninfo or fleet.dsn, autocommit=True, prepare_threshold=None, **_OPTIONS, **secret
        )
    except psycopg.Error as error:
        raise _away(error) from None
    connection.add_notice_handler(_warn)
    return connection


def _mutual(dsn: str, password: str) -> Mapping[str, str]:
    """Return what makes the server prove that it knows the password too, where no certificate says who it is.

    While a database of this machine is down, another user's program can listen at its port or in its folder, and a server
    may ask for the password in clear. libpq takes one from ~/.pgpass by itself. Raises Unavailable.
    """
    import psycopg  # noqa: PLC0415 - see `connect`
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - see `connect`

    given = conninfo_to_dict(dsn)
    host = str(given.get("host", given.get("hostaddr", "")))
    # There is no TLS on a Unix socket.
    is_socket = any(not each or each.startswith(("/", "@")) for each in host.split(","))
    if "require_auth" in given or (given.get("sslmode") == "verify-full" and not is_socket):
        return {}
    known, able = password or "passfile" in given, psycopg.pq.version() >= _REQUIRES
    if known and not able:
        raise unavailable(
            "fleet",
            "the library libpq of this machine cannot make the database's server prove that it knows the password: it is"
            " older than version 16",
            'install another one: pip install "psycopg[binary]"; or name a server with a certificate: sslmode=verify-full',
        )
    return {"require_auth": "scram-sha-256" if known else "!password,!md5"} if able else {}


@cache
def _patient() -> type[Connection]:
    """Return psycopg's connection, which waits for a statement no longer than that may take."""
    import psycopg  # noqa: PLC0415 - see `connect`

    class Patient(psycopg.Connection[Row]):
        # How many seconds are waited.
        limit = 0.0

        def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
            return super().wait(_in_time(gen, self.limit or STATEMENT_SECONDS), *given, **named)

    return cast("type[Connection]", Patient)


def _in_time(steps: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Do the same steps, and give up when they take too long. psycopg goes on with them several times a second."""
    until = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if time.monotonic() > until:
                raise Away("it does not answer")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value


def _warn(notice: psycopg.errors.Diagnostic) -> None:
    """Log a warning of the server's: a commit that no standby has confirmed, for instance."""
    if notice.severity_nonlocalized == "WARNING":
        note(f"the fleet's database: {printable(notice.message_primary or '')}")


def _away(error: Exception) -> Away:
    first = str(error).strip().partition("\n")[0]
    return Away(printable(first) or type(error).__name__)


def only(rows: Sequence[Row]) -> Row:
    """Return the row of a question that has one for each fleet. Raises Away if there is none, as while it is restored."""
    if len(rows) != 1:
        raise Away("it has no fleet at the moment")
    return rows[0]


def hears(channel: str) -> str:
    """Return what the name of each connection begins with that listens on this channel."""
    return f"cms hears {channel[:_NAMED]} "


def unanswered(error: Away) -> Unavailable:
    """Return the exception for a question that needs the database."""
    return unavailable("fleet", f"the fleet's database cannot be asked: {error}", Move("check the database; ", RETRIES))


class Wire:
    """One connection, which this host can end from another thread, whatever the server does."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        self._prefix = f"{quoted(schema)}."
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def run(self, statement: str, **values: object) -> list[Row]:
        """Return the rows of a statement, all of them. Raises Away, and Unavailable for what the server refuses."""
        import psycopg  # noqa: PLC0415 - see `connect`

        try:
            cursor = self.connection.execute(statement.replace("cms.", self._prefix).encode(), values)
            return cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise _away(error) from None
        except psycopg.Error as error:
            if error.sqlstate == _READ_ONLY:
                raise _away(error) from None
            raise _refused(error) from None

    def listen(self, channel: str, host: str) -> None:
        """Have `wait` notice what is said on this channel, and other hosts see that. Raises Away, Unavailable."""
        self.run(f"LISTEN {quoted(channel)}")
        self.run(statements.HEARS, name=hears(channel) + host[:_DIGITS])

    def wait(self, seconds: float, gather: float) -> None:
        """Wait for a notification, so long at most, and then so long for others that come with it. Raises Away.

        This takes every notification as it comes. Any role that may connect can send them without end. If this host did not
        take them, they would fill its memory and the server's queue, and with a full queue no host can sign in or out.
        """
        if self._notified(seconds, 1):
            self._notified(gather, None)

    def _notified(self, seconds: float, most: int | None) -> bool:
        import psycopg  # noqa: PLC0415 - see `connect`

        # Longer than psycopg waits for the notification: this limit only catches a server that hangs.
        self.connection.limit = seconds + STATEMENT_SECONDS
        try:
            return bool(sum(1 for _ in self.connection.notifies(timeout=seconds, stop_after=most)))
        except psycopg.Error as error:
            raise _away(error) from None
        finally:
            self.connection.limit = 0.0

    def cut(self) -> None:
        """End the connection now: a statement that runs on it is Away."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Nothing runs on it."""
        import psycopg  # noqa: PLC0415 - see `connect`

        with suppress(psycopg.Error):
            self.connection.close()
        self._socket.close()


def _refused(error: psycopg.Error) -> Unavailable:
    """Return the exception for what the server refuses: no table, no right. Repeating it does not help."""
    said = printable(str(error).strip().partition("\n")[0])
    move = _NO_RIGHT if error.sqlstate == _FORBIDDEN else _NO_TABLES
    return unavailable(
        "fleet", f"the fleet's database refuses what cms asks ({error.sqlstate}: {said})", Move(move, RETRIES)
    )


class Database:
    """The connection for work: made when it is needed, and greeted before anything else is said on it."""

    def __init__(
        self,
        open_wire: Callable[[], Wire],
        greet: Callable[[Wire], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._open = open_wire
        self._greet = greet
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._wire: Wire | None = None

    def run(self, statement: str, seconds: float | None = None, **values: object) -> list[Row]:
        """Return the rows of a statement, which is repeated over lost connections for so long. Raises Away, Unavailable."""
        until = self._clock() + (TRY_SECONDS if seconds is None else seconds)
        while True:
            try:
                with self._connected(until) as wire:
                    return wire.run(statement, **values)
            except Away:
                if self._clock() + PAUSE >= until:
                    raise
            self._sleep(PAUSE)

    def greet(self) -> None:
        """Greet the database again, on the connection that there is. Raises Away, Unavailable."""
        with self._connected(self._clock() + TRY_SECONDS) as wire:
            self._greet(wire)

    @contextmanager
    def _connected(self, until: float) -> Iterator[Wire]:
        """Give the connection to one thread at a time. After an error it is not used again."""
        if not self._lock.acquire(timeout=max(PAUSE, until - self._clock())):
            raise Away("it answers slowly")
        try:
            if self._wire is None:
                self._wire = self._open()
                self._greet(self._wire)
            yield self._wire
        except BaseException:
            self._close()
            raise
        finally:
            self._lock.release()

    def rest(self) -> None:
        """Close the connection, if nothing uses it."""
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    def _close(self) -> None:
        if self._wire:
            self._wire.close()
        self._wire = None
