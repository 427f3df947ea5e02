"""Lists of accounts in CSV and TOML (cms/config/account_files.py)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fuzz.targets.configuration import check_load

_FOLDER = Path(tempfile.mkdtemp(prefix="cms-fuzz-"))


def _configuration(name: str) -> Path:
    """Return the file of a configuration that serves the accounts of this list."""
    file = _FOLDER / f"{name}.cfg"
    file.write_text(f"CredentialServer('cms.sock', accounts_from({name!r}), protocols=['SMTP', 'IMAP'])\n")
    return file


_CSV, _TOML = map(_configuration, ("boxes.csv", "boxes.toml"))


def check(data: bytes) -> None:
    """Accounts, the same each time, or an error of one line about a line that the list has."""
    # What has no table is no list in TOML, and is said to be none at once.
    file = _TOML if b"[[" in data or b" = " in data else _CSV
    file.with_suffix("").write_bytes(data)
    check_load(file, data)
