"""Whether stored sign-ins have another key than the configuration names."""

from __future__ import annotations

from cms.core.accounts import Source
from cms.core.old_key import old_key


def test_the_fleets_key_is_not_compared_with_the_vaults() -> None:
    """`cms vault rekey` moves what this host keeps alone."""
    rows = [{"persisted": True, "key_from": "key file /fleet.key", "shared": each} for each in (True, None)]

    assert ["", "key file /fleet.key"] == [old_key(Source("keyring"), [each]) for each in rows]
