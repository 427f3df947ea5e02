from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from support.trio_run import FakeClock, in_trio_clock

from cms.core.accounts import Grant, Scopes
from cms.core.budget import DAY, MINT_INTERVAL, MINTS_PER_DAY
from cms.core.lifecycle import (
    PAUSE_AFTER_GRANT,
    Deny,
    Ending,
    Failing,
    Granted,
    Life,
    Need,
    NeedsSignIn,
    Outcome,
    Refused,
    Settled,
    SignInFacts,
    Token,
    Transient,
    Trouble,
    Wait,
    token_hash,
)
from cms.core.looks import FIRST_LOOK, Look
from cms.daemon.keeper import LOOK_AGAIN, Keeper
from cms.daemon.schedule import Schedule
from cms.grants.messages import Looked
from cms_oauth import wire

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send",)
GRAPH: Scopes = ("https://graph.microsoft.com/Mail.Send",)
GRANT = Grant("https://login.example.test/t", "client", "a@example.test", (MAIL,))
BOTH = replace(GRANT, scope_sets=(MAIL, GRAPH))

HOUR = 3600.0
DOWN = Transient(Trouble("network", "no route to the provider", "nothing to do"))
THROTTLED = Transient(Trouble("throttled", "asked for a pause", ""), retry_after=120.0)
REVOKED = Refused(Trouble("refused", "the grant was revoked", "sign in again", aadsts=50173))
NOBODY = Refused(Trouble("no-sign-in", "nobody has signed in yet", "sign in"))


class FakeProvider:
    """Answers what the script says, in turn, and then tokens that live for `life` seconds; notes who asked when."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.script: deque[Outcome | Exception] = deque()
        self.life = HOUR
        self.takes = 0.1
        # The scopes that its answers name.
        self.grants: Scopes = ()
        self.asked: list[tuple[float, Scopes]] = []
        # The hashes that it was asked with: of the held token, and of a refused one.
        self.named: list[tuple[str, str]] = []
        # What looks find, in turn, and then nothing; and what they were asked with.
        self.elsewhere: deque[Outcome | Looked] = deque()
        self.looked: list[tuple[Scopes, str]] = []
        # Whether each was asked for by a client or a person.
        self.wanted: list[bool] = []
        self.under_way = 0

    async def acquire(self, _grant: Grant, scopes: Scopes, held: str, rejected: str, /, *, wanted: bool) -> Outcome:
        self.asked.append((self.clock.boot(), scopes))
        self.named.append((held, rejected))
        self.wanted.append(wanted)
        self.under_way += 1
        assert self.under_way == 1, "one question at a time for each grant"
        try:
            await trio.sleep(self.takes)
        finally:
            self.under_way -= 1
        end = self.script.popleft() if self.script else self.token()
        if isinstance(end, Exception):
            raise end
        return end

    async def look(self, _grant: Grant, scopes: Scopes, held: str) -> Outcome | Looked:
        self.looked.append((scopes, held))
        await trio.sleep(self.takes)
        return self.elsewhere.popleft() if self.elsewhere else Looked(0.0)

    def token(self, who: str = "a@example.test") -> Granted:
        sign_in = SignInFacts(key_from="fake", who=who)
        return Granted(f"token-{len(self.asked)}", self.clock.boot(), self.life, self.grants, sign_in)

    @property
    def times(self) -> list[float]:
        """When it was asked, in seconds since the first time."""
        return [round(when - self.asked[0][0], 1) for when, _ in self.asked]


async def ask(keeper: Keeper, scopes: Scopes, **need: Any) -> Token | Deny:
    """Ask as a socket does."""
    reply = keeper.answer(scopes, Need(**need))
    if isinstance(reply, Wait):
        with trio.move_on_after(wire.WAIT_SECONDS):
            return await keeper.wait(scopes, Need(**need))
        return keeper.without_waiting(scopes, Need(**need))
    return reply


class World:
    """A keeper with everything around it faked."""

    def __init__(self, grant: Grant) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider(self.clock)
        self.changes: list[tuple[Scopes, str, str]] = []
        self.jitter = 0.0
        self.schedule = Schedule(self.clock)
        self.keeper = Keeper(
            grant,
            self.provider.acquire,
            self.clock,
            look=self.provider.look,
            jitter=lambda: self.jitter,
            replan=self.schedule.plan,
            on_change=self.note,
        )

    def note(self, _keeper: Keeper, scopes: Scopes, before: Life, after: Life) -> None:
        self.changes.append((scopes, type(before.phase).__name__, type(after.phase).__name__))

    @property
    def life(self) -> Life:
        return self.keeper.lives[MAIL]

    async def secret(self, *, min_valid: int | None = None, rejected: str = "") -> str:
        """Ask as a client does: the token's secret, or the code of the refusal."""
        reply = await ask(self.keeper, MAIL, min_valid=min_valid, rejected=rejected)
        return reply.secret if isinstance(reply, Token) else reply.code


@asynccontextmanager
async def keeping(
    *script: Outcome | Exception, grant: Grant = GRANT, prepare: Callable[[World], None] = lambda _: None
) -> AsyncIterator[World]:
    """A keeper that runs, over a provider with this script, ended after the block."""
    world = World(grant)
    world.provider.script.extend(script)
    prepare(world)
    async with trio.open_nursery() as nursery:
        world.schedule.plan(world.keeper)
        await nursery.start(world.schedule.run)
        yield world
        nursery.cancel_scope.cancel()


def stored(world: World, **more: Any) -> None:
    """Let the worker have a token, minted a quarter of an hour ago, by a sign-in that was used then."""
    facts = SignInFacts(who="a@example.test", redeemed_at=1234.0)
    world.provider.script.append(Granted("token-stored", world.clock.boot() - HOUR / 4, HOUR, (), facts, **more))


def rejected(secret: str) -> str:
    return token_hash(secret)


@in_trio_clock
async def test_a_token_is_fetched_at_the_start_and_renewed_in_time() -> None:
    """The first fetch is at once, the next when half of the life is over: three in two hours, none between."""
    async with keeping() as world:
        await trio.sleep(1.4 * HOUR)

        assert [0.0, 1800.1, 3600.2] == world.provider.times
        assert "token-3" == await world.secret()


@in_trio_clock
async def test_an_idle_keeper_does_not_wake() -> None:
    """Between a fetch and the next nothing runs: trio jumps from the one straight to the other."""
    async with keeping() as world:
        await trio.sleep(1.0)
        before = trio.lowlevel.current_statistics().seconds_to_next_deadline

        assert 1799.1 == round(before, 1)
        assert 1 == len(world.provider.asked)


