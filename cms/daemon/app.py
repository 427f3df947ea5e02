"""The daemon: everything built from one configuration, in one nursery; changed by a reload, drained by a stop.

A reload first makes all that can fail (the configuration, the worker, the sockets) and then changes over without a
pause in between: a request meets the old configuration or the new one, never half of each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from cms.config.load import load
from cms.config.model import LOAD_SECONDS, Config, ConfigError
from cms.core.accounts import Account, Grant, Scopes, Unclear, sign_ins_meant
from cms.core.forecast import Forecast, forecast, warned_at
from cms.core.lifecycle import Granted, Life, NeedsSignIn, Outcome, Settled, Transient, Trouble
from cms.core.notices import Facts, notice
from cms.core.status import (
    MEMORY_WARNING,
    Daemon,
    Entry,
    Row,
    as_json,
    as_systemd,
    describe,
    exit_code,
    expiry_warning,
    length_warning,
)
from cms.core.status_text import as_text
from cms.daemon import hooks
from cms.daemon.control import answers, server
from cms.daemon.control.answers import Ask, Result, nobody_signs_in, nothing_to_sign_out
from cms.daemon.control.vault_commands import ERRANDS, Custody, Left, expiry_of, farewell
from cms.daemon.hooks import Hooks
from cms.daemon.keeper import Keeper
from cms.daemon.serving.recent import Recent
from cms.daemon.serving.sockets import Loaded, Sockets, look_up
from cms.daemon.serving.token_files import TokenFiles
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import WORKER_ARGV, Provider, SignInSession, Worker
from cms.grants import messages
from cms.system import listener, network, sd_notify
from cms.system.clock import Clock, SystemClock
from cms.system.listener import Listener, ListenError, open_listener
from cms.system.logs import get_logger
from cms.system.process import NotOurs, claimed, signals

# How often the clocks are compared, and how much more the boot clock must have gone on to call it a suspend: trio's
# clock stands still in one, so every keeper sleeps too long. One wake-up in half a minute for all of them.
WATCH_SECONDS = 30.0
SUSPEND_SECONDS = 2.0

# Stopping takes 5 s at most: this for requests under way, then the worker's grace for what it has sent to Entra (3 s),
# and half a second for one that has to be killed.
DRAIN_SECONDS = 1.0

# The answer to `cms stop` has to get out before the socket that it goes through closes.
STOP_PAUSE = 0.1

# systemd's status line follows the lives, but a thousand accounts at a start are one change, not a thousand.
STATUS_PAUSE = 1.0

# `cms reload` says who has to sign in, and for a new account that takes a worker's start and a look into the vault.
RELOAD_PATIENCE = 3.0

# `cms refresh` waits for what it has asked for: as long as the worker may take, and a start of it.
REFRESH_MARGIN = 5.0

_MEMORY_LEFT = "the vault or the network was configured anew, and a sign-in that was kept in memory only has ended"

CONTROL_SOCKET = "control.sock"

log = get_logger()


@dataclass(frozen=True, slots=True)
class AppOptions:
    """Where the daemon's things are, and what it is made of. `timeout` and `idle` are the worker's, in seconds."""

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
    load: Callable[[str], Config] = load
    jitter: Callable[[], float] = random.random
    # False where somebody else takes the process's signals, or in a thread.
    heed_signals: bool = True


async def run(options: AppOptions, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> int:
    """Run the daemon until it is told to stop; return the exit code. What keeps it from starting is logged."""
    try:
        with claimed(options.state_folder):
            await App(options).run(task_status=task_status)
    except ConfigError as error:
        log.critical("cms cannot start: the configuration cannot be used", reason=str(error))
        return os.EX_CONFIG
    except (NotOurs, ListenError) as error:
        log.critical("cms cannot start", reason=str(error))
        return os.EX_CANTCREAT
    return os.EX_OK


def _load(read: Callable[[str], Config], path: str) -> Loaded:
    """Load the configuration. Runs in a thread: it is somebody's Python, and may take its time."""
    return look_up(read(path))


