"""Files that always hold a fresh token (`TokenFile`), for programs that read one. A task keeps each file.

A reader finds a whole usable token or no file. cms replaces or removes a file only if its own user owns it and it holds
one word as long as a token and nothing else: a mistyped path costs no other program its file. A file that was lost or
changed is written again (`TokenFiles.look`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from cms.config.model import FileSpec
from cms.core.accounts import Grant
from cms.core.lifecycle import Life, Token, usable
from cms.core.preflight import fits
from cms.daemon.serving.folders import check_folder, distrust
from cms.daemon.serving.issue import Keeper
from cms.system.clock import Clock
from cms.system.files import PRIVATE_FOLDER, make_folders, sweep_drafts, write_private
from cms.system.logs import get_logger
from cms_oauth import sasl
from cms_oauth.frozen import dataclass

# A person has to mend a disk that is full or read-only: it is tried again when the token changes, and this often.
RETRY_SECONDS = 60.0

# How long the end of a task waits for its file to go: a mount that hangs must not hold up a shutdown or a reload.
LEAVE_SECONDS = 1.0

# How long a look at all files may take. A command that asks for the status waits for it.
LOOK_SECONDS = 1.0

# Passwords and keys of one word are shorter, and Entra's tokens have a thousand characters and more.
SHORTEST_TOKEN = 200

# In bytes. No token is that long, so a longer file is not a token file.
_TOO_LONG = 64 * 1024

log = get_logger()


class NotOurs(Exception):
    """The path holds, or would hold, what cms cannot tell from a person's own file. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file as cms wrote it: which one it is, who may read it, and the mode of its folder."""

    identity: tuple[int, ...]
    folder_mode: int

    def damage(self, path: str) -> str:
        """Return what has happened to the file, in words that follow its path, "" for nothing. May block."""
        try:
            return "" if _identity(path) == self.identity else "was changed by another program"
        except (FileNotFoundError, NotADirectoryError):
            return "is gone"
        except OSError as error:
            return f"cannot be seen any more ({error.strerror})"


def _identity(path: str) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns


def put(path: str, content: bytes | None, mode: int) -> None:
    """Make a file hold this, or be gone. May block. Raises OSError and NotOurs, and then the file is as it was."""
    _check_ours(path)
    file = Path(path)
    sweep_drafts(file)
    if content is None:
        file.unlink(missing_ok=True)
        return
    if not _is_token(content):
        raise NotOurs(f"the token has {len(content)} bytes: cms could not tell the file from others and remove it")
    make_folders(file.parent)
    if why := distrust(path):
        raise NotOurs(why)
    write_private(file, content, mode)


def _put(path: str, content: bytes | None, mode: int, folder_mode: int) -> Written | None:
    """Do what `put` does; return what was written. A folder that was lost is made again with `folder_mode`."""
    folder = Path(path).parent
    if content is not None:
        make_folders(folder.parent)
        make_folders(folder, folder_mode)
    put(path, content, mode)
    if content is None:
        return None
    return Written(_identity(path), stat.S_IMODE(folder.stat().st_mode))


