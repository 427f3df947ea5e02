"""The file of `cms export`: sign-ins for another machine, encrypted with a passphrase.

    {"format": "cms-export", "version": 1, "kdf": "scrypt", "n": ..., "p": ..., "r": ..., "salt": ...} LF    authenticated
    base64 of: nonce (12 bytes), ciphertext and tag (AES-256-GCM) of JSON    LF

The JSON names each sign-in by its Grant's identity and has its vault entry. Anyone who has the file and the passphrase
is signed in as these people.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cms.core.accounts import Grant, StoredSignIn
from cms.grants.transfer.formats import Unfit
from cms.grants.vault.entry_file import Entry, entry_of
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object

# What `cms import --from` calls these files.
SOURCE = "cms"
FORMAT = "cms-export"
VERSION = 1

# RFC 7914 with the parameters that OWASP names for passwords: 128 MiB and some tenths of a second for each guess.
COST = {"n": 2**17, "r": 8, "p": 1}
SALT_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12

# What a file may ask of the machine that reads it: scrypt takes 128 * n * r bytes of memory, p times one after another.
MOST_MEMORY = 512 * 1024 * 1024
MOST_ROUNDS = 4
MOST_SALT = 64

# A header has some 150 bytes.
MAX_HEADER = 1024


@dataclass(frozen=True, slots=True)
class ExportedSignIn:
    """One sign-in of an export."""

    grant: Grant
    entry: Entry = field(repr=False)

    @property
    def kept(self) -> StoredSignIn:
        """Return what may be told of it."""
        grant, entry = self.grant, self.entry
        identity = (grant.key, grant.authority, grant.client_id, grant.login)
        return StoredSignIn(*identity, entry.who, entry.signed_in, grant.provider)


def is_export(raw: bytes) -> bool:
    """Say whether these bytes are an export of cms's, of whichever version."""
    head = _object(raw.partition(b"\n")[0][:MAX_HEADER])
    return head.get("format") == FORMAT


def encrypt(sign_ins: Sequence[tuple[Grant, Entry]], passphrase: str) -> str:
    """Return the file's text."""
    salt = secrets.token_bytes(SALT_BYTES)
    header = {"format": FORMAT, "version": VERSION, "kdf": "scrypt", "salt": _text(salt), **COST}
    head = json.dumps(header, sort_keys=True).encode() + b"\n"
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = json.dumps({"made": time.time(), "sign_ins": [_packed(*each) for each in sign_ins]}).encode()
    sealed = nonce + AESGCM(_derive(passphrase, salt, **COST)).encrypt(nonce, body, head)
    return f"{head.decode()}{_text(sealed)}\n"


def _packed(grant: Grant, entry: Entry) -> dict[str, Any]:
    identity = {"authority": grant.authority, "client_id": grant.client_id, "login": grant.login}
    return {**identity, "provider": grant.provider, "entry": asdict(entry)}


def decrypt(raw: bytes, passphrase: str, name: str) -> list[ExportedSignIn]:
    """Return the sign-ins in a file called `name`. Raises Unfit for a wrong passphrase and for any other file."""
    head, _, body = raw.partition(b"\n")
    header = _header(head, name)
    try:
        key = _derive(passphrase, header["salt"], header["n"], header["r"], header["p"])
        sealed = base64.b64decode(body.strip(), validate=True)
        if _text(sealed).encode() != body.strip():
            # Several texts stand for the same bytes; only one of them was written.
            raise _damaged(name)
        clear = AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], head + b"\n")
    except InvalidTag:
        hint = "try again with the one that was given at `cms export`; if it is right, the file was changed on its way"
        raise Unfit(f"the passphrase does not open {name}, or the file is damaged", hint) from None
    except (ValueError, MemoryError) as error:
        raise _damaged(name, error) from None
    try:
        return [_unpacked(each) for each in read_object(clear)["sign_ins"]]
    except (ValueError, LookupError, TypeError):
        raise _other_version(name) from None


def _unpacked(packed: Mapping[str, Any]) -> ExportedSignIn:
    authority, client_id, login = (packed[name] for name in ("authority", "client_id", "login"))
    # An earlier cms named no provider.
    provider = packed.get("provider", "")
    entry = entry_of(dict(packed["entry"]))
    if not _is_cache(read_object(entry.cache)):
        raise TypeError
    if not all(
        isinstance(each, str) and each.isprintable() for each in (authority, client_id, login, provider, entry.who)
    ):
        raise TypeError
    return ExportedSignIn(Grant(authority, client_id, login, provider=provider), entry)


def _is_cache(found: Mapping[str, Any]) -> bool:
    """True if this has the form of what providers keep: texts, or MSAL's tables of records of texts. They do not check it."""
    records = [each for table in found.values() if not isinstance(table, str) for each in _values(table)]
    texts = [each for record in records for each in _values(record)]
    return all(isinstance(each, str | None) for each in texts)


def _values(found: object) -> list[Any]:
    """Return the values of an object. Raises TypeError for anything else."""
    if not isinstance(found, dict):
        raise TypeError
    return list(found.values())


def _header(head: bytes, name: str) -> dict[str, Any]:
    """Return a checked header. Raises Unfit."""
    header = _object(head[:MAX_HEADER])
    if header.get("format") != FORMAT:
        raise Unfit(f"{name} is not a file of `cms export`", "name the file that `cms export` has written")
    if header.get("version") != VERSION or header.get("kdf") != "scrypt":
        raise _other_version(name)
    try:
        salt = base64.b64decode(header["salt"], validate=True)
        n, r, p = (_whole(header[each]) for each in "nrp")
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(name, error) from None
    # scrypt wants a power of two above 1.
    if n == 1 or n & (n - 1) or 128 * n * r > MOST_MEMORY or p > MOST_ROUNDS or not 0 < len(salt) <= MOST_SALT:
        raise _damaged(name)
    return {"salt": salt, "n": n, "r": r, "p": p}


def _whole(value: object) -> int:
    if type(value) is not int or value < 1:
        raise TypeError
    return value


def _derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # What was typed under another locale may be no Unicode: surrogates stand for its bytes.
    try:
        typed = passphrase.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        typed = passphrase.encode(errors="surrogatepass")
    return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(typed)


def _damaged(name: str, error: Exception | None = None) -> Unfit:
    if isinstance(error, MemoryError):
        return Unfit(
            f"there is too little memory to open {name}", "128 MiB are needed; close some programs, then try again"
        )
    return Unfit(f"{name} is damaged", "copy it again from where `cms export` has written it, or export again")


def _other_version(name: str) -> Unfit:
    return Unfit(f"{name} was written by a newer cms", "install the same version of cms on both machines")


def _object(line: bytes) -> dict[str, Any]:
    try:
        return read_object(line)
    except ValueError:
        return {}


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()
