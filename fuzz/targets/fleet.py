"""What a fleet's database and a host's journal may have (cms/grants/fleet): from any hand, and from a key's holder.

An input is a line with what the database says beside the sealed bytes, as JSON, and then these bytes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cms.core.accounts import Fleet, Source
from cms.core.lifecycle import Granted, token_hash
from cms.grants.fleet.connection import Away, Row
from cms.grants.fleet.held import FleetHeld
from cms.grants.fleet.journal import sealed
from cms.grants.fleet.member import Member
from cms.grants.fleet.sealing import sealed_token, sign_in_header
from cms.grants.secret_sources import Unavailable
from cms.grants.vault.entry_file import NONCE_BYTES, Entry, seal
from cms.grants.vault.minted import MintedToken, Moment
from cms.sandbox.directory import MAIL_SCOPES
from cms_oauth.json_object import read_object
from fuzz.targets.token_endpoint import check_outcome
from fuzz.targets.vault import GRANT, KEY, check_contents, check_entry

# The columns of `statements.READ` in their order, with the types that they have. Any may be NULL in a row that is not there.
_COLUMNS: Mapping[str, type] = {
    "known": bool,
    "lineage": str,
    "generation": int,
    "sealed": bytes,
    "redeeming": bool,
    "refused": bool,
    "number": int,
    "token": bytes,
    "mint": str,
    "host": str,
    "life": float,
    "left": float,
    "due": float,
    "wished": bool,
}
_SCOPES = tuple(MAIL_SCOPES)
_EMPTY = Entry("", "", "", 0.0)

# A quarter of an hour after a token of the corpus was minted.
_NOW = Moment(1_700_000_900.0, 1_000.0, "b")


class _Database:
    """Has one row, or cannot be asked."""

    def __init__(self, row: Row | None) -> None:
        self._row = row

    def run(self, *_given: object, **_named: object) -> list[Row]:
        if self._row is None:
            raise Away("it is away")
        return [self._row]

    def greet(self) -> None:
        pass


def _host(*, serves_only: bool) -> Member:
    key = Source("file", ("/a/key",))
    fleet = Fleet("", (key,), () if serves_only else (key,))
    folder = Path(tempfile.mkdtemp(prefix="cms-fuzz-"))
    member = Member(fleet, folder, now=lambda: _NOW, read=lambda _source: KEY.secret, chance=lambda: 0.5, name="a")
    member.journals.folder.make()
    return member


_HOSTS = _host(serves_only=False), _host(serves_only=True)


def check(data: bytes) -> None:
    """A token is handed out that can be used, for no longer than a token may last; anything else is Unavailable."""
    head, _, rest = data.partition(b"\n")
    said = dict[str, Any]()
    with suppress(ValueError):
        said = read_object(head)
    row = {name: said.get(name) if type(said.get(name)) is kind else None for name, kind in _COLUMNS.items()}
    with redirect_stderr(StringIO()) as log:
        _check_row({**row, "sealed": rest, "token": rest})
        lineage, generation = row["lineage"] or "", row["generation"] or 0
        named = seal(sign_in_header(GRANT, lineage, generation), _EMPTY, KEY)
        token = _token(rest)
        mine = {"sealed": _again(named, rest), "token": _again(sealed_token(GRANT, _EMPTY, token, KEY), rest)}
        _check_row({**row, **mine, "mint": token_hash(token.secret)})
        _check_journal(rest)
        _check_journal(_again(sealed(GRANT, (lineage, generation), _EMPTY, KEY, ()), rest))
    assert all(line.startswith("warning: ") and line.isprintable() for line in log.getvalue().split("\n")[:-1])


def _again(file: bytes, clear: bytes) -> bytes:
    """Return a file with the same header, in which a key's holder has put these bytes."""
    head, nonce = file.partition(b"\n")[0] + b"\n", bytes(NONCE_BYTES)
    return head + nonce + AESGCM(KEY.secret).encrypt(nonce, clear, head)


def _token(clear: bytes) -> MintedToken:
    """Return the token whose name the header needs: the one that is in there, if any."""
    secret = ""
    with suppress(ValueError, LookupError, TypeError):
        found = read_object(clear)["tokens"][0]["secret"]
        secret = found.encode().decode() if isinstance(found, str) else ""
    return MintedToken(_SCOPES, secret, _SCOPES, 0.0, _NOW)


def _check_row(row: Mapping[str, Any]) -> None:
    for member in _HOSTS:
        _check_held(member, _Database(tuple(row.values())))


def _check_journal(raw: bytes) -> None:
    member = _HOSTS[0]
    (member.journals.folder.path / f"{GRANT.key}.vault").write_bytes(raw)
    _check_held(member, _Database(None))
    journal = member.journals.find(GRANT.key)
    if journal is None:
        return
    with suppress(ValueError, Unavailable):
        found = journal.open(member.keys)
        check_contents(found)
        # What the database would get of it.
        for token in found.tokens:
            values, due = member.values(GRANT, journal.lineage, journal.generation, found.entry, token)
            assert due is None or all(math.isfinite(values[name]) for name in ("life", "left", "due"))


def _check_held(member: Member, database: _Database) -> None:
    member.database = cast("Any", database)
    held = FleetHeld(member, GRANT, _SCOPES)
    with suppress(Unavailable):
        if entry := held.read():
            check_entry(entry)
        for wanted in (False, True):
            if found := held.minted("", wanted=wanted):
                _check_handed_out(found[0])
        if refusal := held.refusal:
            check_outcome(refusal)


def _check_handed_out(granted: Granted) -> None:
    check_outcome(granted)
    assert granted.issued <= _NOW.boot
    assert granted.refresh_in is None or 0 <= granted.refresh_in < math.inf
