"""The worker's main loop: takes questions from the socket, gives each a thread, answers, leaves when idle.

One thread (the caller's) reads, writes and keeps time; every question has a thread of its own, of which so many run at
once. A question has a deadline from its arrival: when it has passed, the question is answered with a transient fault
and its thread is left to itself, which frees its place. What that thread gets late is still stored in the vault, since
the thread does that itself; only its answer is dropped. A sign-in has such a deadline until its prompt, and again once
the browser has come back; one that has passed it is given up, since its person was told so.
"""

from __future__ import annotations

import math
import queue
import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from cms.core import refusals
from cms.core.accounts import Grant, Scopes
from cms.core.json_lines import Garbled, Lines
from cms.core.lifecycle import Outcome, Transient, Trouble
from cms.grants.messages import (
    MAX_MESSAGE,
    Acquire,
    Cancel,
    CheckCredentials,
    Chore,
    Discard,
    Done,
    Ended,
    Explore,
    Export,
    Forget,
    Import,
    Open,
    Peek,
    Prompt,
    Question,
    Redirected,
    Reply,
    SignIn,
    Survey,
    pack,
    unpack_question,
)
from cms.grants.service import Line, Mailbox

# Threads at once: a thousand accounts take four seconds with these, and a handful of hanging ones stops nobody.
THREADS = 16

# How long what was sent to Entra may take when the broker is gone: the HTTP timeouts end it sooner.
FINISH_SECONDS = 30.0

EXIT_DONE = 0
# EX_DATAERR: the broker sent what is no message.
EXIT_GARBAGE = 65


class Office(Protocol):
    """Who does the work: see `cms.grants.service.Service`."""

    @property
    def stays(self) -> bool: ...

    def rest(self) -> None: ...

    def acquire(self, grant: Grant, scopes: Scopes) -> Outcome: ...

    def forget(self, grant: Grant) -> Outcome: ...

    def bring_in(self, question: Import) -> Outcome: ...

    def sign_in(self, question: SignIn, line: Line) -> Outcome: ...

    def attend(self, question: Chore) -> Ended: ...


@dataclass(eq=False, slots=True)
class Job:
    """One question under way. `deadline` is a moment of the monotonic clock, and `late` what is answered then."""

    number: int
    work: Callable[[], Ended]
    deadline: float
    late: Transient
    mailbox: Mailbox | None = None
    answered: bool = False
    thread: threading.Thread | None = field(default=None, repr=False)


def unexpected(error: BaseException) -> Transient:
    """Report a bug without anything that could be a secret: neither the exception's text nor locals."""
    name = type(error).__name__
    frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    print(f"error: unexpected {name}, most recent call last:\n{frames}{name}", file=sys.stderr, flush=True)
    return Transient(
        Trouble("worker", f"the grant worker met an unexpected {name}", "this is a bug in cms: the log has its trace")
    )


