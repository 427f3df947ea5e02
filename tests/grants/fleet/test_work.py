"""What `cms fleet` has the worker do, with a real database: tables and keys, the status, and a host's own sign-ins."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest
from support.fleet import ANN, GRANT, Lab
from support.postgres import Base, Cluster, program

from cms.core.accounts import Fleet, Grant, Source
from cms.core.lifecycle import Refused, Transient
from cms.grants.fleet import schema
from cms.grants.fleet.store import FleetStore
from cms.grants.fleet.work import work
from cms.grants.messages import FleetReport, FleetWork
from cms.grants.stores import Stores
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault

ENTRY = Entry('{"refresh": "x"}', "home", ANN, 1_795_000_000.0)
_schemas = itertools.count(1)


def stores_of(fleet: Fleet, folder: Path) -> Stores:
    """Return the stores of a host whose state is in this folder."""
    folder.mkdir(mode=0o700, exist_ok=True)
    vault = Vault(str(folder), Keys(Source("file", (str(folder / "vault.key"),))), 1.0)
    return Stores(vault, FleetStore(fleet, folder))


def done(stores: Stores, action: str, owner: str = "", *grants: Grant, exportable: bool = True) -> FleetReport:
    end = work(stores, FleetWork(1, action, owner, grants), lambda _grant, _cache: exportable)
    assert isinstance(end, FleetReport), end
    return end


def trouble(stores: Stores, action: str, owner: str = "") -> tuple[str, str]:
    """Return the kind of trouble that an action ends with, and what it says."""
    end = work(stores, FleetWork(1, action, owner), lambda _grant, _cache: True)
    assert isinstance(end, Refused | Transient), end
    return end.trouble.kind, end.trouble.message


@pytest.fixture
def new(cluster: Cluster, tmp_path: Path) -> Fleet:
    """A host of a fleet that has neither tables nor keys."""
    tokens, keys = (Source("file", (str(tmp_path / "keys" / name),)) for name in ("tokens.key", "fleet.key"))
    return Fleet(cluster.dsn(), (tokens,), (keys,), schema=f"new{next(_schemas)}")


@pytest.mark.parametrize("run", [True, False])
def test_tables_and_keys_are_made(cluster: Cluster, new: Fleet, tmp_path: Path, *, run: bool) -> None:
    """By the owner's connection, or by psql, to which the statements are given and which has nothing to say. Twice does no harm."""
    stores = stores_of(new, tmp_path / "state")
    for time in range(2):
        made = done(stores, "init", cluster.dsn() if run else "")
        if not run:
            psql = [program("psql"), "--quiet", "--dbname", cluster.dsn(), "--file", "-"]
            ran = subprocess.run(psql, input=made.statements, text=True, check=True, capture_output=True)
            assert "" == ran.stdout + ran.stderr
        files = tuple(str(tmp_path / "keys" / name) for name in ("fleet.key", "tokens.key"))
        assert (files if time == 0 else (), (), run) == (made.made, made.no_file, made.ran)
    assert (schema.VERSION, schema.VERSION, ()) == (
        (found := done(stores, "status")).version,
        found.program,
        found.sign_ins,
    )
    assert {0o600} == {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()}


def test_half_of_the_statements_is_none(cluster: Cluster, new: Fleet, tmp_path: Path) -> None:
    """What psql is given ends at the first error, and leaves nothing."""
    statements = done(stores_of(new, tmp_path / "state"), "upgrade").statements
    broken = statements.replace("COMMIT;", "SELECT 1/0;\nCOMMIT;")
    psql = [program("psql"), "--quiet", "--dbname", cluster.dsn(), "--file", "-"]
    ended = subprocess.run(psql, input=broken, text=True, check=False, capture_output=True)

    assert ended.returncode == 3, ended.stderr
    assert [] == cluster.sql("SELECT 1 FROM pg_namespace WHERE nspname = %s", new.schema)


