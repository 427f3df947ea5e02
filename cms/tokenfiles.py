"""Files that always hold a fresh token, for programs that read one: one task for each, replacing it by renaming.

A reader finds a whole usable token or no file. What is at a path is replaced or removed only if it is a token file of
our own user's: a path that was mistyped costs nobody a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import trio

from cms.accounts import Grant, permission_for
from cms.clock import Clock
from cms.config import FileSpec
from cms.keeper import Keeper
from cms.lifecycle import Life, Token, covers, usable
from cms.logs import get_logger
from cms_oauth import sasl

# A disk that is full or read-only is somebody's to mend: looked at again when the token changes, and this often.
RETRY_SECONDS = 60.0

# No token is longer, and no other file has to be read in full to see that it is none.
_MOST = 64 * 1024

log = get_logger()


class NotOurs(Exception):
    """Something else is at the path. The text says what to do."""


def put(path: str, content: bytes | None, mode: int) -> None:
    """Make a file hold this, or be gone. May block. Raises OSError and NotOurs, and then the file is as it was."""
    _check_ours(path)
    if content is None:
        Path(path).unlink(missing_ok=True)
        return
    folder, _, name = path.rpartition("/")
    Path(folder).mkdir(mode=0o700, exist_ok=True)
    # One daemon owns the path, so the name needs no chance; what a crash left behind goes.
    temporary = f"{folder}/.{name}.new"
    Path(temporary).unlink(missing_ok=True)
    try:
        _write(temporary, content, mode)
        os.rename(temporary, path)  # noqa: PTH104 - one system call, as the docstring says
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
        raise


def _write(path: str, content: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        # Before the content: it is never there for anybody but who may read it.
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _check_ours(path: str) -> None:
    """Raise NotOurs unless the path is free, or a token file of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        facts = os.fstat(fd)
        ours = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and _is_token(os.read(fd, _MOST))
    finally:
        os.close(fd)
    if not ours:
        raise NotOurs("something else is there already, and no token file of ours: remove it, or choose another path")


def _is_token(content: bytes) -> bool:
    text = content.removesuffix(b"\n").decode("ascii", errors="replace")
    return not text or sasl.is_token(text)


class _File:
    """One token file. `run` keeps it as it has to be; `trouble` says why it is not, "" when it is."""

    def __init__(self, spec: FileSpec, keeper: Keeper, clock: Clock, after: _File | None) -> None:
        self.spec = spec
        self.keeper = keeper
        self.trouble = ""
        self.scope = trio.CancelScope()
        # Whether the file goes with the task: not where another task takes it over.
        self.leaves = True
        self.ended = trio.Event()
        self._after = after
        self._clock = clock
        self._scopes = spec.account.scopes[spec.protocol]
        self._nudge = trio.Event()
        self._shown: Token | None = None
        self._began = False

    def wake(self) -> None:
        """Look at the token and the clock again."""
        self._nudge.set()

    async def run(self) -> None:
        try:
            if self._after:
                await self._after.ended.wait()
                self._after = None
            with self.scope:
                await self._keep()
        finally:
            if self.leaves:
                self._remove()
            self.ended.set()

    async def _keep(self) -> None:
        while True:
            # Before looking: a change while it is being written is not missed.
            self._nudge = trio.Event()
            with trio.move_on_after(await self._settle()):
                await self._nudge.wait()

    async def _settle(self) -> float:
        """Bring the file up to date; return the seconds after which it has to be looked at again."""
        token = self._good()
        try:
            await self._show(token)
        except (OSError, NotOurs) as error:
            self._complain(error)
            self._hide_what_ends()
            return RETRY_SECONDS
        if self.trouble:
            log.info("a token file is as it should be again", file=self.spec.path)
            self.trouble = ""
        return token.usable_until - self._clock.boot() if token else float("inf")

    def _good(self) -> Token | None:
        """Return the token that belongs into the file now."""
        token = usable(self.keeper.lives.get(self._scopes, Life()), self._clock.boot())
        # After a reload a scope set may begin with a token of the one before it.
        return token if token and covers(token, permission_for(self.spec.protocol, self._scopes)) else None

    async def _show(self, token: Token | None) -> None:
        if self._began and _secret(token) == _secret(self._shown):
            self._shown = token
            return
        content = (token.secret + "\n" * self.spec.newline).encode() if token else None
        await trio.to_thread.run_sync(put, self.spec.path, content, self.spec.mode)
        self._shown, self._began = token, True

    def _complain(self, error: OSError | NotOurs) -> None:
        reason = str(error.strerror if isinstance(error, OSError) else error)
        trouble = f"the token file {self.spec.path} cannot be kept: {reason}"
        if trouble != self.trouble:
            log.error("a token file cannot be kept", file=self.spec.path, reason=reason)
        self.trouble = trouble

    def _hide_what_ends(self) -> None:
        """Take away a token that could not be replaced in time."""
        if self._shown and self._clock.boot() + RETRY_SECONDS >= self._shown.usable_until:
            self._remove()

    def _remove(self) -> None:
        try:
            put(self.spec.path, None, self.spec.mode)
            self._shown = None
        except (OSError, NotOurs) as error:
            self._complain(error)


def _secret(token: Token | None) -> str:
    return token.secret if token else ""


class TokenFiles:
    """The token files of one configuration, and their change to those of the next."""

    def __init__(self, keeper_of: Callable[[Grant], Keeper], clock: Clock) -> None:
        self._keeper_of = keeper_of
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why files are not as they should be, for the status."""
        return tuple(file.trouble for file in self._files.values() if file.trouble)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what `apply` says, until cancelled; then the files are gone."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def apply(self, specs: Iterable[FileSpec]) -> None:
        """Keep exactly these files. Nothing here waits."""
        assert self._nursery is not None, "files are kept inside run()"
        before, self._files = self._files, {}
        for spec in specs:
            keeper, old = self._keeper_of(spec.account.grant), before.pop(spec.path, None)
            if old and old.spec == spec and old.keeper is keeper:
                self._files[spec.path] = old
                continue
            if old:
                old.leaves = False
                old.scope.cancel()
            self._files[spec.path] = _File(spec, keeper, self._clock, old)
            self._nursery.start_soon(self._files[spec.path].run)
        for old in before.values():
            old.scope.cancel()
        self.wake()

    def wake(self, keeper: Keeper | None = None) -> None:
        """Look at the tokens of a keeper, or of all, and at the clock again: after a change of a life, or a suspend."""
        for file in self._files.values():
            if keeper in (None, file.keeper):
                file.wake()
