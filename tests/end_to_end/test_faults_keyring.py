"""A vault key that cannot be read: the Secret Service is locked, gone or holds another key; so too for a key file."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import secretstorage
from support.desktop import Desktop, entered
from support.evidence import keep_secret
from support.whole_daemon import ANN, BOB, HOUR, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.lifecycle import Granted, Transient
from cms.grants.messages import QUESTION_SECONDS
from cms.grants.vault.keyring import KEY_BYTES, SERVICE

DUE = 0.64 * HOUR

# Soon enough to leave between two fetches, so that each has to find the key anew.
HASTY = 0.05


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """A session of this process. Each test starts its keyring."""
    with entered(tmp_path / "desktop", monkeypatch) as session:
        yield session


@asynccontextmanager
async def daemon_with_keyring(
    folder: Path, desktop: Desktop, *users: str, **options: Any
) -> AsyncIterator[WholeDaemon]:
    """Open a daemon whose vault has its key in the desktop's keyring, and whose worker forgets it soon."""
    async with whole_daemon(
        folder, users or (ANN,), key="", environment=desktop.environment, idle=HASTY, **options
    ) as daemon:
        await forgotten(daemon)
        yield daemon


async def forgotten(daemon: WholeDaemon) -> None:
    """Wait until no process knows the key."""
    await until(lambda: not daemon.workers(), "the workers to leave")


def replace_key() -> bytes:
    """Put another key under the name of the one in the keyring; return the old one."""
    with closing(secretstorage.dbus_init()) as bus:
        (item,) = secretstorage.Collection(bus).search_items({"service": SERVICE})
        old: bytes = item.get_secret()
        item.set_secret(base64.b64encode(os.urandom(KEY_BYTES)))
    keep_secret(old.decode())
    return old


def restore_key(old: bytes) -> None:
    with closing(secretstorage.dbus_init()) as bus:
        (item,) = secretstorage.Collection(bus).search_items({"service": SERVICE})
        item.set_secret(old)


def unlock(desktop: Desktop) -> None:
    """Unlock the keyring, as logging in again does."""
    desktop.stop_keyring()
    desktop.start_keyring()


@dataclass(frozen=True)
class Trouble:
    """What keeps the keyring from giving the key; `begin` returns what ends it. `says` is what the status tells."""

    begin: Callable[[Desktop], Callable[[], None]]
    says: str


def lock(desktop: Desktop) -> Callable[[], None]:
    desktop.lock()
    return lambda: unlock(desktop)


def stop(desktop: Desktop) -> Callable[[], None]:
    desktop.stop_keyring()
    return desktop.start_keyring


def change(_desktop: Desktop) -> Callable[[], None]:
    old = replace_key()
    return lambda: restore_key(old)


TROUBLES = {
    "locked": Trouble(lock, "keyring is locked"),
    "gone": Trouble(stop, "keyring is not there"),
    "another-key": Trouble(change, "keyring holds another key"),
}


@pytest.mark.parametrize("name", TROUBLES)
@on_moving_clock
async def test_keyring(tmp_path: Path, desktop: Desktop, name: str) -> None:
    """The account counts as locked and nothing is lost: once the key can be read again, cms serves tokens again."""
    trouble = TROUBLES[name]
    desktop.start_keyring()
    async with daemon_with_keyring(tmp_path, desktop) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        assert "keyring" == daemon.row(ANN)["key_from"]
        end = trouble.begin(desktop)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("locked", True, "locked") == (row["state"], row["usable"], row["problem"]["kind"])
        assert trouble.says in daemon.text()
        assert "unlock the keyring, or restore the key" in row["next_move"]
        assert 1 == daemon.exit_code()

        await daemon.pass_time(HOUR)
        refusal = await daemon.refusal(ANN)
        assert "locked" == refusal["code"]
        assert trouble.says in refusal["message"]
        assert 0 == daemon.entra.count("token", grant_type="refresh_token")
        outcome = await daemon.sign_in(ANN)
        assert isinstance(outcome, Transient)
        assert "locked" == outcome.trouble.kind, "and no second key is made"
        assert vault == daemon.vault(ANN).read_bytes()

        end()
        assert first != await daemon.recovery(ANN)
        row = daemon.row(ANN)
        assert ("ok", True, "keyring") == (row["state"], row["persisted"], row["key_from"])
        assert 0 == daemon.exit_code()


