"""Clocks that are set and machines that sleep: neither costs a token, nor lets one out that has expired."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.house import ANN, BOB, HOUR, House, in_house, open_house, until

from cms.core.lifecycle import SHORTEST_PAUSE
from cms.daemon.app import WATCH_SECONDS
from cms.sandbox.faults import Fault

STEPS = pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])


def fetches(house: House) -> int:
    return house.entra.count("token", grant_type="refresh_token")


@STEPS
@in_house
async def test_the_wall_clock_is_stepped(tmp_path: Path, step: float) -> None:
    """A step of two hours, which the worker's MSAL sees as well, moves no deadline: not now and not for later tokens."""
    async with open_house(tmp_path) as house:
        first, before = await house.token(ANN), house.row(ANN)["token"]
        house.clock.step(step)

        assert first == await house.token(ANN)
        after = house.row(ANN)["token"]
        for field in ("age", "left", "refresh_in"):
            assert abs(before[field] - after[field]) < 5, field
        assert 0 == fetches(house)

        await house.pass_time(0.6 * HOUR)
        assert (first, 0) == (await house.token(ANN), fetches(house)), "it is not renewed before its time"
        await house.pass_time(0.1 * HOUR)
        second = await house.token(ANN)
        assert (1, True) == (fetches(house), first != second)
        assert HOUR - 0.1 * HOUR < (await house.told(ANN))["expires_in"] <= HOUR

        house.clock.step(-step)
        await house.pass_time(HOUR)
        assert second != await house.token(ANN)
        assert ("ok", 0) == (house.row(ANN)["state"], house.exit_code())


@STEPS
@in_house
async def test_times_of_day_follow_the_wall_clock(tmp_path: Path, step: float) -> None:
    """The moments that a client and the status are told are right by the clock that they will read."""
    async with open_house(tmp_path) as house:
        house.clock.step(step)
        told, row = await house.told(ANN), house.row(ANN)
        expires = house.clock.wall() + told["expires_in"]

        assert abs(expires - told["expires_at"]) < 5
        assert abs(expires - row["token"]["expires_at"]) < 5


@STEPS
@in_house
async def test_a_step_during_an_outage(tmp_path: Path, step: float) -> None:
    """Retry-After and pauses are not counted by the wall clock either: a step neither skips nor stretches them."""
    async with open_house(tmp_path) as house:
        house.entra.faults.add(Fault("status", status=429, retry_after="600"))
        await house.pass_time(0.63 * HOUR)
        house.clock.step(step)
        await house.pass_time(570)
        early = fetches(house)
        await house.pass_time(30)

        assert (1, 2) == (early, fetches(house))
        assert "ok" == house.row(ANN)["state"]


@STEPS
@in_house
async def test_a_sign_in_over_a_step(tmp_path: Path, step: float) -> None:
    """A sign-in that is under way when the clock is stepped is completed, and its token is right."""
    async with open_house(tmp_path, signed_in=False) as house:
        await house.sign_in(ANN, meanwhile=lambda: house.clock.step(step))
        await house.token(ANN)
        await house.pass_time(0.7 * HOUR)
        await house.token(ANN)

        assert 1 == fetches(house)


@in_house
async def test_the_first_to_ask_after_a_suspend(tmp_path: Path) -> None:
    """Two hours later trio's clock has not moved; the first client gets a fresh token, never the expired one."""
    async with open_house(tmp_path) as house:
        first = await house.token(ANN)
        await house.suspend(2 * HOUR)

        assert not house.row(ANN)["usable"]
        assert first != await house.token(ANN)
        assert 1 == fetches(house)


@in_house
async def test_the_watch_notices_a_suspend_without_a_request(tmp_path: Path) -> None:
    """The clock watch notices a suspend without a request: every account is fresh within half a minute."""
    async with open_house(tmp_path, (ANN, BOB)) as house:
        await house.suspend(2 * HOUR)
        house.awake(WATCH_SECONDS)
        await until(lambda: fetches(house) == 2, "the renewals")
        await house.settled()

        assert ["ok", "ok"] == [house.row(user)["state"] for user in (ANN, BOB)]
        assert 2 == fetches(house)


@in_house
async def test_without_a_suspend_the_watch_is_quiet(tmp_path: Path) -> None:
    """While the clock runs normally, the watch wakes no keeper."""
    async with open_house(tmp_path) as house:
        for _ in range(20):
            await house.pass_time(WATCH_SECONDS)

        assert 0 == fetches(house)


@in_house
async def test_no_network_after_a_suspend(tmp_path: Path) -> None:
    """A machine that wakes before its network does has its token a minute after that is up."""
    async with open_house(tmp_path) as house:
        house.entra.go_down()
        await house.suspend(2 * HOUR)
        house.awake(WATCH_SECONDS)
        await until(lambda: house.row(ANN)["state"] == "failing", "the failure")
        refusal = await house.refusal(ANN)

        assert ("unavailable", "network") == (refusal["code"], house.row(ANN)["problem"]["kind"])
        house.entra.come_up()
        await house.pass_time(SHORTEST_PAUSE)
        await house.token(ANN)
        assert "ok" == house.row(ANN)["state"]


@in_house
async def test_a_suspend_during_an_outage(tmp_path: Path) -> None:
    """A pause that the suspend has outlived is over: the next try comes within half a minute of the resume."""
    async with open_house(tmp_path) as house:
        house.entra.faults.add(Fault("status", status=503, times=None))
        await house.pass_time(0.9 * HOUR)
        house.entra.faults.clear()
        tried = fetches(house)
        await house.suspend(2 * HOUR)
        house.awake(WATCH_SECONDS)
        await until(lambda: fetches(house) > tried, "the next try")
        await house.settled()

        await house.token(ANN)
        assert "ok" == house.row(ANN)["state"]


@in_house
async def test_a_suspend_while_a_fetch_is_under_way(tmp_path: Path) -> None:
    """An answer that the suspend has made old is not served as if it were new."""
    async with open_house(tmp_path) as house:
        house.entra.faults.add(Fault("silence"))
        house.awake(0.64 * HOUR)
        await until(lambda: house.entra.count("token", fault="silence"), "the silence")
        house.clock.advance(2 * HOUR)
        house.entra.faults.release()
        await house.settled()

        await house.token(ANN)
        assert "ok" == house.row(ANN)["state"]
