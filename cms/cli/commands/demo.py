"""`cms demo`: its options are those of `cms/sandbox/stage.py`."""

from __future__ import annotations

import click

from cms.sandbox import stage


@click.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def demo(arguments: tuple[str, ...]) -> int:
    """Try cms in a sandbox, without an account."""
    return stage.main(arguments)
