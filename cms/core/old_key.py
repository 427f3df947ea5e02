"""Whether stored sign-ins are still encrypted with another key than the one that the configuration names. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cms.core.accounts import Source

REKEY = (
    "`cms vault rekey` moves the sign-ins to that one, if it finds the old key: in a credential, the keyring, or where "
    "Vault(key=..., old_key=...) names it"
)


def old_key(named: Source, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return where the key of a sign-in is, if that is another place than the configuration names, else ""."""
    # What a fleet shares has the fleet's key.
    own = (row for row in rows if row.get("shared") is None)
    stored = (str(row["key_from"]) for row in own if row.get("persisted") and row.get("key_from"))
    return next((each for each in stored if named.kind not in ("", "memory") and each != named.origin), "")
