"""Token files: a whole usable token or no file, and never another user's file."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.trio_run import FakeClock, in_trio, in_trio_jumps, jump, until

from cms.config.model import FileSpec
from cms.core.accounts import Account, Grant, Scopes
from cms.core.lifecycle import Life, Outcome, Token
from cms.daemon.keeper import Keeper
from cms.daemon.serving import token_files
from cms.daemon.serving.token_files import NotOurs, TokenFiles, put
from cms_oauth.claims import Claims

SCOPES = ("https://outlook.office.com/IMAP.AccessAsUser.All",)
GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (SCOPES,))
ACCOUNT = Account("a@example.test", GRANT, {"IMAP": SCOPES, "OTHER": SCOPES})

LIFE = 40.0

# What makes a word as long as a token.
LONG = "x" * token_files.SHORTEST_TOKEN


def long(word: str) -> bytes:
    return f"{word}{LONG}".encode()


@dataclass
class StoredSignIn:
    """Token files that are kept, the tokens of the keeper behind them, and where they are."""

    files: TokenFiles
    keeper: Keeper
    clock: FakeClock
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "token"

    @property
    def content(self) -> str | None:
        """The word of the token that is in the file, and what is behind the token."""
        return self.path.read_text().replace(LONG, "") if self.path.exists() else None

    def spec(
        self, name: str = "token", *, mode: int = 0o600, newline: bool = False, preflight: bool = True
    ) -> FileSpec:
        account = replace(ACCOUNT, preflight=preflight)
        return FileSpec(str(self.folder / name), account, "IMAP", mode, newline, 1)

    def hold(self, secret: str | None) -> None:
        """Have the keeper hold a new token, or none, and say so."""
        now = self.clock.boot()
        held = Token(f"{secret}{LONG}", now, now + LIFE, now + LIFE / 2, SCOPES) if secret else None
        self.keeper.lives[SCOPES] = Life(held)
        self.files.wake(self.keeper)

    async def until(self, content: str | None) -> None:
        await until(lambda: self.content == content)

    async def until_written(self, path: Path) -> None:
        """Wait until a file is there, and its task knows it."""
        await until(lambda: self.files._files[str(path)].written)

    async def until_trouble(self, text: str) -> None:
        await until(lambda: any(text in each for each in self.files.troubles))


async def no_provider(_grant: Grant, _scopes: Scopes, _held: str, _rejected: str, **_more: bool) -> Outcome:
    """Never called: the keepers here do not run."""
    raise AssertionError


def keeper(clock: FakeClock) -> Keeper:
    return Keeper(GRANT, no_provider, clock)


@asynccontextmanager
async def keeping(folder: Path, *, held: str | None = "one") -> AsyncIterator[StoredSignIn]:
    """Keep what a test applies; the keeper holds a token from the beginning."""
    clock = FakeClock()
    kept = StoredSignIn(None, keeper(clock), clock, folder)  # type: ignore[arg-type]  # made in the next line, of this very object
    kept.files = TokenFiles(lambda _grant: kept.keeper, clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.files.run)
        kept.hold(held)
        yield kept
        nursery.cancel_scope.cancel()


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


# --- one file ---


def test_a_file_is_whole_and_its_owners(tmp_path: Path) -> None:
    """The content and nothing else, with its permission bits; a missing folder is made for its owner alone."""
    path = tmp_path / "folder" / "token"
    put(str(path), long("secret"), 0o640)

    assert (long("secret"), 0o640) == (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
    assert (0o700, ["token"]) == (stat.S_IMODE(path.parent.stat().st_mode), names(path.parent))


def test_a_reader_keeps_what_it_has_opened(tmp_path: Path) -> None:
    """A file is replaced and never written to: who reads the old one reads all of it."""
    path = tmp_path / "token"
    put(str(path), long("first"), 0o600)
    with path.open("rb") as reader:
        put(str(path), long("a_longer_second"), 0o600)

        assert (long("first"), long("a_longer_second")) == (reader.read(), path.read_bytes())


def test_permission_bits_come_before_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user without the right to read the file can have opened it before the token was written."""
    seen = []

    def fchmod(fd: int, mode: int) -> None:
        seen.append((os.fstat(fd).st_size, stat.S_IMODE(os.fstat(fd).st_mode), mode))

    monkeypatch.setattr(os, "fchmod", fchmod)
    put(str(tmp_path / "token"), long("secret"), 0o644)

    assert [(0, 0o600, 0o644)] == seen


