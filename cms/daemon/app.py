"""The daemon as a whole: builds all its parts from one configuration, runs them in one nursery, reloads and stops them.

A reload first does everything that can fail (load the configuration, open the sockets), then switches over without a
pause: a request is answered by the old configuration or by the new one, never by a mixture.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any, TypeVar

import trio

from cms.config import child
from cms.config.model import Config, ConfigError
from cms.core.status import Daemon, as_json, as_systemd
from cms.daemon.commands import Commands, Running
from cms.daemon.control import server
from cms.daemon.control.vault_commands import KEPT_SECONDS, VaultCommands
from cms.daemon.hooks import Hooks
from cms.daemon.metrics_server import Metrics
from cms.daemon.reach import Reach
from cms.daemon.registry import Registry
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.folders import check_folder
from cms.daemon.serving.sockets import Loaded, Sockets, look_up
from cms.daemon.serving.token_files import TokenFiles
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import WORKER_ARGV, Worker
from cms.grants import messages
from cms.system import listener, logs, network, sd_notify, users
from cms.system.clock import Clock, SystemClock
from cms.system.listener import Listener, ListenError, open_listener
from cms.system.logs import get_logger
from cms.system.process import signals
from cms.system.state_lock import DAEMON, NotOurs, claimed
from cms_oauth import tls
from cms_oauth.frozen import dataclass
from cms_oauth.moves import cms, fill

T = TypeVar("T")

# How long this machine may take to say who the users and groups of sockets are: their database may be on a network.
LOOK_UP_SECONDS = 10.0

# How often the clocks are compared, and how far the boot clock must have run ahead to count as a suspend. trio's clock
# stops during a suspend, so every keeper would sleep too long. One wake-up every half minute serves all of them, the look
# at the sockets' files, and systemd's watchdog with the period of cms's units.
WATCH_SECONDS = 30.0
SUSPEND_SECONDS = 2.0

# Stopping takes 5 s at most: this for requests that wait for a token, then 3 s for the worker to finish what it has sent
# to Entra, and half a second to kill a worker that does not end.
DRAIN_SECONDS = 1.0

# The answer to `cms stop` must be sent before its socket closes.
STOP_PAUSE = 0.1

# The least time between two updates of systemd's status line: a thousand accounts at a start are one change.
STATUS_PAUSE = 1.0
# The same for each account: the line of ten thousand takes 0.2 s, so it is renewed once a minute at most.
STATUS_PAUSE_EACH = 0.006

# `cms refresh` waits for the worker's answer: the worker's own limit, and this time to start it.
REFRESH_MARGIN = 5.0

_MEMORY_LEFT = "the vault or the network was configured anew, and a sign-in that was kept in memory only has ended"

CONTROL_SOCKET = "control.sock"

log = get_logger()


@dataclass(frozen=True, slots=True)
class AppOptions:
    """The daemon's paths, and its parts for tests to replace. `timeout` and `idle` are the worker's, in seconds."""

    config_path: str
    state_folder: str
    runtime_folder: str
    version: str = ""
    clock: Clock = field(default_factory=SystemClock)
    worker_argv: Sequence[str] = WORKER_ARGV
    worker_environment: Mapping[str, str] | None = None
    timeout: float = messages.Open("").timeout
    idle: float = messages.Open("").idle
    environ: MutableMapping[str, str] = field(default_factory=lambda: os.environ)
    load: Callable[[str], Config] = child.load
    jitter: Callable[[], float] = random.random
    # False if another part of the process handles signals, or in a thread.
    heed_signals: bool = True


async def run(options: AppOptions, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> int:
    """Run the daemon until it is told to stop; return the exit code. A failure to start is logged."""
    try:
        with claimed(options.state_folder, DAEMON):
            await App(options, await _load(options)).run(task_status=task_status)
    except ConfigError as error:
        log.critical("cms cannot start: the configuration cannot be used", reason=str(error))
        return os.EX_CONFIG
    except (NotOurs, ListenError) as error:
        log.critical("cms cannot start", reason=str(error))
        return os.EX_CANTCREAT
    return os.EX_OK


async def _load(options: AppOptions) -> Loaded:
    """Load the configuration, and look up whom it names. Raises ConfigError."""
    path = options.config_path
    config = _with_environment(await _in_thread(lambda: options.load(path)), options.environ)
    try:
        with trio.fail_after(LOOK_UP_SECONDS):
            loaded = await _in_thread(lambda: look_up(config))
    except trio.TooSlowError:
        message = f"this machine did not say within {LOOK_UP_SECONDS:g} s who the users and groups are that it names"
        raise ConfigError(path, None, message, "`getent passwd` and `getent group` ask it too") from None
    for warning in loaded.config.warnings:
        log.warning(warning)
    return loaded


async def _in_thread(call: Callable[[], T]) -> T:
    """Return the result of a call that blocks. One that hangs keeps its thread, so trio's shared limit is not for it."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


