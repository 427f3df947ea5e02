"""The commands of `cms`: their options, and a few lines each that call the module that does the work.

A user's mistake never ends in a traceback: `main` prints what happened and the next command.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cms.cli import admin_consent, client, transfer
from cms.cli.check import summary, warnings, where_to_look
from cms.cli.client import NoDaemon
from cms.cli.connect import FAILED, connect, daemon_or_none, is_configured, load_config
from cms.cli.login import sign_in_here
from cms.cli.run_line import INTERRUPTED, VALUES, Run, run_anew
from cms.cli.terminal import Terminal, complain, say
from cms.config.model import ConfigError
from cms.core.status_text import WIDTH, as_text
from cms.core.words import CRITICAL, UNKNOWN
from cms.grants.messages import Place
from cms.system import process
from cms.version import VERSION
from cms_oauth import expand, paths
from cms_oauth.expand import Unusable, literal

_STDOUT = 1

Command = TypeVar("Command", bound=Callable[..., Any])


# Only newer versions of click than Debian 13's can be asked for ParamType[str] at run time.
if TYPE_CHECKING:
    _TextType = click.ParamType[str]
else:
    _TextType = click.ParamType


class _NamedPath(_TextType):
    """An option that names a path, as `expand.named` reads it; "" if it is not given."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return expand.named(value) if value else ""
        except Unusable as unusable:
            self.fail(f"{unusable.message}; {unusable.hint}", param, ctx)


_PATH = _NamedPath()


def _config_option(command: Command) -> Command:
    option = click.option("-c", "--config", type=_PATH, metavar="FILE", default="", help="The configuration file.")
    return option(command)


def _named_config(config: str) -> str:
    """Return the configuration's path that the command line names: after the command, else before it; "" for none."""
    return config or str(click.get_current_context().find_root().params.get("config") or "")


def _config_path(config: str) -> str:
    """Return the configuration's path: the one on the command line, else the usual one. Raises Unusable."""
    return _named_config(config) or paths.config_file()


def _passphrase_option(command: Command) -> Command:
    text = "Read the export's passphrase from this file."
    return click.option("--passphrase-file", type=_PATH, metavar="PATH", default="", help=text)(command)


def _ways(*, browser: str, device: str, paste: str) -> Callable[[Command], Command]:
    """Add --browser, --device and --paste to a command. Its argument `method` is the option's name, "" for none."""

    def with_options(command: Command) -> Command:
        for way, text in (("--paste", paste), ("--device", device), ("--browser", browser)):
            command = click.option(way, is_flag=True, expose_value=False, callback=_one_way, help=text)(command)
        return command

    return with_options


def _one_way(context: click.Context, option: click.Parameter, value: bool) -> None:
    """Set `method` from an option. Raises UsageError for a second one; click would use the last."""
    before = context.params.setdefault("method", "")
    if value and before:
        raise click.UsageError(f"--{before} and --{option.name} are two ways to sign in: name one.")
    if value:
        context.params["method"] = option.name


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="cms")
@_config_option
@click.pass_context
def cms(context: click.Context, config: str) -> None:
    """An OAuth2 token broker for mail: fresh Microsoft 365 access tokens on a Unix socket."""
    # A command finds this option itself, in `_config_path`.
    meant = cms.commands[context.invoked_subcommand or ""]
    if config and not any(each.name == "config" for each in meant.params):
        raise click.UsageError(f"-c is for the commands that read a configuration, and `cms {meant.name}` does not.")


@cms.command()
@_config_option
@click.option("--log-level", type=click.Choice(VALUES["--log-level"]), default="info", show_default=True)
@click.option(
    "--log-form",
    type=click.Choice(VALUES["--log-form"]),
    default="auto",
    show_default=True,
)
def run(config: str, log_level: str, log_form: str) -> None:
    """Run the daemon in the foreground."""
    run_anew(Run(literal(_config_path(config)), log_level, log_form))


