"""Commands for hosts that share their sign-ins: `cms fleet init`, `upgrade`, `status` and `adopt`."""

from __future__ import annotations

import click

from cms.cli import fleet as work
from cms.cli.commands.options import Command, config_option, config_path, examples


@click.group(epilog=examples("cms fleet init | sudo -u postgres psql -d cms", "cms fleet status", "cms fleet adopt"))
def fleet() -> None:
    """Share sign-ins among hosts, through PostgreSQL.

    The configuration names the database, with Fleet(...).
    """


def _owner_option(command: Command) -> Command:
    text = "Run the statements over this connection, of the database's owner."
    return click.option("--owner", metavar="CONNECTION", default="", help=text)(command)


@fleet.command(
    epilog=examples(
        "cms fleet init | sudo -u postgres psql -d cms",
        "cms fleet init --owner 'host=/run/postgresql dbname=cms user=postgres'",
    )
)
@_owner_option
@config_option
def init(owner: str, config: str) -> int:
    """Make the tables and both key files.

    Key files that exist stay as they are. The statements for the tables are printed, for psql, unless --owner says who
    runs them; tables that exist stay too.
    """
    return work.make(config_path(config), "init", owner)


@fleet.command(epilog=examples("cms fleet upgrade | sudo -u postgres psql -d cms"))
@_owner_option
@config_option
def upgrade(owner: str, config: str) -> int:
    """Bring the tables up to date, after an upgrade of cms.

    The statements are printed, for psql, unless --owner says who runs them. Hosts with the version before go on working.
    """
    return work.make(config_path(config), "upgrade", owner)


@fleet.command(epilog=examples("cms fleet status"))
@config_option
def status(config: str) -> int:
    """Show what the database has of each sign-in.

    Who fetched its newest token, which host is at work on it, and what this host has not yet shared.
    """
    return work.status(config_path(config))


@fleet.command(epilog=examples("cms fleet adopt"))
@config_option
def adopt(config: str) -> int:
    """Move this host's own sign-ins into the fleet.

    Those from before the configuration had Fleet(...). Each file is deleted when the database has its sign-in; a sign-in
    that the fleet has already is left alone.
    """
    return work.adopt(config_path(config))
