"""A grant worker that hangs, dies or babbles: the daemon goes on serving, says so, and starts another."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from support import babbling_worker
from support.house import ANN, BOB, HOUR, House, in_house, open_house, until

from cms.core.lifecycle import Granted
from cms.daemon.worker import WORKER_MARGIN
from cms.grants.messages import MAX_MESSAGE, Done, pack
from cms.sandbox.faults import Fault
from cms_oauth.wire import WAIT_SECONDS

TIMEOUT = 10.0
OVERDUE = TIMEOUT + WORKER_MARGIN + 1.0

# Past the moment at which an hour's token is renewed.
DUE = 0.64 * HOUR


@asynccontextmanager
async def with_idle_worker(folder: Path, *users: str, **options: Any) -> AsyncIterator[House]:
    """Open a house whose worker does not leave by itself."""
    async with open_house(folder, users or (ANN,), timeout=TIMEOUT, idle=HOUR, **options) as house:
        await until(lambda: len(house.workers()) == 1, "the sign-ins' workers to leave")
        yield house


@asynccontextmanager
async def stopped(house: House) -> AsyncIterator[int]:
    """Hold the worker still for the block, as a frozen D-Bus or a dead file system does; yield its id."""
    (process,) = house.workers()
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        # It has been ended by then, unless the test fails.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


async def silence(house: House, number: int = 1) -> None:
    """Wait until Entra has met this many questions with silence."""
    await until(lambda: house.entra.count("token", fault="silence") == number, "the silence")


def problem(house: House, user: str = ANN) -> tuple[str, str]:
    row = house.row(user)
    return row["state"], row["problem"]["kind"]


@in_house
async def test_hung(tmp_path: Path) -> None:
    """A worker that hangs is ended when its time is up; the token stays in service, and a new worker renews it."""
    async with with_idle_worker(tmp_path) as house, stopped(house) as process:
        first = await house.token(ANN)
        house.awake(DUE)

        assert first == await house.token(ANN), "nobody waits for it"
        assert [process] == house.workers()
        house.awake(OVERDUE)
        await house.settled()
        await until(lambda: not house.workers(), "the worker's end")
        assert ("failing", "worker") == problem(house)
        assert "the grant worker did not answer in time and was ended" in house.text()
        assert first == await house.token(ANN)

        await house.pass_time(house.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await house.token(ANN)
        assert ("ok", 0) == (house.row(ANN)["state"], house.exit_code())


@in_house
async def test_hung_with_no_token_left(tmp_path: Path) -> None:
    """While the worker hangs and the token has expired, clients are refused after 4 s and not before a new worker's."""
    async with with_idle_worker(tmp_path) as house, stopped(house):
        await house.suspend(2 * HOUR)
        refusals: list[str] = []

        async def ask() -> None:
            refusals.append((await house.told(ANN))["error"]["code"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: house.row(ANN)["state"] == "renewing", "the question")
            await trio.testing.wait_all_tasks_blocked(0.05)
            house.awake(WAIT_SECONDS)

        assert ["unavailable"] == refusals
        house.awake(OVERDUE)
        await house.settled()
        refusal = await house.refusal(ANN)
        assert "did not answer in time" in refusal["message"]
        await house.pass_time(refusal["retry_after"] + 1)
        await house.token(ANN)


@in_house
async def test_dead_while_idle(tmp_path: Path) -> None:
    """No client notices when an idle worker dies."""
    async with with_idle_worker(tmp_path) as house:
        first = await house.token(ANN)
        (process,) = house.workers()
        os.kill(process, signal.SIGKILL)
        await until(lambda: not house.workers(), "the worker's end")
        await house.pass_time(DUE)

        assert first != await house.token(ANN)
        assert ("ok", None) == (house.row(ANN)["state"], house.row(ANN)["problem"])


@in_house
async def test_dead_at_work(tmp_path: Path) -> None:
    """A worker that dies while Entra is asked is replaced at once, and its question asked again."""
    async with with_idle_worker(tmp_path) as house:
        first = await house.token(ANN)
        house.entra.faults.add(Fault("silence"))
        house.awake(DUE)
        await silence(house)
        os.kill(house.workers()[0], signal.SIGKILL)
        await house.settled()

        assert first != await house.token(ANN)
        assert ("ok", None) == (house.row(ANN)["state"], house.row(ANN)["problem"])
        lost, again = (asked.refresh for asked in house.entra.asked("token", grant_type="refresh_token"))
        assert lost == again, "the sign-in was whole, and the old refresh token works"


@in_house
async def test_dead_again_and_again(tmp_path: Path) -> None:
    """A second death in a row is told and tried again later; the token stays in service, the sign-in stays whole."""
    async with with_idle_worker(tmp_path) as house:
        first, vault = await house.token(ANN), house.vault(ANN).read_bytes()
        house.entra.faults.add(Fault("silence", times=None))
        house.awake(DUE)
        for death in (1, 2):
            await silence(house, death)
            os.kill(house.workers()[0], signal.SIGKILL)
        await house.settled()

        assert ("failing", "worker") == problem(house)
        assert "the grant worker died before it answered" in house.text()
        assert (first, vault) == (await house.token(ANN), house.vault(ANN).read_bytes())
        house.entra.faults.clear()
        await house.pass_time(house.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await house.token(ANN)
        assert ("ok", 0) == (house.row(ANN)["state"], house.exit_code())


@in_house
async def test_dead_during_a_sign_in(tmp_path: Path) -> None:
    """A sign-in whose worker dies ends with that reason; the token stays in service, and the next sign-in works."""
    async with with_idle_worker(tmp_path) as house:
        first, resting = await house.token(ANN), house.workers()

        def kill() -> None:
            (process,) = set(house.workers()) - set(resting)
            os.kill(process, signal.SIGKILL)

        ended = await house.sign_in(ANN, meanwhile=kill)

        assert not isinstance(ended, Granted)
        assert "worker" == ended.trouble.kind
        assert first == await house.token(ANN)
        assert isinstance(await house.sign_in(ANN), Granted)


def lie(**fields: Any) -> bytes:
    """Return an answer to the first question in which these fields of the outcome are wrong."""
    body = json.loads(pack(Done(0, Granted("x", 0.0, HOUR))))
    body["outcome"] |= fields
    return json.dumps(body | {"number": "NUMBER"}).replace('"NUMBER"', "NUMBER").encode() + b"\n"


NOISES = {
    "words": b"good morning\n",
    "bytes": bytes(range(256)),
    "array": b"[1, 2, 3]\n",
    "unknown": b'{"is": "Everything", "number": NUMBER}\n',
    "endless": b"x" * (2 * MAX_MESSAGE),
    "secret-of-no-kind": lie(secret=5),
    "life-of-no-kind": lie(expires_in="an hour"),
    "moment-of-no-kind": lie(issued=None),
    "scopes-of-no-kind": lie(scopes=7),
    "number-of-no-kind": b'{"is": "Done", "number": "one", "outcome": {}}\n',
    "no-outcome": b'{"is": "Done", "number": NUMBER}\n',
}


@pytest.mark.parametrize("name", NOISES)
@in_house
async def test_babbling(tmp_path: Path, name: str) -> None:
    """What is no answer is taken for none, and its worker ended; the token stays in service until one makes sense."""
    async with with_idle_worker(tmp_path, program=babbling_worker.__file__) as house:
        first, vault = await house.token(ANN), house.vault(ANN).read_bytes()
        (process,) = house.workers()
        (tmp_path / "babble").write_bytes(NOISES[name])
        os.kill(process, signal.SIGKILL)
        await until(lambda: not house.workers(), "the worker's end")
        await house.pass_time(DUE)

        assert ("failing", "worker") == problem(house)
        assert "the grant worker died before it answered" in house.text()
        assert (first, vault) == (await house.token(ANN), house.vault(ANN).read_bytes())

        (tmp_path / "babble").unlink()
        await house.pass_time(house.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await house.token(ANN)
        assert ("ok", 0) == (house.row(ANN)["state"], house.exit_code())


@in_house
async def test_one_hanging_question_costs_no_other(tmp_path: Path) -> None:
    """While one account's question hangs inside the worker, the other's is asked and answered by the same worker."""
    async with with_idle_worker(tmp_path, ANN, BOB) as house:
        house.entra.faults.add(Fault("silence", user=ANN, times=None))
        bobs = await house.token(BOB)
        house.awake(DUE)
        await until(lambda: house.row(BOB)["state"] == "ok" and house.entra.count("token", user=BOB) > 1, "bob's")

        assert bobs != await house.token(BOB)
        assert "renewing" == house.row(ANN)["state"]
        assert 1 == len(house.workers())
        house.entra.faults.clear()
        await house.settled()
        await house.token(ANN)