@on_moving_clock
async def test_no_keyring_at_all(tmp_path: Path, desktop: Desktop) -> None:
    """Without any keyring sign-ins live in memory, which is said loudly; they are kept once there is a keyring."""
    async with daemon_with_keyring(tmp_path, desktop, signed_in=False) as daemon:
        signed_in = await daemon.sign_in(ANN)
        assert isinstance(signed_in, Granted)
        first = await daemon.token(ANN)

        row = daemon.row(ANN)
        assert ("ok", False) == (row["state"], row["persisted"])
        assert "kept in MEMORY ONLY" in daemon.text()
        assert 1 == daemon.exit_code()
        assert not daemon.vault(ANN).exists()
        await daemon.pass_time(DUE)
        second = await daemon.token(ANN)
        assert first != second, "the process that holds it renews it"

        desktop.start_keyring()
        await daemon.pass_time(DUE)
        assert second != await daemon.token(ANN)
        assert (True, "keyring") == (daemon.row(ANN)["persisted"], daemon.row(ANN)["key_from"])
        assert daemon.vault(ANN).exists()
        await forgotten(daemon)
        await daemon.pass_time(DUE)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@on_moving_clock
async def test_the_end_of_a_worker_that_kept_sign_ins_in_memory(tmp_path: Path, desktop: Desktop) -> None:
    """The one loss that memory only means: the token lives its life, and then only a sign-in helps, as is said."""
    async with daemon_with_keyring(tmp_path, desktop, signed_in=False) as daemon:
        await daemon.sign_in(ANN)
        first = await daemon.token(ANN)
        for process in daemon.workers():
            os.kill(process, 9)
        await forgotten(daemon)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("sign-in-required", True) == (row["state"], row["usable"])
        assert "kept in memory only, and the process that held it has ended" in daemon.text()
        assert f"`cms login {ANN}`" in row["next_move"]
        assert isinstance(await daemon.sign_in(ANN), Granted)
        assert "ok" == daemon.row(ANN)["state"]


@on_moving_clock
async def test_a_frozen_keyring(tmp_path: Path, desktop: Desktop) -> None:
    """A Secret Service that hangs is given up on in time, holds up no token that is held, and is used when it is back."""
    desktop.start_keyring()
    async with daemon_with_keyring(tmp_path, desktop) as daemon:
        first = await daemon.token(ANN)
        daemon.allow(1.0)
        desktop.freeze(frozen=True)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        assert ("failing", "timeout") == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"]["kind"])
        desktop.freeze(frozen=False)
        daemon.allow(QUESTION_SECONDS)
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        await until(lambda: daemon.row(ANN)["state"] == "ok", "the renewal")
        assert first != await daemon.token(ANN)


def replaced(key: Path) -> None:
    key.write_bytes(base64.b64encode(os.urandom(KEY_BYTES)))


def halved(key: Path) -> None:
    key.write_bytes(key.read_bytes()[:20])


def opened(key: Path) -> None:
    key.chmod(0o644)


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another-key": (replaced, "holds another key"),
    "gone": (Path.unlink, "does not exist"),
    "half": (halved, "holds no key"),
    "open": (opened, "it must be 0600 or less"),
}


@pytest.mark.parametrize("name", FILES)
@on_moving_clock
async def test_key_file(tmp_path: Path, name: str) -> None:
    """A key file that does not give the key any more is told as such; with the right one back all goes on."""
    spoil, says = FILES[name]
    key = tmp_path / "key"
    async with whole_daemon(tmp_path, (ANN, BOB), idle=HASTY) as daemon:
        await forgotten(daemon)
        first, right, vault = await daemon.token(ANN), key.read_bytes(), daemon.vault(ANN).read_bytes()
        keep_secret(right.decode())
        spoil(key)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        assert ["locked", "locked"] == [daemon.row(user)["state"] for user in (ANN, BOB)]
        assert says in daemon.text()
        await daemon.pass_time(HOUR)
        refusal = await daemon.refusal(ANN)
        assert "locked" == refusal["code"]
        assert (0, vault) == (daemon.entra.count("token", grant_type="refresh_token"), daemon.vault(ANN).read_bytes())

        await forgotten(daemon)
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(right)
        for user in (ANN, BOB):
            await daemon.recovery(user)
        assert ["ok", "ok"] == [daemon.row(user)["state"] for user in (ANN, BOB)]