@in_trio_clock
async def test_a_valid_token_is_answered_at_once_while_a_renewal_is_under_way() -> None:
    """Clients do not notice a refresh."""
    async with keeping() as world:
        await trio.sleep(1.0)
        world.provider.takes = 30.0
        await trio.sleep(1800.0)
        before = trio.current_time()

        assert ("token-1", 1, before) == (await world.secret(), world.provider.under_way, trio.current_time())


@in_trio_clock
async def test_fifty_clients_share_one_fetch() -> None:
    """Clients that come before the first token wait for that one."""
    answers: list[str] = []

    async def client(world: World) -> None:
        answers.append(await world.secret())

    async with keeping() as world, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(client, world)

    assert (["token-1"] * 50, 1) == (answers, len(world.provider.asked))


@in_trio_clock
async def test_no_client_waits_longer_than_the_wire_allows() -> None:
    """After 4 seconds a fetch that takes too long is answered with a refusal; its token serves the next client."""
    async with keeping(prepare=lambda world: setattr(world.provider, "takes", 10.0)) as world:
        first = await world.secret()
        waited = trio.current_time()
        await trio.sleep(10.0)

        assert ("unavailable", wire.WAIT_SECONDS, "token-1") == (first, waited, await world.secret())


@in_trio_clock
async def test_an_outage_while_a_token_is_valid_is_not_noticed() -> None:
    """The provider fails for minutes: the held token is answered throughout, and tries keep their pauses."""
    async with keeping(DOWN) as world:
        world.provider.script.clear()
        await trio.sleep(1.0)
        world.provider.script.extend([DOWN] * 5)
        await trio.sleep(1800.0)

        assert ("token-1", Failing) == (await world.secret(), type(world.life.phase))
        await trio.sleep(600.0)
        assert [0.0, 1800.1, 1860.2, 1920.3, 1980.4, 2040.5, 2100.6] == world.provider.times
        assert ("token-7", Settled()) == (await world.secret(), world.life.phase)


@in_trio_clock
async def test_an_outage_past_expiry_ends_in_a_refusal_and_heals_itself() -> None:
    """Without a usable token clients hear what is wrong, and the first success serves them again."""
    async with keeping(*[DOWN] * 3) as world:
        await trio.sleep(30.0)
        reply = await ask(world.keeper, MAIL)
        await trio.sleep(200.0)

        assert isinstance(reply, Deny)
        assert ("unavailable", "no route to the provider") == (reply.code, reply.message)
        assert "token-4" == await world.secret()


@in_trio_clock
async def test_a_clients_need_brings_the_next_try_forward() -> None:
    """After many failures the pause is long; a client shortens it to a minute, and gets the token when it comes."""
    async with keeping(*[DOWN] * 6) as world:
        world.jitter = 0.99
        await trio.sleep(65.0 * 60.0)
        failing = world.life.phase
        assert isinstance(failing, Failing)
        assert failing.next_try > world.clock.boot() + 60.0
        tries = len(world.provider.asked)
        world.provider.script.clear()

        assert "token" in await world.secret()
        assert tries + 1 == len(world.provider.asked)


@in_trio_clock
async def test_retry_after_is_honoured_against_every_request() -> None:
    """Clients, a wake-up and the owner's refresh together cannot make a try before the provider allows it."""
    async with keeping(THROTTLED) as world:
        for _ in range(11):
            await trio.sleep(10.0)
            world.keeper.wake()
            world.keeper.refresh()
            await world.secret()
        await trio.sleep(30.0)

        assert [0.0, 120.1] == world.provider.times


@in_trio_clock
async def test_a_refusal_needs_a_person_and_costs_no_valid_token() -> None:
    """The held token is answered until it runs out; then the refusal says whose move it is. Nothing is tried again."""
    async with keeping() as world:
        await trio.sleep(1.0)
        world.provider.script.append(REVOKED)
        await trio.sleep(2000.0)
        held = await world.secret()
        await trio.sleep(HOUR)
        reply = await ask(world.keeper, MAIL)

        assert ("token-1", 2) == (held, len(world.provider.asked))
        assert isinstance(reply, Deny)
        assert ("sign-in-required", "sign in again") == (reply.code, reply.hint)


@in_trio_clock
async def test_a_sign_in_serves_at_once_and_makes_the_rest_due() -> None:
    """Its token is answered right away, and the other scope set, refused before, gets one too."""
    async with keeping(REVOKED, REVOKED, grant=BOTH) as world:
        await trio.sleep(1.0)
        world.keeper.signed_in(
            MAIL, replace(world.provider.token(), secret="fresh", sign_in=SignInFacts(persisted=False, key_from="fake"))
        )
        known = await world.secret(), world.keeper.sign_in.persisted, world.keeper.sign_in.key_from
        await trio.sleep(1.0)

        assert ("fresh", False, "fake") == known
        assert [MAIL, GRAPH, GRAPH] == [scopes for _, scopes in world.provider.asked]
        assert isinstance(await ask(world.keeper, GRAPH), Token)


@in_trio_clock
async def test_a_sign_in_that_was_lost_with_a_process_is_told_as_that() -> None:
    """cms says "has not signed in yet" only if there was no sign-in, not after one in memory was lost."""
    async with keeping(NOBODY, NOBODY) as world:
        await trio.sleep(1.0)
        never = await ask(world.keeper, MAIL)
        world.keeper.signed_in(MAIL, replace(world.provider.token(), sign_in=SignInFacts(persisted=False)))
        await trio.sleep(1.1 * HOUR)
        lost = await ask(world.keeper, MAIL)

        assert isinstance(never, Deny)
        assert isinstance(lost, Deny)
        assert ("nobody has signed in yet", "sign in") == (never.message, never.hint)
        assert ("sign-in-required", "sign in") == (lost.code, lost.hint)
        assert "kept in memory only, and the process that held it has ended" in lost.message


@in_trio_clock
async def test_what_was_asked_before_a_sign_in_is_stale_after_it() -> None:
    """A refusal of the old sign-in that arrives late does not undo the new one."""
    async with keeping(REVOKED) as world:
        await trio.sleep(0.05)
        world.keeper.signed_in(MAIL, replace(world.provider.token(), secret="fresh"))
        await trio.sleep(1.0)

        assert ("fresh", Settled()) == (await world.secret(), world.life.phase)


