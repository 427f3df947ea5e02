"""Carries out the commands of the `cms` command line, such as `cms login` and `cms status`.

The control socket uses this in a daemon; the command line uses it directly if no daemon is running. Then the registry's
keepers do not run, and `status`, `refresh`, `reload` and `stop` answer that no daemon is running.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import trio

from cms.config.model import ConfigError
from cms.core.accounts import Unclear
from cms.core.lifecycle import Granted, Outcome, Settled, Trouble
from cms.core.monitoring import check_line
from cms.core.status import Daemon, StatusRow, as_json, exit_code
from cms.core.status_table import some
from cms.core.words import NAMELESS
from cms.daemon.control.answers import (
    Ask,
    Result,
    nobody_signs_in,
    nothing_to_sign_out,
    question,
    told,
)
from cms.daemon.control.vault_commands import SignedOut, VaultCommands, expiry_of, listed, signed_out
from cms.daemon.keeper import Keeper
from cms.daemon.registry import Registry, needs_sign_in
from cms.daemon.signin.flow import Flow
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import Worker
from cms.grants.messages import Place
from cms.system.clock import Clock
from cms.system.listener import ListenError
from cms.system.logs import get_logger
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

    # Which account.

    def _meant(self, user: str, command: str) -> list[Keeper] | Result:
        """Return the keepers that a user name refers to, or a Result that says why there is none."""
        keepers = self._registry.meant(user, command)
        return Result(False, keepers.message, keepers.hint) if isinstance(keepers, Unclear) else keepers

    def _personal(self, user: str, command: str) -> Keeper | Result:
        """Return the keeper that a user name refers to, if a person signs in for it, or a Result that says why not."""
        keepers = self._meant(user, command)
        if isinstance(keepers, Result):
            return keepers
        # A name may refer to several grants. Take one that waits for a sign-in, else the one stored longest ago, so that
        # repeating the command reaches each.
        keeper = min(keepers, key=lambda each: (not needs_sign_in(each), self._vault.stored_at(each.grant)))
        if not keeper.grant.unattended:
            return keeper
        return nobody_signs_in(user or self._registry.in_words([keeper]), keeper.grant, daemonless=self._daemon is None)

    # Signing in and out.

    def login(self, user: str, method: str) -> Flow | Result:
        """Start or join a sign-in, or return a Result that says why not. With method "" the account's own is used."""
        keeper = self._personal(user, "login")
        if isinstance(keeper, Result):
            return keeper
        return self._signins.start(keeper.grant, method or keeper.grant.sign_in)

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
        keepers = self._meant(user, "logout")
        if isinstance(keepers, Result):
            stored = await self._vault.named(user)
            return await self._vault.sign_out(stored) if stored else keepers
        for keeper in keepers:
            if keeper.grant.unattended:
                return nothing_to_sign_out(self._registry.in_words([keeper]))
        return await self._sign_out(keepers)

    async def _sign_out_of_all(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Delete every sign-in after the person has seen whose they are and agreed: first those that no account uses.

        Stored tokens of applications go with them, before the last sign-in: the key is deleted with the last file.
        """
        keepers = [each for each in self._registry.keepers if not each.grant.unattended]
        signed_in = [each for each in keepers if self._is_signed_in(each)]
        others = await self._vault.without_keeper()
        if signed_in or others:
            lines = [f"  {self._registry.in_words([each])}" for each in signed_in]
            await ask(told("\n".join(["Sign-ins on this machine:", *lines, *map(listed, others)])))
            if not message.get("yes") and not (await ask(question("Delete all of them?"))).get("yes"):
                return Result(False, "nothing was deleted", "`cms logout --all --yes` deletes them without asking")
        deleted = await self._vault.delete_all(others)
        if isinstance(deleted, Result):
            return deleted
        for keeper in self._registry.keepers:
            if keeper.grant.unattended and self._vault.stored_at(keeper.grant):
                outcome = await self._worker.sign_out(keeper.grant)
                if not isinstance(outcome, Granted):
                    said = f"a token of {self._registry.name_of(keeper)} is still stored: {outcome.trouble.message}"
                    return Result(False, said, outcome.trouble.hint)
        # Every account: somebody may have signed in meanwhile, or may be signing in now.
        result = await self._sign_out(keepers, signed_in)
        if not deleted:
            return result
        return replace(result, message=f"{result.message}\nsign-ins without an account {deleted}")

    def _is_signed_in(self, keeper: Keeper) -> bool:
        """True if there is a sign-in to delete: stored, in memory, or known by its token."""
        held = any(life.held for life in keeper.lives.values())
        return held or keeper.sign_in.persisted is not None or bool(self._vault.stored_at(keeper.grant))

    async def _sign_out(self, keepers: Sequence[Keeper], named: Sequence[Keeper] = ()) -> Result:
        """Sign out of these; the report names `named`, or all of them."""
        names, grants = self._registry.in_words(named or keepers), tuple(keeper.grant for keeper in keepers)
        held = [life.held for keeper in keepers for life in keeper.lives.values() if life.held]
        found, key_from = bool(held), ""
        for number, keeper in enumerate(keepers):
            self._signins.cancel(keeper.grant)
            outcome = await self._worker.sign_out(keeper.grant)
            if not isinstance(outcome, Granted):
                said = f"{self._registry.name_of(keeper)} is still signed in: {outcome.trouble.message}"
                if done := self._registry.in_words(each for each in keepers[:number] if not named or each in named):
                    said = f"{said}\nsigned out: {done}"
                return Result(False, said, outcome.trouble.hint)
            found, key_from = found or bool(outcome.sign_in.persisted), key_from or outcome.sign_in.key_from
            keeper.signed_out()
        now = self._clock.wall()
        return signed_out(SignedOut(grants, names, found, key_from, expiry_of(held, self._clock.boot(), now)), now)

    async def errand(self, command: str, message: Mapping[str, Any], ask: Ask) -> Result:
        """Carry out one of `answers.ERRANDS`, the commands that may ask the person questions."""
        match command:
            case "export":
                return await self._vault.export(message, ask)
            case "restore":
                return await self._vault.restore(message, ask)
            case "prune":
                return await self._vault.prune(message, ask)
            case "rekey":
                return await self._rekey(ask)
        return await self._sign_out_of_all(message, ask)

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
            unclear = self._meant(user, "status")
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
        keepers = self._meant(user, "refresh") if user else self._registry.keepers
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
        return Result(True, f"{self._registry.in_words(keepers)}: fresh")

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
