"""The worker's main loop: it takes questions from the socket, gives each a thread, answers, and exits when idle.

The main thread reads, writes and keeps time; each question runs in another thread, `THREADS` at most at once. A question
has a deadline from its arrival. When it has passed, the question is answered with a transient fault; the thread is
abandoned and no longer counts against the limit. What that thread gets late is still stored in the vault, since the
thread stores it itself; only its answer is dropped. A sign-in has a deadline until its prompt, and again once the browser
has come back; a sign-in that is late is cancelled, since its person was told so.
"""

from __future__ import annotations

import math
import queue
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cms.core import refusals
from cms.core.json_lines import Garbled, Lines
from cms.core.lifecycle import Transient, Trouble
from cms.grants.bugs import unexpected
from cms.grants.messages import (
    MAX_MESSAGE,
    Acquire,
    Cancel,
    Done,
    Ended,
    Import,
    Look,
    Open,
    Prompt,
    Question,
    Redirected,
    SignIn,
    SignOut,
    Told,
    Work,
    WorkerReply,
    pack,
    unpack_question,
)
from cms.grants.service import Conversation, Service
from cms.grants.wording import SIGN_OUT_AGAIN
from cms_oauth.moves import Move, fill

# The most threads at once: a thousand accounts take four seconds with these, and a few that hang block no other account.
THREADS = 16

# How long the worker waits for its threads after the daemon has gone: the deadline of HTTP ends them sooner.
FINISH_SECONDS = 30.0

EXIT_DONE = 0
# EX_DATAERR: the daemon sent something that is not a message.
EXIT_GARBAGE = 65


@dataclass(eq=False, slots=True)
class Job:
    """One question under way. `deadline` is a moment of the monotonic clock."""

    question: Work | SignIn
    work: Callable[[], Ended]
    deadline: float
    conversation: Conversation | None = None
    answered: bool = False


