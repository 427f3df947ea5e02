"""The worker as a whole: its main loop in this process, and the process itself."""

from __future__ import annotations

import base64
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.grants import ANN, PATIENCE, SCOPES, TurnsUpLocked, desk, grant_for, opened, process, service
from support.proofs import AppCertificate, write_private
from support.waiting import until

from cms.core.accounts import Grant, Scopes, Source
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.grants import __main__, dispatcher
from cms.grants.dispatcher import Dispatcher
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import Answer, CodeFlow
from cms.grants.messages import (
    MAX_MESSAGE,
    Acquire,
    Cancel,
    Chore,
    Done,
    Ended,
    Forget,
    Import,
    Listed,
    Open,
    Place,
    Prompt,
    Redirected,
    SignIn,
    Survey,
    pack,
)
from cms.grants.service import Cancelled, Line, Mailbox, Service
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.directory import APP_ID, APP_SECRET, Client
from cms.sandbox.entra import Entra, Fault

BEN = "ben@example.test"
GRANT = Grant("https://login.test/common", "client", ANN, (SCOPES,))
TOKEN = Granted("token", 1.0, 3600.0, SCOPES)


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the sandbox directly, whatever proxy this machine uses."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def entra() -> Iterator[Entra]:
    with Entra([ANN, BEN]) as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def kind(outcome: Ended) -> str:
    assert isinstance(outcome, Outcome), outcome
    return "granted" if isinstance(outcome, Granted) else outcome.trouble.kind


class Office:
    """Work that a test decides on."""

    def __init__(self, acquire: Callable[[Scopes], Outcome] = lambda _scopes: TOKEN) -> None:
        self.stays = False
        self.rests = 0
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._acquire = acquire

    def __call__(self, _opened: Open) -> Office:
        return self

    def rest(self) -> None:
        self.rests += 1

    def acquire(self, grant: Grant, scopes: Scopes) -> Outcome:
        try:
            return self._acquire(scopes)
        finally:
            self.ended.put("acquire")

    def forget(self, grant: Grant) -> Outcome:
        return Granted("", 1.0, 0.0)

    def bring_in(self, question: Import) -> Outcome:
        return TOKEN

    def attend(self, question: Chore) -> Ended:
        return Listed(())

    def sign_in(self, question: SignIn, line: Line) -> Outcome:
        line.prompt(Prompt(question.number, question.method, "https://login.test/"))
        try:
            fields = line.wait(PATIENCE)
        except Cancelled:
            self.ended.put("cancelled")
            return Refused(Trouble("cancelled", "", ""))
        return replace(TOKEN, who=(fields or {})["code"])


