"""The commands of `cms`: the list of them, and what each exits with.

A command's options are in the module that the list names, with a few lines that call the module that does the work. Only
the module of the command that is called is loaded: `cms --help` and completion load none, `cms status` no daemon's half.

A user's mistake never ends in a traceback: `main` prints what happened and the next command.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

import click

from cms.cli.commands.options import config_option, examples
from cms.cli.failure import Failure
from cms.cli.run_line import INTERRUPTED
from cms.cli.terminal import COLOURS, complain
from cms_oauth.expand import Unusable
from cms_oauth.version import VERSION

_STDOUT = 1

# Each command: where it is, and the line that the list of commands has for it, the first sentence of its help.
_COMMANDS = {
    "admin-consent-url": (
        "configuration:admin_consent_url",
        "Print a consent link and a letter for an administrator.",
    ),
    "check": ("configuration:check", "Check the configuration, without starting anything."),
    "demo": ("demo:demo", "Try cms in a sandbox, without an account."),
    "doctor": ("doctor:doctor", "Check everything that mail needs."),
    "explain": ("explain:explain", "Explain an error of a provider's or of a mail server."),
    "export": ("sign_ins:export", "Write sign-ins to FILE, for `cms import` elsewhere."),
    "fleet": ("fleet:fleet", "Share sign-ins among hosts, through PostgreSQL."),
    "import": ("sign_ins:bring_in", "Import sign-ins from a file or a keyring entry."),
    "init": ("init:init", "Set up cms, step by step."),
    "login": ("sign_ins:login", "Sign in as USER, with or without a running daemon."),
    "logout": ("sign_ins:logout", "Delete the sign-in of USER from this machine."),
    "metrics": ("daemon:metrics", "Print the metrics of the daemon, for Prometheus."),
    "prune": ("sign_ins:prune", "List and delete sign-ins that belong to no account."),
    "refresh": ("daemon:refresh", "Fetch new tokens now, for USER or for every account."),
    "reload": ("daemon:reload", "Read the configuration again."),
    "run": ("daemon:run", "Run the daemon in the foreground."),
    "show": ("show:show", "Show the settings that a mail program needs."),
    "status": ("daemon:status", "Show every account, and what to do next."),
    "vault": ("vault:vault", "Move stored sign-ins to another key."),
}


class _Commands(click.Group):
    """The commands as a list; each is loaded when it is called, or when its options are completed."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, command(name) if name else None, rest


def _colour(context: click.Context, _option: click.Parameter, value: str) -> None:
    """Keep the choice where click and `cms.cli.terminal` look for it."""
    context.color = {"always": True, "never": False}.get(value)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("cms init", "cms login", "cms status", "cms doctor"),
)
@click.version_option(VERSION, prog_name="cms")
@click.option(
    *("--color", "--colour"),
    type=click.Choice(COLOURS),
    default="auto",
    expose_value=False,
    callback=_colour,
    help="Colours and links: auto means on a terminal, unless NO_COLOR or CLICOLOR=0 is set.",
)
@config_option
@click.pass_context
def cms(context: click.Context, config: str) -> None:
    """An OAuth2 token broker for mail: fresh access tokens for mail programs, on a Unix socket."""
    # A command finds this option itself, in `named_config`.
    meant = command(context.invoked_subcommand or "")
    parts = meant.commands.values() if isinstance(meant, click.Group) else (meant,)
    if config and not any(param.name == "config" for each in parts for param in each.params):
        raise click.UsageError(f"-c is for the commands that read a configuration, and `cms {meant.name}` does not.")


for _name, (_, _line) in _COMMANDS.items():
    cms.add_command(click.Command(_name, help=_line))


def command(name: str) -> click.Command:
    """Load a command and return it."""
    module, _, function = _COMMANDS[name][0].partition(":")
    loaded: click.Command = getattr(import_module(f"{__name__}.{module}"), function)
    return loaded


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
    except Failure as failure:
        complain(failure.message, failure.hint)
        return failure.status
    except Unusable as error:
        complain(error.message, error.hint)
        return os.EX_CONFIG
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
