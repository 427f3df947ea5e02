"""The vault: one encrypted file for each Grant, in the state folder.

`Vault.hold` locks a grant and gives a `Held`: read it, prepare a place for its successor, redeem it, store the successor.
The files and their locks are in `entry_file`, and which key is used is in `vault_key`.
A key that cms made is deleted with the last sign-in.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from cms.core import refusals
from cms.core.accounts import Grant, Scopes, StoredSignIn
from cms.core.lifecycle import Granted, Refused, Trouble, token_hash
from cms.grants.messages import QUESTION_SECONDS
from cms.grants.secret_sources import Unavailable, storage, unavailable
from cms.grants.vault import minted
from cms.grants.vault.entry_file import (
    MAX_FILE,
    MAX_HEADER,
    VERSION,
    Contents,
    Entry,
    EntryFile,
    NewerFormat,
    StateFolder,
    busy,
    contents,
    decrypt,
    draft_of,
    encrypt,
    grant_of,
    mark_of,
    needed_key,
    parse_header,
)
from cms.grants.vault.keyring import Key
from cms.grants.vault.keys import Keys
from cms.grants.vault.minted import MintedToken, Moment
from cms.grants.vault.vault_key import VaultKey
from cms.system.files import open_regular, read_regular, sweep_drafts, sync_folder
from cms_oauth.frozen import dataclass
from cms_oauth.moves import Move


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an entry was stored.

    In a fleet, `refresh_in` is in how many seconds the token that came with it is to be renewed, and `shared` says whether
    the other hosts have it. Both are None for an entry of this host only.
    """

    persisted: bool
    key_from: str
    refresh_in: float | None = None
    shared: bool | None = None


MEMORY = Stored(persisted=False, key_from="memory only")


def _newer(path: Path, error: NewerFormat) -> Unavailable:
    """Return the exception for a file that was written by a newer cms."""
    hint = f"install that cms again, or a later one. To stay with this one, move {path} away and sign in again"
    return unavailable("vault-newer", f"{path} {error}", Move(hint))


