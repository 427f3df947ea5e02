"""`cms explain`: its options. The tables are in `cms_oauth/diagnosis/`."""

from __future__ import annotations

import click

from cms.cli.commands.options import examples, json_option


class _Explain(click.Command):
    """A POP server's reply begins with -ERR, and click would take each of its letters for an option: h for the help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name for each in self.get_params(ctx) for name in each.opts}
        given = [each for each in args if each in options]
        return super().parse_args(ctx, [*given, "--", *(each for each in args if each not in {*given, "--"})])


@click.command(
    cls=_Explain,
    epilog=examples(
        "cms explain AADSTS50105",
        "cms explain '535 5.7.139 Authentication unsuccessful'",
        "cms explain < /var/log/exim4/mainlog",
    ),
)
@click.argument("text", nargs=-1)
@json_option
def explain(text: tuple[str, ...], *, as_json: bool) -> int:
    """Explain an error of a provider's or of a mail server.

    TEXT is an AADSTS number, a server's reply or a line of a log. Without TEXT, the standard input is read. Needs
    neither a daemon nor an account.
    """
    # Imported here: the tables are large, and the list of commands needs only this function's options.
    from cms.cli.explain import explain_text  # noqa: PLC0415

    return explain_text(text, as_json=as_json)
