from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import psycopg
import pytest
import trustme
from support.fleet import GRANT, HOUR, Lab, mint_of, together
from support.grants import kind
from support.postgres import Cluster, pooler, said
from support.waiting import PATIENCE, until

from cms.core.accounts import Fleet, Source
from cms.core.lifecycle import Granted
from cms.grants.fleet import connection, statements
from cms.grants.fleet.connection import Away, _mutual, connect
from cms.grants.messages import Told
from cms.grants.secret_sources import Unavailable


def test_a_backend_that_has_stopped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that is not answered ends after its time, whatever the server does."""
    one = lab.signed_in("a")
    ((backend,),) = one.store.database.run("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    try:
        with monkeypatch.context() as short:
            short.setattr(connection, "STATEMENT_SECONDS", 0.2)
            with pytest.raises(Away):
                one.store.database.run(statements.META, seconds=0.0)
    finally:
        os.kill(backend, signal.SIGCONT)

    assert one.renew()


def test_a_commit_that_waits_for_a_standby(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs without an end in the server. The successor is in the journal, and is shared when a standby answers."""
    cluster = lab.base.cluster

    def exchange(token: str) -> dict[str, object]:
        cluster.sql("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        cluster.sql("SELECT pg_reload_conf()")
        return lab.provider.exchange(token)

    one = lab.signed_in("a", exchange=exchange)
    try:
        with monkeypatch.context() as short:
            short.setattr(connection, "STATEMENT_SECONDS", 0.3)
            short.setattr("cms.grants.fleet.held.STORE_SECONDS", 0.3)
            outcome = one.ask()
    finally:
        cluster.sql("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.sql("SELECT pg_reload_conf()")
        until(lambda: cluster.sql("SHOW synchronous_standby_names") == [("",)], "a server that waits for no standby")

    assert isinstance(outcome, Granted)
    other = lab.host("b")
    one.again()
    assert outcome.secret == one.token()
    assert outcome.secret == other.token()
    assert other.token(mint_of(outcome.secret))
    assert (2, 0) == (lab.provider.asked, lab.provider.replays)


def test_a_warning_of_the_server(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    """It is in the log, as of a commit that no standby has confirmed; what is less than a warning is not."""
    with closing(lab.host("a").store.open_wire()) as wire:
        for level in ("WARNING", "NOTICE"):
            wire.run(f"DO $$ BEGIN RAISE {level} 'the transaction has already committed locally: {level}'; END $$")

    said = "".join(capfd.readouterr())
    assert "the fleet's database: the transaction has already committed locally: WARNING" in said
    assert ": NOTICE" not in said


def test_no_library(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trouble names what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    outcome = lab.host("a").ask()

    assert not isinstance(outcome, Granted)
    assert "cms-oauth[fleet]" in outcome.trouble.hint


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"dsn": "host=/nowhere dbname=cms user=x"}, "fleet"),
        ({"dsn": "host=127.0.0.1 port=1 dbname=cms user=x"}, "fleet"),
        ({"password": Source("file", ("/nowhere",))}, "locked"),
    ],
)
def test_no_connection(lab: Lab, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], expected: str) -> None:
    """It is tried again, and the trouble says why."""
    monkeypatch.setattr(connection, "TRY_SECONDS", 0.0)
    host = lab.host("a")
    host.fleet = replace(host.fleet, **change)  # type: ignore[arg-type]  # fields of it
    host.again()

    assert expected == kind(host.ask())


def test_a_server_that_takes_no_writes(lab: Lab) -> None:
    """It is none: a standby that answers is passed over."""
    lab.base.sql(f"ALTER ROLE {lab.base.redeemer} SET default_transaction_read_only = on")

    with pytest.raises(Away):
        connect(lab.host("a").fleet)


def test_what_every_connection_has(lab: Lab) -> None:
    """It is to a server that takes writes, sets nothing for a session, and a dead network is noticed in half a minute."""
    wire = lab.host("a").store.open_wire()
    has = wire.connection.info.get_parameters()
    idle, interval, count = (int(has[f"keepalives_{each}"]) for each in ("idle", "interval", "count"))

    assert ("read-write", "cms", "5") == tuple(
        has[each] for each in ("target_session_attrs", "application_name", "connect_timeout")
    )
    assert idle + interval * count <= 30
    assert int(has["tcp_user_timeout"]) <= 30_000
    assert (True, None) == (wire.connection.autocommit, wire.connection.prepare_threshold)
    wire.close()


