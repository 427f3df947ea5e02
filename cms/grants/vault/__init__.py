"""Where sign-ins are stored, encrypted, and where the key for that comes from.

`open_vault` chooses the store. `store` is one file for each grant, as `entry_file` locks and writes it; `vault_key`
chooses the key, which `keys` finds in a file, a credential, a command or the desktop's `keyring`. `rekey` moves the files to
another key.
May import cms.grants.messages and cms.grants.secret_sources, and nothing of a provider.
"""

from __future__ import annotations

from cms.grants.messages import Open
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault


def open_vault(opened: Open) -> Vault:
    """Return the vault that the worker's first message names."""
    return Vault(opened.state_folder, Keys(opened.key, opened.old_key), opened.timeout)
