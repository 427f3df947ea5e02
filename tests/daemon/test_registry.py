"""The one place for what is known of each grant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from support.trio_run import FakeClock, in_trio_clock

from cms.config.model import Config
from cms.core.accounts import Account, Grant, Scopes, Source, Unclear
from cms.core.lifecycle import Deny, Granted, Outcome, Refused, SignInFacts, Transient, Trouble, usable
from cms.core.mailboxes import SPARED_SECONDS, UNPROVEN_SECONDS, UNUSED_SECONDS
from cms.core.preflight import LONG_TOKEN
from cms.core.words import MEMORY_WARNING
from cms.daemon import registry as module
from cms.daemon.keeper import Keeper
from cms.daemon.registry import Change, Registry
from cms.grants.messages import Looked, Prompt

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
GRAPH: Scopes = ("https://graph.microsoft.com/Mail.Send",)
NO = Refused(Trouble("no-sign-in", "nobody has signed in yet", "sign in", claims="challenge"))
ANN, BOB = "ann@x.test", "bob@x.test"


def account(user: str, login: str | None = None, **more: object) -> Account:
    grant = Grant("https://login.example.test/t", "client", user if login is None else login, (MAIL,))
    return Account(user, replace(grant, **more), {"SMTP": MAIL})  # type: ignore[arg-type]  # a test's own


def config(*accounts: Account, **more: object) -> Config:
    return replace(Config("cms.cfg", accounts, (), None, None, ()), **more)  # type: ignore[arg-type]  # as above


class World:
    """A registry over a provider that refuses every login, unless `ends` has another outcome for it."""

    def __init__(self, *accounts: Account, **more: Any) -> None:
        self.clock = FakeClock()
        self.ends: dict[str, Outcome] = {}
        self.changes: list[Change] = []
        self.registry = Registry(config(*accounts), self.acquire, self.clock, jitter=lambda: 0.0, **more)
        self.registry.subscribe(self.changes.append)

    async def acquire(self, grant: Grant, _scopes: Scopes, _held: str, _rejected: str, **_more: bool) -> Outcome:
        await trio.lowlevel.checkpoint()
        return self.ends.get(grant.login, NO)

    def token(self, **known: object) -> Granted:
        return Granted("token", self.clock.boot(), 3600.0, sign_in=SignInFacts(**known))  # type: ignore[arg-type]  # each test gives fields of it

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Registry]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.registry.run)
            await self.settled()
            yield self.registry
            nursery.cancel_scope.cancel()

    async def settled(self) -> None:
        for keeper in self.registry.keepers:
            await keeper.settled()

    def told(self) -> list[tuple[str, bool]]:
        """Return what subscribers have heard since the last time: whose change, and whether others wait now."""
        told = [(each.keeper.grant.login, each.waiting) for each in self.changes]
        self.changes.clear()
        return told


@in_trio_clock
async def test_subscribers_hear_of_every_change() -> None:
    """Of a life's change, with whether another client waits for a sign-in; of a prompt; of a sign-in's end."""
    world = World(account(ANN), account(BOB))
    world.ends[BOB] = world.token()
    grant = account(ANN).grant
    async with world.running() as registry:
        assert {(ANN, True), (BOB, False)} == set(world.told())
        assert [grant] == registry.waiting()

        registry.prompted(grant, Prompt(1, "device", "https://login/", "CODE"))
        facts = registry.facts(grant.key)
        assert facts is not None
        assert ([(ANN, False)], ("https://login/", "CODE")) == (world.told(), (facts.how.url, facts.how.code))

        registry.prompted(grant, Prompt(1, "device", "https://login/", "CODE", complete_url="https://login/?CODE"))
        facts = registry.facts(grant.key)
        assert facts is not None
        assert ([(ANN, False)], "https://login/?CODE") == (world.told(), facts.how.url)

        registry.signed_in(grant, world.token(who=ANN))
        facts = registry.facts(grant.key)
        assert facts is not None
        assert ([(ANN, True)], "", []) == (world.told(), facts.how.url, registry.waiting())


@in_trio_clock
async def test_what_other_hosts_do_is_looked_at() -> None:
    """At the grants that are named, if they are in the configuration; at all, if none is."""
    looked: list[str] = []

    async def look(grant: Grant, _scopes: Scopes, _held: str) -> Looked:
        await trio.lowlevel.checkpoint()
        looked.append(grant.login)
        return Looked(0.0)

    world = World(account(ANN), account(BOB), look=look)
    async with world.running() as registry:
        for keys in ([account(BOB).grant.key, "no grant here"], []):
            registry.heard(keys)
            await trio.sleep(1.0)
            looked.append("")

    # Which of two keepers is first is up to trio.
    assert [BOB, "", {ANN, BOB}, ""] == [*looked[:2], {*looked[2:4]}, *looked[4:]]


@in_trio_clock
async def test_a_fleet_that_is_back_is_asked_for_what_failed() -> None:
    """At once, and not for what is held."""
    looked: list[str] = []

    async def look(grant: Grant, _scopes: Scopes, _held: str) -> Looked:
        await trio.lowlevel.checkpoint()
        looked.append(grant.login)
        world.ends[grant.login] = world.token(who=grant.login)
        return Looked(1.0)

    world = World(account(ANN), account(BOB), look=look)
    world.ends = {ANN: world.token(who=ANN), BOB: Transient(Trouble("fleet", "the database is away"))}
    async with world.running() as registry:
        await trio.sleep(1.0)
        registry.fleet_is_back()
        await trio.sleep(1.0)
        held = [usable(life, world.clock.boot()) for keeper in registry.keepers for life in keeper.lives.values()]

    assert ([BOB], True) == (looked, all(held))


@in_trio_clock
async def test_a_reload_keeps_what_is_known_of_what_stays() -> None:
    """A grant that stays keeps its keeper; one that comes is asked for; one that goes is named and answers no more."""
    world = World(account(ANN), account(BOB))
    async with world.running() as registry:
        ann, bob = registry.keepers
        gone = registry.apply(config(account(ANN), account("carol@x.test")))
        await world.settled()
        world.told()
        bob.signed_in(MAIL, world.token())
        registry.signed_in(bob.grant, world.token())
        registry.prompted(bob.grant, Prompt(1, "device", "https://login/"))

        assert [bob.grant] == gone
        assert ({}, [], None) == (bob.lives, world.told(), registry.facts(bob.grant.key))
        assert ann is registry.keepers[0]
        assert [ANN, "carol@x.test"] == [grant.login for grant in registry.waiting()]


@in_trio_clock
async def test_a_sign_in_that_began_before_a_reload_counts() -> None:
    """Its token may be for other scopes than are wanted now, so the stored sign-in is redeemed for those."""
    world = World(account(ANN))
    async with world.running() as registry:
        old = registry.keepers[0].grant
        registry.apply(config(account(ANN, scope_sets=(GRAPH, MAIL))))
        await world.settled()
        world.ends[ANN] = world.token()
        registry.signed_in(old, world.token())
        await world.settled()

        assert [] == registry.waiting()


@in_trio_clock
async def test_an_account_goes_by_any_of_its_names() -> None:
    """By its user, by the login, and by who has signed in; "" is the only one."""
    world = World(account("sales@x.test", ANN), account("", ""))
    async with world.running() as registry:
        sales, nameless = registry.keepers
        nameless.signed_in(MAIL, world.token(who="Carol@x.test"))
        found = [registry.meant(name, "login") for name in ("Sales@X.test", ANN, "carol@x.test")]
        unclear = registry.meant("", "login")

    assert [[sales], [sales], [nameless]] == found
    assert isinstance(unclear, Unclear)
    assert "sales@x.test, Carol@x.test" == registry.in_words(registry.keepers)
    assert ("sales@x.test", "Carol@x.test") == (registry.name_of(sales), registry.name_of(nameless))


@in_trio_clock
async def test_the_challenge_of_a_refusal_is_for_the_next_sign_in() -> None:
    """As long as a sign-in is required, and never of a grant that has gone."""
    world = World(account(ANN))
    async with world.running() as registry:
        grant = registry.keepers[0].grant
        before = registry.challenge(grant)
        registry.signed_in(grant, world.token())
        after = registry.challenge(grant)

    assert ("challenge", "", "") == (before, after, registry.challenge(account(BOB).grant))


@in_trio_clock
async def test_what_may_go_wrong_is_a_remark() -> None:
    """Sign-ins in memory alone, a token that is too long, a certificate that ends: each once, by its own name."""
    world = World(account(ANN))
    async with world.running() as registry:
        ends = world.clock.wall() + 60.0
        long = replace(world.token(persisted=False, credential_expires=ends), secret="x" * (LONG_TOKEN + 1))
        registry.signed_in(registry.keepers[0].grant, long)
        facts = registry.facts(registry.keepers[0].grant.key)
        registry.signed_in(registry.keepers[0].grant, world.token())
        well = registry.facts(registry.keepers[0].grant.key)
        registry.apply(config(account(ANN), vault_key=Source("memory")))
        chosen = registry.facts(registry.keepers[0].grant.key)

    assert facts is not None
    assert well is not None
    assert chosen is not None
    assert 3 == len({each.which for each in facts.remarks})
    assert (MEMORY_WARNING, "") == (facts.remarks[0].message, facts.remarks[0].account)
    assert [ANN, ANN] == [each.account for each in facts.remarks[1:]]
    assert ((), [MEMORY_WARNING]) == (well.remarks, [each.message for each in chosen.remarks])


@in_trio_clock
async def test_without_a_daemon_nothing_is_asked_for() -> None:
    """The registry of a single command does not run: it knows no waiting client, and takes a sign-in's end."""
    world = World(account(ANN))
    await trio.sleep(60.0)
    waiting = world.registry.waiting()
    world.registry.signed_in(account(ANN).grant, world.token(who=ANN))

    assert ([], [(ANN, False)]) == (waiting, world.told())


