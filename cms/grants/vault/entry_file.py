"""The file of one vault entry: its format, how it is locked, and how it is replaced so that it is whole at every moment.

    {"authority": ..., "format": "cms-vault", "key": ..., "version": 2, ...} LF     the header, in clear, authenticated
    nonce (12 bytes)  ciphertext and tag (AES-256-GCM)                              `Contents` as JSON

The header names the key that opens the file, and binds the file to its sign-in: a file that was copied over another one
is refused, so a refresh token is redeemed only where it was given.

Every version of the format has a header with `format` and `version` in its first line. A file of a later version than
`VERSION` is a newer cms's: it is neither replaced nor moved nor deleted. Version 1 had no access tokens: its JSON is the
`Entry`. It is read, and the next write replaces it, once the new file has been read back.

Beside `GRANT.vault` there may be three more files:

- `GRANT.redeeming` is there from before a refresh token is sent until its successor is stored. It has the new file's
  space reserved, so a full or read-only disk is noticed before anything is redeemed. It is also the temporary file that
  the rename turns into the vault file, so it disappears at the very moment at which the successor is safe. If a worker
  finds it, an earlier redemption was cut off, which explains a refusal: the mark says whether there was one. It is made
  anew for each redemption, and renamed: a folder in which that fails could not store the successor either.
- `GRANT.lock` is locked (flock) from reading a grant to storing it, so that two workers never redeem one refresh token
  twice. The lock is never on the vault file itself, since a rename replaces that.
- `GRANT.vault.damaged-TIME` is a file that could not be read and was replaced by a new sign-in. It goes with
  `cms logout`: a copy of another grant's file, for instance, can be decrypted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cms.core.accounts import Grant
from cms.core.json_lines import Records
from cms.core.lifecycle import Ending, SignInFacts
from cms.grants.secret_sources import Unavailable, storage, unavailable
from cms.grants.vault.keyring import Key
from cms.grants.vault.minted import MintedToken
from cms.system.files import looked_up_again, make_folders, read_regular, sync_folder, write_private
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object
from cms_oauth.moves import fill

FORMAT = "cms-vault"
VERSION = 2

_READABLE = (1, VERSION)

# AES-GCM's own nonce size; a fresh random one for each file written.
NONCE_BYTES = 12

# A header has some 400 bytes, a file some 10 KB; a longer one was not written here.
MAX_HEADER = 4096
MAX_FILE = 4 * 1024 * 1024

# Reserved before a redemption: several times what one grant needs. A file is no longer than this for its access tokens.
RESERVED = 64 * 1024

# What a mark begins with after the provider has refused a refresh token that was used before.
REUSED = b"reused\n"

# How often a lock that another worker holds is tried. It is held for one round trip to Entra.
LOCK_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Entry:
    """What the vault stores of one grant.

    `cache` is MSAL's cache as JSON, less its access and id tokens. `signed_in` is Unix time, and so is `redeemed`: when
    the sign-in last gave a token, 0 for unknown. `endings` are how sign-ins of the same person ended, this one included
    once it has; `ends` is when the provider has said that it ends, 0 for unknown. `claims` is a conditional-access challenge
    that the next sign-in has to meet, "" for none: it may be there before the first sign-in, and then there is no `cache`.
    """

    cache: str = field(repr=False)
    home_account_id: str
    who: str
    signed_in: float
    endings: tuple[Ending, ...] = ()
    redeemed: float = 0.0
    claims: str = ""
    ends: float = 0.0

    def facts(self, told: SignInFacts) -> SignInFacts:
        """Return the facts that a provider's answer gave, completed by what is stored."""
        return replace(told, given_at=self.signed_in, endings=self.endings, ends_at=told.ends_at or self.ends)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a vault file holds: the sign-in, and the access tokens that it gave last, the newest last.

    `version` is that of its format.
    """

    entry: Entry
    tokens: tuple[MintedToken, ...] = ()
    version: int = VERSION


_TOKENS = Records()


def entry_of(kept: Any) -> Entry:
    """Return the entry in a file. Raises TypeError. An earlier version of cms has written fewer fields."""
    if not isinstance(kept, dict):
        raise TypeError("an entry is an object")
    endings = tuple(Ending(**each) for each in kept.pop("endings", ()))
    entry = Entry(**kept, endings=endings)
    texts = (entry.cache, entry.home_account_id, entry.who, entry.claims, *(each.reason for each in endings))
    times = (
        entry.signed_in,
        entry.redeemed,
        entry.ends,
        *(time for each in endings for time in (each.given_at, each.ended_at)),
    )
    numbers = (*times, *(each.aadsts for each in endings if each.aadsts is not None))
    # Who holds the key or the passphrase may have written anything.
    if not all(isinstance(each, str) for each in texts) or not all(type(each) in (int, float) for each in numbers):
        raise TypeError("a field is of another type")
    return entry


class NewerFormat(ValueError):
    """A vault file was written by a newer cms. `key` is the id of the key that it needs, "" for unknown."""

    def __init__(self, key: str) -> None:
        super().__init__("was written by a newer cms than this one, which leaves it as it is")
        self.key = key


def parse_header(line: bytes) -> dict[str, Any]:
    """Return a vault file's header from its first line. Raises ValueError, which says what is wrong with the file."""
    if not line.endswith(b"\n") or len(line) > MAX_HEADER:
        raise ValueError("is not a vault file, or a truncated one")
    try:
        header = read_object(line)
        found, version, key = header["format"], header["version"], header.get("key")
    except (ValueError, KeyError):
        raise ValueError("is not a vault file, or a tampered one") from None
    if found == FORMAT and type(version) is int and version > VERSION:
        raise NewerFormat(key if isinstance(key, str) else "")
    if found != FORMAT or version not in _READABLE or not isinstance(key, str):
        raise ValueError("is of a format that this cms does not know")
    return header