@in_trio_clock
async def test_a_new_sign_in_that_was_redeemed_already_is_not_redeemed_again() -> None:
    """A question from before it may find it stored: its token is kept, and none is asked for twice."""
    async with keeping(NOBODY, grant=BOTH) as world:
        new = SignInFacts(who="a@example.test", given_at=5.0)
        world.provider.script.append(replace(world.provider.token(), secret="graph", sign_in=new))
        await trio.sleep(0.15)
        world.keeper.signed_in(MAIL, replace(world.provider.token(), secret="mail", sign_in=new))
        await trio.sleep(HOUR / 4)

        assert [MAIL, GRAPH] == [scopes for _, scopes in world.provider.asked]
        assert ["mail", "graph"] == [life.held and life.held.secret for life in world.keeper.lives.values()]


@in_trio_clock
async def test_a_token_of_the_sign_in_before_is_stale_after_another() -> None:
    """Also if it arrives only then: the token is asked for anew."""
    async with keeping(NOBODY, grant=BOTH) as world:
        old, new = (SignInFacts(who="a@example.test", given_at=moment) for moment in (5.0, 6.0))
        world.provider.script.append(replace(world.provider.token(), secret="stale", sign_in=old))
        world.provider.script.append(replace(world.provider.token(), secret="graph", sign_in=new))
        await trio.sleep(0.15)
        world.keeper.signed_in(MAIL, replace(world.provider.token(), secret="mail", sign_in=new))
        await trio.sleep(1.0)

        assert [MAIL, GRAPH, GRAPH] == [scopes for _, scopes in world.provider.asked]
        assert ["mail", "graph"] == [life.held and life.held.secret for life in world.keeper.lives.values()]


@in_trio_clock
async def test_another_person_gets_no_token_of_the_first() -> None:
    """When another person signs in, the tokens of the first are dropped, not answered in the second's name."""
    async with keeping(grant=replace(BOTH, login="")) as world:
        await trio.sleep(1.0)
        world.provider.takes = 2.0
        world.keeper.signed_in(MAIL, world.provider.token("b@example.test"))
        dropped, who = world.keeper.lives[GRAPH].held, world.keeper.who
        await trio.sleep(3.0)

        assert (None, "b@example.test") == (dropped, who)
        assert isinstance(await ask(world.keeper, GRAPH), Token)


@in_trio_clock
async def test_a_sign_in_that_fails_changes_nothing() -> None:
    """A cancelled sign-in leaves the valid token and the plan as they were."""
    async with keeping() as world:
        await trio.sleep(1.0)
        before = world.life
        world.keeper.signed_in(MAIL, Refused(Trouble("cancelled", "given up")))
        world.keeper.signed_in(MAIL, Refused(Trouble("refused", "MFA", claims="{}")))
        world.keeper.signed_in(MAIL, DOWN)

        assert before == world.life


@in_trio_clock
async def test_a_failure_tells_of_the_sign_in() -> None:
    """A daemon that starts while the provider is down knows when the sign-in was given and redeemed, for the forecast."""
    ending = Ending(1.0, 2.0, 70043)
    known = replace(DOWN, sign_in=SignInFacts(given_at=5.0, redeemed_at=7.0, endings=(ending,), ends_at=8.0))
    async with keeping(known) as world:
        await trio.sleep(1.0)
        keeper = world.keeper
        first = keeper.sign_in.given_at, keeper.sign_in.redeemed_at, keeper.sign_in.endings
        # What it has seen itself is newer.
        keeper.sign_in = replace(keeper.sign_in, redeemed_at=9.0)
        keeper._absorb(MAIL, known)
        newer = keeper.sign_in.redeemed_at
        keeper._absorb(MAIL, DOWN)

        assert (5.0, 7.0, (ending,)) == first
        assert 8.0 == keeper.sign_in.ends_at
        assert (9.0, 5.0) == (newer, keeper.sign_in.given_at)
        keeper.signed_out()
        assert SignInFacts(persisted=None, who=keeper.who) == replace(keeper.sign_in, key_from="")


@in_trio_clock
async def test_a_challenge_is_kept_for_the_next_sign_in() -> None:
    """A sign-in refused with claims, while one is required, hands them to the next try; a valid token stays."""
    async with keeping(REVOKED, grant=BOTH) as world:
        await trio.sleep(1.0)
        world.keeper.signed_in(MAIL, Refused(Trouble("refused", "MFA required", aadsts=50076, claims='{"a":1}')))

        assert isinstance(world.life.phase, NeedsSignIn)
        assert '{"a":1}' == world.life.phase.trouble.claims
        assert Settled() == world.keeper.lives[GRAPH].phase


@in_trio_clock
async def test_a_refused_sign_in_is_why_there_is_no_token_until_one_works() -> None:
    """Clients and subscribers hear of it once; a sign-in given up, or an outage, changes nothing; a sign-in ends it."""
    blocked = Refused(Trouble("refused", "a policy blocks this sign-in", "the administrator", aadsts=53003))
    async with keeping(REVOKED) as world:
        await trio.sleep(5.0)
        seen = len(world.changes)
        for outcome in (blocked, Refused(Trouble("cancelled", "given up")), DOWN):
            world.keeper.signed_in(MAIL, outcome)
        denied = await ask(world.keeper, MAIL)

        assert isinstance(denied, Deny)
        assert ("sign-in-required", blocked.trouble.message) == (denied.code, denied.message)
        assert seen + 1 == len(world.changes)
        world.keeper.signed_in(MAIL, world.provider.token())
        assert Settled() == world.life.phase


@in_trio_clock
async def test_signing_out_drops_every_token() -> None:
    """No token is answered from that moment on, also none that was under way, and nothing is asked again."""
    async with keeping(grant=BOTH) as world:
        await trio.sleep(3.0)
        world.keeper.refresh()
        await trio.sleep(0.05)
        world.keeper.signed_out()
        replies = [await ask(world.keeper, scopes) for scopes in BOTH.scope_sets]
        await trio.sleep(HOUR)

        assert ["sign-in-required"] * 2 == [reply.code for reply in replies if isinstance(reply, Deny)]
        again = f"sign in again: `cms login {BOTH.login}`"
        assert [again] * 2 == [reply.hint for reply in replies if isinstance(reply, Deny)]
        assert [None, None] == [life.held for life in world.keeper.lives.values()]
        assert (3, None) == (len(world.provider.asked), world.keeper.sign_in.persisted)


@in_trio_clock
async def test_the_owners_refresh_tries_at_once() -> None:
    """A settled life, a failing one and one that needs a sign-in are each tried now, once."""
    async with keeping() as world:
        for outcome in (None, DOWN, REVOKED):
            await trio.sleep(2.0)
            if outcome:
                world.provider.script.append(outcome)
                world.keeper.refresh()
                await trio.sleep(2.0)
            world.keeper.refresh()
            await trio.sleep(1.0)

            assert Settled() == world.life.phase

    assert 6 == len(world.provider.asked)


