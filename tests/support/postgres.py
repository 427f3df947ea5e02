"""A PostgreSQL server of the tests' own, from Debian's package: an unprivileged user's, on a Unix socket and on loopback."""

from __future__ import annotations

import itertools
import os
import pwd
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from cms.core.accounts import Fleet, Source
from cms.grants.fleet import schema
from support.ports import free_port, listens
from support.programs import give_up, require_program
from support.reachable import open_folder
from support.waiting import PATIENCE, until

OWNER = "postgres"
BASE = "cms"

# What makes a server of a test quick, and has it say all that it can.
_SETTINGS = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "wal_level": "replica",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "hot_standby": "on",
    # Tests count old versions of rows, and a vacuum at any moment would change the count.
    "autovacuum": "off",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_connections": "on",
}

_NUMBERS = itertools.count(1)


@cache
def program(name: str) -> str:
    """Return the path of a program of the server's; without it the test is skipped, or fails in CI."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        give_up(f"{name} is missing: apt-get install postgresql")
    return str(found[-1])


def _as_nobody(argv: list[str]) -> list[str]:
    """Return a command as a user who may run a server: root may not."""
    if os.geteuid() != 0:
        return argv
    user = _user()
    setpriv = require_program("setpriv", "util-linux")
    return [
        *(setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--inh-caps=-all"),
        *("--pdeathsig=KILL", "--"),
        *argv,
    ]


def _user() -> pwd.struct_passwd:
    """Return the user of the servers. initdb wants one that has a name."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _run(*argv: str) -> None:
    done = subprocess.run(
        _as_nobody(list(argv)), capture_output=True, text=True, env={"PATH": os.defpath, "LC_ALL": "C"}, check=False
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"


class Cluster:
    """A server and its data. It is not started by this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        # Not a log by its name: the search for secrets, which ends the tests, has enough to read.
        self.log = folder / "said"
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(folder, _user().pw_uid, _user().pw_gid)

    def make(self) -> None:
        """Make the data of a new server."""
        _run(program("initdb"), "-D", str(self._data), "-U", OWNER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N")

    def copy_of(self, primary: Cluster) -> None:
        """Make the data of an asynchronous standby of a server that runs."""
        _run(
            *(program("pg_basebackup"), "-h", str(primary.folder), "-p", str(primary.port), "-U", OWNER),
            *("-D", str(self._data), "-R", "-c", "fast", "-X", "stream", "-N"),
        )

    def start(self) -> None:
        """Start the server, and wait until it can be asked."""
        settings = {
            **_SETTINGS,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                _as_nobody([program("postgres"), "-D", str(self._data), *options]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        until(self.answers, "PostgreSQL to answer")

    def answers(self) -> bool:
        """Whether it can be asked."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            psycopg.connect(self.dsn(base="postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: with SIGQUIT at once and as after a crash, with SIGINT in good order."""
        process, self._process = self._process, None
        if process:
            process.send_signal(how)
            process.wait(PATIENCE)

    def promote(self) -> None:
        """Make a standby a primary."""
        _run(program("pg_ctl"), "promote", "-D", str(self._data), "-w", "-s")

    @property
    def postmaster(self) -> int:
        """The server's first process."""
        assert self._process is not None
        return self._process.pid

    def dsn(self, role: str = OWNER, base: str = BASE, *, tcp: bool = False, port: int = 0) -> str:
        """Return a connection string, by the Unix socket or by loopback. `port` is another one, as of a proxy."""
        host = "127.0.0.1" if tcp or port else str(self.folder)
        return f"host={host} port={port or self.port} dbname={base} user={role} sslmode=disable"

    def sql(self, text: str, *values: object, base: str = BASE, role: str = OWNER) -> list[tuple[Any, ...]]:
        """Run one statement as the owner, and return its rows."""
        with psycopg.connect(self.dsn(role, base), autocommit=True) as connection:
            cursor = connection.execute(text.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


class Base:
    """The tables of one fleet, in a schema of their own, and who may log in there."""

    def __init__(self, cluster: Cluster, name: str = "") -> None:
        self.cluster = cluster
        self.schema = name or f"fleet{next(_NUMBERS)}_{os.getpid()}"
        self.redeemer, self.relay = f"{self.schema}_host", f"{self.schema}_relay"
        cluster.sql(schema.ddl(self.schema))
        cluster.sql(f"CREATE ROLE {self.redeemer} LOGIN IN ROLE {schema.REDEEMER}")
        cluster.sql(f"CREATE ROLE {self.relay} LOGIN IN ROLE {schema.RELAY}")

    def sql(self, text: str, *values: object, role: str = OWNER) -> list[tuple[Any, ...]]:
        """Run one statement in which `cms.` stands for the schema."""
        return self.cluster.sql(text.replace("cms.", f"{self.schema}."), *values, role=role)

    def fleet(self, keys: Path, *, relay: bool = False, port: int = 0, listen: bool = True) -> Fleet:
        """Return the configuration of a host, with the keys of a folder."""
        return Fleet(
            self.cluster.dsn(self.relay if relay else self.redeemer, port=port),
            token_keys=(Source("file", (str(keys / "tokens.key"),)),),
            keys=() if relay else (Source("file", (str(keys / "fleet.key"),)),),
            schema=self.schema,
            listen=listen,
        )


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    """Make and run a server for a block."""
    with open_folder("postgres") as folder:
        cluster = Cluster(folder)
        cluster.make()
        cluster.start()
        try:
            cluster.sql(f"CREATE DATABASE {BASE}", base="postgres")
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """Make and run an asynchronous standby for a block."""
    with open_folder("standby") as folder:
        standby = Cluster(folder)
        standby.copy_of(primary)
        standby.start()
        try:
            yield standby
        finally:
            standby.stop()


@contextmanager
def pooler(cluster: Cluster, role: str) -> Iterator[int]:
    """Run pgbouncer for a block, which gives each transaction any of three connections; return its port."""
    port = free_port()
    pgbouncer = require_program("pgbouncer", "pgbouncer")
    with open_folder("pooler") as folder:
        file = folder / "pgbouncer.ini"
        file.write_text(
            f"""[databases]
{BASE} = host={cluster.folder} port={cluster.port} user={role}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
"""
        )
        with subprocess.Popen(
            _as_nobody([pgbouncer, str(file)]), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                until(lambda: listens(port), "pgbouncer")
                yield port
            finally:
                process.kill()


def said(cluster: Cluster) -> str:
    """Return the server's log, with what it shows as hexadecimal bytes read."""
    text = cluster.log.read_text(errors="replace")
    found = [bytes.fromhex(each).decode(errors="replace") for each in re.findall(r"\\x((?:[0-9a-f]{2})+)", text)]
    return "\n".join([text, *found])
