"""The tables, the functions and the roles of a fleet's database, as SQL that can be run any number of times.

A table's change adds, and takes nothing away, so that hosts with the version before go on: `OLDEST` is the lowest
version of a program that can work with these tables. Only the owner runs this.
"""

from __future__ import annotations

# The version of these tables, and the least that a program must know to use them.
VERSION = 1
OLDEST = 1

# A role for hosts that redeem, and one for those that only serve tokens. Each host logs in with its own role, which is a
# member of one of these, so that one host can be shut out.
REDEEMER = "cms_redeemer"
RELAY = "cms_relay"

_DDL = """\
-- Before version 15, and in what was brought from there, every role can make operators in the schema `public`.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Roles are the whole server's: another schema may have made them, or an administrator.
DO $$ BEGIN CREATE ROLE cms_redeemer NOLOGIN;
  EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE cms_relay NOLOGIN;
  EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL; END $$;
CREATE SCHEMA IF NOT EXISTS {schema};

-- One row: the version, and which life of the data this is, since when. `oldest` is the version that a program must know.
CREATE TABLE IF NOT EXISTS {schema}.meta (
  one bool PRIMARY KEY DEFAULT true CHECK (one),
  fleet uuid NOT NULL DEFAULT gen_random_uuid(),
  version int NOT NULL,
  oldest int NOT NULL,
  history text NOT NULL,
  since timestamptz NOT NULL DEFAULT '-infinity');

-- A sign-in. `lineage` is one person's sign-in, `generation` counts what was stored, and never goes back. `sealed` is NULL
-- once it was signed out: the row stays, so that no host brings it back. `holder` to `lease_until` are a host's claim.
-- `redeeming` says that a redemption was begun and not ended, `refused` which generation the provider refuses for good.
-- `changed` is set by a sign-in, a sign-out and a refusal only: a claim and a renewal touch no index.
CREATE TABLE IF NOT EXISTS {schema}.signins (
  grant_key text COLLATE "C" PRIMARY KEY CHECK (grant_key ~ '^[0-9a-f]{{32}}$'),
  lineage uuid NOT NULL,
  generation bigint NOT NULL,
  sealed bytea,
  holder uuid,
  holder_name text,
  fence bigint NOT NULL DEFAULT 0,
  lease_until timestamptz,
  redeeming bool NOT NULL DEFAULT false,
  refused bigint,
  refused_number int,
  changed xid8 NOT NULL DEFAULT pg_current_xact_id())
  WITH (fillfactor = 70, toast.autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX IF NOT EXISTS signins_changed ON {schema}.signins (changed);

-- The newest token of a sign-in with certain scopes. `mint` is its hash.
CREATE TABLE IF NOT EXISTS {schema}.tokens (
  grant_key text COLLATE "C" REFERENCES {schema}.signins ON DELETE CASCADE,
  scopes_key text COLLATE "C",
  mint text NOT NULL,
  sealed bytea NOT NULL,
  life interval NOT NULL,
  expires_at timestamptz NOT NULL,
  refresh_at timestamptz NOT NULL,
  host text NOT NULL,
  PRIMARY KEY (grant_key, scopes_key))
  WITH (fillfactor = 70, toast.autovacuum_vacuum_scale_factor = 0.05);

-- The tokens that a relay wants replaced. Not in their rows, and with no key: a relay that leaves its transaction open holds no
-- row that a host that redeems, or another relay, would have to wait for.
CREATE TABLE IF NOT EXISTS {schema}.wishes (
  grant_key text COLLATE "C" NOT NULL,
  scopes_key text COLLATE "C" NOT NULL,
  mint text NOT NULL);
CREATE INDEX IF NOT EXISTS wishes_grant ON {schema}.wishes (grant_key);

-- Ciphertext cannot be compressed.
ALTER TABLE {schema}.signins ALTER sealed SET STORAGE EXTERNAL;
ALTER TABLE {schema}.tokens ALTER sealed SET STORAGE EXTERNAL;

-- Names this life of the data: a failover has another timeline, a restored dump another file.
CREATE OR REPLACE FUNCTION {schema}.history() RETURNS text LANGUAGE sql VOLATILE
  SET search_path = pg_catalog, pg_temp AS $$
  SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())
    || '/' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8)
    || '/' || pg_catalog.pg_relation_filenode('{schema}.signins'::pg_catalog.regclass) $$;

-- What a relay may ask for: that a redeeming host replaces this token. Once for each.
CREATE OR REPLACE FUNCTION {schema}.wish(k text, s text, m text) RETURNS bool LANGUAGE sql VOLATILE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
  WITH wished AS (
    INSERT INTO {schema}.wishes SELECT k, s, m FROM {schema}.tokens
    WHERE grant_key = k AND scopes_key = s AND mint = m AND NOT EXISTS (
      SELECT FROM {schema}.wishes w WHERE w.grant_key = k AND w.scopes_key = s AND w.mint = m) RETURNING 1)
  SELECT count(pg_notify('{channel}', k)) > 0 FROM wished $$;

INSERT INTO {schema}.meta (version, oldest, history) VALUES ({version}, {oldest}, {schema}.history())
  ON CONFLICT (one) DO UPDATE SET version = excluded.version, oldest = excluded.oldest
  WHERE {schema}.meta.version < excluded.version;

GRANT USAGE ON SCHEMA {schema} TO cms_redeemer, cms_relay;
GRANT SELECT ON {schema}.meta TO cms_redeemer, cms_relay;
GRANT UPDATE (history, since) ON {schema}.meta TO cms_redeemer;
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.signins, {schema}.tokens TO cms_redeemer;
GRANT SELECT, DELETE ON {schema}.wishes TO cms_redeemer;
GRANT SELECT ON {schema}.tokens, {schema}.wishes TO cms_relay;
GRANT SELECT (grant_key, lineage, refused, refused_number, changed) ON {schema}.signins TO cms_relay;
REVOKE ALL ON FUNCTION {schema}.wish, {schema}.history FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {schema}.wish, {schema}.history TO cms_redeemer, cms_relay;
"""


def ddl(schema: str = "cms") -> str:
    """Return the SQL that makes version `VERSION` of a schema, or brings an earlier version to it."""
    return _DDL.format(schema=quoted(schema), channel=schema.replace("'", "''"), version=VERSION, oldest=OLDEST)


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
