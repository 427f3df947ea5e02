"""How a command gets what it works on: the configuration, and a daemon to talk to.

A command that changes sign-ins needs no running daemon: without one, this process does the daemon's part itself for
that one command (`daemonless`), behind the same conversation.
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

FAILED = 1

# There while systemd runs, as sd_booted(3) has it.
_SYSTEMD = "/run/systemd/system"

# How long a daemon may take from claiming its state folder to listening at its control socket, in seconds: it loads
# libraries and its configuration meanwhile.
STARTING_SECONDS = 5.0
_POLL_SECONDS = 0.05


def load_config(path: str) -> Config:
    """Load a configuration, which is a program and may never end. Raises ConfigError."""
    loading = threads.start(lambda: load(path), "configuration")
    if not wait([loading], LOAD_SECONDS).done:
        message = f"it did not end within {LOAD_SECONDS:g} s"
        raise ConfigError(
            path, _line_under_way(path), message, "A configuration must end by itself: look for a loop or a wait"
        )
    return loading.result()


def _line_under_way(path: str) -> int | None:
    """Return the line of a file that is being executed, None if none is."""
    for frame in sys._current_frames().values():  # noqa: SLF001 - documented, for just this
        inner: FrameType | None = frame
        while inner and inner.f_code.co_filename != path:
            inner = inner.f_back
        if inner:
            return inner.f_lineno
    return None


@contextmanager
def daemon_or_none(config: str) -> Iterator[Remote]:
    """Yield a conversation with the running daemon, or with this process in its place.

    `config` is the configuration's path, read only in the second case.
    """
    with ExitStack() as stack:
        found = _connect_if_running()
        yield stack.enter_context(found) if found else _daemonless(config, stack)


def _daemonless(config: str, stack: ExitStack) -> Remote:
    """Return a conversation with this process, or with a daemon that turns out to be starting."""
    from cms.cli import daemonless  # noqa: PLC0415 - half a daemon, which most commands do without
    from cms.system import logs  # noqa: PLC0415 - half a daemon, which most commands do without

    logs.setup(level="error")
    process.harden()
    loaded = load_config(config)
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            own = stack.enter_context(daemonless.daemonless(loaded, paths.state_folder()))
        except process.InUse:
            if time.monotonic() > deadline:
                raise
        else:
            complain("no daemon is running; continuing without one")
            return own
        time.sleep(_POLL_SECONDS)
        found = _connect_if_running()
        if found:
            return stack.enter_context(found)


def _connect_if_running() -> Remote | None:
    """Return a conversation with the daemon, None if none runs. Raises NotOurs if it belongs to another user."""
    try:
        return connect()
    except client.NotOurs:
        raise
    except NoDaemon:
        return None


def connect() -> Remote:
    """Return a conversation with the running daemon. Raises NoDaemon, which says how to start one."""
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
    return os.path.lexists(paths.config_file())
