"""One sign-in of the fleet, while this host holds it: read its row, claim it, store the successor, or sign out.

Lineage and generation name what is stored: if two hosts try to store the same generation, one succeeds.
A successor is in this host's journal first, and then in the database.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import field, replace

from cms.core import refusals
from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import LONGEST_LIFE, Granted, Refused, SignInFacts, Trouble, token_hash
from cms.grants.fleet import statements
from cms.grants.fleet.connection import MAX_HOST, Away, hears, only, unanswered
from cms.grants.fleet.journal import sealed
from cms.grants.fleet.member import Member
from cms.grants.fleet.sealing import opened_token, scopes_key, sign_in_header
from cms.grants.providers import note
from cms.grants.secret_sources import Unavailable, storage, unavailable
from cms.grants.stores import Elsewhere
from cms.grants.vault import minted
from cms.grants.vault.entry_file import Contents, Entry, busy, contents, key_needed, seal
from cms.grants.vault.minted import LEAST_LEFT, MintedToken, Moment
from cms.grants.vault.store import Stored
from cms_oauth.frozen import dataclass
from cms_oauth.text import printable

# How long a successor that is in the journal is also offered to the database, before its token is handed out. The next
# connection brings it otherwise.
STORE_SECONDS = 4.0

# The hosts that did not choose when a token is renewed come so many seconds later, by chance, and find the new one.
# All of it is of an hour's token: for another life in proportion.
_LATER = (30.0, 90.0)
# A token that a client or a person wants replaced is replaced if it is older than this.
_TOO_NEW = 300.0
_HOUR = 3600.0

# How soon a host that only serves tokens asks again for one that no host has yet.
_RELAY_SECONDS = 120.0

# How often a new sign-in is stored again because another one was a moment faster.
_SIGN_INS = 3


@dataclass(frozen=True, slots=True)
class _Row:
    """What the database has of a sign-in and of its token, as `statements.READ` selects it.

    `asked` is the present before the question was sent: `left` and `due` seconds count from then.
    """

    asked: Moment
    known: bool
    lineage: str | None
    generation: int | None
    sealed: bytes | None = field(repr=False)
    redeeming: bool | None
    refused: bool | None
    number: int | None
    token: bytes | None = field(repr=False)
    mint: str | None
    host: str | None
    life: float | None
    left: float | None
    due: float | None
    wished: bool | None


class FleetHeld:
    """One grant in the fleet, while no other thread or process of this host has it."""

    def __init__(self, member: Member, grant: Grant, scopes: Scopes) -> None:
        self._member = member
        self._grant = grant
        self._scopes = scopes
        self._file = member.journals.file(grant)
        self._row: _Row | None = None
        self._entry: Entry | None = None
        # The published token; without the database, what this host's journal has.
        self._known: Contents | None = None
        self._away: Away | None = None
        self._fence: int | None = None
        self._read = self._rejected = self._elsewhere = False
        self._final: Trouble | None = None
        self.damaged = False
        self.hearers: int | None = None
        self.interrupted = False
        self.claims = ""
        self.stored = Stored(persisted=True, key_from="", shared=True)

    @property
    def reused(self) -> bool:
        """Whether the refresh token of a redemption that was cut off was refused since."""
        return self.interrupted and self.refusal is not None

    @property
    def wished(self) -> bool:
        """Whether a host that only serves tokens wants another one than the published one."""
        return self._row is not None and bool(self._row.wished)

    @property
    def refusal(self) -> Refused | None:
        """Why the provider has refused this generation for good, as some host found."""
        if self._row is None or not self._row.refused:
            return None
        who = self._entry.who if self._entry else ""
        numbers = [self._row.number] if self._row.number else []
        found = refusals.explain({"error": "invalid_grant", "error_codes": numbers}, self._grant, who)
        return found if isinstance(found, Refused) else Refused(found.trouble)

    def read(self) -> Entry | None:
        """Return the shared sign-in, None for none. Without the database, return what this host's journal has.

        Raises Unavailable: the database is away, a key is missing, or the row is damaged.
        """
        self._read = True
        try:
            self._look()
        except Away as away:
            return self._read_journal(away)
        if self._member.serves_only:
            if self._known is None:
                if not self._scopes:
                    # Asked for a sign-out, which `delete` refuses.
                    return None
                # No notification comes with the first token.
                trouble = _relay("no host of the fleet has a token for it yet", self._grant)
                raise Unavailable(Refused(trouble, again_in=_RELAY_SECONDS))
            return self._known.entry
        return self._entry if self._entry and self._entry.cache else None

    def inspect(self) -> Entry | None:
        """Return the entry that a new sign-in would replace, None for none or for a damaged one. Raises Unavailable."""
        try:
            self._look()
        except Away as away:
            raise unanswered(away) from None
        except Unavailable as error:
            if not self.damaged or error.outcome.trouble.kind != "vault-damaged":
                raise
        return self._entry if self._entry and self._entry.cache else None

    def _look(self) -> None:
        """Ask for the row and its token. Raises Away, Unavailable."""
        member, row = self._member, self._current()
        self._row, self._entry, self._known = row, None, None
        self.interrupted = bool(row.redeeming)
        if row.token is not None and row.mint is not None:
            try:
                self._known = opened_token(self._grant, self._scopes, row.mint, row.token, member.token_keys)
            except ValueError as error:
                note(f"a token in the fleet's database {error}: it is not used")
        if row.lineage is not None and row.sealed is None and not member.serves_only:
            # It was signed out elsewhere.
            self._drop_journal()
        if row.sealed is None or row.lineage is None or row.generation is None:
            return
        named = sign_in_header(self._grant, row.lineage, row.generation)
        try:
            key = member.keys.need(key_needed(named, row.sealed))
            self._entry = contents(row.sealed, key).entry
        except ValueError as error:
            self.damaged = True
            hint = refusals.hint("sign in again: {login}", self._grant)
            raise unavailable("vault-damaged", f"the sign-in in the fleet's database {error}", hint) from None
        self.claims = self._entry.claims
        self.stored = Stored(persisted=True, key_from=key.origin, shared=True)

    def _current(self) -> _Row:
        """Ask for the row, and bring what the database has lost first: all of it, or this one. Raises Away, Unavailable."""
        row = self._ask()
        if not row.known or self._member.is_ahead(self._grant, row.lineage, row.generation):
            self._member.database.greet()
            row = self._ask()
        return row

    def _ask(self) -> _Row:
        member, asked = self._member, self._member.now()
        statement = statements.READ_AS_RELAY if member.serves_only else statements.READ
        rows = member.database.run(statement, grant=self._grant.key, scopes=scopes_key(self._scopes))
        return _Row(asked, *only(rows))

    def _read_journal(self, away: Away) -> Entry | None:
        """Return what this host's journal says of the sign-in: its tokens are served while the database is away."""
        journal = self._member.journals.find(self._grant.key)
        if journal is None:
            raise unanswered(away)
        try:
            self._known = journal.open(self._member.keys)
        except ValueError:
            raise unanswered(away) from None
        self._away = away
        shared = self._grant.key not in self._member.unshared
        self.stored = Stored(persisted=True, key_from=self._member.keys.first().origin, shared=shared)
        # Another host may have redeemed its refresh token since.
        return replace(self._known.entry, cache="")

    def minted(self, held: str, *, wanted: bool = False) -> tuple[Granted, str] | None:
        """Return the published token if it is another one than `held`, and not due; else None.

        Once another host has claimed the sign-in, it is returned as long as it is good. A token that is wanted anew, or was
        refused by a mail server, is returned again if it has only just come: some host has replaced it a moment ago.
        """
        row, known = self._row, self._known
        if self._away or row is None:
            return self._journaled(held)
        if known is None or row.mint is None or row.life is None or row.left is None or row.due is None:
            return None
        token = known.tokens[0]
        gone = self._member.now().boot - row.asked.boot
        # No administrator of the database makes a token live longer than its host has sealed.
        life = min(LONGEST_LIFE, token.life, row.life)
        left = min(life, row.left) - gone
        due = min(left, row.due - gone)
        share = min(1.0, life / _HOUR)
        if left <= min(LEAST_LEFT, life / 10):
            return None
        same = row.mint == held or self._rejected
        again = (wanted or self._rejected) and life - left < _TOO_NEW * share
        if not self._elsewhere and not again:
            wished = bool(row.wished) and life - left >= _TOO_NEW * share
            renewed = not self._member.serves_only and (due <= 0 or wished)
            if same or renewed:
                return None
        later = 0.0 if row.host == self._member.name else self._member.chance() * (_LATER[1] - _LATER[0]) + _LATER[0]
        facts = SignInFacts(redeemed_at=token.minted.wall, minted_by=printable(row.host or "", MAX_HOST))
        return Granted(
            token.secret,
            self._member.now().boot - (life - left),
            life,
            token.scopes,
            facts,
            # Whoever holds it asks next, and hears that the sign-in has ended.
            doubtful=bool(row.refused) and not same,
            refresh_in=max(0.0, due) + later * share,
        ), token.proof

    def _journaled(self, held: str) -> tuple[Granted, str] | None:
        """Return a token of this host's journal, as a vault file's is."""
        at = self._member.now()
        for token in self._known.tokens if self._known else ():
            found = minted.granted(token, at)
            if found and token.asked == self._scopes and token_hash(token.secret) != held:
                return found, token.proof
        return None

    def withdraw(self, secret_hash: str) -> None:
        """Note that a mail server has refused the published token, if it is this one: clients cannot go on with it."""
        self._rejected |= self._row is not None and self._row.mint == secret_hash
        if self._away and self._known:
            left = tuple(each for each in self._known.tokens if token_hash(each.secret) != secret_hash)
            self._known = replace(self._known, tokens=left)

    def prepare(self, *, memory_will_do: bool = False) -> Stored:  # noqa: ARG002 - the protocol's
        """Make sure of the key and of the journal's room. Raises Unavailable."""
        if self._away:
            raise unanswered(self._away)
        if self._member.serves_only:
            if self._read:
                # Nothing is redeemed here: `claim` says so, and the published token is served.
                return self.stored
            raise Unavailable(Refused(_relay("sign-ins are made on another host of the fleet", self._grant)))
        key = self._member.keys.first()
        try:
            self._file.reserve()
        except OSError as error:
            raise storage(error, f"nothing can be stored in {self._file.path.parent}") from None
        return Stored(persisted=True, key_from=key.origin, shared=True)

    def claim(self) -> float:
        """Claim the sign-in that was read; return the boot-clock moment at which the claim ends.

        Raises Elsewhere if another host has it, and Unavailable.
        """
        row, member = self._row, self._member
        if member.serves_only:
            self._wish()
            raise self._not_here()
        assert row is not None, "what is claimed was read"
        asked = member.now().boot
        try:
            claimed = member.database.run(
                statements.CLAIM,
                grant=self._grant.key,
                scopes=scopes_key(self._scopes),
                lineage=row.lineage,
                generation=row.generation,
                host=member.host,
                name=member.name,
                urgent=self._rejected,
                lease=member.terms.lease,
                late=member.terms.late,
                late_share=member.terms.late_share,
            )
        except Away as away:
            self._file.release()
            raise unanswered(away) from None
        if not claimed:
            raise self._not_here()
        self._fence, self.interrupted = claimed[0]
        return asked + member.terms.lease

    def _not_here(self) -> Elsewhere:
        self._file.release()
        self._elsewhere = True
        return Elsewhere()

    def _wish(self) -> None:
        """Ask the hosts that redeem to replace the published token."""
        if self._row is None or self._row.mint is None:
            return
        with suppress(Away):
            self._member.database.run(
                statements.WISH, grant=self._grant.key, scopes=scopes_key(self._scopes), mint=self._row.mint
            )

    def store(self, entry: Entry, granted: Granted | None = None, proof: str = "") -> Stored:
        """Store what followed from a claim, or a new sign-in, and publish the access token that it gave.

        Raises Unavailable, and Elsewhere where the sign-in was replaced or deleted meanwhile.
        """
        if self._entry and entry.cache == self._entry.cache and not granted:
            return self._note(entry)
        at = self._member.now()
        token = minted.keep(granted, self._scopes, at, proof) if granted else None
        if self._fence is None:
            return self._sign_in(entry, token)
        return self._rotate(entry, token)

    def _rotate(self, entry: Entry, token: MintedToken | None) -> Stored:
        row, member = self._row, self._member
        assert row is not None
        assert row.lineage is not None
        assert row.generation is not None
        generation = row.generation + 1
        key, failed = member.keys.first(), None
        try:
            self._file.write(
                sealed(self._grant, (row.lineage, generation), entry, key, self._tokens(token, row.lineage)),
                keep_aside=False,
            )
            member.unshared.add(self._grant.key)
        except OSError as error:
            failed = error
        values, due = member.values(self._grant, row.lineage, generation, entry, token)
        stored = Stored(persisted=True, key_from=key.origin, refresh_in=due, shared=True)
        try:
            ((done,),) = member.database.run(statements.STORE, STORE_SECONDS, **values)
            if not done:
                # A row that was deleted, and not signed out, comes back from the journal.
                member.database.greet()
                if not member.has(self._grant, row.lineage, generation):
                    self._drop_journal()
                    raise Elsewhere
        except (Away, Unavailable) as error:
            if failed:
                raise storage(failed, f"the sign-in cannot be stored in {self._file.path.parent}") from None
            note(f"a sign-in is in this host's journal, and not yet in the fleet's database: {error}")
            stored = replace(stored, shared=False)
        else:
            member.unshared.discard(self._grant.key)
        self._fence = None
        return stored

    def _tokens(self, token: MintedToken | None, lineage: str) -> tuple[MintedToken, ...]:
        """Return the tokens for a journal: the new one, and those for other scopes that are still good."""
        at, kept = self._member.now(), list[MintedToken]()
        before = self._member.journals.find(self._grant.key) if len(self._grant.scope_sets) > 1 else None
        if before and before.lineage == lineage:
            with suppress(ValueError, Unavailable):
                kept = [
                    each
                    for each in before.open(self._member.keys).tokens
                    if each.asked in self._grant.scope_sets and minted.granted(each, at)
                ]
        return (*(each for each in kept if token is None or each.asked != token.asked), *((token,) if token else ()))

    def _sign_in(self, entry: Entry, token: MintedToken | None) -> Stored:
        """Store a new sign-in, over whatever the fleet has."""
        member, key = self._member, self._member.keys.first()
        for _ in range(_SIGN_INS):
            assert self._row is not None, "what is replaced was looked at"
            lineage, generation = str(uuid.uuid4()), (self._row.generation or 0) + 1
            values, due = member.values(self._grant, lineage, generation, entry, token)
            try:
                self._file.write(
                    sealed(self._grant, (lineage, generation), entry, key, (token,) if token else ()), keep_aside=False
                )
                rows = member.database.run(statements.SIGN_IN, channel=member.channel, **values)
                if rows[0][0] or member.has(self._grant, lineage, generation):
                    return Stored(persisted=True, key_from=key.origin, refresh_in=due, shared=True)
                self._row = self._ask()
            except OSError as error:
                raise storage(error, f"the sign-in cannot be stored in {self._file.path.parent}") from None
            except Away as away:
                self._drop_journal()
                raise unanswered(away) from None
            except Unavailable:
                # The person is told that it failed: no later greeting may bring it.
                self._drop_journal()
                raise
        raise busy()

    def _note(self, entry: Entry) -> Stored:
        """Store facts beside the refresh token that was read, and that the provider refuses it for good."""
        row, member = self._row, self._member
        assert row is not None
        assert row.lineage is not None
        assert row.generation is not None
        generation = row.generation + 1
        final, fence = self._final, self._fence
        key = member.keys.first()
        try:
            rows = member.database.run(
                statements.NOTE,
                grant=self._grant.key,
                lineage=row.lineage,
                generation=generation,
                sealed=seal(sign_in_header(self._grant, row.lineage, generation), entry, key),
                redeeming=None if fence is None else self.interrupted,
                final=final is not None,
                number=final.aadsts if final else None,
                host=member.host,
                fence=fence,
                channel=member.channel,
            )
        except Away as away:
            raise unanswered(away) from None
        if rows[0][0]:
            self._row = replace(row, generation=generation, refused=row.refused or final is not None)
        self._final = self._fence = None
        return Stored(persisted=True, key_from=key.origin, shared=True)

    def release(self) -> None:
        """Give the claim back: the provider did not redeem the sign-in. Raises nothing."""
        self._file.release()
        self._release(redeeming=self.interrupted)

    def _release(self, *, redeeming: bool) -> None:
        fence, self._fence = self._fence, None
        if fence is None:
            return
        # A claim that cannot be given back ends by itself.
        with suppress(Away, Unavailable):
            if self._final and self._entry:
                self._fence, self.interrupted = fence, redeeming
                self._note(self._entry)
            else:
                self._member.database.run(
                    statements.RELEASE,
                    grant=self._grant.key,
                    host=self._member.host,
                    fence=fence,
                    redeeming=redeeming,
                )

    def end(self) -> None:
        """Let the grant go. If neither `store` nor `release` has ended a claim, what the provider did is not known."""
        self._release(redeeming=True)

    def mark_refused(self) -> bool:
        """Return False: what every host has to know of a refusal is said by `refused_for_good`."""
        return False

    def refused_for_good(self, trouble: Trouble) -> None:
        """Have `store` or `release` note that the provider will never redeem this generation again."""
        self._final = trouble

    def remember_reuse(self) -> None:
        """Do nothing: such a refusal is for good, and written."""

    def delete(self) -> bool:
        """Sign out, for every host; return whether there was a sign-in. Raises Unavailable."""
        if self._member.serves_only:
            trouble = _relay("a sign-out is made on another host of the fleet", self._grant, "{logout}")
            raise Unavailable(Refused(trouble))
        try:
            found = self._current().sealed is not None
            run, channel = self._member.database.run, self._member.channel
            self.hearers = run(statements.SIGN_OUT, grant=self._grant.key, channel=channel, hears=hears(channel))[0][2]
        except Away as away:
            raise unanswered(away) from None
        self._drop_journal()
        return found

    def _drop_journal(self) -> None:
        self._member.unshared.discard(self._grant.key)
        try:
            self._member.journals.delete(self._grant)
        except OSError as error:
            raise storage(error, f"{self._file.path} cannot be deleted") from None


def _relay(why: str, grant: Grant, command: str = "{login}") -> Trouble:
    hint = refusals.hint(f"on a host of the fleet that has Fleet(key=...): {command}", grant)
    return Trouble("relay", f"this host only serves tokens: {why}", hint)