@cms.command()
@click.argument("user", default="")
@_ways(
    browser="With a browser on this machine.",
    device="Enter a code in a browser on any machine.",
    paste="Open a link in any browser, and paste its last address here.",
)
@_config_option
def login(user: str, method: str, config: str) -> int:
    """Sign in as USER, with or without a running daemon.

    USER may be left out if there is only one account.
    """
    try:
        with daemon_or_none(_named_config(config)) as found:
            return sign_in_here(found, user, method, say)
    except KeyboardInterrupt:
        # The terminal has printed ^C: begin a new line.
        click.echo(err=True)
        complain("the sign-in was cancelled")
        return INTERRUPTED


@cms.command("import")
@click.argument("place", metavar="FILE_OR_NAME")
@click.option("--from", "source", metavar="FORMAT", default="", help="The format, if cms cannot tell it from the file.")
@click.option(
    "--account", "user", metavar="USER", default="", help="The account (may be left out if there is only one)."
)
@click.option("--force", is_flag=True, help="Replace an existing sign-in (cms's own exports only).")
@_passphrase_option
@click.option("--entry", metavar="NAME", default="", help="Which sign-in, if there are several.")
@_config_option
def bring_in(place: str, *, source: str, user: str, entry: str, passphrase_file: str, config: str, force: bool) -> int:
    """Import sign-ins from a file or a keyring entry.

    The file was written by `cms export` or by another program.

    Formats: cms, mutt_oauth2, msal (oauth2ms), sasl-xoauth2, email-oauth2-proxy, oama, pizauth. The client id must
    be the same. docs/moving.md has the commands for each program.
    """
    path = transfer.absolute_place(place, source)
    if why_not := transfer.why_no_sign_in(path):
        complain(why_not, "name the file that `cms export` or the other program wrote")
        return FAILED
    with daemon_or_none(_named_config(config)) as found:
        if transfer.is_ours(path, source):
            passphrase = transfer.Passphrase(passphrase_file)
            return _ended(transfer.restore(found, user, path, passphrase, force=force, say=say))
        return _ended(transfer.bring_in(found, user, Place(path, source, entry)))


@cms.command()
@click.argument("users_and_file", nargs=-1, required=True, metavar="[USER]... FILE")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@_passphrase_option
@_config_option
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
        with daemon_or_none(_named_config(config)) as found:
            return _ended(transfer.export(found, users, transfer.Passphrase(passphrase_file), path, force=force))
    except FileExistsError:
        complain(f"{path} already exists and was not changed", "name another file, or overwrite it with --force")
        return FAILED


@cms.command()
@click.argument("user", default="")
@click.option("--all", "every", is_flag=True, help="Delete every sign-in, also those without an account.")
@click.option("--yes", is_flag=True, help="With --all: delete without asking.")
@_config_option
def logout(user: str, config: str, *, every: bool, yes: bool) -> int:
    """Delete the sign-in of USER from this machine.

    The vault's key is deleted with the last sign-in.
    """
    if user and every:
        raise click.UsageError("Give USER or --all, not both.")
    # Only a person at a terminal is asked, not a script.
    if every and not yes and sys.stdin.isatty() and not transfer.confirm("Delete every sign-in on this machine?"):
        complain("nothing was deleted")
        return FAILED
    with daemon_or_none(_named_config(config)) as found:
        return _ended(found.ask("leave") if every else found.ask("logout", user=user))


@cms.command()
@click.option("--yes", is_flag=True, help="Delete without asking.")
@_config_option
def prune(config: str, *, yes: bool) -> int:
    """List and delete sign-ins that belong to no account.

    Their accounts were removed from the configuration.
    """
    with daemon_or_none(_named_config(config)) as found:
        return _ended(transfer.converse(found, "prune", transfer.answers(lambda: "", say, yes=yes), yes=yes))


@cms.command()
@click.argument("user", default="")
def refresh(user: str) -> int:
    """Fetch new tokens now, for USER or for every account."""
    with connect() as found:
        return _ended(found.ask("refresh", user=user))


@cms.command()
def reload() -> int:
    """Read the configuration again. If it has errors, nothing changes."""
    with connect() as found:
        return _ended(found.ask("reload"))