def test_a_password(lab: Lab, tmp_path: Path) -> None:
    """It is read from its source for each connection, from no file that others can read, and in no string that is shown."""
    file = tmp_path / "password"
    file.write_text("the-password\n")
    file.chmod(0o600)
    host = lab.signed_in("a")
    # The server of the tests asks for none.
    host.fleet = replace(host.fleet, dsn=f"{host.fleet.dsn} require_auth=none", password=Source("file", (str(file),)))
    host.again()
    assert host.renew()
    wire = host.store.open_wire()

    assert "the-password" == wire.connection.info.password
    assert "the-password" not in f"{host.store!r} {wire.connection!r}"
    wire.close()

    file.chmod(0o644)
    with pytest.raises(Unavailable) as caught:
        host.store.open_wire()
    assert f"cannot be read: file {file} has mode 0644" in caught.value.outcome.trouble.message


@pytest.fixture
def tls(cluster: Cluster) -> Iterator[trustme.CA]:
    """The authority of the server's certificate, for a block in which it takes passwords over TLS only."""
    authority, rules = trustme.CA(), cluster.folder / "data" / "pg_hba.conf"
    certificate, before = authority.issue_cert("localhost"), rules.read_text()
    files = {"server.crt": certificate.cert_chain_pems[0].bytes(), "server.key": certificate.private_key_pem.bytes()}
    owner = rules.stat()
    for name, content in files.items():
        file = cluster.folder / "data" / name
        file.write_bytes(content)
        file.chmod(0o600)
        os.chown(file, owner.st_uid, owner.st_gid)
    rules.write_text(f"hostssl all all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 reject\n{before}")
    cluster.sql("ALTER SYSTEM SET ssl = on")
    cluster.sql("SELECT pg_reload_conf()")
    yield authority
    rules.write_text(before)
    cluster.sql("ALTER SYSTEM RESET ssl")
    cluster.sql("SELECT pg_reload_conf()")
    # The server reloads in its own time, and the next test may come by TCP.
    until(lambda: cluster.sql("SHOW ssl") == [("off",)], "no TLS")


