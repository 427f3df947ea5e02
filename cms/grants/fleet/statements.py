"""All that a host says to the fleet's database, as SQL. `cms.` stands for the schema.

Each statement is one transaction, and does the same again if it is repeated. Values are parameters and never part of the
text, so that no log and no view of the server's shows more than numbers and hashes. `clock_timestamp()` is the time:
`now()` would be when the transaction began.
"""

from __future__ import annotations

# Which version the tables are, and whether the database is in the life that the hosts know of.
META = "SELECT version, oldest, history = cms.history(), cms.history() FROM cms.meta"

# A failover or a restored backup has been noticed: from now on, hosts bring their journals.
NOTE_HISTORY = """\
UPDATE cms.meta SET history = cms.history(), since = clock_timestamp() WHERE history <> cms.history()"""

_PUBLISHED = """\
t.sealed, t.mint, t.host, extract(epoch FROM t.life)::float8, extract(epoch FROM t.expires_at - clock_timestamp())::float8,
  extract(epoch FROM t.refresh_at - clock_timestamp())::float8, EXISTS (SELECT FROM cms.wishes w
    WHERE w.grant_key = t.grant_key AND w.scopes_key = t.scopes_key AND w.mint = t.mint)"""

# A sign-in, and its token with the scopes that are asked for.
READ = f"""\
SELECT m.history = cms.history(), s.lineage::text, s.generation, s.sealed, s.redeeming, s.refused IS NOT NULL,
  s.refused_number, {_PUBLISHED}
FROM cms.meta m LEFT JOIN cms.signins s ON s.grant_key = %(grant)s
  LEFT JOIN cms.tokens t ON t.grant_key = s.grant_key AND t.scopes_key = %(scopes)s"""

# The same for a relay, whose role may read no sign-in.
READ_AS_RELAY = f"""\
SELECT true, s.lineage::text, 0::bigint, NULL::bytea, false, s.refused IS NOT NULL, s.refused_number, {_PUBLISHED}
FROM cms.meta m LEFT JOIN cms.signins s ON s.grant_key = %(grant)s
  LEFT JOIN cms.tokens t ON t.grant_key = s.grant_key AND t.scopes_key = %(scopes)s"""

# The condition is `claim.may_claim`. A row that another host changes at this moment is that host's.
CLAIM = """\
WITH found AS (
  SELECT s.grant_key, s.holder, s.lease_until, s.redeeming FROM cms.signins s
  WHERE s.grant_key = %(grant)s AND s.lineage = %(lineage)s::uuid AND s.generation = %(generation)s
    AND s.sealed IS NOT NULL AND s.refused IS NULL
  FOR UPDATE SKIP LOCKED)
UPDATE cms.signins s SET holder = %(host)s::uuid, holder_name = %(name)s, fence = s.fence + 1, redeeming = true,
  lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
FROM found, cms.meta m
WHERE s.grant_key = found.grant_key AND m.history = cms.history()
  AND clock_timestamp() > m.since + make_interval(secs => %(lease)s)
  AND (found.holder IS NULL OR found.holder = %(host)s::uuid
    OR (clock_timestamp() > greatest(
          found.lease_until, pg_postmaster_start_time() + make_interval(secs => %(lease)s))
      AND (%(urgent)s OR NOT EXISTS (
        SELECT FROM cms.tokens t WHERE t.grant_key = found.grant_key AND t.scopes_key = %(scopes)s
          AND t.expires_at - clock_timestamp()
            > least(make_interval(secs => %(late)s), t.life * %(late_share)s::float8)))))
RETURNING s.fence, found.redeeming"""

# The claim is given back: the provider did not redeem the sign-in, or it is not known whether it did (`redeeming`).
RELEASE = """\
UPDATE cms.signins SET holder = NULL, holder_name = NULL, lease_until = NULL, redeeming = %(redeeming)s
WHERE grant_key = %(grant)s AND holder = %(host)s::uuid AND fence = %(fence)s"""