@in_trio_clock
async def test_a_suspend_delays_no_renewal_once_the_keeper_is_woken() -> None:
    """After two hours of suspend the token has expired: a wake-up, or a client, has a new one fetched at once."""
    async with keeping() as world:
        await trio.sleep(1.0)
        world.clock.asleep += 2 * HOUR
        world.keeper.wake()
        await trio.sleep(1.0)
        woken = await world.secret()
        world.clock.asleep += 2 * HOUR

        assert ("token-2", "token-3") == (woken, await world.secret())


@in_trio_clock
async def test_wall_clock_steps_change_nothing() -> None:
    """Two hours forth and back: no fetch, and the same token."""
    async with keeping() as world:
        await trio.sleep(1.0)
        for step in (2 * HOUR, -4 * HOUR):
            world.clock.stepped += step
            world.keeper.wake()
            await trio.sleep(1.0)

            assert ("token-1", 1) == (await world.secret(), len(world.provider.asked))


@in_trio_clock
async def test_a_rejected_token_is_replaced() -> None:
    """The client waits for the new one; a hash of any other token gets the one that is held."""
    async with keeping() as world:
        await trio.sleep(2.0)
        other = await world.secret(rejected=rejected("another"))

        assert ("token-1", "token-2") == (other, await world.secret(rejected=rejected("token-1")))


@in_trio_clock
async def test_the_worker_is_told_which_token_is_held_and_which_is_refused() -> None:
    """None at first; then the held one, so that a stored one has to be another. A refusal is told until there is a new one."""
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.script.extend([DOWN, DOWN])
        await world.secret(rejected=rejected("token-1"))
        await trio.sleep(2 * HOUR)

    held = [rejected(f"token-{number}") for number in (1, 1, 1, 4)]
    assert [("", ""), *((each, each) for each in held[:3]), (held[3], "")] == world.provider.named[:5]


@in_trio_clock
async def test_the_worker_is_told_what_a_client_or_a_person_wanted() -> None:
    """A token in place of a refused one, more life, and the owner's refresh until it works; not what is due by itself."""
    async with keeping() as world:
        await trio.sleep(2.0)
        await world.secret(rejected=rejected("token-1"))
        await trio.sleep(MINT_INTERVAL)
        await world.secret(min_valid=int(HOUR))
        await trio.sleep(2.0)
        world.provider.script.append(DOWN)
        world.keeper.refresh()
        await trio.sleep(HOUR)

    assert [False, *[True] * 4, False] == world.provider.wanted


@in_trio_clock
async def test_a_stored_token_counts_from_when_it_was_minted() -> None:
    """Its sign-in was used then, and it is renewed when it is due."""
    async with keeping(prepare=stored) as world:
        await trio.sleep(2.0)

        assert ("token-stored", 1234.0) == (await world.secret(), world.keeper.sign_in.redeemed_at)
        await trio.sleep(HOUR / 4)
        assert ("token-2", [0.0, HOUR / 4]) == (await world.secret(), world.provider.times)


@in_trio_clock
async def test_a_doubtful_token_is_served_and_the_provider_asked_at_once() -> None:
    """So that a sign-in that was refused before a start is known to be, and not only when its token is due."""
    async with keeping(prepare=lambda world: stored(world, doubtful=True)) as world:
        world.provider.script.append(REVOKED)
        await trio.sleep(1.0)

        assert ("token-stored", NeedsSignIn) == (await world.secret(), type(world.life.phase))
        assert [0.0, 0.1] == world.provider.times


@in_trio_clock
async def test_a_stored_token_that_a_client_has_refused_is_not_its_answer() -> None:
    """It asks before there is one, as after a restart: the token that it has refused is replaced, once."""
    async with keeping(prepare=stored) as world:
        refused = rejected("token-stored")
        assert "token-2" == await world.secret(rejected=refused)
        assert [("", ""), (refused, refused)] == world.provider.named
        await trio.sleep(1.0)

        assert 2 == len(world.provider.named)


@in_trio_clock
async def test_hashes_of_tokens_that_nobody_has_seen_take_no_room() -> None:
    """Of those that clients make up while there is no token, the last is remembered."""
    async with keeping(DOWN) as world:
        await trio.sleep(1.0)
        for number in range(100):
            await world.secret(rejected=f"{number:016x}")

        assert {f"{99:016x}"} == world.keeper._rejected


@in_trio_clock
async def test_a_rejected_token_is_answered_only_without_another() -> None:
    """Beyond the budget, and while the provider fails, the refused token is answered and the log says so."""
    async with keeping() as world:
        await trio.sleep(2.0)
        await world.secret(rejected=rejected("token-1"))
        await trio.sleep(2.0)
        with capture_logs() as lines:
            over_budget = await world.secret(rejected=rejected("token-2"))
            await trio.sleep(400.0)
            world.provider.script.append(DOWN)
            failed = await world.secret(rejected=rejected("token-2"))

    said = [line["event"].partition(":")[0] for line in lines]
    assert ("token-2", "token-2", 3) == (over_budget, failed, len(world.provider.asked))
    refused = "answered with a token that a mail server refused"
    assert ["no new token for this request", refused, refused] == said


@in_trio_clock
async def test_a_rejected_token_is_not_answered_while_another_is_on_its_way() -> None:
    """A provider that takes longer than a client can wait: the client hears that, and asks again in a few seconds."""
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.takes = 10.0
        refusal = await ask(world.keeper, MAIL, rejected=rejected("token-1"))
        others = await world.secret()
        await trio.sleep(10.0)
        again = await world.secret(rejected=rejected("token-1"))

    assert isinstance(refusal, Deny)
    assert ("unavailable", "the token is being renewed") == (refusal.code, refusal.message)
    assert 0 < refusal.retry_after < 10
    assert ("token-1", "token-2") == (others, again)


@in_trio_clock
async def test_a_demand_for_life_is_met_by_a_fresh_token() -> None:
    """`min` above what is left mints one; above what any token has, the newest is answered without a loop of mints."""
    async with keeping() as world:
        await trio.sleep(1000.0)
        fresh = await world.secret(min_valid=3000)
        greedy = [await world.secret(min_valid=80_000) for _ in range(3)]

    assert ("token-2", ["token-2"] * 3, 2) == (fresh, greedy, len(world.provider.asked))


@in_trio_clock
async def test_one_budget_for_a_grant() -> None:
    """Demands for two scope sets draw on the same budget."""
    async with keeping(grant=BOTH) as world:
        await trio.sleep(1000.0)
        first = await ask(world.keeper, MAIL, min_valid=3000)
        second = await ask(world.keeper, GRAPH, min_valid=3000)

    assert isinstance(first, Token)
    assert isinstance(second, Token)
    assert ("token-3", "token-2") == (first.secret, second.secret)


