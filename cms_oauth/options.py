"""Every spelling of `cms-oauth`'s options, read by argparse; `main.read_exactly` reads the usual ones without it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from cms_oauth import dial, wire
from cms_oauth.fetch import Options, report
from cms_oauth.version import VERSION

_TESTS = ("smtp", "imap", "pop")


class _Shown(Exception):
    """There is nothing to do but to print this: help, or the version."""


class _Mistaken(Exception):
    """The options cannot be read; the text says why."""


class _Show(argparse.Action):
    """--help or --version: raises what to print. argparse would print it and end the process."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _Shown(parser.format_help() if self.dest == "help" else f"cms-oauth {VERSION}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise the mistake. argparse would print it with the whole usage, and end the process."""
        raise _Mistaken(message)


def read(arguments: Sequence[str]) -> Options | int:
    """Return the options, or the exit status of a command that is done: help was shown, or a mistake reported."""
    try:
        return _options(parser().parse_args(arguments))
    except _Shown as shown:
        print(shown, end="")
        return 0
    except _Mistaken as mistaken:
        return report(_failed(mistaken))


def understand(arguments: Sequence[str]) -> Options | dial.Failed:
    """Return what `read` would, without printing anything: for a command that another program will run.

    A command that only shows help is a failure, because it prints no token.
    """
    try:
        return _options(parser().parse_args(arguments))
    except _Shown:
        return dial.Failed("bad-request", "it prints help, not a token", "remove that option")
    except _Mistaken as mistaken:
        return _failed(mistaken)


def _failed(mistaken: _Mistaken) -> dial.Failed:
    return dial.Failed("bad-request", " ".join(str(mistaken).split()), "run: cms-oauth --help")


def parser() -> argparse.ArgumentParser:
    """Return what reads the options. The manual page and the shells' completions are made from it as well."""
    made = _Parser(
        prog="cms-oauth",
        description="Print a fresh OAuth2 token from the cms daemon, ready for a mail program.",
        epilog="Example: cms-oauth --user=user@domain.com --test-smtp=smtp.office365.com. Exit status as in sysexits.h.",
        add_help=False,
        allow_abbrev=False,
    )
    made.add_argument("--user", metavar="USER", type=_named, help="The account. Default: the only one there is.")
    made.add_argument(
        *("--cms_sock", "--cms-sock"),
        dest="socket",
        metavar="PATH",
        type=_named,
        help="The daemon's socket. Default: $CMS_SOCK, then the usual places.",
    )
    made.add_argument(
        "--proto",
        metavar="PROTO",
        default="SMTP",
        type=_named,
        help="SMTP, IMAP, POP, or a protocol that the configuration names. Default: SMTP.",
    )
    made.add_argument(
        "--output",
        metavar="FORM",
        choices=wire.FORMS,
        default="xoauth2",
        help=f"The form to print: {', '.join(wire.FORMS)}. With a test, json prints its whole result. Default: xoauth2.",
    )
    made.add_argument("--no_newline", "--no-newline", action="store_true", help="Print no newline after it.")
    made.add_argument(
        "--rejected",
        action="store_true",
        help="Read a token that a server refused from standard input; print another one.",
    )
    for test, words in zip(_TESTS, ("over SMTP", "and select INBOX", "and count the mail"), strict=True):
        made.add_argument(
            *(f"--test-{test}", f"--test_{test}"),
            metavar="HOST[:PORT]",
            type=_named,
            help=f"Log in there{'' if words.startswith('over') else ','} {words}.",
        )
    made.add_argument("--version", nargs=0, action=_Show, help="Show the version and exit.")
    made.add_argument("--help", "-h", nargs=0, action=_Show, help="Show this message and exit.")
    return made


def _named(value: str) -> str:
    """Refuse an empty value: most likely a variable that is not set."""
    if value == "":
        raise argparse.ArgumentTypeError("the value is empty")
    return value


def _options(given: argparse.Namespace) -> Options:
    """Return what the arguments mean together. Raises _Mistaken."""
    values: dict[str, Any] = vars(given)
    chosen = [(test, host) for test in _TESTS if (host := values[f"test_{test}"])]
    if len(chosen) > 1:
        raise _Mistaken("one test at a time: --test-smtp, --test-imap or --test-pop")
    if chosen and given.rejected:
        raise _Mistaken("--rejected prints a token, and a test does not")
    test, host = chosen[0] if chosen else ("", "")
    return Options(
        user=given.user or "",
        socket=given.socket or "",
        protocol=test.upper() or given.proto,
        # A test has two forms of output: nothing on stdout, or everything as JSON.
        output=given.output if given.output == "json" or not test else "xoauth2",
        newline=not given.no_newline,
        rejected=given.rejected,
        test=test,
        host=host,
    )
