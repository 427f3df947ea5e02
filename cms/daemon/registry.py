"""All facts about each grant: its keeper, the users that name it, who signed in, and what a sign-in waits for.

Each fact is kept only here. Token files, hooks, systemd's status line and the sign-in page subscribe to changes; commands,
status and hooks query it.

A command without a daemon has a registry too, but does not `run` it. The keepers then fetch no tokens, so it is unknown
which grants need a sign-in: `waiting` is empty.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import trio

from cms.config.model import Config
from cms.core.accounts import (
    Account,
    Grant,
    Scopes,
    Unclear,
    accounts_matching,
    accounts_meant,
    sign_ins_meant,
    users_in_words,
)
from cms.core.forecast import Forecast, forecast, warned_at
from cms.core.lifecycle import Life, NeedsSignIn, Outcome
from cms.core.notices import Facts, HowToSignIn, Remark
from cms.core.status import AccountFacts, StatusRow, describe, expiry_warning, length_warning
from cms.core.words import MEMORY_WARNING
from cms.daemon.keeper import Acquire, Keeper
from cms.daemon.schedule import Schedule
from cms.grants.messages import Prompt
from cms.system.clock import Clock
from cms_oauth.addresses import is_pattern
from cms_oauth.moves import cms
from cms_oauth.providers import PROVIDERS

# How many rows of the status are made before others get their turn: those of some milliseconds.
ROWS_IN_A_TURN = 100

# The name of an account without user= before its first sign-in.
UNKNOWN = "whoever signs in"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one grant. `waiting` is True if `Registry.waiting` may return something else now."""

    keeper: Keeper
    waiting: bool = False


Subscriber: TypeAlias = Callable[[Change], None]


@dataclass(slots=True)
class _Record:
    """The facts about one grant. `users` are its users in the configuration."""

    keeper: Keeper
    users: tuple[str, ...] = ()
    # What the sign-in under way asks a person to do, None if none is waiting.
    prompt: Prompt | None = None


