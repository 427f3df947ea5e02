"""Commands that start the daemon, and that ask the one that runs: `run`, `refresh`, `reload`, `status`, `metrics`."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Any

import click

from cms.cli import client, watch
from cms.cli.client import NoDaemon
from cms.cli.commands.options import config_option, config_path, ended, examples, json_option, user_argument
from cms.cli.connect import connect, is_configured
from cms.cli.run_line import VALUES, Run, run_anew
from cms.cli.terminal import columns, in_colours, say, say_at_length, working
from cms.core.status_table import as_text, problems_only
from cms.core.status_text import Document
from cms.core.words import CRITICAL, OK, UNKNOWN, WARNING, plugin_line
from cms_oauth.expand import literal
from cms_oauth.text import shown


@click.command(epilog=examples("cms run", "cms run -c ./cms.cfg --log-level=debug"))
@config_option
@click.option(
    "--log-level",
    type=click.Choice(VALUES["--log-level"]),
    default="info",
    show_default=True,
    help="What is worth a line on the standard error.",
)
@click.option(
    "--log-form",
    type=click.Choice(VALUES["--log-form"]),
    default="auto",
    show_default=True,
    help="How a line is written; auto suits a terminal, systemd or a pipe.",
)
def run(config: str, log_level: str, log_form: str) -> None:
    """Run the daemon in the foreground.

    It keeps a fresh token of each account and answers mail programs, until Ctrl-C or SIGTERM.
    """
    run_anew(Run(literal(config_path(config)), log_level, log_form))


@click.command(epilog=examples("cms refresh user@domain.com"))
@user_argument
def refresh(user: str) -> int:
    """Fetch new tokens now, for USER or for every account."""
    with connect() as found:
        with working("fetching tokens"):
            answer = found.ask("refresh", user=user)
        return ended(answer)


@click.command(epilog=examples("cms reload"))
def reload() -> int:
    """Read the configuration again. If it has errors, nothing changes."""
    with connect() as found:
        with working("reading the configuration"):
            answer = found.ask("reload")
        return ended(answer)


@click.command(epilog=examples("cms metrics > cms.prom.new && mv cms.prom.new cms.prom"))
def metrics() -> int:
    """Print the metrics of the daemon, for Prometheus.

    OpenMetrics text, as node_exporter's textfile collector reads it. `Metrics` in the configuration serves the same over
    HTTP.
    """
    answer = _asked("")
    if not answer.get("ok"):
        return ended(answer)
    # Loaded only here: it takes longer than asking the daemon.
    from cms.daemon import openmetrics  # noqa: PLC0415

    with client.understood():
        text = openmetrics.text(answer["json"]).decode()
    click.echo(shown(text), nl=False)
    return 0


@click.command(
    epilog=examples(
        "cms status", "cms status user@domain.com", "cms status --problems '*@domain.com'", "cms status --check"
    )
)
@user_argument
@json_option
@click.option(
    "--check",
    is_flag=True,
    help="Print one line and exit as monitoring plugins do: 0 good, 1 warning, 2 critical, 3 unknown.",
)
@click.option("--watch", "live", is_flag=True, help="Keep showing it, with the latest requests, until Ctrl-C.")
@click.option("--long", "full", is_flag=True, help="Everything about each account, however many there are.")
@click.option("--problems", is_flag=True, help="Only accounts with a problem.")
def status(user: str, *, as_json: bool, check: bool, live: bool, full: bool, problems: bool) -> int:
    """Show every account, and what to do next.

    With USER, only that account: its token, its sign-in, its last error and the next command. USER may be a pattern
    such as '*@domain.com'.
    """
    if live:
        return _watch(user, problems=problems, alone=not (as_json or check))
    if check:
        return _check(user, as_json=as_json, problems=problems)
    answer = _asked(user)
    if not answer.get("ok"):
        return ended(answer)
    with client.understood():
        text = _text(answer, as_json=as_json, full=full, problems=problems)
    say(text) if as_json else say_at_length(text)
    return 0


def _check(user: str, *, as_json: bool, problems: bool) -> int:
    """Print what a monitoring plugin prints, whatever happens: its exit statuses are no others than those four."""
    try:
        answer = _asked(user)
        if not answer.get("ok"):
            why = filter(None, [str(answer.get("message")), str(answer.get("hint", ""))])
            say(plugin_line(UNKNOWN, "; ".join(why)))
            return UNKNOWN
        with client.understood():
            # Any other is a ValueError.
            exit_code = (OK, WARNING, CRITICAL, UNKNOWN).index(answer["exit_code"])
            text = _text(answer, as_json=True, full=False, problems=problems) if as_json else str(answer["message"])
    except NoDaemon as error:
        # Where nothing is configured, nothing can have failed.
        idle = isinstance(error, client.NotRunning) and not is_configured()
        exit_code = UNKNOWN if idle else CRITICAL
        # Monitoring systems show the standard output.
        text = plugin_line(exit_code, f"{error.message}; {error.hint}")
    say(text)
    return exit_code


def _text(answer: dict[str, Any], *, as_json: bool, full: bool, problems: bool) -> str:
    document = problems_only(answer["json"]) if problems else answer["json"]
    if as_json:
        return json.dumps(document, indent=2)
    if problems and not document["accounts"]:
        return "no account has a problem"
    return as_text(document, columns(), full=full).rstrip("\n")


def _asked(user: str) -> dict[str, Any]:
    with connect() as found:
        return found.ask("status", **({"user": user} if user else {}))


def _watch(user: str, *, problems: bool, alone: bool) -> int:
    if not alone:
        raise click.UsageError("--watch cannot be combined with --json or --check.")
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("--watch needs a terminal; `cms status` prints the same once.")
    watch.watch(partial(_document, user, problems=problems), watch.Screen(sys.stdout.fileno(), in_colours))
    return 0


def _document(user: str, *, problems: bool) -> Document:
    answer = _asked(user)
    if not answer.get("ok"):
        raise NoDaemon(str(answer.get("message")), str(answer.get("hint")))
    with client.understood():
        document: Document = answer["json"]
        return problems_only(document) if problems else document
