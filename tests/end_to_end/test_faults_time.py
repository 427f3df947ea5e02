"""Clocks that are set and machines that sleep: neither costs a token, nor lets one out that has expired."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.whole_daemon import ANN, BOB, HOUR, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.lifecycle import SHORTEST_PAUSE
from cms.daemon.app import WATCH_SECONDS
from cms.sandbox.faults import Fault

STEPS = pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR], ids=["forward", "back"])


def fetches(daemon: WholeDaemon) -> int:
    return daemon.entra.count("token", grant_type="refresh_token")


@STEPS
@on_moving_clock
async def test_the_wall_clock_is_stepped(tmp_path: Path, step: float) -> None:
    """A step of two hours, which the worker's MSAL sees as well, moves no deadline: not now and not for later tokens."""
    async with whole_daemon(tmp_path) as daemon:
        first, before = await daemon.token(ANN), daemon.row(ANN)["token"]
        daemon.clock.step(step)

        assert first == await daemon.token(ANN)
        after = daemon.row(ANN)["token"]
        for field in ("age", "left", "refresh_in"):
            assert abs(before[field] - after[field]) < 5, field
        assert 0 == fetches(daemon)

        await daemon.pass_time(0.6 * HOUR)
        assert (first, 0) == (await daemon.token(ANN), fetches(daemon)), "it is not renewed before its time"
        await daemon.pass_time(0.1 * HOUR)
        second = await daemon.token(ANN)
        assert (1, True) == (fetches(daemon), first != second)
        assert HOUR - 0.1 * HOUR < (await daemon.told(ANN))["expires_in"] <= HOUR

        daemon.clock.step(-step)
        await daemon.pass_time(HOUR)
        assert second != await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@STEPS
@on_moving_clock
async def test_times_of_day_follow_the_wall_clock(tmp_path: Path, step: float) -> None:
    """The moments that a client and the status are told are right by the clock that they will read."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.clock.step(step)
        told, row = await daemon.told(ANN), daemon.row(ANN)
        expires = daemon.clock.wall() + told["expires_in"]

        assert abs(expires - told["expires_at"]) < 5
        assert abs(expires - row["token"]["expires_at"]) < 5


@STEPS
@on_moving_clock
async def test_a_step_during_an_outage(tmp_path: Path, step: float) -> None:
    """Retry-After and pauses are not counted by the wall clock either: a step neither skips nor stretches them."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.faults.add(Fault("status", status=429, retry_after="600"))
        await daemon.pass_time(0.63 * HOUR)
        daemon.clock.step(step)
        # A busy machine takes seconds of it for itself.
        await daemon.pass_time(500)
        early = fetches(daemon)
        await daemon.pass_time(100)

        assert (1, 2) == (early, fetches(daemon))
        assert "ok" == daemon.row(ANN)["state"]


@STEPS
@on_moving_clock
async def test_a_sign_in_over_a_step(tmp_path: Path, step: float) -> None:
    """A sign-in that is under way when the clock is stepped is completed, and its token is right."""
    async with whole_daemon(tmp_path, signed_in=False) as daemon:
        await daemon.sign_in(ANN, meanwhile=lambda: daemon.clock.step(step))
        await daemon.token(ANN)
        await daemon.pass_time(0.7 * HOUR)
        await daemon.token(ANN)

        assert 1 == fetches(daemon)


@on_moving_clock
async def test_the_first_to_ask_after_a_suspend(tmp_path: Path) -> None:
    """Two hours later trio's clock has not moved; the first client gets a fresh token, never the expired one."""
    async with whole_daemon(tmp_path) as daemon:
        first = await daemon.token(ANN)
        await daemon.suspend(2 * HOUR)

        assert not daemon.row(ANN)["usable"]
        assert first != await daemon.token(ANN)
        assert 1 == fetches(daemon)


@on_moving_clock
async def test_the_watch_notices_a_suspend_without_a_request(tmp_path: Path) -> None:
    """The clock watch notices a suspend without a request: every account is fresh within half a minute."""
    async with whole_daemon(tmp_path, (ANN, BOB)) as daemon:
        await daemon.suspend(2 * HOUR)
        daemon.awake(WATCH_SECONDS)
        await until(lambda: fetches(daemon) == 2, "the renewals")
        await daemon.settled()

        assert ["ok", "ok"] == [daemon.row(user)["state"] for user in (ANN, BOB)]
        assert 2 == fetches(daemon)


@on_moving_clock
async def test_without_a_suspend_the_watch_is_quiet(tmp_path: Path) -> None:
    """While the clock runs normally, the watch wakes no keeper."""
    async with whole_daemon(tmp_path) as daemon:
        for _ in range(20):
            await daemon.pass_time(WATCH_SECONDS)

        assert 0 == fetches(daemon)


@on_moving_clock
async def test_no_network_after_a_suspend(tmp_path: Path) -> None:
    """A machine that wakes before its network does has its token a minute after that is up."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.go_down()
        await daemon.suspend(2 * HOUR)
        daemon.awake(WATCH_SECONDS)
        await until(lambda: daemon.row(ANN)["state"] == "failing", "the failure")
        refusal = await daemon.refusal(ANN)

        assert ("unavailable", "network") == (refusal["code"], daemon.row(ANN)["problem"]["kind"])
        daemon.entra.come_up()
        await daemon.pass_time(SHORTEST_PAUSE)
        await daemon.token(ANN)
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_a_suspend_during_an_outage(tmp_path: Path) -> None:
    """A pause that the suspend has outlived is over: the next try comes within half a minute of the resume."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.faults.add(Fault("status", status=503, times=None))
        await daemon.pass_time(0.9 * HOUR)
        daemon.entra.faults.clear()
        tried = fetches(daemon)
        await daemon.suspend(2 * HOUR)
        daemon.awake(WATCH_SECONDS)
        await until(lambda: fetches(daemon) > tried, "the next try")
        await daemon.settled()

        await daemon.token(ANN)
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_a_suspend_while_a_fetch_is_under_way(tmp_path: Path) -> None:
    """An answer that the suspend has made old is not served as if it were new."""
    async with whole_daemon(tmp_path) as daemon:
        daemon.entra.faults.add(Fault("silence"))
        daemon.awake(0.64 * HOUR)
        await until(lambda: daemon.entra.count("token", fault="silence"), "the silence")
        daemon.clock.advance(2 * HOUR)
        daemon.entra.faults.release()
        await daemon.settled()

        assert "the token is being renewed" == (await daemon.told(ANN))["error"]["message"]
        await daemon.recovery(ANN)
        assert "ok" == daemon.row(ANN)["state"]
