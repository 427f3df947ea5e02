"""`cms init`: its options. The steps are in `cms/cli/init/`."""

from __future__ import annotations

import os
from typing import Any

import click

from cms.cli import daemonless
from cms.cli.commands.options import PATH, config_option, examples, named_config, ways
from cms.cli.connect import connect
from cms.cli.init import first_config, wizard
from cms.cli.init.exchangers import exchangers
from cms.cli.load import load_config
from cms.cli.terminal import Terminal
from cms_oauth import paths


@click.command(epilog=examples("cms init", "cms init --user=user@domain.com --no-test", "sudo cms init --system"))
@config_option
@click.option("--user", default="", metavar="ADDRESS", help="The mail address to sign in with.")
@click.option("--system", is_flag=True, help="Set up the system service, in /etc/cms/cms.cfg.")
@click.option("--offline", is_flag=True, help="Do not look up whose the address is.")
@click.option("--tenant", default="", help="The tenant, if you know it.")
@click.option("--client-id", default="", help="Use your own application.")
@click.option("--redirect-uri", default="", help="The redirect address of that application.")
@click.option("--authority", default="", hidden=True, help="Another login host, https://HOST[:PORT].")
@click.option(
    "--ca", type=PATH, default="", metavar="FILE", help="Certificate authorities to trust, where a proxy inspects TLS."
)
@click.option("--try-smtp", default="", hidden=True, help="Another mail server to try, HOST[:PORT].")
@click.option("--try-imap", default="", hidden=True, help="As --try-smtp.")
@ways(
    browser="Sign in with a browser on this machine.",
    device="Sign in with a code, in a browser anywhere.",
    paste="Sign in anywhere, and paste the browser's last address.",
)
@click.option("--yes", is_flag=True, help="Do not ask: do every step that no option switches off.")
@click.option("--no-unit", "unit", flag_value=False, default=True, help="Install no systemd units.")
@click.option("--no-sign-in", "sign_in", flag_value=False, default=True, help="Do not sign in.")
@click.option("--no-test", "test", flag_value=False, default=True, help="Do not try the mail servers.")
@click.option(
    "--write", type=PATH, default="", metavar="DIR", help="Write the settings for mail programs as files to DIR."
)
@click.option("--no-show", "show", flag_value=False, default=True, help="Show nothing for mail programs.")
def init(config: str, *, system: bool, yes: bool, method: str, ca: str, **wishes: Any) -> int:
    """Set up cms, step by step.

    Writes a first configuration, starts cms, signs you in and tests the mail servers. You can decline each step. If there
    is a configuration, it is never changed: init goes on with what is missing. If a step fails, init says who can fix it
    and how. Later, run `cms doctor`.
    """
    named = named_config(config)
    if system and named:
        raise click.UsageError("--system names the file already: leave -c out.")
    path = named or (paths.system_config_file() if system else paths.own_config_file())
    # The daemon gets these paths, and its current folder may be another. PTH100: links stay links.
    chosen = first_config.Wishes(
        os.path.abspath(path),  # noqa: PTH100
        method=method,
        ca=os.path.abspath(ca) if ca else "",  # noqa: PTH100
        **wishes,
    )
    around = wizard.Around(exchangers, daemonless.explored, load_config, connect)
    return wizard.begin(chosen, Terminal(yes=yes), around)