_PUBLISH = """\
INSERT INTO cms.tokens AS t (grant_key, scopes_key, mint, sealed, life, expires_at, refresh_at, host)
  SELECT %(grant)s, %(scopes)s, %(mint)s, %(token)s::bytea, make_interval(secs => %(life)s::float8),
    clock_timestamp() + make_interval(secs => %(left)s::float8),
    clock_timestamp() + make_interval(secs => %(due)s::float8), %(name)s
  FROM stored WHERE %(mint)s::text IS NOT NULL
  ON CONFLICT (grant_key, scopes_key) DO UPDATE SET mint = excluded.mint, sealed = excluded.sealed,
    life = excluded.life, expires_at = excluded.expires_at, refresh_at = excluded.refresh_at, host = excluded.host"""

# A successor, or the same refresh token after it has given an access token: whatever is later than the row. It ends any claim.
STORE = f"""\
WITH stored AS (
  UPDATE cms.signins SET sealed = %(sealed)s::bytea, generation = %(generation)s, holder = NULL, holder_name = NULL,
    lease_until = NULL, redeeming = false, refused = NULL, refused_number = NULL
  WHERE grant_key = %(grant)s AND lineage = %(lineage)s::uuid AND generation < %(generation)s RETURNING 1),
published AS ({_PUBLISH}),
granted AS (DELETE FROM cms.wishes w USING stored WHERE w.grant_key = %(grant)s AND w.scopes_key = %(scopes)s)
SELECT count(*) FROM stored"""

# Facts beside a refresh token that stays as it is: how the sign-in ended, and what the next one has to meet. Not under
# another host's claim. With `final`, the provider refuses the sign-in for good, and every host hears of it.
NOTE = """\
WITH noted AS (
  UPDATE cms.signins SET sealed = %(sealed)s::bytea, generation = %(generation)s, holder = NULL, holder_name = NULL,
    lease_until = NULL, redeeming = coalesce(%(redeeming)s, redeeming),
    refused = CASE WHEN %(final)s OR refused IS NOT NULL THEN %(generation)s END,
    refused_number = CASE WHEN %(final)s THEN %(number)s::int ELSE refused_number END,
    changed = CASE WHEN %(final)s THEN pg_current_xact_id() ELSE changed END
  WHERE grant_key = %(grant)s AND lineage = %(lineage)s::uuid AND generation < %(generation)s
    AND (holder IS NULL OR (holder = %(host)s::uuid AND fence = coalesce(%(fence)s, fence))) RETURNING 1),
told AS (SELECT pg_notify(%(channel)s, %(grant)s) FROM noted WHERE %(final)s)
SELECT (SELECT count(*) FROM noted), (SELECT count(*) FROM told)"""

# A new sign-in, over whatever there is.
SIGN_IN = f"""\
WITH stored AS (
  INSERT INTO cms.signins AS s (grant_key, lineage, generation, sealed)
  VALUES (%(grant)s, %(lineage)s::uuid, %(generation)s, %(sealed)s::bytea)
  ON CONFLICT (grant_key) DO UPDATE SET lineage = excluded.lineage, generation = excluded.generation,
    sealed = excluded.sealed, holder = NULL, holder_name = NULL, lease_until = NULL, redeeming = false, refused = NULL,
    refused_number = NULL, changed = excluded.changed
  WHERE s.generation < excluded.generation RETURNING 1),
gone AS (DELETE FROM cms.tokens t USING stored
  WHERE t.grant_key = %(grant)s AND (t.scopes_key <> %(scopes)s OR %(mint)s::text IS NULL)),
granted AS (DELETE FROM cms.wishes w USING stored WHERE w.grant_key = %(grant)s),
published AS ({_PUBLISH}),
told AS (SELECT pg_notify(%(channel)s, %(grant)s) FROM stored)
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM told)"""

# Brings back a row that was lost, from a host's journal; a row that exists is left as it is. Another host may have a later
# journal, so the statement notifies all hosts, and no host claims anything for one lease, as after a failover.
BRING_BACK = f"""\
WITH stored AS (
  INSERT INTO cms.signins (grant_key, lineage, generation, sealed)
  VALUES (%(grant)s, %(lineage)s::uuid, %(generation)s, %(sealed)s::bytea) ON CONFLICT DO NOTHING RETURNING 1),
published AS ({_PUBLISH}),
quiet AS (UPDATE cms.meta SET since = clock_timestamp() FROM stored),
told AS (SELECT pg_notify(%(channel)s, %(grant)s) FROM stored)
SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM told)"""

