"""Where the vault's key comes from: a key file, a systemd credential, a command or the desktop's keyring.

A source is asked for the key with a certain id, or to make one. It answers, or raises `Missing` when it has none, or
`Locked` when it cannot tell without a person. A key is never made while there is a vault file that needs another one.
"""

from __future__ import annotations

import base64
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cms.core.accounts import Source
from cms.grants.secret_sources import (
    Absent,
    Locked,
    Missing,
    Unavailable,
    read_credential,
    read_private,
    run_command,
    unavailable,
)
from cms.grants.vault.keyring import KEY_BYTES, Key, Keyring, key_id, parse_key
from cms.system.files import make_folders, sync_folder, write_private
from cms_oauth.moves import fill

# The name of the systemd credential that is used when the configuration names no source.
CREDENTIAL = "cms.key"

# Questions that come in one batch share a failed search instead of waiting for one search each.
FAILURE_SECONDS = 1.0


class KeySource(Protocol):
    """One place that may hold the key."""

    @property
    def origin(self) -> str:
        """Say in words where this is."""

    def find(self, wanted: str) -> bytes:
        """Return the key with this id, or raise Missing or Locked."""

    def make(self) -> bytes:
        """Return a key for a vault that is empty so far, made now if need be, or raise Missing or Locked."""

    @property
    def makes(self) -> bool:
        """Whether what `make` has returned last was made by it."""

    def remove(self, wanted: str) -> bool:
        """Delete the key with this id, which cms has made; say whether it was here. Raises Missing or Locked."""


class _Fixed:
    """A source that holds one key, whatever its id, and which is its owner's to change."""

    makes = False

    def __init__(self, origin: str, read: Callable[[], bytes]) -> None:
        self.origin = origin
        self._read = read

    def find(self, wanted: str) -> bytes:
        secret = parse_key(self._read())
        if key_id(secret) != wanted:
            raise Missing("holds another key")
        return secret

    def make(self) -> bytes:
        return parse_key(self._read())

    def remove(self, wanted: str) -> bool:  # noqa: ARG002 - the protocol's
        return False