@cms.command()
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--check",
    is_flag=True,
    help="Print one line and exit as monitoring plugins do: 0 good, 1 warning, 2 critical, 3 unknown.",
)
@click.option("--watch", "live", is_flag=True, help="Keep showing it, with the latest requests, until Ctrl-C.")
def status(user: str, *, as_json: bool, check: bool, live: bool) -> int:
    """Show every account, and what to do next.

    With USER, only that account: its token, its sign-in, its last error and the next command.
    """
    if live:
        return _watch(user, alone=not (as_json or check))
    try:
        with connect() as found:
            answer = found.ask("status", **({"user": user} if user else {}))
    except NoDaemon as error:
        if not check:
            raise
        # Monitoring systems show the standard output.
        say(f"{error.message}; {error.hint}")
        return CRITICAL if is_configured() or not isinstance(error, client.NotRunning) else UNKNOWN
    if not answer.get("ok"):
        return _ended(answer)
    if as_json:
        say(json.dumps(answer["json"], indent=2))
    elif check:
        say(answer["message"])
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
        say(as_text(answer["json"], width).rstrip("\n"))
    return int(answer["exit_code"]) if check else 0


def _watch(user: str, *, alone: bool) -> int:
    from cms.cli import watch  # noqa: PLC0415 - for this one option

    if not alone:
        raise click.UsageError("--watch cannot be combined with --json or --check.")
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch needs a terminal; `cms status` prints the same once.")
    watch.watch(partial(_status_document, user), watch.Screen(sys.stdout.fileno()))
    return 0


def _status_document(user: str) -> dict[str, Any]:
    with connect() as found:
        answer = found.ask("status", **({"user": user} if user else {}))
    if not answer.get("ok"):
        raise NoDaemon(str(answer.get("message")), str(answer.get("hint")))
    document: dict[str, Any] = answer.get("json", {})
    return document


@cms.command()
@_config_option
def check(config: str) -> int:
    """Check the configuration, without starting anything.

    Prints what it means, and warns about a key, folders and groups that the daemon could not use. If a daemon runs with
    this configuration, its warnings are shown too.
    """
    found = load_config(_config_path(config))
    say("\n".join(summary(found)))
    if note := where_to_look(found):
        say(note)
    for warning in warnings(found):
        complain(f"warning: {warning}")
    return 0


@cms.command("admin-consent-url")
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@_config_option
def admin_consent_url(user: str, config: str, *, as_json: bool) -> int:
    """Print a consent link and a letter for an administrator.

    They ask for consent to the application of USER, or of all accounts. The link is the first line, the letter follows.
    """
    accounts = admin_consent.meant(load_config(_config_path(config)).accounts, user)
    if isinstance(accounts, str):
        complain(accounts)
        return os.EX_USAGE
    why_not = admin_consent.no_administrator(accounts[0])
    if why_not:
        complain(why_not)
        return FAILED
    asked = admin_consent.petition(accounts)
    say(
        json.dumps(admin_consent.as_data(asked), indent=2)
        if as_json
        else f"{asked.urls[0]}\n\n{admin_consent.letter(asked)}"
    )
    return 0


@cms.command()
@click.argument("user", default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--bundle",
    type=_PATH,
    metavar="FILE",
    default="",
    help="Write a report without names and secrets, for a bug report.",
)
@click.option("--as", "asking", metavar="UNIXUSER", multiple=True, help="Check that this user reaches the sockets too.")
@_config_option
def doctor(user: str, bundle: str, asking: tuple[str, ...], config: str, *, as_json: bool) -> int:
    """Check everything that mail needs.

    For USER or for every account. Says for each fault who can fix it and how. Exits as monitoring plugins do: 0 good,
    1 warning, 2 critical.
    """
    # ssl, http and smtplib, for this command only.
    from cms.cli.doctor import examination  # noqa: PLC0415
    from cms.cli.doctor import run as doctoring  # noqa: PLC0415

    try:
        path, nowhere = _config_path(config), None
    except Unusable as unusable:
        path, nowhere = "", unusable
    meant = examination.Examination(path, load_config, user, asking, nowhere=nowhere)
    return doctoring.examine_and_report(meant, bundle, say, as_json=as_json)


