"""The worker's main loop, with a service of the test's."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.grants import ANN, PATIENCE, SCOPES, dispatched, kind
from support.waiting import until

from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.grants import dispatcher
from cms.grants.dispatcher import Dispatcher
from cms.grants.messages import (
    MAX_MESSAGE,
    Acquire,
    Cancel,
    Done,
    Ended,
    Heard,
    Import,
    Listed,
    Look,
    Open,
    Place,
    Prompt,
    Question,
    Redirected,
    SignIn,
    SignOut,
    Survey,
    Told,
    Work,
    pack,
)
from cms.grants.service import Cancelled, Conversation, Service

GRANT = Grant("https://login.test/common", "client", ANN, (SCOPES,))
TOKEN = Granted("token", 1.0, 3600.0, SCOPES)


class FakeService(Service):
    """A service whose answers a test decides on."""

    def __init__(self, acquire: Callable[[Scopes], Outcome] = lambda _scopes: TOKEN) -> None:
        self.rests = 0
        self.tells: list[Callable[[Told], None]] = []
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.keeps_a_secret = False
        self._answer_acquire = acquire

    def __call__(self, _opened: Open) -> FakeService:
        return self

    @property
    def stays(self) -> bool:
        return self.keeps_a_secret

    def rest(self) -> None:
        self.rests += 1

    def listen(self, tell: Callable[[Told], None]) -> None:
        self.tells.append(tell)

    def answer(self, question: Work) -> Ended:
        match question:
            case Acquire():
                try:
                    return self._answer_acquire(question.scopes)
                finally:
                    self.ended.put("acquire")
            case SignOut():
                return Granted("", 1.0, 0.0)
            case Import():
                return TOKEN
            case _:
                return Listed(())

    def sign_in(self, question: SignIn, conversation: Conversation) -> Outcome:
        conversation.prompt(Prompt(question.number, question.method, "https://login.test/"))
        try:
            fields = conversation.wait(PATIENCE)
        except Cancelled:
            self.ended.put("cancelled")
            return Refused(Trouble("cancelled", "", ""))
        return replace(TOKEN, sign_in=replace(TOKEN.sign_in, who=(fields or {})["code"]))


class Stoppable:
    """The clock of this machine, until it is stopped: no later question takes too long."""

    def __init__(self) -> None:
        self.stopped: float | None = None

    def __call__(self) -> float:
        return time.monotonic() if self.stopped is None else self.stopped

    def stop(self) -> None:
        self.stopped = time.monotonic()


def eof(sock: socket.socket) -> bool:
    """Say whether the worker has closed its end, having read all or not."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


