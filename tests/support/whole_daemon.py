"""The whole daemon in this process, on a clock that a test sets forward: a real worker process, real TLS, real sockets.

    @on_moving_clock
    async def test_...(tmp_path: Path) -> None:
        async with whole_daemon(tmp_path) as daemon:
            await daemon.sign_in(ANN)
            await daemon.pass_time(HOUR)
            token = await daemon.token(ANN)

trio's clock goes on in real time and is set forward together with the machine's: see `pass_time` and `suspend`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing

from cms.core.lifecycle import Fetch, Outcome, SleepUntil, plan, soonest
from cms.core.status_text import as_text
from cms.daemon.app import App, AppOptions, run
from cms.daemon.children import worker_environment
from cms.daemon.keeper import Keeper
from cms.grants.messages import Prompt
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra
from support import moving_clock
from support.evidence import descendants
from support.moving_clock import MovingClock
from support.proc import at_work
from support.trio_run import jump
from support.waiting import PATIENCE, TooLate

HOUR = 3600.0

ANN, BOB = "ann@example.test", "bob@example.test"

# Past a moment that something is planned for.
_MOMENT = 0.01
_POLL = 0.02
# Real seconds for a whole test. None takes more than a few, but two cores run a dozen processes.
_TEST_SECONDS = 300.0
# What a client is told whose time is over while a fetch is under way.
_RENEWED = "the token is being renewed"

Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])
T = TypeVar("T")


def on_moving_clock(test: Test) -> Callable[..., None]:
    """Run an async test in real time, on a clock that `pass_time` sets forward; bounded by the machine's clock."""

    @functools.wraps(test)
    def bounded(*args: Any, **kwargs: Any) -> None:
        async def watched() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_give_up, test.__name__)
                await test(*args, **kwargs)
                nursery.cancel_scope.cancel()

        trio.run(watched, clock=trio.testing.MockClock(rate=1.0))

    return bounded


@contextmanager
def slow_clock() -> Iterator[None]:
    """Let trio's clock go at a tenth of its rate: a busy machine has more time for what a client waits for."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.rate = 0.1
    try:
        yield
    finally:
        clock.rate = 1.0


async def _give_up(name: str) -> None:
    deadline = time.monotonic() + _TEST_SECONDS
    while time.monotonic() < deadline:  # noqa: ASYNC110 - trio's own deadlines are set forward with the clock
        await trio.sleep(0.5)
    raise TooLate(f"{name}: not within {_TEST_SECONDS:g} s")


async def until(condition: Callable[[], T], what: str) -> T:
    """Return the first true value of `condition`, in real time; raise TooLate, naming `what`."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TooLate(f"{what}: not within {PATIENCE:g} s")
        await trio.sleep(_POLL)
    return value