@in_trio_clock
async def test_rows_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same rows; others run between them, and what a reload removes meanwhile has none."""
    monkeypatch.setattr(module, "ROWS_IN_A_TURN", 1)
    registry = World(account(ANN), account(BOB)).registry

    async def reload() -> None:
        registry.apply(config(account(ANN)))
        await trio.lowlevel.checkpoint()

    assert registry.rows() == await registry.rows_in_turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload)
        rows = await registry.rows_in_turns()

    assert [ANN] == [row.user for row in rows]


# --- mailboxes with a grant of their own ---

EVERY = "*@x.test"
NO_MAILBOX = Refused(Trouble("application", "there is no such mailbox"), 1800.0)


def every(most: int = 10) -> Account:
    """An account for every address of a domain, at a provider whose token opens one mailbox."""
    return replace(account(EVERY, sign_in="app", scope_sets=()), max_mailboxes=most)


class Domain(World):
    """A registry with such an account, at a provider that knows these mailboxes and no others."""

    def __init__(self, *known: str, most: int = 10) -> None:
        super().__init__(every(most))
        self.known = known
        self.asked: list[str] = []

    async def acquire(self, grant: Grant, _scopes: Scopes, _held: str, _rejected: str, **_more: bool) -> Outcome:
        await trio.lowlevel.checkpoint()
        self.asked.append(grant.login)
        return self.token() if grant.login in self.known else NO_MAILBOX

    async def ask(self, user: str) -> Keeper | Deny:
        """Ask for a mailbox as a socket does, and wait for what the provider says."""
        keeper = self.registry.asked_for(every().of(user).grant, 1000)
        await self.settled()
        return keeper


def states(registry: Registry) -> dict[str, str]:
    return {row.user: row.state for row in registry.rows()}


@in_trio_clock
async def test_a_mailbox_is_opened_when_it_is_asked_for() -> None:
    """It has a keeper and a row of its own, and the account's row tells how it does; the next request finds it."""
    world = Domain(ANN, BOB)
    async with world.running() as registry:
        before = registry.rows()
        ann = await world.ask(ANN)
        again = await world.ask(ANN)
        bob = await world.ask(BOB)
        rows = registry.rows()

        assert isinstance(ann, Keeper)
        assert (True, False) == (ann is again, ann is bob)
        assert [(EVERY, "ok", 0)] == [(each.user, each.state, each.mailboxes) for each in before]
        assert [(EVERY, "ok", 2, ""), (ANN, "ok", None, EVERY), (BOB, "ok", None, EVERY)] == [
            (each.user, each.state, each.mailboxes, each.part_of) for each in rows
        ]
        assert [ANN] == [each.grant.login for each in registry.keepers if each is ann]
        assert rows == await registry.rows_in_turns()


