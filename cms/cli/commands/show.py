"""`cms show`: its options. The settings are in `cms/cli/init/mail_programs.py`."""

from __future__ import annotations

import click

from cms.cli.commands.options import PATH, account_names, config_option, config_path, examples


def _programs(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the programs whose names begin like this, for the completions of a shell."""
    from cms.cli.init.show import keys  # noqa: PLC0415 - as below

    return [each for each in keys() if each.startswith(incomplete.lower())]


@click.command(
    epilog=examples("cms show msmtp", "cms show mutt --user=team@domain.com", "cms show --write=~/cms-settings")
)
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...", shell_complete=_programs)
@click.option("--user", default="", metavar="ADDRESS", shell_complete=account_names, help="For this account.")
@click.option("--write", "folder", type=PATH, default="", metavar="DIR", help="Write files to DIR; print nothing.")
@config_option
def show(programs: tuple[str, ...], *, user: str, folder: str, config: str) -> int:
    """Show the settings that a mail program needs.

    They are complete, with your address in them: add them to the program's own file. Without PROGRAM, the programs of
    this machine are listed.
    """
    # Imported here: the list of commands needs only this function's options.
    from cms.cli.init.show import show as show_settings  # noqa: PLC0415
    from cms.cli.load import load_config  # noqa: PLC0415

    return show_settings(load_config(config_path(config)), user, programs, folder)
