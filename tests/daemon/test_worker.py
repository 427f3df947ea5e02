from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.trio_run import in_trio, in_trio_jumps, jump, until

from cms.core.accounts import Fleet, Grant
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.daemon import worker as module
from cms.daemon.children import LOG_LINE, LOG_LINES, LogLines, _log_lines, worker_environment
from cms.daemon.refreshes import BOUNDS, Refreshes
from cms.daemon.worker import WORKER_MARGIN, Worker
from cms.grants.messages import Acquire, Done, Heard, Looked, Open, Place, Prompt, Told, pack

FAKE = str(Path(__file__).parent.parent / "support" / "fake_worker.py")
SCOPES = ("https://outlook.office.com/SMTP.Send",)

# What the worker is allowed for one grant, in these tests: jumped over, never waited for.
TIMEOUT = 10.0
OVERDUE = TIMEOUT + WORKER_MARGIN + 1.0

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged."""
    with capture_logs() as captured:
        yield captured


def grant(what: str) -> Grant:
    return Grant("https://login.example.test/t", "client", f"{what}@example.test", (SCOPES,))


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Worker]:
    """A Worker over the fake program, ended after the block."""
    opened = Open(str(folder), timeout=TIMEOUT, fleet=options.pop("fleet", None))
    worker = Worker(opened, **{"argv": [sys.executable, FAKE], **options})
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: worker.run(task_status=task_status))
        yield worker
        nursery.cancel_scope.cancel()


async def ask(worker: Worker, what: str) -> Outcome:
    return await worker.acquire(grant(what), SCOPES)


def started(folder: Path) -> list[int]:
    """The ids of all processes so far."""
    path = folder / "started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kind(outcome: Outcome) -> str:
    return "granted" if isinstance(outcome, Granted) else outcome.trouble.kind


async def exists(path: Path) -> None:
    """Wait until another process has made this file."""
    await until(path.exists)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_refreshes_are_counted_with_their_time() -> None:
    """By outcome, in the interval of how long it took; a bound belongs to the interval that it ends."""
    refreshes, trouble = Refreshes(), Trouble("server", "503")
    granted = Granted("secret", 0.0, 0.0, ())
    for outcome, seconds in ((granted, 0.0), (granted, 0.5), (Transient(trouble), 100.0), (Refused(trouble), 3.0)):
        refreshes.count(outcome, seconds)
    data = refreshes.as_data()["outcomes"]

    places = {each: [place for place, count in enumerate(of["counts"]) if count] for each, of in data.items()}
    assert {"granted": [0, 1], "transient": [len(BOUNDS)], "refused": [4]} == places
    assert {"granted": 0.5, "transient": 100.0, "refused": 3.0} == {each: of["seconds"] for each, of in data.items()}


@in_trio
async def test_starts_and_refreshes_are_counted(tmp_path: Path) -> None:
    """One process for two refreshes. A token that was stored is none: nobody asked the provider for it."""
    async with running(tmp_path) as worker:
        await ask(worker, "a")
        await ask(worker, "b")
        await ask(worker, "stored")

    assert (1, 2) == (worker.starts, sum(worker.refreshes.as_data()["outcomes"]["granted"]["counts"]))


@in_trio
async def test_no_process_before_the_first_question(tmp_path: Path) -> None:
    """The worker costs nothing until it is needed; then one process serves every question."""
    async with running(tmp_path) as worker:
        before = started(tmp_path)
        answers = [kind(await ask(worker, "a")), kind(await ask(worker, "b"))]

    assert ([], ["granted", "granted"], 1) == (before, answers, len(started(tmp_path)))


@in_trio
async def test_answers_find_their_questions(tmp_path: Path) -> None:
    """Fifty questions at once get fifty different tokens from one process."""
    secrets: set[str] = set()

    async def one(worker: Worker, name: str) -> None:
        outcome = await ask(worker, name)
        assert isinstance(outcome, Granted)
        secrets.add(outcome.secret)

    async with running(tmp_path) as worker, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, worker, f"user{number}")

    assert (50, 1) == (len(secrets), len(started(tmp_path)))


@pytest.mark.parametrize("fault", ["die", "garbage", "babble", "leave"])
def test_a_fault_that_happens_once_is_not_noticed(fault: str, tmp_path: Path, lines: Lines) -> None:
    """A process that dies, babbles or leaves takes its questions with it; a second one answers them all."""
    answers: list[str] = []

    async def one(worker: Worker, name: str) -> None:
        answers.append(kind(await ask(worker, name)))

    @in_trio
    async def run() -> None:
        async with running(tmp_path) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(one, worker, "hang-once")
            await exists(tmp_path / "hung")
            nursery.start_soon(one, worker, f"{fault}-once")

    run()

    assert (["granted", "granted"], 2) == (answers, len(started(tmp_path)))


@pytest.mark.parametrize(("fault", "processes"), [("die", 2), ("garbage", 2), ("babble", 2), ("leave", 4)])
def test_a_fault_that_stays_is_transient(fault: str, processes: int, tmp_path: Path, lines: Lines) -> None:
    """Asked again a bounded number of times, then the keeper is told, whose move it is included."""
    outcomes: list[Outcome] = []

    @in_trio
    async def run() -> None:
        async with running(tmp_path) as worker:
            outcomes.append(await ask(worker, fault))
            outcomes.append(await ask(worker, "well"))

    run()

    assert ["worker", "granted"] == [kind(each) for each in outcomes]
    assert processes + 1 == len(started(tmp_path))
    assert isinstance(outcomes[0], Transient)
    assert outcomes[0].trouble.hint


@in_trio_jumps
async def test_only_the_hung_question_fails(tmp_path: Path) -> None:
    """A question without an answer in time ends the process; the younger one with it is asked again and answered."""
    answers: dict[str, str] = {}

    async def one(worker: Worker, name: str) -> None:
        answers[name] = kind(await ask(worker, name))

    with capture_logs() as lines:
        async with running(tmp_path) as worker, trio.open_nursery() as nursery:
            nursery.start_soon(one, worker, "hang")
            await exists(tmp_path / "hung")
            jump(TIMEOUT)
            (tmp_path / "hung").unlink()
            nursery.start_soon(one, worker, "hang-once")
            await exists(tmp_path / "hung")
            jump(WORKER_MARGIN + 1.0)

    assert {"hang": "worker", "hang-once": "granted"} == answers
    assert 2 == len(started(tmp_path))
    assert "it did not answer in time" in [line.get("why") for line in lines]


@in_trio_jumps
async def test_a_question_that_waits_for_its_turn_does_not_hang(tmp_path: Path) -> None:
    """Its deadline counts from the last answer to an older question: a busy worker is not a hung one."""
    worker = Worker(Open(str(tmp_path), timeout=TIMEOUT), argv=[sys.executable, FAKE])
    child = module._Child(worker._opened, [], {}, print)
    question = module._Question(5, grant("a"))
    alone = child._deadline(question)
    child._answered.extend([(4, question.due + 30.0), (9, question.due + 60.0)])

    assert (question.due + TIMEOUT + WORKER_MARGIN, alone + 30.0) == (alone, child._deadline(question))


def test_answers_are_looked_at_together() -> None:
    """The first is taken at once; those that come next wait a moment for others, unless nothing else is under way."""

    async def gathers() -> None:
        child = module._Child(Open(""), [], {}, print)
        questions = [module._Question(number, grant(f"user{number}")) for number in range(3)]
        for each in questions:
            child.ask(each, Acquire(each.number, each.grant, SCOPES))
        theirs, ours = trio.testing.memory_stream_pair()

        async def answer(*numbers: int) -> list[bool]:
            for number in numbers:
                await theirs.send_all(pack(Done(number, Granted("secret", 0.0, 3600.0))))
            await trio.testing.wait_all_tasks_blocked()
            return [each.end is not None for each in questions]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child._receive, ours)
            assert [True, False, False] == await answer(0)
            assert [True, False, False] == await answer(1)
            jump(module.GATHER_SECONDS)
            assert [True, True, False] == await answer()
            jump(module.GATHER_SECONDS)
            assert [True, True, True] == await answer(2)
            another = module._Question(3, grant("user3"))
            child.ask(another, Acquire(another.number, another.grant, SCOPES))
            await answer(3)
            nursery.cancel_scope.cancel()

        assert another.end

    # A clock that only `jump` moves.
    trio.run(gathers, clock=trio.testing.MockClock())


@in_trio
async def test_unexpected_answers_are_ignored(tmp_path: Path) -> None:
    """A second answer and one that belongs to no question change nothing; the log has only the number."""
    with capture_logs() as lines:
        async with running(tmp_path) as worker:
            answers = [kind(await ask(worker, "twice")), kind(await ask(worker, "a"))]

    ignored = [line for line in lines if "no question" in line["event"]]
    assert (["granted", "granted"], 1) == (answers, len(started(tmp_path)))
    assert [{"event", "log_level", "number"}] * 2 == [set(line) for line in ignored]


@in_trio
async def test_what_other_hosts_do_is_heard_and_looked_at(tmp_path: Path) -> None:
    """What is heard belongs to no question. A look ends with a token, or with the word that there is nothing else."""
    told: list[Told] = []
    async with running(tmp_path) as worker:
        worker.told = told.append
        assert isinstance(await ask(worker, "told"), Granted)
        alike = await worker.look(grant("alike"), SCOPES, "hash")
        other = await worker.look(grant("other"), SCOPES, "hash")

    assert [Heard(("a-grant",))] == told
    assert (Looked(5.0), Granted) == (alike, type(other))


@in_trio
async def test_a_question_may_be_given_up(tmp_path: Path) -> None:
    """A keeper that is cancelled leaves its question behind; the process goes on."""
    async with running(tmp_path) as worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, worker, "hang")
            await exists(tmp_path / "hung")
            nursery.cancel_scope.cancel()
        answer = kind(await ask(worker, "a"))

    assert ("granted", 1) == (answer, len(started(tmp_path)))


@in_trio
async def test_what_it_prints_goes_to_the_log(tmp_path: Path) -> None:
    """Both outputs are logged line by line, cut at a bound in length and number."""
    with capture_logs() as lines:
        async with running(tmp_path) as worker:
            await ask(worker, "chatty")

    said = [line["line"] for line in lines if line["event"] == "grant worker"]
    assert "hello from the worker" in said
    assert LOG_LINE == max(len(line) for line in said)
    assert ("line 0" in said, "no end of line" in said) == (True, False)
    assert LOG_LINES + 1 + 2 == len(said)


def test_what_the_worker_calls_an_error_is_one() -> None:
    """A log that shows warnings and worse shows the worker's as well."""
    with capture_logs() as lines:
        _log_lines(["error: unexpected KeyError", "warning: other scopes", "a note", "warningless"])

    assert ["error", "warning", "info", "info"] == [line["log_level"] for line in lines]