def needed_key(grant: Grant, raw: bytes) -> str:
    """Return the id of the key that opens a grant's file. Raises ValueError, as `parse_header`, for another grant's."""
    return key_needed(identity(grant), raw)


def key_needed(named: Mapping[str, str | int], raw: bytes) -> str:
    """As `needed_key`, for bytes whose header must have these fields."""
    head, separator, _ = raw.partition(b"\n")
    header = parse_header(head + separator)
    if {name: header.get(name, "") for name in named} != dict(named):
        raise ValueError("belongs to another sign-in")
    return str(header["key"])


def grant_of(raw: bytes) -> Grant:
    """Return the grant that a file belongs to, as its header has it. Raises ValueError. An earlier cms named no provider."""
    head, separator, _ = raw.partition(b"\n")
    header = parse_header(head + separator)
    try:
        authority, client_id, login = (str(header[name]) for name in ("authority", "client_id", "login"))
    except KeyError:
        raise ValueError("is not a vault file, or a tampered one") from None
    sign_in, provider = (str(header.get(name) or "") for name in ("sign_in", "provider"))
    return Grant(authority, client_id, login, sign_in=sign_in or "browser", provider=provider)


def decrypt(raw: bytes, key: Key) -> Entry:
    """Return the entry in a file. Raises ValueError."""
    return contents(raw, key).entry


def contents(raw: bytes, key: Key) -> Contents:
    """Return all that a file holds. Raises ValueError."""
    head, separator, body = raw.partition(b"\n")
    try:
        clear = AESGCM(key.secret).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], head + separator)
        kept = read_object(clear)
        if parse_header(head + separator)["version"] == 1:
            return Contents(entry_of(kept), version=1)
        return Contents(entry_of(kept["entry"]), _TOKENS.unpack(kept["tokens"], tuple[MintedToken, ...]))
    except (InvalidTag, ValueError, TypeError, KeyError):
        raise ValueError("was truncated or tampered with") from None