def _check_ours(path: str) -> None:
    """Raise NotOurs unless the path is free or holds one of our token files."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        facts = os.fstat(fd)
        ours = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and facts.st_size < _TOO_LONG
        ours = ours and _is_token(os.read(fd, _TOO_LONG))
    finally:
        os.close(fd)
    if not ours:
        raise NotOurs("something else is there already, and no token file of cms: remove it, or choose another path")


def _is_token(content: bytes) -> bool:
    """Return whether this is a token and nothing else, except for a newline at the end."""
    text = content.removesuffix(b"\n").decode("ascii", errors="replace")
    return len(text) >= SHORTEST_TOKEN and len(content) < _TOO_LONG and sasl.is_token(text)


class _File:
    """One token file. `run` keeps it up to date; `trouble` says why it is not, "" when it is."""

    def __init__(self, spec: FileSpec, keeper: Keeper, clock: Clock, after: _File | None) -> None:
        self.spec = spec
        self.keeper = keeper
        self.trouble = ""
        # What the file is as long as it holds a token, and what was seen to have happened to it since.
        self.written: Written | None = None
        self.damage = ""
        # Set when the file was brought up to date, or could not be.
        self.settled = trio.Event()
        self.scope = trio.CancelScope()
        # Whether the file is removed when the task ends: not where another task takes it over.
        self.leaves = True
        self.ended = trio.Event()
        self._after = after
        # One call at a time for a path: one that was abandoned while it hung ends before the next begins. And no thread
        # of those that other calls share.
        self.limiter: trio.CapacityLimiter = after.limiter if after else trio.CapacityLimiter(1)
        self._clock = clock
        self._scopes = spec.account.scopes[spec.protocol]
        self._nudge = trio.Event()
        self._shown: Token | None = None
        # A folder that was lost is made again as it was.
        self._folder_mode = PRIVATE_FOLDER
        self._began = False

    @property
    def loss(self) -> str:
        """What has happened to the file, and the next move; "" for nothing."""
        said = f"the token file {self.spec.path} {self.damage}: cms writes it again within half a minute"
        return f"{said}, and `cms reload` at once" if self.damage else ""

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
                await self._remove_at_the_end()
            self.ended.set()

    async def _keep(self) -> None:
        while True:
            # Before looking: a change while it is being written is not missed.
            self._nudge = trio.Event()
            pause = await self._settle()
            self.settled.set()
            with trio.move_on_after(pause):
                await self._nudge.wait()

    async def _settle(self) -> float:
        """Bring the file up to date; return the seconds after which it has to be looked at again."""
        token = self._good()
        try:
            await self._show(token)
        except (OSError, NotOurs) as error:
            self._complain(_reason(error))
            await self._hide_what_ends()
            return RETRY_SECONDS
        if self.trouble:
            log.info("a token file is as it should be again", file=self.spec.path)
            self.trouble = ""
        # A suspend may have come while it was written.
        return max(0.0, token.usable_until - self._clock.boot()) if token else float("inf")

    def _good(self) -> Token | None:
        """Return the token that the file has to hold now."""
        token = usable(self.keeper.lives.get(self._scopes, Life()), self._clock.boot())
        # After a reload a scope set may begin with a token of the one before it.
        if token and self.spec.account.preflight and not fits(token, self.spec.account, self.spec.protocol):
            return None
        return token

    async def _show(self, token: Token | None) -> None:
        if self._began and not self.damage and _secret(token) == _secret(self._shown):
            self._shown = token
            return
        content = (token.secret + "\n" * self.spec.newline).encode() if token else None
        await self._put(content)
        self._shown, self._began = token, True

    async def _put(self, content: bytes | None) -> None:
        path, mode = self.spec.path, self.spec.mode
        self.written = await trio.to_thread.run_sync(
            _put, path, content, mode, self._folder_mode, abandon_on_cancel=True, limiter=self.limiter
        )
        if self.written:
            self._folder_mode = self.written.folder_mode
        if self.damage:
            log.warning("a token file was written again", file=path, lost=self.damage)
        self.damage = ""

    def _complain(self, reason: str) -> None:
        trouble = f"the token file {self.spec.path} cannot be kept: {reason}"
        if trouble != self.trouble:
            log.error("a token file cannot be kept", file=self.spec.path, reason=reason)
        self.trouble = trouble

    async def _hide_what_ends(self) -> None:
        """Remove what could not be replaced in time: a token that ends, or one of unknown age or of another account."""
        ends = self._shown and self._clock.boot() + RETRY_SECONDS >= self._shown.usable_until
        if ends or not self._began:
            await self._remove()

    async def _remove(self) -> None:
        try:
            await self._put(None)
            self._shown = None
        except (OSError, NotOurs) as error:
            self._complain(_reason(error))

    async def _remove_at_the_end(self) -> None:
        with trio.move_on_after(LEAVE_SECONDS, shield=True) as scope:
            await self._remove()
        if scope.cancelled_caught:
            self._complain("removing it takes too long")


def _reason(error: OSError | NotOurs) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _secret(token: Token | None) -> str:
    return token.secret if token else ""


def _holds(spec: FileSpec) -> tuple[str, str, int]:
    """Return whose token a file holds and who may read it: where that changes, the old token is removed first."""
    return spec.account.user, spec.protocol, spec.mode


class TokenFiles:
    """The token files of one configuration, and their change to those of the next."""

    def __init__(self, keeper_of: Callable[[Grant], Keeper], clock: Clock) -> None:
        self._keeper_of = keeper_of
        self._clock = clock
        self._files: dict[str, _File] = {}
        # The same files by their keeper: each change of one of ten thousand keepers concerns only its own.
        self._of: dict[Keeper, list[_File]] = {}
        # The latest of each path, also those that are no longer kept: the next one begins when it has ended.
        self._latest: dict[str, _File] = {}
        self._looks = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why files are not as they should be, for the status."""
        return tuple(trouble for file in self._files.values() if (trouble := file.trouble or file.loss))

    @staticmethod
    async def check(specs: Iterable[FileSpec]) -> None:
        """Raise ListenError if another user could replace one of these files."""

        def check_all() -> None:
            # Ten thousand files are mostly in one folder.
            for path in {os.path.dirname(spec.path): spec.path for spec in specs}.values():  # noqa: PTH120 - as pathlib, quicker
                try:
                    check_folder(path)
                except OSError as error:
                    # Its own file says so, and is tried again.
                    log.debug("a token file's folder cannot be looked at", file=path, error=error.strerror)

        await trio.to_thread.run_sync(check_all)

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
                old.leaves = old.keeper is not keeper or _holds(old.spec) != _holds(spec)
                old.scope.cancel()
            file = _File(spec, keeper, self._clock, self._latest.get(spec.path))
            self._files[spec.path] = self._latest[spec.path] = file
            self._nursery.start_soon(file.run)
        for old in before.values():
            old.scope.cancel()
        self._of = {}
        for file in self._files.values():
            self._of.setdefault(file.keeper, []).append(file)
        self.wake()

    def wake(self, keeper: Keeper | None = None) -> None:
        """Look at the tokens of a keeper, or of all, and at the clock again: after a change or a suspend."""
        for file in self._of.get(keeper, ()) if keeper else self._files.values():
            file.wake()

    async def look(self) -> None:
        """See whether the files are still as cms wrote them. One look at a time: a mount may hang."""
        written = {path: file.written for path, file in self._files.items() if file.written}
        if not written or self._looks.borrowed_tokens:
            return
        with trio.move_on_after(LOOK_SECONDS):
            damages = await trio.to_thread.run_sync(
                lambda: {path: each.damage(path) for path, each in written.items()},
                abandon_on_cancel=True,
                limiter=self._looks,
            )
            for path, file in self._files.items():
                # One that is being written now is none of those that were looked at.
                if file.written is written.get(path) and not file.limiter.borrowed_tokens:
                    file.damage = damages.get(path, "")

    async def mend(self) -> None:
        """Write the files again that are not as cms wrote them."""
        await self.look()
        lost = [file for file in self._files.values() if file.damage]
        for file in lost:
            file.settled = trio.Event()
            file.wake()
        # Who asked for a reload is told what is still missing, not what is written just now.
        with trio.move_on_after(LOOK_SECONDS):
            for file in lost:
                await file.settled.wait()