@in_trio_clock
async def test_scope_sets_fail_apart() -> None:
    """What is refused for one scope set leaves the other its tokens, also the next ones."""
    async with keeping(REVOKED, grant=BOTH) as world:
        await trio.sleep(HOUR)
        mail, graph = await ask(world.keeper, MAIL), await ask(world.keeper, GRAPH)

        assert isinstance(mail, Deny)
        assert isinstance(graph, Token)
        assert [MAIL, GRAPH, GRAPH] == [scopes for _, scopes in world.provider.asked]


@in_trio_clock
async def test_who_has_no_token_comes_first() -> None:
    """Of two due scope sets the one without a usable token is fetched before the other."""
    async with keeping(DOWN, grant=BOTH) as world:
        await trio.sleep(30.0)
        world.keeper.refresh()
        await trio.sleep(1.0)

        assert [MAIL, GRAPH, MAIL, GRAPH] == [scopes for _, scopes in world.provider.asked]


@in_trio_clock
async def test_accounts_do_not_delay_each_other() -> None:
    """A provider call that takes a minute for one grant leaves another's clients alone."""
    async with keeping(prepare=lambda world: setattr(world.provider, "takes", 60.0)) as slow, keeping() as quick:
        answer = await quick.secret()

        assert ("token-1", 0.1, 1) == (answer, round(trio.current_time(), 1), slow.provider.under_way)


@pytest.mark.parametrize(
    "odd",
    [
        ValueError("a bug"),
        ExceptionGroup("several", [OSError("one")]),
        Granted("x", math.nan, HOUR),
        Granted("x", 0.0, -5.0),
        Granted("x", 0.0, "soon"),  # type: ignore[arg-type]  # what a worker may send in spite of its types
        None,
    ],
)
def test_no_outcome_ends_a_keeper(odd: Outcome | Exception) -> None:
    """An exception, a token without a life, nonsense: the next try comes after its pause, and serves."""
    answers: list[str] = []

    @in_trio_clock
    async def run() -> None:
        async with keeping(odd) as world:
            await trio.sleep(90.0)
            answers.append(await world.secret())

    with capture_logs() as lines:
        run()

    assert 1 == len(answers)
    assert answers[0] in {"token-2", "x"}
    assert [] == [line for line in lines if line["log_level"] not in {"error", "info"}]


@in_trio_clock
async def test_every_change_is_told_once() -> None:
    """`on_change` hears of each outcome, not of plans that were brought forward."""
    async with keeping(DOWN, REVOKED) as world:
        await trio.sleep(30.0)
        world.keeper.wake()
        await world.secret()
        await trio.sleep(60.0)
        world.keeper.signed_in(MAIL, world.provider.token())

    assert [
        (MAIL, "Settled", "Failing"),
        (MAIL, "Failing", "NeedsSignIn"),
        (MAIL, "NeedsSignIn", "Settled"),
    ] == world.changes


@in_trio_clock
async def test_without_a_listener_changes_go_unheard() -> None:
    """`on_change` may be left out."""
    clock = FakeClock()
    async with trio.open_nursery() as nursery:
        keeper = Keeper(GRANT, FakeProvider(clock).acquire, clock)
        nursery.start_soon(keeper.ask)
        reply = await ask(keeper, MAIL)
        nursery.cancel_scope.cancel()

    assert isinstance(reply, Token)


SMTP_AND_IMAP: Scopes = (*MAIL, "https://outlook.office.com/IMAP.AccessAsUser.All")
IMAP = "IMAP.AccessAsUser.All"


@in_trio_clock
async def test_a_reload_leaves_one_copy_of_a_grant() -> None:
    """The grant of the new configuration replaces an equal one: very many accounts are not kept twice."""
    async with keeping() as world:
        again = replace(GRANT)
        world.keeper.take(again)

        assert again is world.keeper.grant


@in_trio_clock
async def test_other_settings_cost_no_token() -> None:
    """Another margin or redirect: the token stays, and cms asks for no other."""
    async with keeping() as world:
        before = await world.secret()
        world.keeper.take(replace(GRANT, refresh_before=60.0, redirect_uri="http://localhost:1"))
        world.keeper.take(world.keeper.grant)

        assert (before, 1) == (await world.secret(), len(world.provider.asked))
        assert 60.0 == world.keeper.grant.refresh_before


@in_trio_clock
async def test_a_protocol_more_costs_the_others_nothing() -> None:
    """The old token serves its protocols while one for all of them is fetched at once, and no other resource's does."""
    async with keeping(grant=BOTH) as world:
        before = await world.secret()
        await world.keeper.settled()
        world.provider.script.extend([DOWN])
        world.keeper.take(replace(BOTH, scope_sets=(SMTP_AND_IMAP, GRAPH)))
        held = await ask(world.keeper, SMTP_AND_IMAP, permission="SMTP.Send")
        gone = await ask(world.keeper, MAIL)
        await world.keeper.settled()

        assert isinstance(held, Token)
        assert before == held.secret
        assert Deny("unavailable", "the configuration has changed in the meantime", "try again", 1.0) == gone
        assert [SMTP_AND_IMAP] == [scopes for _, scopes in world.provider.asked[2:]]


@in_trio_clock
async def test_a_token_that_lacks_the_permission_is_not_answered() -> None:
    """A client waits for one that is on its way; if there is none, only a sign-in helps."""

    def prepare(world: World) -> None:
        world.provider.script.extend(
            [Granted("lesser", world.clock.boot(), HOUR, MAIL, sign_in=SignInFacts(who="a@example.test"))] * 2
        )

    async with keeping(grant=replace(GRANT, scope_sets=(SMTP_AND_IMAP,)), prepare=prepare) as world:
        smtp = await ask(world.keeper, SMTP_AND_IMAP, permission="SMTP.Send")
        imap = await ask(world.keeper, SMTP_AND_IMAP, permission=IMAP)
        world.keeper.refresh()
        await world.keeper.settled()
        world.keeper.refresh()
        later = ask(world.keeper, SMTP_AND_IMAP, permission=IMAP)
        await trio.sleep(PAUSE_AFTER_GRANT)
        whole = await later

        assert isinstance(smtp, Token)
        assert isinstance(imap, Deny)
        assert ("sign-in-required", True) == (imap.code, "cms login a@example.test" in imap.hint)
        assert isinstance(whole, Token)
        assert "token-3" == whole.secret


def for_smtp(world: World) -> None:
    world.provider.grants = MAIL


