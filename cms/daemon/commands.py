"""Carries out the commands of the `cms` command line, such as `cms login` and `cms status`.

The control socket uses this in a daemon; the command line uses it directly if no daemon is running. Then the registry's
keepers do not run, and `status`, `refresh`, `reload` and `stop` answer that no daemon is running.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from cms.config.model import ConfigError
from cms.core.lifecycle import Granted, Outcome, Settled, Trouble
from cms.core.monitoring import check_line
from cms.core.status import Daemon, StatusRow, as_json, exit_code
from cms.core.status_table import some
from cms.core.words import NAMELESS
from cms.daemon.control.answers import (
    Ask,
    Result,
    no_codes,
    nobody_signs_in,
)
from cms.daemon.control.vault_commands import VaultCommands
from cms.daemon.keeper import Keeper
from cms.daemon.registry import Registry, needs_sign_in
from cms.daemon.sign_outs import SignOuts, meant
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import Worker
from cms.grants.messages import Listed, Peek, Place
from cms.system.clock import Clock
from cms.system.listener import ListenError
from cms.system.logs import get_logger
from cms_oauth.addresses import bare
from cms_oauth.frozen import dataclass
from cms_oauth.moves import fill, of_anyone

# How long `cms reload` waits to find out who has to sign in: for a new account the worker must start and read the vault.
RELOAD_PATIENCE = 3.0

_NO_DAEMON = Result(False, "no daemon is running", "start it with `cms run`")

log = get_logger()


@dataclass(frozen=True, slots=True)
class Running:
    """What the commands need from a running daemon.

    `facts` returns the facts about the daemon for `cms status`, `counters` what it has counted, `requests` its last
    requests, and `last_taken` who had the token of an account for some protocols last. `look` sees what of them may have
    changed without the daemon's doing. `reload` raises ConfigError or ListenError without changing anything. `patience` is how many seconds `cms refresh` waits.
    """

    facts: Callable[[], Daemon]
    counters: Callable[[], dict[str, Any]]
    requests: Callable[[], list[dict[str, Any]]]
    last_taken: Callable[[str, Sequence[str]], dict[str, Any] | None]
    look: Callable[[], Awaitable[None]]
    reload: Callable[[], Awaitable[None]]
    stop: Callable[[], None]
    patience: float


class Commands:
    """All commands. `user` is "" for the only account; for `refresh`, "" means all accounts.

    `daemon` is None if the command line runs the command without a daemon.
    """

    def __init__(
        self,
        worker: Worker,
        registry: Registry,
        signins: SignIns,
        vault: VaultCommands,
        *,
        clock: Clock,
        daemon: Running | None = None,
    ) -> None:
        self._worker = worker
        self._registry = registry
        self._signins = signins
        self._vault = vault
        self._clock = clock
        self._daemon = daemon
        self._sign_outs = SignOuts(worker, registry, signins, vault, clock)

    # Which account.

    def _personal(self, user: str, command: str) -> Keeper | Result:
        """Return the keeper that a user name refers to, if a person signs in for it, or a Result that says why not."""
        keepers = meant(self._registry, user, command)
        if isinstance(keepers, Result):
            return keepers
        # A name may refer to several grants. Take one that waits for a sign-in, else the one stored longest ago, so that
        # repeating the command reaches each.
        keeper = min(keepers, key=lambda each: (not needs_sign_in(each), self._vault.stored_at(each.grant.key)))
        if not keeper.grant.unattended:
            return keeper
        return nobody_signs_in(user or self._registry.in_words([keeper]), keeper.grant, daemonless=self._daemon is None)

    # Signing in and out.

    def login(self, user: str, method: str) -> Flow | Result:
        """Start or join a sign-in, or return a Result that says why not. With method "" the account's own is used."""
        keeper = self._personal(user, "login")
        if isinstance(keeper, Result):
            return keeper
        method = method or keeper.grant.sign_in
        refused = no_codes(keeper.grant) if method == "device" else None
        return refused or self._signins.start(keeper.grant, method)

    async def named_in(self, place: Place) -> str:
        """Return the address that another program's file has of the accounts, "" if it has none or several of them."""
        if len(self._registry.keepers) == 1:
            return ""
        end = await self._worker.housekeeping(lambda number: Peek(number, place))
        found = [bare(each.login) for each in end.items if each.login] if isinstance(end, Listed) else []
        users = {user.lower(): user for user in found}
        known = [user for user in users.values() if isinstance(self._personal(user, "import"), Keeper)]
        return known[0] if len(known) == 1 else ""

    async def bring_in(self, user: str, place: Place) -> Outcome | Result:
        """Take over another program's sign-in. Returns a Result if it cannot be tried."""
        keeper = self._personal(user, "import")
        if isinstance(keeper, Result):
            return keeper
        outcome = await self._worker.bring_in(keeper.grant, place)
        if isinstance(outcome, Granted):
            self._registry.signed_in(keeper.grant, outcome)
        return outcome

    async def logout(self, user: str) -> Result:
        """Sign out of the accounts that a name refers to, or of stored sign-ins that no account uses."""
        return await self._sign_outs.of_user(user)

    async def errand(self, command: str, message: Mapping[str, Any], ask: Ask) -> Result:
        """Carry out one of `answers.ERRANDS`, the commands that may ask the person questions."""
        match command:
            case "export":
                return await self._vault.export(message, ask)
            case "restore":
                return await self._vault.restore(message, ask)
            case "prune":
                return await self._vault.prune(message, ask)
            case "revoke":
                return await self._sign_outs.revoke(message, ask)
            case "rekey":
                return await self._rekey(ask)
        return await self._sign_outs.of_all(message, ask)

    async def _rekey(self, ask: Ask) -> Result:
        """Move the stored sign-ins to another key: the one that the configuration names now."""
        if self._daemon:
            reloaded = await self.reload()
            if not reloaded.ok:
                return reloaded
        return await self._vault.rekey(ask)

    # Commands that need a daemon.

    async def look(self) -> None:
        """See what `status` has to tell and the daemon does not know yet. Takes a second at most."""
        if self._daemon:
            await self._daemon.look()

    def status(self, user: str = "") -> Result:
        """Return the status of all accounts, or of those that `user` refers to: a name or a pattern.

        The Result's `message` and the `exit_code` in its `extra` are for `--check`; `json` there is the object.
        """
        if self._daemon is None:
            return _NO_DAEMON
        accounts = self._registry.matching(user)
        if user and not accounts:
            # A name without an account, which this explains.
            unclear = meant(self._registry, user, "status")
            assert isinstance(unclear, Result), "a name has an account or none"
            return unclear
        rows, daemon = self._registry.rows(accounts), self._daemon.facts()
        code = exit_code(rows, memory_chosen=daemon.memory_chosen, troubles=daemon.troubles)
        document = as_json(rows, daemon)
        document |= {"requests": self._daemon.requests(), "counters": self._daemon.counters()}
        for row in document["accounts"]:
            row["last_taken"] = self._daemon.last_taken(row["user"], row["protocols"])
        line = check_line(rows, memory_chosen=daemon.memory_chosen, troubles=daemon.troubles)
        return Result(True, line, extra={"json": document, "exit_code": code})

    async def refresh(self, user: str) -> Result:
        """Fetch new tokens now and wait for them."""
        if self._daemon is None:
            return _NO_DAEMON
        keepers = meant(self._registry, user, "refresh") if user else self._registry.keepers
        if isinstance(keepers, Result):
            return keepers
        for keeper in keepers:
            keeper.refresh()
        with trio.move_on_after(self._daemon.patience) as limit:
            for keeper in keepers:
                await keeper.settled()
        troubled = [(keeper, trouble) for keeper in keepers if (trouble := _trouble_of(keeper))]
        if troubled:
            told = ((self._registry.name_of(keeper), trouble.message) for keeper, trouble in troubled)
            # Some messages name the account themselves.
            said = "; ".join(message if name in message else f"{name}: {message}" for name, message in told)
            return Result(False, said, troubled[0][1].hint)
        if limit.cancelled_caught:
            return Result(False, "there is no answer yet", "`cms status` shows it when it comes")
        names = self._registry.in_words(keepers)
        if not any(keeper.lives for keeper in keepers):
            return Result(True, f"{names}: no mailbox is open: each gets its token when a program asks for it")
        return Result(True, f"{names}: fresh")

    async def reload(self) -> Result:
        """Load the configuration again, and report what is left to do. A failure changes nothing."""
        if self._daemon is None:
            return _NO_DAEMON
        try:
            await self._daemon.reload()
        except (ConfigError, ListenError) as error:
            return _unchanged(str(error))
        except Exception:
            log.exception("a reload failed by a bug")
            return _unchanged("the reload failed; the log has the traceback")
        keepers = self._registry.keepers
        with trio.move_on_after(RELOAD_PATIENCE):
            for keeper in keepers:
                await keeper.settled()
        await self.look()
        warnings = [f"warning: {each}" for each in self._daemon.facts().warnings]
        rows = self._registry.rows()
        names = list(dict.fromkeys(row.user or NAMELESS for row in rows))
        return Result(True, f"{some(names)}: configured", "\n".join([*warnings, *moves_of(rows)]))

    def stop(self) -> Result:
        if self._daemon is None:
            return _NO_DAEMON
        self._daemon.stop()
        return Result(True, "cms is stopping")


def moves_of(rows: Iterable[StatusRow]) -> list[str]:
    """Return what people have to do, each move once: USER stands for the account where it is the same for several."""
    found = dict[str, set[str]]()
    for row in rows:
        if row.state in ("sign-in-required", "signing-in"):
            found.setdefault(of_anyone(row.next_move, row.user), set()).add(row.next_move)
    return [next(iter(own)) if len(own) == 1 else move for move, own in found.items()]


def _trouble_of(keeper: Keeper) -> Trouble | None:
    """Return why a keeper's last try gave no token, None if it gave one."""
    phases = (life.phase for life in keeper.lives.values())
    return next((phase.trouble for phase in phases if not isinstance(phase, Settled)), None)


def _unchanged(reason: str) -> Result:
    log.error("the reload failed: the running configuration stays in use", reason=reason)
    return Result(False, reason, fill("the running configuration stays in use: fix this, then {reload}"))
