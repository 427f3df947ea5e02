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
from support.whole_daemon import ANN, BOB, HOUR, WholeDaemon, on_moving_clock, slow_clock, until, whole_daemon

from cms.core.lifecycle import Granted
from cms.daemon.worker import WORKER_MARGIN
from cms.grants.messages import MAX_MESSAGE, Done, pack
from cms.sandbox.faults import Fault
from cms_oauth.wire import WAIT_SECONDS

# More than an answer takes on a busy machine. What hangs is not waited for: the clock is set forward.
TIMEOUT = 60.0
OVERDUE = TIMEOUT + WORKER_MARGIN + 1.0

# Past the moment at which an hour's token is renewed.
DUE = 0.64 * HOUR


@asynccontextmanager
async def with_idle_worker(folder: Path, *users: str, **options: Any) -> AsyncIterator[WholeDaemon]:
    """Open a daemon whose worker does not leave by itself."""
    async with whole_daemon(folder, users or (ANN,), timeout=TIMEOUT, idle=HOUR, **options) as daemon:
        await until(lambda: len(daemon.workers()) == 1, "the sign-ins' workers to leave")
        yield daemon


@asynccontextmanager
async def stopped(daemon: WholeDaemon) -> AsyncIterator[int]:
    """Hold the worker still for the block, as a frozen D-Bus or a dead file system does; yield its id."""
    (process,) = daemon.workers()
    os.kill(process, signal.SIGSTOP)
    try:
        yield process
    finally:
        # It has been ended by then, unless the test fails.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


async def silence(daemon: WholeDaemon, number: int = 1) -> None:
    """Wait until Entra has met this many questions with silence."""
    await until(lambda: daemon.entra.count("token", fault="silence") == number, "the silence")


def problem(daemon: WholeDaemon, user: str = ANN) -> tuple[str, str]:
    row = daemon.row(user)
    return row["state"], row["problem"]["kind"]


@on_moving_clock
async def test_hung(tmp_path: Path) -> None:
    """A worker that hangs is ended when its time is up; the token stays in service, and a new worker renews it."""
    async with with_idle_worker(tmp_path) as daemon, stopped(daemon) as process:
        first = await daemon.token(ANN)
        daemon.awake(DUE)

        assert first == await daemon.token(ANN), "nobody waits for it"
        assert [process] == daemon.workers()
        daemon.awake(OVERDUE)
        await daemon.settled()
        await until(lambda: not daemon.workers(), "the worker's end")
        assert ("failing", "worker") == problem(daemon)
        assert "the grant worker did not answer in time and was killed" in daemon.text()
        assert first == await daemon.token(ANN)

        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@on_moving_clock
async def test_hung_with_no_token_left(tmp_path: Path) -> None:
    """While the worker hangs and the token has expired, clients are refused after 4 s and not before a new worker's."""
    async with with_idle_worker(tmp_path) as daemon, stopped(daemon):
        await daemon.suspend(2 * HOUR)
        refusals: list[str] = []

        async def ask() -> None:
            refusals.append((await daemon.told(ANN))["error"]["code"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: daemon.row(ANN)["state"] == "renewing", "the question")
            await trio.testing.wait_all_tasks_blocked(0.05)
            daemon.awake(WAIT_SECONDS)

        assert ["unavailable"] == refusals
        daemon.awake(OVERDUE)
        await daemon.settled()
        refusal = await daemon.refusal(ANN)
        assert "did not answer in time" in refusal["message"]
        await daemon.pass_time(refusal["retry_after"] + 1)
        await daemon.token(ANN)


@on_moving_clock
async def test_dead_while_idle(tmp_path: Path) -> None:
    """No client notices when an idle worker dies."""
    async with with_idle_worker(tmp_path) as daemon:
        first = await daemon.token(ANN)
        (process,) = daemon.workers()
        os.kill(process, signal.SIGKILL)
        await until(lambda: not daemon.workers(), "the worker's end")
        await daemon.pass_time(DUE)

        assert first != await daemon.token(ANN)
        assert ("ok", None) == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"])


@on_moving_clock
async def test_dead_at_work(tmp_path: Path) -> None:
    """A worker that dies while Entra is asked is replaced at once, and its question asked again."""
    async with with_idle_worker(tmp_path) as daemon:
        first = await daemon.token(ANN)
        daemon.entra.faults.add(Fault("silence"))
        daemon.awake(DUE)
        await silence(daemon)
        os.kill(daemon.workers()[0], signal.SIGKILL)
        await daemon.settled()

        assert first != await daemon.token(ANN)
        assert ("ok", None) == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"])
        lost, again = (asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token"))
        assert lost == again, "the sign-in was whole, and the old refresh token works"


@on_moving_clock
async def test_dead_again_and_again(tmp_path: Path) -> None:
    """A second death in a row is told and tried again later; the token stays in service, the sign-in stays whole."""
    async with with_idle_worker(tmp_path) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        daemon.entra.faults.add(Fault("silence", times=None))
        daemon.awake(DUE)
        for death in (1, 2):
            await silence(daemon, death)
            os.kill(daemon.workers()[0], signal.SIGKILL)
        await daemon.settled()

        assert ("failing", "worker") == problem(daemon)
        assert "the grant worker died before it answered" in daemon.text()
        assert (first, vault) == (await daemon.token(ANN), daemon.vault(ANN).read_bytes())
        daemon.entra.faults.clear()
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@on_moving_clock
async def test_dead_during_a_sign_in(tmp_path: Path) -> None:
    """A sign-in whose worker dies ends with that reason; the token stays in service, and the next sign-in works."""
    async with with_idle_worker(tmp_path) as daemon:
        first, resting = await daemon.token(ANN), daemon.workers()

        def kill() -> None:
            (process,) = set(daemon.workers()) - set(resting)
            os.kill(process, signal.SIGKILL)

        ended = await daemon.sign_in(ANN, meanwhile=kill)

        assert not isinstance(ended, Granted)
        assert "worker" == ended.trouble.kind
        assert first == await daemon.token(ANN)
        assert isinstance(await daemon.sign_in(ANN), Granted)


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
@on_moving_clock
async def test_babbling(tmp_path: Path, name: str) -> None:
    """What is no answer is taken for none, and its worker ended; the token stays in service until one makes sense."""
    async with with_idle_worker(tmp_path, program=babbling_worker.__file__) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        (process,) = daemon.workers()
        (tmp_path / "babble").write_bytes(NOISES[name])
        os.kill(process, signal.SIGKILL)
        await until(lambda: not daemon.workers(), "the worker's end")
        await daemon.pass_time(DUE)

        assert ("failing", "worker") == problem(daemon)
        assert "the grant worker died before it answered" in daemon.text()
        assert (first, vault) == (await daemon.token(ANN), daemon.vault(ANN).read_bytes())

        (tmp_path / "babble").unlink()
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@on_moving_clock
async def test_one_hanging_question_costs_no_other(tmp_path: Path) -> None:
    """While one account's question hangs inside the worker, the other's is asked and answered by the same worker."""
    async with with_idle_worker(tmp_path, ANN, BOB) as daemon:
        daemon.entra.faults.add(Fault("silence", user=ANN, times=None))
        bobs = await daemon.token(BOB)
        daemon.awake(DUE)
        with slow_clock():
            await until(lambda: daemon.row(BOB)["state"] == "ok" and daemon.entra.count("token", user=BOB) > 1, "bob's")

            assert bobs != await daemon.token(BOB)
            assert "renewing" == daemon.row(ANN)["state"]
        assert 1 == len(daemon.workers())
        daemon.entra.faults.clear()
        await daemon.settled()
        await daemon.token(ANN)
