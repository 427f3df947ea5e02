"""The command line of `cms run` in its plain form, which is read without click.

The plain form is what service files use: `run`, then options as `-c FILE` or `--NAME=VALUE`, each once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

# What a shell reports of a process that SIGINT ended.
INTERRUPTED = 130

# The options of `cms run`, and what each may say: anything where nothing is named.
VALUES: dict[str, tuple[str, ...]] = {
    "--config": (),
    "--log-level": ("debug", "info", "warning", "error"),
    "--log-form": ("auto", "console", "logfmt", "journal", "json"),
}


class Run(NamedTuple):
    """What `cms run` is told. Each is "" where it is not said."""

    config: str = ""
    log_level: str = ""
    log_form: str = ""

    def plain(self) -> list[str]:
        """Return the arguments that `read_plainly` reads as this."""
        return ["run", *(f"{name}={value}" for name, value in zip(VALUES, self, strict=True) if value)]


def read_plainly(arguments: Sequence[str]) -> Run | None:
    """Return what a command line in the plain form says: `run`, then -c FILE or --NAME=VALUE. None for any other."""
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
    """Execute `cms run` in its plain form, in this process's place."""
    flags = ["-P", "-m", "cms.main"]  # -P: nothing in the current folder is imported
    os.execv(sys.executable, [sys.executable, *flags, *run.plain()])  # noqa: S606 - no shell is wanted