@dataclass(frozen=True, slots=True)
class _Hired:
    """A Worker, how it was opened, and what ends it."""

    worker: Worker
    opened: messages.Open
    scope: trio.CancelScope


class _Current(Provider):
    """Whichever Worker is the one now: a reload that changes the vault or the network makes another."""

    def __init__(self) -> None:
        self.hired: _Hired | None = None

    async def acquire(self, grant: Grant, scopes: Scopes) -> Outcome:
        while True:
            asked = self._there
            outcome = await asked.worker.acquire(grant, scopes)
            if asked is self.hired or not _was_stopped(outcome):
                return outcome

    async def forget(self, grant: Grant) -> Outcome:
        return await self._there.worker.forget(grant)

    async def bring_in(self, grant: Grant, place: messages.Place, *, keep: bool = False) -> Outcome:
        return await self._there.worker.bring_in(grant, place, keep=keep)

    async def attend(self, ask: Callable[[int], messages.Chore]) -> messages.Ended:
        return await self._there.worker.attend(ask)

    def sign_in(self, grant: Grant, method: str, claims: str) -> AbstractAsyncContextManager[SignInSession]:
        return self._there.worker.sign_in(grant, method, claims)

    def employ(self, hired: _Hired) -> None:
        """Put every further question to this one. The one before gets its grace and ends."""
        if self.hired:
            self.hired.scope.cancel()
        self.hired = hired

    @property
    def _there(self) -> _Hired:
        assert self.hired is not None, "questions come after the start"
        return self.hired


