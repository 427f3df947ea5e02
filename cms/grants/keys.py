"""Where the vault's key comes from: the only file that imports keyring.

A source is asked for the key with a certain id, or to make one. It answers, or raises `Missing` when it has none, or
`Locked` when it cannot tell without a person. A key is never made while there is a vault file that needs another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import secrets
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cms.accounts import Source

KEY_BYTES = 32

# Hex digits of a key's SHA-256 that name it: enough to tell keys apart, useless for guessing one.
ID_DIGITS = 16

# The name of the systemd credential that is used when the configuration names no source.
CREDENTIAL = "cms.key"

# The keyring entry's service; its user name is the key's id, so that state folders that share a keyring never
# overwrite each other's key, and a state folder that was moved still finds its own.
SERVICE = "cms"

# D-Bus may have to start the Secret Service; what takes longer waits for a person.
KEYRING_SECONDS = 10.0

# A command may ask gpg-agent or a network; a grant as a whole has 25 s.
COMMAND_SECONDS = 10.0

# Questions that come in one batch share a failed search instead of waiting for one search each.
FAILURE_SECONDS = 1.0

# A key or a client secret is some hundred bytes at most; a certificate a few thousand.
MAX_SECRET = 64 * 1024

T = TypeVar("T")


class Missing(Exception):
    """The source does not have the key. The text says why, and never what."""


class Absent(Missing):
    """There is no such place here at all, or none that would keep a secret."""


class Locked(Missing):
    """Nobody can tell whether the source has the key: a person has to unlock something first."""


@dataclass(frozen=True, slots=True)
class Key:
    """A vault key. `origin` says in words where it comes from."""

    secret: bytes = field(repr=False)
    origin: str
    # Whether cms has made it, and nobody else has a use for it.
    made: bool = field(default=False, compare=False)

    @property
    def id(self) -> str:
        return key_id(self.secret)


def key_id(secret: bytes) -> str:
    """Return the public name of a key."""
    return hashlib.sha256(b"cms vault key id\0" + secret).hexdigest()[:ID_DIGITS]


def parse_key(raw: bytes) -> bytes:
    """Return the 32 bytes in `raw`: as they are, or as hex or base64 text. Raises Missing for anything else."""
    if len(raw) == KEY_BYTES:
        return raw
    text = raw.strip()
    for decode in (binascii.unhexlify, _base64):
        with suppress(ValueError):
            if len(secret := decode(text)) == KEY_BYTES:
                return secret
    raise Missing(f"holds no key of {KEY_BYTES} bytes, be it raw, hex or base64")


def _base64(text: bytes) -> bytes:
    standard = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)


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
            self._create(secrets.token_bytes(KEY_BYTES))
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

    def _create(self, secret: bytes) -> None:
        """Make the file whole or not at all; where another process was faster, its key counts."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secret) + b"\n")
                file.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):
                os.link(draft, self._path)
        finally:
            draft.unlink()
        sync_folder(self._path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: str, closed_to: int = 0o077) -> bytes:
    """Return a secret file's bytes. Raises Missing if it could be anybody else's, FileNotFoundError if it is none.

    `closed_to` are the permission bits that it must not have.
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Missing("is no regular file")
            if status.st_uid not in (os.geteuid(), 0):
                raise Missing(f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
            if status.st_mode & closed_to:
                raise Missing(
                    f"has mode {stat.S_IMODE(status.st_mode):04o}: it must be {0o666 & ~closed_to:04o} or less"
                )
            return file.read(MAX_SECRET)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Missing(f"cannot be read: {error.strerror}") from None


def read_credential(name: str, environ: Mapping[str, str]) -> bytes:
    """Return a systemd credential's bytes, or raise Missing."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise Absent("is not there: CREDENTIALS_DIRECTORY is not set")
    try:
        return (Path(folder) / name).read_bytes()[:MAX_SECRET]
    except FileNotFoundError:
        raise Absent(f"is not there: no credential has the name {name}") from None
    except OSError as error:
        raise Missing(f"cannot be read: {error.strerror}") from None


