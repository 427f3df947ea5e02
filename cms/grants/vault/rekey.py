"""Moves the stored sign-ins to another key: the one that `Vault(key=...)` names, from whatever key each of them has.

The old key stays where it is. A sign-in's file is replaced when its successor has been read back, and decrypted with a key
that was read anew from its place. So one of the two keys opens each file, whenever the worker is killed, and the next
`cms vault rekey` does the rest. A file names its key, and cms looks for both: the daemon serves tokens meanwhile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cms.core import refusals
from cms.core.accounts import Grant
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.grants.messages import Rekey, Rekeyed, Unmoved
from cms.grants.secret_sources import Missing, Unavailable, storage, unavailable
from cms.grants.vault.entry_file import (
    MAX_FILE,
    MAX_HEADER,
    VERSION,
    Contents,
    contents,
    encrypt,
    grant_of,
    needed_key,
    parse_header,
)
from cms.grants.vault.keyring import Key
from cms.grants.vault.store import Vault
from cms.system.files import open_regular, read_regular, sweep_drafts, write_private

# The time for one question. The daemon asks until nothing is left, and reports in between.
ROUND_SECONDS = 5.0

# How long to wait for a sign-in that is being renewed. The next question comes back to it.
BUSY_SECONDS = 2.0

_AGAIN = "`cms vault rekey` again"
_UNCHANGED = "nothing was changed: correct Vault(...) in the configuration, then `cms vault rekey` again"


def rekey(vault: Vault, question: Rekey, clock: Callable[[], float] = time.monotonic) -> Rekeyed | Transient | Refused:
    """Move sign-ins to the new key: all of them, or what is possible in the time.

    The first question (`key` is "") finds or makes the key; the others go on with it, until one moves nothing.
    """
    deadline = clock() + ROUND_SECONDS
    try:
        key = vault.key.keys.need(question.key) if question.key else vault.key.renew()
    except Missing as missing:
        return Refused(Trouble("new-key", f"the new key cannot be used: {missing}", _UNCHANGED))
    except Unavailable as error:
        return refusals.in_person(error.outcome, _AGAIN)
    moved, unmoved, before = 0, [], set()
    for name in _waiting(vault.folder.path, key.id):
        try:
            origin = _move(vault, name, key)
        except Unavailable as error:
            trouble = refusals.in_person(error.outcome, _AGAIN).trouble
            unmoved.append(Unmoved(name, _whose(vault.folder.path, name), trouble.message, str(trouble.hint)))
            continue
        if origin:
            moved += 1
            before.add(origin)
        if moved and clock() >= deadline:
            break
    return Rekeyed(key.id, key.origin, moved, tuple(unmoved), tuple(sorted(before)))


def _waiting(folder: Path, key: str) -> list[str]:
    """Return the names of the sign-ins that have another key, or may be about to get it: a mark is there before a file."""
    names = {path.stem for path in folder.glob("*.redeeming") if not path.with_suffix(".vault").exists()}
    names.update(path.stem for path in folder.glob("*.vault") if _header(path).get("key") != key)
    return sorted(names)


def _header(path: Path) -> dict[str, Any]:
    """Return a file's header, {} if it cannot be read."""
    with suppress(OSError, ValueError), open_regular(path) as file:
        return parse_header(file.readline(MAX_HEADER))
    return {}


def _whose(folder: Path, name: str) -> str:
    return str(_header(folder / f"{name}.vault").get("login") or "")


def _move(vault: Vault, name: str, key: Key) -> str:
    """Move one sign-in; return where its old key is, "" if there was nothing to do. Raises Unavailable."""
    path = vault.folder.path / f"{name}.vault"
    with vault.folder.lock(name, BUSY_SECONDS):
        vault.check_version(name)
        try:
            raw = read_regular(path, MAX_FILE)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise storage(error, f"{path} cannot be read") from None
        try:
            grant = _grant(name, raw)
            old = vault.key.keys.need(needed_key(grant, raw))
            kept = contents(raw, old)
        except ValueError as error:
            raise unavailable("vault-damaged", f"{path} {error}", "sign in again, or `cms logout USER`") from None
        if old.id == key.id:
            return ""
        try:
            sweep_drafts(path)
            moved = encrypt(grant, kept.entry, key, kept.tokens)
            write_private(path, moved, place=partial(_place, kept, key))
        except OSError as error:
            raise storage(error, f"nothing can be stored in {path.parent}") from None
    return old.origin


def _grant(name: str, raw: bytes) -> Grant:
    """Return the grant whose sign-in a file of this name has. Raises ValueError."""
    grant = grant_of(raw)
    if grant.key != name:
        raise ValueError("belongs to another sign-in")
    return grant


def _place(kept: Contents, key: Key, draft: Path, path: Path) -> None:
    """Replace a file by its draft, once that was read back."""
    try:
        proved = contents(read_regular(draft, MAX_FILE), key) == replace(kept, version=VERSION)
    except ValueError:
        proved = False
    if not proved:
        raise OSError(errno.EIO, "what was written there is not what is read")
    draft.replace(path)