def test_lines_are_cut_however_the_chunks_fall() -> None:
    """The same lines come out whole, byte by byte, and without a last line end."""
    text = b"one\n\ntwo \xff\nthree" + b"x" * 5000
    whole = LogLines()
    bytewise = LogLines()
    expected = ["one", "two �", ("three" + "x" * 5000)[:LOG_LINE]]

    assert expected == whole.feed(text) + whole.rest()
    assert expected == [line for byte in text for line in bytewise.feed(bytes([byte]))] + bytewise.rest()


@in_trio
async def test_the_worker_gets_the_table_and_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the daemon's environment the child sees the table's names; of its descriptors none but the three standard."""
    for name in ("SSLKEYLOGFILE", "PYTHONPATH", "LISTEN_FDS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "CMS_SECRET"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.test")
    leaked, other = os.pipe()
    os.set_inheritable(leaked, True)
    try:
        async with running(tmp_path) as worker:
            outcome = await ask(worker, "surroundings")
    finally:
        os.close(leaked)
        os.close(other)

    assert isinstance(outcome, Transient)
    seen = json.loads(outcome.trouble.message)
    assert "HTTPS_PROXY" in seen["environment"]
    assert [] == [name for name in seen["environment"] if name not in worker_environment(os.environ)]
    assert ["pipe", "pipe", "socket", "socket"] == sorted(link.partition(":")[0] for link in seen["descriptors"])


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("HOME", True), ("XDG_RUNTIME_DIR", True), ("LC_ALL", True), ("DBUS_SESSION_BUS_ADDRESS", True),
        ("CREDENTIALS_DIRECTORY", True), ("no_proxy", True), ("SSL_CERT_DIR", True), ("REQUESTS_CA_BUNDLE", True),
        ("SSLKEYLOGFILE", False), ("PYTHONPATH", False), ("PYTHONHOME", False), ("LISTEN_PID", False),
        ("NOTIFY_SOCKET", False), ("WATCHDOG_PID", False), ("LD_PRELOAD", False), ("HOMEBREW", False),
        ("REQUESTS", False), ("INVOCATION_ID", False), ("PGHOST", False), ("PGPASSWORD", False), ("PGSERVICE", False),
    ],
)  # fmt: skip
def test_the_environment_is_an_allow_list(name: str, passes: bool) -> None:
    """A name passes when the table has it, or its stem with a star."""
    assert ({name: "x"} if passes else {}) == worker_environment({name: "x"})


@in_trio
async def test_a_program_that_is_missing_is_a_transient_fault(tmp_path: Path) -> None:
    """The question fails and the log says why; nothing crashes."""
    with capture_logs() as lines:
        async with running(tmp_path, argv=["/nowhere/at/all"]) as worker:
            outcome = await ask(worker, "a")

    assert "worker" == kind(outcome)
    assert "grant worker cannot be started" in [line["event"] for line in lines]


@in_trio
async def test_questions_outside_of_run_are_answered_too(tmp_path: Path) -> None:
    """Before and after `run` every question ends in the outcome that says cms is stopping."""
    async with running(tmp_path) as worker:
        pass
    answers = [kind(await ask(worker, "a")), kind(await worker.sign_out(grant("a")))]
    async with worker.sign_in(grant("a"), "browser") as session:
        first, last = await session.prompt(), await session.outcome()

    assert ["shutdown"] * 2 == answers
    assert isinstance(first, Transient)
    assert (first, []) == (last, started(tmp_path))


@in_trio
async def test_stopping_lets_the_worker_finish(tmp_path: Path) -> None:
    """When cms stops, the socket closes and the process stores what it had asked Entra for, then ends."""
    async with running(tmp_path) as worker, trio.open_nursery() as nursery:
        nursery.start_soon(ask, worker, "storing")
        await exists(tmp_path / "storing")
        nursery.cancel_scope.cancel()

    assert (True, False) == ((tmp_path / "stored").exists(), is_alive(started(tmp_path)[0]))


@in_trio_jumps
async def test_stopping_has_an_end(tmp_path: Path) -> None:
    """A process that does not end by itself is killed when the grace period is over."""
    async with trio.open_nursery() as nursery:
        worker = Worker(Open(str(tmp_path)), argv=[sys.executable, FAKE], environment={})
        await nursery.start(lambda task_status: worker.run(task_status=task_status))
        await ask(worker, "stubborn")
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            alive = is_alive(started(tmp_path)[0])
            jump(module.GRACE_SECONDS)

    assert (True, False) == (alive, is_alive(started(tmp_path)[0]))


@in_trio
async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """SIGKILL between two questions costs nothing: the next one starts another process."""
    async with running(tmp_path) as worker:
        before = kind(await ask(worker, "a"))
        os.kill(started(tmp_path)[0], signal.SIGKILL)
        after = kind(await ask(worker, "b"))

    assert ("granted", "granted", 2) == (before, after, len(started(tmp_path)))


@in_trio_jumps
async def test_what_other_hosts_did_while_a_fleets_worker_was_dead_is_looked_at(tmp_path: Path) -> None:
    """Its next question starts another process, or after some seconds that is done for this alone. Both look at all grants."""
    told: list[Told] = []
    async with running(tmp_path, fleet=Fleet("dbname=cms", ())) as worker:
        worker.told = told.append
        await ask(worker, "a")
        os.kill(started(tmp_path)[0], signal.SIGKILL)
        await ask(worker, "b")
        assert [Heard(())] == told
        os.kill(started(tmp_path)[1], signal.SIGKILL)
        await until(lambda: not worker._children)
        await trio.testing.wait_all_tasks_blocked()
        jump(module.DEAF_SECONDS)
        await until(lambda: len(started(tmp_path)) == 3)

    assert [Heard(()), Heard(())] == told


@in_trio
async def test_a_reload_leaves_no_fleets_worker_deaf(tmp_path: Path) -> None:
    """The process of the new settings is asked at once. What a new fleet has is seen when a token is due."""
    told: list[Told] = []
    fleet = Fleet("dbname=cms", ())
    async with running(tmp_path) as worker:
        worker.told = told.append
        for each in (fleet, replace(fleet, schema="mail")):
            assert worker.reopen(Open(str(tmp_path), fleet=each))
        assert [] == told
        assert worker.reopen(Open(str(tmp_path), ca="/ca.pem", fleet=replace(fleet, schema="mail")))

    assert [Heard(())] == told


@in_trio
async def test_a_sign_in_has_a_separate_process(tmp_path: Path) -> None:
    """A prompt, then the browser's answer, then a token; refreshes go on beside it, and the process ends with it."""
    async with running(tmp_path) as worker:
        await ask(worker, "a")
        async with worker.sign_in(grant("b"), "browser", claims="{}") as session:
            prompt = await session.prompt()
            meanwhile = kind(await ask(worker, "a"))
            await session.redirected({"code": "c", "state": "s"})
            outcome = await session.outcome()
        await exists(tmp_path / "closed")

    assert isinstance(prompt, Prompt)
    assert ("browser", "granted", "granted", 2) == (prompt.method, meanwhile, kind(outcome), len(started(tmp_path)))