def encrypt(grant: Grant, entry: Entry, key: Key, tokens: tuple[MintedToken, ...] = ()) -> bytes:
    """Return the bytes of a grant's file. It has the newest access tokens, as many as find room in what is reserved."""
    return seal({**identity(grant), "provider": grant.provider}, entry, key, tokens)


def seal(named: Mapping[str, str | int], entry: Entry, key: Key, tokens: tuple[MintedToken, ...] = ()) -> bytes:
    """As `encrypt`, with a header that says these things. They are authenticated, and stay in clear."""
    # Nothing that a provider has said: it may be longer than a header, and the file could not be read again.
    kept = {"format": FORMAT, "version": VERSION, "key": key.id}
    head = json.dumps({**kept, **named}, sort_keys=True).encode() + b"\n"
    nonce = secrets.token_bytes(NONCE_BYTES)
    while True:
        clear = json.dumps({"entry": asdict(entry), "tokens": _TOKENS.pack(tokens)}).encode()
        if not tokens or len(head) + len(clear) < RESERVED - MAX_HEADER:
            return head + nonce + AESGCM(key.secret).encrypt(nonce, clear, head)
        tokens = tokens[1:]


def identity(grant: Grant) -> dict[str, str]:
    """Return what names a grant in the header of its file."""
    return {
        "authority": grant.authority.lower(),
        "client_id": grant.client_id.lower(),
        "login": grant.login.lower(),
        # A person may sign in to the same application, and that is another grant.
        "sign_in": grant.sign_in if grant.unattended else "",
    }


def busy() -> Unavailable:
    """Return the exception for a lock that another thread or worker has held for too long."""
    return unavailable("timeout", "another cms process is busy with this sign-in", fill("{nothing_to_do}"))


class StateFolder:
    """One state folder. `patience` is how many seconds another worker's lock is waited for."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._patience = patience

    def make(self) -> None:
        """Create the folder with mode 0700 if it does not exist, and make sure that we own it. Raises Unavailable."""
        try:
            make_folders(self.path)
        except OSError as error:
            raise storage(error, f"the state folder {self.path} cannot be made") from None
        self.make_private()

    def make_private(self) -> None:
        """Allow only the owner into the folder, if there is one. Raises Unavailable where it is another user's."""
        if not self.path.is_dir():
            return
        try:
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
            if status.st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise storage(error, f"the state folder {self.path} cannot be used") from None

    @contextmanager
    def lock(self, name: str, patience: float | None = None) -> Iterator[None]:
        """Hold `NAME.lock` against other processes. A folder that does not exist has nothing to protect."""
        if not self.path.is_dir():
            yield
            return
        descriptor = self._take(f"{name}.lock", self._patience if patience is None else patience)
        try:
            yield
        finally:
            os.close(descriptor)

    def _take(self, name: str, patience: float) -> int:
        """Lock a lock file; return its descriptor, which holds the lock until it is closed."""
        deadline = time.monotonic() + patience
        try:
            return looked_up_again(lambda: self._locked(name, deadline))
        except OSError as error:
            raise storage(error, f"nothing can be locked in {self.path}") from None

    def _locked(self, name: str, deadline: float) -> int:
        descriptor = -1
        try:
            while not self._is(descriptor, name):
                # The process that held it before has deleted it with its sign-in, or this is the first try.
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _until(partial(_flock, descriptor), deadline)
        except (OSError, Unavailable):
            if descriptor >= 0:
                os.close(descriptor)
            raise
        return descriptor

    def _is(self, descriptor: int, name: str) -> bool:
        """Whether the file that is open here is the one that other processes find under its name."""
        if descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / name).stat())
        except FileNotFoundError:
            return False


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(attempt: Callable[[], bool], deadline: float) -> None:
    while not attempt():
        if time.monotonic() > deadline:
            raise busy()
        time.sleep(LOCK_PAUSE)


def mark_of(vault_file: Path) -> Path:
    """Return the mark beside a vault file."""
    return vault_file.with_suffix(".redeeming")


