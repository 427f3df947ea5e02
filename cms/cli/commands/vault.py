"""Commands that concern all stored sign-ins: `cms vault rekey`."""

from __future__ import annotations

import click

from cms.cli import transfer
from cms.cli.commands.options import config_option, ended, examples, named_config
from cms.cli.connect import daemon_or_none
from cms.cli.terminal import say


@click.group(epilog=examples("cms vault rekey"))
def vault() -> None:
    """Move stored sign-ins to another key."""


@vault.command(epilog=examples("cms vault rekey"))
@config_option
def rekey(config: str) -> int:
    """Encrypt every sign-in with the configured key.

    First name both keys there: Vault(key=NEW, old_key=OLD). A running daemon reads the configuration again, and goes on
    serving. A sign-in changes its key when its new file was read back; if this is interrupted, repeat it.
    """
    with daemon_or_none(named_config(config)) as found:
        return ended(transfer.converse(found, "rekey", transfer.answers(lambda: "", say)))
