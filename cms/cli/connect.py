"""Loads the configuration and connects to a daemon, for the commands.

A command that changes sign-ins needs no running daemon: without one, this process does the daemon's part for that one
command (`daemonless`). The command sends and receives the same messages in both cases.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from cms.cli import client
from cms.cli.client import NoDaemon, Remote
from cms.cli.terminal import complain
from cms.config.load import load
from cms.config.model import LOAD_SECONDS, Config, ConfigError
from cms.system import process, threads
from cms_oauth import paths
from cms_oauth.expand import Unusable

FAILED = 1

# Exists if the machine was booted with systemd (sd_booted(3)).
_SYSTEMD = "/run/systemd/system"

# How long a daemon that starts may take from locking its state folder to listening at its control socket, in seconds. It
# loads libraries and its configuration in between.
STARTING_SECONDS = 5.0
_POLL_SECONDS = 0.05


def load_config(path: str) -> Config:
    """Load a configuration. It is a program and may never end, so this has a time limit. Raises ConfigError."""
    loading = threads.start(lambda: load(path), "configuration")
    if not wait([loading], LOAD_SECONDS).done:
        message = f"it did not end within {LOAD_SECONDS:g} s"
        raise ConfigError(
            path, _running_line(path), message, "A configuration must come to its end: look for a loop or a wait"
        )
    return loading.result()


def _running_line(path: str) -> int | None:
    """Return the line of this file that a thread is executing, None if none is."""
    for frame in sys._current_frames().values():  # noqa: SLF001 - documented, for just this
        inner: FrameType | None = frame
        while inner and inner.f_code.co_filename != path:
            inner = inner.f_back
        if inner:
            return inner.f_lineno
    return None


@contextmanager
def daemon_or_none(config: str) -> Iterator[Remote]:
    """Yield a connection to the running daemon, or to this process in its place.

    `config` is the configuration's path, "" for the usual one. It is read only if no daemon runs.
    """
    with ExitStack() as stack:
        found = _connect_if_running()
        yield stack.enter_context(found) if found else _daemonless(config, stack)


def _daemonless(config: str, stack: ExitStack) -> Remote:
    """Return a connection to this process, or to a daemon that has just started."""
    from cms.cli import daemonless  # noqa: PLC0415 - loads half a daemon, which most commands do not need
    from cms.system import logs  # noqa: PLC0415 - as above

    logs.setup(level="error")
    process.harden()
    loaded = load_config(config or paths.config_file())
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            own = stack.enter_context(daemonless.daemonless(loaded, paths.state_folder()))
        except process.InUse as busy:
            if time.monotonic() > deadline:
                raise client.not_listening() or busy from None
        else:
            complain("no daemon is running; continuing without one")
            return own
        time.sleep(_POLL_SECONDS)
        found = _connect_if_running()
        if found:
            return stack.enter_context(found)


def _connect_if_running() -> Remote | None:
    """Return a connection to the daemon, None if none runs. Raises NotOurs if it belongs to another user."""
    try:
        return connect()
    except client.NotOurs:
        raise
    except NoDaemon:
        return None


def connect() -> Remote:
    """Return a connection to the running daemon. Raises NoDaemon, which says how to start one."""
    try:
        return client.connect(paths.control_candidates())
    except client.NotRunning as error:
        hint = "start it with `cms run`"
        if not is_configured():
            hint = "nothing is configured yet: `cms init` does that, and starts it"
        elif Path(_SYSTEMD).is_dir():
            hint += ", or `systemctl --user start cms`"
        raise client.NotRunning(error.message, hint) from None


def is_configured() -> bool:
    try:
        return os.path.lexists(paths.config_file())
    except Unusable:
        return False