@in_trio
async def test_leaving_gives_a_sign_in_up(tmp_path: Path) -> None:
    """The process of a sign-in that no client waits for ends without an outcome."""
    async with running(tmp_path) as worker:
        async with worker.sign_in(grant("a"), "device") as session:
            await session.prompt()
        await exists(tmp_path / "closed")

    assert 1 == len(started(tmp_path))


@in_trio
async def test_a_sign_in_may_end_before_its_prompt(tmp_path: Path) -> None:
    """What refuses or kills it at once is what `prompt` returns."""
    ends = []
    async with running(tmp_path) as worker:
        for what in ("refused", "dead"):
            async with worker.sign_in(grant(what), "browser") as session:
                ends.append(await session.prompt())

    assert isinstance(ends[0], Refused)
    assert isinstance(ends[1], Transient)


@in_trio_jumps
async def test_a_silent_sign_in_is_ended(tmp_path: Path) -> None:
    """Neither a prompt that never comes nor a code that is never redeemed is waited for without end."""
    async with running(tmp_path) as worker:
        async with worker.sign_in(grant("silent"), "browser") as session, trio.open_nursery() as nursery:
            await exists(tmp_path / "started")
            nursery.start_soon(_jump_once_blocked)
            first = await session.prompt()
        async with worker.sign_in(grant("b"), "browser") as session, trio.open_nursery() as nursery:
            await session.prompt()
            await session.redirected({"code": "hang"})
            nursery.start_soon(_jump_once_blocked)
            second = await session.outcome()

    assert isinstance(first, Transient)
    assert ("worker", "worker") == (first.trouble.kind, kind(second))


