"""Commands that read the configuration and change nothing: `check`, `admin-consent-url`."""

from __future__ import annotations

import json
import os

import click

from cms.cli import admin_consent
from cms.cli.check import summary, warnings, where_to_look
from cms.cli.commands.options import config_option, config_path, examples, json_option, user_argument
from cms.cli.failure import FAILED
from cms.cli.load import load_config
from cms.cli.terminal import complain, say, say_at_length, working


@click.command(epilog=examples("cms check", "cms check -c ./cms.cfg"))
@config_option
def check(config: str) -> int:
    """Check the configuration, without starting anything.

    Prints what it means, and warns about a key, folders and groups that the daemon could not use. If a daemon runs with
    this configuration, its warnings are shown too.
    """
    with working("checking the configuration"):
        found = load_config(config_path(config))
        lines, remarks = [*summary(found), where_to_look(found)], list(warnings(found))
    say_at_length("\n".join(filter(None, lines)))
    for warning in remarks:
        complain(f"warning: {warning}")
    return 0


@click.command("admin-consent-url", epilog=examples("cms admin-consent-url user@domain.com"))
@user_argument
@json_option
@config_option
def admin_consent_url(user: str, config: str, *, as_json: bool) -> int:
    """Print a consent link and a letter for an administrator.

    They ask for consent to the application of USER, or of all accounts. The link is the first line, the letter follows.
    """
    accounts = admin_consent.meant(load_config(config_path(config)).accounts, user)
    if isinstance(accounts, str):
        complain(accounts)
        return os.EX_USAGE
    why_not = admin_consent.no_administrator(accounts[0])
    if why_not:
        complain(why_not)
        return FAILED
    asked = admin_consent.petition(accounts)
    if as_json:
        say(json.dumps(admin_consent.as_data(asked), indent=2))
    else:
        say_at_length(f"{asked.urls[0]}\n\n{admin_consent.letter(asked)}")
    return 0
