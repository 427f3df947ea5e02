"""What `cms fleet` has the worker do: make tables and keys, tell what the database has, move this host's sign-ins there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cms.core.accounts import Fleet, Grant
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.fleet import schema, statements
from cms.grants.fleet.connection import MAX_HOST, Away, Row, Wire, connect, only, unanswered
from cms.grants.fleet.store import FleetStore
from cms.grants.messages import FleetReport, FleetWork, SharedSignIn, Unmoved
from cms.grants.secret_sources import Missing, Unavailable, read_source, unavailable
from cms.grants.stores import Stores
from cms.grants.vault.keyring import key_id, parse_key
from cms.grants.vault.keys import KeyFile
from cms.grants.vault.store import Vault
from cms_oauth.moves import Command
from cms_oauth.text import printable

# psql goes on after an error, and would make half of the tables. The lock's number is "cms" in ASCII, which no other program takes.
# Notices that a table is there already are left out.
_FOR_PSQL = "\\set ON_ERROR_STOP on\nBEGIN;\nSET LOCAL client_min_messages = warning;\n{}COMMIT;\n"
# And no role that holds a lock, as any that may read a table can, keeps everybody waiting behind this.
_ALONE = "SET LOCAL lock_timeout = '10s';\nDO $$ BEGIN PERFORM pg_advisory_xact_lock(6516083); END $$;\n"


# How many sign-ins are shown, the latest changes first: more than anybody reads, and they fit one message.
_MOST = 20_000


def work(
    stores: Stores, question: FleetWork, exportable: Callable[[Grant, str], bool]
) -> FleetReport | Refused | Transient:
    """Do what a command of `cms fleet` asks for.

    `stores` has this host's vault and the fleet. `exportable` says whether another host could use what a sign-in has.
    """
    store = stores.shared
    assert isinstance(store, FleetStore), "the command asks only for a configuration with Fleet(...)"
    try:
        match question.action:
            case "status":
                return _status(store)
            case "adopt":
                return _adopt(store, stores, question.grants, exportable)
        return _make(store.fleet, question)
    except Away as away:
        return unanswered(away).outcome
    except Unavailable as refused:
        return refused.outcome


@contextmanager
def _wire(store: FleetStore) -> Iterator[Wire]:
    """Connect to the database, without greeting it: this only looks. Raises Away, and Unavailable."""
    wire = store.open_wire()
    try:
        yield wire
    finally:
        wire.close()


# Tables and keys.


def _make(fleet: Fleet, question: FleetWork) -> FleetReport | Refused:
    """Make the tables or bring them up to date, or say with which statements; with "init" also make the keys."""
    made: tuple[str, ...] = ()
    no_file: tuple[str, ...] = ()
    if question.action == "init":
        if fleet.serves_only:
            said = "this host serves only, and a key that it made would open nothing of the others"
            return Refused(
                Trouble("relay", said, "run `cms fleet init` on one host that has key=, and copy its key files")
            )
        made, no_file = _keys(fleet)
    statements = _ALONE + schema.ddl(fleet.schema)
    if question.owner:
        wire = Wire(connect(fleet, "", question.owner), fleet.schema)
        try:
            wire.run(statements)
        finally:
            wire.close()
    return FleetReport(
        schema.VERSION if question.owner else 0,
        schema.VERSION,
        _FOR_PSQL.format(statements),
        ran=bool(question.owner),
        made=made,
        no_file=no_file,
    )


def _keys(fleet: Fleet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make the files of the keys that encrypt, where there are none; return their paths, and what is in no file and absent."""
    made, absent, ids = list[str](), list[str](), list[str]()
    for source in (fleet.keys[0], fleet.token_keys[0]):
        try:
            if source.kind == "file":
                file = KeyFile(source.value[0])
                secret = file.make()
                made += [source.value[0]] if file.makes else []
            else:
                secret = parse_key(read_source(source))
        except Missing as missing:
            if source.kind == "file":
                raise unavailable("locked", f"{source} {missing}", "mend that file, or name another one") from None
            absent.append(str(source))
        else:
            ids.append(key_id(secret))
    if len(set(ids)) < len(ids):
        hint = "name another file in token_key=; a host that serves only has that key, and must not read sign-ins"
        raise unavailable("fleet", "key= and token_key= are the same key", hint)
    return tuple(made), tuple(absent)


# What the database has.


def _status(store: FleetStore) -> FleetReport:
    store.check_keys()
    with _wire(store) as wire:
        (version,) = only(wire.run(statements.VERSION))
        rows = wire.run(statements.SHOW_AS_RELAY if store.serves_only else statements.SHOW, most=_MOST)
    own = {name: found for name in store.journals.names() if (found := store.journals.find(name))}

    def shown(row: Row) -> SharedSignIn:
        key, state, holder, lease, host, left, lineage, generation = row
        journal = own.get(key)
        ahead = journal is not None and journal.lineage == lineage and journal.generation > generation
        return SharedSignIn(
            key, state, printable(holder, MAX_HOST), lease, printable(host, MAX_HOST), left, unshared=ahead
        )

    return FleetReport(version, schema.VERSION, sign_ins=tuple(map(shown, rows)))


# This host's own sign-ins.


def _adopt(
    store: FleetStore, stores: Stores, grants: Sequence[Grant], exportable: Callable[[Grant, str], bool]
) -> FleetReport | Refused:
    """Move the sign-ins of these grants from this host's vault into the fleet, those that it has never had."""
    if store.serves_only:
        said = "this host serves only, so it cannot put sign-ins into the fleet"
        return Refused(
            Trouble("relay", said, "name the key of sign-ins in key= for this command, or sign in elsewhere")
        )
    adopted, unmoved = list[str](), list[Unmoved]()
    files = {
        each.key: stores.vault.folder.path / f"{each.key}.vault" for each in grants if stores.of(each) is stores.shared
    }
    mine = [each for each in grants if each.key in files and files[each.key].exists()]
    with _wire(store) as wire:
        known = {row[0] for row in wire.run(statements.COMPARE, grants=[each.key for each in mine])}
    for grant in mine:
        if grant.key in known:
            said = "the fleet has a sign-in of it already, or has signed it out"
            move = f"the file of this host is not used: `{Command(('rm', str(files[grant.key])))}`"
            unmoved.append(Unmoved(grant.key, grant.login, said, move))
            continue
        try:
            if _moved(store, stores.vault, grant, exportable):
                adopted.append(grant.key)
        except Unavailable as error:
            trouble = error.outcome.trouble
            unmoved.append(Unmoved(grant.key, grant.login, trouble.message, trouble.hint))
    return FleetReport(schema.VERSION, schema.VERSION, adopted=tuple(adopted), unmoved=tuple(unmoved))


def _moved(store: FleetStore, vault: Vault, grant: Grant, exportable: Callable[[Grant, str], bool]) -> bool:
    """Move one sign-in; return False if there is none, or none that another host could use. Raises Unavailable.

    Its file goes last: after a crash it is there twice, and the fleet's counts.
    """
    with vault.hold(grant) as own, store.hold(grant) as fleets:
        entry = own.read()
        if entry is None or not exportable(grant, entry.cache):
            return False
        fleets.inspect()
        fleets.prepare()
        fleets.store(entry)
        own.delete()
    return True