def test_an_upgrade_makes_no_keys(new: Fleet, tmp_path: Path) -> None:
    """They are there, or somewhere else."""
    assert ((), ()) == ((made := done(stores_of(new, tmp_path / "state"), "upgrade")).made, made.no_file)
    assert not (tmp_path / "keys").exists()


def test_no_key_of_its_own_at_a_host_that_serves_only(new: Fleet, tmp_path: Path) -> None:
    """It would open nothing of what the others have."""
    relay = Fleet(new.dsn, new.token_keys, schema=new.schema)

    assert "relay" == trouble(stores_of(relay, tmp_path / "state"), "init")[0]
    assert not (tmp_path / "keys").exists()


def test_keys_that_are_in_no_file(new: Fleet, tmp_path: Path) -> None:
    """One that cannot be read is named; a key that is both is refused, wherever it is."""
    there, absent = Source("command", ("printf", "x" * 32)), Source("credential", ("none",))
    state = tmp_path / "state"

    assert ("credential none",) == done(stores_of(Fleet(new.dsn, (absent,), (there,)), state), "init").no_file
    same = Source("command", ("sh", "-c", f"printf {'x' * 32}"))
    alike = stores_of(Fleet(new.dsn, (same,), (there,)), state)
    assert "the same key" in trouble(alike, "init")[1]
    assert "the same key" in trouble(alike, "status")[1]
    (tmp_path / "short").write_text("no key")
    (tmp_path / "short").chmod(0o600)
    short = Source("file", (str(tmp_path / "short"),))
    assert "locked" == trouble(stores_of(Fleet(new.dsn, (there,), (short,)), state), "init")[0]


def test_a_database_that_is_none_yet(new: Fleet, tmp_path: Path) -> None:
    """Without tables, and without a server: what to do is said, and nothing is quoted."""
    stores = stores_of(new, tmp_path / "state")
    nowhere = stores_of(Fleet(f"host={tmp_path} user=hunter2", new.token_keys, new.keys), tmp_path / "state")

    assert "fleet" == trouble(stores, "status")[0]
    kind, said = trouble(nowhere, "status")
    assert ("fleet", False) == (kind, "hunter2" in said)
    assert "fleet" == trouble(nowhere, "init", f"host={tmp_path}")[0]


def test_an_owner_who_is_none(base: Base, new: Fleet, tmp_path: Path) -> None:
    """Who may not make tables is told what the server says, and nothing is made."""
    kind, said = trouble(stores_of(new, tmp_path / "state"), "upgrade", base.cluster.dsn(base.redeemer))

    assert ("fleet", True) == (kind, "permission denied" in said)
    assert [] == base.cluster.sql("SELECT 1 FROM pg_namespace WHERE nspname = %s", new.schema)


def test_what_the_database_has(lab: Lab, base: Base, tmp_path: Path) -> None:
    """Of each sign-in: its state, who is at work on it, whose its token is, and whether this host is ahead."""
    host = lab.signed_in("a")
    host.token()
    stores = Stores(Vault(str(tmp_path / "v"), Keys(None)), host.store)
    (shown,) = done(stores, "status").sign_ins
    assert (GRANT.key, "signed-in", "", 0.0, "a", False) == (
        *(shown.key, shown.state, shown.holder, shown.lease, shown.minted_by, shown.unshared),
    )
    assert 0 < shown.expires_in < 3600.0

    base.sql(
        "UPDATE cms.signins SET refused = generation, holder = gen_random_uuid(), holder_name = 'b',"
        " lease_until = clock_timestamp() - interval '5 s', generation = generation - 1"
    )
    (shown,) = done(stores, "status").sign_ins
    assert ("refused", "b", True) == (shown.state, shown.holder, shown.unshared)
    assert -60.0 < shown.lease < -4.0

    with host.store.hold(GRANT) as held:
        held.delete()
    (shown,) = done(stores, "status").sign_ins
    assert ("signed-out", "", 0.0, "", False) == (
        *(shown.state, shown.holder, shown.lease, shown.minted_by, shown.unshared),
    )