class Registry:
    """The facts about all grants of the configuration; a reload replaces it.

    `acquire` asks the provider for a token. `awaited` returns what a grant's sign-in waits for, in words, and `where` the
    address of the page that can sign it in now, "" if there is none; `SignIns` sets both.
    """

    def __init__(
        self, config: Config, acquire: Acquire, clock: Clock, *, jitter: Callable[[], float] = random.random
    ) -> None:
        self.config = config
        self.awaited: Callable[[Grant], str] = lambda _grant: ""
        self.where: Callable[[Grant], str] = lambda _grant: ""
        self._acquire = acquire
        self._clock = clock
        self._jitter = jitter
        self._records: dict[str, _Record] = {}
        self._subscribers: list[Subscriber] = []
        self._schedule = Schedule(clock)
        self.apply(config)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` for each change from now on. It must not wait or raise."""
        self._subscribers.append(subscriber)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the tokens of all grants fresh until cancelled."""
        await self._schedule.run(task_status=task_status)

    def apply(self, config: Config) -> list[Grant]:
        """Switch to the grants of this configuration; return those that it no longer has. Does not wait."""
        self.config = config
        users: dict[str, list[str]] = {}
        for account in config.accounts:
            users.setdefault(account.grant.key, []).extend(filter(None, [account.user]))
        before, self._records = self._records, {}
        for grant in config.grants:
            record = before.pop(grant.key, None) or self._add(grant)
            record.keeper.take(grant)
            record.users = tuple(users[grant.key])
            self._records[grant.key] = record
        for record in before.values():
            self._schedule.drop(record.keeper)
            record.keeper.close()
        return [record.keeper.grant for record in before.values()]

    def _add(self, grant: Grant) -> _Record:
        plan = self._schedule.plan
        keeper = Keeper(grant, self._acquire, self._clock, jitter=self._jitter, replan=plan, on_change=self._changed)
        plan(keeper)
        return _Record(keeper)

    def wake(self) -> None:
        """Wake every keeper, as after a suspend or a change of the network."""
        for keeper in self.keepers:
            keeper.wake()

    def retry_sooner(self) -> None:
        """Try sooner what failed, as after something less than a change of the network."""
        for keeper in self.keepers:
            keeper.retry_sooner()

    # Events.

    def _changed(self, keeper: Keeper, _scopes: Scopes, before: Life, after: Life) -> None:
        if keeper.grant.key not in self._records:
            # A reload removed the account before the answer arrived.
            return
        waiting = isinstance(before.phase, NeedsSignIn) is not isinstance(after.phase, NeedsSignIn)
        self._tell(Change(keeper, waiting))

    def _tell(self, change: Change) -> None:
        for subscriber in self._subscribers:
            subscriber(change)

    def prompted(self, grant: Grant, prompt: Prompt) -> None:
        """Record that a sign-in under way waits for a person."""
        record = self._records.get(grant.key)
        if record:
            record.prompt = prompt
            self._tell(Change(record.keeper))

    def signed_in(self, grant: Grant, outcome: Outcome) -> None:
        """Take over the outcome of a sign-in. A grant that has left the configuration is ignored."""
        record = self._records.get(grant.key)
        if record is None:
            return
        record.prompt = None
        if record.keeper.grant.scope_sets[:1] == grant.scope_sets[:1]:
            # A sign-in gives a token for the grant's first scope set.
            record.keeper.signed_in(grant.scope_sets[0], outcome)
        else:
            # The configuration has changed since the sign-in began.
            record.keeper.refresh()

    # Queries.

    @property
    def names(self) -> dict[str, str]:
        """Who has signed in, by the grant's key; "" if unknown."""
        return {key: record.keeper.who for key, record in self._records.items()}

    @property
    def keepers(self) -> list[Keeper]:
        return [record.keeper for record in self._records.values()]

    def keeper_of(self, grant: Grant) -> Keeper:
        return self._records[grant.key].keeper

    def meant(self, name: str, command: str) -> list[Keeper] | Unclear:
        """Return the keepers of the grants that a name refers to, "" for the only one."""
        grants = sign_ins_meant(self.config.accounts, name, command, self.names)
        return grants if isinstance(grants, Unclear) else [self.keeper_of(grant) for grant in grants]

    def matching(self, name: str) -> Sequence[Account]:
        """Return the accounts that a name or a pattern refers to, "" for all."""
        find = accounts_matching if is_pattern(name) else accounts_meant
        return find(self.config.accounts, name, self.names)

    def waiting(self) -> list[Grant]:
        """Return the grants that a person has to sign in."""
        return [keeper.grant for keeper in self.keepers if needs_sign_in(keeper)]

    def challenge(self, grant: Grant) -> str:
        """Return the conditional-access challenge that the next sign-in of a grant must meet, "" if there is none."""
        record = self._records.get(grant.key)
        phases = [life.phase for life in record.keeper.lives.values()] if record else []
        claims = [phase.trouble.claims for phase in phases if isinstance(phase, NeedsSignIn)]
        return next(filter(None, claims), "")

    def name_of(self, keeper: Keeper) -> str:
        """Return a grant's name for people: its first user in the configuration, else who signed in."""
        # A reload may have removed the grant while a command waited for its keeper.
        record = self._records.get(keeper.grant.key)
        return next(iter(record.users if record else ()), keeper.who) or UNKNOWN

    def in_words(self, keepers: Iterable[Keeper]) -> str:
        """Return the names of all accounts of these keepers, each once."""
        keys = {keeper.grant.key for keeper in keepers}
        return users_in_words((each for each in self.config.accounts if each.grant.key in keys), self.names)

    def rows(self, accounts: Iterable[Account] | None = None) -> list[StatusRow]:
        """Return the rows of `cms status` for these accounts, or for all."""
        entries = [self._entry(each) for each in (self.config.accounts if accounts is None else accounts)]
        return describe(entries, self._clock.boot(), self._clock.wall())

    async def rows_in_turns(self) -> list[StatusRow]:
        """Return the rows for all accounts, and let other tasks run in between: ten thousand take a quarter of a second."""
        accounts, rows = self.config.accounts, list[StatusRow]()
        for first in range(0, len(accounts), ROWS_IN_A_TURN):
            await trio.lowlevel.checkpoint()
            # A reload in between may have removed some.
            rows += self.rows(
                each for each in accounts[first : first + ROWS_IN_A_TURN] if each.grant.key in self._records
            )
        return rows

    def _entry(self, account: Account) -> AccountFacts:
        keeper = self._records[account.grant.key].keeper
        return AccountFacts(
            account,
            account.user or keeper.who,
            keeper.lives,
            keeper.sign_in,
            self.awaited(keeper.grant),
            self.where(keeper.grant),
            _forecast(keeper, self._clock.wall()),
        )

    def rekeyed(self, key_from: str, unmoved: Collection[str]) -> None:
        """Note where the key of the stored sign-ins is now, but for those whose grants have these keys."""
        for keeper in self.keepers:
            if keeper.sign_in.persisted and keeper.grant.key not in unmoved:
                keeper.sign_in = replace(keeper.sign_in, key_from=key_from)

    def facts(self, key: str) -> Facts | None:
        """Return the facts about a grant for hooks, None if it has left the configuration."""
        record = self._records.get(key)
        if record is None:
            return None
        keeper, grant, prompt = record.keeper, record.keeper.grant, record.prompt
        ahead = self._clock.wall() - self._clock.boot()
        expected = _forecast(keeper, self._clock.wall())
        return Facts(
            self.name_of(keeper),
            list(keeper.lives.values()),
            how=HowToSignIn(
                None if grant.unattended else cms("login", keeper.who),
                prompt.url if prompt else "",
                prompt.user_code if prompt else "",
                self.where(grant),
            ),
            prompt_hint=self.awaited(grant),
            sign_in=keeper.sign_in,
            forecast=expected,
            warn_at=warned_at(expected, keeper.sign_in.given_at) - ahead if expected else 0.0,
            wall_ahead=ahead,
            remarks=tuple(self._remarks(keeper)),
        )

    def _remarks(self, keeper: Keeper) -> Iterator[Remark]:
        name, key, vault = self.name_of(keeper), keeper.grant.key, self.config.vault_key
        if keeper.sign_in.persisted is False or (vault and vault.kind == "memory"):
            yield Remark("memory", MEMORY_WARNING)
        for scopes, life in keeper.lives.items():
            if warning := length_warning(life):
                yield Remark(f"length {key} {scopes}", warning, name)
        ends = keeper.sign_in.credential_expires
        if warning := expiry_warning(ends, self._clock.wall()):
            yield Remark(f"expiry {key} {ends}", warning, name)


def needs_sign_in(keeper: Keeper) -> bool:
    """Return True if a person has to sign in. A refused application does not need a person."""
    refused = (life.phase for life in keeper.lives.values() if isinstance(life.phase, NeedsSignIn))
    return not keeper.grant.unattended and any(refused)


def _forecast(keeper: Keeper, wall: float) -> Forecast | None:
    """Return when a keeper's sign-in is expected to end, None if it has ended already."""
    if needs_sign_in(keeper):
        return None
    # Only registrations of the single-page platform have an Origin.
    spa, idle = keeper.grant.origin is not None, PROVIDERS[keeper.grant.provider].idle
    return forecast(keeper.sign_in, spa=spa, now=wall, idle=idle)
