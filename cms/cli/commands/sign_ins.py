"""Commands that change sign-ins, with or without a running daemon: `login`, `logout`, `prune`, `import`, `export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cms.cli import transfer
from cms.cli.commands.options import (
    PATH,
    Command,
    account_names,
    config_option,
    ended,
    examples,
    named_config,
    user_argument,
    ways,
)
from cms.cli.connect import connect, daemon_or_none
from cms.cli.failure import FAILED
from cms.cli.login import sign_in_here
from cms.cli.run_line import INTERRUPTED
from cms.cli.terminal import complain, say, say_at_length, working
from cms_oauth import expand
from cms_oauth.addresses import is_pattern


@click.command(
    epilog=examples("cms login user@domain.com", "cms login --paste user@domain.com", "cms login --device --all")
)
@user_argument
@ways(
    browser="With a browser on this machine.",
    device="Enter a code in a browser on any machine.",
    paste="Open a link in any browser, and paste its last address here.",
)
@click.option("--all", "every", is_flag=True, help="Sign in every account that needs it.")
@config_option
def login(user: str, method: str, config: str, *, every: bool) -> int:
    """Sign in as USER, with or without a running daemon.

    USER may be left out if there is only one account. With --all, or a pattern such as '*@domain.com', one account
    after another that needs a sign-in; with --device all of them at once, as a table of codes. That needs a running
    daemon.
    """
    if user and every:
        raise click.UsageError("Give USER or --all, not both.")
    try:
        if every or is_pattern(user):
            # A sign-in of one account does without it.
            from cms.cli import login_many  # noqa: PLC0415

            if method == "device":
                return login_many.by_code(connect, user, say)
            return login_many.one_after_another(
                connect, user, lambda found, each: sign_in_here(found, each, method, say), say
            )
        with daemon_or_none(named_config(config)) as found:
            return sign_in_here(found, user, method, say)
    except KeyboardInterrupt:
        # The terminal has printed ^C: begin a new line.
        click.echo(err=True)
        complain("the sign-in was cancelled")
        return INTERRUPTED


def _passphrase_option(command: Command) -> Command:
    text = "Read the export's passphrase from this file."
    return click.option("--passphrase-file", type=PATH, metavar="PATH", default="", help=text)(command)


@click.command(
    "import", epilog=examples("cms import ~/mail.cms", "cms import --account=user@domain.com ~/.mutt_oauth2.tokens")
)
@click.argument("place", metavar="FILE_OR_NAME")
@click.option("--from", "source", metavar="FORMAT", default="", help="The format, if cms cannot tell it from the file.")
@click.option(
    "--account",
    "user",
    metavar="USER",
    default="",
    shell_complete=account_names,
    help="The account. Leave it out if there is only one, or if the file names one of them.",
)
@click.option("--force", is_flag=True, help="Replace an existing sign-in (cms's own exports only).")
@_passphrase_option
@click.option("--entry", metavar="NAME", default="", help="Which sign-in, if there are several.")
@config_option
def bring_in(place: str, *, source: str, user: str, entry: str, passphrase_file: str, config: str, force: bool) -> int:
    """Import sign-ins from a file or a keyring entry.

    The file was written by `cms export` or by another program.

    Formats: cms, mutt_oauth2, msal (oauth2ms), sasl-xoauth2, oama, pizauth, email-oauth2-proxy. The client id must
    be the same. docs/moving.md has the commands for each program.
    """
    path = transfer.absolute_place(place, source)
    if why_not := transfer.why_no_sign_in(path):
        complain(why_not, "name the file that `cms export` or the other program wrote")
        return FAILED
    with daemon_or_none(named_config(config)) as found:
        if transfer.is_ours(path, source):
            passphrase = transfer.Passphrase(passphrase_file)
            return ended(transfer.restore(found, user, path, passphrase, force=force, say=say))
        return ended(transfer.bring_in(found, user, path, source=source, entry=entry))


@click.command(epilog=examples("cms export ~/mail.cms", "cms export user@domain.com ~/mail.cms"))
@click.argument("users_and_file", nargs=-1, required=True, metavar="[USER]... FILE")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@_passphrase_option
@config_option
def export(users_and_file: tuple[str, ...], passphrase_file: str, config: str, *, force: bool) -> int:
    """Write sign-ins to FILE, for `cms import` elsewhere.

    Exports the sign-in of each USER, or every sign-in. FILE is encrypted with a passphrase: you type it twice, or it is
    the first line of --passphrase-file or of standard input. You stay signed in here.
    """
    *users, file = users_and_file
    if why := transfer.no_file_name(file):
        raise click.UsageError(f"FILE is missing ({why}): `cms export USER FILE`.")
    path = Path(expand.named(file))
    try:
        transfer.check_target(path, force=force)
        with daemon_or_none(named_config(config)) as found:
            return ended(transfer.export(found, users, transfer.Passphrase(passphrase_file), path, force=force))
    except FileExistsError:
        complain(f"{path} already exists and was not changed", "name another file, or overwrite it with --force")
        return FAILED


@click.command(epilog=examples("cms logout user@domain.com", "cms logout --all", "cms logout --revoke user@domain.com"))
@user_argument
@click.option("--all", "every", is_flag=True, help="Delete every sign-in, also those without an account.")
@click.option("--revoke", is_flag=True, help="End the sign-in at the provider too, where a program can do that.")
@click.option("--yes", is_flag=True, help="With --all or --revoke: do it without asking.")
@config_option
def logout(user: str, config: str, *, every: bool, revoke: bool, yes: bool) -> int:
    """Delete the sign-in of USER from this machine.

    The vault's key is deleted with the last sign-in. With --revoke the sign-in ends at the provider first: cms says
    what else ends with it, and asks. If the provider cannot be reached, you stay signed in. Microsoft lets no program do
    this.
    """
    if user and every:
        raise click.UsageError("Give USER or --all, not both.")
    with daemon_or_none(named_config(config)) as found:
        if revoke:
            asked = {"user": user, "all": every, "yes": yes}
            return ended(
                transfer.converse(found, "revoke", transfer.answers(lambda: "", say_at_length, yes=yes), **asked)
            )
        if not every:
            with working("signing out"):
                answer = found.ask("logout", user=user)
            return ended(answer)
        # Only a person at a terminal is asked, not a script.
        yes = yes or not sys.stdin.isatty()
        return ended(transfer.converse(found, "leave", transfer.answers(lambda: "", say_at_length, yes=yes), yes=yes))


@click.command(epilog=examples("cms prune"))
@click.option("--yes", is_flag=True, help="Delete without asking.")
@config_option
def prune(config: str, *, yes: bool) -> int:
    """List and delete sign-ins that belong to no account.

    Their accounts were removed from the configuration.
    """
    with daemon_or_none(named_config(config)) as found:
        return ended(transfer.converse(found, "prune", transfer.answers(lambda: "", say_at_length, yes=yes), yes=yes))