# A sign-out. The row stays as a tombstone with a new lineage: no journal and no redemption under way matches it.
# `lease_until` says then when it was. The last column says how many hosts hear of it at once.
SIGN_OUT = """\
WITH forgotten AS (
  UPDATE cms.signins SET lineage = gen_random_uuid(), generation = generation + 1, sealed = NULL, holder = NULL,
    holder_name = NULL, lease_until = clock_timestamp(), redeeming = false, refused = NULL, refused_number = NULL,
    changed = pg_current_xact_id()
  WHERE grant_key = %(grant)s AND sealed IS NOT NULL RETURNING 1),
gone AS (DELETE FROM cms.tokens t USING forgotten WHERE t.grant_key = %(grant)s),
granted AS (DELETE FROM cms.wishes w USING forgotten WHERE w.grant_key = %(grant)s),
told AS (SELECT pg_notify(%(channel)s, %(grant)s) FROM forgotten)
SELECT (SELECT count(*) FROM forgotten), (SELECT count(*) FROM told),
  (SELECT count(DISTINCT a.application_name) FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = current_database() AND pg_catalog.starts_with(a.application_name, %(hears)s))"""

# A host is connected and listens. The name of its connection is all that every role may see of it.
HEARS = "SELECT set_config('application_name', %(name)s, false)"

# A relay wants another token than this one.
WISH = "SELECT cms.wish(%(grant)s, %(scopes)s, %(mint)s)"

# What the database has of the sign-ins of this host's journals.
COMPARE = "SELECT grant_key, lineage::text, generation FROM cms.signins WHERE grant_key = ANY(%(grants)s)"

# What has changed since an earlier question, which `since` comes from: a transaction that was under way then is seen later.
CHANGED = """\
SELECT s.grant_key, s.lineage::text, s.refused FROM cms.signins s WHERE s.changed >= %(since)s::xid8"""
WISHED = (
    "SELECT t.grant_key, t.scopes_key, t.mint FROM cms.tokens t JOIN cms.wishes USING (grant_key, scopes_key, mint)"
)
MARK = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, history FROM cms.meta"

# Sign-outs so long ago that no host brings the sign-in back: see `journal.LONGEST_AWAY`.
SWEEP = """\
DELETE FROM cms.signins
WHERE sealed IS NULL AND lease_until < clock_timestamp() - make_interval(secs => %(away)s)"""

# For `cms fleet status`: what the database has of all sign-ins, the latest changes first.
_NEWEST = """
  LEFT JOIN LATERAL (SELECT t.host, t.expires_at FROM cms.tokens t WHERE t.grant_key = s.grant_key
    ORDER BY t.expires_at DESC LIMIT 1) n ON true
  ORDER BY s.changed DESC, s.grant_key LIMIT %(most)s"""
_MINTED = "coalesce(n.host, ''), coalesce(extract(epoch FROM n.expires_at - clock_timestamp())::float8, 0)"
SHOW = f"""\
SELECT s.grant_key,
  CASE WHEN s.sealed IS NULL THEN 'signed-out' WHEN s.refused IS NOT NULL THEN 'refused' ELSE 'signed-in' END,
  coalesce(s.holder_name, ''), CASE WHEN s.holder IS NULL THEN 0
    ELSE extract(epoch FROM s.lease_until - clock_timestamp())::float8 END,
  {_MINTED}, s.lineage::text, s.generation
FROM cms.signins s{_NEWEST}"""

# The same for a relay, whose role may read no more.
SHOW_AS_RELAY = f"""\
SELECT s.grant_key,
  CASE WHEN s.refused IS NOT NULL THEN 'refused' WHEN n.host IS NULL THEN 'no-token' ELSE 'signed-in' END,
  '', 0::float8, {_MINTED}, s.lineage::text, 0::bigint
FROM cms.signins s{_NEWEST}"""
VERSION = "SELECT version FROM cms.meta"
