"""Keeps the tokens of one Grant fresh: a task that plans, asks the provider, and publishes what came of it as a life.

Only the keeper asks the provider for its Grant, one question at a time, so that needs no lock: a request that needs a
token makes a fetch due and waits for the life to change. The task sleeps until the plan's next moment or a nudge;
nothing here polls.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

import trio

from cms.core.accounts import Grant, Scopes, resource
from cms.core.lifecycle import (
    DEFAULT_MIN_VALID,
    NOTHING_KNOWN,
    PAUSE_AFTER_GRANT,
    AwaitSignIn,
    Budget,
    Deny,
    Failing,
    Fetch,
    Granted,
    Life,
    Need,
    NeedsSignIn,
    Outcome,
    Refused,
    Settled,
    SleepUntil,
    Token,
    Transient,
    Trouble,
    Wait,
    absorb,
    answer,
    demand_fresh,
    denial,
    plan,
    retry_now,
    retry_sooner,
    sign_in_refused,
    soonest,
    usable,
)
from cms.core.preflight import covers, uncovered
from cms.system.clock import Clock
from cms.system.logs import get_logger
from cms_oauth import wire
from cms_oauth.moves import cms, fill

# Asks the provider for a token. It never raises; every end is an outcome.
Acquire: TypeAlias = Callable[[Grant, Scopes], Awaitable[Outcome]]

log = get_logger()

_SIGNED_OUT = "the sign-in was given up with `cms logout`"
_MEMORY_LOST = "the sign-in was kept in memory only, and the process that held it has ended"
_RECONFIGURED = Deny("unavailable", "the configuration has changed meanwhile", "ask again", 1.0)
_BUG = Trouble(
    "worker", "asking for a token failed inside cms", "it is tried again by itself; the log has the traceback"
)


def token_hash(secret: str) -> str:
    """Return the name by which a mail client may say that this token was refused: `rejected=` on the wire."""
    return hashlib.sha256(secret.encode()).hexdigest()[: wire.HASH_DIGITS]


def _unheard(_keeper: Keeper, _scopes: Scopes, _before: Life, _after: Life) -> None:
    """Tell no one."""


class Keeper:
    """Keeps the tokens of one Grant, one life for each of its scope sets.

    `sign_in` is what is known of the sign-in behind them. `on_change` hears of every life that a provider call, a sign-in
    or a sign-out has changed.
    """

    def __init__(
        self,
        grant: Grant,
        acquire: Acquire,
        clock: Clock,
        *,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[Keeper, Scopes, Life, Life], None] = _unheard,
    ) -> None:
        self.grant = grant
        self.lives: dict[Scopes, Life] = dict.fromkeys(grant.scope_sets, Life())
        self.sign_in = replace(NOTHING_KNOWN, who=grant.login)
        self._acquire = acquire
        self._clock = clock
        self._jitter = jitter
        self._on_change = on_change
        self._budget = Budget()
        self._nudge = trio.Event()
        self._change = trio.Event()
        # Counts sign-ins and sign-outs: what was asked before one is stale after it.
        self._epoch = 0

    @property
    def who(self) -> str:
        """The user who has signed in, or the login that the configuration names; "" while neither is known."""
        return self.sign_in.who

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

    def take(self, grant: Grant) -> None:
        """Go on with other settings of the same Grant: no token is lost to them.

        A scope set that is new starts with a token that this sign-in has for the same resource, and is due: mail goes
        on by that while the provider is asked. What failed or was refused is tried anew, as the settings may mend it.
        """
        assert grant.key == self.grant.key, "another sign-in is another keeper's"
        if grant == self.grant:
            return
        now, before = self._clock.boot(), self.lives
        self.grant = grant
        self.lives = {scopes: self._taken_over(before, scopes, now) for scopes in grant.scope_sets}
        self._tell()
        self._wake_up()

    def _taken_over(self, before: dict[Scopes, Life], scopes: Scopes, now: float) -> Life:
        life = before.get(scopes)
        if life:
            return life if isinstance(life.phase, Settled) else retry_now(life, now)
        held = [
            life.held for known, life in before.items() if usable(life, now) and resource(known) == resource(scopes)
        ]
        return retry_now(Life(held[0]), now) if held else Life()

    def close(self) -> None:
        """Drop all tokens and answer no more requests: the Grant has left the configuration."""
        self._epoch += 1
        self.lives = {}
        self._tell()

    def answer(self, scopes: Scopes, need: Need, *, again: bool = False) -> Token | Wait | Deny:
        """Return a token for a client, or why there is none, or `Wait` where a fetch is due: then `wait` waits for it.

        A need of its own makes a fetch due, unless it is asked `again`. A token that a mail server refused is returned
        only if no other can be had.
        """
        life = self.lives.get(scopes)
        if life is None:
            return _RECONFIGURED
        if not again and (need.min_valid is not None or need.rejected or isinstance(life.phase, Failing)):
            life = self._demand_fresh(scopes, life, need)
        held, wanted = life.held, DEFAULT_MIN_VALID if need.min_valid is None else need.min_valid
        suits = held is None or (covers(held, need.permission) and not (need.rejected and _refuses(need, held)))
        reply = answer(life, self._clock.boot(), wanted, rejected=not suits)
        if isinstance(reply, Token):
            return reply if suits else self._second_best(reply, scopes, need)
        if isinstance(reply, Wait):
            # Its timer may be late, as after a suspend: a client's need is as good a reason to look at the clock.
            self._wake_up()
        return reply

    async def wait(self, scopes: Scopes, need: Need) -> Token | Deny:
        """Return the answer once no fetch is under way, or the second best after `wire.WAIT_SECONDS`."""
        with trio.move_on_after(wire.WAIT_SECONDS):
            while isinstance(reply := self.answer(scopes, need, again=True), Wait):
                await self.changed()
            return reply
        life, now = self.lives.get(scopes), self._clock.boot()
        if life is None:
            return _RECONFIGURED
        held = usable(life, now)
        return self._second_best(held, scopes, need) if held else denial(life, now)

    def signed_in(self, scopes: Scopes, outcome: Outcome) -> None:
        """Take over a sign-in's outcome: a token for these scopes, and the other scope sets are due with it.

        A sign-in that was refused says what stands in the way of those that are required, and changes no more: what
        was held before is as good as it was.
        """
        match outcome:
            case Granted():
                self._epoch += 1
                before, now = self.who.lower(), outcome.sign_in.who.lower()
                somebody_else = bool(before and now and before != now)
                for each in self.lives:
                    if each != scopes:
                        self._publish(
                            each, Life() if somebody_else else retry_now(self.lives[each], self._clock.boot())
                        )
                self._absorb(scopes, outcome)
            case Refused():
                for each, life in self.lives.items():
                    known = sign_in_refused(life, outcome)
                    if known is not life:
                        self._publish(each, known)
        self._wake_up()

    def signed_out(self) -> None:
        """Drop every token: the sign-in was given up."""
        self._epoch += 1
        # What a sign-out does not change stays known: where the key comes from, and the application's certificate.
        self.sign_in = replace(self.sign_in, persisted=None, given_at=0.0, redeemed_at=0.0, endings=())
        trouble = Trouble(
            "signed-out", _SIGNED_OUT, fill("sign in again with {login}", {"login": cms("login", self.who)})
        )
        for scopes in self.lives:
            self._publish(scopes, Life(None, NeedsSignIn(self._clock.boot(), trouble)))
        # Only now: who is told of the change is told of the one who was signed in.
        self.sign_in = replace(self.sign_in, who=self.grant.login)
        self._wake_up()

    def refresh(self) -> None:
        """Make everything due now because its owner says so; what needs a sign-in is tried once as well."""
        for scopes, life in self.lives.items():
            self.lives[scopes] = retry_now(life, self._clock.boot())
        self._wake_up()

    def wake(self) -> None:
        """Look at the clock again, as after a suspend, and bring forward what a working network may mend."""
        for scopes in self.lives:
            self._retry_sooner(scopes)
        self._wake_up()

    async def changed(self) -> None:
        """Wait for the next change of any life."""
        await self._change.wait()

    async def settled(self) -> None:
        """Wait until what is due now, or after the shortest pause, has been answered. Longer pauses are not waited for."""
        asked = dict(self.lives)
        while any(self.lives.get(scopes) is life and self._is_imminent(life) for scopes, life in asked.items()):
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
            outcome = await self._acquire(self.grant, scopes)
            if epoch == self._epoch:
                self._absorb(scopes, outcome)
        except Exception:
            # A bug, or an outcome that is none. This account fails and is tried again; no other notices.
            log.exception("asking for a token failed", login=self.grant.login)
            self._absorb(scopes, Transient(_BUG))

    def _absorb(self, scopes: Scopes, outcome: Outcome) -> None:
        if scopes not in self.lives:
            # The configuration asks for them no more.
            return
        outcome = self._explained(outcome)
        life = absorb(self.lives[scopes], outcome, self._clock.boot(), self._jitter(), self.grant.refresh_before)
        if isinstance(outcome, Granted):
            known = outcome.sign_in
            self.sign_in = replace(known, who=known.who or self.who, redeemed_at=self._clock.wall())
        elif isinstance(outcome, Transient) and outcome.sign_in.given_at:
            # A sign-in of an earlier daemon's that has given this one nothing yet.
            given, redeemed = outcome.sign_in.given_at, max(self.sign_in.redeemed_at, outcome.sign_in.redeemed_at)
            endings = outcome.sign_in.endings
            self.sign_in = replace(self.sign_in, given_at=given, redeemed_at=redeemed, endings=endings)
        self._publish(scopes, life)

    def _explained(self, outcome: Outcome) -> Outcome:
        """Say where a sign-in went that was there: another process than the one that held it knows of none."""
        match outcome:
            case Refused(trouble=Trouble(kind="no-sign-in") as trouble) if self.sign_in.persisted is False:
                return Refused(replace(trouble, message=_MEMORY_LOST))
        return outcome

    def _publish(self, scopes: Scopes, life: Life) -> None:
        before, self.lives[scopes] = self.lives[scopes], life
        self._tell()
        self._on_change(self, scopes, before, life)

    def _tell(self) -> None:
        """Wake all that wait for a change."""
        self._change.set()
        self._change = trio.Event()

    def _retry_sooner(self, scopes: Scopes) -> None:
        self.lives[scopes] = retry_sooner(self.lives[scopes], self._clock.boot())

    def _demand_fresh(self, scopes: Scopes, before: Life, need: Need) -> Life:
        """Make a fetch due if this client's request is a reason for one; return the life after that."""
        self._retry_sooner(scopes)
        refused = before.held is not None and _refuses(need, before.held)
        if refused or need.min_valid is not None:
            self.lives[scopes], self._budget, over_budget = demand_fresh(
                self.lives[scopes], self._budget, self._clock.boot(), min_valid=need.min_valid or 0.0, rejected=refused
            )
            if over_budget:
                log.warning("no new token for this request: too many were asked for of late", login=self.grant.login)
        if self.lives[scopes] is not before:
            self._wake_up()
        return self.lives[scopes]

    def _second_best(self, held: Token, scopes: Scopes, need: Need) -> Token | Deny:
        """Return a token that falls short of a client's need, if it opens the client's protocol at all."""
        if not covers(held, need.permission):
            return Deny("sign-in-required", *uncovered(need.permission, scopes, self.who))
        if _refuses(need, held):
            log.warning("answered a token that a mail server refused: no other can be had", login=self.grant.login)
        return held


def _refuses(need: Need, token: Token) -> bool:
    """Return whether this is the very token that a mail server refused."""
    return token_hash(token.secret) == need.rejected
