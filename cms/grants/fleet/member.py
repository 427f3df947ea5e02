"""This host as a member of its fleet: its connection, its keys and its journals, and what it brings to the database.

The database is greeted on every new connection. Whatever this host's journals have and the database has not, as after a
failover, is brought then.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cms.core.accounts import Fleet, Grant, Source
from cms.core.lifecycle import Transient, Trouble, renewal_age, token_hash
from cms.grants.fleet import statements
from cms.grants.fleet.claim import Terms
from cms.grants.fleet.connection import Database, Wire, connect, only
from cms.grants.fleet.journal import LONGEST_AWAY, Journal, Journals
from cms.grants.fleet.schema import VERSION
from cms.grants.fleet.sealing import Keys, scopes_key, sealed_token, sign_in_header
from cms.grants.messages import QUESTION_SECONDS, Heard, Told
from cms.grants.providers import note
from cms.grants.secret_sources import Missing, Unavailable, read_source, unavailable
from cms.grants.vault import minted
from cms.grants.vault.entry_file import Entry, seal
from cms.grants.vault.minted import MintedToken, Moment
from cms_oauth.moves import RETRIES, Move


class Member:
    """One host of a fleet. Nothing is connected or read before the first question."""

    def __init__(
        self,
        fleet: Fleet,
        state_folder: Path,
        patience: float = QUESTION_SECONDS,
        now: Callable[[], Moment] = minted.now,
        *,
        read: Callable[[Source], bytes] = read_source,
        terms: Terms | None = None,
        chance: Callable[[], float] = random.random,
        name: str = "",
    ) -> None:
        self.now = now
        self.terms = terms or Terms()
        self.chance = chance
        self.name = name or socket.gethostname()
        self.serves_only = fleet.serves_only
        self.channel = fleet.schema
        self.keys = Keys("key", fleet.keys, read)
        self.token_keys = Keys("token_key", fleet.token_keys, read)
        self.journals = Journals(state_folder, patience)
        self.database = Database(self.open_wire, self._greet)
        # The keys of grants whose journal may be ahead of the database.
        self.unshared = set[str]()
        # Called for sign-ins whose journal has reached the database late.
        self.tell: Callable[[Told], None] = lambda _told: None
        self.fleet = fleet
        self._read = read
        self.patience = patience
        # What has changed before this, this process has not missed: it had asked nothing yet.
        self.began = ""
        self._history = ""

    @property
    def host(self) -> str:
        """The id of this host in claims. Raises Unavailable."""
        return self.journals.host()

    def open_wire(self) -> Wire:
        """Return a new connection. Raises Away, Unavailable."""
        source, password = self.fleet.password, ""
        if source:
            try:
                password = self._read(source).decode().rstrip("\r\n")
            except (Missing, UnicodeError) as error:
                why = error if isinstance(error, Missing) else "is no text"
                said = (
                    f"the password of the fleet's database cannot be read: {source.origin.removeprefix('key ')} {why}"
                )
                raise unavailable("locked", said, Move("check Fleet(password=...); ", RETRIES)) from None
        return Wire(connect(self.fleet, password), self.fleet.schema)

    def check_keys(self) -> None:
        """Make sure that a host that serves only has not the key of sign-ins under another name. Raises Unavailable."""
        if self.keys.ids() & self.token_keys.ids():
            raise _unusable("is not used: key= and token_key= are the same key", "name another one in token_key=")

    def _greet(self, wire: Wire) -> None:
        """Make sure of the tables, notice whether the database has lost anything, and bring it what it lacks."""
        rows = wire.run(statements.META)
        if not rows:
            raise _unusable("has no fleet", "make it: `cms fleet init`")
        version, oldest, known, history = rows[0]
        if oldest > VERSION:
            raise _unusable("was upgraded for a newer cms", "upgrade cms on this host")
        if version < VERSION:
            raise _unusable("is of an older cms", "once, as its owner: `cms fleet upgrade`")
        if not self.began:
            self.began, _ = only(wire.run(statements.MARK))
        if self.serves_only:
            return
        if history != self._history:
            self.check_keys()
        if not known:
            wire.run(statements.NOTE_HISTORY)
        if history == self._history:
            self._offer(wire, sorted(self.unshared))
            return
        wire.run(statements.SWEEP, away=LONGEST_AWAY)
        self._offer(wire, self.journals.names())
        self._history = history

    def _offer(self, wire: Wire, names: Iterable[str]) -> None:
        """Bring the journals that are ahead of the database, and delete those whose sign-in is no more."""
        journals = [found for name in names if (found := self.journals.find(name))]
        if not journals:
            return
        rows = wire.run(statements.COMPARE, grants=[each.grant.key for each in journals])
        there = {key: (lineage, generation) for key, lineage, generation in rows}
        brought = list[str]()
        for journal in journals:
            lineage, generation = there.get(journal.grant.key, (None, 0))
            if lineage in (None, journal.lineage):
                if generation < journal.generation:
                    try:
                        stored = self._bring(wire, journal, statements.STORE if lineage else statements.BRING_BACK)
                    except Unavailable as error:
                        # The others are shared all the same, and this one at the next greeting.
                        note(f"this host's journal of a sign-in cannot be shared: {error}")
                        self.unshared.add(journal.grant.key)
                        continue
                    brought += [journal.grant.key] if stored else []
            else:
                self.journals.drop(journal)
            self.unshared.discard(journal.grant.key)
        if brought:
            self.tell(Heard(tuple(brought)))

    def _bring(self, wire: Wire, journal: Journal, statement: str) -> bool:
        """Bring one journal; return whether the database has taken it."""
        try:
            found = journal.open(self.keys)
        except ValueError as error:
            note(f"this host's journal of a sign-in cannot be shared: {error}")
            return False
        if statement == statements.BRING_BACK and self.now().wall - found.entry.redeemed > LONGEST_AWAY:
            return False
        token = found.tokens[-1] if found.tokens else None
        values, _ = self.values(journal.grant, journal.lineage, journal.generation, found.entry, token)
        return bool(wire.run(statement, channel=self.channel, **values)[0][0])

    def values(
        self, grant: Grant, lineage: str, generation: int, entry: Entry, token: MintedToken | None
    ) -> tuple[dict[str, Any], float | None]:
        """Return the values of a statement that stores a sign-in and publishes its token, and in how long it is due."""
        at = self.now()
        good = minted.granted(token, at) if token else None
        values = {
            "grant": grant.key,
            "lineage": lineage,
            "generation": generation,
            "sealed": seal(sign_in_header(grant, lineage, generation), entry, self.keys.first()),
            "name": self.name,
            "scopes": scopes_key(token.asked if token else ()),
            **dict.fromkeys(("mint", "token", "life", "left", "due")),
        }
        if token is None or good is None:
            return values, None
        age = at.boot - good.issued
        due = max(0.0, renewal_age(good.expires_in, self.chance(), grant.refresh_before, age) - age)
        published = {
            "mint": token_hash(token.secret),
            "token": sealed_token(grant, entry, token, self.token_keys.first()),
            "life": good.expires_in,
            "left": good.expires_in - age,
            "due": due,
        }
        return {**values, **published}, due

    def has(self, grant: Grant, lineage: str, generation: int) -> bool:
        """Return whether the database has this generation, or a later one of its lineage. Raises Away, Unavailable."""
        rows = self.database.run(statements.COMPARE, grants=[grant.key])
        return any(found == lineage and at >= generation for _, found, at in rows)

    def is_ahead(self, grant: Grant, lineage: str | None, generation: int | None) -> bool:
        """Return whether this host's journal is ahead of a row, or there is none: then the next greeting brings it."""
        journal = None if self.serves_only else self.journals.find(grant.key)
        ahead = journal and lineage in (None, journal.lineage) and journal.generation > (generation or 0)
        if ahead:
            self.unshared.add(grant.key)
        return bool(ahead)


def _unusable(why: str, remedy: str) -> Unavailable:
    return Unavailable(Transient(Trouble("fleet", f"the fleet's database {why}", Move(f"{remedy}; ", RETRIES))))
