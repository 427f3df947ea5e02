from __future__ import annotations

import re
from contextlib import nullcontext

import psycopg
import pytest
from support.fleet import GRANT, MORE, SCOPES, Lab, mint_of
from support.postgres import Base
from support.waiting import until

from cms.grants.fleet import schema, statements
from cms.grants.fleet.sealing import scopes_key

KEY = GRANT.key


def test_made_twice(lab: Lab) -> None:
    """What makes the tables can be run again, and changes nothing."""
    lab.signed_in(access="first")
    before = (
        lab.base.sql("SELECT version, oldest, history, fleet FROM cms.meta"),
        lab.row("lineage, generation, sealed"),
    )

    lab.base.cluster.sql(schema.ddl(lab.base.schema))

    assert before == (
        lab.base.sql("SELECT version, oldest, history, fleet FROM cms.meta"),
        lab.row("lineage, generation, sealed"),
    )


def test_no_quarantine_at_first(lab: Lab) -> None:
    """A new fleet renews from the start."""
    assert lab.signed_in().renew()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sealed FROM cms.signins",
        "SELECT * FROM cms.signins",
        "SELECT grant_key FROM cms.signins FOR UPDATE",
        "SELECT mint FROM cms.tokens FOR UPDATE",
        "UPDATE cms.signins SET refused = 1",
        "UPDATE cms.tokens SET host = 'x'",
        "INSERT INTO cms.wishes VALUES ('x', 'x', 'x')",
        "DELETE FROM cms.wishes",
        "UPDATE cms.meta SET history = 'x'",
        "INSERT INTO cms.meta (version, oldest, history) VALUES (1, 1, '')",
        "INSERT INTO cms.tokens SELECT * FROM cms.tokens",
        "INSERT INTO cms.signins (grant_key, lineage, generation) VALUES (repeat('0', 32), gen_random_uuid(), 1)",
        "DELETE FROM cms.signins",
        "DELETE FROM cms.tokens",
        "TRUNCATE cms.tokens",
        "CREATE TABLE cms.own (x int)",
        "COPY cms.signins TO STDOUT",
    ],
)
def test_what_a_relay_may_not(base: Base, text: str) -> None:
    """Its role reads no sign-in and changes nothing."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        base.sql(text, role=base.relay)


def test_what_a_relay_may(lab: Lab) -> None:
    """It reads tokens, and what it needs of sign-ins; a redeeming host's statements are refused to it."""
    lab.signed_in(access="first")
    base, values = lab.base, {"grant": KEY, "scopes": scopes_key(SCOPES)}

    for text in (statements.META, statements.MARK, statements.WISHED):
        base.sql(text, role=base.relay)
    with psycopg.connect(base.cluster.dsn(base.relay)) as connection:
        (row,) = connection.execute(
            statements.READ_AS_RELAY.replace("cms.", f"{base.schema}.").encode(), values
        ).fetchall()
    assert row[8] == mint_of("first")


# What a host that serves only says to the database.
OF_A_RELAY = {"META", "MARK", "READ_AS_RELAY", "CHANGED", "WISHED", "WISH", "VERSION", "SHOW_AS_RELAY", "HEARS"}
STATEMENTS = {name for name, text in vars(statements).items() if name[0].isupper() and isinstance(text, str)}


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_each_statement_as_a_relay(base: Base, name: str) -> None:
    """All but a relay's own are refused to its role."""
    text = re.sub(r"%\(\w+\)s", "NULL", getattr(statements, name).replace("%(generation)s", "1"))

    with nullcontext() if name in OF_A_RELAY else pytest.raises(psycopg.errors.InsufficientPrivilege):
        base.sql(text, role=base.relay)


def test_a_wish(lab: Lab) -> None:
    """It works once for each token, and for no other than the published one."""
    lab.signed_in(access="first")
    wish = "SELECT cms.wish(%s, %s, %s)"
    scopes, mint = scopes_key(SCOPES), mint_of("first")

    assert [(False,)] == lab.base.sql(wish, KEY, scopes, mint_of("another"), role=lab.base.relay)
    assert [(False,)] == lab.base.sql(wish, KEY, scopes_key(MORE), mint, role=lab.base.relay)
    assert [(True,)] == lab.base.sql(wish, KEY, scopes, mint, role=lab.base.relay)
    assert [(False,)] == lab.base.sql(wish, KEY, scopes, mint, role=lab.base.relay)


