"""A database that is away, is started anew, or loses what it had."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.fleet import GRANT, HOUR, SCOPES, Host, Lab, grant_of, mint_of
from support.grants import kind
from support.postgres import OWNER, Base, Cluster, new_cluster, program, standby_of
from support.waiting import until

from cms.core.lifecycle import Granted
from cms.grants.fleet import connection, held
from cms.grants.fleet.claim import Terms
from cms.grants.messages import Heard, Reached, Told
from cms.grants.stores import Elsewhere
from cms.grants.vault import minted
from cms.grants.vault.minted import Moment

WHOLE = os.environ.get("CMS_FLEET") == "whole"
SHORT = Terms(lease=0.2)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts give up soon on a database that is away."""
    monkeypatch.setattr(held, "STORE_SECONDS", 0.3)
    monkeypatch.setattr(connection, "TRY_SECONDS", 0.3)


@pytest.fixture
def stopped(cluster: Cluster) -> Iterator[Cluster]:
    """A server that a test may stop; it runs again afterwards."""
    yield cluster
    cluster.stop()
    cluster.start()


def test_away_during_redemptions(lab: Lab, stopped: Cluster) -> None:
    """Each redemption that was under way gives its token, which is shared when the database is back; no one redeems it again."""
    grants = [grant_of(number) for number in range(3)]
    one, other = lab.host("a"), lab.host("b")
    for grant in grants:
        one.sign_in(lab.provider.sign_in(), grant)
    away = False

    def exchange(token: str) -> dict[str, object]:
        nonlocal away
        if not away:
            stopped.stop()
            away = True
        return lab.provider.exchange(token)

    busy = lab.host("a", exchange=exchange)
    first = busy.ask(grant=grants[0])
    assert isinstance(first, Granted)
    assert first.sign_in.shared is False
    # Held tokens are good; for others there is no answer, and nothing is sent.
    assert "fleet" == kind(busy.ask(grant=grants[1]))
    assert "fleet" == kind(other.ask(grant=grants[0]))
    # A worker that is started anew serves what the journal has.
    busy.again()
    assert first.secret == busy.token(grant=grants[0])
    assert "fleet" == kind(busy.ask(mint_of(first.secret), grant=grants[0]))
    stopped.start()

    assert busy.token(grant=grants[1])
    assert first.secret == other.token(grant=grants[0])
    assert all(other.renew(grant) for grant in grants)
    assert (5, 0) == (lab.provider.asked, lab.provider.replays)


def test_back_without_a_question(lab: Lab, stopped: Cluster) -> None:
    """A host that listens shares its journal as soon as the database is back, and tells of both."""
    one, told = lab.signed_in("a"), list[Told]()
    one.store.listen(told.append)
    until(lambda: told == [Reached(""), Heard((GRANT.key,))], "the first connection, and its question")
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        stopped.stop()
        held.store(replace(entry, cache="successor"))
    before = 2
    until(lambda: isinstance(told[-1], Reached) and told[-1].why, "the outage to be told")
    outage = len(told)
    stopped.start()

    until(lambda: lab.row("generation") == (before,), "the journal")
    until(lambda: {Heard((GRANT.key,)), Reached("")} <= {*told[outage:]}, "both to be told")