class Held:
    """One grant in the vault while its lock is held."""

    # What only another host could have found out, or asked for.
    refusal: Refused | None = None
    wished = False
    hearers = None

    def __init__(self, vault: Vault, grant: Grant, scopes: Scopes) -> None:
        self._vault = vault
        self._grant = grant
        self._scopes = scopes
        # What was read from the file. In memory there are no access tokens.
        self._contents: Contents | None = None
        self._file = EntryFile(vault.folder, grant.key)
        # What a successor is encrypted with; None keeps it in memory.
        self._key: Key | None = None
        self._prepared = False
        # Whether there is a file that cannot be read.
        self.damaged = False
        # A challenge that the next sign-in has to meet, even before the first one.
        self.claims = ""
        # Where the entry that was read is stored.
        self.stored = MEMORY

    @property
    def interrupted(self) -> bool:
        """Whether an earlier redemption was cut off: what it got, if anything, was lost."""
        return self._file.interrupted

    @property
    def reused(self) -> bool:
        """Whether the provider has refused the refresh token since, because it was used in that redemption."""
        return self._file.reused

    def remember_reuse(self) -> None:
        """Remember such a refusal for as long as the mark of that redemption stays."""
        self._file.remember_reuse()

    def read(self) -> Entry | None:
        """Return the stored sign-in, None for none. Raises Unavailable for a damaged file or a missing key."""
        entry = self._vault.memory.get(self._grant.key)
        if entry is None and not self._vault.key.keys.memory_only:
            entry = self._read_file()
        self.claims = entry.claims if entry else ""
        return entry if entry and entry.cache else None

    def _read_file(self) -> Entry | None:
        path = self._file.path
        try:
            raw = self._file.read()
        except OSError as error:
            raise storage(error, f"{path} cannot be read") from None
        try:
            return None if raw is None else self._decrypt(raw)
        except NewerFormat as error:
            raise _newer(path, error) from None
        except ValueError as error:
            self.damaged = True
            raise unavailable(
                "vault-damaged",
                f"{path} {error}",
                refusals.hint(
                    "sign in again: {login}; the file is kept aside. Or restore it from a backup", self._grant
                ),
            ) from None

    def _decrypt(self, raw: bytes) -> Entry:
        self._key = self._vault.key.keys.need(needed_key(self._grant, raw))
        self.stored = Stored(persisted=True, key_from=self._key.origin)
        self._contents = contents(raw, self._key)
        return self._contents.entry

    def minted(self, held: str, *, wanted: bool = False) -> tuple[Granted, str] | None:  # noqa: ARG002 - see stores.py
        """Return a stored access token with these scopes that is still good, unless its hash is `held`; else None.

        With it comes the fingerprint of what the application proved itself with.
        """
        at = self._vault.now()
        for token in self._contents.tokens if self._contents else ():
            found = minted.granted(token, at)
            if found and token.asked == self._scopes and token_hash(token.secret) != held:
                # What followed a redemption that was cut off is not known.
                return replace(found, doubtful=found.doubtful or self.interrupted), token.proof
        return None

    def withdraw(self, secret_hash: str) -> None:
        """Delete the stored access token with this hash. Raises Unavailable."""
        if self._contents is None or self._key is None:
            return
        left = tuple(each for each in self._contents.tokens if token_hash(each.secret) != secret_hash)
        if left == self._contents.tokens:
            return
        self._contents = replace(self._contents, tokens=left)
        try:
            self._file.amend(encrypt(self._grant, self._contents.entry, self._key, left))
        except OSError as error:
            raise storage(error, f"a refused token cannot be deleted from {self._file.path}") from None

    def mark_refused(self) -> bool:
        """Have `store` note that the provider refused another token for these scopes; return whether that is news."""
        if self._contents is None:
            return False
        before = self._contents
        marked = (replace(each, refused=each.refused or each.asked == self._scopes) for each in before.tokens)
        self._contents = replace(before, tokens=tuple(marked))
        return self._contents != before

    def refused_for_good(self, trouble: Trouble) -> None:
        """Do nothing: no other host asks for this sign-in, and the daemon knows."""

    def inspect(self) -> Entry | None:
        """Return the entry that a new sign-in would replace, None for none. A damaged one is kept aside later.

        Raises Unavailable for a missing key, and for a newer cms's file, which nothing replaces.
        """
        try:
            return self.read()
        except Unavailable as error:
            if error.outcome.trouble.kind != "vault-damaged":
                raise
        return None

    def prepare(self, *, memory_will_do: bool = False) -> Stored:
        """Decide where a successor goes, and make sure of it: before anything is redeemed. Raises Unavailable.

        What is in memory may stay there, and so may a sign-in whose person was told: no key, a locked keyring and a full
        disk are then no reason to lose it.
        """
        try:
            if self._key:
                # The file that was read needs this key.
                self._reserve()
            else:
                self._key = self._vault.key.choose(self._reserve)
        except Unavailable:
            if not (memory_will_do or self._in_memory):
                raise
            self._key = None
        self._prepared = True
        return Stored(persisted=True, key_from=self._key.origin) if self._key else MEMORY

    @property
    def _in_memory(self) -> bool:
        return self._grant.key in self._vault.memory

    def claim(self) -> float:
        """Return when this host must have redeemed the sign-in, which is never: the lock keeps others away."""
        return math.inf

    def _reserve(self) -> None:
        try:
            self._file.reserve()
        except OSError as error:
            raise storage(error, f"nothing can be stored in {self._file.path.parent}") from None

    def release(self) -> None:
        """Undo `prepare`: the provider did not redeem the grant."""
        self._file.release()

    def store(self, entry: Entry, granted: Granted | None = None, proof: str = "") -> Stored:
        """Store the entry where `prepare` has decided, and in a file also the access token that it gave.

        `proof` is the fingerprint of what the application proved itself with. Raises Unavailable, and the old file is whole
        then.
        """
        assert self._prepared, "no grant is redeemed before its successor has a place"
        try:
            if self._key:
                raw = encrypt(self._grant, entry, self._key, self._tokens_of(entry, granted, proof))
                upgrade = self._contents is not None and self._contents.version != VERSION
                self._file.write(raw, keep_aside=self.damaged, read_back=upgrade)
                self._vault.memory.pop(self._grant.key, None)
                return Stored(persisted=True, key_from=self._key.origin)
        except OSError as error:
            if not self._in_memory:
                raise storage(error, f"the sign-in cannot be stored in {self._file.path.parent}") from None
            self.release()
        self._vault.memory[self._grant.key] = entry
        return MEMORY

    def _tokens_of(self, entry: Entry, granted: Granted | None, proof: str) -> tuple[MintedToken, ...]:
        """Return the access tokens to be stored beside an entry: the new one, and those of the same sign-in that are good.

        Those for scopes that the grant no longer has are left out.
        """
        at, before, kept = self._vault.now(), self._contents, list[MintedToken]()
        if before and before.entry.signed_in == entry.signed_in:
            kept = [each for each in before.tokens if each.asked in self._grant.scope_sets and minted.granted(each, at)]
        new = minted.keep(granted, self._scopes, at, proof) if granted else None
        if new and minted.granted(new, at):
            kept = [*(each for each in kept if each.asked != self._scopes), new]
        return tuple(kept)

    def delete(self) -> bool:
        """Delete the entry, what was kept aside of it, and its lock; return whether there was a sign-in.

        Raises Unavailable if they cannot be deleted, or belong to a newer cms.
        """
        self._vault.check_version(self._grant.key)
        found = bool(self._vault.memory.pop(self._grant.key, None)) or self._file.path.exists()
        self._vault.delete_files(self._grant.key)
        return found