def draft_of(mark: Path) -> Path:
    """Return the file that becomes a mark. A break may leave it; it says nothing."""
    return mark.with_name(f".{mark.name}.cms-new")


class EntryFile:
    """One grant's file while its lock is held. Methods raise OSError."""

    def __init__(self, folder: StateFolder, key: str) -> None:
        self.path = folder.path / f"{key}.vault"
        self._folder = folder
        self._mark = mark_of(self.path)
        # Whether an earlier redemption was cut off: what it got, if anything, was lost.
        self.interrupted = os.path.lexists(self._mark)
        # Whether a refusal was explained by that.
        self.reused = self.interrupted and self._begins_with(REUSED)

    def read(self) -> bytes | None:
        """Return the file's bytes, None where there is no file."""
        try:
            return read_regular(self.path, MAX_FILE)
        except FileNotFoundError:
            return None

    def _begins_with(self, words: bytes) -> bool:
        """Return whether the mark begins with these words. It may be anything that someone has put there."""
        with suppress(OSError):
            descriptor = os.open(self._mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return os.read(descriptor, len(words)) == words
            finally:
                os.close(descriptor)
        return False

    def reserve(self) -> None:
        """Mark the grant as being redeemed, with room for its successor, and make sure that storing it would work.

        If it would not, no new mark is left.
        """
        try:
            looked_up_again(self._reserve)
        except OSError:
            self.release()
            raise

    def _reserve(self) -> None:
        self._try_to_replace()
        descriptor = self._open_mark()
        try:
            os.posix_fallocate(descriptor, 0, RESERVED)
        finally:
            os.close(descriptor)

    def _try_to_replace(self) -> None:
        """Do with the mark what `write` does with the vault file: make a file and rename it over the old one.

        An old mark proves nothing: the folder may have been closed since, and the mark may be anyone's file or link.
        """
        draft = draft_of(self._mark)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(REUSED if self.reused else b"")
            draft.rename(self._mark)
        except IsADirectoryError:
            raise OSError(errno.EISDIR, f"{self._mark.name} is a folder") from None
        finally:
            with suppress(OSError):
                draft.unlink()
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            # An immutable file: no rename replaces it. Other errors, as of its mode, do not matter for that.
            if error.errno == errno.EPERM:
                raise OSError(errno.EPERM, f"{self.path.name} cannot be replaced (lsattr shows why)") from None

    def _open_mark(self) -> int:
        return os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def remember_reuse(self) -> None:
        """Note in the mark that the provider has refused a refresh token that was used before, if that can be written."""
        if self.reused:
            return
        self.reused = True
        with suppress(OSError):
            descriptor = self._open_mark()
            try:
                os.write(descriptor, REUSED)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Remove the mark: the provider did not redeem the grant. The mark of an interrupted redemption stays."""
        if not self.interrupted:
            with suppress(OSError):
                self._mark.unlink()

    def write(self, raw: bytes, *, keep_aside: bool, read_back: bool = False) -> None:
        """Replace the file by way of the mark. With `keep_aside` the old file, which is damaged, gets another name.

        With `read_back` the new one is read first.
        """
        looked_up_again(partial(self._write, raw, keep_aside=keep_aside, read_back=read_back))

    def _write(self, raw: bytes, *, keep_aside: bool, read_back: bool) -> None:
        descriptor = self._open_mark()
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.truncate()
            file.flush()
            os.fsync(descriptor)
        if read_back and read_regular(self._mark, MAX_FILE) != raw:
            raise OSError(errno.EIO, "what was written is not what is read back")
        # Not if an earlier try has done it.
        if keep_aside and self.path.exists():
            aside = f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            self.path.rename(self.path.with_name(aside))
        self._mark.rename(self.path)
        sync_folder(self._folder.path)

    def amend(self, raw: bytes) -> None:
        """Replace the file and leave the mark, if there is one: nothing was redeemed."""
        looked_up_again(partial(write_private, self.path, raw))