def run_command(argv: Sequence[str], seconds: float = COMMAND_SECONDS, limit: int = MAX_SECRET) -> bytes:
    """Return what a command prints, `limit` bytes at most, or raise Missing; Locked when it does not end in time."""
    try:
        # Its errors are not shown: nobody knows what a program that handles secrets prints.
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise Missing(f"cannot be started: {error.strerror}") from None
    with process:
        try:
            output = _output(process, time.monotonic() + seconds, limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise Locked(f"did not end within {seconds:g} s: it may wait for a person") from None
        if len(output) > limit:
            _kill(process)
            raise Missing(f"prints more than {limit} bytes")
    if process.returncode:
        raise Missing(f"ended with status {process.returncode}")
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _output(process: subprocess.Popen[bytes], deadline: float, limit: int) -> bytes:
    """Return what a process has printed by its end; of more than `limit` bytes as many as show that it is too much.

    A child of its own, gpg-agent for instance, may hold the pipe open for ever. Raises TimeoutExpired.
    """
    assert process.stdout is not None, "it is a pipe"
    pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
    output, more = b"", b"-"
    try:
        while more and len(output) <= limit:
            ready, _, _ = select.select([pipe, ended], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, 0.0)
            more = os.read(pipe, limit + 1) if pipe in ready else b""
            output += more
    finally:
        os.close(ended)
    if not more:
        process.wait(max(0.0, deadline - time.monotonic()))
    return output


def read_source(source: Source, environ: Mapping[str, str] = os.environ, *, private: bool = True) -> bytes:
    """Return the secret that a source of the configuration holds, for instance a client secret. Raises Missing.

    A file that is not `private` may be read by others, and written by nobody else.
    """
    try:
        if source.kind == "file":
            return read_private(source.value[0], 0o077 if private else 0o022)
        if source.kind == "credential":
            return read_credential(source.value[0], environ)
        return run_command(source.value)
    except FileNotFoundError:
        raise Missing("does not exist") from None


class Patience:
    """Runs what may block for ever, and gives up on it after some seconds.

    A thread cannot be ended: while one still hangs no second one is started, and its answer counts when it comes.
    """

    def __init__(self, seconds: float = KEYRING_SECONDS) -> None:
        self._seconds = seconds
        self._hanging: threading.Thread | None = None

    def call(self, function: Callable[[], T]) -> T:
        if self._hanging and self._hanging.is_alive():
            raise Locked("does not answer: it may wait for a person")
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                errors.append(error)

        self._hanging = threading.Thread(target=run, daemon=True)
        self._hanging.start()
        self._hanging.join(self._seconds)
        if errors:
            raise errors[0]
        if not results:
            raise Locked(f"did not answer within {self._seconds:g} s: it may wait for a person")
        return results[0]


class Ring(Protocol):
    """What is used of a keyring backend."""

    def delete_password(self, service: str, username: str) -> None: ...

    def get_password(self, service: str, username: str) -> str | None: ...

    def set_password(self, service: str, username: str, password: str) -> None: ...


class Keyring:
    """The desktop's keyring. Neither a prompt nor a hanging service blocks it for longer than its patience."""

    origin = "keyring"
    makes = True

    def __init__(self, ring: Callable[[], Ring] | None = None, patience: Patience | None = None) -> None:
        self._ring = ring or desktop_ring
        self._patience = patience or Patience()

    def find(self, wanted: str) -> bytes:
        return self._ask(lambda: _recall(self._ring(), wanted))

    def make(self) -> bytes:
        return self._ask(lambda: _deposit(self._ring()))

    def remove(self, wanted: str) -> bool:
        return bool(self._ask(lambda: _withdraw(self._ring(), wanted)))

    def check(self) -> None:
        """Raise Missing, or Locked, where no key could be kept now."""

        def look() -> bytes:
            self._ring()
            return b""

        self._ask(look)

    def recall(self, attributes: Mapping[str, str]) -> bytes:
        """Return what another program keeps under these attributes. Raises Missing, or Locked."""
        return self._ask(lambda: find_item(attributes))

    def _ask(self, function: Callable[[], bytes]) -> bytes:
        try:
            return self._patience.call(function)
        except Missing:
            raise
        except Exception as error:  # noqa: BLE001 - each backend has errors of its own, and D-Bus has more
            if type(error).__name__ in ("KeyringLocked", "LockedException", "PromptDismissedException"):
                raise Locked("is locked") from None
            raise Missing(f"failed: {type(error).__name__}") from None


def _recall(ring: Ring, wanted: str) -> bytes:
    stored = ring.get_password(SERVICE, wanted)
    if stored is None:
        raise Missing("does not hold it")
    secret = parse_key(stored.encode())
    if key_id(secret) != wanted:
        raise Missing("holds another key under its name")
    return secret


def _deposit(ring: Ring) -> bytes:
    """Make a key and store it; what cannot be read back was not stored (the null backend discards silently)."""
    secret = secrets.token_bytes(KEY_BYTES)
    ring.set_password(SERVICE, key_id(secret), base64.b64encode(secret).decode())
    try:
        return _recall(ring, key_id(secret))
    except Missing:
        raise Missing("does not keep what is stored in it") from None


def _withdraw(ring: Ring, wanted: str) -> bytes:
    """Delete a key; return it, b"" where it is not."""
    try:
        secret = _recall(ring, wanted)
    except Locked:
        raise
    except Missing:
        return b""
    ring.delete_password(SERVICE, wanted)
    return secret


def desktop_ring() -> Ring:
    """Return the keyring of this desktop, or raise Missing for none and Locked for a locked one.

    The Secret Service is asked for directly: `keyring.get_keyring()` looks once in a process's life, and one that
    looked before the service was up would never see it.
    """
    import keyring.core  # noqa: PLC0415 - 60 ms and 10 MB that a key file does not need
    from keyring.backends import SecretService  # noqa: PLC0415 - as above

    for name in ("keyring", "keyring.backend"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    chosen: Any = None
    # pathlib's, for a user without a home folder, as in containers: nobody has chosen a keyring there.
    with suppress(RuntimeError):
        chosen = keyring.core.load_config()
    if chosen is None and _usable(SecretService.Keyring):
        chosen = SecretService.Keyring()  # type: ignore[no-untyped-call]  # keyring's own lack
    if chosen is None:
        chosen = _detected()
    if reason := refusal(chosen):
        raise Absent(reason)
    if isinstance(chosen, SecretService.Keyring):
        check_unlocked(getattr(chosen, "preferred_collection", None))
    ring: Ring = chosen
    return ring


def _usable(backend: Any) -> bool:
    try:
        return bool(backend.priority >= 1)
    except Exception:  # noqa: BLE001 - a backend says that it is not there with whatever its library raises
        return False


def _detected() -> Any:
    from keyring import backend  # noqa: PLC0415 - as in desktop_ring
    from keyring.backends import fail  # noqa: PLC0415 - as in desktop_ring

    # It looks once in a process's life, and raises when it is told to forget before it has looked.
    with suppress(KeyError):
        backend.get_all_keyring.reset()
    rings = [ring for ring in backend.get_all_keyring() if not refusal(ring)]
    return max(rings, key=backend.by_priority, default=fail.Keyring())  # type: ignore[no-untyped-call]  # keyring's own lack


def refusal(ring: Any) -> str:
    """Return why a keyring backend is no place for a key, or "" if it is one."""
    kind = type(ring)
    name = f"{kind.__module__}.{kind.__name__}"
    if name == "keyring.backends.fail.Keyring":
        return "is not there: no Secret Service, KWallet or other keyring answers"
    chained = getattr(ring, "backends", None)
    if chained is not None and not (chained and all(not refusal(each) for each in chained)):
        return f"{name} passes secrets on to a backend that keeps none safely"
    if "plaintext" in name.lower() or not _usable(ring):
        return f"{name} keeps no secret safely"
    return ""


def check_unlocked(collection: str | None = None) -> None:
    """Raise Locked where the Secret Service would ask a person, so that it never comes to that."""
    import secretstorage  # noqa: PLC0415 - as in desktop_ring
    from secretstorage.collection import DEFAULT_COLLECTION  # noqa: PLC0415 - as in desktop_ring

    with closing(secretstorage.dbus_init()) as bus:
        try:
            locked = secretstorage.Collection(bus, collection or DEFAULT_COLLECTION).is_locked()
        except secretstorage.ItemNotFoundException:
            raise Locked("has no default collection yet, and making one would ask a person") from None
    if locked:
        raise Locked("is locked")


def find_item(attributes: Mapping[str, str]) -> bytes:
    """Return the secret of the Secret Service's item that has these attributes, or raise Missing or Locked."""
    import secretstorage  # noqa: PLC0415 - as in desktop_ring

    with closing(secretstorage.dbus_init()) as bus:
        item = next(iter(secretstorage.search_items(bus, dict(attributes))), None)
        if item is None:
            raise Missing("does not hold it")
        if item.is_locked():
            raise Locked("is locked")
        secret: bytes = item.get_secret()
        return secret


class Keys:
    """All sources of one vault, in order, and what was found in them."""

    def __init__(
        self,
        named: Source | None,
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
        self._finders = (own, *(each for each in usual if each is not own)) if own else usual

    def find(self, wanted: str) -> Key:
        """Return the key with this id, wherever it is. Raises Missing, or Locked if a person could help."""
        with self._lock:
            if wanted not in self._found:
                self._found[wanted] = self._search(wanted)
            return self._found[wanted]

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
                    self._judge(source, missing)
                else:
                    self._found[key.id] = key
                    return key
        return None

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

    def _judge(self, source: KeySource, missing: Missing) -> None:
        """Pass over a usual source that is not there; nothing else is worth less than what was asked for."""
        self.seen_locked |= isinstance(missing, Locked)
        if self._named or not isinstance(missing, Absent):
            raise type(missing)(f"{source.origin} {missing}") from None


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
