"""The vault's key, and the desktop's keyring as a place for it: the only file that imports keyring and secretstorage.

A keyring may wait for a person, so every call has a deadline and none may prompt. A backend that would store a key in
the clear is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from dataclasses import field
from typing import Any, Protocol, TypeVar

from cms.grants.secret_sources import Absent, Locked, Missing
from cms.system import threads
from cms_oauth.frozen import dataclass

KEY_BYTES = 32

# Hex digits of a key's SHA-256 that name it: enough to tell keys apart, useless for guessing one.
ID_DIGITS = 16

# The keyring entry's service; its user name is the key's id, so that state folders that share a keyring never
# overwrite each other's key, and a state folder that was moved still finds its own.
SERVICE = "cms"

# D-Bus may have to start the Secret Service; a call that takes longer is waiting for a person.
KEYRING_SECONDS = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """A vault key. `origin` says in words where it comes from, and `id` is its public name."""

    secret: bytes = field(repr=False)
    origin: str
    # Whether cms has made it, so that no other program needs it.
    made: bool = field(default=False, compare=False)
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", key_id(self.secret))


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


class Patience:
    """Runs a function that may block for ever, with a time limit.

    A thread cannot be killed: while one hangs, no second one is started; a late answer is still used.
    """

    def __init__(self, seconds: float = KEYRING_SECONDS) -> None:
        self._seconds = seconds
        self._hanging: Future[Any] | None = None

    def call(self, function: Callable[[], T]) -> T:
        if self._hanging and not self._hanging.done():
            raise Locked("does not answer: it may be waiting for a person")
        call = threads.start(function)
        self._hanging = call
        if not wait([call], self._seconds).done:
            raise Locked(f"did not answer within {self._seconds:g} s: it may be waiting for a person")
        return call.result()


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
    # pathlib raises it for a user without a home folder, as in containers: no keyring is configured there.
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
    """Return why a key must not be stored in a keyring backend, or "" if it is one."""
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