LOCKED = Transient(Trouble("locked", "the keyring is locked", "unlock it"))
LATER = Transient(Trouble("server", "the provider failed (HTTP 503)", "wait"), retry_after=900.0)
LOST = Transient(Trouble("worker", "the grant worker died before it answered", "see the log"))


@pytest.mark.parametrize(
    ("outcome", "code", "retry_after"),
    [
        (LATER, "unavailable", 900),
        (THROTTLED, "unavailable", 120),
        (DOWN, "unavailable", 60),
        (LOCKED, "locked", 60),
        (LOST, "unavailable", 60),
        (REVOKED, "sign-in-required", 0),
    ],
)
def test_what_was_not_asked_for_yet_is_refused_by_nobody(outcome: Outcome, code: str, retry_after: int) -> None:
    """A protocol that a reload adds has the provider's own trouble, until the provider has said no to it."""

    @in_trio_clock
    async def add() -> None:
        async with keeping(prepare=for_smtp) as world:
            await world.keeper.settled()
            world.provider.script.extend([outcome, outcome])
            world.keeper.take(replace(GRANT, scope_sets=(SMTP_AND_IMAP,)))
            await world.keeper.settled()
            for _ in range(2):
                smtp = await ask(world.keeper, SMTP_AND_IMAP, permission="SMTP.Send")
                imap = await ask(world.keeper, SMTP_AND_IMAP, permission=IMAP)

                assert isinstance(smtp, Token)
                assert isinstance(imap, Deny)
                assert isinstance(outcome, Transient | Refused)
                assert (code, outcome.trouble.message) == (imap.code, imap.message)
                assert -2 <= imap.retry_after - retry_after <= 0

    add()


@in_trio_clock
async def test_a_question_that_hangs_refuses_nobody() -> None:
    """While the provider has not answered, the added protocol is being fetched; its no is told as one."""
    async with keeping(prepare=for_smtp) as world:
        await world.keeper.settled()
        world.provider.takes = 2 * wire.WAIT_SECONDS
        world.keeper.take(replace(GRANT, scope_sets=(SMTP_AND_IMAP,)))
        early = await ask(world.keeper, SMTP_AND_IMAP, permission=IMAP, min_valid=60)
        await world.keeper.settled()
        late = await ask(world.keeper, SMTP_AND_IMAP, permission=IMAP)

        assert isinstance(early, Deny)
        assert ("unavailable", "the token is being renewed") == (early.code, early.message)
        assert isinstance(late, Deny)
        assert ("sign-in-required", True) == (late.code, "does not cover" in late.message)


@in_trio_clock
async def test_a_second_reload_makes_no_other_protocols_token_its_own() -> None:
    """However often the configuration changes while the provider is down, the token that is held answers for its own."""
    async with keeping(prepare=for_smtp) as world:
        await world.keeper.settled()
        world.provider.script.extend([LATER] * 4)
        for scopes in ((*SMTP_AND_IMAP, "https://outlook.office.com/POP.AccessAsUser.All"), SMTP_AND_IMAP):
            world.keeper.take(replace(GRANT, scope_sets=(scopes,)))
            await world.keeper.settled()
        imap = await ask(world.keeper, SMTP_AND_IMAP, permission=IMAP)

        assert isinstance(imap, Deny)
        assert ("unavailable", LATER.trouble.message) == (imap.code, imap.message)


@in_trio_clock
async def test_a_protocol_that_waits_is_tried_sooner_when_the_network_is_back() -> None:
    """A token of other protocols is no reason to let it wait out the pause."""
    async with keeping(prepare=for_smtp) as world:
        await world.keeper.settled()
        world.jitter = 0.9
        world.provider.script.extend([DOWN] * 4)
        world.keeper.take(replace(GRANT, scope_sets=(SMTP_AND_IMAP,)))
        await trio.sleep(10 * 60)
        world.provider.script.clear()
        world.keeper.wake()
        await world.keeper.changed()

        held = world.keeper.lives[SMTP_AND_IMAP].held
        assert held
        assert not held.borrowed


@in_trio_clock
async def test_a_permission_that_the_configuration_does_not_name() -> None:
    """It is to be corrected: no sign-in would bring it."""

    def prepare(world: World) -> None:
        world.provider.script.extend(
            [Granted("lesser", world.clock.boot(), HOUR, MAIL, sign_in=SignInFacts(who="a@example.test"))] * 2
        )

    async with keeping(prepare=prepare) as world:
        reply = await ask(world.keeper, MAIL, permission="POP.AccessAsUser.All")

        assert isinstance(reply, Deny)
        assert "scopes= in the configuration names no POP.AccessAsUser.All" == reply.message
        assert "add it to scopes= of the account" in reply.hint


@in_trio_clock
async def test_settings_that_may_mend_a_failure_are_tried() -> None:
    """A refusal and an outage of before are asked about again under the new settings."""
    async with keeping(REVOKED, DOWN) as world:
        refused = await world.secret()
        world.keeper.take(replace(GRANT, prompt="login"))
        failed = await world.secret()
        world.keeper.take(replace(GRANT, prompt="consent"))
        await world.keeper.settled()

        assert ("sign-in-required", "unavailable", "token-3") == (refused, failed, await world.secret())


@in_trio_clock
async def test_a_closed_keeper_answers_no_client() -> None:
    """Waiting clients are answered at once, and the token that was on the way is dropped without a notice."""
    async with keeping() as world, trio.open_nursery() as nursery:
        codes: list[str] = []

        async def wait() -> None:
            codes.append(await world.secret())

        nursery.start_soon(wait)
        await trio.sleep(0.05)
        world.keeper.close()
        await trio.sleep(0.01)
        at_once = list(codes)
        await trio.sleep(1.0)

        assert (["unavailable"], ["unavailable"], []) == (at_once, codes, world.changes)
        assert {} == world.keeper.lives


@in_trio_clock
async def test_what_is_configured_no_more_is_dropped_when_it_arrives() -> None:
    """A token that arrives after a reload has removed its scope set is dropped."""
    async with keeping() as world:
        await trio.sleep(0.05)
        world.keeper.take(replace(GRANT, scope_sets=(GRAPH,)))
        await world.keeper.settled()

        assert [GRAPH] == list(world.keeper.lives)
        assert [GRAPH] == [scopes for scopes, _, _ in world.changes]


@in_trio_clock
async def test_a_refresh_right_after_a_fetch_is_waited_for() -> None:
    """The pause between two fetches delays a refresh by a second; waiting clients get the new token."""
    async with keeping() as world:
        first = await world.secret()
        world.keeper.refresh()
        await world.keeper.settled()

        assert ("token-1", "token-2") == (first, await world.secret())


