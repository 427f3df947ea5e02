"""Files that `cms import` reads: other programs', and cms's own exports (cms/grants/transfer/)."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cms.grants.transfer import decrypt, export_file, find, formats
from cms.grants.transfer.formats import Found, Unfit
from cms.sandbox.directory import CLIENT_ID
from fuzz.targets.vault import GRANT, check_entry

# An export that costs nothing to open: the cost is what the header says.
_PASSPHRASE = "open"  # noqa: S105 - opens nothing but these inputs
_HEADER = {"format": "cms-export", "version": 1, "kdf": "scrypt", "salt": "AAAA", "n": 2, "r": 1, "p": 1}
_HEAD = json.dumps(_HEADER, sort_keys=True).encode() + b"\n"
_KEY = Scrypt(salt=bytes(3), length=export_file.KEY_BYTES, n=2, r=1, p=1).derive(_PASSPHRASE.encode())
_NONCE = bytes(export_file.NONCE_BYTES)

# More than this for one input is time that finds nothing: what is derived is scrypt's.
_CHEAP = 1024


def check(data: bytes) -> None:
    """Whatever is read is a sign-in that can be used, or Unfit, which never quotes a token."""
    find.is_gpg(data)
    decrypt.open_pizauth(data)
    for source in ("", *formats.FORMATS):
        with suppress(Unfit):
            _check_found(formats.read(data, source, "a file"))
    if _is_cheap(data):
        _check_export(data)
    sealed = _NONCE + AESGCM(_KEY).encrypt(_NONCE, data, _HEAD)
    _check_export(_HEAD + base64.b64encode(sealed))


def _check_found(found: list[Found]) -> None:
    for entry in ("", *(each.called for each in found)):
        try:
            chosen = formats.choose(found, GRANT, entry, "a file")
        except Unfit as unfit:
            # Shorter ones may be a part of anything; a name may be the same text.
            tokens = {each.refresh_token for each in found if len(each.refresh_token) > len(CLIENT_ID)}
            assert not any(token in f"{unfit.message} {unfit.hint}" for token in tokens - _named(found))
        else:
            assert chosen.refresh_token


def _named(found: list[Found]) -> set[str]:
    return {text for each in found for text in (each.user, each.name, each.client_id, each.host)}


def _is_cheap(data: bytes) -> bool:
    try:
        header = json.loads(data.partition(b"\n")[0])
        return bool(header["n"] * header["r"] * header["p"] <= _CHEAP)
    except (ValueError, LookupError, TypeError, RecursionError):
        return True


def _check_export(data: bytes) -> None:
    export_file.is_export(data)
    with suppress(Unfit):
        for each in export_file.decrypt(data, _PASSPHRASE, "a file"):
            assert each.kept.key
            check_entry(each.entry)