def _with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """Return the configuration with a warning about each variable that the worker would go by, and that names nothing."""
    if config.ca:
        return config
    wrong = tls.misnamed(environ, (*tls.BUNDLES, *tls.OPENSSLS))
    return replace(config, warnings=(*config.warnings, *(f"the daemon's environment: {each}" for each in wrong)))


def _opened(options: AppOptions, config: Config) -> messages.Open:
    return messages.Open(
        options.state_folder,
        config.vault_key,
        config.ca,
        options.timeout,
        options.idle,
        proxy=config.proxy,
        old_key=config.vault_old_key,
        fleet=config.fleet,
    )


class App:
    """The daemon's parts. `run` runs them until a stop; `commands` are the commands of the control socket."""

    def __init__(self, options: AppOptions, loaded: Loaded) -> None:
        clock, config = options.clock, loaded.config
        self._options = options
        self._clock = clock
        self._started = self._loaded_at = clock.boot()
        self._loaded = loaded
        self._systemd = sd_notify.Systemd(options.environ, os.getpid())
        self.worker = Worker(_opened(options, config), argv=options.worker_argv, environment=options.worker_environment)
        self.registry = Registry(config, self.worker.acquire, clock, look=self.worker.look, jitter=options.jitter)
        self._reach = Reach(clock, self.registry.heard, self.registry.fleet_is_back)
        self.worker.told = self._reach.told
        self._vault = VaultCommands(self.worker, self.registry, options.state_folder)
        self._audit = Audit(clock.boot)
        self._sockets = Sockets(self.registry.asked_for, clock, self._audit)
        self._files = TokenFiles(self.registry.keeper_of, clock)
        self._signins = SignIns(self.worker, self.registry, owner=users.own_uid())
        self._hooks = Hooks(self.registry.facts, clock, options.environ)
        running = Running(
            self._facts,
            self._counters,
            lambda: self._audit.as_data(clock.wall()),
            lambda user, protocols: self._audit.last_taken(user, protocols, clock.wall()),
            self._files.look,
            self._reload,
            self._stop_soon,
            options.timeout + REFRESH_MARGIN,
        )
        self.commands = Commands(self.worker, self.registry, self._signins, self._vault, clock=clock, daemon=running)
        self._metrics = Metrics(self._metrics_text)
        self._nursery: trio.Nursery | None = None
        self._control: Listener | None = None
        self._stop = trio.Event()
        self._news = trio.Event()
        self._reloading = trio.Lock()
        self.registry.subscribe(lambda change: self._files.wake(change.keeper))
        self.registry.subscribe(lambda change: self._hooks.changed(change.keeper.grant.key))
        self.registry.subscribe(lambda _change: self._news.set())

    async def run(self, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until told to stop. Raises ListenError if it cannot start."""
        inherited = listener.adopt(self._options.environ, os.getpid())
        path = f"{self._options.runtime_folder}/{CONTROL_SOCKET}"
        self._control = await open_listener(path, 0o600, inherited=inherited, check_folder=check_folder)
        measured = None
        try:
            await self._files.check(self._loaded.config.files)
            measured = await self._metrics.open(self._loaded.config.metrics)
            opened = await self._sockets.open(self._loaded.config.sockets, inherited)
        except ListenError:
            self._metrics.discard(measured)
            self._control.close()
            raise
        listener.close_unclaimed(inherited)
        async with trio.open_nursery() as self._nursery:
            await self._start(opened, self._control)
            self._metrics.apply(self._loaded.config.metrics, measured, self._nursery)
            task_status.started(self)
            await self._stop.wait()
            log.info("stopping")
            self._systemd.stopping()
            await self._sockets.drain(DRAIN_SECONDS)
            self._audit.close()
            self._nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Make `run` finish the requests under way and return."""
        self._stop.set()

    async def _start(self, opened: Mapping[str, Listener], controlled: Listener) -> None:
        nursery, config = self._here, self._loaded.config
        if self._options.heed_signals:
            await nursery.start(self._heed)
        for part in (self._sockets, self._files, self._signins, self._hooks, self.worker):
            await nursery.start(part.run)
        self._change_over(self._loaded, opened)
        # Last, when all subscribers to the keepers' changes are ready.
        await nursery.start(self.registry.run)
        # The kernel lets nobody else connect to a socket that cms has made.
        owner = os.geteuid() if controlled.ours else users.own_uid()
        nursery.start_soon(partial(server.serve, controlled, self.commands, owner=owner))
        nursery.start_soon(self._watch_clock)
        nursery.start_soon(self._look_daily)
        nursery.start_soon(partial(network.watch, self._wake, stirred=self.registry.retry_sooner))
        nursery.start_soon(self._systemd.watchdog)
        if self._systemd.listens:
            nursery.start_soon(self._tell_systemd)
        self._systemd.ready()
        log.info("ready", config=config.file, accounts=len(config.accounts), sockets=self._sockets.paths)

    @property
    def _here(self) -> trio.Nursery:
        assert self._nursery is not None, "the daemon lives inside run()"
        return self._nursery

    async def _heed(self, *, task_status: trio.TaskStatus[None]) -> None:
        with signals() as asked:
            task_status.started()
            async for what in asked:
                if what == "reload":
                    self._here.start_soon(self.commands.reload)
                else:
                    self.stop()

    async def _watch_clock(self) -> None:
        """Wake every keeper after a suspend. Put back what has been lost of the sockets and token files.

        Close the mailboxes that no program asks for.
        """
        ahead = self._clock.boot() - trio.current_time()
        while True:
            await sd_notify.beat(WATCH_SECONDS)
            now = self._clock.boot() - trio.current_time()
            if now - ahead > SUSPEND_SECONDS:
                log.info("back from a suspend", seconds=round(now - ahead))
                self._wake()
            ahead = now
            self.registry.close_unused()
            await self._mend()

    async def _look_daily(self) -> None:
        """Look at the vault, and delete the tokens there of mailboxes that no program asks for any more."""
        while True:
            await self._vault.look()
            await trio.sleep(KEPT_SECONDS)

    async def _mend(self) -> None:
        """Put back the sockets and token files that are not as cms made them."""
        before = self._troubles
        for each in self._listeners:
            each.mend()
        self._audit.mend()
        self._metrics.mend()
        await self._files.mend()
        if self._troubles or before:
            self._news.set()

    @property
    def _listeners(self) -> list[Listener]:
        return [*self._sockets.listeners, *filter(None, [self._control])]

    @property
    def _troubles(self) -> tuple[str, ...]:
        """Where programs get no token, or commands do not reach the daemon, and why."""
        return (*filter(None, (each.trouble for each in self._listeners)), *self._files.troubles)

    def _wake(self) -> None:
        """Make everything that waits for a point in time check the clock again."""
        self.registry.wake()
        self._files.wake()
        self._hooks.wake()

    async def _tell_systemd(self) -> None:
        while True:
            self._news = trio.Event()
            accounts = self.registry.config.accounts
            self._systemd.status(as_systemd(await self.registry.rows_in_turns(), self._troubles))
            await self._news.wait()
            await trio.sleep(max(STATUS_PAUSE, len(accounts) * STATUS_PAUSE_EACH))

    def _stop_soon(self) -> None:
        async def stop() -> None:
            await trio.sleep(STOP_PAUSE)
            self.stop()

        self._here.start_soon(stop)

    # Reload.

    async def _reload(self) -> None:
        """Load the configuration again and switch to it. Raises ConfigError or ListenError without changing anything."""
        async with self._reloading:
            # Whatever the configuration says: logrotate has renamed the file.
            self._audit.reopen()
            await self._mend()
            self._systemd.reloading()
            try:
                loaded = await _load(self._options)
                await self._files.check(loaded.config.files)
                measured = await self._metrics.open(loaded.config.metrics)
                try:
                    opened = await self._sockets.open(loaded.config.sockets, {})
                except ListenError:
                    self._metrics.discard(measured)
                    raise
                self._change_over(loaded, opened)
                self._metrics.apply(loaded.config.metrics, measured, self._here)
            finally:
                self._systemd.ready()
        self._here.start_soon(self._vault.look)
        config = loaded.config
        log.info("reloaded", config=config.file, accounts=len(config.accounts), sockets=self._sockets.paths)

    def _change_over(self, loaded: Loaded, opened: Mapping[str, Listener]) -> None:
        """Switch all parts to a configuration. Does not wait, so no request sees a mixture."""
        config = loaded.config
        self._loaded, self._loaded_at = loaded, self._clock.boot()
        for grant in self.registry.apply(config):
            self._signins.cancel(grant)
        self._audit.apply(config.audit.file, journal=config.audit.journal)
        self._sockets.apply(loaded, opened)
        self._files.apply(config.files)
        self._signins.page.changed()
        self._hooks.apply(config.hooks, self.registry.names, desktop=config.desktop)
        self._news.set()
        if self.worker.reopen(_opened(self._options, config)):
            self._reach.forget()
            for keeper in self.registry.keepers:
                if keeper.sign_in.persisted is False:
                    # The worker that had it ends.
                    move = fill("sign in again: {login}", {"login": cms("login", keeper.who)})
                    log.warning(_MEMORY_LEFT, account=self.registry.name_of(keeper), do=move)
                # Requests that failed because of the vault or the network may work now.
                keeper.refresh()

    def _counters(self) -> dict[str, Any]:
        """Return what was counted since the start, as JSON carries it."""
        return {
            "requests": dict(self._audit.outcomes),
            "refreshes": self.worker.refreshes.as_data(),
            "worker_starts": self.worker.starts,
        }

    async def _metrics_text(self) -> tuple[bytes, str]:
        # Loaded only now: it takes megabytes.
        from cms.daemon import openmetrics  # noqa: PLC0415

        facts = self._facts()
        document = as_json(await self.registry.rows_in_turns(), facts) | {"counters": self._counters()}
        return await _in_thread(lambda: openmetrics.text(document)), openmetrics.CONTENT_TYPE

    def _facts(self) -> Daemon:
        """Return the facts about the daemon that `cms status` shows."""
        config, troubles = self._loaded.config, self._troubles
        displaced = (f"{each.path}: {listener.DISPLACED}" for each in self._listeners if each.displaced)
        return Daemon(
            self._options.version,
            os.getpid(),
            self._clock.boot() - self._started,
            config.file,
            self._sockets.paths,
            (*config.warnings, *displaced, *troubles),
            config.vault_key is not None and config.vault_key.kind == "memory",
            self._files.paths,
            self._vault.unlisted,
            self._clock.boot() - self._loaded_at,
            troubles,
            logs.left_out(),
            self._audit.facts,
            self._reach.facts if config.fleet else None,
        )