def test_started_anew_with_a_claim_out(lab: Lab, stopped: Cluster) -> None:
    """The lease counts from the start of the server: the host that has the claim could not store before."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        lab.age(100.0)
        stopped.stop()
        stopped.start()
        # What is tried on the lost connection may take all the time that there is here.
        one.store.rest()
        with other.store.hold(GRANT, SCOPES) as there:
            there.read()
            there.prepare()
            with pytest.raises(Elsewhere):
                there.claim()
        held.store(replace(entry, cache=lab.provider.sign_in()))

    assert other.refresh_token() == one.refresh_token() != entry.cache
    assert other.renew()


def restored(lab: Lab, tmp_path: Path, change: str = "") -> None:
    """Put a dump of the schema back that was made before something happened."""
    cluster, name = lab.base.cluster, lab.base.schema
    where = ["-h", str(cluster.folder), "-p", str(cluster.port), "-U", OWNER, "-d", "cms"]
    file = tmp_path / "dump"
    if not change:
        subprocess.run([program("pg_dump"), *where, "-n", name, "-f", str(file)], check=True)
        return
    cluster.sql(f"DROP SCHEMA {name} CASCADE")
    subprocess.run(
        [program("psql"), *where, "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file)], check=True, capture_output=True
    )


def test_a_restored_dump(lab: Lab, tmp_path: Path) -> None:
    """Hosts bring their journals, and a host without one may redeem nothing meanwhile."""
    one, other = lab.signed_in("a"), lab.host("b")
    restored(lab, tmp_path)
    one.renew()
    second = one.renew()
    (generation,) = lab.row("generation")
    restored(lab, tmp_path, "put back")
    other.again()

    with other.store.hold(GRANT, SCOPES) as held:
        held.read()
        held.prepare()
        with pytest.raises(Elsewhere):
            held.claim()
    one.again()
    assert second == one.token()

    assert (generation,) == lab.row("generation")
    assert second == other.token()
    lab.base.sql("UPDATE cms.meta SET since = since - interval '1 hour'")
    assert other.renew()
    assert 0 == lab.provider.replays


def test_a_dump_that_is_restored_under_a_connection(lab: Lab, tmp_path: Path) -> None:
    """Whichever host asks first notices it, and the one with the journal brings that."""
    one, other = lab.signed_in("a"), lab.host("b")
    restored(lab, tmp_path)
    second = one.renew()
    other.refresh_token()
    restored(lab, tmp_path, "put back")
    other.refresh_token()

    assert lab.base.sql("SELECT history = cms.history(), since > now() - interval '1 minute' FROM cms.meta") == [
        (True, True)
    ]
    assert second == one.token() == other.token()


@pytest.mark.parametrize("again", [False, True])
def test_a_row_that_was_lost(lab: Lab, *, again: bool) -> None:
    """A host brings it back from its journal when it asks for it, started anew or not; a sign-out then is one for good."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()
    lab.base.sql("DELETE FROM cms.signins")
    assert "no-sign-in" == kind(other.ask())
    if again:
        one.again()

    assert first == one.token() == other.token()
    assert one.refresh_token() == other.refresh_token() != ""
    lab.base.sql("DELETE FROM cms.signins")
    with one.store.hold(GRANT) as held:
        assert held.delete()
    one.again()
    assert "no-sign-in" == kind(one.ask())


def test_the_latest_journal_counts(lab: Lab) -> None:
    """The first host that brings a lost row back may have an earlier one: nothing is redeemed before the others could, too."""
    one, other = lab.signed_in("a"), lab.host("b")
    earlier = one.renew()
    last = other.renew()
    told = list[Told]()
    other.store.listen(told.append)
    until(lambda: Reached("") in told, "the other host to listen")
    lab.base.sql("DELETE FROM cms.signins")

    assert earlier == one.renew()
    until(lambda: Heard((GRANT.key,)) in told, "the other host to hear of it")
    assert last == other.token()
    assert last == one.token()
    lab.base.sql("UPDATE cms.meta SET since = since - interval '1 hour'")
    assert one.renew()
    assert (3, 0) == (lab.provider.asked, lab.provider.replays)


def test_a_row_that_is_lost_during_a_redemption(lab: Lab) -> None:
    """What the provider gave is in the journal, and the row comes back from it."""
    one, other = lab.signed_in("a"), lab.host("b")
    with one.store.hold(GRANT, SCOPES) as held:
        entry = held.read()
        assert entry
        held.prepare()
        held.claim()
        lab.base.sql("DELETE FROM cms.signins")
        assert held.store(replace(entry, cache="successor")).shared

    assert "successor" == other.refresh_token() == one.refresh_token()


def test_a_journal_that_is_too_old_is_no_news(lab: Lab) -> None:
    """It stays where it is, and no host looks again and again because of it."""
    one, told = lab.signed_in("a"), list[Told]()
    at = minted.now()
    one.now = lambda: replace(at, wall=at.wall + 31 * 86_400.0)
    one.again()
    one.store.tell = told.append
    lab.base.sql("DELETE FROM cms.signins")

    assert ["no-sign-in"] * 2 == [kind(one.ask()) for _ in range(2)]
    assert [] == told


