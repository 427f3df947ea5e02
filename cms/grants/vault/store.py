"""The vault: one encrypted file per Grant.

    {"authority": ..., "format": "cms-vault", "key": ..., "version": 1, ...} LF     the header, in clear, authenticated
    nonce (12 bytes)  ciphertext and tag (AES-256-GCM)                              an `Entry` as JSON

The header names the key without its help, and binds the file to the sign-in that it belongs to: a file that was copied
over another one is refused, so a refresh token is redeemed nowhere but where it was given.

Three files lie beside `GRANT.vault`:

- `GRANT.lock` is locked (flock) from reading a grant to storing it, so that two workers never redeem one refresh token
  twice. Never the vault file itself: a rename replaces that.
- `GRANT.redeeming` is there from before a refresh token is sent until its successor is stored. It has the new file's
  space reserved, so a full or read-only disk is noticed before anything is redeemed; it is the temporary file that the
  rename turns into the vault file, so it goes away at the very moment at which the successor is safe; and if it is
  found lying there, an earlier redemption was cut off, which explains a refusal.
- `GRANT.vault.damaged-TIME` is what could not be read and was replaced by a new sign-in. It goes with `cms logout`: a
  copy of another grant's file, for instance, can be decrypted.

With the last sign-in the key goes, where cms has made it: nothing is left then.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cms.core import refusals
from cms.core.accounts import Grant, StoredSignIn
from cms.core.lifecycle import Ending, Transient, Trouble
from cms.grants.messages import QUESTION_SECONDS
from cms.grants.secrets import Locked, Missing, Unavailable
from cms.grants.vault.keyring import Key
from cms.grants.vault.keys import Keys
from cms.system.files import sync_folder, write_private
from cms_oauth.moves import RETRIES, Move, fill

FORMAT = "cms-vault"
VERSION = 1

# AES-GCM's own nonce size; a fresh random one for each file written.
NONCE_BYTES = 12

# A header has some 400 bytes, a file some 10 KB; what is longer was not written here.
MAX_HEADER = 4096
MAX_FILE = 4 * 1024 * 1024

# Reserved before a redemption: several times what one grant needs.
RESERVED = 64 * 1024

# How often a lock that another worker holds is tried. It is held for one round trip to Entra.
LOCK_PAUSE = 0.02

# Names the key of a vault that holds no file any more: a logout and a new sign-in need no second keyring entry.
KEY_NAME = "key-id"
# A second line of that file says so where cms has made the key itself.
MADE = "made"

# What may need the key: sign-ins, those under way, and what was kept aside of them.
_NEEDY = ("*.vault", "*.redeeming", "*.vault.damaged-*")


def _trouble(kind: str, message: str, hint: str) -> Unavailable:
    return Unavailable(Transient(Trouble(kind, message, hint)))


def _storage(error: OSError, what: str) -> Unavailable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "make room on that disk" if full else "check that folder's owner, permissions and file system"
    return _trouble("storage", f"{what}: {error.strerror}", Move(f"{hint}; ", RETRIES))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the vault keeps of one grant.

    `cache` is MSAL's cache as JSON, less its access and id tokens; `signed_in` Unix time, and so is `redeemed`: when it
    last gave a token, 0 for unknown. `endings` are how sign-ins of the same person ended, this one included once it has.
    `claims` is a conditional-access challenge that the next sign-in has to meet, "" for none: it may be there before
    anybody has signed in, and then there is no `cache`.
    """

    cache: str = field(repr=False)
    home_account_id: str
    who: str
    signed_in: float
    endings: tuple[Ending, ...] = ()
    redeemed: float = 0.0
    claims: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where an entry went."""

    persisted: bool
    key_from: str


MEMORY = Stored(persisted=False, key_from="memory only")


class Held:
    """One grant in the vault while its lock is held."""

    def __init__(self, vault: Vault, grant: Grant) -> None:
        self._vault = vault
        self._grant = grant
        self._path = vault.path(grant)
        self._mark = self._path.with_suffix(".redeeming")
        # What a successor is encrypted with; None keeps it in memory.
        self._key: Key | None = None
        self._prepared = False
        # Whether a file is there that cannot be read.
        self.damaged = False
        # A challenge that the next sign-in has to meet, also where nobody has signed in yet.
        self.claims = ""
        # Where what was read is kept.
        self.stored = MEMORY
        # Whether an earlier redemption was cut off: what it got, if anything, was lost.
        self.interrupted = self._mark.exists()

    def read(self) -> Entry | None:
        """Return the sign-in that is kept, None if none is. Raises Unavailable for a damaged file or a missing key."""
        entry = self._kept()
        self.claims = entry.claims if entry else ""
        return entry if entry and entry.cache else None

    def _kept(self) -> Entry | None:
        kept = self._vault.memory.get(self._grant.key)
        if kept or self._vault.keys.memory_only:
            return kept
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _storage(error, f"{self._path} cannot be read") from None
        try:
            return self.decrypt(raw)
        except ValueError as error:
            self.damaged = True
            raise _trouble(
                "vault-damaged",
                f"{self._path} {error}",
                refusals.hint(
                    "sign in again: {login}; the file is kept aside. Or restore it from a backup", self._grant
                ),
            ) from None

    def decrypt(self, raw: bytes) -> Entry:
        """Return what is in a file of this grant. Raises ValueError, which says what is wrong, and Unavailable."""
        head, separator, body = raw.partition(b"\n")
        header = parse_header(head + separator)
        if {name: header.get(name) for name in _identity(self._grant)} != _identity(self._grant):
            raise ValueError("belongs to another sign-in")
        self._key = self._vault.find_key(header["key"])
        self.stored = Stored(persisted=True, key_from=self._key.origin)
        try:
            clear = AESGCM(self._key.secret).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], head + separator)
            return entry_of(json.loads(clear))
        except (InvalidTag, ValueError, TypeError):
            raise ValueError("was truncated or tampered with") from None

    def inspect(self) -> Entry | None:
        """Return what a new sign-in would replace, None for nothing that can be read: that is kept aside."""
        try:
            return self.read()
        except Unavailable as unavailable:
            if unavailable.outcome.trouble.kind != "vault-damaged":
                raise
        return None

    def prepare(self, *, memory_will_do: bool = False) -> Stored:
        """Decide where a successor goes, and make sure of it: before anything is redeemed. Raises Unavailable.

        What is in memory may stay there, and so may a sign-in whose person was told: no key, a locked keyring and a full
        disk are then no reason to lose it.
        """
        try:
            if self._key:
                # The file that it has read needs it.
                self._reserve()
            else:
                self._key = self._vault.choose_key(self._reserve)
        except Unavailable:
            if not (memory_will_do or self._in_memory):
                raise
            self._key = None
        self._prepared = True
        return Stored(persisted=True, key_from=self._key.origin) if self._key else MEMORY

    @property
    def _in_memory(self) -> bool:
        return self._grant.key in self._vault.memory

    def _reserve(self) -> None:
        """Mark the grant as being redeemed, with room for its successor. Raises Unavailable if there is none."""
        try:
            descriptor = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVED)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self.interrupted:
                self.release()
            raise _storage(error, f"nothing can be stored in {self._path.parent}") from None

    def release(self) -> None:
        """Take the mark back: the provider did not redeem the grant. One of an earlier time stays."""
        if not self.interrupted:
            with suppress(OSError):
                self._mark.unlink()

    def store(self, entry: Entry) -> Stored:
        """Keep the entry where `prepare` has decided. Raises Unavailable, and the old file is whole then."""
        assert self._prepared, "what has no place yet is not redeemed"
        if self._key is None:
            return self._remember(entry)
        try:
            self._write(self._encrypt(entry, self._key))
        except OSError as error:
            if self._in_memory:
                self.release()
                return self._remember(entry)
            raise _storage(error, f"the sign-in cannot be stored in {self._path.parent}") from None
        self._vault.memory.pop(self._grant.key, None)
        return Stored(persisted=True, key_from=self._key.origin)

    def _remember(self, entry: Entry) -> Stored:
        self._vault.memory[self._grant.key] = entry
        return MEMORY

    def _encrypt(self, entry: Entry, key: Key) -> bytes:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "key": key.id,
            "home_account": entry.home_account_id,
            **_identity(self._grant),
        }
        head = json.dumps(header, sort_keys=True).encode() + b"\n"
        nonce = secrets.token_bytes(NONCE_BYTES)
        return head + nonce + AESGCM(key.secret).encrypt(nonce, json.dumps(asdict(entry)).encode(), head)

    def _write(self, raw: bytes) -> None:
        descriptor = os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.truncate()
            file.flush()
            os.fsync(descriptor)
        if self.damaged:
            aside = f"{self._path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            self._path.rename(self._path.with_name(aside))
        self._mark.rename(self._path)
        sync_folder(self._path.parent)

    def delete(self) -> bool:
        """Delete what is kept, what was kept aside, and the lock; say whether a sign-in was there.

        Raises Unavailable if it cannot be deleted.
        """
        found = bool(self._vault.memory.pop(self._grant.key, None)) or self._path.exists()
        self._vault.delete_files(self._path.stem)
        return found


def entry_of(kept: dict[str, Any]) -> Entry:
    """Return what a file holds. One of an earlier version says less."""
    endings = tuple(Ending(**each) for each in kept.pop("endings", ()))
    return Entry(**kept, endings=endings)


def _identity(grant: Grant) -> dict[str, str]:
    return {
        "authority": grant.authority.lower(),
        "client_id": grant.client_id.lower(),
        "login": grant.login.lower(),
    }


def parse_header(line: bytes) -> dict[str, Any]:
    """Return a vault file's header from its first line. Raises ValueError, which says what is wrong with the file."""
    if not line.endswith(b"\n") or len(line) > MAX_HEADER:
        raise ValueError("is no vault file, or a truncated one")
    try:
        header: dict[str, Any] = json.loads(line)
        found = header["format"], header["version"], header["key"]
    except (ValueError, TypeError, KeyError):
        raise ValueError("is no vault file, or a tampered one") from None
    if found[:2] != (FORMAT, VERSION) or not isinstance(found[2], str):
        raise ValueError("is of a format that this cms does not know")
    return header