def _was_stopped(outcome: Outcome) -> bool:
    return isinstance(outcome, Transient) and outcome.trouble.kind == "shutdown"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A keeper, and what ends its task."""

    keeper: Keeper
    scope: trio.CancelScope


class App(answers.Commands):
    """The daemon. `run` is its life; the rest is what the control socket may ask of it."""

    def __init__(self, options: AppOptions) -> None:
        self._options = options
        self._clock = options.clock
        self._started = self._loaded_at = options.clock.boot()
        self._systemd = sd_notify.Systemd(options.environ, os.getpid())
        self._kept: dict[str, _Kept] = {}
        # Grant key -> who signed in. One object for good: every request reads it.
        self._names: dict[str, str] = {}
        # Grant key -> the users that the configuration names for it.
        self._users: dict[str, list[str]] = {}
        self._provider = _Current()
        self._custody = Custody(
            self._provider, options.state_folder, lambda: self._accounts, self._signed_in, lambda: self._unserved
        )
        self._recent = Recent(options.clock.boot)
        self._sockets = Sockets(
            lambda grant: self._kept[grant.key].keeper, lambda: self._names, options.clock, self._recent
        )
        self._files = TokenFiles(lambda grant: self._kept[grant.key].keeper, options.clock)
        self._signins = SignIns(
            self._sign_in,
            owner=os.geteuid(),
            signed_in=self._signed_in,
            prompted=self._prompted,
            waiting=self._waiting,
            status=lambda: as_text(as_json(self._rows())),
        )
        # Grant key -> what its sign-in waits for.
        self._prompts: dict[str, messages.Prompt] = {}
        self._hooks = Hooks(self._facts, options.clock, options.environ)
        self._loaded: Loaded | None = None
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()
        self._news = trio.Event()
        self._reloading = trio.Lock()
        self._said_memory = False
        # Whose long tokens have been told.
        self._said_long: set[tuple[str, Scopes]] = set()
        # Of whose certificates the end has been told, and which.
        self._said_expiry: set[tuple[str, float]] = set()

    async def run(self, *, task_status: trio.TaskStatus[App] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until told to stop. Raises ConfigError or ListenError if it cannot start."""
        loaded = await self._load()
        inherited = listener.adopt(self._options.environ, os.getpid())
        path = f"{self._options.runtime_folder}/{CONTROL_SOCKET}"
        controlled = await open_listener(path, 0o600, inherited=inherited)
        try:
            opened = await self._sockets.open(loaded.config.sockets, inherited)
        except ListenError:
            controlled.close()
            raise
        listener.discard(inherited)
        async with trio.open_nursery() as self._nursery:
            await self._start(loaded, opened, controlled)
            task_status.started(self)
            await self._stop.wait()
            await self._drain()
            self._nursery.cancel_scope.cancel()

    async def _start(self, loaded: Loaded, opened: Mapping[str, Listener], controlled: Listener) -> None:
        nursery = self._here
        if self._options.heed_signals:
            await nursery.start(self._heed)
        await nursery.start(self._sockets.run)
        await nursery.start(self._files.run)
        await nursery.start(self._signins.run)
        await nursery.start(self._hooks.run)
        self._provider.employ(await self._hire(self._opened(loaded.config)))
        self._change_over(loaded, opened)
        nursery.start_soon(partial(server.serve, controlled, self, owner=os.geteuid()))
        nursery.start_soon(self._watch_clock)
        nursery.start_soon(self._custody.look)
        nursery.start_soon(network.watch, self._wake)
        nursery.start_soon(self._systemd.watchdog)
        if self._systemd.listens:
            nursery.start_soon(self._tell_systemd)
        self._systemd.ready()
        if self._daemon().memory_chosen:
            self._warn_of_memory()
        log.info("ready", config=loaded.config.file, accounts=len(loaded.config.accounts), sockets=self._sockets.paths)

    async def _drain(self) -> None:
        log.info("stopping")
        self._systemd.stopping()
        with trio.move_on_after(DRAIN_SECONDS):
            await self._sockets.drain()

    @property
    def _here(self) -> trio.Nursery:
        assert self._nursery is not None, "the daemon lives inside run()"
        return self._nursery

    async def _heed(self, *, task_status: trio.TaskStatus[None]) -> None:
        with signals() as asked:
            task_status.started()
            async for what in asked:
                if what == "reload":
                    self._here.start_soon(self.reload)
                else:
                    self._stop.set()

    async def _watch_clock(self) -> None:
        """Wake every keeper after a suspend."""
        ahead = self._clock.boot() - trio.current_time()
        while True:
            await trio.sleep(WATCH_SECONDS)
            now = self._clock.boot() - trio.current_time()
            if now - ahead > SUSPEND_SECONDS:
                log.info("back from a suspend", seconds=round(now - ahead))
                self._wake()
            ahead = now

    def _wake(self) -> None:
        """Have every keeper look whether a try is worthwhile now."""
        for kept in self._kept.values():
            kept.keeper.wake()
        self._files.wake()
        self._hooks.wake()

    async def _tell_systemd(self) -> None:
        while True:
            self._news = trio.Event()
            self._systemd.status(as_systemd(self._rows()))
            await self._news.wait()
            await trio.sleep(STATUS_PAUSE)

    # What a configuration becomes.

    async def _load(self) -> Loaded:
        path = self._options.config_path
        try:
            with trio.fail_after(LOAD_SECONDS):
                loaded = await trio.to_thread.run_sync(
                    _load,
                    self._options.load,
                    path,
                    abandon_on_cancel=True,
                    # Its own: a file that hangs keeps its thread, and others need theirs.
                    limiter=trio.CapacityLimiter(1),
                )
        except trio.TooSlowError:
            raise ConfigError(
                path, None, f"it did not end within {LOAD_SECONDS:g} s", "See what it waits for: `cms check`"
            ) from None
        for warning in loaded.config.warnings:
            log.warning(warning)
        return loaded

    def _opened(self, config: Config) -> messages.Open:
        options = self._options
        return messages.Open(
            options.state_folder, config.vault_key, config.ca, options.timeout, options.idle, proxy=config.proxy
        )

    async def _hire(self, opened: messages.Open) -> _Hired:
        worker = Worker(opened, argv=self._options.worker_argv, environment=self._options.worker_environment)
        hired = _Hired(worker, opened, trio.CancelScope())
        await self._here.start(self._run_worker, hired)
        return hired

    async def _run_worker(self, hired: _Hired, *, task_status: trio.TaskStatus[None]) -> None:
        with hired.scope:
            await hired.worker.run(task_status=task_status)

    def _change_over(self, loaded: Loaded, opened: Mapping[str, Listener]) -> None:
        """Go from one configuration to the next. Nothing here waits."""
        self._loaded, self._loaded_at, self._users = loaded, self._clock.boot(), {}
        for account in loaded.config.accounts:
            self._users.setdefault(account.grant.key, []).extend(filter(None, [account.user]))
        before, self._kept = self._kept, {}
        for grant in loaded.config.grants:
            kept = self._kept[grant.key] = before.pop(grant.key) if grant.key in before else self._keep(grant)
            kept.keeper.take(grant)
        for key, gone in before.items():
            gone.scope.cancel()
            gone.keeper.retire()
            self._signins.forget(gone.keeper.grant)
            del self._names[key]
        self._sockets.apply(loaded, opened)
        self._files.apply(loaded.config.files)
        self._signins.page = loaded.config.page
        self._signins.changed()
        self._hooks.apply(loaded.config.hooks, self._kept, desktop=loaded.config.desktop)
        self._news.set()

    def _keep(self, grant: Grant) -> _Kept:
        keeper = Keeper(grant, self._provider, self._clock, jitter=self._options.jitter, on_change=self._on_change)
        kept = _Kept(keeper, trio.CancelScope())
        self._names[grant.key] = keeper.who
        self._here.start_soon(self._run_keeper, kept)
        return kept

    async def _run_keeper(self, kept: _Kept) -> None:
        with kept.scope:
            await kept.keeper.run()

    # What happens to a grant.

    def _on_change(self, keeper: Keeper, scopes: Scopes, before: Life, after: Life) -> None:
        if keeper.grant.key not in self._kept:
            # A reload has taken the account away while its answer was on the way.
            return
        self._names[keeper.grant.key] = keeper.who
        self._news.set()
        if isinstance(before.phase, NeedsSignIn) is not isinstance(after.phase, NeedsSignIn):
            self._signins.changed()
        self._files.wake(keeper)
        if keeper.persisted is False:
            self._warn_of_memory()
        self._warn_of_length(keeper, scopes, after)
        self._warn_of_expiry(keeper)
        told = notice(before, after, self._name_of(keeper))
        if told:
            hooks.tell(told)
        self._hooks.changed(keeper.grant.key)

    def _facts(self, key: str) -> Facts | None:
        """Return what hooks may be told of a sign-in, None when it has left the configuration."""
        kept, prompt = self._kept.get(key), self._prompts.get(key)
        if kept is None:
            return None
        keeper, grant = kept.keeper, kept.keeper.grant
        expected = _forecast(keeper, self._clock.wall())
        return Facts(
            self._name_of(keeper),
            list(keeper.lives.values()),
            login=f"cms login {keeper.who}".strip() if not grant.unattended else "",
            prompt_hint=self._signins.awaited(grant),
            url=prompt.url if prompt else "",
            code=prompt.user_code if prompt else "",
            page=self._signins.where(grant),
            given_at=keeper.given_at,
            forecast=expected,
            warn_at=self._clock.boot() + warned_at(expected, keeper.given_at) - self._clock.wall() if expected else 0.0,
        )

    def _prompted(self, grant: Grant, prompt: messages.Prompt) -> None:
        self._prompts[grant.key] = prompt
        self._hooks.changed(grant.key)

    def _warn_of_memory(self) -> None:
        if not self._said_memory:
            self._said_memory = True
            log.warning(MEMORY_WARNING)

    def _warn_of_length(self, keeper: Keeper, scopes: Scopes, life: Life) -> None:
        warning, whose = length_warning(life), (keeper.grant.key, scopes)
        if warning and whose not in self._said_long:
            self._said_long.add(whose)
            log.warning(warning, account=self._name_of(keeper))

    def _warn_of_expiry(self, keeper: Keeper) -> None:
        """Say once of each certificate that its end is near."""
        warning, which = expiry_warning(keeper.credential_expires, self._clock.wall()), keeper.credential_expires
        if warning and (keeper.grant.key, which) not in self._said_expiry:
            self._said_expiry.add((keeper.grant.key, which))
            log.warning(warning, account=self._name_of(keeper))

    def _warn_of_loss(self) -> None:
        """Another worker begins with what the vault has: say whose sign-in was only in the memory of the last one."""
        for kept in self._kept.values():
            if kept.keeper.persisted is False:
                name = self._name_of(kept.keeper)
                log.warning(_MEMORY_LEFT, account=name, do=f"sign in again: `cms login {name}`")

    def _name_of(self, keeper: Keeper) -> str:
        return next(iter(self._users.get(keeper.grant.key, ())), keeper.who) or "whoever signs in"

    def _sign_in(self, grant: Grant, method: str) -> AbstractAsyncContextManager[SignInSession]:
        phases = [life.phase for life in self._kept[grant.key].keeper.lives.values()]
        claims = [phase.trouble.claims for phase in phases if isinstance(phase, NeedsSignIn) and phase.trouble.claims]
        return self._provider.sign_in(grant, method, claims[0] if claims else "")

    def _signed_in(self, grant: Grant, outcome: Outcome) -> None:
        kept = self._kept.get(grant.key)
        self._prompts.pop(grant.key, None)
        if kept is None:
            return
        if kept.keeper.grant.scope_sets[:1] == grant.scope_sets[:1]:
            # The token of a sign-in is that of the grant's first scope set.
            kept.keeper.signed_in(grant.scope_sets[0], outcome)
        else:
            # The configuration has changed since it began.
            kept.keeper.refresh()

    def _waiting(self) -> list[Grant]:
        keepers = [kept.keeper for kept in self._kept.values()]
        return [each.grant for each in keepers if _needs_sign_in(each)]

    @property
    def _accounts(self) -> tuple[Account, ...]:
        return self._loaded.config.accounts if self._loaded else ()

    @property
    def _unserved(self) -> frozenset[str]:
        return self._loaded.config.unserved if self._loaded else frozenset()

    def _entries(self) -> list[Entry]:
        return [self._entry(account, self._kept[account.grant.key].keeper) for account in self._accounts]

    def _entry(self, account: Account, keeper: Keeper) -> Entry:
        return Entry(
            account,
            account.user or keeper.who,
            keeper.lives,
            keeper.persisted,
            keeper.key_from,
            self._signins.awaited(keeper.grant),
            self._signins.where(keeper.grant),
            keeper.given_at,
            _forecast(keeper, self._clock.wall()),
            keeper.credential_expires,
        )

    def _rows(self) -> list[Row]:
        return describe(self._entries(), self._clock.boot(), self._clock.wall())

    # What the control socket may ask.

    def status(self, user: str = "") -> Result:
        keepers = self._keepers_of(user, "status") if user else []
        if isinstance(keepers, Result):
            return keepers
        meant = [each for each in self._entries() if not user or self._kept[each.account.grant.key].keeper in keepers]
        rows, daemon = describe(meant, self._clock.boot(), self._clock.wall()), self._daemon()
        chosen = daemon.memory_chosen
        code = exit_code(rows, memory_chosen=chosen)
        document = {**as_json(rows, daemon), "requests": self._recent.as_data(self._clock.wall())}
        return Result(True, as_systemd(rows), extra={"json": document, "exit_code": code})

    def _daemon(self) -> Daemon:
        assert self._loaded is not None, "asked through a socket that opens later"
        config = self._loaded.config
        return Daemon(
            self._options.version,
            os.getpid(),
            self._clock.boot() - self._started,
            config.file,
            self._sockets.paths,
            (*config.warnings, *self._files.troubles),
            config.vault_key is not None and config.vault_key.kind == "memory",
            self._files.paths,
            self._custody.orphans,
            self._clock.boot() - self._loaded_at,
        )

    def login(self, user: str, method: str) -> Flow | Result:
        keeper = self._personal(user, "login")
        if isinstance(keeper, Result):
            return keeper
        return self._signins.start(keeper.grant, method or keeper.grant.sign_in)

    async def bring_in(self, user: str, place: messages.Place) -> Outcome | Result:
        keeper = self._personal(user, "import")
        if isinstance(keeper, Result):
            return keeper
        grant = keeper.grant
        outcome = await self._provider.bring_in(grant, place)
        if isinstance(outcome, Granted):
            self._signed_in(grant, outcome)
        return outcome

    def _personal(self, user: str, command: str) -> Keeper | Result:
        """Return the keeper that a user name means, if a person signs in for it."""
        keepers = self._keepers_of(user, command)
        if isinstance(keepers, Result):
            return keepers
        # A name may stand for several grants: first the one that waits.
        keeper = next(filter(_needs_sign_in, keepers), keepers[0])
        if not keeper.grant.unattended:
            return keeper
        return nobody_signs_in(self._name_of(keeper), keeper.grant)

    async def logout(self, user: str) -> Result:
        keepers = self._keepers_of(user, "logout")
        if isinstance(keepers, Result):
            strays = await self._custody.strays_of(user)
            return await self._custody.part_with(strays) if strays else keepers
        for keeper in keepers:
            if keeper.grant.unattended:
                return nothing_to_sign_out(self._names_in_words([keeper]))
        return await self._sign_out(keepers)

    async def _sign_out(self, keepers: Sequence[Keeper]) -> Result:
        names, grants = self._names_in_words(keepers), tuple(keeper.grant for keeper in keepers)
        held = [life.held for keeper in keepers for life in keeper.lives.values() if life.held]
        found, key_from = bool(held), ""
        for keeper in keepers:
            self._signins.forget(keeper.grant)
            outcome = await self._provider.forget(keeper.grant)
            if not isinstance(outcome, Granted):
                said = f"{self._name_of(keeper)} is still signed in: {outcome.trouble.message}"
                return Result(False, said, outcome.trouble.hint)
            found, key_from = found or outcome.persisted, key_from or outcome.key_from
            keeper.signed_out()
        now = self._clock.wall()
        return farewell(Left(grants, names, found, key_from, expiry_of(held, self._clock.boot(), now)), now)

    async def errand(self, command: str, message: Mapping[str, Any], ask: Ask) -> Result:
        if command != "leave":
            return await ERRANDS[command](self._custody, message, ask)
        attended = [kept.keeper for kept in self._kept.values() if not kept.keeper.grant.unattended]
        return await self._custody.leave(partial(self._sign_out, attended))

    async def refresh(self, user: str) -> Result:
        keepers = self._keepers_of(user, "refresh") if user else [kept.keeper for kept in self._kept.values()]
        if isinstance(keepers, Result):
            return keepers
        for keeper in keepers:
            keeper.refresh()
        with trio.move_on_after(self._options.timeout + REFRESH_MARGIN) as limit:
            for keeper in keepers:
                await keeper.settled()
        troubled = [(keeper, trouble) for keeper in keepers if (trouble := _trouble_of(keeper))]
        if troubled:
            said = "; ".join(_about(self._name_of(keeper), trouble.message) for keeper, trouble in troubled)
            return Result(False, said, troubled[0][1].hint)
        if limit.cancelled_caught:
            return Result(False, "there is no answer yet", "`cms status` shows it when it comes")
        return Result(True, f"{self._names_in_words(keepers)}: fresh")

    async def reload(self) -> Result:
        async with self._reloading:
            self._systemd.reloading()
            try:
                await self._reload()
            except (ConfigError, ListenError) as error:
                return _unchanged(str(error))
            except Exception:
                log.exception("a reload failed by a bug")
                return _unchanged("the reload failed; the log has the traceback")
            finally:
                self._systemd.ready()
        keepers = [kept.keeper for kept in self._kept.values()]
        return Result(True, f"{self._names_in_words(keepers)}: configured", await self._to_do(keepers))

    async def _to_do(self, keepers: Sequence[Keeper]) -> str:
        """Return what a new configuration leaves to its owner: what it is warned about, and who has to sign in."""
        with trio.move_on_after(RELOAD_PATIENCE):
            for keeper in keepers:
                await keeper.settled()
        warned = self._loaded.config.warnings if self._loaded else ()
        moves = [row.next_move for row in self._rows() if row.state in ("sign-in-required", "signing-in")]
        return "\n".join([*(f"warning: {each}" for each in warned), *dict.fromkeys(moves)])

    async def _reload(self) -> None:
        loaded = await self._load()
        before, wanted = self._provider.hired, self._opened(loaded.config)
        hired = before if before and before.opened == wanted else await self._hire(wanted)
        try:
            opened = await self._sockets.open(loaded.config.sockets, {})
        except ListenError:
            if hired is not before:
                hired.scope.cancel()
            raise
        self._change_over(loaded, opened)
        self._here.start_soon(self._custody.look)
        if hired is not before:
            self._warn_of_loss()
            self._provider.employ(hired)
            # What failed for the vault's or the network's sake may work now.
            for kept in self._kept.values():
                kept.keeper.refresh()
        log.info("reloaded", config=loaded.config.file, accounts=len(self._accounts), sockets=self._sockets.paths)

    def stop(self) -> Result:
        self._here.start_soon(self._stop_soon)
        return Result(True, "cms is stopping")

    async def _stop_soon(self) -> None:
        await trio.sleep(STOP_PAUSE)
        self._stop.set()

    def _keepers_of(self, user: str, command: str) -> list[Keeper] | Result:
        """Return the keepers that a user name means, "" for the only account's."""
        who = {key: kept.keeper.who for key, kept in self._kept.items()}
        meant = sign_ins_meant(self._accounts, user, command, who)
        if isinstance(meant, Unclear):
            return Result(False, meant.message, meant.hint)
        return [self._kept[grant.key].keeper for grant in meant]

    def _names_in_words(self, keepers: Sequence[Keeper]) -> str:
        return ", ".join(
            dict.fromkeys(user for each in keepers for user in self._users.get(each.grant.key) or [self._name_of(each)])
        )


def _about(name: str, message: str) -> str:
    return message if name in message else f"{name}: {message}"


def _forecast(keeper: Keeper, wall: float) -> Forecast | None:
    """Return when a keeper's sign-in is expected to end; one that has ended needs no forecast."""
    if _needs_sign_in(keeper):
        return None
    # Only registrations of the single-page platform have an Origin.
    spa = keeper.grant.origin is not None
    return forecast(keeper.given_at, keeper.redeemed_at, keeper.endings, spa, wall)


def _needs_sign_in(keeper: Keeper) -> bool:
    """Whether a person has to sign in: what was refused to an application is no such thing."""
    refused = (life.phase for life in keeper.lives.values() if isinstance(life.phase, NeedsSignIn))
    return not keeper.grant.unattended and any(refused)


def _trouble_of(keeper: Keeper) -> Trouble | None:
    """Return why a keeper's last try gave no token, None when it gave one."""
    phases = (life.phase for life in keeper.lives.values())
    return next((phase.trouble for phase in phases if not isinstance(phase, Settled)), None)


def _unchanged(reason: str) -> Result:
    log.error("the reload failed: the running configuration stays in force", reason=reason)
    return Result(False, reason, "the running configuration stays in force: mend this, then `cms reload`")
