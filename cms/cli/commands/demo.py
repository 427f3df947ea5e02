"""`cms demo`: its options are those of `cms/sandbox/stage.py`."""

from __future__ import annotations

import click

from cms.cli.commands.options import examples
from cms.sandbox import stage


@click.command(
    context_settings={"ignore_unknown_options": True},
    options_metavar="[--keep]",
    epilog=examples("cms demo", "cms demo --keep"),
)
@click.option("--keep", is_flag=True, help="Leave the sandbox running until Ctrl-C, to play with cms.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def demo(arguments: tuple[str, ...], *, keep: bool) -> int:
    """Try cms in a sandbox, without an account.

    Shows a sign-in, tokens and logins at mail servers, all simulated on this machine. With --keep, three accounts and
    the mail servers stay, and the commands to try are printed: to send, and to read, with mutt for example.
    """
    return stage.main([*(("--keep",) if keep else ()), *arguments])