def test_a_wish_that_is_never_ended(lab: Lab) -> None:
    """A relay that leaves its transaction open keeps no other from renewing, from wishing, and from signing out."""
    host = lab.signed_in("a", access="first")
    wish = f"SELECT {lab.base.schema}.wish(%s, %s, %s)".encode()
    asked = (KEY, scopes_key(SCOPES), mint_of("first"))
    with psycopg.connect(lab.base.cluster.dsn(lab.base.relay)) as relay:
        assert [(True,)] == relay.execute(wish, asked).fetchall()

        with psycopg.connect(f"{lab.base.cluster.dsn(lab.base.relay)} options='-c statement_timeout=20s'") as other:
            assert [(True,)] == other.execute(wish, asked).fetchall()
        host.renew()
        assert not host.store.unshared
        with host.store.hold(GRANT) as held:
            assert held.delete()


def test_claims_and_renewals_touch_no_index(lab: Lab) -> None:
    """They are updates within a page (HOT)."""
    host = lab.signed_in(access="first")
    for _ in range(20):
        host.renew()

    def updates() -> dict[str, tuple[int, int]]:
        text = "SELECT relname, n_tup_upd::int, n_tup_hot_upd::int FROM pg_stat_user_tables WHERE schemaname = %s"
        return {table: (updated, hot) for table, updated, hot in lab.base.sql(text, lab.base.schema)}

    # The server counts what a connection has done when that has ended.
    host.store.close()
    until(lambda: updates()["signins"][0] == 40, "all updates to be counted")
    found = updates()

    assert [(40, 40), (20, 20)] == [found[each] for each in ("signins", "tokens")]


_OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "||")
_TYPES = (*("int2", "int4", "int8", "float8", "text", "uuid", "timestamptz", "interval", "xid8", "bool", "bytea"),)
# Makes each operator that PostgreSQL itself has not, of every two types. It fails when it is used.
_TRAPS = f"""
DO $do$ DECLARE o text; l regtype; r regtype; n int := 0; BEGIN
  FOR o, l, r IN SELECT * FROM unnest(ARRAY{list(_OPERATORS)}) o, unnest(ARRAY{list(_TYPES)}::regtype[]) l,
      unnest(ARRAY{list(_TYPES)}::regtype[]) r LOOP
    -- With one of those, a text that stands beside a number would be read as a number, and the trap would not be sprung.
    CONTINUE WHEN o = '||' AND l = r OR EXISTS (SELECT FROM pg_operator WHERE oprname = o AND oprleft = l AND oprright = r);
    n := n + 1;
    EXECUTE format('CREATE FUNCTION public.trap%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN
      RAISE ''a trap, run by %%'', current_user; END $$', n, l, r,
      CASE WHEN o IN ('+', '-', '*') THEN l::text WHEN o = '||' THEN 'text' ELSE 'bool' END);
    EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.trap%s)', o, l, r, n);
  END LOOP; END $do$"""

# Values of the types that a host sends.
_VALUES = {
    **dict.fromkeys(("grant", "scopes", "name", "channel", "mint", "hears"), KEY),
    **dict.fromkeys(("lineage", "host"), "00000000-0000-0000-0000-000000000001"),
    **dict.fromkeys(("generation", "fence", "number", "most"), 1),
    **dict.fromkeys(("lease", "late", "late_share", "life", "left", "due", "away"), 1.5),
    **dict.fromkeys(("urgent", "redeeming", "final"), True),
    **dict.fromkeys(("sealed", "token"), b"sealed"),
    "since": "1",
    "grants": [KEY],
}


def test_a_relays_operators_are_not_used(lab: Lab) -> None:
    """Before version 15, every role may make operators in `public`: neither the owner nor a host that redeems runs one."""
    base = lab.base
    host = lab.signed_in("before")
    base.sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    try:
        base.sql(_TRAPS, role=base.relay)
        for role in (base.redeemer, "postgres"):
            with pytest.raises(psycopg.errors.RaiseException, match="a trap"):
                base.sql("SELECT 1::int8 || '/'", role=role)

        base.cluster.sql(schema.ddl(base.schema))
        host.again()
        host.renew()
        host.sign_in(lab.provider.sign_in(), access="second")
        with host.store.hold(GRANT) as held:
            assert held.delete()
        with psycopg.connect(base.cluster.dsn(base.redeemer)) as connection:
            for name in STATEMENTS:
                text = getattr(statements, name).replace("cms.", f"{base.schema}.")
                for absent in ((), ("fence", "redeeming", "number", "mint", "token", "life", "left", "due")):
                    connection.execute(text.encode(), {**_VALUES, **dict.fromkeys(absent)})
                    connection.rollback()
    finally:
        base.sql(f"DROP OWNED BY {base.relay} CASCADE")
        base.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