@in_trio_clock
async def test_settled_is_when_no_fetch_is_due() -> None:
    """It waits for what is under way, success or not, and returns at once when there is nothing to wait for."""
    async with keeping(DOWN, grant=BOTH) as world:
        await world.keeper.settled()
        first = trio.current_time()
        await world.keeper.settled()

        assert (0.2, first, 2) == (round(first, 1), trio.current_time(), len(world.provider.asked))


BLOCKED = Refused(
    Trouble("refused", "a policy blocks this sign-in", "the administrator", aadsts=53003), by_connection=True
)


def phase_of(keeper: Keeper, scopes: Scopes = MAIL) -> NeedsSignIn:
    phase = keeper.lives[scopes].phase
    assert isinstance(phase, NeedsSignIn)
    return phase


@in_trio_clock
async def test_a_refusal_by_the_connection_is_looked_at_again() -> None:
    """By itself, less and less often, without a word to those who heard of the refusal; what works again is served."""
    async with keeping(*[BLOCKED] * 5) as world:
        await trio.sleep(13.7 * HOUR)
        refused = list(world.changes)

        assert [0.0, 0.5, 1.5, 3.5, 7.5, 13.5] == [round(each / HOUR, 3) for each in world.provider.times[:6]]
        assert "token-6" == await world.secret()
        assert [("Settled", "NeedsSignIn"), *[("NeedsSignIn", "NeedsSignIn")] * 4] == [each[1:] for each in refused[:5]]


@in_trio_clock
async def test_a_refusal_by_the_connection_of_one_host() -> None:
    """Another host of the fleet may go on: its token is looked for each minute, and taken; the provider is not asked for it."""
    async with keeping(BLOCKED, BLOCKED) as world:
        world.keeper.sign_in = replace(world.keeper.sign_in, given_at=2000.0, shared=True)
        world.provider.elsewhere.extend([Looked(2000.0, shared=True)] * 2)
        await trio.sleep(150.0)
        assert ([(MAIL, "")] * 2, 1) == (world.provider.looked, len(world.provider.asked))
        world.provider.elsewhere.append(replace(elsewhere(world), issued=world.clock.boot()))
        await trio.sleep(60.0)

        assert ("token-elsewhere", 1) == (await world.secret(), len(world.provider.asked))
        await trio.sleep(300.0)
        assert 3 == len(world.provider.looked)


@in_trio_clock
async def test_a_client_does_not_hurry_a_look() -> None:
    """However many ask, and for whatever: they are told that a person can sign in, and when cms asks again."""
    async with keeping(BLOCKED) as world:
        await world.keeper.settled()
        await trio.sleep(10 * 60)
        replies = [
            await ask(world.keeper, MAIL, **need) for need in ({}, {"min_valid": 3000}, {"rejected": "0" * 8}) * 5
        ]

        assert {("sign-in-required", 1200)} == {
            (each.code, round(each.retry_after)) for each in replies if isinstance(each, Deny)
        }
        assert (15, 1) == (len(replies), len(world.provider.asked))


@in_trio_clock
async def test_the_network_changes() -> None:
    """A minute later cms looks again, after a suspend as well; what only a person mends is left alone."""
    async with keeping(BLOCKED, BLOCKED) as world:
        await world.keeper.settled()
        await trio.sleep(600.0)
        for _ in range(3):
            world.keeper.wake()
            await trio.sleep(5.0)
        await trio.sleep(120.0)
        world.keeper.wake()
        await trio.sleep(61.0)
        served = await world.secret()
        world.provider.script.append(REVOKED)
        world.keeper.refresh()
        await world.keeper.settled()
        world.keeper.wake()
        await trio.sleep(DAY)

        assert "token-3" == served
        assert [0.0, 660.0, 795.0] == [round(each / 5) * 5 for each in world.provider.times[:3]]
        assert 4 == len(world.provider.asked)


@in_trio_clock
async def test_less_than_a_change_of_the_network_is_no_look() -> None:
    """An address that was announced anew mends no refusal; a failure is tried sooner all the same."""
    async with keeping(BLOCKED, DOWN, grant=BOTH) as world:
        world.jitter = 0.9
        await world.keeper.settled()
        await trio.sleep(100.0)
        world.keeper.retry_sooner()
        await trio.sleep(100.0)

        assert [MAIL, GRAPH, GRAPH] == [scopes for _, scopes in world.provider.asked]


@in_trio_clock
async def test_six_looks_a_day_for_a_grant() -> None:
    """Whatever comes in between: other networks, reloads, a refresh, a sign-in, an outage, a second resource."""
    async with keeping(grant=BOTH) as world:
        await world.keeper.settled()
        world.provider.script.extend([BLOCKED] * 200)
        by_hand = 0
        for hour in range(24):
            world.keeper.take(replace(world.keeper.grant, prompt=["login", None][hour == 2]))
            if hour in (1, 5, 9):
                by_hand += 2
                world.keeper.refresh()
            if hour == 7:
                world.keeper.signed_in(MAIL, world.provider.token())
            for _ in range(4):
                world.keeper.wake()
                await trio.sleep(HOUR / 4)
        looks = [when for when in world.keeper._looks.mints if world.clock.boot() - when < DAY]
        planned = min(phase_of(world.keeper, scopes).next_try or 0.0 for scopes in (MAIL, GRAPH))

        assert MINTS_PER_DAY == len(looks)
        assert looks[0] + DAY <= planned
        # Besides: the first tokens, what the reloads and the person asked for, and the renewals that were refused.
        assert len(world.provider.asked) <= MINTS_PER_DAY + by_hand + 12


@in_trio_clock
async def test_a_look_without_a_network() -> None:
    """It was none: it is tried again soon, and the day's looks are still there."""
    async with keeping(BLOCKED, *[DOWN] * 8) as world:
        await world.keeper.settled()
        await trio.sleep(FIRST_LOOK + 300.0)
        away = phase_of(world.keeper)

        assert () == world.keeper._looks.mints
        assert ("a policy blocks this sign-in", True) == (away.trouble.message, (away.look or Look()).unanswered > 2)
        await trio.sleep(HOUR)
        assert (await world.secret()).startswith("token-")


@in_trio_clock
async def test_a_person_ends_the_looks() -> None:
    """A sign-in is the end of them, a sign-out too."""
    async with keeping(BLOCKED) as world:
        await world.keeper.settled()
        world.keeper.signed_in(MAIL, world.provider.token())
        await trio.sleep(FIRST_LOOK - 60.0)
        before = len(world.provider.asked)
        world.keeper.signed_out()
        world.keeper.wake()
        await trio.sleep(DAY)

        assert 1 == before == len(world.provider.asked)