class Vault:
    """All vault files of one state folder. `patience` is how many seconds another worker's lock is waited for."""

    def __init__(self, folder: str, keys: Keys, patience: float = QUESTION_SECONDS) -> None:
        self.folder = Path(folder)
        self.keys = keys
        self.memory: dict[str, Entry] = {}
        self._patience = patience
        self._locks: dict[str, threading.Lock] = {}

    def __repr__(self) -> str:
        return f"Vault({str(self.folder)!r})"

    @property
    def stays(self) -> bool:
        """Whether the process that has this vault must not leave: what it holds could not be had back by itself."""
        return bool(self.memory) or self.keys.seen_locked

    def path(self, grant: Grant) -> Path:
        return self.folder / f"{grant.key}.vault"

    @contextmanager
    def hold(self, grant: Grant) -> Iterator[Held]:
        """Hold a grant against this process's other threads, and against every other process."""
        lock = self._locks.setdefault(grant.key, threading.Lock())
        if not self.keys.memory_only and self.folder.is_dir():
            self._close_folder()
        with _locked(lock, self._patience), self._lock_file(f"{grant.key}.lock"):
            yield Held(self, grant)

    def delete_files(self, name: str) -> None:
        """Delete all files of a grant, named by its key, whose lock is held. Raises Unavailable."""
        path = self.folder / f"{name}.vault"
        aside = self.folder.glob(f"{path.name}.damaged-*")
        try:
            # The lock last: until then nobody else comes in.
            for each in (path, path.with_suffix(".redeeming"), *aside, path.with_suffix(".lock")):
                each.unlink(missing_ok=True)
            if self.folder.is_dir():
                sync_folder(self.folder)
        except OSError as error:
            raise _storage(error, f"{path} cannot be deleted") from None

    def delete(self, name: str) -> bool:
        """Delete the files of a grant that no account has; say whether there were any. Raises Unavailable."""
        with self._lock_file(f"{name}.lock"):
            found = (self.folder / f"{name}.vault").exists()
            self.delete_files(name)
        return found

    def survey(self, names: Iterable[str]) -> list[StoredSignIn]:
        """Return whose sign-ins these are, as far as that can be told; what is no vault file is left out."""
        return [kept for name in names if (kept := self._kept(name))]

    def _kept(self, name: str) -> StoredSignIn | None:
        try:
            with (self.folder / f"{name}.vault").open("rb") as file:
                raw = file.read(MAX_FILE)
        except OSError:
            return None
        try:
            head = parse_header(raw.partition(b"\n")[0] + b"\n")
            grant = Grant(str(head["authority"]), str(head["client_id"]), str(head["login"]))
        except (ValueError, KeyError):
            # It cannot be used, and it is still there to be deleted.
            return StoredSignIn(name, "", "", "")
        kept, entry = StoredSignIn(name, grant.authority, grant.client_id, grant.login), self._readable(grant, raw)
        return replace(kept, who=entry.who, signed_in=entry.signed_in) if entry else kept

    def _readable(self, grant: Grant, raw: bytes) -> Entry | None:
        """Return what is in a file, None where the key or the file will not do."""
        try:
            return Held(self, grant).decrypt(raw)
        except (Unavailable, ValueError):
            return None

    def drop_key(self) -> str:
        """Delete the key that cms has made, once nothing needs it; return its place in words, "" where it stays.

        Raises Unavailable where it should go and cannot.
        """
        if self.keys.memory_only or not self.folder.is_dir():
            return ""
        with self._lock_file("key.lock"):
            if self.memory or any(True for pattern in _NEEDY for _ in self.folder.glob(pattern)):
                return ""
            try:
                place = self._remove_key()
                self._sweep()
                for name in (KEY_NAME, "key.lock"):
                    (self.folder / name).unlink(missing_ok=True)
                sync_folder(self.folder)
            except Missing as missing:
                raise _locked_out(f"the vault's key cannot be deleted: {missing}") from None
            except OSError as error:
                raise _storage(error, f"the name of the key in {self.folder} cannot be deleted") from None
        return place

    def _sweep(self) -> None:
        """Delete the locks of grants that have nothing else, and that nobody holds."""
        for path in self.folder.glob("*.lock"):
            # Not the daemon's own, which goes by another rule, nor the key's, which is held.
            if len(path.stem) == len(Grant("", "", "").key):
                with suppress(Unavailable), self._lock_file(path.name, patience=0.0):
                    path.unlink(missing_ok=True)

    def _remove_key(self) -> str:
        named, made = self._named_key()
        return self.keys.remove(named) if made else ""

    def find_key(self, wanted: str) -> Key:
        """Return the key with this id, or raise Unavailable: `locked`, and tried again."""
        try:
            return self.keys.find(wanted)
        except Missing as missing:
            raise _locked_out(f"the vault's key {wanted} cannot be had: {missing}") from None

    def choose_key(self, reserve: Callable[[], None] = lambda: None) -> Key | None:
        """Return the key for a new file; None for memory only. A key is made only where no file needs another one.

        `reserve` puts down what keeps the key from being deleted, before anybody else may look for that.
        """
        if self.keys.memory_only:
            return None
        self._make_folder()
        with self._lock_file("key.lock"):
            key = self._usable_key()
            if key:
                reserve()
            return key

    def _usable_key(self) -> Key | None:
        needed = sorted(self._needed_keys())
        if not needed:
            return self._remembered_key() or self._new_key()
        for wanted in needed[1:]:
            with suppress(Unavailable):
                return self.find_key(wanted)
        return self.find_key(needed[0])

    def _needed_keys(self) -> set[str]:
        """Return the ids of the keys that vault files here need. Those of damaged headers need none that is known."""
        found = set()
        for path in self.folder.glob("*.vault"):
            with suppress(ValueError, OSError), path.open("rb") as file:
                found.add(parse_header(file.readline(MAX_HEADER))["key"])
        return found

    def _named_key(self) -> tuple[str, bool]:
        """Return the id of the key that was used last, "" for none, and whether cms has made it."""
        try:
            lines = (self.folder / KEY_NAME).read_text().split()
        except (OSError, UnicodeError):
            return "", False
        return lines[0] if lines else "", lines[1:] == [MADE]

    def _remembered_key(self) -> Key | None:
        named, _ = self._named_key()
        try:
            return self.keys.find(named) if named else None
        except Locked as locked:
            raise _locked_out(f"the vault's key cannot be had: {locked}") from None
        except Missing:
            return None

    def _new_key(self) -> Key | None:
        try:
            key = self.keys.make()
            if key:
                text = f"{key.id}\n{MADE}\n" if key.made else f"{key.id}\n"
                write_private(self.folder / KEY_NAME, text.encode())
        except Missing as missing:
            raise _locked_out(f"there is no place for the vault's key: {missing}") from None
        except OSError as error:
            raise _storage(error, f"nothing can be stored in {self.folder}") from None
        return key

    def _make_folder(self) -> None:
        """Make the state folder, of mode 0700, where there is none."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _storage(error, f"the state folder {self.folder} cannot be made") from None
        self._close_folder()

    def _close_folder(self) -> None:
        """Make sure that the state folder is ours, and ours alone."""
        try:
            status = self.folder.stat()
            if status.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
            if status.st_mode & 0o077:
                self.folder.chmod(0o700)
        except OSError as error:
            raise _storage(error, f"the state folder {self.folder} cannot be used") from None

    @contextmanager
    def _lock_file(self, name: str, patience: float | None = None) -> Iterator[None]:
        """Hold a lock file against other processes. A folder that is not there yet has nothing to protect."""
        if self.keys.memory_only or not self.folder.is_dir():
            yield
            return
        descriptor = self._take(name, self._patience if patience is None else patience)
        try:
            yield
        finally:
            os.close(descriptor)

    def _same(self, descriptor: int, name: str) -> bool:
        """Say whether the file that is open here is the one that others find under its name."""
        if descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(descriptor), (self.folder / name).stat())
        except FileNotFoundError:
            return False

    def _take(self, name: str, patience: float) -> int:
        """Lock a lock file; return its descriptor, which holds the lock until it is closed."""
        descriptor = -1
        try:
            deadline = time.monotonic() + patience
            while not self._same(descriptor, name):
                # Whoever had it before has deleted it with its sign-in, or this is the first try.
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _until(partial(_flock, descriptor), deadline)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise _storage(error, f"nothing can be locked in {self.folder}") from None
        except Unavailable:
            os.close(descriptor)
            raise
        return descriptor


def _locked_out(message: str) -> Unavailable:
    return _trouble(
        "locked",
        message,
        fill(
            "see to the key's source, Vault(...) in the configuration (a key file is its owner's, and 0600), unlock the"
            " keyring, or bring the key back; {retries}. Only where the key is lost for good: `cms logout USER` gives the"
            " stored sign-in up"
        ),
    )


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(attempt: Callable[[], bool], deadline: float) -> None:
    while not attempt():
        if time.monotonic() > deadline:
            raise _busy()
        time.sleep(LOCK_PAUSE)


def _busy() -> Unavailable:
    return _trouble("timeout", "another cms process is busy with this sign-in", fill("{nothing_to_do}"))


@contextmanager
def _locked(lock: threading.Lock, seconds: float) -> Iterator[None]:
    if not lock.acquire(timeout=seconds):
        raise _busy()
    try:
        yield
    finally:
        lock.release()
