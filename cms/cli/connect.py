"""Connects a command to the running daemon, or to this process in its place.

A command that changes sign-ins needs no running daemon: without one, this process does the daemon's part for that one
command (`daemonless`). The command sends and receives the same messages in both cases.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cms.cli import client
from cms.cli.client import NoDaemon, Remote
from cms_oauth import paths
from cms_oauth.expand import Unusable

# Exists if the machine was booted with systemd (sd_booted(3)).
_SYSTEMD = "/run/systemd/system"
_START_SERVICE = "start it with `sudo systemctl start cms`"


def connect() -> Remote:
    """Return a connection to the running daemon. Raises NoDaemon, which says how to start one."""
    try:
        return client.connect(paths.control_candidates())
    except client.NotRunning as error:
        hint = "start it with `cms run`"
        if not is_configured():
            hint = "nothing is configured yet: `cms init` does that, and starts it"
        elif Path(_SYSTEMD).is_dir():
            # `cms run` as root, or as another user than the service's, would be a second daemon.
            hint = (
                _START_SERVICE
                if paths.is_service_config(paths.config_file())
                else f"{hint}, or `systemctl --user start cms`"
            )
        raise client.NotRunning(error.message, hint) from None


def is_configured() -> bool:
    try:
        return os.path.lexists(paths.config_file())
    except Unusable:
        return False


@contextmanager
def daemon_or_none(config: str) -> Iterator[Remote]:
    """Yield a connection to the running daemon, or to this process in its place.

    `config` is the configuration's path, "" for the usual one. It is read only if no daemon runs.
    """
    found = _connect_if_running()
    if found:
        with found:
            yield found
        return
    from cms.cli import daemonless  # noqa: PLC0415 - loads half a daemon, which a connection to a whole one does without

    with daemonless.stand_in(config or paths.config_file(), _connect_if_running) as own:
        yield own


def _connect_if_running() -> Remote | None:
    """Return a connection to the daemon, None if none runs. Raises NotOurs if it belongs to another user."""
    try:
        return connect()
    except client.NotOurs:
        raise
    except NoDaemon:
        return None
