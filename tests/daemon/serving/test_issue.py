"""The way to the keepers: bounded, and unharmed by what a keeper does."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from support.keeper import SCOPES, SECRET, FakeKeeper
from support.trio_run import in_trio

from cms.core.accounts import Account, Grant
from cms.core.lifecycle import Deny, Token
from cms.core.policy import Allow
from cms.daemon.serving import issue
from cms.daemon.serving.issue import Teller

GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (SCOPES,))
ALLOWED = Allow(Account("a@example.test", GRANT, {"SMTP": SCOPES}), SCOPES)


@in_trio
async def test_a_keeper_is_asked_for_what_was_allowed() -> None:
    """The keeper of the account's Grant, for the scopes of the decision, with what the client asked for."""
    keeper, asked = FakeKeeper(), list[Grant]()
    keeper.open.set()

    def keeper_of(grant: Grant) -> FakeKeeper:
        asked.append(grant)
        return keeper

    token = await Teller(keeper_of).token(ALLOWED, "SMTP", min_valid=900, rejected="0123456789abcdef")

    assert isinstance(token, Token)
    assert (SECRET, [GRANT]) == (token.secret, asked)
    assert ([(SCOPES, 900, "0123456789abcdef")], ["SMTP.Send"]) == (keeper.asked, keeper.permissions)


@in_trio
async def test_a_protocol_of_ones_own_is_known_by_its_scopes() -> None:
    """Its token must grant what the configuration asks for."""
    keeper = FakeKeeper()
    keeper.open.set()
    await Teller(lambda _grant: keeper).token(ALLOWED, "GRAPH")

    assert ["SMTP.Send"] == keeper.permissions


@in_trio
async def test_no_more_than_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond are told to come again, and when there is room they may."""
    monkeypatch.setattr(issue, "MAX_WAITING", 2)
    keeper = FakeKeeper()
    one = Teller(lambda _grant: keeper)
    replies: list[Token | Deny] = []

    async def ask() -> None:
        replies.append(await one.token(ALLOWED, "SMTP"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        (refused,) = replies
        keeper.open.set()
    after = await one.token(ALLOWED, "SMTP")

    assert isinstance(refused, Deny)
    assert ("busy", 3) == (refused.code, len(replies))
    assert isinstance(after, Token)


@in_trio
async def test_a_keepers_bug_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """The client is told that cms failed, the log has the traceback, and the place is free again."""
    keeper = FakeKeeper(fails=RuntimeError("bug"))
    one = Teller(lambda _grant: keeper)
    replies = [await one.token(ALLOWED, "SMTP") for _ in range(issue.MAX_WAITING + 1)]

    assert {"unavailable"} == {reply.code for reply in replies if isinstance(reply, Deny)}
    assert "a keeper failed at a request" in capsys.readouterr().out