@in_trio_clock
async def test_a_mailbox_that_is_refused_from_the_start() -> None:
    """Anyone can make one up: it is told where it is named, and as the account's own trouble while no other works."""
    world = Domain(ANN)
    async with world.running() as registry:
        bob = await world.ask(BOB)
        facts = registry.facts(every().grant.key)
        alone = states(registry)
        told = {name for name, _ in world.told()}
        of_itself = registry.facts(every().of(BOB).grant.key)
        await world.ask(ANN)

        assert facts is not None
        assert ["there is no such mailbox"] == [life.phase.trouble.message for life in facts.lives]  # type: ignore[union-attr]  # it is refused
        assert ({EVERY: "refused"}, {EVERY}, None) == (alone, told, of_itself)
        assert {EVERY: "ok", ANN: "ok"} == states(registry)
        assert [BOB] == [each.user for each in registry.matching(BOB)]
        assert isinstance(bob, Keeper)
        assert [bob] == registry.meant(BOB, "refresh")


@in_trio_clock
async def test_mailboxes_close() -> None:
    """When they are not used, and when others need their place; what is closed answers no more, and hooks forget it."""
    world = Domain(ANN, "carol@x.test", most=2)
    async with world.running() as registry:
        ann, bob = await world.ask(ANN), await world.ask(BOB)
        carol = await world.ask("carol@x.test")
        full = await world.ask("dave@x.test")

        assert isinstance(ann, Keeper)
        assert isinstance(bob, Keeper)
        assert ({}, None) == (bob.lives, registry.facts(bob.grant.key))
        assert isinstance(full, Deny)
        await trio.sleep(SPARED_SECONDS)
        await world.ask("carol@x.test")
        dave = await world.ask("dave@x.test")
        assert ({}, [carol, dave]) == (ann.lives, registry.keepers[1:])
        await trio.sleep(UNPROVEN_SECONDS)
        registry.close_unused()
        assert [carol] == registry.keepers[1:]
        await trio.sleep(UNUSED_SECONDS)
        registry.close_unused()
        assert {EVERY: "ok"} == states(registry)