def test_what_a_relay_sees(lab: Lab, tmp_path: Path) -> None:
    """Tokens and refusals: its role may read no more."""
    lab.signed_in("a").token()
    relay = lab.host("r", relay=True)
    (shown,) = done(Stores(Vault(str(tmp_path / "v"), Keys(None)), relay.store), "status").sign_ins

    assert (GRANT.key, "signed-in", "", "a", False) == (
        *(shown.key, shown.state, shown.holder, shown.minted_by, shown.unshared),
    )


def keep(stores: Stores, entry: Entry = ENTRY) -> Path:
    """Store a sign-in in a host's own vault; return its file."""
    with stores.vault.hold(GRANT) as held:
        held.inspect()
        held.prepare()
        held.store(entry)
    return stores.vault.folder.path / f"{GRANT.key}.vault"


def test_a_hosts_own_sign_in_is_moved(lab: Lab, base: Base, tmp_path: Path) -> None:
    """Into the database, and its file is deleted; another host has it then. A second time there is nothing."""
    host, other = lab.host("a"), lab.host("b")
    stores = Stores(Vault(str(tmp_path / "v"), Keys(Source("file", (str(tmp_path / "k"),)))), host.store)
    file = keep(stores)

    assert (GRANT.key,) == done(stores, "adopt", "", GRANT).adopted
    assert not file.exists()
    with other.store.hold(GRANT) as held:
        assert ENTRY == held.read()
    assert ((), ()) == ((again := done(stores, "adopt", "", GRANT)).adopted, again.unmoved)


@pytest.mark.parametrize("out", [True, False])
def test_what_the_fleet_knows_is_not_replaced(lab: Lab, base: Base, tmp_path: Path, *, out: bool) -> None:
    """Neither a sign-in nor a sign-out: an old file brings nothing back. What becomes of it is a person's to say."""
    host = lab.signed_in("a")
    if out:
        with host.store.hold(GRANT) as held:
            held.delete()
    before = lab.row("lineage, generation, sealed")
    stores = Stores(Vault(str(tmp_path / "v"), Keys(Source("file", (str(tmp_path / "k"),)))), host.store)
    file = keep(stores)
    ended = done(stores, "adopt", "", GRANT)

    assert ((), [(GRANT.key, f"the file of this host is not used: `rm {file}`")]) == (
        ended.adopted,
        [(each.key, each.hint) for each in ended.unmoved],
    )
    assert file.exists()
    assert before == lab.row("lineage, generation, sealed")


def test_what_no_other_host_could_use_stays(lab: Lab, tmp_path: Path) -> None:
    """A sign-in that Microsoft's broker keeps, and the tokens of an application."""
    stores = Stores(Vault(str(tmp_path / "v"), Keys(Source("file", (str(tmp_path / "k"),)))), lab.host("a").store)
    file = keep(stores)

    assert ((), ()) == (
        (ended := done(stores, "adopt", "", GRANT, exportable=False)).adopted,
        ended.unmoved,
    )
    assert file.exists()


def test_a_file_that_cannot_be_read_is_told(lab: Lab, tmp_path: Path) -> None:
    """It stays, and the others are moved."""
    stores = Stores(Vault(str(tmp_path / "v"), Keys(Source("file", (str(tmp_path / "k"),)))), lab.host("a").store)
    file = keep(stores)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    ended = done(stores, "adopt", "", GRANT)

    assert ((), [GRANT.key], True) == (ended.adopted, [each.key for each in ended.unmoved], file.exists())


def test_a_host_that_serves_only_adopts_nothing(lab: Lab, tmp_path: Path) -> None:
    """It cannot write to the database."""
    relay = lab.host("r", relay=True)

    assert "relay" == trouble(Stores(Vault(str(tmp_path / "v"), Keys(None)), relay.store), "adopt")[0]
