"""The one place for what is known of each grant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from support.trio_run import FakeClock, in_trio_clock

from cms.config.model import Config
from cms.core.accounts import Account, Grant, Scopes, Source, Unclear
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Trouble
from cms.core.status import LONG_TOKEN
from cms.core.words import MEMORY_WARNING
from cms.daemon import registry as module
from cms.daemon.registry import Change, Registry
from cms.grants.messages import Prompt

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

    def __init__(self, *accounts: Account) -> None:
        self.clock = FakeClock()
        self.ends: dict[str, Outcome] = {}
        self.changes: list[Change] = []
        self.registry = Registry(config(*accounts), self.acquire, self.clock, jitter=lambda: 0.0)
        self.registry.subscribe(self.changes.append)

    async def acquire(self, grant: Grant, _scopes: Scopes, _held: str, _rejected: str) -> Outcome:
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

        registry.signed_in(grant, world.token(who=ANN))
        facts = registry.facts(grant.key)
        assert facts is not None
        assert ([(ANN, True)], "", []) == (world.told(), facts.how.url, registry.waiting())


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