class Dispatcher:
    """Serves one socket until it closes, or until no question has come for a while."""

    def __init__(
        self, sock: socket.socket, open_service: Callable[[Open], Service], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sock = sock
        self._open_service = open_service
        self._clock = clock
        self._service: Service | None = None
        self._opened = Open("")
        self._lines = Lines(MAX_MESSAGE)
        self._pending: deque[Job] = deque()
        self._running: set[Job] = set()
        self._abandoned: set[Job] = set()
        self._signing_in: dict[int, Job] = {}
        # What the threads take: a job each, or None to end.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # How many threads have nothing to do. They are kept, because starting one costs a tenth of a redemption.
        self._free = 0
        # What threads hand to the main thread: a prompt to send, or a job with its outcome.
        self._results: queue.SimpleQueue[Prompt | Told | tuple[Job, Ended]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._busy_until = clock()
        self._resting = False

    def run(self) -> int:
        """Serve; return the exit status."""
        try:
            self._serve()
        except Garbled as garbage:
            print(f"error: the daemon sent {garbage}", file=sys.stderr, flush=True)
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
            idle = self._idle() and self._clock() >= self._busy_until + self._opened.idle
            if not ready and idle and self._rest():
                return

    def _patience(self) -> float | None:
        """Return the seconds until the next deadline, None for none."""
        waits = [job.deadline for job in self._awaited() if job.deadline < math.inf]
        if self._idle() and not self._resting:
            waits.append(self._busy_until + self._opened.idle)
        return max(0.0, min(waits) - self._clock()) if waits else None

    def _awaited(self) -> list[Job]:
        """Return the questions whose answers the daemon waits for."""
        return [*self._running, *self._pending, *self._signing_in.values()]

    def _idle(self) -> bool:
        return not (self._running or self._pending or self._abandoned or self._signing_in)

    def _rest(self) -> bool:
        """Free connections and memory while there is nothing to do; return whether the worker may exit."""
        self._resting = True
        for _ in range(self._free):
            self._jobs.put(None)
        self._free = 0
        if self._service:
            self._service.rest()
        return self._service is None or not self._service.stays

    def _read(self) -> bool:
        """Read and handle what has arrived; return False when the daemon has closed its end."""
        self._resting = False
        data = self._sock.recv(64 * 1024)
        for line in self._lines.feed(data):
            self._take(unpack_question(line))
        self._busy_until = self._clock()
        return bool(data)

    def _take(self, question: Question) -> None:
        service = self._service
        if isinstance(question, Open) is (service is not None):
            raise Garbled("a first message that is not Open, or a second Open")
        if isinstance(question, Open):
            self._opened, self._service = question, self._open_service(question)
            return
        assert service is not None, "checked above"
        deadline = self._clock() + self._opened.timeout
        match question:
            case Redirected() | Cancel():
                self._pass_on(question)
            case SignIn():
                conversation = Conversation(self._tell)
                job = Job(question, lambda: service.sign_in(question, conversation), deadline, conversation)
                self._signing_in[question.number] = job
                self._launch(job)
            case _:
                if isinstance(question, Acquire | Look):
                    # Not for a sign-in: the daemon makes each in a process that ends with it.
                    service.listen(self._tell)
                self._pending.append(Job(question, lambda: service.answer(question), deadline))

    def _pass_on(self, question: Redirected | Cancel) -> None:
        """Pass a message on to its sign-in, unless that has ended."""
        job = self._signing_in.get(question.number)
        if job is None or job.conversation is None:
            return
        if isinstance(question, Redirected):
            job.deadline = self._clock() + self._opened.timeout
            job.conversation.redirected(question.fields)
        else:
            job.conversation.cancel()

    def _start(self) -> None:
        """Start threads for waiting questions, up to the limit."""
        while self._pending and len(self._running) < THREADS:
            job = self._pending.popleft()
            self._running.add(job)
            self._launch(job)

    def _launch(self, job: Job) -> None:
        self._jobs.put(job)
        if self._free:
            self._free -= 1
        else:
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                outcome: Ended = job.work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the daemon gets an answer
                outcome = unexpected(error)
            self._tell((job, outcome))

    def _tell(self, result: Prompt | Told | tuple[Job, Ended]) -> None:
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
            if isinstance(result, Told):
                self._send(result)
                continue
            if isinstance(result, Prompt):
                # A sign-in that was cancelled has no prompt. From here on the person may take their time.
                if asking := self._signing_in.get(result.number):
                    asking.deadline = math.inf
                    self._send(result)
                continue
            job, outcome = result
            self._free += 1
            self._running.discard(job)
            self._abandoned.discard(job)
            self._signing_in.pop(job.question.number, None)
            self._busy_until = self._clock()
            if not job.answered:
                self._send(Done(job.question.number, outcome))

    def _expire(self) -> None:
        """Answer the questions whose deadline has passed, and abandon their threads."""
        now = self._clock()
        for job in self._awaited():
            if now < job.deadline:
                continue
            job.answered = True
            if job in self._pending:
                self._pending.remove(job)
            else:
                self._running.discard(job)
                self._signing_in.pop(job.question.number, None)
                self._abandoned.add(job)
                if job.conversation:
                    job.conversation.cancel()
            self._send(Done(job.question.number, _timed_out(job.question, self._opened.timeout)))

    def _send(self, reply: WorkerReply) -> None:
        self._sock.sendall(pack(reply))

    def _finish(self) -> None:
        """Cancel sign-ins, and wait for the other threads: what was sent to Entra must be stored."""
        for number in self._signing_in:
            self._pass_on(Cancel(number))
        deadline = time.monotonic() + FINISH_SECONDS
        unfinished = {*self._running, *self._abandoned, *self._signing_in.values()}
        self._free += len(unfinished)
        with suppress(queue.Empty):
            while unfinished:
                result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
                if isinstance(result, tuple):
                    unfinished.discard(result[0])
        self._rest()
        for sock in (self._wake_read, self._wake_write):
            sock.close()


def _timed_out(question: Work | SignIn, seconds: float) -> Transient:
    match question:
        case Acquire():
            done, hint = "renewed", fill("{retries}; a late answer is not lost")
        case SignOut():
            done = "ended" if question.revoke else "deleted"
            hint = refusals.hint(SIGN_OUT_AGAIN[question.revoke], question.grant)
        case Import():
            done, hint = "taken over", Move("import it again")
        case SignIn():
            done, hint = "made", refusals.hint("start again: {login}", question.grant)
        case _:
            return Transient(Trouble("timeout", f"there was no answer within {seconds:g} s", "run the command again"))
    return Transient(Trouble("timeout", f"the sign-in could not be {done} within {seconds:g} s", hint))