class KeyFile(_Fixed):
    """A file of mode 0600 that cms makes itself while there is no vault file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        super().__init__(f"key file {path}", lambda: read_private(path))

    def make(self) -> bytes:
        with suppress(FileNotFoundError):
            return parse_key(read_private(str(self._path)))
        try:
            make_folders(self._path.parent)
            text = base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"
            # Where another process was faster, its key counts.
            with suppress(FileExistsError):
                write_private(self._path, text, place=os.link)
            # Vault files will need this key: a crash must not take its name away.
            sync_folder(self._path.parent)
        except OSError as error:
            raise Missing(f"cannot be made: {error.strerror}") from None
        self.makes = True
        return super().make()

    def remove(self, wanted: str) -> bool:
        try:
            if key_id(parse_key(read_private(str(self._path)))) != wanted:
                return False
            self._path.unlink()
            sync_folder(self._path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Missing(f"cannot be deleted: {error.strerror}") from None
        self.makes = False
        return True

    def find(self, wanted: str) -> bytes:
        try:
            return super().find(wanted)
        except FileNotFoundError:
            raise Missing("does not exist") from None


class Keys:
    """All sources of one vault, in order, and what was found in them."""

    def __init__(
        self,
        named: Source | None,
        old: Source | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        ring: KeySource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory_only = named is not None and named.kind == "memory"
        self.seen_locked = False
        self._named = named
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[str, Key] = {}
        self._failed: dict[str, tuple[float, Missing]] = {}
        ring = ring or Keyring()
        credential = _Fixed("systemd credential", lambda: read_credential(CREDENTIAL, environ))
        usual: tuple[KeySource, ...] = (credential, ring)
        own = _source(named, environ, ring)
        self._makers = (own,) if own else () if self.memory_only else usual
        former = _source(old, environ, ring)
        self._finders = tuple(dict.fromkeys(each for each in (own, former, *usual) if each))

    def find(self, wanted: str) -> Key:
        """Return the key with this id, wherever it is. Raises Missing, or Locked if a person could help."""
        with self._lock:
            if wanted not in self._found:
                self._found[wanted] = self._search(wanted)
            return self._found[wanted]

    def need(self, wanted: str) -> Key:
        """Return the key with this id, or raise Unavailable: `locked`, and tried again."""
        try:
            return self.find(wanted)
        except Missing as missing:
            raise locked(f"the vault's key {wanted} cannot be read: {missing}") from None

    def _search(self, wanted: str) -> Key:
        when, failure = self._failed.get(wanted, (float("-inf"), None))
        if failure and self._clock() - when < FAILURE_SECONDS:
            raise failure
        reasons: list[str] = []
        kind = Missing
        for source in self._finders:
            try:
                return Key(source.find(wanted), source.origin)
            except Missing as missing:
                reasons.append(f"{source.origin} {missing}")
                if isinstance(missing, Locked):
                    self.seen_locked, kind = True, Locked
        failure = kind("; ".join(reasons))
        self._failed[wanted] = (self._clock(), failure)
        raise failure

    def make(self) -> Key | None:
        """Return a key for an empty vault; None when there is no place to keep one, which means memory only.

        Raises Missing when the configuration names a place that does not work, Locked when a person has to unlock one.
        """
        with self._lock:
            for source in self._makers:
                try:
                    key = Key(source.make(), source.origin, source.makes)
                except Missing as missing:
                    self._pass_over(source, missing)
                else:
                    self._found[key.id] = key
                    return key
        return None

    def newest(self, known: Iterable[str]) -> Key:
        """Return the key of the first place that has one or takes a new one. `known` are ids of keys that are in use.

        It was read anew from there. Raises Missing.
        """
        with self._lock:
            for source in self._makers:
                try:
                    key = _known(source, known) or Key(source.make(), source.origin, source.makes)
                    source.find(key.id)
                except Missing as missing:
                    self._pass_over(source, missing)
                else:
                    self._found[key.id] = key
                    self._failed.pop(key.id, None)
                    return key
        raise Missing("there is no place for one: no systemd credential, and no keyring")

    def remove(self, wanted: str) -> str:
        """Delete the key with this id, which cms has made; return its place in words, "" if it was nowhere.

        Raises Missing, or Locked, where it cannot be told or deleted.
        """
        with self._lock:
            self._found.pop(wanted, None)
            for source in self._makers:
                try:
                    if source.remove(wanted):
                        return source.origin
                except Absent:
                    continue
                except Missing as missing:
                    raise type(missing)(f"{source.origin} {missing}") from None
        return ""

    def no_keyring(self) -> str:
        """Say why the desktop keyring can keep no key now, "" if it can."""
        try:
            Keyring().check()
        except Missing as missing:
            return f"keyring {missing}"
        return ""

    def _pass_over(self, source: KeySource, missing: Missing) -> None:
        """Raise what a source has raised, unless it is a usual source that does not exist on this machine."""
        self.seen_locked |= isinstance(missing, Locked)
        if self._named or not isinstance(missing, Absent):
            raise type(missing)(f"{source.origin} {missing}") from None


def _known(source: KeySource, known: Iterable[str]) -> Key | None:
    """Return the key that a place with several keys has of those that are in use, None for none."""
    for wanted in known if not isinstance(source, _Fixed) else ():
        with suppress(Missing):
            return Key(source.find(wanted), source.origin)
    return None


def _source(named: Source | None, environ: Mapping[str, str], ring: KeySource) -> KeySource | None:
    match named:
        case Source(kind="file", value=(path,)):
            return KeyFile(path)
        case Source(kind="credential", value=(name,)):
            return _Fixed("systemd credential", lambda: read_credential(name, environ))
        case Source(kind="command", value=argv):
            return _Fixed("command", lambda: run_command(argv))
        case Source(kind="keyring"):
            return ring
    return None


def locked(message: str) -> Unavailable:
    """Return the refusal for a vault whose key cannot be read now."""
    return unavailable(
        "locked",
        message,
        fill(
            "check the key's source, Vault(...) in the configuration (a key file must belong to cms's user, with mode 0600;"
            " where another key was named, Vault(key=..., old_key=...), then `cms vault rekey`), unlock the keyring, or"
            " restore the key; {retries}. Only if the key is lost for good: `cms logout USER` deletes"
            " the stored sign-in"
        ),
    )