@dataclass
class WholeDaemon:
    """A daemon that runs. `state` is its state folder, `links` are the addresses that sign-ins have led to."""

    folder: Path
    entra: Entra
    clock: MovingClock
    app: App
    state: Path
    links: list[str] = field(default_factory=list)

    def vault(self, user: str) -> Path:
        """Return a user's vault file."""
        return self.state / f"{self._keeper(user).grant.key}.vault"

    # What a client sees.

    async def raw(self, request: bytes) -> bytes:
        """Return what the token socket answers, as a client of the original protocol asks."""
        async with await trio.open_unix_socket(str(self.folder / "cms.sock")) as stream:
            await stream.send_all(request)
            await stream.send_eof()
            return b"".join([bytes(chunk) async for chunk in stream])

    async def told(self, user: str, *options: str) -> dict[str, Any]:
        """Return the `json` answer for a user."""
        head = ",".join(("SMTP", "json", *options))
        answer: dict[str, Any] = json.loads(await self.raw(f"{head} {user}\n".encode()))
        return answer

    async def token(self, user: str, *options: str) -> str:
        """Return the token that a user's client gets. It is right: the sandbox says that it is good, and whose."""
        answer = await self._told_at_last(user, *options)
        assert "token" in answer, answer
        said = self.entra.introspect(answer["token"])
        assert (True, user) == (said["active"], said.get("email"))
        assert said["exp"] - self.clock.truth() > answer["expires_in"] - 5
        token: str = answer["token"]
        return token

    async def refusal(self, user: str) -> dict[str, Any]:
        """Return why a user's client gets no token. A plain request gets nothing at all."""
        answer = await self._told_at_last(user)
        assert "error" in answer, "there is a token"
        assert b"" == await self.raw(f"SMTP {user}\n".encode())
        error: dict[str, Any] = answer["error"]
        return error

    async def _told_at_last(self, user: str, *options: str) -> dict[str, Any]:
        """Return the answer to a client that comes again as it is told to: a fetch may take longer than a client waits."""
        # ASYNC110: nothing in this process says that the client would get another answer now.
        while (answer := await self.told(user, *options)).get("error", {}).get("message") == _RENEWED:  # noqa: ASYNC110
            await trio.sleep(_POLL)
        return answer

    # What the owner sees and does.

    def row(self, user: str) -> dict[str, Any]:
        """Return what `cms status --json` says of a user."""
        rows = self.app.commands.status().extra["json"]["accounts"]
        found: dict[str, Any] = next(row for row in rows if row["user"] == user)
        return found

    def text(self) -> str:
        """Return what `cms status` prints, on one line."""
        return " ".join(as_text(self.app.commands.status().extra["json"]).split())

    def exit_code(self) -> int:
        """Return what `cms status --check` ends with."""
        code: int = self.app.commands.status().extra["exit_code"]
        return code

    async def sign_in(self, user: str, *, as_user: str = "", meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        """Sign in by pasted address, as `cms login --paste` does; do something while the person is at it."""
        flow = self.app.commands.login(user, "paste")
        assert not hasattr(flow, "ok"), flow
        with flow.held():
            shown = await flow.prompt()
            if not isinstance(shown, Prompt):
                return shown
            self.links.append(shown.url)
            browse = functools.partial(self.entra.sign_in, shown.url, as_user or user, follow=False)
            page = await trio.to_thread.run_sync(browse)
            meanwhile()
            assert "" == await flow.pasted(page.url)
            return await flow.outcome()

    # Time.

    async def pass_time(self, seconds: float) -> None:
        """Let time pass: what falls due on the way is done when it is due."""
        end = self.clock.boot() + seconds
        await self.settled()
        while (left := end - self.clock.boot()) > 0:
            self._forward(min(left, self._next_due() + _MOMENT))
            await self.settled()

    async def suspend(self, seconds: float) -> None:
        """Let the machine sleep: the boot clock and the world go on, trio's clock does not."""
        await self.settled()
        self.clock.advance(seconds)

    def awake(self, seconds: float) -> None:
        """Let a few seconds pass without waiting for what they bring."""
        self._forward(seconds)

    async def settled(self) -> None:
        """Wait until nothing is due or under way, and no worker on its way out: that has seconds by trio's clock."""
        while True:
            for keeper in self.keepers:
                while self._is_due(keeper):
                    await keeper.changed()
            await until(
                lambda: all(child.takes_questions for child in self.app.worker._children), "the end of a worker"
            )
            # The clock runs meanwhile. A jump while a question is under way would make the worker seem to hang.
            if not any(map(self._is_due, self.keepers)):
                return

    def _is_due(self, keeper: Keeper) -> bool:
        return any(isinstance(plan(life, self.clock.boot()), Fetch) for life in keeper.lives.values())

    async def recovery(self, user: str) -> str:
        """Let minutes pass, as many as the refusals name, until there is a token again; return it."""
        deadline = time.monotonic() + PATIENCE
        while "error" in (told := await self.told(user)):
            if time.monotonic() > deadline:
                raise TooLate(f"no recovery: {told}")
            await self.pass_time(told["error"]["retry_after"] + 1)
        return await self.token(user)

    @property
    def keepers(self) -> Sequence[Keeper]:
        return self.app.registry.keepers

    def _forward(self, seconds: float) -> None:
        self.clock.advance(seconds)
        jump(seconds)

    def _next_due(self) -> float:
        now = self.clock.boot()
        plans = [soonest(list(keeper.lives.values()), now) for keeper in self.keepers]
        return min((each.when - now for each in plans if isinstance(each, SleepUntil)), default=float("inf"))

    def _keeper(self, user: str) -> Keeper:
        return next(keeper for keeper in self.keepers if keeper.grant.login == user)

    # The worker.

    def allow(self, seconds: float) -> None:
        """Let workers take so long for a question from now on, as a reload may; those that run leave."""
        worker = self.app.worker
        assert worker.reopen(replace(worker._opened, timeout=seconds))

    def workers(self) -> list[int]:
        """Return the processes that do the work of grant workers."""
        found = (int(each) for each in descendants(os.getpid()))
        return at_work([each for each in found if _arguments(each)[-1:] == [str(self.clock.file)]])


def _arguments(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return []


@asynccontextmanager
async def whole_daemon(
    folder: Path,
    users: Sequence[str] = (ANN,),
    *,
    key: str = 'File("{folder}/key")',
    jitter: float = 0.5,
    environment: Mapping[str, str] | None = None,
    program: str = moving_clock.__file__,
    signed_in: bool = True,
    life: float = HOUR,
    state: Path | None = None,
    stored: Callable[[Entra, Path], None] = lambda _entra, _state: None,
    server: Entra | None = None,
    more: str = "",
    **options: Any,
) -> AsyncIterator[WholeDaemon]:
    """Run a daemon for these users, who have signed in, over a separate sandbox, or over `server`.

    `key` is what Vault(key=...) names, "" for no such directive; `environment` what the worker has beside the usual;
    `program` the worker's; `life` a token's in seconds; `state` the state folder, if not
    the usual one; `stored` fills it before the daemon starts; `more` are further lines of the configuration; further
    `options` are of `AppOptions`.
    """
    clock, state = MovingClock(folder / "clock"), state or folder / "state"
    with nullcontext(server) if server else Entra(users, now=clock.truth, token_life=life) as entra:
        (folder / "cms.cfg").write_text(_configuration(folder, entra, users, key) + more)
        stored(entra, state)
        coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        chosen = AppOptions(
            str(folder / "cms.cfg"),
            str(state),
            str(folder / "run"),
            clock=clock,
            worker_argv=[sys.executable, "-I", program, str(clock.file)],
            worker_environment={**worker_environment(os.environ), **coverage, **(environment or {})},
            environ={},
            jitter=lambda: jitter,
            heed_signals=False,
            **options,
        )
        async with trio.open_nursery() as nursery:
            daemon = WholeDaemon(folder, entra, clock, await nursery.start(run, chosen), state)
            # The first look into the vault finds nothing; a sign-in that is faster would be redeemed by it.
            await daemon.settled()
            for user in users if signed_in else ():
                await daemon.sign_in(user)
            yield daemon
            entra.faults.clear()
            nursery.cancel_scope.cancel()


def _configuration(folder: Path, entra: Entra, users: Sequence[str], key: str) -> str:
    lines = [f"Vault(key={key.format(folder=folder)})"] if key else []
    lines.append(f'Tls(ca="{entra.ca_file}")')
    for number, user in enumerate(users):
        lines.append(
            f'account{number} = Office365_Account(user="{user}", authority="{entra.authority}", '
            f'client_id="{CLIENT_ID}", redirect_uri="http://localhost/")'
        )
    accounts = ", ".join(f"account{number}" for number in range(len(users)))
    lines.append(f'CredentialServer("{folder}/cms.sock", accounts=[{accounts}], protocols=["SMTP", "IMAP"])')
    return "\n".join(lines) + "\n"
