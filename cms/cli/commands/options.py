"""Options and output that commands have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cms.cli.failure import FAILED, Failure
from cms.cli.terminal import complain, say
from cms_oauth import expand, paths
from cms_oauth.expand import Unusable
from cms_oauth.text import printable

Command = TypeVar("Command", bound=Callable[..., Any])

# What a shell reads in a word as more than itself: bash puts a completion on the line as it is, and expands the words that it
# chooses from before it shows them.
_SHELLS_OWN = frozenset(" \"#$&'()*;<>?[\\]^`{|}~!")


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


PATH = _NamedPath()


def config_option(command: Command) -> Command:
    option = click.option("-c", "--config", type=PATH, metavar="FILE", default="", help="The configuration file.")
    return option(command)


def named_config(config: str) -> str:
    """Return the configuration's path that the command line names: after the command, else before it; "" for none."""
    return config or str(click.get_current_context().find_root().params.get("config") or "")


def config_path(config: str) -> str:
    """Return the configuration's path: the one on the command line, else the usual one. Raises Unusable."""
    return named_config(config) or paths.config_file()


def user_argument(command: Command) -> Command:
    """Add the argument USER, "" if it is not given."""
    return click.argument("user", default="", shell_complete=account_names)(command)


def account_names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the users of the running daemon that begin like this: for the completions of a shell, which prints nothing.

    Not those whose names mean something else to a shell, such as `$(command)@domain.com`: a name may be what a provider says
    of who signed in, and to root's command what another user's daemon says.
    """
    # Imported here, because a command that asks no daemon does without it.
    from cms.cli.client import understood  # noqa: PLC0415
    from cms.cli.connect import connect  # noqa: PLC0415

    try:
        with connect() as found, understood():
            rows = found.ask("status").get("json", {}).get("accounts", [])
            users = [printable(str(row.get("user", ""))) for row in rows]
    except (Failure, Unusable, OSError):
        return []
    return [user for user in users if user.startswith(incomplete) and _SHELLS_OWN.isdisjoint(user)]


def examples(*lines: str) -> str:
    """Return a command's examples for the end of its help. click wraps none of the lines."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")(command)


def ways(*, browser: str, device: str, paste: str) -> Callable[[Command], Command]:
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


def ended(answer: Mapping[str, Any]) -> int:
    """Print how a daemon's work ended; return the exit status."""
    message, hint = str(answer.get("message")), str(answer.get("hint") or "")
    if not answer.get("ok"):
        complain(message, hint)
        return FAILED
    say("\n".join(filter(None, [message, hint])))
    return 0