@in_trio_clock
async def test_one_look_that_is_granted_brings_the_others_forward() -> None:
    """A network that one resource's token came over may be good for the other's."""
    async with keeping(BLOCKED, BLOCKED, grant=BOTH) as world:
        await world.keeper.settled()
        world.provider.script.extend([BLOCKED, BLOCKED])
        await trio.sleep(FIRST_LOOK + 10.0)
        world.keeper.refresh()
        await world.keeper.settled()

        assert all(isinstance(life.held, Token) for life in world.keeper.lives.values())


def elsewhere(world: World, secret: str = "token-elsewhere", **facts: Any) -> Granted:
    """A token that another host has."""
    facts = {"who": "a@example.test", "given_at": 2000.0, "redeemed_at": 2100.0, **facts}
    return Granted(secret, world.clock.boot(), HOUR, (), SignInFacts(**facts), refresh_in=HOUR / 3)


@in_trio_clock
async def test_a_sign_in_on_another_host_ends_the_wait_for_one_here() -> None:
    """Its token serves at once, with the facts of that sign-in, and the other scopes are asked for; nobody polls."""
    async with keeping(NOBODY, NOBODY, grant=BOTH) as world:
        await trio.sleep(3.0)
        world.provider.elsewhere.append(elsewhere(world))
        world.keeper.heard()
        await trio.sleep(0.15)
        known = world.keeper.sign_in

        assert ("token-elsewhere", 2000.0, 2100.0) == (await world.secret(), known.given_at, known.redeemed_at)
        await trio.sleep(3.0)
        assert (3, GRAPH) == (len(world.provider.asked), world.provider.asked[-1][1])
        assert [(MAIL, "")] == world.provider.looked


@in_trio_clock
async def test_a_sign_in_on_another_host_without_a_token_for_these_scopes_makes_a_fetch_due() -> None:
    """The worker has it from there, or redeems the new sign-in."""
    async with keeping(REVOKED) as world:
        await trio.sleep(2.0)
        world.provider.elsewhere.append(Looked(3000.0))
        world.keeper.heard()
        await trio.sleep(2.0)

        assert ("token-2", 2) == (await world.secret(), len(world.provider.asked))


@in_trio_clock
async def test_what_was_not_shared_is_seen_to_be() -> None:
    """A look says whether the other hosts have the sign-in by now. Its token stays."""
    async with keeping() as world:
        await trio.sleep(2.0)
        for shared in (False, True):
            world.provider.elsewhere.append(Looked(world.keeper.sign_in.given_at, shared=shared))
            world.keeper.heard()
            await trio.sleep(2.0)
            assert shared is world.keeper.sign_in.shared

        assert ("token-1", 1) == (await world.secret(), len(world.provider.asked))


@in_trio_clock
async def test_a_sign_out_on_another_host_is_one_here() -> None:
    """No token is answered from then on. To hear of it twice, or of one's own sign-out, changes nothing."""
    async with keeping() as world:
        await trio.sleep(2.0)
        for _ in range(2):
            world.provider.elsewhere.append(NOBODY)
            world.keeper.heard()
            await trio.sleep(2.0)

            assert "sign-in-required" == await world.secret()
        since = world.life.phase.since if isinstance(world.life.phase, NeedsSignIn) else 0.0

    assert (1, 2) == (len(world.provider.asked), len(world.changes))
    assert since < world.clock.boot() - 2.0


@in_trio_clock
async def test_a_refusal_on_another_host_is_known_here_and_costs_no_valid_token() -> None:
    """The person is told before this host's token expires. What this host knows of its own refusal is not overwritten."""
    async with keeping() as world:
        await trio.sleep(2.0)
        for told in (REVOKED, NOBODY):
            world.provider.elsewhere.append(told)
            world.keeper.heard()
            await trio.sleep(2.0)

            assert REVOKED.trouble == (world.life.phase.trouble if isinstance(world.life.phase, NeedsSignIn) else None)
            assert "token-1" == await world.secret()


@in_trio_clock
async def test_another_token_of_the_same_sign_in_is_taken_with_its_renewal() -> None:
    """As after a failover of the database, when every host looks at every grant."""
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.elsewhere.append(elsewhere(world, given_at=0.0))
        world.keeper.heard()
        await trio.sleep(1.0)
        taken = await world.secret()
        await trio.sleep(HOUR / 3)

    held = token_hash("token-1")
    assert ("token-elsewhere", [(MAIL, held)]) == (taken, world.provider.looked)
    assert [0.0, round(2.1 + HOUR / 3, 1)] == world.provider.times


@in_trio_clock
async def test_a_host_that_only_serves_has_its_wish_for_another_token() -> None:
    """A host that can renew the token hears of it, and does."""
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.elsewhere.append(Looked(0.0, wished=True))
        world.keeper.heard()
        await trio.sleep(2.0)

        assert ("token-2", [False, True]) == (await world.secret(), world.provider.wanted)


@in_trio_clock
async def test_a_host_that_only_serves_asks_again_after_a_sign_out() -> None:
    """It is told of sign-ins, but not of the first token of one."""
    serves_only = Refused(Trouble("relay", "no host has a token yet", "sign in there"), again_in=300.0)
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.elsewhere.append(serves_only)
        world.provider.script.append(serves_only)
        world.keeper.heard()
        await trio.sleep(2.0)
        without = await world.secret()
        await trio.sleep(300.0)

        assert ("unavailable", "token-3") == (without, await world.secret())


@in_trio_clock
async def test_what_cannot_be_looked_at_is_looked_at_again() -> None:
    """A database that is away for a while hides no sign-out for good."""
    async with keeping() as world:
        await trio.sleep(2.0)
        world.provider.elsewhere.extend([DOWN, NOBODY])
        world.keeper.heard()
        await trio.sleep(2.0)
        before = await world.secret()
        await trio.sleep(LOOK_AGAIN)

        assert ("token-1", "sign-in-required") == (before, await world.secret())


@in_trio_clock
async def test_a_look_waits_for_the_question_under_way_and_a_sign_in_here_counts_more() -> None:
    """One question at a time; what was seen before a sign-in on this host is out of date."""
    async with keeping() as world:
        await trio.sleep(0.05)
        world.keeper.heard()
        await trio.sleep(0.01)
        assert ([], 1) == (world.provider.looked, world.provider.under_way)
        await trio.sleep(2.0)
        world.provider.elsewhere.append(NOBODY)
        world.keeper.heard()
        await trio.sleep(0.05)
        world.keeper.signed_in(MAIL, world.provider.token())
        await trio.sleep(2.0)

        assert 2 == len(world.provider.looked)
        assert (await world.secret()).startswith("token-")