class TestDispatcher:
    """The main loop."""

    def test_answers_by_number(self) -> None:
        """Answers come as they are ready, each with its question's number."""
        first = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                first.wait(PATIENCE)
            return TOKEN

        with dispatched(Open(""), FakeService(work)) as broker:
            broker.send(Acquire(1, GRANT, ("slow",)))
            broker.send(Acquire(2, GRANT, ("fast",)))
            broker.send(SignOut(3, GRANT))
            answered = {reply.number for reply in (broker.receive(), broker.receive()) if isinstance(reply, Done)}
            first.set()
            last = broker.receive()

        assert {2, 3} == answered
        assert Done(1, TOKEN) == last
        assert 0 == broker.status

    @pytest.mark.parametrize("rests", [False, True])
    def test_threads_are_kept(self, *, rests: bool) -> None:
        """A question is worked on in the thread of the one before, unless the worker has rested since: then that has ended."""
        threads: list[threading.Thread] = []

        def work(_scopes: Scopes) -> Outcome:
            threads.append(threading.current_thread())
            return TOKEN

        fake = FakeService(work)
        fake.keeps_a_secret = True
        # While the clock stands still, only an idle time of nothing passes.
        with dispatched(Open("", idle=0.0 if rests else 5.0), fake, lambda: 0.0) as broker:
            broker.acquire(GRANT)
            if rests:
                threads[0].join(PATIENCE)
            broker.acquire(GRANT)
            broker.sock.close()

        assert rests is (threads[0] is not threads[1])
        for each in threads:
            each.join(PATIENCE)
            assert not each.is_alive()

    def test_many_at_once(self) -> None:
        """More questions than threads are all answered, with never more threads than there may be."""
        running = threading.Semaphore(dispatcher.THREADS)
        crowded: list[bool] = []

        def work(_scopes: Scopes) -> Outcome:
            crowded.append(not running.acquire(blocking=False))
            running.release()
            return TOKEN

        with dispatched(Open(""), FakeService(work)) as broker:
            for number in range(100):
                broker.send(Acquire(number, GRANT, SCOPES))
            numbers = {reply.number for _ in range(100) if isinstance(reply := broker.receive(), Done)}

        assert set(range(100)) == numbers
        assert not any(crowded)

    def test_deadline(self) -> None:
        """A question that takes too long is answered in time, and its late answer is dropped, though it was worked on."""
        released = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                released.wait(PATIENCE)
            return TOKEN

        fake, clock = FakeService(work), Stoppable()
        with dispatched(Open("", timeout=0.1), fake, clock) as broker:
            broker.send(Acquire(1, GRANT, ("slow",)))
            late = broker.receive()
            clock.stop()
            assert isinstance(late, Done)
            assert "timeout" == kind(late.outcome)
            released.set()
            assert "acquire" == fake.ended.get(timeout=PATIENCE)
            broker.send(Acquire(2, GRANT, ("fast",)))
            assert Done(2, TOKEN) == broker.receive()

    def test_hanging_questions_do_not_stop_others(self) -> None:
        """When as many questions hang as there are threads, the dispatcher abandons them, and others get their turn."""
        released = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                released.wait(PATIENCE)
            return TOKEN

        clock = Stoppable()
        with dispatched(Open("", timeout=0.2), FakeService(work), clock) as broker:
            for number in range(dispatcher.THREADS + 1):
                broker.send(Acquire(number, GRANT, ("slow",)))
            outcomes = [broker.done() for _ in range(dispatcher.THREADS + 1)]
            clock.stop()
            broker.send(Acquire(99, GRANT, ("fast",)))
            assert Done(99, TOKEN) == broker.receive()
            released.set()

        assert {"timeout"} == {kind(outcome) for outcome in outcomes}

    def test_deadline_without_a_turn(self) -> None:
        """A question whose turn does not come in time is answered in time, and never worked on."""
        now = [0.0]
        released = threading.Event()
        begun: list[Scopes] = []

        def work(scopes: Scopes) -> Outcome:
            begun.append(scopes)
            released.wait(PATIENCE)
            return TOKEN

        with dispatched(Open(""), FakeService(work), lambda: now[0]) as broker:
            for number in range(dispatcher.THREADS + 1):
                broker.send(Acquire(number, GRANT, (str(number),)))
            until(lambda: len(begun) == dispatcher.THREADS, "all threads at work")
            now[0] = 25.0
            # Anything wakes the loop, which looks at the clock then.
            broker.send(Cancel(1000))
            outcomes = [broker.done() for _ in range(dispatcher.THREADS + 1)]
            released.set()

        assert {"timeout"} == {kind(outcome) for outcome in outcomes}
        assert dispatcher.THREADS == len(begun)

    def test_bug(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An unexpected exception is an outcome; neither it nor the log has the exception's text or a local."""

        def work(_scopes: Scopes) -> Outcome:
            # Put together here, since a traceback does quote the program.
            local = "-".join(reversed(("text", "secret")))
            raise RuntimeError(local)

        with dispatched(Open(""), FakeService(work)) as broker:
            outcome = broker.acquire(GRANT)
        printed = capsys.readouterr()

        assert isinstance(outcome, Transient)
        assert ("worker", "the grant worker failed with an unexpected RuntimeError") == (
            outcome.trouble.kind,
            outcome.trouble.message,
        )
        assert "in work" in printed.err
        assert "secret-text" not in printed.err + printed.out + repr(outcome)
        assert "" == printed.out

    def test_leaves_when_idle(self) -> None:
        """A worker without questions leaves by itself, and its daemon sees this at once."""
        with dispatched(Open("", idle=0.05), FakeService()) as broker:
            assert kind(broker.acquire(GRANT)) == "granted"
            assert eof(broker.sock)
        assert 0 == broker.status

    def test_leaves_without_a_first_message(self) -> None:
        """A worker that is never opened leaves as well."""
        with dispatched(None, FakeService()) as broker:
            broker.sock.close()
        assert 0 == broker.status

    def test_does_not_leave_before_its_work_is_done(self) -> None:
        """Idle means that nothing is under way: neither a question, nor a late one, nor a person."""
        now = [0.0]
        begun, released = threading.Event(), threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            begun.set()
            released.wait(PATIENCE)
            return TOKEN

        fake = FakeService(work)
        with dispatched(None, fake, lambda: now[0]) as broker:
            broker.sock.sendall(pack(Open("", idle=0.0)) + pack(SignIn(1, GRANT, "browser")))
            assert isinstance(broker.receive(), Prompt)
            broker.send(Acquire(2, GRANT, SCOPES))
            assert begun.wait(PATIENCE)
            now[0] = 25.0
            # Anything wakes the loop, which looks at the clock then.
            broker.send(Cancel(1000))
            assert "timeout" == kind(broker.done())
            broker.send(Redirected(1, {"code": "x"}))
            assert "granted" == kind(broker.done())
            assert fake.ended.empty()
            broker.send(Redirected(1, {"code": "x"}))
            released.set()
            assert "acquire" == fake.ended.get(timeout=PATIENCE)
            assert eof(broker.sock)

    def test_stays_when_it_must(self) -> None:
        """A worker that could not get back what it holds rests instead of leaving, once for each idle time."""
        fake = FakeService()
        fake.keeps_a_secret = True
        with dispatched(Open("", idle=0.01), fake) as broker:
            for rests in (1, 2):
                until(lambda: fake.rests >= rests, "a rest")  # noqa: B023 - called in this very turn
                assert kind(broker.acquire(GRANT)) == "granted"
            fake.keeps_a_secret = False
            assert eof(broker.sock)

    @pytest.mark.parametrize("question", [Acquire(1, GRANT, SCOPES), Look(1, GRANT, SCOPES, "")])
    def test_tells_what_other_hosts_do(self, question: Question) -> None:
        """From the first question about a token on, and while no question is under way."""
        fake = FakeService()
        with dispatched(Open(""), fake) as broker:
            assert [] == fake.tells
            broker.send(question)
            assert isinstance(broker.receive(), Done)
            fake.tells[0](Heard((GRANT.key,)))

            assert Heard((GRANT.key,)) == broker.receive()

    def test_a_sign_in_hears_nothing(self) -> None:
        """Its process ends with it."""
        fake = FakeService()
        with dispatched(Open(""), fake) as broker:
            broker.send(SignIn(1, GRANT, "browser"))
            broker.prompt()

            assert [] == fake.tells

    def test_finishes_when_the_broker_is_gone(self) -> None:
        """What is under way when the socket closes comes to its end; what had no turn yet does not begin."""
        begun, released = threading.Semaphore(0), threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            begun.release()
            released.wait(PATIENCE)
            return TOKEN

        fake = FakeService(work)
        with dispatched(Open(""), fake) as broker:
            for number in range(dispatcher.THREADS + 5):
                broker.send(Acquire(number, GRANT, SCOPES))
            for _ in range(dispatcher.THREADS):
                assert begun.acquire(timeout=PATIENCE)
            broker.sock.shutdown(socket.SHUT_WR)
            broker.sock.close()
            assert fake.ended.empty()
            released.set()

        assert dispatcher.THREADS == fake.ended.qsize()

    def test_broker_that_went_without_a_word(self) -> None:
        """An answer that cannot be delivered ends the worker like a closed socket."""
        released = threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            released.wait(PATIENCE)
            return TOKEN

        ours, theirs = socket.socketpair()
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(Dispatcher(theirs, FakeService(work)).run()))
        ours.sendall(pack(Open("")) + pack(Acquire(1, GRANT, SCOPES)))
        # The writing side stays open elsewhere, so that only sending fails.
        ours.shutdown(socket.SHUT_RD)
        thread.start()
        released.set()
        thread.join(PATIENCE)
        ours.close()

        assert [0] == statuses

    def test_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What hangs for good does not keep a worker that has no daemon any more."""
        monkeypatch.setattr(dispatcher, "FINISH_SECONDS", 0.05)
        released = threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            released.wait(PATIENCE)
            return TOKEN

        fake = FakeService(work)
        with dispatched(Open(""), fake) as broker:
            broker.send(Acquire(1, GRANT, SCOPES))
            broker.sock.shutdown(socket.SHUT_WR)
            assert eof(broker.sock)
        assert fake.ended.empty()
        released.set()

        assert "acquire" == fake.ended.get(timeout=PATIENCE)

    def test_sign_in(self) -> None:
        """A sign-in shows its prompt, and gets what the browser brought."""
        with dispatched(Open(""), FakeService()) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            assert Prompt(7, "browser", "https://login.test/") == broker.receive()
            broker.send(Redirected(8, {"code": "another's"}))
            broker.send(Cancel(8))
            broker.send(Redirected(7, {"code": "mine"}))
            assert Done(7, replace(TOKEN, sign_in=replace(TOKEN.sign_in, who="mine"))) == broker.receive()

    @pytest.mark.parametrize("when", ["before the prompt", "after the browser has come back"])
    def test_a_sign_in_that_hangs(self, when: str) -> None:
        """It is answered in time, with the person's command; given up, it shows no prompt and stores nothing later."""
        now = [0.0]
        begun, released = threading.Event(), threading.Event()
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()

        class Hanging(FakeService):
            def sign_in(self, question: SignIn, conversation: Conversation) -> Outcome:
                if when != "before the prompt":
                    conversation.prompt(Prompt(7, "browser", "https://login.test/"))
                    conversation.wait(PATIENCE)
                begun.set()
                released.wait(PATIENCE)
                conversation.prompt(Prompt(7, "browser", "https://late.test/"))
                try:
                    conversation.check()
                except Cancelled:
                    ended.put("cancelled")
                return TOKEN

        with dispatched(Open(""), Hanging(), lambda: now[0]) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            if when != "before the prompt":
                broker.prompt()
                # A person has all the time that the prompt gives.
                now[0] = 300.0
                broker.send(Redirected(7, {"code": "x"}))
            assert begun.wait(PATIENCE)
            now[0] += 25.0
            broker.send(Cancel(1000))
            outcome = broker.done()
            released.set()
            assert "cancelled" == ended.get(timeout=PATIENCE)
            broker.send(Acquire(8, GRANT, SCOPES))
            assert Done(8, TOKEN) == broker.receive()

        assert isinstance(outcome, Transient)
        assert ("timeout", f"start again: `cms login {ANN}`") == (outcome.trouble.kind, outcome.trouble.hint)

    @pytest.mark.parametrize(
        ("question", "message", "hint"),
        [
            (Acquire(1, GRANT, SCOPES), "renewed within 25 s", "cms tries again by itself"),
            (SignOut(1, GRANT), "deleted within 25 s", f"`cms logout {ANN}`"),
            (SignOut(1, GRANT, revoke=True), "ended within 25 s", f"`cms logout {ANN} --revoke`"),
            (SignIn(1, GRANT, "browser"), "made within 25 s", f"`cms login {ANN}`"),
            (Import(1, GRANT, Place("/x")), "taken over within 25 s", "import it again"),
            (Survey(1, ("x",)), "no answer within 25 s", "run the command again"),
        ],
    )
    def test_what_is_said_in_the_end(self, question: Question, message: str, hint: str) -> None:
        """Each question that took too long is answered with what it was about, and whose move it is."""
        now = [0.0]
        begun, released = threading.Event(), threading.Event()

        class Hanging(FakeService):
            def answer(self, question: Work) -> Ended:
                begun.set()
                released.wait(PATIENCE)
                return super().answer(question)

            def sign_in(self, question: SignIn, conversation: Conversation) -> Outcome:
                begun.set()
                released.wait(PATIENCE)
                return super().sign_in(question, conversation)

        with dispatched(Open(""), Hanging(), lambda: now[0]) as broker:
            broker.send(question)
            assert begun.wait(PATIENCE)
            now[0] = 25.0
            broker.send(Cancel(1000))
            outcome = broker.done()
            released.set()

        assert isinstance(outcome, Transient)
        assert outcome.trouble.message.endswith(message)
        assert hint in outcome.trouble.hint

    def test_cancel(self) -> None:
        """A sign-in that is given up ends at once."""
        with dispatched(Open(""), FakeService()) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            broker.receive()
            broker.send(Cancel(7))
            assert "cancelled" == kind(broker.done())

    def test_broker_gone_cancels(self) -> None:
        """A sign-in ends with the daemon that asked for it."""
        fake = FakeService()
        with dispatched(Open(""), fake) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            broker.receive()

        assert "cancelled" == fake.ended.get_nowait()

    @pytest.mark.parametrize(
        "line",
        [
            b"the-secret\n",
            b"[]\n",
            pack(Open("")),
            b"x" * (MAX_MESSAGE + 1),
            b'{"is": "Acquire", "number": 1, "the-secret": 1}\n',
        ],
        ids=["text", "list", "second Open", "endless", "fields"],
    )
    def test_garbage(self, line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
        """An invalid question ends the worker, with a note that does not quote it."""
        with dispatched(Open(""), FakeService()) as broker:
            broker.sock.sendall(line)
            assert eof(broker.sock)
        printed = capsys.readouterr().err

        assert dispatcher.EXIT_GARBAGE == broker.status
        assert printed.startswith(("error: the daemon sent a ", "error: the daemon sent an "))
        assert "the-secret" not in printed

    def test_question_before_open(self) -> None:
        """The first message is Open."""
        with dispatched(None, FakeService()) as broker:
            broker.send(Acquire(1, GRANT, SCOPES))
            assert eof(broker.sock)
        assert dispatcher.EXIT_GARBAGE == broker.status

    def test_half_a_question(self) -> None:
        """A daemon that dies while it writes has asked nothing."""
        with dispatched(Open(""), FakeService()) as broker:
            broker.sock.sendall(pack(Acquire(1, GRANT, SCOPES))[:-5])
        assert 0 == broker.status