def test_over_tls(lab: Lab, tls: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the password, the right authority and the server's name, and with nothing less."""
    cluster = lab.base.cluster
    cluster.sql(f"ALTER ROLE {lab.base.redeemer} PASSWORD 'the-password'")
    tls.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for name, text in {"right": "the-password", "wrong": "another"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    at = f"port={cluster.port} dbname=cms user={lab.base.redeemer} sslmode=verify-full"

    def ask(where: str, authority: str, password: str) -> str:
        host = lab.host("a")
        host.fleet = replace(
            host.fleet,
            dsn=f"{where} {at} sslrootcert={tmp_path / authority}",
            password=Source("file", (str(tmp_path / password),)),
        )
        host.again()
        return kind(host.ask())

    monkeypatch.setattr(connection, "TRY_SECONDS", 0.0)
    until(lambda: ask("host=localhost hostaddr=127.0.0.1", "ca.pem", "right") == "no-sign-in", "TLS")
    assert "fleet" == ask("host=localhost hostaddr=127.0.0.1", "other.pem", "right")
    assert "fleet" == ask("host=another.example hostaddr=127.0.0.1", "ca.pem", "right")
    assert "fleet" == ask("host=localhost hostaddr=127.0.0.1", "ca.pem", "wrong")


@pytest.mark.parametrize("close", [lambda wire: wire.close(), lambda wire: wire.cut()])
def test_a_wire_that_is_closed(lab: Lab, close: Callable[[connection.Wire], None]) -> None:
    """What is asked on it is Away."""
    wire = lab.host("a").store.open_wire()
    close(wire)

    with pytest.raises(Away):
        wire.run(statements.META)
    wire.close()


def test_idle_connections_are_closed(lab: Lab, cluster: Cluster) -> None:
    """`rest` leaves none, and the next question makes one."""
    one = lab.signed_in("a")
    one.store.rest()

    assert one.store.database._wire is None
    assert one.renew()


def test_nothing_but_numbers_and_hashes(lab: Lab, cluster: Cluster) -> None:
    """Neither the server's log, though it logs every statement, nor its views and notifications, tell whose or what it is."""
    one, relay = lab.host("a"), lab.host("r", relay=True)
    with psycopg.connect(cluster.dsn(), autocommit=True) as watching:
        watching.execute(f"LISTEN {lab.base.schema}".encode())
        first = lab.provider.sign_in()
        one.sign_in(first, access="access-of-the-sign-in")
        relay.token()
        lab.age(600.0)
        secrets = {first, "access-of-the-sign-in", one.renew(), one.refresh_token()}
        relay.ask(mint_of(relay.token("")), wanted=True)
        queries = [query for (query,) in watching.execute("SELECT query FROM pg_stat_activity").fetchall()]
        lab.provider.dead.update(lab.provider.given.values())
        one.ask(None)
        with one.store.hold(GRANT) as held:
            held.delete()
        lab.base.sql("SELECT pg_notify(%s, 'the last')", lab.base.schema)
        with closing(watching.notifies(timeout=PATIENCE)) as heard:
            payloads = [each.payload for each in takewhile(lambda each: each.payload != "the last", heard)]
    shown = said(cluster) + "\n".join(queries)

    assert {GRANT.key} == set(payloads)
    assert GRANT.key in shown
    assert any("signins" in each for each in queries)
    for word in (*secrets, *(secret.encode().hex() for secret in secrets), GRANT.login, GRANT.authority):
        assert word not in shown
    assert not [each for each in queries if lab.base.schema in each and GRANT.key in each]


def test_behind_a_pooler(lab: Lab) -> None:
    """With listen=False, each transaction may have another connection to the server: one redemption for all, as ever."""
    with pooler(lab.base.cluster, lab.base.redeemer) as port:
        hosts = [lab.host(f"h{number}", port=port, listen=False) for number in range(3)]
        hosts[0].sign_in(lab.provider.sign_in())
        for lives in range(1, 4):
            together(len(hosts), lambda number: hosts[number].token())
            assert 1 == len({host.token() for host in hosts})
            assert (lives, 0) == (lab.provider.asked, lab.provider.replays)
            lab.age(0.8 * HOUR)
        heard = list[Told]()
        hosts[1].store.listen(heard.append)
        until(lambda: hosts[1].store._hearing and hosts[1].store._hearing._since, "the first question")
        for host in hosts:
            host.store.close()


def test_who_may_not(lab: Lab) -> None:
    """A role without rights is told what gives them."""
    cluster, name = lab.base.cluster, f"{lab.base.schema}_nobody"
    cluster.sql(f"CREATE ROLE {name} LOGIN")
    host = lab.host("a")
    host.fleet = replace(host.fleet, dsn=cluster.dsn(name))
    host.again()
    with pytest.raises(Unavailable) as caught, host.store.hold(GRANT) as held:
        held.read()

    trouble = caught.value.outcome.trouble
    assert ("42501" in trouble.message, "a member of cms_redeemer" in trouble.hint) == (True, True)


class Impostor:
    """A program of another user's where the database was: it asks for the password in clear."""

    def __init__(self) -> None:
        self.told = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError, struct.error):
            client, _ = self._listening.accept()
            with client:
                while self._packet(client)[:4] in _ENCRYPTED:
                    client.sendall(b"N")
                client.sendall(b"R" + struct.pack("!II", 8, 3))
                if client.recv(1) == b"p":
                    self.told = self._packet(client)

    @staticmethod
    def _packet(client: socket.socket) -> bytes:
        (size,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
        return client.recv(size - 4, socket.MSG_WAITALL)

    def close(self) -> None:
        self._listening.close()
        self._thread.join()


# SSLRequest and GSSENCRequest of PostgreSQL's protocol.
_ENCRYPTED = (struct.pack("!I", 80877103), struct.pack("!I", 80877104))


@pytest.mark.parametrize("source", ["password", "passfile", "~/.pgpass", "the owner's"])
@pytest.mark.parametrize(("more", "told"), [("", b""), (" require_auth=password", b"of relay1\0")])
def test_an_impostor_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, more: str, told: bytes
) -> None:
    """It gets no password, unless the configuration says that the password is sent in clear."""
    impostor, file = Impostor(), tmp_path / ".pgpass"
    file.write_text("*:*:*:*:of relay1\n")
    file.chmod(0o600)
    if source in ("~/.pgpass", "the owner's"):
        monkeypatch.setenv("PGPASSFILE", str(file))
    more += f" passfile={file}" if source == "passfile" else ""
    dsn = f"host=127.0.0.1 port={impostor.port} user=relay1{more}"
    with pytest.raises(Away):
        connect(Fleet(dsn, ()), "of relay1" if source == "password" else "", dsn if source == "the owner's" else "")
    impostor.close()

    assert told == impostor.told


@pytest.mark.parametrize(
    ("dsn", "proves"),
    [
        ("dbname=cms", True),
        ("host=/run/postgresql sslmode=verify-full", True),
        ("host=db.example.org,/run/postgresql sslmode=verify-full", True),
        ("postgresql://localhost/cms", True),
        ("host=db.example.org sslmode=verify-full", False),
        ("hostaddr=192.0.2.1 sslmode=verify-full", False),
        ("host=localhost require_auth=md5", False),
    ],
)
def test_where_the_server_proves_that_it_knows_the_password(dsn: str, proves: bool) -> None:
    """Wherever no certificate says who it is."""
    assert proves == bool(_mutual(dsn, "of relay1"))


def test_a_libpq_that_lets_no_server_prove_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's, for example: what helps is said, and without a password nothing is lacking."""
    monkeypatch.setattr("psycopg.pq.version", lambda: 150_009)
    with pytest.raises(Unavailable) as refused:
        _mutual("host=localhost", "of relay1")

    trouble = refused.value.outcome.trouble
    assert "older than version 16" in trouble.message
    assert 'pip install "psycopg[binary]"' in str(trouble.hint)
    assert {} == _mutual("host=localhost", "") == _mutual("host=db.example.org sslmode=verify-full", "of relay1")