class Vault:
    """The entries of one state folder, and those that are in memory only, by their grants' keys.

    `patience` is how many seconds another worker's lock is waited for.
    """

    def __init__(
        self,
        folder: str,
        keys: Keys,
        patience: float = QUESTION_SECONDS,
        now: Callable[[], Moment] = minted.now,
    ) -> None:
        self.now = now
        self.memory: dict[str, Entry] = {}
        self._patience = patience
        self.folder = StateFolder(Path(folder), patience)
        self.key = VaultKey(self.folder, keys)
        self._locks: dict[str, threading.Lock] = {}

    def __repr__(self) -> str:
        return f"Vault({str(self.folder.path)!r})"

    @property
    def stays(self) -> bool:
        """Whether this process must not exit: it holds entries that another could not read, or waits for a person."""
        return bool(self.memory) or self.key.keys.seen_locked

    @contextmanager
    def hold(self, grant: Grant, scopes: Scopes = ()) -> Iterator[Held]:
        """Hold a grant against this process's other threads, and against every other process. Raises Unavailable.

        `scopes` are those of the access token that is asked for.
        """
        lock = self._locks.setdefault(grant.key, threading.Lock())
        if not self.key.keys.memory_only:
            self.folder.make_private()
        if not lock.acquire(timeout=self._patience):
            raise busy()
        try:
            with self._file_lock(grant.key):
                yield Held(self, grant, scopes)
        finally:
            lock.release()

    def _file_lock(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.key.keys.memory_only else self.folder.lock(name)

    def tidy(self, name: str) -> None:
        """Delete the lock of a grant, which is held, if nothing is stored: addresses that were only tried leave no files."""
        path = self.folder.path / f"{name}.vault"
        if not path.exists():
            path.with_suffix(".lock").unlink(missing_ok=True)

    def check_version(self, name: str) -> None:
        """Raise Unavailable if a grant's file was written by a newer cms: then it is not this one's to delete."""
        path = self.folder.path / f"{name}.vault"
        with suppress(ValueError, OSError), open_regular(path) as file:
            try:
                parse_header(file.readline(MAX_HEADER))
            except NewerFormat as error:
                raise _newer(path, error) from None

    def delete_files(self, name: str) -> None:
        """Delete all files of a grant, named by its key, whose lock is held. Raises Unavailable."""
        folder = self.folder.path
        path = folder / f"{name}.vault"
        aside = folder.glob(f"{path.name}.damaged-*")
        try:
            # The lock last: until then no other process gets the grant.
            mark = mark_of(path)
            for each in (path, mark, draft_of(mark), *aside, path.with_suffix(".lock")):
                each.unlink(missing_ok=True)
            sweep_drafts(path)
            if folder.is_dir():
                sync_folder(self.folder.path)
        except OSError as error:
            raise storage(error, f"{error.filename or path} cannot be deleted") from None

    def delete(self, names: Sequence[str]) -> bool:
        """Delete the files of grants that no account has; return whether there were any.

        Raises Unavailable. If one of them is a newer cms's, none is deleted.
        """
        for name in names:
            self.check_version(name)
        found = [self._delete(name) for name in names]
        return any(found)

    def _delete(self, name: str) -> bool:
        with self._file_lock(name):
            found = (self.folder.path / f"{name}.vault").exists()
            self.delete_files(name)
        return found

    def drop_key(self) -> str:
        """Delete the key that cms has made, if no entry needs it; return its place in words, "" where it stays.

        Raises Unavailable where it should be deleted and cannot.
        """
        return self.key.delete_unneeded(self.memory)

    def survey(self, names: Iterable[str]) -> list[StoredSignIn]:
        """Return whose sign-ins these are, as far as that can be told. An invalid file is left out."""
        return [found for name in names if (found := self._described(name))]

    def _described(self, name: str) -> StoredSignIn | None:
        try:
            raw = read_regular(self.folder.path / f"{name}.vault", MAX_FILE)
        except OSError:
            return None
        try:
            grant = grant_of(raw)
        except ValueError:
            # It cannot be used, and it is still there to be deleted.
            return StoredSignIn(name, "", "", "")
        found = StoredSignIn(name, grant.authority, grant.client_id, grant.login, provider=grant.provider)
        try:
            entry = decrypt(raw, self.key.keys.need(needed_key(grant, raw)))
        except (Unavailable, ValueError):
            return found
        return replace(found, who=entry.who, signed_in=entry.signed_in)
