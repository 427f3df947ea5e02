from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest
from support.fleet import GRANT, SCOPES, Host, Lab, grant_of, mint_of
from support.postgres import Cluster
from support.waiting import PATIENCE, until

from cms.core.lifecycle import Granted, Transient
from cms.grants.fleet import hear
from cms.grants.messages import Heard, Told


class Ears:
    """What a host has heard, in order."""

    def __init__(self, host: Host) -> None:
        self.heard: list[tuple[str, ...]] = []
        # Why the database could not be asked, each time that this changed; "" if it could.
        self.reached: list[str] = []
        self._host = host
        host.store.listen(self._told)
        until(lambda: host.store._hearing and host.store._hearing._since, "the first question")

    def _told(self, told: Told) -> None:
        if isinstance(told, Heard):
            self.heard.append(told.keys)
        else:
            self.reached.append(told.why)

    def hears(self, *keys: str) -> None:
        until(lambda: keys in self.heard, f"{keys} among {self.heard}")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not gather what comes after a notification, and do not poll: what is heard was told."""
    monkeypatch.setattr(hear, "POLL_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(hear, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(hear, "_SHORTEST_PAUSE", 0.05)


@pytest.mark.parametrize("relay", [False, True])
def test_what_other_hosts_change(lab: Lab, relay: bool) -> None:
    """A sign-in, a refusal, a new sign-in and a sign-out are heard; a renewed token is not."""
    one = lab.host("a")
    ears = Ears(lab.host("b", relay=relay))

    one.sign_in(lab.provider.sign_in())
    ears.hears(GRANT.key)
    ears.heard.clear()
    one.renew()
    lab.provider.dead.update(lab.provider.given.values())
    one.ask(None)
    ears.hears(GRANT.key)
    assert 1 == len(ears.heard)
    ears.heard.clear()
    one.sign_in(lab.provider.sign_in())
    ears.hears(GRANT.key)
    ears.heard.clear()
    with one.store.hold(GRANT) as held:
        held.delete()
    ears.hears(GRANT.key)


def test_how_many_hear_of_a_sign_out(lab: Lab) -> None:
    """Each host that listens counts once, whatever it is, and none of another fleet; the person is told."""
    one, relay = lab.signed_in("a"), lab.host("r", relay=True)
    lab.host("polls", listen=False).store.listen(lambda _: None)
    other = lab.host("of another fleet")
    with closing(other.store.open_wire()) as wire, closing(one.store.open_wire()) as twice:
        wire.listen(f"{lab.base.schema}x", other.store.host)

        def said() -> str:
            outcome = one.service.sign_out(GRANT)
            assert isinstance(outcome, Granted)
            return outcome.note

        assert "No host listens now" in said()
        Ears(one)
        assert "1 host is connected and hears of it at once" in said()
        Ears(relay)
        twice.listen(one.store.channel, one.store.host)
        assert "2 hosts are connected and hear of it at once" in said()


def test_what_a_relay_wishes(lab: Lab) -> None:
    """The hosts that redeem hear of it once, and then replace the token, if it has not only just come."""
    one, relay = lab.signed_in("a"), lab.host("r", relay=True)
    first = one.token()
    lab.age(600.0)
    assert first == relay.token()
    ears = Ears(one)
    # Its own sign-in: it began before that.
    ears.hears(GRANT.key)
    ears.heard.clear()

    assert first == relay.token(mint_of(first), rejected="", wanted=True)
    ears.hears(GRANT.key)
    with one.store.hold(GRANT, SCOPES) as held:
        held.read()
        assert held.wished
    second = one.token("")

    assert first != second == relay.token(mint_of(first))
    assert 1 == ears.heard.count((GRANT.key,))


def test_what_happened_between_a_hosts_first_question_and_its_listening(lab: Lab) -> None:
    """It is heard: a sign-out then would be missed for good."""
    one, other = lab.signed_in("a"), lab.host("b")
    other.refresh_token()
    with one.store.hold(GRANT) as held:
        held.delete()

    Ears(other).hears(GRANT.key)


def test_a_slow_transaction(lab: Lab) -> None:
    """What began before a question and ends after it is heard late, and not lost."""
    one = lab.signed_in("a")
    ears = Ears(lab.host("b"))
    name = lab.base.schema
    with psycopg.connect(lab.base.cluster.dsn()) as slow:
        slow.execute(f"UPDATE {name}.signins SET changed = pg_current_xact_id()".encode())
        one.sign_in(lab.provider.sign_in(), grant_of(2))
        ears.hears(grant_of(2).key)
        slow.execute(b"SELECT pg_notify(%s, '')", (name,))
    ears.hears(GRANT.key)


def test_by_polling_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LISTEN, as behind a pooler, it is heard at the next question."""
    monkeypatch.setattr(hear, "POLL_SECONDS", 0.05)
    one = lab.host("a")
    ears = Ears(lab.host("b", listen=False))

    one.sign_in(lab.provider.sign_in())

    ears.hears(GRANT.key)