def test_what_a_crash_left_is_taken_away(tmp_path: Path) -> None:
    """A half-written temporary file neither stays nor is in the way."""
    for content in (long("secret"), None):
        (tmp_path / ".token.0123456789abcdef.cms-new").write_bytes(b"hal")
        put(str(tmp_path / "token"), content, 0o600)

        assert ["token"] * bool(content) == names(tmp_path)


@pytest.mark.parametrize("name", [".token.new", ".token.cms-new", ".tokenx.0123456789abcdef.cms-new"])
def test_a_neighbour_is_left_alone(tmp_path: Path, name: str) -> None:
    """Only what is named as cms alone names its temporary files is one."""
    (tmp_path / name).write_text("mine")
    put(str(tmp_path / "token"), long("secret"), 0o600)

    assert "mine" == (tmp_path / name).read_text()


def test_what_cannot_be_swept_is_not_in_the_way(tmp_path: Path) -> None:
    """The next temporary file has another name."""
    (tmp_path / ".token.0123456789abcdef.cms-new").mkdir()
    put(str(tmp_path / "token"), long("secret"), 0o600)

    assert long("secret") == (tmp_path / "token").read_bytes()


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old token stays, and no temporary file does."""
    path = tmp_path / "token"
    put(str(path), long("old"), 0o600)

    def fsync(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        put(str(path), long("new"), 0o600)

    assert (long("old"), ["token"]) == (path.read_bytes(), names(tmp_path))


def test_gone_is_gone(tmp_path: Path) -> None:
    """Removing what is not there is nothing, nor is a folder made for it."""
    put(str(tmp_path / "token"), long("secret"), 0o600)
    put(str(tmp_path / "token"), None, 0o600)
    put(str(tmp_path / "folder" / "token"), None, 0o600)

    assert [] == names(tmp_path)


@pytest.mark.parametrize("content", [long("eyJ.old"), long("eyJ.old") + b"\n"])
def test_an_old_token_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    """As a daemon that was killed has left it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    put(str(path), long("new"), 0o600)

    assert long("new") == path.read_bytes()


