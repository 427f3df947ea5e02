"""A vault file (cms/grants/vault/entry_file.py): as anybody could have put it there, and as only a key's holder could."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cms.core.accounts import Grant
from cms.core.lifecycle import Ending
from cms.grants.vault import entry_file, minted
from cms.grants.vault.entry_file import Contents, Entry
from cms.grants.vault.keyring import Key

GRANT = Grant("https://login.microsoftonline.com/common", "5a5a5a5a-0000-4000-8000-00000000c115", "ann@example.test")
KEY = Key(bytes(32), "a file")

_NONCE = bytes(entry_file.NONCE_BYTES)
_EMPTY = Entry("", "", "", 0.0)
_HEAD = entry_file.encrypt(GRANT, _EMPTY, KEY).partition(b"\n")[0] + b"\n"
_OLD_HEAD = _HEAD.replace(b'"version": 2', b'"version": 1')
_WRITTEN = {name: type(getattr(_EMPTY, name)) for name in (each.name for each in fields(Entry))}


def check(data: bytes) -> None:
    """A file is ValueError or an entry whose fields have their types; an entry is the same once it is written again."""
    with suppress(ValueError):
        assert entry_file.needed_key(GRANT, data) == json.loads(data.partition(b"\n")[0])["key"]
    with suppress(ValueError):
        check_contents(entry_file.contents(data, KEY))
    for head in (_HEAD, _OLD_HEAD):
        with suppress(ValueError):
            sealed = _NONCE + AESGCM(KEY.secret).encrypt(_NONCE, data, head)
            check_contents(entry_file.contents(head + sealed, KEY))


def check_contents(contents: Contents) -> None:
    """Fail unless this can be used as its classes say."""
    check_entry(contents.entry)
    for token in contents.tokens:
        minted.granted(token, minted.now())
    raw = entry_file.encrypt(GRANT, contents.entry, KEY, contents.tokens)
    kept = entry_file.contents(raw, KEY).tokens
    assert repr(contents.tokens[len(contents.tokens) - len(kept) :]) == repr(kept), "the newest that find room"


def check_entry(entry: Entry) -> None:
    """Fail unless this entry can be used as its class says."""
    for name, kind in _WRITTEN.items():
        assert isinstance(getattr(entry, name), (float, int) if kind is float else kind), name
    assert all(isinstance(each, Ending) for each in entry.endings)
    assert repr(entry_file.decrypt(entry_file.encrypt(GRANT, entry, KEY), KEY)) == repr(entry)
