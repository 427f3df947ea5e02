"""Chooses the key of a vault: the one that its files need, else the one used last, else a new one.

A new key is made only if no file needs another one. A key that cms made is deleted with the last sign-in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cms.core.accounts import Grant
from cms.grants.secret_sources import Locked, Missing, Unavailable, storage
from cms.grants.vault.entry_file import MAX_HEADER, NewerFormat, StateFolder, parse_header
from cms.grants.vault.keyring import Key
from cms.grants.vault.keys import Keys, locked
from cms.system.files import read_regular, sweep_drafts, sync_folder, write_private

# The file with the id of the key used last: a sign-in after a logout then needs no second keyring entry.
KEY_NAME = "key-id"
# The second line of that file where cms has made the key itself.
MADE = "made"

# The lock that is held while a key is chosen, made or deleted.
_LOCK = "key"

# Files that may need the key: sign-ins, those being redeemed, and damaged ones that were kept aside.
_NEEDY = ("*.vault", "*.redeeming", "*.vault.damaged-*")


class VaultKey:
    """The choice of the key for the files of one state folder."""

    def __init__(self, folder: StateFolder, keys: Keys) -> None:
        self.keys = keys
        self._folder = folder
        self._name = folder.path / KEY_NAME

    def choose(self, reserve: Callable[[], None] = lambda: None) -> Key | None:
        """Return the key for a new file; None for memory only. Raises Unavailable.

        `reserve` makes the file that keeps the key from being deleted, before another worker may look for such files.
        """
        if self.keys.memory_only:
            return None
        self._folder.make()
        with self._folder.lock(_LOCK):
            key = self._first_found(self._needed()) or self._last_used() or self._new()
            if key:
                reserve()
            return key

    def renew(self) -> Key:
        """Return the key that `Vault(key=...)` names, made now if need be. New sign-ins use it from now on.

        Raises Missing if it cannot be used, Unavailable if the sign-ins cannot be read: then nothing was changed.
        """
        if self.keys.memory_only:
            raise Missing('Vault(key="memory") stores nothing')
        self._folder.make()
        with self._folder.lock(_LOCK):
            needed = list(self._needed())
            self._first_found(needed)
            last, made = self._named()
            key = self.keys.newest([*filter(None, [last]), *needed])
            try:
                self._remember(key, made=key.made or (made and key.id == last))
            except OSError as error:
                raise storage(error, f"nothing can be stored in {self._folder.path}") from None
            return key

    def _remember(self, key: Key, *, made: bool) -> None:
        """Write down that this key is the one used last. Raises OSError."""
        sweep_drafts(self._name)
        write_private(self._name, (f"{key.id}\n{MADE}\n" if made else f"{key.id}\n").encode())

    def delete_unneeded(self, memory: Mapping[str, object]) -> str:
        """Delete the key that cms has made, if no file needs it; return its place in words, "" where it stays.

        It stays as well while there are entries in `memory`, which may yet be written to a file. Raises Unavailable where it
        should be deleted and cannot.
        """
        folder = self._folder.path
        if self.keys.memory_only or not folder.is_dir():
            return ""
        with self._folder.lock(_LOCK):
            if memory or any(True for pattern in _NEEDY for _ in folder.glob(pattern)):
                return ""
            try:
                named, made = self._named()
                place = self.keys.remove(named) if made else ""
                self._sweep_locks()
                for path in (self._name, folder / f"{_LOCK}.lock"):
                    path.unlink(missing_ok=True)
                sync_folder(folder)
            except Missing as missing:
                raise locked(f"the vault's key cannot be deleted: {missing}") from None
            except OSError as error:
                raise storage(error, f"the name of the key in {folder} cannot be deleted") from None
        return place

    def _sweep_locks(self) -> None:
        """Delete the lock files of grants that have no other file, where no process holds the lock."""
        for path in self._folder.path.glob("*.lock"):
            # Neither the daemon's own lock, which has other rules, nor the key's, which is held.
            if len(path.stem) == len(Grant("", "", "").key):
                with suppress(Unavailable), self._folder.lock(path.stem, patience=0.0):
                    path.unlink(missing_ok=True)

    def _first_found(self, needed: Iterable[str]) -> Key | None:
        """Return the first of these keys that can be read, None if there are none. Raises Unavailable if no key can be."""
        failures = []
        for wanted in needed:
            try:
                return self.keys.need(wanted)
            except Unavailable as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return None

    def _needed(self) -> Iterator[str]:
        """Yield the ids of the keys that the vault files here need, first the one that was used last.

        In the midst of a move to another key, that is the new one. Nearly always the first of ten thousand files needs it,
        and the others are not read.
        """
        last, _ = self._named()
        if last and last in self._in_headers():
            yield last
        yield from sorted(set(self._in_headers()) - {last})

    def _in_headers(self) -> Iterator[str]:
        """Yield the id of each file's key. A file with a damaged header needs none. Raises Unavailable."""
        try:
            entries = os.scandir(self._folder.path)
        except OSError as error:
            raise storage(error, f"the sign-ins in {self._folder.path} cannot be listed") from None
        with entries:
            for entry in entries:
                if entry.name.endswith(".vault"):
                    with suppress(ValueError, OSError):
                        yield from _key_of(Path(entry.path))

    def _named(self) -> tuple[str, bool]:
        """Return the id of the key that was used last, "" for none, and whether cms has made it."""
        try:
            lines = read_regular(self._name, MAX_HEADER).decode().split()
        except (OSError, UnicodeError):
            return "", False
        return lines[0] if lines else "", lines[1:] == [MADE]

    def _last_used(self) -> Key | None:
        named, _ = self._named()
        try:
            return self.keys.find(named) if named else None
        except Locked as missing:
            raise locked(f"the vault's key cannot be read: {missing}") from None
        except Missing:
            return None

    def _new(self) -> Key | None:
        try:
            key = self.keys.make()
            if key:
                self._remember(key, made=key.made)
        except Missing as missing:
            raise locked(f"there is no place for the vault's key: {missing}") from None
        except OSError as error:
            raise storage(error, f"nothing can be stored in {self._folder.path}") from None
        return key


def _key_of(path: Path) -> Sequence[str]:
    """Return the id of the key that a file needs, nothing where a newer cms does not say. Raises OSError, ValueError."""
    head, end, _ = read_regular(path, MAX_HEADER).partition(b"\n")
    try:
        return [parse_header(head + end)["key"]]
    except NewerFormat as newer:
        return [newer.key] if newer.key else []