def _holding(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


ANOTHERS = {
    "empty": b"",
    "a password": b"hunter2\n",
    "a key": b"k" * 43 + b"=\n",
    "one byte too few": b"x" * (token_files.SHORTEST_TOKEN - 1) + b"\n",
    "lines": long("one") + b"\n" + long("two") + b"\n",
    "prose": b"A" * 65_536 + b" and then some prose\n" * 200,
    "too long": b"A" * 65_536,
    "binary": b"\xff\x00" * 200,
    "not ASCII": "\u00fc".encode() * 200,
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


MAKERS = {name: _holding(content) for name, content in ANOTHERS.items()} | {"a pipe": _pipe, "a folder": Path.mkdir}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("content", [long("secret"), None])
def test_anything_else_is_left_alone(tmp_path: Path, make: Callable[[Path], None], content: bytes | None) -> None:
    """A mistyped path costs no file: cms neither replaces nor removes it."""
    make(tmp_path / "muttrc")
    before = (tmp_path / "muttrc").stat()
    with pytest.raises(NotOurs, match="remove it, or choose another path"):
        put(str(tmp_path / "muttrc"), content, 0o600)
    after = (tmp_path / "muttrc").stat()

    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("content", [b"short", b"x" * 65_536, long("two words")])
def test_what_would_not_be_known_again_is_not_written(tmp_path: Path, content: bytes) -> None:
    """It could neither be replaced nor removed later."""
    with pytest.raises(NotOurs, match=f"the token has {len(content)} bytes"):
        put(str(tmp_path / "token"), content, 0o600)

    assert [] == names(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_others_can_write_gets_no_token(tmp_path: Path, mode: int) -> None:
    """They could put another account's there; in its twin, which is its owner's alone, it is written."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(NotOurs, match=f"the folder {folder} can be written by everyone"):
        put(str(folder / "token"), long("secret"), 0o600)
    assert [] == names(folder)
    folder.chmod(0o755)
    put(str(folder / "token"), long("secret"), 0o600)

    assert ["token"] == names(folder)


def test_a_symbolic_link_is_left_alone(tmp_path: Path) -> None:
    """A link leads to a file that another user chose."""
    (tmp_path / "real").write_bytes(long("token"))
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="symbolic links"):
        put(str(tmp_path / "link"), long("secret"), 0o600)

    assert (long("token"), True) == ((tmp_path / "real").read_bytes(), (tmp_path / "link").is_symlink())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_anothers_file_is_left_alone(tmp_path: Path) -> None:
    """Even if it looks like a token."""
    (tmp_path / "token").write_bytes(long("token"))
    os.chown(tmp_path / "token", 64001, 64001)
    with pytest.raises(NotOurs):
        put(str(tmp_path / "token"), long("secret"), 0o600)

    assert long("token") == (tmp_path / "token").read_bytes()


# --- files that are kept ---


@in_trio
async def test_it_always_holds_the_token_that_is_held(tmp_path: Path) -> None:
    """The first token, the next one, and no file while there is no token."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        kept.hold("two")
        await kept.until("two")
        kept.hold(None)
        await kept.until(None)
        kept.hold("three")
        await kept.until("three")

    assert ([], (str(kept.path),), ()) == (names(tmp_path), kept.files.paths, kept.files.troubles)


@in_trio
async def test_a_newline_where_it_is_asked_for(tmp_path: Path) -> None:
    """And the permission bits that were."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec(newline=True, mode=0o640)])
        await kept.until("one\n")

        assert 0o640 == stat.S_IMODE(kept.path.stat().st_mode)


@in_trio
async def test_without_a_token_an_old_file_goes(tmp_path: Path) -> None:
    """What a killed daemon has left is of unknown age."""
    (tmp_path / "token").write_bytes(long("stale"))
    async with keeping(tmp_path, held=None) as kept:
        kept.files.apply([kept.spec()])
        await kept.until(None)


@in_trio_jumps
async def test_a_token_that_is_not_replaced_goes_before_it_expires(tmp_path: Path) -> None:
    """No program is left with a token that a server refuses."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        await trio.testing.wait_all_tasks_blocked()
        jump(LIFE * 0.9)
        await kept.until(None)
        now, held = kept.clock.boot(), kept.keeper.lives[SCOPES].held

        assert held
        assert now < held.expires


@in_trio
async def test_after_a_suspend_an_expired_token_goes(tmp_path: Path) -> None:
    """trio's clock has stood still: the file is looked at when the daemon says so."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        kept.clock.asleep += LIFE
        kept.files.wake()
        await kept.until(None)


@in_trio
async def test_a_token_may_run_out_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a suspend at that moment: the file goes at the next look, and the daemon lives on."""
    async with keeping(tmp_path) as kept:

        def slow(path: str, content: bytes | None, mode: int) -> None:
            put(path, content, mode)
            kept.clock.asleep += LIFE

        monkeypatch.setattr(token_files, "put", slow)
        kept.files.apply([kept.spec()])
        await until(lambda: kept.clock.asleep >= 10_000.0 + 2 * LIFE)

        assert kept.content is None


@in_trio
async def test_a_token_for_something_else_is_not_written(tmp_path: Path) -> None:
    """After a reload a new protocol may begin with a token from before the consent to it."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        held = kept.keeper.lives[SCOPES].held
        assert held
        kept.keeper.lives[SCOPES] = Life(replace(held, scopes=("https://outlook.office.com/SMTP.Send",)))
        kept.files.wake(kept.keeper)
        await kept.until(None)


@pytest.mark.parametrize("preflight", [True, False])
@in_trio
async def test_a_token_that_opens_no_mail_server_is_not_written(tmp_path: Path, *, preflight: bool) -> None:
    """The token's own claims decide, unless the account has preflight= switched off."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec(preflight=preflight)])
        await kept.until("one")
        held = kept.keeper.lives[SCOPES].held
        assert held
        # Valid for long, so that it is not its end that empties the file.
        ends = held.expires + 3600.0
        other = replace(held, secret=f"other{LONG}", claims=Claims("https://graph.microsoft.com"), expires=ends)
        kept.keeper.lives[SCOPES] = Life(other)
        kept.files.wake(kept.keeper)
        with trio.fail_after(20.0):
            await kept.until(None if preflight else "other")


@in_trio
async def test_the_same_token_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life that changes in another way than its token touches no file."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        before = kept.path.stat().st_ino
        held = kept.keeper.lives[SCOPES].held
        assert held
        kept.keeper.lives[SCOPES] = Life(replace(held, refresh_at=0.0))
        kept.files.wake(kept.keeper)
        await trio.testing.wait_all_tasks_blocked()

        assert before == kept.path.stat().st_ino


@in_trio
async def test_a_reload_changes_files(tmp_path: Path) -> None:
    """One stays as it is, one changes without a moment in which it is not there, one goes, one comes."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec(name) for name in ("token", "stays", "goes")])
        await until(lambda: names(tmp_path) == ["goes", "stays", "token"])
        inode = (tmp_path / "stays").stat().st_ino
        kept.files.apply([kept.spec(newline=True), kept.spec("stays"), kept.spec("comes")])
        while (content := kept.content) != "one\n":
            assert content == "one"
            await trio.lowlevel.checkpoint()
        await until(lambda: names(tmp_path) == ["comes", "stays", "token"])

        assert inode == (tmp_path / "stays").stat().st_ino


@in_trio
async def test_another_keeper_takes_a_file_over(tmp_path: Path) -> None:
    """Another person signs in to the account: the file follows the new keeper and ignores the old one."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        before, kept.keeper = kept.keeper, keeper(kept.clock)
        kept.files.apply([kept.spec()])
        await kept.until(None)
        kept.hold("two")
        await kept.until("two")
        kept.files.wake(before)
        await trio.testing.wait_all_tasks_blocked()

        assert "two" == kept.content


@in_trio_jumps
async def test_a_file_that_cannot_be_kept_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log once, in the status as long as it lasts; mended, it is good after a pause."""
    monkeypatch.setattr(token_files, "RETRY_SECONDS", 20.0)
    (tmp_path / "token").mkdir()
    with capture_logs() as lines:
        async with keeping(tmp_path) as kept:
            kept.files.apply([kept.spec()])
            await kept.until_trouble(f"the token file {kept.path} cannot be kept: something else is there already")
            kept.hold("secret-two")
            await trio.testing.wait_all_tasks_blocked()
            kept.path.rmdir()
            # In steps: the pause may begin only when a thread has ended.
            while not kept.path.is_file():
                jump(1.0)
                await trio.sleep(0.01)
            await until(lambda: not kept.files.troubles)

    assert ["a token file cannot be kept", "a token file is as it should be again"] == [each["event"] for each in lines]
    assert "secret-two" not in str(lines)


@in_trio
async def test_a_token_that_cannot_be_replaced_goes_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes no new token, and must not leave the old one to expire in the file."""

    def fsync(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        monkeypatch.setattr(os, "fsync", fsync)
        kept.hold("two")
        await kept.until_trouble("No space left on device")
        await kept.until(None)


@in_trio
async def test_a_good_token_outlives_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the old one is usable for longer than the pause before the next try."""
    monkeypatch.setattr(token_files, "RETRY_SECONDS", 5.0)
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        kept.path.unlink()
        kept.path.mkdir()
        kept.hold("two")
        await kept.until_trouble("something else is there already")

        assert kept.path.is_dir()


@in_trio
async def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    """At the end too: the log says that something stays behind."""
    with capture_logs() as lines:
        async with keeping(tmp_path) as kept:
            kept.files.apply([kept.spec()])
            await kept.until("one")
            kept.path.unlink()
            kept.path.mkdir()

    assert ["a token file cannot be kept"] == [each["event"] for each in lines]


# --- changes of hands, and mounts that hang ---

BOB = replace(ACCOUNT, user="b@example.test")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what fills the disk."""

    def fsync(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("changes", [{"newline": True}, {"mode": 0o640}, {"account": BOB}])
@in_trio
async def test_a_reload_whose_write_fails_leaves_no_old_token(
    tmp_path: Path, full: Callable[[], None], changes: dict[str, Any]
) -> None:
    """The next task does not know until when it would be good, or whose it is."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        full()
        kept.files.apply([replace(kept.spec(), **changes)])
        await kept.until_trouble("No space left on device")
        await kept.until(None)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Whether each call of `put` is a removal, and its permission bits, as they end."""
    seen = []

    def spy(path: str, content: bytes | None, mode: int) -> None:
        put(path, content, mode)
        seen.append((content is None, mode))

    monkeypatch.setattr(token_files, "put", spy)
    return seen


@pytest.mark.parametrize("changes", [{"mode": 0o640}, {"account": BOB}, {"protocol": "OTHER"}])
@in_trio
async def test_a_file_that_changes_hands_is_gone_before_it_is_written(
    tmp_path: Path, puts: list[tuple[bool, int]], changes: dict[str, Any]
) -> None:
    """One account's token is never in what is another's file, nor open to those whom only the next one lets in."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        kept.files.apply([replace(kept.spec(), **changes)])
        await until(lambda: len(puts) == 3)

    assert [(False, 0o600), (True, 0o600), (False, changes.get("mode", 0o600))] == puts[:3]


@in_trio
async def test_a_file_that_comes_back_at_once_waits_for_its_end(tmp_path: Path, puts: list[tuple[bool, int]]) -> None:
    """Two reloads in a row, away with it and back again, end with the file."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until("one")
        kept.files.apply([])
        kept.files.apply([kept.spec(mode=0o640)])
        await until(lambda: len(puts) == 3)

    assert [(False, 0o600), (True, 0o600), (False, 0o640)] == puts[:3]


class Hanging:
    """`put` whose first call hangs until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, path: str, content: bytes | None, mode: int) -> None:
        if not self.began.is_set():
            self.began.set()
            self.go_on.wait()
        put(path, content, mode)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    monkeypatch.setattr(token_files, "LEAVE_SECONDS", 0.05)
    hangs = Hanging()
    monkeypatch.setattr(token_files, "put", hangs)
    yield hangs
    hangs.go_on.set()


def test_a_mount_that_hangs_does_not_hold_up_the_end(tmp_path: Path, hanging: Hanging) -> None:
    """Neither in a write nor in the removal, and the log says what may have stayed behind."""

    async def kept_until_the_end() -> None:
        async with keeping(tmp_path) as kept:
            kept.files.apply([kept.spec()])
            await until(hanging.began.is_set)

    with capture_logs() as lines:
        in_trio(kept_until_the_end)()

    assert ["removing it takes too long"] == [each["reason"] for each in lines]


@in_trio
async def test_a_write_that_was_given_up_is_over_before_the_next(tmp_path: Path, hanging: Hanging) -> None:
    """What hung cannot put an old token over a newer one when it goes on."""
    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await until(hanging.began.is_set)
        kept.files.apply([kept.spec(newline=True)])
        kept.hold("two")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not kept.path.exists()
        hanging.go_on.set()
        await kept.until("two\n")
        await trio.testing.wait_all_tasks_blocked()

        assert "two\n" == kept.content


# --- lost files ---


def rewrite(path: Path) -> None:
    path.write_bytes(long("other"))


def put_same_in_its_place(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o644)


def give_away(path: Path) -> None:
    path.chmod(0o666)


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "is gone"),
    "renamed": (lambda path: path.rename(path.with_name("old")), "is gone"),
    "its folder removed": (lambda path: shutil.rmtree(path.parent), "is gone"),
    "its folder renamed": (lambda path: path.parent.rename(path.parent.with_name("old")), "is gone"),
    "two folders removed": (lambda path: shutil.rmtree(path.parent.parent), "is gone"),
    "another token in it": (rewrite, "was changed by another program"),
    "another file in its place": (put_same_in_its_place, "was changed by another program"),
    "opened to all": (give_away, "was changed by another program"),
}


@pytest.mark.parametrize("loss", LOSSES)
@in_trio
async def test_a_lost_file_is_written_again(tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by a look, and told; written again as it was, with the folder as open as it was, and one line in the log.

    Who mends it, as a reload does, tells nothing that is over.
    """
    lose, damage = LOSSES[loss]
    monkeypatch.setattr(token_files, "LOOK_SECONDS", 200.0)
    path = tmp_path / "run" / "cms" / "token"
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o750)
    with capture_logs() as lines:
        async with keeping(tmp_path) as kept:
            kept.files.apply([replace(kept.spec(mode=0o640), path=str(path))])
            await kept.until_written(path)
            await kept.files.mend()
            before = kept.files.troubles
            lose(path)
            await kept.files.look()
            told = "".join(kept.files.troubles)
            await kept.files.mend()
            after = kept.files.troubles
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)]

            assert (long("one"), [0o750, 0o640]) == (path.read_bytes(), modes)
    assert ((), (), True) == (before, after, told.startswith(f"the token file {path} {damage}"))
    assert "`cms reload`" in told
    assert [damage] == [line["lost"] for line in lines if line["event"] == "a token file was written again"]


@pytest.mark.parametrize("obstacle", ["a person's file", "a folder", "a link", "a file for the folder"])
@in_trio
async def test_what_is_in_the_way_of_a_file_stays(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cms cannot tell it from somebody's own: the status names it until it has gone."""
    monkeypatch.setattr(token_files, "LOOK_SECONDS", 200.0)
    path = tmp_path / "run" / "token"
    async with keeping(tmp_path) as kept:
        kept.files.apply([replace(kept.spec(), path=str(path))])
        await kept.until_written(path)
        path.unlink()
        match obstacle:
            case "a person's file":
                path.write_text("precious")
            case "a folder":
                path.mkdir()
            case "a link":
                path.symlink_to(tmp_path / "precious")
            case _:
                path.parent.rmdir()
                path.parent.write_text("precious")
        await kept.files.mend()
        await kept.until_trouble("cannot be kept")
        in_the_way = path.parent if path.parent.is_file() else path
        assert not in_the_way.is_file() or in_the_way.read_text() == "precious"
        in_the_way.rename(tmp_path / "away")
        await kept.files.mend()
        await until(lambda: path.exists() and not kept.files.troubles)

        assert long("one") == path.read_bytes()


@in_trio
async def test_a_file_without_a_token_is_not_missed(tmp_path: Path) -> None:
    """Before the first token, and after a sign-out, there is nothing to write."""
    async with keeping(tmp_path, held=None) as kept:
        kept.files.apply([kept.spec()])
        await trio.testing.wait_all_tasks_blocked(0.02)
        await kept.files.mend()
        never = (kept.files.troubles, kept.path.exists())
        kept.hold("one")
        await kept.until_written(kept.path)
        kept.hold(None)
        await kept.until(None)
        await kept.files.mend()

        assert [((), False)] * 2 == [never, (kept.files.troubles, kept.path.exists())]


@in_trio
async def test_a_look_at_a_mount_that_hangs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status waits for a second at most, and the next look is not made before that one has ended."""
    monkeypatch.setattr(token_files, "LOOK_SECONDS", 0.05)
    looks, go_on = [], threading.Event()

    def hang(path: str) -> tuple[int, ...]:
        looks.append(path)
        go_on.wait()
        return ()

    async with keeping(tmp_path) as kept:
        kept.files.apply([kept.spec()])
        await kept.until_written(kept.path)
        monkeypatch.setattr(token_files, "_identity", hang)
        for _ in range(3):
            await kept.files.look()
        await until(lambda: looks)
        go_on.set()

        assert ([str(kept.path)], ()) == (looks, kept.files.troubles)
