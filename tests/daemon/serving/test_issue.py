"""A request is told by one function: bounded, by the rules of the moment, and unharmed by what a keeper does."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.keeper import RENEWED, SCOPES, SECRET, FakeKeeper, token
from support.sockets import GRANT, KINDS, NAMELESS, POSTFIX, RULES, A, B, Kind, read_all, serving
from support.trio_run import in_trio, in_trio_jumps, jump, until

from cms.core.accounts import Grant
from cms.core.lifecycle import Deny, Need
from cms.core.policy import Peer
from cms.daemon.serving import issue
from cms.daemon.serving.issue import Issuer, NamedAnswer, Pending
from cms_oauth.wire import WAIT_SECONDS, TokenRequest

both_kinds = pytest.mark.parametrize("kind", KINDS, ids=str)

PEER = Peer(7, os.getuid(), 100)
REQUEST = TokenRequest("SMTP", user="a@example.test")


def code(answer: NamedAnswer | Pending) -> str:
    """Return how a request ends."""
    if isinstance(answer, Pending):
        return "pending"
    return answer[1].code if isinstance(answer[1], Deny) else "granted"


def keeping(**options: object) -> FakeKeeper:
    """A keeper that answers at once."""
    keeper = FakeKeeper(**options)  # type: ignore[arg-type]  # by name
    keeper.open.set()
    return keeper


# --- at once ---


@in_trio
async def test_a_keeper_is_asked_for_what_was_allowed() -> None:
    """The keeper of the account's Grant, for the scopes of the decision, with what the client asked for."""
    keeper, asked = keeping(), list[Grant]()

    def keeper_of(grant: Grant, _uid: int) -> FakeKeeper:
        asked.append(grant)
        return keeper

    answer = Issuer(RULES, keeper_of).token(
        PEER, TokenRequest("SMTP", "json", "a@example.test", 900, "0123456789abcdef")
    )

    assert (A.user, keeper.reply) == answer
    assert ([GRANT], [(SCOPES, Need("SMTP.Send", 900, "0123456789abcdef"))]) == (asked, keeper.asked)


@in_trio
async def test_a_protocol_of_ones_own_is_known_by_its_scopes() -> None:
    """Its token must grant what the configuration asks for."""
    keeper = keeping()
    rules = replace(RULES, accounts=(replace(A, scopes={"GRAPH": SCOPES}),), protocols=("GRAPH",))
    Issuer(rules, lambda _grant, _uid: keeper).token(PEER, TokenRequest("GRAPH"))

    assert [(SCOPES, Need("SMTP.Send"))] == keeper.asked


@in_trio
async def test_a_refused_request_asks_no_keeper() -> None:
    """The rules alone refuse a peer that may not ask, an unknown user and an unknown protocol."""
    keeper = keeping()
    issuer = Issuer(replace(RULES, owner=1, users=frozenset()), lambda _grant, _uid: keeper)
    stranger = issuer.token(Peer(1, 4242, 4242), REQUEST)
    issuer.rules = RULES
    others = [issuer.token(PEER, TokenRequest("SMTP", user="b@example.test")), issuer.token(PEER, TokenRequest("POP"))]

    assert ["denied", "unknown-account", "unknown-protocol"] == [code(each) for each in (stranger, *others)]
    assert [] == keeper.asked


@both_kinds
@in_trio
async def test_the_user_is_the_configured_spelling(tmp_path: Path, kind: Kind) -> None:
    """Whatever the letters of the request."""
    async with serving(tmp_path, kind, replace(RULES, accounts=(A, B))) as served:
        said = [await served.ask(kind.request(user)) for user in ("a@EXAMPLE.test", "B@example.test")]

    assert [kind.granted(), kind.granted("b@example.test")] == said


@both_kinds
@in_trio
async def test_an_account_without_a_user_goes_by_who_signed_in(tmp_path: Path, kind: Kind) -> None:
    """It is found by the name that the provider reported, and by none where it is the only account."""
    async with serving(tmp_path, kind, replace(RULES, accounts=(NAMELESS,))) as served:
        served.keeper.who = "Who@example.test"
        said = [await served.ask(kind.request(user)) for user in ("who@example.test", "")]

    assert [kind.granted("Who@example.test")] * 2 == said


@both_kinds
@in_trio
async def test_a_token_is_never_given_without_a_user(tmp_path: Path, kind: Kind) -> None:
    """The first token and the name come together; as long as there is no name there is no token."""
    async with serving(tmp_path, kind, replace(RULES, accounts=(NAMELESS,))) as served:
        without = await served.ask(kind.request(""))
        served.keeper.open = trio.Event()
        client = await served.connect(kind.request(""))
        await client.send_eof()
        await until(lambda: len(served.keeper.asked) == 2)
        served.keeper.who = "who@example.test"
        served.keeper.open.set()

        assert SECRET.encode() not in without
        assert kind.granted("who@example.test") == await read_all(client)
        assert ["sign-in-required", "granted"] == served.outcomes


