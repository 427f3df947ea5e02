"""Reads the plain form of the `cms run` command line, without click.

The plain form is what service files use: `run`, then options as `-c FILE` or `--NAME=VALUE`, each once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from cms.system.start import ISOLATION

# The exit status that a shell reports for a process that SIGINT ended.
INTERRUPTED = 130

# The options of `cms run` and their values; an empty tuple allows any value.
VALUES: dict[str, tuple[str, ...]] = {
    "--config": (),
    "--log-level": ("debug", "info", "warning", "error"),
    "--log-form": ("auto", "console", "logfmt", "journal", "json"),
}


class Run(NamedTuple):
    """The options of `cms run`, "" for each that is not given."""

    config: str = ""
    log_level: str = ""
    log_form: str = ""

    def plain(self) -> list[str]:
        """Return the plain form of these options, which `read_plainly` reads."""
        return ["run", *(f"{name}={value}" for name, value in zip(VALUES, self, strict=True) if value)]


def read_plainly(arguments: Sequence[str]) -> Run | None:
    """Return the options of a command line in the plain form, None if it is not in that form."""
    if arguments[:1] != ["run"]:
        return None
    found: dict[str, str] = {}
    rest = list(arguments[1:])
    while rest:
        argument = rest.pop(0)
        if argument == "-c" and rest:
            argument = f"--config={rest.pop(0)}"
        name, equals, value = argument.partition("=")
        if not equals or not value or name in found or name not in VALUES or value not in (VALUES[name] or (value,)):
            return None
        found[name] = value
    return Run(*(found.get(name, "") for name in VALUES))


def run_anew(run: Run) -> NoReturn:
    """Replace this process by `cms run` in its plain form."""
    os.execv(sys.executable, [sys.executable, ISOLATION, "-m", "cms.main", *run.plain()])  # noqa: S606 - no shell is wanted
