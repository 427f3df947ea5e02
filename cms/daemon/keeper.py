"""Keeps the tokens of one Grant fresh: plans, asks the provider, and publishes each result as a life.

Only the keeper asks the provider for its Grant, one question at a time, so no lock is needed: a request that needs a
token makes a fetch due and waits for the life to change. Between its questions the keeper is data: `Schedule` has its
time, and starts it then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeAlias

import trio

from cms.core.accounts import Grant, Scopes, resource
from cms.core.budget import LOOKS, Budget
from cms.core.lifecycle import (
    DEFAULT_MIN_VALID,
    NOTHING_KNOWN,
    PAUSE_AFTER_GRANT,
    AwaitSignIn,
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
    is_looked_at,
    plan,
    postponed,
    reconnected,
    retry_now,
    retry_sooner,
    sign_in_refused,
    soonest,
    token_hash,
    usable,
)
from cms.core.looks import UNANSWERED
from cms.core.preflight import covers, uncovered
from cms.grants.messages import Looked
from cms.system.clock import Clock
from cms.system.logs import get_logger
from cms_oauth.moves import cms, fill


class Acquire(Protocol):
    """Asks for a token, as `messages.Acquire` says. It never raises; every result is an outcome."""

    def __call__(
        self, grant: Grant, scopes: Scopes, held: str, rejected: str, /, *, wanted: bool
    ) -> Awaitable[Outcome]: ...


# Asks what another host of a fleet has done with a grant: for these scopes, with the hash of the held token, "" for none.
Look: TypeAlias = Callable[[Grant, Scopes, str], Awaitable[Outcome | Looked]]

# How long after a look that has got no answer the next one is.
LOOK_AGAIN = 60.0

log = get_logger()

_SIGNED_OUT = "signed out with `cms logout`"
_MEMORY_LOST = "the sign-in was kept in memory only, and the process that held it has ended"
_RECONFIGURED = Deny("unavailable", "the configuration has changed in the meantime", "try again", 1.0)
_BUG = Trouble("worker", "cms failed while asking for a token", fill("{retries}; the log has the traceback"))

# What each of ten thousand keepers begins with. Both are frozen, so one of each is enough.
_NEW_LIFE, _UNSPENT = Life(), Budget()


def _unheard(_keeper: Keeper, _scopes: Scopes, _before: Life, _after: Life) -> None:
    """Tell no one."""


def _unplanned(_keeper: Keeper) -> None:
    """Start no fetch, as in a command without a daemon."""


async def unlooked(_grant: Grant, _scopes: Scopes, _held: str) -> Looked:
    """See nothing, as without a fleet."""
    await trio.lowlevel.checkpoint()
    return Looked(0.0)


class Keeper:
    """Keeps the tokens of one Grant, one life for each of its scope sets.

    `sign_in` has the facts about the sign-in behind them. `replan` is called when `due` may have changed or the clock may
    have jumped, and `on_change` for every life that a provider call, a sign-in or a sign-out has changed.
    """

    # There may be ten thousand.
    __slots__ = (
        "_acquire",
        "_budget",
        "_change",
        "_clock",
        "_epoch",
        "_jitter",
        "_look",
        "_look_at",
        "_looks",
        "_on_change",
        "_rejected",
        "_replan",
        "_wanted",
        "grant",
        "lives",
        "sign_in",
    )

    def __init__(
        self,
        grant: Grant,
        acquire: Acquire,
        clock: Clock,
        *,
        look: Look = unlooked,
        jitter: Callable[[], float] = random.random,
        replan: Callable[[Keeper], None] = _unplanned,
        on_change: Callable[[Keeper, Scopes, Life, Life], None] = _unheard,
    ) -> None:
        self.grant = grant
        self.lives: dict[Scopes, Life] = dict.fromkeys(grant.scope_sets, _NEW_LIFE)
        self.sign_in = replace(NOTHING_KNOWN, who=grant.login)
        self._acquire = acquire
        self._look = look
        self._clock = clock
        self._jitter = jitter
        self._replan = replan
        self._on_change = on_change
        self._budget = _UNSPENT
        self._looks = LOOKS
        # When to look at what another host of the fleet has done.
        self._look_at = math.inf
        # The hashes of held tokens that a mail server has refused, or of one that was named while none was held.
        self._rejected: frozenset[str] = frozenset()
        # The scope sets for which a client or the owner has asked for another token.
        self._wanted: frozenset[Scopes] = frozenset()
        # Only while somebody waits for it.
        self._change: trio.Event | None = None
        # Counts sign-ins and sign-outs: an answer to a question from before one is out of date after it, except for a
        # token of the new sign-in.
        self._epoch = 0

    @property
    def who(self) -> str:
        """The user who has signed in, else the login in the configuration; "" if neither is known."""
        return self.sign_in.who

    def due(self) -> float:
        """Return when to `ask`: a moment of the boot clock, infinity while only a person can help."""
        now = self._clock.boot()
        match soonest(list(self.lives.values()), now):
            case Fetch():
                return now
            case SleepUntil(when):
                return min(when, self._look_at)
            case AwaitSignIn():
                return self._look_at

    async def ask(self) -> None:
        """Ask the provider for as long as a fetch is due."""
        while self.due() <= self._clock.boot():
            if self._look_at > self._clock.boot():
                await self._fetch(self._most_urgent())
                continue
            try:
                await self._look_around()
            except Exception:
                # A bug, as in a fetch.
                log.exception("asking what other hosts have done failed", login=self.grant.login)
        # Another host of the fleet may get a token that is refused only because of where this host is.
        if self.sign_in.shared and is_looked_at(self.lives.values()):
            self._look_at = min(self._look_at, self._clock.boot() + LOOK_AGAIN)

    def take(self, grant: Grant) -> None:
        """Use other settings of the same Grant from now on, without losing a token.

        A new scope set starts with a token that this sign-in has for the same resource, so that mail goes on, and a fetch
        is due. What failed or was refused is tried again, because the new settings may fix it.
        """
        assert grant.key == self.grant.key, "a keeper keeps one grant"
        same = grant == self.grant
        # Also if it is equal: otherwise the grants of two configurations would stay in memory after a reload.
        self.grant = grant
        if same:
            return
        now, before = self._clock.boot(), self.lives
        self.lives = {scopes: self._taken_over(before, scopes, now) for scopes in grant.scope_sets}
        self._tell()
        self._wake_up()

    def _taken_over(self, before: dict[Scopes, Life], scopes: Scopes, now: float) -> Life:
        life = before.get(scopes)
        if life:
            return life if isinstance(life.phase, Settled) else retry_now(life, now)
        tokens = (usable(life, now) for known, life in before.items() if resource(known) == resource(scopes))
        held = [token for token in tokens if token]
        return retry_now(Life(replace(held[0], borrowed=True)), now) if held else Life()

    def close(self) -> None:
        """Drop all tokens and answer no more requests, because the Grant has left the configuration."""
        self._epoch += 1
        self.lives = {}
        self._tell()

    def answer(self, scopes: Scopes, need: Need, *, again: bool = False) -> Token | Wait | Deny:
        """Return a token for a client, why there is none, or `Wait` if a fetch is due: then call `wait`.

        A client with special needs makes a fetch due, unless it asks `again`. A token that a mail server refused is
        returned only if there is no other.
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
            return reply if suits else self._second_best(life, reply, scopes, need)
        if isinstance(reply, Wait):
            # The keeper's timer may be late, as after a suspend.
            self._wake_up()
        return reply

    async def wait(self, scopes: Scopes, need: Need) -> Token | Deny:
        """Return the answer when no fetch is under way any more. The caller sets the time limit."""
        while isinstance(reply := self.answer(scopes, need, again=True), Wait):
            await self.changed()
        return reply

    def without_waiting(self, scopes: Scopes, need: Need) -> Token | Deny:
        """Return what there is for a client that cannot wait any longer: a second best token, or why there is none.

        The token that a mail server refused is no use to it while another one is on its way.
        """
        life, now = self.lives.get(scopes), self._clock.boot()
        if life is None:
            return _RECONFIGURED
        held = usable(life, now)
        if held is None or (_refuses(need, held) and isinstance(plan(life, now), Fetch)):
            return denial(life, now)
        return self._second_best(life, held, scopes, need)

    def signed_in(self, scopes: Scopes, outcome: Outcome) -> None:
        """Take over the outcome of a sign-in: its token is for these scopes, and makes a fetch due for the others.

        A refused sign-in only updates the reason why a sign-in is required. Tokens that are held stay valid.
        """
        match outcome:
            case Granted():
                self._epoch += 1
                before, now = self.who.lower(), outcome.sign_in.who.lower()
                other_user = bool(before and now and before != now)
                for each in self.lives:
                    if each != scopes:
                        self._publish(each, Life() if other_user else retry_now(self.lives[each], self._clock.boot()))
                self._absorb(scopes, outcome)
            case Refused():
                for each, life in self.lives.items():
                    known = sign_in_refused(life, outcome)
                    if known is not life:
                        self._publish(each, known)
        self._wake_up()

    def signed_out(self) -> None:
        """Drop every token after a sign-out."""
        self._epoch += 1
        # A sign-out does not change where the key comes from, nor the application's certificate.
        self.sign_in = replace(self.sign_in, persisted=None, given_at=0.0, redeemed_at=0.0, endings=(), ends_at=0.0)
        trouble = Trouble("signed-out", _SIGNED_OUT, fill("sign in again: {login}", {"login": cms("login", self.who)}))
        for scopes in self.lives:
            self._publish(scopes, Life(None, NeedsSignIn(self._clock.boot(), trouble)))
        # Last: the subscribers to the change read the name of the user who was signed in.
        self.sign_in = replace(self.sign_in, who=self.grant.login)
        self._wake_up()

    def refresh(self) -> None:
        """Make every fetch due now, at the owner's request; scopes that need a sign-in are tried once too."""
        for scopes, life in self.lives.items():
            self.lives[scopes] = retry_now(life, self._clock.boot())
        self._wanted = frozenset(self.lives)
        self._wake_up()

    def heard(self) -> None:
        """Look at what another host of the fleet has done with the sign-in."""
        self._look_at = self._clock.boot()
        self._wake_up()

    def wake(self) -> None:
        """Check the clock again, as after a suspend or a change of the network, and try sooner what that may have fixed."""
        for scopes, life in self.lives.items():
            self.lives[scopes] = reconnected(life, self._looks, self._clock.boot())
        self._wake_up()

    def retry_sooner(self) -> None:
        """Try sooner what failed, but look at no refusal."""
        for scopes in self.lives:
            self.lives[scopes] = retry_sooner(self.lives[scopes], self._clock.boot())
        self._wake_up()

    async def changed(self) -> None:
        """Wait for the next change of any life."""
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()

    async def settled(self) -> None:
        """Wait until fetches that are due now, or after the shortest pause, are answered. Later ones are not waited for."""
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

    def _wake_up(self) -> None:
        self._replan(self)

    def _most_urgent(self) -> Scopes:
        """Return a scope set that is due, preferably one without a usable token."""
        now = self._clock.boot()
        due = [scopes for scopes, life in self.lives.items() if isinstance(plan(life, now), Fetch)]
        return min(due, key=lambda scopes: usable(self.lives[scopes], now) is not None)

    async def _fetch(self, scopes: Scopes) -> None:
        epoch, life = self._epoch, self.lives[scopes]
        self.lives[scopes] = postponed(life, self._looks, self._clock.boot())
        if self.lives[scopes] is not life:
            return
        try:
            held = token_hash(life.held.secret) if life.held else ""
            rejected = held if held in self._rejected else ""
            outcome = await self._acquire(self.grant, scopes, held, rejected, wanted=scopes in self._wanted)
            if isinstance(outcome, Granted):
                self._rejected -= {held}
                self._wanted -= {scopes}
            self._count(life, outcome)
            if epoch == self._epoch or self._is_of_this_sign_in(outcome):
                self._absorb(scopes, outcome)
        except Exception:
            # A bug. Only this account fails, and is tried again.
            log.exception("asking for a token failed", login=self.grant.login)
            self._absorb(scopes, Transient(_BUG))

    async def _look_around(self) -> None:
        """Ask what another host has done, and take it over."""
        self._look_at, epoch = math.inf, self._epoch
        for scopes, life in list(self.lives.items()):
            found = await self._look(self.grant, scopes, token_hash(life.held.secret) if life.held else "")
            if epoch == self._epoch and scopes in self.lives:
                self._take_over(scopes, found)
            if epoch != self._epoch:
                # A sign-in or a sign-out, there or here, which was for all scopes.
                return

    def _take_over(self, scopes: Scopes, found: Outcome | Looked) -> None:
        """Take over what another host has done."""
        if isinstance(found, Looked):
            self.sign_in = replace(self.sign_in, shared=found.shared)
        match found:
            case Transient():
                self._look_at = self._clock.boot() + LOOK_AGAIN
            case Looked() if found.given_at not in (0.0, self.sign_in.given_at):
                self._epoch += 1
                self.refresh()
            case Looked(wished=True):
                self._wanted |= {scopes}
                self.lives[scopes] = retry_now(self.lives[scopes], self._clock.boot())
            case Granted() if found.sign_in.given_at != self.sign_in.given_at:
                self.signed_in(scopes, found)
            case Refused() if isinstance(self.lives[scopes].phase, NeedsSignIn):
                pass  # It is known, and better than another host can tell.
            case Refused() if found.trouble.kind in ("no-sign-in", "relay"):
                self.signed_out()
                if found.again_in:
                    # Nothing else tells this host when there is a token.
                    self.refresh()
            case Granted() | Refused():
                self._absorb(scopes, found)

    def _is_of_this_sign_in(self, outcome: Outcome) -> bool:
        """Return True for a token of the sign-in that is known now: it was stored before the keeper heard of it."""
        given_at = outcome.sign_in.given_at if isinstance(outcome, Granted) else 0.0
        return given_at != 0.0 and given_at == self.sign_in.given_at

    def _count(self, before: Life, outcome: Outcome) -> None:
        """Count a look at a refusal that the provider has answered. One that it has granted may end the others too."""
        if not isinstance(before.phase, NeedsSignIn) or not before.phase.look:
            return
        now, unanswered = self._clock.boot(), isinstance(outcome, Transient) and outcome.trouble.kind in UNANSWERED
        log.info("a refusal was looked at again", login=self.grant.login, outcome=type(outcome).__name__.lower())
        if not unanswered:
            self._looks = self._looks.spend(now)
        if isinstance(outcome, Granted):
            for scopes, life in self.lives.items():
                self.lives[scopes] = reconnected(life, self._looks, now)

    def _absorb(self, scopes: Scopes, outcome: Outcome) -> None:
        if scopes not in self.lives:
            # The configuration no longer has these scopes.
            return
        outcome = self._explained(outcome)
        now, margin = self._clock.boot(), self.grant.refresh_before
        life = absorb(self.lives[scopes], outcome, now, self._jitter(), margin, looks=self._looks)
        if isinstance(outcome, Granted):
            if outcome.doubtful or token_hash(outcome.secret) in self._rejected:
                life = retry_now(life, now)
            known = outcome.sign_in
            self.sign_in = replace(
                known, who=known.who or self.who, redeemed_at=known.redeemed_at or self._clock.wall()
            )
        elif isinstance(outcome, Transient) and outcome.sign_in.given_at:
            # A sign-in from before this daemon started, which has not given it a token yet.
            given, redeemed = outcome.sign_in.given_at, max(self.sign_in.redeemed_at, outcome.sign_in.redeemed_at)
            endings, ends_at = outcome.sign_in.endings, outcome.sign_in.ends_at
            self.sign_in = replace(self.sign_in, given_at=given, redeemed_at=redeemed, endings=endings, ends_at=ends_at)
        self._publish(scopes, life)

    def _explained(self, outcome: Outcome) -> Outcome:
        """Explain a missing sign-in that was kept in memory: a new worker process does not have it."""
        match outcome:
            case Refused(trouble=Trouble(kind="no-sign-in") as trouble) if self.sign_in.persisted is False:
                return Refused(replace(trouble, message=_MEMORY_LOST))
        return outcome

    def _publish(self, scopes: Scopes, life: Life) -> None:
        before, self.lives[scopes] = self.lives[scopes], life
        self._tell()
        self._on_change(self, scopes, before, life)

    def _tell(self) -> None:
        """Wake all tasks that wait for a change."""
        if self._change is not None:
            self._change.set()
            self._change = None

    def _demand_fresh(self, scopes: Scopes, before: Life, need: Need) -> Life:
        """Make a fetch due if this client's request needs one; return the resulting life."""
        self.lives[scopes] = retry_sooner(before, self._clock.boot())
        refused = before.held is not None and _refuses(need, before.held)
        if refused:
            self._rejected |= {need.rejected}
        elif need.rejected and before.held is None:
            # The stored token may be the one that the client names. Keep one such hash only: a client can send any number.
            self._rejected = frozenset({need.rejected})
        if refused or need.min_valid is not None:
            life = self.lives[scopes]
            self.lives[scopes], self._budget, over_budget = demand_fresh(
                life, self._budget, self._clock.boot(), min_valid=need.min_valid or 0.0, rejected=refused
            )
            self._wanted |= {scopes} if self.lives[scopes] is not life else set()
            if over_budget:
                log.warning("no new token for this request: too many were requested recently", login=self.grant.login)
        if self.lives[scopes] is not before:
            self._wake_up()
        return self.lives[scopes]

    def _second_best(self, life: Life, held: Token, scopes: Scopes, need: Need) -> Token | Deny:
        """Return a token that does not fully meet the client's need, if it is good for the client's protocol at all."""
        if not covers(held, need.permission):
            if held.borrowed:
                # The provider has not answered yet whether the sign-in covers it, or has refused for another reason.
                return denial(life, self._clock.boot())
            return Deny("sign-in-required", *uncovered(need.permission, scopes, self.who))
        if _refuses(need, held):
            log.warning("answered with a token that a mail server refused: there is no other", login=self.grant.login)
        return held


def _refuses(need: Need, token: Token) -> bool:
    """Return True if this is the token that a mail server refused."""
    return token_hash(token.secret) == need.rejected
