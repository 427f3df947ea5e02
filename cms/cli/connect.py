"""TODO(docstring) cms.cli.connect."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from cms.cli import client
from cms.cli.client import NoDaemon, Remote
from cms.config.load import load
from cms.config.model import LOAD_SECONDS, Config, ConfigError
from cms.system import process
from cms_oauth import paths

FAILED = 1

_SYSTEMD = "/run/systemd/system"

# How long a daemon may take from claiming its state folder to listening at its control socket, in seconds: it loads
# libraries and its configuration meanwhile.
STARTING_SECONDS = 5.0
_POLL_SECONDS = 0.05


def say(text: str) -> None:
    click.echo(text)


def complain(message: str, hint: str = "") -> None:
    click.echo("\n".join(filter(None, [f"cms: {message}", hint])), err=True)


def config_path(config: str, usual: Callable[[], str] = paths.config_file) -> str:
    """Return the file that is meant: the command's own option, else that before the command, else the usual one."""
    before = click.get_current_context().find_root().params.get("config")
    return config or before or usual()


def load_config(path: str) -> Config:
    """Load a configuration: a program, which may not end. Raises ConfigError."""
    loaded: Future[Config] = Future()

    def run() -> None:
        try:
            loaded.set_result(load(path))
        # BLE001: it is raised again, where somebody waits for it.
        except BaseException as error:  # noqa: BLE001
            loaded.set_exception(error)

    # A daemon thread: this process can end without it.
    loading = threading.Thread(target=run, name="configuration", daemon=True)
    loading.start()
    if not wait([loaded], LOAD_SECONDS).done:
        message = f"it did not end within {LOAD_SECONDS:g} s"
        raise ConfigError(path, _line_under_way(loading, path), message, "A configuration says what it has to and ends")
    return loaded.result()


def _line_under_way(thread: threading.Thread, path: str) -> int | None:
    """Return the line of a file that a thread is in, None if it is in none."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, for just this
    while frame and frame.f_code.co_filename != path:
        frame = frame.f_back
    return frame.f_lineno if frame else None


@contextmanager
def daemon_or_none(config: str) -> Iterator[Remote]:
    """Yield a conversation with the daemon that runs, else with one of this process for this command."""
    with ExitStack() as stack:
        found = _connect_if_running()
        yield stack.enter_context(found) if found else _one_or_the_other(config, stack)


def _one_or_the_other(config: str, stack: ExitStack) -> Remote:
    """Return a conversation with one of this process, or with a daemon that turns out to be starting."""
    from cms.cli import daemonless  # noqa: PLC0415 - half a daemon, which most commands do without
    from cms.system import logs  # noqa: PLC0415 - half a daemon, which most commands do without

    logs.setup(level="error")
    process.harden()
    loaded = load_config(config_path(config))
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            own = stack.enter_context(daemonless.daemonless(loaded, paths.state_folder()))
        except process.InUse:
            if time.monotonic() > deadline:
                raise
        else:
            complain("no daemon is running: this is done without one")
            return own
        time.sleep(_POLL_SECONDS)
        found = _connect_if_running()
        if found:
            return stack.enter_context(found)


def _connect_if_running() -> Remote | None:
    """Return a conversation with the daemon. Raises Barred if there is one, of somebody else."""
    try:
        return connect()
    except client.Barred:
        raise
    except NoDaemon:
        return None


def connect() -> Remote:
    try:
        return client.connect(paths.control_candidates())
    except client.Absent as absent:
        raise client.Absent(absent.message, _how_to_start()) from None


def _how_to_start() -> str:
    if not is_configured():
        return "nothing is configured yet: `cms init` does that, and starts it"
    # As sd_booted(3) tells.
    return "start it with `cms run`" + (", or `systemctl --user start cms`" if Path(_SYSTEMD).is_dir() else "")


def is_configured() -> bool:
    return os.path.lexists(paths.config_file())