async def _jump_once_blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()
    jump(OVERDUE)


@in_trio_jumps
async def test_a_person_has_the_prompts_time(tmp_path: Path) -> None:
    """While a prompt is shown the worker's deadline does not count: people take minutes."""
    async with running(tmp_path) as worker, worker.sign_in(grant("a"), "browser") as session:
        await session.prompt()
        jump(OVERDUE)
        await trio.testing.wait_all_tasks_blocked()
        await session.redirected({"code": "c"})

        assert "granted" == kind(await session.outcome())


@in_trio
async def test_memory_only_sign_ins_stay_where_they_are(tmp_path: Path) -> None:
    """A sign-in that no file holds is asked of the process that made it, also when others sign in or it is forgotten."""
    async with running(tmp_path) as worker:
        unknown = kind(await ask(worker, "memory"))
        await _sign_in(worker, "memory")
        known = kind(await ask(worker, "memory"))
        await _sign_in(worker, "another")
        processes = len(started(tmp_path))
        forgotten = kind(await worker.sign_out(grant("memory")))
        await worker.sign_out(grant("another"))
        await exists(tmp_path / "closed")
        after = kind(await ask(worker, "memory"))

    assert ("no-sign-in", "granted", "granted", "no-sign-in") == (unknown, known, forgotten, after)
    assert (2, 2) == (processes, len(started(tmp_path)))


