"""The daemon's side of the grant worker: starts the process, asks it questions, and handles its end.

The worker is a child process that answers over a socketpair (`cms.grants.messages`) and exits when it has been idle for a
while. Questions that it has not answered when it ends are lost in one of three ways:

- *left*: the process was exiting because it was idle. The question is asked again.
- *died*: it crashed, was killed or sent garbage. The question is asked again once; then it ends as a transient fault.
- *hung*: it did not answer this question in time. The process is killed, and only its other questions are asked again.

Every question ends with an outcome, never with an exception.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TypeAlias

import trio

from cms.core.accounts import Grant, Scopes
from cms.core.json_lines import Garbled, Lines
from cms.core.lifecycle import Granted, Outcome, SignInFacts, Transient, Trouble
from cms.daemon.children import REAP_SECONDS, close_pipes, end_process, log_output, worker_environment
from cms.daemon.refreshes import Refreshes
from cms.grants import messages
from cms.system.logs import get_logger
from cms_oauth.moves import fill

# -I: without it, Python would import a keyring.py from the current folder.
WORKER_ARGV = (sys.executable, "-I", "-m", "cms.grants")

# The worker itself keeps to a deadline for each question (`Open.timeout`). This much later it counts as hung: time to
# start Python on a slow machine, to read the vault and to fsync it.
WORKER_MARGIN = 10.0

# When the daemon stops: the worker's time to store what Entra answers, within the 5 s that stopping may take.
GRACE_SECONDS = 3.0

# How often a lost question is asked again, for each way of losing it. A worker that exits immediately each time is broken.
CHANCES = {"left": 3, "died": 1, "hung": 0}

# How long after a fleet's worker has died another is started, to hear what other hosts do. It may die at once too.
DEAF_SECONDS = 5.0

# How many answers are remembered for a process, to tell a question that waits for its turn from one that hangs.
REMEMBERED_ANSWERS = 4096

# Between two looks at what a process has answered, while more is to come. Each look keeps clients waiting that ask for
# held tokens: of a hundred refreshes at once, this makes a few looks in place of a hundred.
GATHER_SECONDS = 0.05

log = get_logger()


class Lost(Enum):
    """How a question was lost with its process."""

    LEFT = "left"
    DIED = "died"
    HUNG = "hung"


End: TypeAlias = messages.Ended | Lost

_TROUBLE = {
    Lost.LEFT: "the grant worker exits as soon as it has started",
    Lost.DIED: "the grant worker died before it answered",
    Lost.HUNG: "the grant worker did not answer in time and was killed",
}
_RETRIED = fill("{retries}; the log has what the worker printed")


def _transient(lost: Lost) -> Transient:
    return Transient(Trouble("worker", _TROUBLE[lost], _RETRIED))


_STOPPING = Transient(Trouble("shutdown", "cms is stopping", "start it again"))


class _Question:
    """One question under way. Its deadline counts from `due`, on trio's clock."""

    def __init__(self, number: int, grant: Grant) -> None:
        self.number = number
        self.grant = grant
        self.due = trio.current_time()
        self.prompt: messages.Prompt | None = None
        self.end: End | None = None
        self._news = trio.Event()

    def settle(self, end: End) -> None:
        self.end = end
        self.touch()

    def touch(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def news(self) -> None:
        await self._news.wait()


class _Child:
    """One worker process, with the questions that it was asked."""

    def __init__(
        self,
        opened: messages.Open,
        argv: Sequence[str],
        environment: Mapping[str, str],
        told: Callable[[messages.Told], None],
    ) -> None:
        self.takes_questions = True
        self._told = told
        self._opened = opened
        self._argv = argv
        self._environment = environment
        self._pending: dict[int, _Question] = {}
        self._answered: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_ANSWERS)
        self._outbox, self._outgoing = trio.open_memory_channel[bytes](math.inf)
        self._talk = trio.CancelScope()
        self._grace = GRACE_SECONDS
        self.post(opened)

    def post(self, message: messages.Question) -> None:
        """Queue a message; it is dropped if the process has ended."""
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            self._outbox.send_nowait(messages.pack(message))

    def ask(self, question: _Question, message: messages.Question) -> None:
        self._pending[question.number] = question
        self.post(message)

    def drop(self, question: _Question) -> None:
        """Stop waiting for this answer."""
        self._pending.pop(question.number, None)

    def dismiss(self) -> None:
        """Close the socket: the process stores what Entra answers, within the grace period, and exits."""
        self.takes_questions = False
        self._talk.cancel()

    def kill(self, why: str) -> None:
        log.warning("grant worker killed", why=why, unanswered=len(self._pending))
        self._grace = 0.0
        self.dismiss()

    async def run(self) -> None:
        """Run the process to its end. Cancelling has no effect: call `dismiss`, and it ends within the grace period."""
        lost = Lost.DIED
        with trio.CancelScope(shield=True):
            try:
                lost = await self._live()
            except OSError as error:
                log.warning("grant worker cannot be started", error=str(error))
            finally:
                self.takes_questions = False
                self._outbox.close()
                for question in list(self._pending.values()):
                    question.settle(lost)
                self._pending.clear()

    async def _live(self) -> Lost:
        process, sock = await self._start()
        async with trio.open_nursery() as pumps:
            for output in (process.stdout, process.stderr):
                pumps.start_soon(log_output, output)
            await self._converse(trio.SocketStream(sock))
            sock.close()
            await end_process(process, self._grace)
            # Its last output is still in the pipe; a child of it may keep the pipe open longer.
            pumps.cancel_scope.deadline = trio.current_time() + REAP_SECONDS
        await close_pipes(process)
        return Lost.LEFT if process.returncode == 0 and self._grace else Lost.DIED

    async def _start(self) -> tuple[trio.Process, trio.socket.SocketType]:
        ours, theirs = socket.socketpair()
        try:
            process = await trio.lowlevel.open_process(
                list(self._argv),
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return process, trio.socket.from_stdlib_socket(ours)

    async def _converse(self, stream: trio.SocketStream) -> None:
        """Send and receive until the process closes its end, sends garbage, or is dismissed."""
        with self._talk:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                try:
                    await self._receive(stream)
                except Garbled as garbage:
                    self.kill(f"it sent {garbage}")
                nursery.cancel_scope.cancel()
        self.takes_questions = False

    async def _send(self, stream: trio.SocketStream) -> None:
        # `_receive` notices that a process has ended.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for line in self._outgoing:
                await stream.send_all(line)

    async def _receive(self, stream: trio.abc.ReceiveStream) -> None:
        lines = Lines(messages.MAX_MESSAGE)
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                for line in lines.feed(bytes(chunk)):
                    self._take(messages.unpack_reply(line))
                if self._pending:
                    await trio.sleep(GATHER_SECONDS)

    def _take(self, reply: messages.WorkerReply) -> None:
        if isinstance(reply, messages.Told):
            self._told(reply)
            return
        question = self._pending.get(reply.number)
        if question is None:
            log.debug("an answer to no question", number=reply.number)
        elif isinstance(reply, messages.Prompt):
            question.prompt = reply
            # The person has this long; after that the worker's deadline counts again.
            question.due = trio.current_time() + reply.expires_in
            question.touch()
        else:
            del self._pending[reply.number]
            self._answered.append((reply.number, trio.current_time()))
            question.settle(reply.outcome)

    async def wait_for(self, question: _Question, done: Callable[[_Question], bool]) -> None:
        """Wait until the question is done. If it is overdue, it is lost as hung and the process is killed."""
        while not done(question):
            with trio.move_on_at(self._deadline(question)):
                await question.news()
            if not done(question) and trio.current_time() >= self._deadline(question):
                self._hang()

    def _deadline(self, question: _Question) -> float:
        """Return when the question is overdue.

        The worker takes questions in order, with a few threads: it started this one, at the latest, when it gave the last
        answer to an older one.
        """
        # The latest comes first: of thousands of questions each asks this, and nearly always only one answer is looked at.
        turn = next((when for number, when in reversed(self._answered) if number < question.number), question.due)
        return max(question.due, turn) + self._opened.timeout + WORKER_MARGIN

    def _hang(self) -> None:
        now = trio.current_time()
        for question in [each for each in self._pending.values() if now >= self._deadline(each)]:
            self.drop(question)
            question.settle(Lost.HUNG)
        self.kill("it did not answer in time")


class SignInSession:
    """One sign-in under way in the worker."""

    def __init__(self, child: _Child, question: _Question) -> None:
        self._child = child
        self._question = question

    async def prompt(self) -> messages.Prompt | Outcome:
        """Return what the person must do, or the outcome if the sign-in ended before that."""
        await self._child.wait_for(self._question, lambda each: bool(each.prompt or each.end))
        return self._question.prompt or _outcome(self._question.end)

    async def redirected(self, fields: Mapping[str, str]) -> None:
        """Pass on what the browser brought; from now on the worker's deadline counts."""
        self._child.post(messages.Redirected(self._question.number, dict(fields)))
        self._question.due = trio.current_time()
        self._question.touch()
        await trio.lowlevel.checkpoint()

    async def outcome(self) -> Outcome:
        await self._child.wait_for(self._question, lambda each: each.end is not None)
        return _outcome(self._question.end)


def _outcome(end: End | None) -> Outcome:
    assert end is not None, "only asked once the question has ended"
    return _transient(end) if isinstance(end, Lost) else _of_token(end)


# The grant of questions that are not about one.
_NO_GRANT = Grant("", "", "")


def _of_token(end: messages.Ended) -> Outcome:
    """Return the outcome of a question about one grant. If the answer is not an outcome, the worker counts as died."""
    return end if isinstance(end, Outcome) else _transient(Lost.DIED)


class Worker:
    """The grant worker. A process is started for the first question, and again for the first one after it has ended.

    One object serves the whole life of the daemon: `reopen` switches to another vault or network.
    """

    def __init__(
        self,
        opened: messages.Open,
        *,
        argv: Sequence[str] = WORKER_ARGV,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._opened = opened
        self._argv = argv
        self._environment = worker_environment(os.environ) if environment is None else dict(environment)
        # Called with what other hosts of a fleet may have changed, and whether its database can be asked.
        self.told: Callable[[messages.Told], None] = lambda _told: None
        # How many processes were started, for `cms metrics`.
        self.starts = 0
        self.refreshes = Refreshes()
        self._numbers = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._children: set[_Child] = set()
        self._current: _Child | None = None
        # Grant key -> the process that has the only copy of its sign-in: memory-only mode.
        self._holders: dict[str, _Child] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve questions until cancelled; then the processes get their grace period and end."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    for child in self._children:
                        child.dismiss()
        finally:
            self._nursery = None

    def reopen(self, opened: messages.Open) -> bool:
        """Use another vault or network from now on; return False if nothing has changed.

        The running processes get their grace period and end. Questions that they have not answered by then are asked
        again, of a new process that reads the vault anew.
        """
        if opened == self._opened:
            return False
        before, self._opened, self._current = self._opened, opened, None
        self._holders.clear()
        for child in self._children:
            child.dismiss()
        if opened.fleet and opened.fleet == before.fleet:
            # The next process is started for this. In another fleet, the sign-ins of this host may have to be adopted first.
            self.told(messages.Heard(()))
        return True

    async def acquire(
        self, grant: Grant, scopes: Scopes, held: str | None = None, rejected: str = "", *, wanted: bool = False
    ) -> Outcome:
        """Get a token with exactly these scopes: a stored one if `held` allows that, else by redeeming the grant.

        `held`, `rejected` and `wanted` are as in `messages.Acquire`.
        """
        began = trio.current_time()
        outcome = _of_token(
            await self._settle(grant, lambda number: messages.Acquire(number, grant, scopes, held, rejected, wanted))
        )
        # Only a stored token says when its sign-in was redeemed. For it, the provider was not asked.
        if not (isinstance(outcome, Granted) and outcome.sign_in.redeemed_at):
            self.refreshes.count(outcome, trio.current_time() - began)
        return outcome

    async def look(self, grant: Grant, scopes: Scopes, held: str) -> Outcome | messages.Looked:
        """Ask what another host of the fleet has done with a grant, as `messages.Look` says."""
        end = await self._settle(grant, lambda number: messages.Look(number, grant, scopes, held))
        return end if isinstance(end, messages.Looked) else _of_token(end)

    async def sign_out(self, grant: Grant, *, revoke: bool = False) -> Outcome:
        """Delete the sign-in, with `revoke` once it has ended at its provider. `Granted` with an empty secret: it is gone."""
        outcome = _of_token(await self._settle(grant, lambda number: messages.SignOut(number, grant, revoke)))
        holder = self._holders.get(grant.key)
        if holder and isinstance(outcome, Granted):
            del self._holders[grant.key]
            self._release(holder)
        return outcome

    async def bring_in(self, grant: Grant, place: messages.Place, *, keep: bool = False) -> Outcome:
        """Take over another program's sign-in and store it; with `keep`, only if the account has none."""
        return _of_token(await self._settle(grant, lambda number: messages.Import(number, grant, place, keep)))

    async def housekeeping(self, ask: Callable[[int], messages.Housekeeping]) -> messages.Ended:
        """Ask a question that is not about one grant; `ask` makes the message with its number."""
        holder = next((key for key, child in self._holders.items() if child.takes_questions), "")
        return await self._settle(_NO_GRANT, ask, holder)

    @asynccontextmanager
    async def sign_in(self, grant: Grant, method: str, claims: str = "") -> AsyncIterator[SignInSession]:
        """Start a sign-in; leaving the block cancels it if it has not ended.

        It gets its own process, because refreshes must not wait for a person. If sign-ins are kept in memory only, the
        process that holds them also runs this one.
        """
        child = self._holder(grant) or self._start()
        question = _Question(next(self._numbers), grant)
        if child:
            child.ask(question, messages.SignIn(question.number, grant, method, claims))
        else:
            child = self._child()
            question.settle(_STOPPING)
        try:
            yield SignInSession(child, question)
        finally:
            self._end_sign_in(child, question)

    def _end_sign_in(self, child: _Child, question: _Question) -> None:
        child.post(messages.Cancel(question.number))
        child.drop(question)
        self._remember(child, question)
        self._release(child)

    def _release(self, child: _Child) -> None:
        """Dismiss the process of a sign-in, unless it holds the only copy of one."""
        if child not in self._holders.values() and child is not self._current:
            child.dismiss()

    async def _settle(self, grant: Grant, ask: Callable[[int], messages.Question], holder: str = "") -> messages.Ended:
        chances = dict(CHANCES)
        while child := self._child_for(holder or grant.key):
            end = await self._put(child, grant, ask)
            if not isinstance(end, Lost):
                return end
            if not chances[end.value]:
                return _transient(end)
            chances[end.value] -= 1
        return _STOPPING

    async def _put(self, child: _Child, grant: Grant, ask: Callable[[int], messages.Question]) -> End:
        question = _Question(next(self._numbers), grant)
        child.ask(question, ask(question.number))
        try:
            await child.wait_for(question, lambda each: each.end is not None)
        finally:
            child.drop(question)
        assert question.end is not None, "it was waited for"
        self._remember(child, question)
        return question.end

    def _remember(self, child: _Child, question: _Question) -> None:
        match question.end:
            case Granted(secret=secret, sign_in=SignInFacts(persisted=False)) if secret:
                self._holders[question.grant.key] = child

    def _child_for(self, key: str) -> _Child | None:
        holder = self._holders.get(key)
        if holder and holder.takes_questions:
            return holder
        if self._current is None or not self._current.takes_questions:
            ended, self._current = self._current, self._start()
            if ended and self._opened.fleet:
                # No process has heard what other hosts did in between.
                self.told(messages.Heard(()))
        return self._current

    def _holder(self, grant: Grant) -> _Child | None:
        """Return the process that holds this grant's sign-in in memory, else one that holds others."""
        holders = [self._holders.get(grant.key), *self._holders.values()]
        return next((child for child in holders if child and child.takes_questions), None)

    def _start(self) -> _Child | None:
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            return None
        child = self._child()
        self._children.add(child)
        self.starts += 1
        self._nursery.start_soon(self._run_child, child)
        return child

    def _child(self) -> _Child:
        return _Child(self._opened, self._argv, self._environment, self.told)

    async def _run_child(self, child: _Child) -> None:
        try:
            await child.run()
        finally:
            self._children.discard(child)
        if self._opened.fleet and child is self._current:
            await trio.sleep(DEAF_SECONDS)
            if child is self._current:
                self._child_for(_NO_GRANT.key)
