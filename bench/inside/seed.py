"""Writes the vault files of many sign-ins, after the pattern of one that was really given. An installation runs this.

    python seed.py STATE_FOLDER KEY_FILE

Standard input is JSON, a list of (name, object id, refresh token); the first is the user whose file is there. No file has an
access token afterwards: a cold start asks for each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cms.core.accounts import Grant
from cms.grants.vault.entry_file import decrypt, encrypt, parse_header
from cms.grants.vault.keyring import Key, parse_key


def main() -> int:
    """Write a file for each."""
    state, key = Path(sys.argv[1]), Key(parse_key(Path(sys.argv[2]).read_bytes()), "key file")
    first, *others = json.load(sys.stdin)
    pattern = next(path for path in state.glob("*.vault") if _header(path)["login"] == first[0])
    header, entry = _header(pattern), decrypt(pattern.read_bytes(), key)
    account = next(iter(json.loads(entry.cache)["Account"].values()))
    refresh_token = next(iter(json.loads(entry.cache)["RefreshToken"].values()))["secret"]
    old = (entry.who, account["local_account_id"], refresh_token)
    pattern.write_bytes(encrypt(Grant(header["authority"], header["client_id"], header["login"]), entry, key))
    for new in others:
        grant = Grant(header["authority"], header["client_id"], new[0])
        cache, home = _renamed(entry.cache, old, new), _renamed(entry.home_account_id, old, new)
        path = state / f"{grant.key}.vault"
        path.write_bytes(encrypt(grant, replace(entry, cache=cache, home_account_id=home, who=new[0]), key))
        path.chmod(0o600)
    return 0


def _header(path: Path) -> dict[str, Any]:
    return parse_header(path.read_bytes().partition(b"\n")[0] + b"\n")


def _renamed(text: str, old: tuple[str, ...], new: tuple[str, ...]) -> str:
    for before, after in zip(old, new, strict=True):
        text = text.replace(before, after)
    return text


if __name__ == "__main__":
    sys.exit(main())