async def _sign_in(worker: Worker, what: str) -> None:
    async with worker.sign_in(grant(what), "browser") as session:
        await session.prompt()
        await session.redirected({"code": "c"})
        await session.outcome()


@in_trio
async def test_memory_only_sign_ins_die_with_their_process(tmp_path: Path) -> None:
    """Then the question goes to another process, which says that the person has not signed in."""
    async with running(tmp_path) as worker:
        await _sign_in(worker, "memory")
        os.kill(started(tmp_path)[0], signal.SIGKILL)
        outcome = await ask(worker, "memory")

    assert "no-sign-in" == kind(outcome)


@in_trio
async def test_forgetting_ends_without_a_secret(tmp_path: Path) -> None:
    """`forget` is answered by the worker like any question."""
    async with running(tmp_path) as worker:
        outcome = await worker.sign_out(grant("a"))

    assert isinstance(outcome, Granted)
    assert "" == outcome.secret


@in_trio
async def test_an_import_is_a_question_like_others(tmp_path: Path) -> None:
    """Put to the current process, which is remembered where it keeps the sign-in in memory only."""
    place = Place("/f", "oama", "e")
    async with running(tmp_path) as worker:
        kept = await worker.bring_in(grant("a"), place)
        await worker.bring_in(grant("memory"), place)
        held = list(worker._holders)

    assert isinstance(kept, Granted)
    assert [grant("memory").key] == held
    assert ["/f oama e"] * 2 == (tmp_path / "imported").read_text().splitlines()


def test_every_trouble_says_what_happened() -> None:
    """Each way of losing a question has a sentence and a next move."""
    troubles = [module._transient(lost).trouble for lost in module.Lost]

    assert [True] * 3 == [bool(each.message and each.hint) for each in troubles]