def test_a_journal_whose_key_cannot_be_read(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The log says why it is not shared; once the key is back, so is the sign-in, without a restart."""
    one, key = lab.signed_in("a"), lab.folder / "fleet.key"
    kept = key.read_bytes()
    lab.base.sql("DELETE FROM cms.signins")
    key.unlink()
    one.again()
    first = kind(one.ask())
    said = capsys.readouterr().err
    key.write_bytes(kept)
    key.chmod(0o600)

    assert "fleet" != first
    assert "cannot be shared: the fleet's key cannot be read" in said
    assert one.refresh_token()
    assert (1,) == lab.row("generation")


@pytest.mark.parametrize(("days", "there"), [(29, True), (31, False)])
def test_how_long_a_host_may_be_away(lab: Lab, days: int, there: bool) -> None:
    """A sign-out is remembered for thirty days, and a journal that is older than that brings no sign-in back."""
    one, other = lab.signed_in("a"), lab.host("b")
    one.renew()
    one.store.close()
    with other.store.hold(GRANT) as held:
        held.delete()
    lab.base.sql(f"UPDATE cms.signins SET lease_until = lease_until - interval '{days} days'")
    other.again()
    assert "no-sign-in" == kind(other.ask())
    assert there == bool(lab.base.sql("SELECT 1 FROM cms.signins"))

    def later() -> Moment:
        at = minted.now()
        return replace(at, wall=at.wall + days * 86_400.0)

    one.now = later
    one.again()

    assert "no-sign-in" == kind(one.ask())
    assert [(0,)] == lab.base.sql("SELECT count(*)::int FROM cms.signins WHERE sealed IS NOT NULL")


class Failover:
    """A primary with an asynchronous standby, and two hosts that know both."""

    def __init__(self, primary: Cluster, standby: Cluster, folder: Path) -> None:
        self.primary, self.standby = primary, standby
        self.lab = Lab(Base(primary), folder)
        self.grants = [grant_of(number) for number in range(10 if WHOLE else 3)]
        self.hosts = [self._host(name) for name in ("a", "b")]
        for number, grant in enumerate(self.grants):
            self.hosts[number % 2].sign_in(self.lab.provider.sign_in(), grant)

    def _host(self, name: str) -> Host:
        host = self.lab.host(name, terms=SHORT)
        both = f"host={self.primary.folder},{self.standby.folder} port={self.primary.port},{self.standby.port}"
        host.fleet = replace(host.fleet, dsn=f"{both} dbname=cms user={self.lab.base.redeemer} sslmode=disable")
        host.again()
        return host

    def lose_rotations(self) -> None:
        """Have the standby miss renewals of all grants, and make it the primary."""
        (here,) = self.primary.sql("SELECT pg_current_wal_lsn()::text")[0]
        until(
            lambda: self.standby.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", here) == [(True,)], "the standby"
        )
        self.standby.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.sql("SELECT pg_reload_conf()")
        until(lambda: self.standby.sql("SELECT 1 FROM pg_stat_wal_receiver") == [], "the standby to hear nothing")
        for number, grant in enumerate(self.grants):
            for _ in range(1 + number % 2):
                self.hosts[number % 2].renew(grant)
        self.primary.stop(signal.SIGKILL)
        self.standby.promote()

    def renew_all(self) -> list[str]:
        """Have the other host of each grant renew it, after the hosts had their time; return what came of it."""
        for host in self.hosts:
            # As a host does that listens.
            host.store.listen(lambda _: None)
        until(lambda: all(host.store._history for host in self.hosts), "the greetings")
        until(self._quiet_is_over, "the end of the quarantine")
        return [kind(self.hosts[1 - number % 2].ask(None, grant=grant)) for number, grant in enumerate(self.grants)]

    def _quiet_is_over(self) -> bool:
        text = f"SELECT clock_timestamp() > since + interval '1 s' FROM {self.lab.base.schema}.meta"
        return self.standby.sql(text) == [(True,)]


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    with new_cluster() as primary, standby_of(primary) as standby:
        made = Failover(primary, standby, tmp_path)
        yield made
        made.lab.close()


def test_a_failover_that_lost_rotations(failover: Failover) -> None:
    """Nothing is lost: the hosts bring what the new primary has not, and nothing is redeemed twice."""
    failover.lose_rotations()
    for host in failover.hosts:
        host.again()

    assert ["granted"] * len(failover.grants) == failover.renew_all()
    assert (0, set()) == (failover.lab.provider.replays, failover.lab.provider.dead)


@pytest.mark.skipif(not WHOLE, reason="the negative twin: make test-fleet")
def test_the_same_without_journals(failover: Failover) -> None:
    """It is the journals that save the sign-ins: without them a strict provider ends them."""
    failover.lose_rotations()
    for host in failover.hosts:
        for name in host.store.journals.names():
            (host.folder / "fleet" / f"{name}.vault").unlink()
        host.again()

    failover.renew_all()

    assert len(failover.grants) == failover.lab.provider.replays == len(failover.lab.provider.dead)


def test_expired_tokens_are_none(lab: Lab) -> None:
    """A published token that has ended is not served, whatever becomes of the claim."""
    one, other = lab.signed_in("a"), lab.host("b")
    first = one.token()
    lab.age(HOUR)

    assert first != other.token(mint_of(first))
