"""A vault file (cms/grants/vault/entry_file.py): as anybody could have put it there, and as only a key's holder could."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cms.core.accounts import Grant
from cms.core.lifecycle import Ending
from cms.grants.vault import entry_file
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keyring import Key

GRANT = Grant("https://login.microsoftonline.com/common", "5a5a5a5a-0000-4000-8000-00000000c115", "ann@example.test")
KEY = Key(bytes(32), "a file")

_NONCE = bytes(entry_file.NONCE_BYTES)
_EMPTY = Entry("", "", "", 0.0)
_HEAD = entry_file.encrypt(GRANT, _EMPTY, KEY).partition(b"\n")[0] + b"\n"
_WRITTEN = {name: type(getattr(_EMPTY, name)) for name in (each.name for each in fields(Entry))}


def check(data: bytes) -> None:
    """A file is ValueError or an entry whose fields have their types; an entry is the same once it is written again."""
    with suppress(ValueError):
        assert entry_file.needed_key(GRANT, data) == json.loads(data.partition(b"\n")[0])["key"]
    with suppress(ValueError):
        check_entry(entry_file.decrypt(data, KEY))
    with suppress(ValueError):
        sealed = _NONCE + AESGCM(KEY.secret).encrypt(_NONCE, data, _HEAD)
        check_entry(entry_file.decrypt(_HEAD + sealed, KEY))


def check_entry(entry: Entry) -> None:
    """Fail unless this entry can be used as its class says."""
    for name, kind in _WRITTEN.items():
        assert isinstance(getattr(entry, name), (float, int) if kind is float else kind), name
    assert all(isinstance(each, Ending) for each in entry.endings)
    assert repr(entry_file.decrypt(entry_file.encrypt(GRANT, entry, KEY), KEY)) == repr(entry)