@in_trio_clock
async def test_a_refusal_is_remembered() -> None:
    """For minutes the provider is not asked again, however often a program does."""
    world = Domain()
    async with world.running() as registry:
        for _ in range(9):
            await world.ask(BOB)
            await trio.sleep(UNPROVEN_SECONDS / 10)
            registry.close_unused()
        once = list(world.asked)
        await trio.sleep(UNPROVEN_SECONDS / 10)
        registry.close_unused()
        # Monitoring does not take it for well in between.
        assert [("refused", 0, False)] == [(each.state, each.mailboxes, each.usable) for each in registry.rows()]
        await world.ask(BOB)

    assert ([BOB], [BOB, BOB]) == (once, world.asked)


@in_trio_clock
async def test_a_reload_keeps_mailboxes() -> None:
    """While their account stays, with its new settings; one that has an account of its own now is that account's."""
    world = Domain(ANN, BOB)
    async with world.running() as registry:
        ann, bob = await world.ask(ANN), await world.ask(BOB)
        named = replace(every().of(BOB), mailbox="INBOX")
        gone = registry.apply(config(replace(every(5), grant=replace(every().grant, refresh_before=60.0)), named))

        assert isinstance(ann, Keeper)
        assert ([], 60.0) == (gone, ann.grant.refresh_before)
        assert [(EVERY, 1), (BOB, None), (ANN, None)] == [(each.user, each.mailboxes) for each in registry.rows()]
        assert bob is registry.asked_for(named.grant, 1000)
        assert [ann.grant] == [each for each in registry.apply(config(named)) if each.login == ANN]
        assert [BOB] == [each.user for each in registry.rows()]


@in_trio_clock
async def test_what_the_name_of_a_domain_means() -> None:
    """To commands: the account and its mailboxes; to those that name nothing, the account alone."""
    world = Domain(ANN)
    async with world.running() as registry:
        ann = await world.ask(ANN)
        home = registry.keeper_of(every().grant)

        assert [home, ann] == registry.meant(EVERY, "refresh")
        assert ([ann], [home], [home]) == tuple(registry.meant(each, "refresh") for each in (ANN, BOB, ""))
        assert [EVERY, ANN] == [each.user for each in registry.matching(EVERY)]
        assert f"{EVERY}, {ANN}" == registry.in_words(registry.keepers)
        assert {EVERY, ANN} == {registry.name_of(each) for each in registry.keepers}