@both_kinds
@in_trio
async def test_a_keepers_refusal_gives_no_token(tmp_path: Path, kind: Kind) -> None:
    """Its code is in the log."""
    async with serving(tmp_path, kind) as served:
        served.keeper.reply = Deny("locked", "the keyring is locked", "unlock it")

        assert SECRET.encode() not in await served.ask(kind.request())
        assert ["locked"] == served.outcomes


@both_kinds
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "while it waits"])
@in_trio
async def test_a_keepers_bug_is_a_refusal(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str], *, waits: bool
) -> None:
    """The client is told that cms failed, the log has the traceback, and others are served on."""
    async with serving(tmp_path, kind) as served:
        served.keeper.fails = None if waits else RuntimeError("bug")
        served.keeper.open = trio.Event()
        client = await served.connect(kind.request())
        await client.send_eof()
        await until(lambda: served.keeper.asked)
        served.keeper.fails = RuntimeError("bug")
        served.keeper.open.set()
        said = await read_all(client)
        served.keeper.fails = None

        assert SECRET.encode() not in said
        assert kind.granted() == await served.ask(kind.request())
        assert ["unavailable", "granted"] == served.outcomes
    assert "a keeper failed at a request" in capsys.readouterr().out


@both_kinds
@in_trio
async def test_the_record_has_who_and_what_and_no_token(
    tmp_path: Path, kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each request: uid, pid, protocol, outcome, and whose token it was though no user was named.

    The log has the refusal only.
    """
    record = tmp_path / "audit.log"
    async with serving(tmp_path, kind) as served:
        served.audit.apply(str(record), journal=False)
        await served.ask(kind.request(""))
        await served.ask(kind.request("b@example.test"))
        served.audit.close()
    lines = record.read_text().splitlines()
    logged = [line for line in capsys.readouterr().out.splitlines() if "request" in line]

    assert 2 == len(lines)
    for word in ("granted", "A@example.test", "SMTP", kind.name, str(os.getuid()), str(os.getpid())):
        assert word in lines[0]
    assert "unknown-account" in lines[1]
    assert ["unknown-account" in line for line in logged] == [True]
    assert SECRET not in "".join(lines)


# --- after a wait ---


@both_kinds
@in_trio
async def test_no_more_than_so_many_wait(tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond are told at once to come again; when there is room they may, and a held token needs no room."""
    monkeypatch.setattr(issue, "MAX_WAITING", 2)
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        waiting = [await served.connect(kind.request()) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        refused = await served.ask(kind.request())
        waits, served.keeper = served.keeper, keeping()
        held = await served.ask(kind.request())
        served.keeper = waits
        for client in waiting:
            await client.send_eof()
        waits.open.set()
        said = [await read_all(client) for client in waiting]

        assert (False, kind.granted()) == (SECRET.encode() in refused, held)
        assert [kind.granted()] * 2 == said
        assert ["busy", "granted", "granted", "granted"] == served.outcomes


@in_trio
async def test_a_place_is_free_again_after_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a wait."""
    monkeypatch.setattr(issue, "MAX_WAITING", 1)
    keeper = FakeKeeper()
    issuer = Issuer(RULES, lambda _grant, _uid: keeper)
    pending = issuer.token(PEER, REQUEST)
    assert isinstance(pending, Pending)
    keeper.fails = RuntimeError("bug")
    keeper.open.set()

    assert ["unavailable"] * 3 == [code(await issuer.wait(pending, math.inf)) for _ in range(3)]


@both_kinds
@in_trio
async def test_a_request_is_judged_by_the_rules_of_its_moment(tmp_path: Path, kind: Kind) -> None:
    """An account that a reload has taken away between connecting and asking is unknown, and nothing fails."""
    async with serving(tmp_path, kind) as served:
        request = kind.request()
        client = await served.connect(request[:5])
        await trio.testing.wait_all_tasks_blocked()
        served.issuer.rules = replace(RULES, accounts=(B,))
        await client.send_all(request[5:])
        await client.send_eof()

        assert SECRET.encode() not in await read_all(client)
        assert (["unknown-account"], []) == (served.outcomes, served.keeper.asked)


@both_kinds
@in_trio
async def test_who_waits_over_a_reload_is_answered_by_the_new_rules(tmp_path: Path, kind: Kind) -> None:
    """A refusal under a configuration that is replaced meanwhile is not passed on: the question is put again."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        served.keeper.reply = Deny("unavailable", "the configuration has changed", "ask again")
        served.keeper.after = [token()]
        client = await served.connect(kind.request())
        await client.send_eof()
        await until(lambda: served.keeper.asked)
        served.issuer.rules = replace(RULES)
        served.keeper.open.set()

        assert kind.granted() == await read_all(client)
        assert (["granted"], 2) == (served.outcomes, len(served.keeper.asked))


@both_kinds
@in_trio
async def test_who_may_ask_no_more_gets_no_token_that_was_waited_for(tmp_path: Path, kind: Kind) -> None:
    """A reload that takes an account away takes it from those who wait, too."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        client = await served.connect(kind.request())
        await client.send_eof()
        await until(lambda: served.keeper.asked)
        served.issuer.rules = replace(RULES, accounts=(B,))
        served.keeper.open.set()

        assert SECRET.encode() not in await read_all(client)
        assert ["unknown-account"] == served.outcomes


@both_kinds
@in_trio_jumps
async def test_a_request_has_one_deadline_whatever_is_reloaded(tmp_path: Path, kind: Kind) -> None:
    """Four seconds from its first byte it is answered with what there is, and the log has it once."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        client = await served.connect(kind.request()[:5])
        await trio.testing.wait_all_tasks_blocked()
        jump(0.5)
        await client.send_all(kind.request()[5:])
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            jump(1.0)
            served.issuer.rules = replace(RULES)
        await trio.testing.wait_all_tasks_blocked()
        early = list(served.outcomes)
        jump(0.5)
        said = await read_all(client) if kind.name == "token" else bytes(await client.receive_some())

        assert ([], ["unavailable"]) == (early, served.outcomes)
        assert (RENEWED.message.encode() in said) is (kind.name == "postfix")


@both_kinds
@in_trio_jumps
async def test_one_that_is_whole_too_late_to_wait_is_answered_at_once(tmp_path: Path, kind: Kind) -> None:
    """A slow client has used its time itself: it gets a token that is held, and else the reason."""
    for held in (True, False):
        async with serving(tmp_path, kind) as served:
            client = await served.connect(kind.request()[:5])
            await trio.testing.wait_all_tasks_blocked()
            jump(WAIT_SECONDS + 0.5)
            if not held:
                served.keeper.open = trio.Event()
            await client.send_all(kind.request()[5:])
            await client.send_eof()

            assert (kind.granted() == await read_all(client)) is held
            assert ["granted" if held else "unavailable"] == served.outcomes


@in_trio_jumps
async def test_a_query_that_waits_behind_another_has_no_more_time(tmp_path: Path) -> None:
    """Its first byte came with those of the first: both are answered when that time is over."""
    async with serving(tmp_path, POSTFIX) as served:
        served.keeper.open = trio.Event()
        client = await served.connect(POSTFIX.request() * 2)
        await trio.testing.wait_all_tasks_blocked()
        jump(WAIT_SECONDS)
        await trio.testing.wait_all_tasks_blocked()

        assert ["unavailable"] * 2 == served.outcomes
        assert 2 == bytes(await client.receive_some()).count(b"TEMP ")


@both_kinds
@in_trio
async def test_a_request_demands_a_fetch_once(tmp_path: Path, kind: Kind) -> None:
    """min= and rejected= are in a budget: reloads do not spend it."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        served.keeper.reply = Deny("unavailable", "the configuration has changed", "ask again")
        served.keeper.after = [token()]
        client = await served.connect(kind.request())
        await client.send_eof()
        await until(lambda: served.keeper.asked)
        served.issuer.rules = replace(RULES)
        served.keeper.open.set()

        assert kind.granted() == await read_all(client)
        assert (2, 1) == (len(served.keeper.asked), served.keeper.demanded)


@both_kinds
@in_trio
async def test_a_socket_that_closes_answers_who_waits(tmp_path: Path, kind: Kind) -> None:
    """When the daemon stops, by the time that it has; also those that come to wait after that."""
    async with serving(tmp_path, kind) as served:
        served.keeper.open = trio.Event()
        waiting = await served.connect(kind.request())
        await until(lambda: served.keeper.asked)
        served.issuer.close()
        late = await served.connect(kind.request())
        await trio.testing.wait_all_tasks_blocked()

        assert ["unavailable"] * 2 == served.outcomes
        for client in (waiting, late):
            await client.send_eof()
            assert SECRET.encode() not in await read_all(client)


@in_trio
async def test_a_mailbox_that_cannot_be_opened() -> None:
    """The request is told why; a request whose mailbox has been closed while it waited opens it no second time."""
    full, no = Deny("unavailable", "full", "set a greater limit"), Deny("unavailable", "no such mailbox", "check it")
    keepers: list[FakeKeeper | Deny] = [FakeKeeper()]
    issuer = Issuer(RULES, lambda _grant, _uid: keepers[-1])
    pending = issuer.token(PEER, REQUEST)
    assert isinstance(pending, Pending)
    keepers.append(full)

    assert (A.user, no) == issuer.token(PEER, REQUEST, pending, no)
    assert (A.user, full) == issuer.token(PEER, REQUEST)
