from __future__ import annotations

import uuid
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.postgres import Base

from cms.grants.fleet import statements
from cms.grants.fleet.claim import Claimed, Published, Row, Terms, may_claim

ME, OTHER = str(uuid.uuid4()), str(uuid.uuid4())
HOUR = 3600.0
NOW = 1_000_000.0
LONG_AGO = 0.0
FREE = Row(7, refused=False, claimed=None, published=None, known_history=True, since=LONG_AGO, started=LONG_AGO)
GOOD = Published(HOUR, NOW + 1800.0)
OLD = Published(HOUR, NOW + 500.0)


def test_a_free_one() -> None:
    """Whoever has read this generation may claim it, and nobody who has read another."""
    assert may_claim(FREE, ME, 7, NOW)
    assert not may_claim(FREE, ME, 6, NOW)


def test_a_refused_one() -> None:
    """It is sent once by the whole fleet."""
    assert not may_claim(replace(FREE, refused=True), ME, 7, NOW)


def test_ones_own_claim() -> None:
    """An earlier worker's, which is dead: it is taken over at once."""
    assert may_claim(replace(FREE, claimed=Claimed(ME, NOW + 50.0), published=GOOD), ME, 7, NOW)


@pytest.mark.parametrize(
    ("lease_until", "published", "urgent", "expected"),
    [
        (NOW + 1.0, None, True, False),
        (NOW - 1.0, GOOD, False, False),
        (NOW - 1.0, GOOD, True, True),
        (NOW - 1.0, OLD, False, True),
        (NOW - 1.0, None, False, True),
    ],
)
def test_another_hosts_claim(lease_until: float, published: Published | None, urgent: bool, expected: bool) -> None:
    """It is taken over when its lease has ended, and clients cannot go on with the token."""
    row = replace(FREE, claimed=Claimed(OTHER, lease_until), published=published)

    assert expected == may_claim(row, ME, 7, NOW, urgent=urgent)


def test_after_a_restart_of_the_server() -> None:
    """A lease counts from the start: the host could not store before."""
    row = replace(FREE, claimed=Claimed(OTHER, NOW - 1.0), started=NOW - 30.0)

    assert not may_claim(row, ME, 7, NOW)
    assert may_claim(row, ME, 7, NOW + 31.0)


@pytest.mark.parametrize("claimed", [None, Claimed(ME, NOW), Claimed(OTHER, NOW - 100.0)])
def test_after_a_failover(claimed: Claimed | None) -> None:
    """Nobody claims anything, not even again, until every host had the time to bring its journal."""
    row = replace(FREE, claimed=claimed)

    assert not may_claim(replace(row, known_history=False), ME, 7, NOW)
    assert not may_claim(replace(row, since=NOW - 30.0), ME, 7, NOW, urgent=True)
    assert may_claim(replace(row, since=NOW - 61.0), ME, 7, NOW)


# Seconds from the present; never so near to it that the time between two statements counts.
_AWAY = st.integers(-9, 9).map(lambda number: number * 100.0 + 50.0)
_TERMS = Terms(lease=60.0, late=600.0)
_ROWS = st.builds(
    Row,
    st.integers(1, 3),
    refused=st.booleans(),
    claimed=st.none() | st.builds(Claimed, st.sampled_from([ME, OTHER]), _AWAY),
    published=st.none() | st.builds(Published, st.sampled_from([300.0, HOUR, 86_400.0]), _AWAY),
    known_history=st.booleans(),
    since=_AWAY,
    started=st.just(0.0),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=_ROWS, generation=st.integers(1, 3), urgent=st.booleans())
@example(replace(FREE, since=-1000.0, claimed=Claimed(OTHER, -150.0), published=Published(HOUR, 550.0)), 7, False)
@example(replace(FREE, since=-1000.0, claimed=Claimed(OTHER, -150.0), published=Published(300.0, 150.0)), 7, False)
def test_the_statement_says_the_same(base: Base, row: Row, generation: int, urgent: bool) -> None:
    """The SQL and the function agree about every row."""
    # The server was started when it was: what matters is whether that is more than a lease ago.
    values = {
        "grant": "0" * 32,
        "scopes": "scopes",
        "lineage": str(uuid.UUID(int=1)),
        "generation": generation,
        "host": ME,
        "name": "me",
        "urgent": urgent,
        "lease": _TERMS.lease,
        "late": _TERMS.late,
        "late_share": _TERMS.late_share,
    }
    with psycopg.connect(base.cluster.dsn()) as connection:

        def run(text: str, *parameters: object) -> None:
            connection.execute(text.replace("cms.", f"{base.schema}.").encode(), parameters or None)

        run("UPDATE cms.meta SET since = clock_timestamp() + make_interval(secs => %s)", row.since)
        if not row.known_history:
            run("UPDATE cms.meta SET history = 'another'")
        run(
            "INSERT INTO cms.signins (grant_key, lineage, generation, sealed, refused, holder, lease_until) "
            "VALUES (%s, %s::uuid, %s, 'sealed', %s, %s::uuid, clock_timestamp() + make_interval(secs => %s::float8))",
            *(values["grant"], values["lineage"], row.generation, row.generation if row.refused else None),
            *((row.claimed.holder, row.claimed.lease_until) if row.claimed else (None, None)),
        )
        if row.published:
            run(
                "INSERT INTO cms.tokens VALUES (%s, 'scopes', 'mint', 'sealed', make_interval(secs => %s), "
                "clock_timestamp() + make_interval(secs => %s), clock_timestamp(), 'host')",
                *(values["grant"], row.published.life, row.published.expires_at),
            )
        (started,) = connection.execute(
            "SELECT extract(epoch FROM pg_postmaster_start_time() - clock_timestamp())::float8"
        ).fetchone() or (0.0,)
        text = statements.CLAIM.replace("cms.", f"{base.schema}.")
        claimed = connection.execute(text.encode(), values).fetchall()
        connection.rollback()
    if abs(started + _TERMS.lease) < 2.0:
        # Just now the server's start would matter one way or the other.
        return

    assert bool(claimed) == may_claim(replace(row, started=started), ME, generation, 0.0, urgent=urgent, terms=_TERMS)