@cms.command()
@_config_option
@click.option("--user", default="", metavar="ADDRESS", help="The mail address to sign in with.")
@click.option("--system", is_flag=True, help="Set up the system service, in /etc/cms/cms.cfg.")
@click.option("--offline", is_flag=True, help="Do not look up the address's tenant.")
@click.option("--tenant", default="", help="The tenant, if you know it.")
@click.option("--client-id", default="", help="Use your own application.")
@click.option("--redirect-uri", default="", help="The redirect address of that application.")
@click.option("--authority", default="", hidden=True, help="Another login host, https://HOST[:PORT].")
@click.option(
    "--ca", type=_PATH, default="", metavar="FILE", help="Certificate authorities to trust, where a proxy inspects TLS."
)
@click.option("--try-smtp", default="", hidden=True, help="Another mail server to try, HOST[:PORT].")
@click.option("--try-imap", default="", hidden=True, help="As --try-smtp.")
@_ways(
    browser="Sign in with a browser on this machine.",
    device="Sign in with a code, in a browser anywhere.",
    paste="Sign in anywhere, and paste the browser's last address.",
)
@click.option("--yes", is_flag=True, help="Do not ask: do every step that no option switches off.")
@click.option("--no-unit", "unit", flag_value=False, default=True, help="Install no systemd unit.")
@click.option("--no-sign-in", "sign_in", flag_value=False, default=True, help="Do not sign in.")
@click.option("--no-test", "test", flag_value=False, default=True, help="Do not try the mail servers.")
@click.option("--no-show", "show", flag_value=False, default=True, help="Show nothing for mail programs.")
def init(config: str, *, system: bool, yes: bool, method: str, ca: str, **wishes: Any) -> int:
    """Set up cms, step by step.

    Writes a first configuration, starts cms, signs you in and tests the mail servers. You can decline each step, and an
    existing configuration is never changed. If a step fails, init says who can fix it and how. Later, run `cms doctor`.
    """
    # Imported here because it loads half a daemon.
    from cms.cli import daemonless  # noqa: PLC0415
    from cms.cli.init import first_config, wizard  # noqa: PLC0415

    named = _named_config(config)
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
    return wizard.begin(chosen, Terminal(yes=yes), wizard.Around(daemonless.explored, load_config, connect))


@cms.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def demo(arguments: tuple[str, ...]) -> int:
    """Try cms in a sandbox, without an account."""
    from cms.sandbox.stage import main as run_demo  # noqa: PLC0415 - of no use to any other command

    return run_demo(arguments)


def _ended(answer: dict[str, Any]) -> int:
    message, hint = str(answer.get("message")), str(answer.get("hint") or "")
    if not answer.get("ok"):
        complain(message, hint)
        return FAILED
    say("\n".join(filter(None, [message, hint])))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    try:
        ended = cms.main(list(arguments), standalone_mode=False)
    except click.Abort:
        complain("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        complain(str(error))
        return os.EX_CONFIG
    except Unusable as error:
        complain(error.message, error.hint)
        return os.EX_CONFIG
    except NoDaemon as error:
        complain(error.message, error.hint)
        return os.EX_UNAVAILABLE
    except process.NotOurs as error:
        complain(str(error))
        return os.EX_CANTCREAT
    except transfer.Unsaid as error:
        complain(str(error), "nothing was written or changed")
        return FAILED
    except OSError as error:
        if _is_of_output(error):
            return _unwritten(error)
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        return os.EX_OSERR
    return ended if isinstance(ended, int) else 0


def _is_of_output(error: OSError) -> bool:
    """True if this error came from writing the output (to a terminal, pipe or file), not from another file."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return bool(trace and trace.tb_frame.f_code is click.echo.__code__)


def _unwritten(error: OSError) -> int:
    """Report that the output cannot be written; return the exit status."""
    # Otherwise the interpreter flushes the output again when it exits, and prints a traceback.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
    complain(f"cannot write the output: {error.strerror}")
    return os.EX_IOERR
