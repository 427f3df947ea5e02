"""Keeps one Grant: one task that plans, asks the provider, absorbs its outcome and publishes the life.

A keeper is the only one to ask the provider for its Grant, one question at a time, so single flight needs no lock:
whoever needs a token makes a fetch due and waits for the life to change. It sleeps until the plan says so or somebody
nudges it; nothing here polls.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

import trio

from cms.accounts import Grant, Scopes
from cms.clock import Clock
from cms.lifecycle import (
    DEFAULT_MIN_VALID,
    PAUSE_AFTER_GRANT,
    AwaitSignIn,
    Budget,
    Deny,
    Fetch,
    Granted,
    Life,
    NeedsSignIn,
    Outcome,
    Refused,
    SleepUntil,
    Token,
    Transient,
    Trouble,
    Wait,
    absorb,
    answer,
    denial,
    hurry,
    plan,
    press,
    revive,
    soonest,
    usable,
)
from cms.logs import get_logger
from cms.worker import Provider
from cms_oauth import wire

log = get_logger()

_SIGNED_OUT = Trouble("signed-out", "the sign-in was given up with `cms logout`", "sign in again with `cms login`")
_MEMORY_LOST = "the sign-in was kept in memory only, and the process that held it has ended"
_BUG = Trouble(
    "worker", "asking for a token failed inside cms", "it is tried again by itself; the log has the traceback"
)


def token_hash(secret: str) -> str:
    """Return the name by which a mail client may say that this token was refused: `rejected=` on the wire."""
    return hashlib.sha256(secret.encode()).hexdigest()[: wire.HASH_DIGITS]


def _unheard(_keeper: Keeper, _scopes: Scopes, _before: Life, _after: Life) -> None:
    """Nobody listens for changes."""


class Keeper:
    """Keeps the tokens of one Grant, one life for each of its scope sets.

    `who` is the user name that the provider reported, `persisted` whether the sign-in outlives the worker (None before
    that is known), `key_from` where the vault's key comes from. `on_change` hears of every life that a provider call, a
    sign-in or a sign-out has changed.
    """

    def __init__(
        self,
        grant: Grant,
        provider: Provider,
        clock: Clock,
        *,
        luck: Callable[[], float] = random.random,
        on_change: Callable[[Keeper, Scopes, Life, Life], None] = _unheard,
    ) -> None:
        self.grant = grant
        self.lives: dict[Scopes, Life] = dict.fromkeys(grant.scope_sets, Life())
        self.who = grant.login
        self.persisted: bool | None = None
        self.key_from = ""
        self._provider = provider
        self._clock = clock
        self._luck = luck
        self._on_change = on_change
        self._budget = Budget()
        self._nudge = trio.Event()
        self._change = trio.Event()
        # Counts sign-ins and sign-outs: what was asked before one is stale after it.
        self._epoch = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the tokens fresh until cancelled."""
        task_status.started()
        while True:
            match soonest(list(self.lives.values()), self._clock.boot()):
                case Fetch():
                    await self._fetch(self._most_urgent())
                case SleepUntil(when):
                    await self._sleep(when - self._clock.boot())
                case AwaitSignIn():
                    await self._sleep(float("inf"))

    async def ask(self, scopes: Scopes, *, min_valid: int | None = None, rejected: str = "") -> Token | Deny:
        """Return a token for a client, or why there is none, after `wire.WAIT_SECONDS` at most.

        `min_valid` is the life in seconds that the client asked for, `rejected` the hash of a token that a mail server
        refused: that one is answered only if no other can be had.
        """
        self._press(scopes, min_valid, rejected)
        reply = self._answer(scopes, min_valid, rejected)
        if isinstance(reply, Wait):
            # Its timer may be late, as after a suspend: a client's need is as good a reason to look at the clock.
            self._wake_up()
            reply = await self._awaited(scopes, min_valid, rejected)
        return self._owned(reply, rejected)

    def signed_in(self, scopes: Scopes, outcome: Outcome) -> None:
        """Take over a sign-in's outcome: a token for these scopes, and the other scope sets are due with it.

        A sign-in that failed changes nothing but a challenge to carry into the next: what was held before is as good
        as it was.
        """
        match outcome:
            case Granted():
                self._epoch += 1
                somebody_else = bool(self.who and outcome.who and outcome.who.lower() != self.who.lower())
                for each in self.lives:
                    if each != scopes:
                        self._publish(each, Life() if somebody_else else revive(self.lives[each], self._clock.boot()))
                self._absorb(scopes, outcome)
            case Refused(trouble=trouble) if trouble.claims:
                for each, life in self.lives.items():
                    if isinstance(life.phase, NeedsSignIn):
                        self._publish(each, replace(life, phase=replace(life.phase, trouble=trouble)))
        self._wake_up()

    def signed_out(self) -> None:
        """Drop every token: the sign-in was given up."""
        self._epoch += 1
        self.persisted = None
        for scopes in self.lives:
            self._publish(scopes, Life(None, NeedsSignIn(self._clock.boot(), _SIGNED_OUT)))
        # Only now: who is told of the change is told of the one who was signed in.
        self.who = self.grant.login
        self._wake_up()

    def refresh(self) -> None:
        """Make everything due now because its owner says so; what needs a sign-in is tried once as well."""
        for scopes, life in self.lives.items():
            self.lives[scopes] = revive(life, self._clock.boot())
        self._wake_up()

    def wake(self) -> None:
        """Look at the clock again, as after a suspend, and bring forward what a working network may mend."""
        for scopes in self.lives:
            self._hurry(scopes)
        self._wake_up()

    async def changed(self) -> None:
        """Wait for the next change of any life."""
        await self._change.wait()

    async def settled(self) -> None:
        """Wait until what is due now, or after the shortest pause, has been answered. Longer pauses are not waited for."""
        asked = dict(self.lives)
        while any(self.lives[scopes] is life and self._is_imminent(life) for scopes, life in asked.items()):
            await self.changed()

    def _is_imminent(self, life: Life) -> bool:
        now = self._clock.boot()
        match plan(life, now):
            case Fetch():
                return True
            case SleepUntil(when):
                return when - now <= PAUSE_AFTER_GRANT
            case AwaitSignIn():
                return False

    async def _sleep(self, seconds: float) -> None:
        # Nothing runs between the plan and this line, so no nudge is missed.
        self._nudge = trio.Event()
        with trio.move_on_after(seconds):
            await self._nudge.wait()

    def _wake_up(self) -> None:
        self._nudge.set()

    def _most_urgent(self) -> Scopes:
        """Return a scope set that is due: one without a usable token first."""
        now = self._clock.boot()
        due = [scopes for scopes, life in self.lives.items() if isinstance(plan(life, now), Fetch)]
        return min(due, key=lambda scopes: usable(self.lives[scopes], now) is not None)

    async def _fetch(self, scopes: Scopes) -> None:
        epoch = self._epoch
        try:
            outcome = await self._provider.acquire(self.grant, scopes)
            if epoch == self._epoch:
                self._absorb(scopes, outcome)
        except Exception:
            # A bug, or an outcome that is none. This account fails and is tried again; no other notices.
            log.exception("asking for a token failed", login=self.grant.login)
            self._absorb(scopes, Transient(_BUG))

    def _absorb(self, scopes: Scopes, outcome: Outcome) -> None:
        outcome = self._explained(outcome)
        life = absorb(self.lives[scopes], outcome, self._clock.boot(), self._luck(), self.grant.refresh_before)
        if isinstance(outcome, Granted):
            self.who = outcome.who or self.who
            self.persisted = outcome.persisted
            self.key_from = outcome.key_from
        self._publish(scopes, life)

    def _explained(self, outcome: Outcome) -> Outcome:
        """Say where a sign-in went that was there: another process than the one that held it knows of none."""
        match outcome:
            case Refused(trouble=Trouble(kind="no-sign-in") as trouble) if self.persisted is False:
                return Refused(replace(trouble, message=_MEMORY_LOST))
        return outcome

    def _publish(self, scopes: Scopes, life: Life) -> None:
        before, self.lives[scopes] = self.lives[scopes], life
        self._change.set()
        self._change = trio.Event()
        self._on_change(self, scopes, before, life)

    def _hurry(self, scopes: Scopes) -> None:
        self.lives[scopes] = hurry(self.lives[scopes], self._clock.boot())

    def _press(self, scopes: Scopes, min_valid: int | None, rejected: str) -> None:
        """Make a fetch due if this client's request is a reason for one."""
        before = self.lives[scopes]
        self._hurry(scopes)
        refused = self._is_held(scopes, rejected)
        if refused or min_valid is not None:
            self.lives[scopes], self._budget, over_budget = press(
                self.lives[scopes], self._budget, self._clock.boot(), min_valid=min_valid or 0.0, rejected=refused
            )
            if over_budget:
                log.warning("no new token for this request: too many were asked for of late", login=self.grant.login)
        if self.lives[scopes] is not before:
            self._wake_up()

    def _answer(self, scopes: Scopes, min_valid: int | None, rejected: str) -> Token | Wait | Deny:
        wanted = DEFAULT_MIN_VALID if min_valid is None else min_valid
        return answer(self.lives[scopes], self._clock.boot(), wanted, rejected=self._is_held(scopes, rejected))

    async def _awaited(self, scopes: Scopes, min_valid: int | None, rejected: str) -> Token | Deny:
        """Return the answer once no fetch is under way, or the second best after `wire.WAIT_SECONDS`."""
        with trio.move_on_after(wire.WAIT_SECONDS):
            while True:
                await self.changed()
                reply = self._answer(scopes, min_valid, rejected)
                if not isinstance(reply, Wait):
                    return reply
        now = self._clock.boot()
        return usable(self.lives[scopes], now) or denial(self.lives[scopes], now)

    def _is_held(self, scopes: Scopes, rejected: str) -> bool:
        held = self.lives[scopes].held
        return bool(rejected and held and token_hash(held.secret) == rejected)

    def _owned(self, reply: Token | Deny, rejected: str) -> Token | Deny:
        if rejected and isinstance(reply, Token) and token_hash(reply.secret) == rejected:
            log.warning("answered a token that a mail server refused: no other can be had", login=self.grant.login)
        return reply