def test_a_payload_is_a_hint(lab: Lab) -> None:
    """Anybody who may log in can notify: what they say is not believed."""
    one = lab.host("a")
    ears = Ears(lab.host("b"))
    lab.base.sql("SELECT pg_notify(%s, 'x')", lab.base.schema, role=lab.base.relay)
    one.sign_in(lab.provider.sign_in())

    ears.hears(GRANT.key)
    assert {(GRANT.key,)} == set(ears.heard)


def test_a_connection_that_is_lost(lab: Lab) -> None:
    """It is made anew, and what happened meanwhile is heard."""
    one = lab.host("a")
    ears = Ears(lab.host("b"))
    lab.base.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' OR usename = %s",
        lab.base.redeemer,
    )
    one.sign_in(lab.provider.sign_in())

    ears.hears(GRANT.key)


def test_another_life_of_the_database(lab: Lab) -> None:
    """After a failover nothing that was heard counts: everything is looked at again."""
    lab.signed_in("a")
    ears = Ears(lab.host("b"))
    lab.base.sql("UPDATE cms.meta SET history = 'another'")
    lab.base.sql("SELECT pg_notify(%s, '')", lab.base.schema)

    ears.hears()


def test_the_end(lab: Lab, cluster: Cluster) -> None:
    """Closed, it leaves neither a thread nor a connection."""
    ears = Ears(lab.host("b"))
    ears._host.store.close()

    assert not [each for each in threading.enumerate() if each.name == "fleet"]
    until(lambda: cluster.sql("SELECT 1 FROM pg_stat_activity WHERE usename = %s", lab.base.redeemer) == [], "the end")


def test_tables_that_are_empty_for_a_moment(lab: Lab) -> None:
    """While a dump is restored, or after a wrong DELETE, nothing fails but the question; then all is heard again."""
    one = lab.host("a")
    ears = Ears(lab.host("b"))
    with psycopg.connect(lab.base.cluster.dsn()) as connection:
        (made,) = connection.execute(f"SELECT m FROM {lab.base.schema}.meta m").fetchall()
        connection.execute(f"DELETE FROM {lab.base.schema}.meta")
        connection.commit()
        lab.base.sql("SELECT pg_notify(%s, 'look')", lab.base.schema)
        until(lambda: ears.reached[-1:] not in ([], [""]), "the question to fail")
        connection.execute(f"INSERT INTO {lab.base.schema}.meta SELECT ({made[0]!r}::{lab.base.schema}.meta).*")
        connection.commit()
    until(lambda: ears.reached[-1] == "", "the database to be back")

    one.sign_in(lab.provider.sign_in())
    ears.hears(GRANT.key)


@pytest.mark.parametrize("relay", [False, True])
def test_a_question_to_empty_tables(lab: Lab, relay: bool) -> None:
    """It says that there is no fleet, and is no bug."""
    lab.signed_in("a", access="first")
    host = lab.host("b", relay=relay)
    host.ask()
    lab.base.sql("DELETE FROM cms.meta")

    outcome = host.ask(None)
    assert isinstance(outcome, Transient)
    assert "has no fleet" in outcome.trouble.message


def test_notifications_without_end(lab: Lab) -> None:
    """Any role that may connect can send them. A host stores none of them, and still hears of a sign-in."""
    one, other, stop = lab.host("a"), lab.host("b"), threading.Event()
    ears = Ears(other)
    many = (
        f"SELECT count(pg_notify('{lab.base.schema}', i || repeat('x', 7900))) FROM generate_series(1, 1000) i".encode()
    )
    sent = threading.Event()

    def flood() -> None:
        with psycopg.connect(lab.base.cluster.dsn(lab.base.relay), autocommit=True) as relay:
            while not stop.is_set():
                relay.execute(many)
                sent.set()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        assert sent.wait(PATIENCE)
        one.sign_in(lab.provider.sign_in())
        ears.hears(GRANT.key)
        hearing = other.store._hearing
        assert hearing
        assert hearing._wire
        assert not hearing._wire.connection._notifies_backlog
    finally:
        stop.set()
        flooding.join()