class Dispatcher:
    """Serves one socket until it closes, or until nothing has come for a while."""

    def __init__(
        self, sock: socket.socket, office: Callable[[Open], Office], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sock = sock
        self._make_office = office
        self._clock = clock
        self._office: Office | None = None
        self._opened = Open("")
        self._lines = Lines(MAX_MESSAGE)
        self._pending: deque[Job] = deque()
        self._running: set[Job] = set()
        self._abandoned: set[Job] = set()
        self._signing_in: dict[int, Job] = {}
        # What threads have for the main one: a prompt to send, or a job with its outcome.
        self._results: queue.SimpleQueue[Prompt | tuple[Job, Ended]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._busy_until = clock()
        self._resting = False

    def run(self) -> int:
        """Serve; return the exit status."""
        try:
            self._serve()
        except Garbled as garbage:
            print(f"error: the broker sent {garbage}", file=sys.stderr, flush=True)
            return EXIT_GARBAGE
        finally:
            self._finish()
            self._sock.close()
        return EXIT_DONE

    def _serve(self) -> None:
        while True:
            self._start()
            ready, _, _ = select.select([self._sock, self._wake_read], [], [], self._patience())
            try:
                if self._sock in ready and not self._read():
                    return
                self._deliver()
                self._expire()
            except (BrokenPipeError, ConnectionResetError):
                return
            if not ready and self._idle_for_long() and self._rest():
                return

    def _patience(self) -> float | None:
        """Seconds until something is due without anybody's doing; None for never."""
        waits = [job.deadline for job in self._awaited() if job.deadline < math.inf]
        if self._idle() and not self._resting:
            waits.append(self._busy_until + self._opened.idle)
        return max(0.0, min(waits) - self._clock()) if waits else None

    def _awaited(self) -> list[Job]:
        """Return the questions whose answers the broker waits for."""
        return [*self._running, *self._pending, *self._signing_in.values()]

    def _idle(self) -> bool:
        return not (self._running or self._pending or self._abandoned or self._signing_in)

    def _idle_for_long(self) -> bool:
        return self._idle() and self._clock() >= self._busy_until + self._opened.idle

    def _rest(self) -> bool:
        """Do without connections and garbage while nothing happens; say whether to leave altogether."""
        self._resting = True
        if self._office:
            self._office.rest()
        return self._office is None or not self._office.stays

    def _read(self) -> bool:
        """Take what has come; False when the broker has closed its end."""
        self._resting = False
        data = self._sock.recv(64 * 1024)
        for line in self._lines.feed(data):
            self._take(unpack_question(line))
        self._busy_until = self._clock()
        return bool(data)

    def _take(self, question: Question) -> None:
        if isinstance(question, Open) is (self._office is not None):
            raise Garbled("a first message that is not Open, or a second Open")
        match question:
            case Open():
                self._opened = question
                self._office = self._make_office(question)
            case SignIn():
                self._sign_in(question)
            case Redirected() | Cancel():
                self._pass_on(question)
            case _:
                self._queue(question)

    def _queue(self, question: Acquire | Forget | Import | Chore) -> None:
        self._pending.append(self._job(question, _work(self._the_office(), question)))

    def _job(self, question: Acquire | Forget | Import | Chore | SignIn, work: Callable[[], Ended]) -> Job:
        late = _timed_out(question, self._opened.timeout)
        return Job(question.number, work, self._clock() + self._opened.timeout, late)

    def _the_office(self) -> Office:
        assert self._office is not None, "the first message is Open"
        return self._office

    def _sign_in(self, question: SignIn) -> None:
        mailbox = Mailbox(self._tell)
        office = self._the_office()
        job = self._job(question, lambda: office.sign_in(question, mailbox))
        job.mailbox = mailbox
        self._signing_in[question.number] = job
        self._launch(job)

    def _pass_on(self, question: Redirected | Cancel) -> None:
        """Give a sign-in what it waits for; one that has ended meanwhile needs it no more."""
        job = self._signing_in.get(question.number)
        if job is None or job.mailbox is None:
            return
        if isinstance(question, Redirected):
            job.deadline = self._clock() + self._opened.timeout
            job.mailbox.redirected(question.fields)
        else:
            job.mailbox.cancel()

    def _start(self) -> None:
        """Give waiting questions a thread, as many as may run."""
        while self._pending and len(self._running) < THREADS:
            job = self._pending.popleft()
            self._running.add(job)
            self._launch(job)

    def _launch(self, job: Job) -> None:
        job.thread = threading.Thread(target=self._work, args=(job,), daemon=True)
        job.thread.start()

    def _work(self, job: Job) -> None:
        try:
            outcome: Ended = job.work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the broker gets an answer
            outcome = unexpected(error)
        self._tell((job, outcome))

    def _tell(self, result: Prompt | tuple[Job, Ended]) -> None:
        """Hand something to the main thread."""
        self._results.put(result)
        # Closed when the main thread has stopped waiting.
        with suppress(OSError):
            self._wake_write.send(b"\0")

    def _deliver(self) -> None:
        """Send what the threads have handed over."""
        while not self._results.empty():
            self._wake_read.recv(1)
            result = self._results.get()
            if isinstance(result, Prompt):
                self._show(result)
                continue
            job, outcome = result
            self._retire(job)
            if not job.answered:
                self._send(Done(job.number, outcome))

    def _show(self, prompt: Prompt) -> None:
        """Send a prompt, unless its sign-in was given up; the person may take their time."""
        job = self._signing_in.get(prompt.number)
        if job:
            job.deadline = math.inf
            self._send(prompt)

    def _retire(self, job: Job) -> None:
        self._running.discard(job)
        self._abandoned.discard(job)
        self._signing_in.pop(job.number, None)
        self._busy_until = self._clock()

    def _expire(self) -> None:
        """Answer the questions whose deadline has passed; those that have a thread leave it to itself."""
        now = self._clock()
        for job in self._awaited():
            if now >= job.deadline:
                self._give_up(job)
                self._send(Done(job.number, job.late))

    def _give_up(self, job: Job) -> None:
        job.answered = True
        if job in self._pending:
            self._pending.remove(job)
            return
        self._running.discard(job)
        self._signing_in.pop(job.number, None)
        self._abandoned.add(job)
        if job.mailbox:
            job.mailbox.cancel()

    def _send(self, reply: Reply) -> None:
        self._sock.sendall(pack(reply))

    def _finish(self) -> None:
        """Let what was sent to Entra come to its end; nobody waits for a person any more."""
        for number in self._signing_in:
            self._pass_on(Cancel(number))
        deadline = time.monotonic() + FINISH_SECONDS
        for job in (*self._running, *self._abandoned, *self._signing_in.values()):
            assert job.thread is not None, "only pending jobs have none"
            job.thread.join(max(0.0, deadline - time.monotonic()))
        self._rest()
        for sock in (self._wake_read, self._wake_write):
            sock.close()


def _work(office: Office, question: Acquire | Forget | Import | Chore) -> Callable[[], Ended]:
    match question:
        case Acquire():
            return lambda: office.acquire(question.grant, question.scopes)
        case Forget():
            return lambda: office.forget(question.grant)
        case Import():
            return lambda: office.bring_in(question)
        case _:
            return lambda: office.attend(question)


def _timed_out(question: Acquire | Forget | Import | Chore | SignIn, seconds: float) -> Transient:
    match question:
        case Export() | Peek() | Survey() | Discard() | Explore() | CheckCredentials():
            return Transient(Trouble("timeout", f"there was no answer within {seconds:g} s", "give the command again"))
        case Acquire():
            done, hint = "renewed", f"{refusals.RETRIES}; what arrives late is not lost"
        case Forget():
            done, hint = "deleted", f"try again: {refusals.command('logout', question.grant)}"
        case Import():
            done, hint = "taken over", "import it again"
        case SignIn():
            done, hint = "made", refusals.hint("start again: {login}", question.grant)
    return Transient(Trouble("timeout", f"the sign-in could not be {done} within {seconds:g} s", hint))
