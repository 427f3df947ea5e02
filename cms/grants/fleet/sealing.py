"""The bytes of a sign-in and of a token as the fleet's rows have them: a vault file whose header says what the row is.

The header is authenticated, so bytes that were put into another row, or an older sign-in under a later number, are refused.
In place of the grant's names it has the grant's key, which is a hash: who reads the database, or a backup of it, does not
see whose sign-in a row is.

A token's entry has what is known of the sign-in, and no refresh token. It needs another key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from cms.core.accounts import Grant, Scopes, Source
from cms.core.lifecycle import token_hash
from cms.grants.secret_sources import Locked, Missing, Unavailable, read_source, unavailable
from cms.grants.vault.entry_file import Contents, Entry, contents, key_needed, seal
from cms.grants.vault.keyring import Key, parse_key
from cms.grants.vault.minted import MintedToken
from cms_oauth import sasl
from cms_oauth.moves import RETRIES, Move

# The hex digits of a hash that names scopes: as many as a grant's key has.
_DIGITS = 32


class Keys:
    """The keys of one kind, in the order of the configuration: the first encrypts, and each decrypts."""

    def __init__(self, argument: str, sources: Sequence[Source], read: Callable[[Source], bytes] = read_source) -> None:
        self._argument = argument
        self._sources = tuple(sources)
        self._read = read
        self._found: dict[Source, Key] = {}

    def first(self) -> Key:
        """Return the key that encrypts. Raises Unavailable."""
        try:
            return self._of(self._sources[0])
        except Missing as missing:
            raise self._locked(f"{self._sources[0].origin} {missing}") from None

    def need(self, wanted: str) -> Key:
        """Return the key with this id. Raises Unavailable."""
        reasons = []
        for source in self._sources:
            try:
                key = self._of(source)
            except Missing as missing:
                reasons.append(f"{source.origin} {missing}")
                continue
            if key.id == wanted:
                return key
            reasons.append(f"{source.origin} holds another key")
        raise self._locked(f"key {wanted}: {'; '.join(reasons)}")

    def ids(self) -> set[str]:
        """Return the ids of those that can be read."""
        found = set()
        for source in self._sources:
            try:
                found.add(self._of(source).id)
            except (Missing, Locked):
                continue
        return found

    def _of(self, source: Source) -> Key:
        if source not in self._found:
            self._found[source] = Key(parse_key(self._read(source)), source.origin)
        return self._found[source]

    def _locked(self, why: str) -> Unavailable:
        said = f"the fleet's key cannot be read: {why}"
        hint = f"check the key's source, Fleet({self._argument}=...): all hosts have the same key; "
        return unavailable("locked", said, Move(hint, RETRIES))


def scopes_key(scopes: Scopes) -> str:
    """Return what names the tokens with these scopes."""
    return hashlib.sha256("\n".join(scopes).encode()).hexdigest()[:_DIGITS]


def sign_in_header(grant: Grant, lineage: str, generation: int) -> dict[str, str | int]:
    """Return what the header of a sign-in's row says."""
    return {"grant": grant.key, "lineage": lineage, "generation": generation}


def sealed_token(grant: Grant, entry: Entry, token: MintedToken, key: Key) -> bytes:
    """Return the bytes of a token's row."""
    known = Entry("", "", entry.who, entry.signed_in, entry.endings, entry.redeemed, ends=entry.ends)
    return seal(_token_header(grant, token.asked, token_hash(token.secret)), known, key, (token,))


def opened_token(grant: Grant, scopes: Scopes, mint: str, raw: bytes, keys: Keys) -> Contents:
    """Return what a token's row holds: what is known of its sign-in, and one token. Raises ValueError, and Unavailable."""
    found = contents(raw, keys.need(key_needed(_token_header(grant, scopes, mint), raw)))
    if len(found.tokens) != 1 or token_hash(found.tokens[0].secret) != mint:
        raise ValueError("holds another token")
    if not (sasl.is_token(found.tokens[0].secret) and found.tokens[0].life > 0):
        raise ValueError("cannot be used")
    return found


def _token_header(grant: Grant, scopes: Scopes, mint: str) -> dict[str, str | int]:
    return {"grant": grant.key, "scopes": scopes_key(scopes), "mint": mint}