def eof(sock: socket.socket) -> bool:
    """Say whether the worker has closed its end, having read all or not."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


class TestDesk:
    """The main loop."""

    def test_answers_by_number(self) -> None:
        """Answers come as they are ready, each with its question's number."""
        first = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                first.wait(PATIENCE)
            return TOKEN

        with desk(Open(""), Office(work)) as broker:
            broker.send(Acquire(1, GRANT, ("slow",)))
            broker.send(Acquire(2, GRANT, ("fast",)))
            broker.send(Forget(3, GRANT))
            answered = {reply.number for reply in (broker.receive(), broker.receive()) if reply}
            first.set()
            last = broker.receive()

        assert {2, 3} == answered
        assert Done(1, TOKEN) == last
        assert 0 == broker.status

    def test_many_at_once(self) -> None:
        """More questions than threads are all answered, with never more threads than there may be."""
        running = threading.Semaphore(dispatcher.THREADS)
        crowded: list[bool] = []

        def work(_scopes: Scopes) -> Outcome:
            crowded.append(not running.acquire(blocking=False))
            running.release()
            return TOKEN

        with desk(Open(""), Office(work)) as broker:
            for number in range(100):
                broker.send(Acquire(number, GRANT, SCOPES))
            numbers = {reply.number for _ in range(100) if (reply := broker.receive())}

        assert set(range(100)) == numbers
        assert not any(crowded)

    def test_deadline(self) -> None:
        """A question that takes too long is answered in time, and its late answer is dropped, though it was worked on."""
        released = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                released.wait(PATIENCE)
            return TOKEN

        office = Office(work)
        with desk(Open("", timeout=0.1), office) as broker:
            broker.send(Acquire(1, GRANT, ("slow",)))
            late = broker.receive()
            assert isinstance(late, Done)
            assert "timeout" == kind(late.outcome)
            released.set()
            assert "acquire" == office.ended.get(timeout=PATIENCE)
            broker.send(Acquire(2, GRANT, ("fast",)))
            assert Done(2, TOKEN) == broker.receive()

    def test_hanging_questions_stop_nobody(self) -> None:
        """As many hanging questions as there are threads are left to themselves, and others get their turn."""
        released = threading.Event()

        def work(scopes: Scopes) -> Outcome:
            if scopes == ("slow",):
                released.wait(PATIENCE)
            return TOKEN

        with desk(Open("", timeout=0.2), Office(work)) as broker:
            for number in range(dispatcher.THREADS + 1):
                broker.send(Acquire(number, GRANT, ("slow",)))
            outcomes = [broker.done() for _ in range(dispatcher.THREADS + 1)]
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

        with desk(Open(""), Office(work), lambda: now[0]) as broker:
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

        with desk(Open(""), Office(work)) as broker:
            outcome = broker.acquire(GRANT)
        printed = capsys.readouterr()

        assert isinstance(outcome, Transient)
        assert ("worker", "the grant worker met an unexpected RuntimeError") == (
            outcome.trouble.kind,
            outcome.trouble.message,
        )
        assert "in work" in printed.err
        assert "secret-text" not in printed.err + printed.out + repr(outcome)
        assert "" == printed.out

    def test_leaves_when_idle(self) -> None:
        """A worker that nobody asks anything leaves by itself, as its broker sees at once."""
        with desk(Open("", idle=0.05), Office()) as broker:
            assert kind(broker.acquire(GRANT)) == "granted"
            assert eof(broker.sock)
        assert 0 == broker.status

    def test_leaves_without_a_first_message(self) -> None:
        """A worker that is never opened leaves as well."""
        with desk(None, Office()) as broker:
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

        office = Office(work)
        with desk(None, office, lambda: now[0]) as broker:
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
            assert office.ended.empty()
            broker.send(Redirected(1, {"code": "x"}))
            released.set()
            assert "acquire" == office.ended.get(timeout=PATIENCE)
            assert eof(broker.sock)

    def test_stays_when_it_must(self) -> None:
        """A worker that could not get back what it holds rests instead of leaving, once for each idle time."""
        office = Office()
        office.stays = True
        with desk(Open("", idle=0.01), office) as broker:
            for rests in (1, 2):
                until(lambda: office.rests >= rests, "a rest")  # noqa: B023 - called in this very turn
                assert kind(broker.acquire(GRANT)) == "granted"
            office.stays = False
            assert eof(broker.sock)

    def test_finishes_when_the_broker_is_gone(self) -> None:
        """What is under way when the socket closes comes to its end; what had no turn yet does not begin."""
        begun, released = threading.Semaphore(0), threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            begun.release()
            released.wait(PATIENCE)
            return TOKEN

        office = Office(work)
        with desk(Open(""), office) as broker:
            for number in range(dispatcher.THREADS + 5):
                broker.send(Acquire(number, GRANT, SCOPES))
            for _ in range(dispatcher.THREADS):
                assert begun.acquire(timeout=PATIENCE)
            broker.sock.shutdown(socket.SHUT_WR)
            broker.sock.close()
            assert office.ended.empty()
            released.set()

        assert dispatcher.THREADS == office.ended.qsize()

    def test_broker_that_went_without_a_word(self) -> None:
        """An answer that nobody takes ends the worker like a closed socket."""
        released = threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            released.wait(PATIENCE)
            return TOKEN

        ours, theirs = socket.socketpair()
        statuses: list[int] = []
        thread = threading.Thread(target=lambda: statuses.append(Dispatcher(theirs, Office(work)).run()))
        ours.sendall(pack(Open("")) + pack(Acquire(1, GRANT, SCOPES)))
        # The writing side stays open elsewhere, so that only sending fails.
        ours.shutdown(socket.SHUT_RD)
        thread.start()
        released.set()
        thread.join(PATIENCE)
        ours.close()

        assert [0] == statuses

    def test_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What hangs for good does not keep a worker that has no broker any more."""
        monkeypatch.setattr(dispatcher, "FINISH_SECONDS", 0.05)
        released = threading.Event()

        def work(_scopes: Scopes) -> Outcome:
            released.wait(PATIENCE)
            return TOKEN

        office = Office(work)
        with desk(Open(""), office) as broker:
            broker.send(Acquire(1, GRANT, SCOPES))
            broker.sock.shutdown(socket.SHUT_WR)
            assert eof(broker.sock)
        assert office.ended.empty()
        released.set()

        assert "acquire" == office.ended.get(timeout=PATIENCE)

    def test_sign_in(self) -> None:
        """A sign-in shows its prompt, and gets what the browser brought."""
        with desk(Open(""), Office()) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            assert Prompt(7, "browser", "https://login.test/") == broker.receive()
            broker.send(Redirected(8, {"code": "another's"}))
            broker.send(Cancel(8))
            broker.send(Redirected(7, {"code": "mine"}))
            assert Done(7, replace(TOKEN, who="mine")) == broker.receive()

    @pytest.mark.parametrize("when", ["before the prompt", "after the browser has come back"])
    def test_a_sign_in_that_hangs(self, when: str) -> None:
        """It is answered in time, with the person's command; given up, it shows no prompt and stores nothing later."""
        now = [0.0]
        begun, released = threading.Event(), threading.Event()
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()

        class Hanging(Office):
            def sign_in(self, question: SignIn, line: Line) -> Outcome:
                if when != "before the prompt":
                    line.prompt(Prompt(7, "browser", "https://login.test/"))
                    line.wait(PATIENCE)
                begun.set()
                released.wait(PATIENCE)
                line.prompt(Prompt(7, "browser", "https://late.test/"))
                try:
                    line.check()
                except Cancelled:
                    ended.put("cancelled")
                return TOKEN

        with desk(Open(""), Hanging(), lambda: now[0]) as broker:
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
            (Forget(1, GRANT), "deleted within 25 s", f"`cms logout {ANN}`"),
            (SignIn(1, GRANT, "browser"), "made within 25 s", f"`cms login {ANN}`"),
            (Import(1, GRANT, Place("/x")), "taken over within 25 s", "import it again"),
            (Survey(1, ("x",)), "no answer within 25 s", "give the command again"),
        ],
    )
    def test_what_is_said_in_the_end(self, question: Any, message: str, hint: str) -> None:
        """Each question that took too long is answered with what it was about, and whose move it is."""
        trouble = dispatcher._timed_out(question, 25.0).trouble

        assert trouble.message.endswith(message)
        assert hint in trouble.hint

    def test_cancel(self) -> None:
        """A sign-in that is given up ends at once."""
        with desk(Open(""), Office()) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            broker.receive()
            broker.send(Cancel(7))
            assert "cancelled" == kind(broker.done())

    def test_broker_gone_cancels(self) -> None:
        """Nobody waits for a person on behalf of nobody."""
        office = Office()
        with desk(Open(""), office) as broker:
            broker.send(SignIn(7, GRANT, "browser"))
            broker.receive()

        assert "cancelled" == office.ended.get_nowait()

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
        """What is no question ends the worker, with a note that does not quote it."""
        with desk(Open(""), Office()) as broker:
            broker.sock.sendall(line)
            assert eof(broker.sock)
        printed = capsys.readouterr().err

        assert dispatcher.EXIT_GARBAGE == broker.status
        assert printed.startswith("error: the broker sent a ")
        assert "the-secret" not in printed

    def test_question_before_open(self) -> None:
        """The first message is Open."""
        with desk(None, Office()) as broker:
            broker.send(Acquire(1, GRANT, SCOPES))
            assert eof(broker.sock)
        assert dispatcher.EXIT_GARBAGE == broker.status

    def test_half_a_question(self) -> None:
        """A broker that dies while it writes has asked nothing."""
        with desk(Open(""), Office()) as broker:
            broker.sock.sendall(pack(Acquire(1, GRANT, SCOPES))[:-5])
        assert 0 == broker.status


