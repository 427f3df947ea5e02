"""All facts about each grant: its keeper, the users that name it, who signed in, and what a sign-in waits for.

Each fact is kept only here. Token files, hooks, systemd's status line and the sign-in page subscribe to changes; commands,
status and hooks query it.

A command without a daemon has a registry too, but does not `run` it. The keepers then fetch no tokens, so it is unknown
which grants need a sign-in: `waiting` is empty.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    domain_of,
    sign_ins_meant,
    users_in_words,
)
from cms.core.forecast import Forecast, forecast, warned_at
from cms.core.lifecycle import Deny, Failing, Life, NeedsSignIn, Outcome
from cms.core.mailboxes import Mailboxes, Place
from cms.core.notices import Facts, HowToSignIn, remarks
from cms.core.status import AccountFacts, StatusRow, describe
from cms.daemon.keeper import Acquire, Keeper, Look, unlooked
from cms.daemon.schedule import Schedule
from cms.grants.messages import Prompt
from cms.system.clock import Clock
from cms.system.logs import get_logger
from cms_oauth.addresses import is_pattern
from cms_oauth.moves import cms
from cms_oauth.providers import PROVIDERS

log = get_logger()

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
    """The facts about one grant. `users` are its users in the configuration.

    An account whose mailboxes each have their own grant has no token: its record has `mailboxes`. Each open mailbox has
    its own record, with its `place`.
    """

    keeper: Keeper
    users: tuple[str, ...] = ()
    # What the sign-in under way asks a person to do, None if none is waiting.
    prompt: Prompt | None = None
    mailboxes: Mailboxes | None = None
    place: Place | None = None


class Registry:
    """The facts about all grants of the configuration; a reload replaces it.

    `acquire` asks the provider for a token, `look` what other hosts of a fleet have done. `awaited` returns what a grant's
    sign-in waits for, in words, and `where` the address of the page that can sign it in now, "" if there is none; `SignIns`
    sets both.
    """

    def __init__(
        self,
        config: Config,
        acquire: Acquire,
        clock: Clock,
        *,
        look: Look = unlooked,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.awaited: Callable[[Grant], str] = lambda _grant: ""
        self.where: Callable[[Grant], str] = lambda _grant: ""
        self._acquire = acquire
        self._look = look
        self._clock = clock
        self._jitter = jitter
        self._records: dict[str, _Record] = {}
        # The mailboxes of accounts for every address of a domain, by domain, if each mailbox has its own grant.
        self._domains: dict[str, Mailboxes] = {}
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
            # The new configuration may name an account for this mailbox.
            record.users, record.place = tuple(users[grant.key]), None
            self._records[grant.key] = record
        found = (each for each in config.accounts if each.max_mailboxes)
        self._domains = {each.domain: self._take_mailboxes(each, before) for each in found}
        for record in before.values():
            self._drop(record.keeper)
        return [record.keeper.grant for record in before.values()]

    def _take_mailboxes(self, account: Account, before: dict[str, _Record]) -> Mailboxes:
        home = self._records[account.grant.key]
        home.mailboxes = home.mailboxes or Mailboxes(account)
        home.mailboxes.apply(account, before)
        for key, place in home.mailboxes.places.items():
            record = self._records[key] = before.pop(key)
            record.keeper.take(place.account.grant)
        return home.mailboxes

    def _add(self, grant: Grant) -> _Record:
        plan = self._schedule.plan
        keeper = Keeper(
            *(grant, self._acquire, self._clock),
            look=self._look,
            jitter=self._jitter,
            replan=plan,
            on_change=self._changed,
        )
        plan(keeper)
        return _Record(keeper)

    def asked_for(self, grant: Grant, uid: int) -> Keeper | Deny:
        """Return the keeper for a user's request. A mailbox with its own grant is opened when a program first asks for it."""
        record = self._records.get(grant.key)
        if record is None:
            return self._open(grant, uid)
        if record.place:
            record.place.asked = self._clock.boot()
        return record.keeper

    def _open(self, grant: Grant, uid: int) -> Keeper | Deny:
        mailboxes = self._domains[domain_of(grant.login)]
        closed = mailboxes.enter(grant.login, uid, self._clock.boot())
        if isinstance(closed, Deny):
            return closed
        self._close(closed)
        record = self._records[grant.key] = self._add(grant)
        record.users, record.place = (grant.login,), mailboxes.places[grant.key]
        return record.keeper

    def close_unused(self) -> None:
        """Close the mailboxes that no program has asked for in a long time."""
        for mailboxes in self._domains.values():
            self._close(mailboxes.leave(self._clock.boot()))

    def _close(self, keys: Iterable[str]) -> None:
        for keeper in [self._records.pop(key).keeper for key in keys]:
            self._drop(keeper)
            self._tell(Change(keeper))

    def _drop(self, keeper: Keeper) -> None:
        self._schedule.drop(keeper)
        keeper.close()

    def wake(self) -> None:
        """Wake every keeper, as after a suspend or a change of the network."""
        for keeper in self.keepers:
            keeper.wake()

    def heard(self, keys: Collection[str]) -> None:
        """Look at what other hosts of the fleet have done with these grants, or with all if there are none."""
        for key in keys or self._records:
            if record := self._records.get(key):
                record.keeper.heard()

    def fleet_is_back(self) -> None:
        """Look again at once for the tokens that could not be had while the fleet's database did not answer."""
        for keeper in self.keepers:
            if any(isinstance(life.phase, Failing) for life in keeper.lives.values()):
                keeper.heard()
                keeper.retry_sooner()

    def retry_sooner(self) -> None:
        """Try sooner what failed, as after something less than a change of the network."""
        for keeper in self.keepers:
            keeper.retry_sooner()

    # Events.

    def _changed(self, keeper: Keeper, _scopes: Scopes, before: Life, after: Life) -> None:
        record = self._records.get(keeper.grant.key)
        if record is None:
            # A reload removed the account before the answer arrived.
            return
        if place := record.place:
            place.learn(after)
            self._tell(Change(self.keeper_of(place.home.account.grant)))
            if isinstance(after.phase, NeedsSignIn):
                log.info("a mailbox gets no token", account=keeper.grant.login, reason=after.phase.trouble.message)
            if not place.proven:
                # Programs can ask for addresses that do not exist: hooks are not told of each.
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
        accounts = (*self.config.accounts, *self._mailboxes()) if name else self.config.accounts
        grants = sign_ins_meant(accounts, name, command, self.names)
        if isinstance(grants, Unclear):
            return grants
        if is_pattern(name):
            # All mailboxes of a domain are those that are open, too.
            grants += tuple(each.grant for each in self._mailboxes(of=grants))
        return [self.keeper_of(grant) for grant in grants]

    def matching(self, name: str) -> Sequence[Account]:
        """Return the accounts that a name or a pattern refers to, "" for all."""
        find = accounts_matching if is_pattern(name) else accounts_meant
        accounts = (*self.config.accounts, *self._mailboxes(proven=not name or is_pattern(name)))
        return find(accounts, name, self.names)

    @property
    def accounts(self) -> tuple[Account, ...]:
        """The accounts of the configuration, then the open mailboxes for which there has been a token."""
        return (*self.config.accounts, *self._mailboxes(proven=True))

    def _mailboxes(self, of: Collection[Grant] | None = None, *, proven: bool = False) -> list[Account]:
        """Return the accounts of mailboxes that are open."""
        places = (place for each in self._domains.values() for place in each.places.values())
        return [
            each.account for each in places if each.proven >= proven and (of is None or each.home.account.grant in of)
        ]

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
        accounts = (*self.config.accounts, *self._mailboxes())
        return users_in_words((each for each in accounts if each.grant.key in keys), self.names)

    def rows(self, accounts: Iterable[Account] | None = None) -> list[StatusRow]:
        """Return the rows of `cms status` for these accounts, or for all."""
        entries = [self._entry(each) for each in (self.accounts if accounts is None else accounts)]
        return describe(entries, self._clock.boot(), self._clock.wall())

    async def rows_in_turns(self) -> list[StatusRow]:
        """Return the rows for all accounts, and let other tasks run in between: ten thousand take a quarter of a second."""
        accounts, rows = self.accounts, list[StatusRow]()
        for first in range(0, len(accounts), ROWS_IN_A_TURN):
            await trio.lowlevel.checkpoint()
            # A reload in between may have removed some.
            rows += self.rows(
                each for each in accounts[first : first + ROWS_IN_A_TURN] if each.grant.key in self._records
            )
        return rows

    def _entry(self, account: Account) -> AccountFacts:
        record = self._records[account.grant.key]
        keeper = record.keeper
        return AccountFacts(
            account,
            account.user or keeper.who,
            self._lives(record),
            keeper.sign_in,
            self.awaited(keeper.grant),
            self.where(keeper.grant),
            _forecast(keeper, self._clock.wall()),
            mailboxes=len(record.mailboxes.places) if record.mailboxes else None,
            crowded=record.mailboxes is not None and record.mailboxes.are_crowded(self._clock.boot()),
            part_of=record.place.home.account.user if record.place else "",
        )

    def _lives(self, record: _Record) -> Mapping[Scopes, Life]:
        """Return the lives of a grant's tokens; for an account of many mailboxes, those of one that shows how it works."""
        if record.mailboxes is None:
            return record.keeper.lives
        return record.mailboxes.shown(lambda key: self._records[key].keeper.lives, self._clock.boot())

    def rekeyed(self, key_from: str, unmoved: Collection[str]) -> None:
        """Note where the key of the stored sign-ins is now, but for those whose grants have these keys."""
        for keeper in self.keepers:
            if keeper.sign_in.persisted and keeper.grant.key not in unmoved:
                keeper.sign_in = replace(keeper.sign_in, key_from=key_from)

    def facts(self, key: str) -> Facts | None:
        """Return the facts about a grant for hooks, None if it has left the configuration."""
        record = self._records.get(key)
        # Of a mailbox without a token so far its account tells.
        if record is None or (record.place and not record.place.proven):
            return None
        keeper, grant, prompt = record.keeper, record.keeper.grant, record.prompt
        lives, name, wall, vault = self._lives(record), self.name_of(keeper), self._clock.wall(), self.config.vault_key
        in_memory = vault is not None and vault.kind == "memory"
        ahead, expected = wall - self._clock.boot(), _forecast(keeper, wall)
        return Facts(
            name,
            list(lives.values()),
            how=HowToSignIn(
                None if grant.unattended else cms("login", keeper.who),
                prompt.link if prompt else "",
                prompt.user_code if prompt else "",
                self.where(grant),
            ),
            prompt_hint=self.awaited(grant),
            sign_in=keeper.sign_in,
            forecast=expected,
            warn_at=warned_at(expected, keeper.sign_in.given_at) - ahead if expected else 0.0,
            wall_ahead=ahead,
            remarks=tuple(remarks(name, key, lives, keeper.sign_in, wall, in_memory=in_memory)),
            provider=grant.provider,
        )


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
