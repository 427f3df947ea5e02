"""Every spelling of `cms-oauth`'s options, read by click; `main.read_exactly` reads the usual ones without it."""

from __future__ import annotations

import click

from cms_oauth import dial, wire
from cms_oauth.fetch import Options, report

_TESTS = ("smtp", "imap", "pop")


def read(arguments: list[str]) -> Options | int:
    """Return the options, or the exit status of a command that is done: help was shown, or a mistake reported."""
    try:
        done: Options | int = command.main(arguments, prog_name="cms-oauth", standalone_mode=False)
    except click.ClickException as error:
        return report(_mistake(error))
    return done


def understand(arguments: list[str]) -> Options | dial.Failed:
    """Return what `read` would, without printing anything: for a command that another program will run.

    A command that only shows help is a failure, because it prints no token.
    """
    try:
        context = click.Context(command, **command.context_settings)
        given, *_ = command.make_parser(context).parse_args(list(arguments))
        # --help and --version, which click would carry out at once.
        if any(each.is_eager and given.get(each.name) for each in command.get_params(context)):
            return dial.Failed("bad-request", "it prints help, not a token", "remove that option")
        with command.make_context("cms-oauth", list(arguments)) as context:
            options: Options = command.invoke(context)
    except click.ClickException as error:
        return _mistake(error)
    return options


def _mistake(error: click.ClickException) -> dial.Failed:
    return dial.Failed("bad-request", " ".join(error.format_message().split()), "run: cms-oauth --help")


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty value: most likely a variable that is not set."""
    if value == "":
        raise click.BadParameter("the value is empty", context, parameter)
    return value


@click.command(context_settings={"help_option_names": ["--help", "-h"]}, epilog="Exit status as in sysexits.h.")
@click.option("--user", metavar="USER", callback=_named, help="The account. Default: the only one there is.")
@click.option(
    "--cms_sock",
    "--cms-sock",
    "socket",
    metavar="PATH",
    callback=_named,
    help="The daemon's socket. Default: $CMS_SOCK, then the usual places.",
)
@click.option(
    "--proto",
    "protocol",
    metavar="PROTO",
    default="SMTP",
    show_default=True,
    callback=_named,
    help="SMTP, IMAP, POP, or a protocol that the configuration names.",
)
@click.option(
    "--output",
    type=click.Choice(wire.FORMS),
    default="xoauth2",
    show_default=True,
    help="The form to print; with a test, json prints its whole result.",
)
@click.option("--no_newline", "--no-newline", is_flag=True, help="Print no newline after it.")
@click.option(
    "--rejected", is_flag=True, help="Read a token that a server refused from standard input; print another one."
)
@click.option("--test-smtp", "--test_smtp", metavar="HOST[:PORT]", callback=_named, help="Log in there over SMTP.")
@click.option("--test-imap", "--test_imap", metavar="HOST[:PORT]", callback=_named, help="Log in, and select INBOX.")
@click.option("--test-pop", "--test_pop", metavar="HOST[:PORT]", callback=_named, help="Log in, and count the mail.")
@click.version_option(package_name="cms-oauth", message="cms-oauth %(version)s")
def command(
    user: str | None,
    socket: str | None,
    protocol: str,
    output: str,
    *,
    no_newline: bool,
    rejected: bool,
    **tests: str | None,
) -> Options:
    """Print a fresh OAuth2 token from the cms daemon, ready for a mail program."""
    chosen = [(test, host) for test in _TESTS if (host := tests[f"test_{test}"])]
    if len(chosen) > 1:
        raise click.UsageError("one test at a time: --test-smtp, --test-imap or --test-pop")
    if chosen and rejected:
        raise click.UsageError("--rejected prints a token, and a test does not")
    test, host = chosen[0] if chosen else ("", "")
    return Options(
        user=user or "",
        socket=socket or "",
        protocol=test.upper() or protocol,
        # A test has two forms of output: nothing on stdout, or everything as JSON.
        output=output if output == "json" or not test else "xoauth2",
        newline=not no_newline,
        rejected=rejected,
        test=test,
        host=host,
    )