class Answers:
    """A `Line` that needs no second thread."""

    def __init__(
        self, *fields: Mapping[str, str] | None, before: Callable[[Prompt], None] = lambda _prompt: None
    ) -> None:
        self._fields = list(fields)
        self._before = before
        self.waited: list[float] = []
        self.prompted: list[Prompt] = []

    def prompt(self, prompt: Prompt) -> None:
        self.prompted.append(prompt)
        self._before(prompt)

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        self.waited.append(seconds)
        return self._fields.pop(0) if self._fields else None

    def check(self) -> None:
        pass


def browse(entra: Entra, user: str = ANN) -> Answers:
    """Return a line with a person at its end who signs in as `user`."""
    answers = Answers()
    answers._before = lambda prompt: answers._fields.append(entra.sign_in(prompt.url, user, follow=False).fields)
    return answers


class TestService:
    """Vault and provider together, in the caller's thread."""

    @pytest.fixture
    def grant(self, entra: Entra) -> Grant:
        return grant_for(entra)

    @pytest.fixture
    def first(self, state: Path, entra: Entra) -> Open:
        return opened(state, entra)

    def sign_in(self, first: Open, grant: Grant, line: Line) -> Outcome:
        return service(first).sign_in(SignIn(1, grant, "browser"), line)

    def test_first_sign_in(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Nobody has signed in; a person does; from then on any process can redeem."""
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        outcome = self.sign_in(first, grant, browse(entra))
        assert isinstance(outcome, Granted)
        assert (True, ANN) == (outcome.persisted, outcome.who)
        again = service(first).acquire(grant, SCOPES)

        assert isinstance(again, Granted)
        assert again.persisted
        assert again.key_from.startswith("key file ")
        assert ANN == again.who
        assert again.secret != outcome.secret

    def test_rotation_is_stored_before_it_is_answered(self, first: Open, grant: Grant, entra: Entra) -> None:
        """With reuse refused, every process redeems what the one before it was given."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))

        assert ["granted"] * 5 == [kind(service(first).acquire(grant, SCOPES)) for _ in range(5)]

    def test_threads_take_turns(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Many questions for one grant at once redeem one after the other, never the same refresh token."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))
        shared = service(first)
        outcomes: list[Outcome] = []
        threads = [threading.Thread(target=lambda: outcomes.append(shared.acquire(grant, SCOPES))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert ["granted"] * 8 == [kind(outcome) for outcome in outcomes]

    def test_wrong_user_is_not_stored(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Somebody else's sign-in leaves no trace, and an earlier one untouched."""
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        self.sign_in(first, grant, browse(entra))
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))

        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_whoever_signed_in_is_remembered(self, first: Open, entra: Entra) -> None:
        """An account without a user is whose it was first, until a logout; both are named."""
        grant = grant_for(entra, "")
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        outcome = self.sign_in(first, grant, browse(entra, BEN))
        assert isinstance(outcome, Refused)
        assert "wrong-user" == outcome.trouble.kind
        assert (True, True) == (ANN in outcome.trouble.message, BEN in outcome.trouble.message)
        assert "`cms logout` first" in outcome.trouble.hint
        assert ANN == getattr(service(first).acquire(grant, SCOPES), "who", "")
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

        service(first).forget(grant)
        assert "granted" == kind(self.sign_in(first, grant, browse(entra, BEN)))

    def test_a_renamed_person(self, first: Open, grant: Grant, entra: Entra, capfd: pytest.CaptureFixture[str]) -> None:
        """The account is the same under its new name: that is accepted, and said."""
        self.sign_in(first, grant, browse(entra))
        entra.directory.rename(ANN, "anna@example.test")
        outcome = self.sign_in(first, grant, browse(entra, "anna@example.test"))

        assert isinstance(outcome, Granted)
        assert "anna@example.test" == outcome.who
        assert f"{ANN} is called anna@example.test now" in capfd.readouterr().err

    def test_a_new_name_proves_nothing(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Where nobody has signed in before, another name is another person."""
        entra.directory.rename(ANN, "anna@example.test")

        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, "anna@example.test")))

    @pytest.mark.parametrize("login", [ANN, ""])
    def test_another_account_of_the_same_name(self, first: Open, entra: Entra, login: str) -> None:
        """A name that was given to somebody else does not open the mailbox; who means it signs out first."""
        grant = grant_for(entra, login)
        self.sign_in(first, grant, browse(entra))
        entra.directory.add_user(ANN, anew=True)
        outcome = self.sign_in(first, grant, browse(entra))
        assert isinstance(outcome, Refused)
        assert "wrong-user" == outcome.trouble.kind
        assert f"{ANN} signed in, but with another account than the {ANN} before" in outcome.trouble.message
        assert f"`cms logout {login}` first".replace(" `", "`") in outcome.trouble.hint

        service(first).forget(grant)
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

    def test_forget(self, first: Open, grant: Grant, entra: Entra) -> None:
        """What was forgotten is gone; an empty token says so. Forgetting nothing is as good."""
        self.sign_in(first, grant, browse(entra))
        outcome = service(first).forget(grant)

        assert isinstance(outcome, Granted)
        assert "" == outcome.secret
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        assert "granted" == kind(service(first).forget(grant))

    def test_forget_what_cannot_be_deleted(self, first: Open, grant: Grant, state: Path) -> None:
        """A sign-in that cannot be deleted is not said to be gone."""
        (state / f"{grant.key}.vault").mkdir(parents=True)

        outcome = service(first).forget(grant)

        assert isinstance(outcome, Transient)
        assert "storage" == outcome.trouble.kind
        assert f"system; try again: `cms logout {ANN}`" in outcome.trouble.hint

    def test_key_lost(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """Without the key nothing is redeemed, and nobody is asked to sign in for nothing."""
        self.sign_in(first, grant, browse(entra))
        key = state.parent / "vault.key"
        secret = key.read_bytes()
        key.unlink()
        line = browse(entra)
        waits = service(first).acquire(grant, SCOPES)
        person = self.sign_in(first, grant, line)

        assert isinstance(waits, Transient)
        assert isinstance(person, Transient)
        assert ("locked", "locked") == (waits.trouble.kind, person.trouble.kind)
        assert "bring the key back; cms tries again by itself." in waits.trouble.hint
        assert f"bring the key back; start again: `cms login {ANN}`." in person.trouble.hint
        assert [] == line.prompted
        assert 0 == entra.count("token", grant_type="refresh_token")
        key.write_bytes(secret)
        key.chmod(0o600)
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_damaged(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """A damaged file is left as it is until somebody has signed in anew, and kept aside then."""
        self.sign_in(first, grant, browse(entra))
        path = state / f"{grant.key}.vault"
        path.write_bytes(path.read_bytes()[:-1])
        damaged = path.read_bytes()
        assert "vault-damaged" == kind(service(first).acquire(grant, SCOPES))
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))
        assert damaged == path.read_bytes()
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        assert [damaged] == [file.read_bytes() for file in state.glob("*.damaged-*")]

    def test_storage_fails_before(
        self, first: Open, grant: Grant, entra: Entra, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a full disk nothing is redeemed; with room again all is as before."""
        self.sign_in(first, grant, browse(entra))

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            assert "storage" == kind(service(first).acquire(grant, SCOPES))

        assert 0 == entra.count("token", grant_type="refresh_token")
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_storage_fails_after(
        self, first: Open, grant: Grant, entra: Entra, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token whose successor could not be stored is not served; a refusal that follows is explained by it."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))

        def broken(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            assert "storage" == kind(service(first).acquire(grant, SCOPES))
        refused = service(first).acquire(grant, SCOPES)

        assert isinstance(refused, Refused)
        assert "reused" == refused.trouble.kind
        assert "before storing its successor" in refused.trouble.message
        assert f"`cms login {ANN}`" in refused.trouble.hint
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_lost_answer(self, first: Open, grant: Grant, entra: Entra) -> None:
        """An answer that is lost on its way costs nothing where Entra does as documented, and is explained elsewhere."""
        self.sign_in(first, grant, browse(entra))
        entra.faults.add(Fault("reset", after=True))
        assert "network" == kind(service(first).acquire(grant, SCOPES))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        entra.refuse_reuse = True
        entra.faults.add(Fault("truncated", after=True))
        assert "garbage" == kind(service(first).acquire(grant, SCOPES))

        assert "reused" == kind(service(first).acquire(grant, SCOPES))

    def test_other_refusals_are_not_blamed_on_it(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A refusal with a reason of its own keeps it, and one without a lost answer is not called reuse."""
        self.sign_in(first, grant, browse(entra))
        entra.faults.add(Fault("aadsts", aadsts=70000))
        assert "refused" == kind(service(first).acquire(grant, SCOPES))
        entra.faults.add(Fault("reset", after=True))
        assert "network" == kind(service(first).acquire(grant, SCOPES))
        entra.faults.add(Fault("aadsts", aadsts=50173))

        assert "refused" == kind(service(first).acquire(grant, SCOPES))

    def test_successor_that_is_none(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """A server that does not rotate needs no new file, and leaves no mark."""
        self.sign_in(first, grant, browse(entra))
        service(first).acquire(grant, SCOPES)
        entra.rotate = False
        before = {path.name: path.read_bytes() for path in state.iterdir()}

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        assert before == {path.name: path.read_bytes() for path in state.iterdir()}

    def test_fault_before_the_sign_in(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A sign-in that cannot begin shows no prompt."""
        entra.faults.add(Fault("status", "discovery", status=503))
        line = browse(entra)

        outcome = self.sign_in(first, grant, line)
        assert isinstance(outcome, Transient)
        assert ("server", f"wait a minute, then start again: `cms login {ANN}`") == (
            outcome.trouble.kind,
            outcome.trouble.hint,
        )
        assert [] == line.prompted

    def test_nobody_comes(self, first: Open, grant: Grant) -> None:
        """A browser sign-in that nobody completes expires."""
        line = Answers(None)
        outcome = self.sign_in(first, grant, line)

        assert "expired" == kind(outcome)
        assert [600.0] == line.waited

    def test_given_up(self, first: Open, grant: Grant) -> None:
        """A sign-in that is given up says so."""
        mailbox = Mailbox(lambda _prompt: mailbox.cancel())

        assert "cancelled" == kind(self.sign_in(first, grant, mailbox))

    def test_given_up_while_the_code_is_redeemed(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A sign-in that was given up is not stored, however far it had come: a logout stays one."""
        worker = service(first)
        redeemed = CodeFlow.finish

        def finish(flow: CodeFlow, fields: Mapping[str, str]) -> Answer:
            answer = redeemed(flow, fields)
            mailbox.cancel()
            return answer

        def browse(prompt: Prompt) -> None:
            mailbox.redirected(entra.sign_in(prompt.url, ANN, follow=False).fields)

        mailbox = Mailbox(browse)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(CodeFlow, "finish", finish)
            assert "cancelled" == kind(worker.sign_in(SignIn(1, grant, "browser"), mailbox))

        assert "no-sign-in" == kind(worker.acquire(grant, SCOPES))

    def test_given_up_before_the_prompt(self, first: Open, grant: Grant) -> None:
        """What was given up before it began shows no prompt."""
        prompts: list[Prompt] = []
        mailbox = Mailbox(prompts.append)
        mailbox.cancel()

        assert "cancelled" == kind(self.sign_in(first, grant, mailbox))
        assert [] == prompts

    def test_mailbox_runs_out(self) -> None:
        """Waiting ends without an answer when the time is over, even if it was over before."""
        mailbox = Mailbox(lambda _prompt: None)

        assert mailbox.wait(0.0) is None
        assert mailbox.wait(-1.0) is None

    def test_prompt(self, first: Open, grant: Grant, entra: Entra) -> None:
        """The prompt has the link, the address that it comes back to and the value to know it by."""
        line = browse(entra)
        self.sign_in(first, grant, line)
        prompt = line.prompted[0]

        assert (1, "browser", "", 600.0, grant.redirect_uri) == (
            prompt.number,
            prompt.method,
            prompt.user_code,
            prompt.expires_in,
            prompt.redirect_uri,
        )
        assert f"state={prompt.state}" in prompt.url

    def test_device(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A device sign-in polls at the provider's pace until the person has approved."""
        entra.device_interval = 3
        line = Answers(None, None, None)
        question = SignIn(1, grant, "device")
        line._before = lambda prompt: entra.approve_device(prompt.user_code, ANN)

        assert "granted" == kind(service(first).sign_in(question, line))
        assert [3.0] == line.waited
        assert "device" == line.prompted[0].method
        assert "" == line.prompted[0].state

    @pytest.mark.parametrize("method", ["browser", "paste", "device"])
    def test_a_challenge_is_answered(self, first: Open, grant: Grant, entra: Entra, method: str) -> None:
        """What a refused refresh demands is carried into the next sign-in, whichever way that is made."""
        entra.device_interval = 1
        self.sign_in(first, grant, browse(entra))
        entra.challenge(ANN)
        refused = service(first).acquire(grant, SCOPES)
        assert isinstance(refused, Refused)
        line = browse(entra)
        if method == "device":
            line._before = lambda prompt: entra.approve_device(prompt.user_code, ANN)
        question = SignIn(1, grant, method, refused.trouble.claims)

        assert "granted" == kind(service(first).sign_in(question, line))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_a_challenge_alone_keeps_no_process(self, first: Open, grant: Grant, entra: Entra) -> None:
        """In memory, nothing but a sign-in is a reason for the worker to stay."""
        worker = service(replace(first, key=Source("memory")))
        entra.challenge(ANN)

        assert "refused" == kind(worker.sign_in(SignIn(1, grant, "browser"), browse(entra)))
        assert not worker.stays

    def test_device_is_not_polled_in_a_pause(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A pause that the provider asks for is kept; one that outlives the code is waited for no longer than that."""
        worker = service(first)
        line = Answers()
        worker._clock = lambda: sum(line.waited)
        entra.faults.add(Fault("status", status=429, retry_after="120"))
        entra.faults.add(Fault("status", status=429, retry_after="3000"))

        assert "expired" == kind(worker.sign_in(SignIn(1, grant, "device"), line))
        assert [5.0, 120.0, 775.0] == line.waited
        assert 2 == entra.count("token")

    @pytest.mark.parametrize("how", ["by the clock", "by Entra"])
    def test_device_expires(self, first: Open, grant: Grant, entra: Entra, how: str) -> None:
        """When a device code runs out, the hint says what organisations do to this flow, and names the others."""
        worker = service(first)
        line = Answers()
        if how == "by the clock":
            worker._clock = lambda: 450.0 * len(line.waited)
        else:
            entra.faults.add(Fault("aadsts", aadsts=70019))
        outcome = worker.sign_in(SignIn(1, grant, "device"), line)

        assert isinstance(outcome, Refused)
        assert "expired" == outcome.trouble.kind
        assert f"`cms login {ANN} --browser`" in outcome.trouble.hint
        assert (2 if how == "by the clock" else 1) == entra.count("token")

    def test_client_secret(self, first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> None:
        """A client secret is read from its source by the worker, for the sign-in and for each redemption."""
        client = entra.directory.client(APP_ID)
        entra.register(replace(client, redirects=("http://localhost/*",)))
        path = tmp_path / "client-secret"
        path.write_text(APP_SECRET + "\n")
        path.chmod(0o600)
        grant = replace(grant, client_id=APP_ID, client_secret=Source("file", (str(path),)))

        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        path.write_bytes(b"\xff")
        assert "locked" == kind(service(first).acquire(grant, SCOPES))
        path.unlink()
        outcome = service(first).acquire(grant, SCOPES)
        assert isinstance(outcome, Transient)
        assert "locked" == outcome.trouble.kind
        assert str(path) in outcome.trouble.message

    def test_a_certificate_in_place_of_a_secret(self, first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> None:
        """An application that people sign in to may have one too; when it ends is told with each token."""
        made = AppCertificate()
        entra.register(Client(APP_ID, ("http://localhost/*",), certificates=(made.public,)))
        path = write_private(tmp_path / "app.pem", made.pem())
        grant = replace(grant, client_id=APP_ID, certificate=Source("file", (str(path),)))
        outcomes = (self.sign_in(first, grant, browse(entra)), service(first).acquire(grant, SCOPES))

        assert [float(int(made.ends))] * 2 == [getattr(each, "credential_expires", 0.0) for each in outcomes]

    def test_memory_only(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """With no place for a key the sign-in lasts as long as its process, and every answer says so."""
        worker = service(replace(first, key=None))
        signed_in = worker.sign_in(SignIn(1, grant, "browser"), browse(entra))
        acquired = worker.acquire(grant, SCOPES)

        for outcome in (signed_in, acquired):
            assert isinstance(outcome, Granted)
            assert (False, "memory only") == (outcome.persisted, outcome.key_from)
        assert worker.stays
        assert not list(state.glob("*.vault"))
        worker.rest()
        assert "granted" == kind(worker.acquire(grant, SCOPES))

    @pytest.mark.parametrize("when", ["before a refresh", "during a sign-in"])
    def test_a_keyring_that_turns_up_locked(self, first: Open, grant: Grant, entra: Entra, when: str) -> None:
        """A sign-in that is, or was to be, kept in memory is not lost to a keyring that turns up locked."""
        ring = TurnsUpLocked()
        entra.refuse_reuse = True
        vault = Vault(first.state_folder, Keys(None, environ={}, ring=ring), first.timeout)
        worker = Service(vault, Provider(first.ca))
        line = browse(entra)
        page = line._before

        def turn_up(prompt: Prompt) -> None:
            ring.there = when == "during a sign-in"
            page(prompt)

        line._before = turn_up
        signed_in = worker.sign_in(SignIn(1, grant, "browser"), line)
        ring.there = True
        outcomes = [signed_in, *(worker.acquire(grant, SCOPES) for _ in range(2))]

        assert ["granted"] * 3 == [kind(outcome) for outcome in outcomes]
        assert worker.stays

    def test_memory_that_will_not_do(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A worker that is about to end begins no sign-in that only its memory would hold; with a key it does."""
        line = browse(entra)
        outcome = self.sign_in(replace(first, key=None, persist=True), grant, line)
        assert isinstance(outcome, Transient)
        assert ("storage", []) == (outcome.trouble.kind, line.prompted)
        assert "Vault(key=" in outcome.trouble.hint

        assert "granted" == kind(self.sign_in(replace(first, persist=True), grant, line))

    def test_a_full_disk_is_known_before_the_prompt(
        self, first: Open, grant: Grant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody signs in for a disk that could not take it; and it leaves no mark of a redemption."""

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        line = Answers()
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            assert "storage" == kind(self.sign_in(first, grant, line))
        assert [] == line.prompted
        self.sign_in(first, grant, Answers(None))

        assert not list(Path(first.state_folder).glob("*.redeeming"))

    def test_nothing_secret_stays(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """Between two questions the worker holds neither a refresh token nor what it was derived from."""
        worker = service(first)
        worker.sign_in(SignIn(1, grant, "browser"), browse(entra))
        worker.acquire(grant, SCOPES)
        worker.rest()

        assert not worker.stays
        assert {} == worker._vault.memory

    def test_two_scope_sets(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Each scope set gets a token of its own from one sign-in; what is refused for one leaves the other."""
        graph = ("https://graph.microsoft.com/Mail.Send",)
        grant = replace(grant, scope_sets=(SCOPES, graph))
        self.sign_in(first, grant, browse(entra))
        entra.withdraw_consent(ANN, graph[0])

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        refused = service(first).acquire(grant, graph)
        assert isinstance(refused, Refused)
        assert 65001 == refused.trouble.aadsts


class TestProcess:
    """`python -I -m cms.grants`, as the broker starts it."""

    def status(self, pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def test_whole_life(self, state: Path, entra: Entra) -> None:
        """Sign in, redeem, forget, over the socket; nothing on stdout and stderr; it ends when the socket closes."""
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "no-sign-in" == kind(worker.broker.acquire(grant))
            for method in ("browser", "paste", "device"):
                entra.device_interval = 1
                assert "granted" == kind(worker.broker.sign_in(grant, entra, method=method))
            assert "granted" == kind(worker.broker.acquire(grant))
            assert "granted" == kind(worker.broker.forget(grant))
            assert (0, "") == worker.end()

    def test_protected(self, state: Path, entra: Entra) -> None:
        """The process cannot be dumped or traced, leads its session, is nice, and ignores the terminal's signals."""
        with process(opened(state, entra)) as worker:
            worker.broker.acquire(grant_for(entra))
            pid = worker.popen.pid
            status = self.status(pid)
            limits = Path(f"/proc/{pid}/limits").read_text()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

            ignored = int(status["SigIgn"], 16)
            assert all(ignored >> (number - 1) & 1 for number in (1, 2, 15))
            assert ["Max", "core", "file", "size", "0", "0", "bytes"] == next(
                line.split() for line in limits.splitlines() if line.startswith("Max core")
            )
            assert pid == int(fields[3])
            assert max(15, os.getpriority(os.PRIO_PROCESS, 0)) == int(fields[16])
            # What belongs to a process that is not dumpable belongs to root, whoever runs it.
            assert 0 == Path(f"/proc/{pid}/environ").stat().st_uid
            for number in (1, 2, 15):
                os.kill(pid, number)
            assert "no-sign-in" == kind(worker.broker.acquire(grant_for(entra)))

    def test_not_dumpable(self, state: Path, entra: Entra) -> None:
        """The kernel itself says that the process is not dumpable."""
        program = (
            "import ctypes, sys; from cms.grants.__main__ import protect; "
            "before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0); protect(); "
            "print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
        )
        output = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout

        assert "1 0\n" == output

    def test_hostile_folder(self, state: Path, entra: Entra, tmp_path: Path) -> None:
        """Modules that lie in the current folder are not imported, whatever their names."""
        hostile = tmp_path / "hostile"
        hostile.mkdir()
        for name in ("keyring", "msal", "requests", "cryptography", "secretstorage", "json", "cms", "sitecustomize"):
            (hostile / f"{name}.py").write_text("raise SystemExit('hostile')\n")
        grant = grant_for(entra)
        # No key is named, so that the keyring is really imported.
        with process(
            replace(opened(state, entra), key=None), cwd=hostile, environment={"HOME": str(tmp_path)}
        ) as worker:
            outcome = worker.broker.sign_in(grant, entra)
            assert isinstance(outcome, Granted)
            assert "memory only" == outcome.key_from
            assert (0, "") == worker.end()

    def test_leaves_when_idle(self, state: Path, entra: Entra) -> None:
        """An idle worker is gone, with status 0."""
        with process(replace(opened(state, entra), idle=0.01)) as worker:
            worker.broker.acquire(grant_for(entra))
            assert worker.broker.receive() is None
            assert 0 == worker.popen.wait(PATIENCE)

    def test_memory_only_stays(self, state: Path, entra: Entra) -> None:
        """A worker that holds a sign-in in memory stays, and redeems it whenever it is asked."""
        grant = grant_for(entra)
        with process(replace(opened(state, entra, key=Source("memory")), idle=0.01)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            for _ in range(3):
                time.sleep(0.05)
                assert "granted" == kind(worker.broker.acquire(grant))
            assert not list(state.parent.glob("state/*"))
            assert (0, "") == worker.end()

    def test_garbage(self, state: Path) -> None:
        """Garbage ends it with a status that is not 0, and a note that does not quote it."""
        with process(opened(state)) as worker:
            worker.broker.sock.sendall(b"the-secret\n")
            status, printed = worker.end()

        assert 65 == status
        assert "error: the broker sent a line that is not JSON\n" == printed

    def test_not_started_by_cms(self) -> None:
        """Somebody who starts it by hand is told what it is."""
        done = subprocess.run(
            [sys.executable, "-I", "-m", "cms.grants"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

        assert os.EX_USAGE == done.returncode
        assert "is started by cms" in done.stderr

    def test_finishes_what_was_sent(self, state: Path, entra: Entra) -> None:
        """A broker that is killed during a redemption costs nothing: the worker stores what it gets, and then ends."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            worker.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            worker.broker.sock.close()
            assert worker.popen.poll() is None
            entra.faults.clear()
            assert 0 == worker.popen.wait(PATIENCE)

        with process(opened(state, entra)) as successor:
            assert "granted" == kind(successor.broker.acquire(grant))

    def test_late_answer_is_stored(self, state: Path, entra: Entra) -> None:
        """A redemption that takes longer than its deadline is answered as a fault; its result is not lost."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
        entra.faults.add(Fault("silence", seconds=PATIENCE))
        with process(replace(opened(state, entra), timeout=0.2)) as worker:
            assert "timeout" == kind(worker.broker.acquire(grant))
            entra.faults.clear()
            assert (0, "") == worker.end()

        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.acquire(grant))

    def test_orphan_and_successor(self, state: Path, entra: Entra) -> None:
        """A second process waits for the first one's redemption, and redeems its successor: never the same one twice."""
        entra.refuse_reuse = True
        grant = grant_for(entra)
        with process(opened(state, entra)) as orphan, process(opened(state, entra)) as successor:
            assert "granted" == kind(orphan.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            orphan.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            orphan.broker.sock.close()
            successor.broker.send(Acquire(1, grant, SCOPES))
            # It is at work, and has nothing to wait for but the lock.
            successor.broker.send(Acquire(2, grant_for(entra, BEN), SCOPES))
            assert "no-sign-in" == kind(successor.broker.done())
            assert 1 == entra.count("token", grant_type="refresh_token")
            entra.faults.clear()
            assert "granted" == kind(successor.broker.done())

        redeemed = [asked.refresh for asked in entra.asked("token", grant_type="refresh_token")]
        assert 2 == len(set(redeemed)) == len(redeemed)

    @pytest.mark.parametrize("round_", range(5))
    def test_killed_during_a_redemption(self, state: Path, entra: Entra, round_: int) -> None:
        """Killed after Entra has rotated: as documented nothing is lost, and where reuse is refused that is the reason."""
        grant = grant_for(entra)
        with process(opened(state, entra)) as worker:
            assert "granted" == kind(worker.broker.sign_in(grant, entra))
            entra.faults.add(Fault("silence", seconds=PATIENCE))
            worker.broker.send(Acquire(9, grant, SCOPES))
            assert entra.wait_for(1, grant_type="refresh_token")
            worker.popen.kill()
        entra.faults.clear()
        entra.refuse_reuse = round_ % 2 == 1
        with process(opened(state, entra)) as successor:
            outcome = successor.broker.acquire(grant)
        if not entra.refuse_reuse:
            assert "granted" == kind(outcome)
        else:
            assert "reused" == kind(outcome)


def test_office_is_put_together(state: Path) -> None:
    """The process's own office uses the folder, key, patience and CA that it is opened with."""
    first = opened(state, timeout=7.0)
    office: Any = __main__.office(first)

    assert state == office._vault.folder
    assert 7.0 == office._vault._patience
    assert not office.stays


def test_crash_hides_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    """A crash of the main loop is reported without the exception's text."""
    error = RuntimeError("the-secret")
    __main__.crash(RuntimeError, error, None)

    assert "the-secret" not in capsys.readouterr().err


def test_command_line_has_no_secret(state: Path, entra: Entra) -> None:
    """The arguments of the process hold neither a key nor a token."""
    grant = grant_for(entra)
    with process(opened(state, entra)) as worker:
        outcome = worker.broker.sign_in(grant, entra)
        assert isinstance(outcome, Granted)
        seen = Path(f"/proc/{worker.popen.pid}/cmdline").read_bytes()
    key = (state.parent / "vault.key").read_bytes().strip()

    for secret in (outcome.secret.encode(), key, base64.b64decode(key), base64.b64decode(key).hex().encode()):
        assert secret not in seen
