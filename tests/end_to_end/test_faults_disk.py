"""A full or read-only disk, and damaged vault files: no sign-in is lost, and no wrong one is used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.mounts import SmallDisk, small_disk
from support.whole_daemon import ANN, BOB, HOUR, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.lifecycle import Granted, Transient
from cms.grants.vault.entry_file import VERSION
from cms.sandbox.faults import Fault

# Past the moment at which an hour's token is renewed, before the first retry.
DUE = 0.64 * HOUR


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """The small disk that the state folder is."""
    with small_disk() as mounted:
        yield mounted


def redemptions(daemon: WholeDaemon) -> int:
    return daemon.entra.count("token", grant_type="refresh_token")


@dataclass(frozen=True)
class Ailment:
    """What becomes of a disk. `says` and `move` are what the status tells of it."""

    begin: Callable[[SmallDisk], None]
    end: Callable[[SmallDisk], None]
    says: str
    move: str


AILMENTS = {
    "full": Ailment(SmallDisk.fill, SmallDisk.make_room, "No space left on device", "free space on that disk"),
    "read-only": Ailment(
        SmallDisk.forbid_writing, SmallDisk.allow_writing, "Read-only file system", "check that folder's owner"
    ),
}
ANY_AILMENT = pytest.mark.parametrize("name", AILMENTS)


@ANY_AILMENT
@on_moving_clock
async def test_nothing_is_redeemed_that_could_not_be_stored(tmp_path: Path, disk: SmallDisk, name: str) -> None:
    """The trouble is found before Entra is asked; the token lives its life, and a mended disk ends it all."""
    ailment = AILMENTS[name]
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        ailment.begin(disk)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("failing", True, "storage") == (row["state"], row["usable"], row["problem"]["kind"])
        assert ailment.says in daemon.text()
        assert ailment.move in row["next_move"]
        assert 1 == daemon.exit_code()

        await daemon.pass_time(HOUR)
        refusal = await daemon.refusal(ANN)
        assert "unavailable" == refusal["code"]
        assert ailment.says in refusal["message"]
        assert (0, vault) == (redemptions(daemon), daemon.vault(ANN).read_bytes())

        ailment.end(disk)
        await daemon.pass_time(refusal["retry_after"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", 1) == (daemon.row(ANN)["state"], redemptions(daemon))


@on_moving_clock
async def test_a_mark_proves_nothing(tmp_path: Path, disk: SmallDisk) -> None:
    """A folder that was closed after a redemption was cut off: nothing is redeemed, and no successor is thrown away."""
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        daemon.entra.refuse_reuse = True
        first = await daemon.token(ANN)
        daemon.vault(ANN).with_suffix(".redeeming").touch()
        disk.close()
        try:
            await daemon.pass_time(DUE)
            assert first == await daemon.token(ANN)
            assert "Operation not permitted" in daemon.text()
            assert isinstance(await daemon.sign_in(ANN), Transient)
        finally:
            disk.open()
        assert 0 == redemptions(daemon)
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)

        assert first != await daemon.token(ANN)
        assert ("ok", 1) == (daemon.row(ANN)["state"], redemptions(daemon))


@on_moving_clock
async def test_nothing_is_served_that_was_not_stored(tmp_path: Path, disk: SmallDisk) -> None:
    """A disk that fails while Entra answers: the new token is not served, and the old refresh token works again."""
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        daemon.entra.faults.add(Fault("silence"))
        daemon.awake(DUE)
        await until(lambda: daemon.entra.count("token", fault="silence"), "the silence")
        disk.forbid_writing()
        daemon.entra.faults.release()
        await daemon.settled()

        assert first == await daemon.token(ANN)
        assert "storage" == daemon.row(ANN)["problem"]["kind"]
        assert "the sign-in cannot be stored" in daemon.text()
        assert vault == daemon.vault(ANN).read_bytes()

        disk.allow_writing()
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await daemon.token(ANN)
        lost, again = (asked.refresh for asked in daemon.entra.asked("token", grant_type="refresh_token"))
        assert lost == again


@ANY_AILMENT
@on_moving_clock
async def test_a_sign_in_that_cannot_be_stored(tmp_path: Path, disk: SmallDisk, name: str) -> None:
    """A new sign-in on such a disk fails with the reason, and the old one is as good as it was."""
    ailment = AILMENTS[name]
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        ailment.begin(disk)
        outcome = await daemon.sign_in(ANN)

        assert isinstance(outcome, Transient)
        assert "storage" == outcome.trouble.kind
        assert ailment.says in outcome.trouble.message
        assert (first, vault) == (await daemon.token(ANN), daemon.vault(ANN).read_bytes())
        assert "ok" == daemon.row(ANN)["state"]
        ailment.end(disk)
        assert isinstance(await daemon.sign_in(ANN), Granted)


@on_moving_clock
async def test_a_sign_out_on_a_full_disk(tmp_path: Path, disk: SmallDisk) -> None:
    """`cms logout` needs no room."""
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        disk.fill()
        result = await daemon.app.commands.logout(ANN)

        assert (True, False) == (result.ok, daemon.vault(ANN).exists())
        assert "sign-in-required" == (await daemon.refusal(ANN))["code"]


@on_moving_clock
async def test_a_sign_out_on_a_read_only_disk(tmp_path: Path, disk: SmallDisk) -> None:
    """`cms logout` says that it could not delete the sign-in, and the person stays signed in."""
    async with whole_daemon(tmp_path, state=disk.folder) as daemon:
        disk.forbid_writing()
        result = await daemon.app.commands.logout(ANN)

        assert (False, True) == (result.ok, daemon.vault(ANN).exists())
        assert "Read-only file system" in result.message
        await daemon.token(ANN)
        disk.allow_writing()
        assert (await daemon.app.commands.logout(ANN)).ok


# What may befall a vault file.


def halved(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def cut_in_the_header(raw: bytes) -> bytes:
    return raw[:100]


def flipped(raw: bytes) -> bytes:
    """Return the file with one bit of its last byte changed."""
    return raw[:-1] + bytes([raw[-1] ^ 1])


def redirected(raw: bytes) -> bytes:
    """Return the file with something more in its header."""
    head, _, body = raw.partition(b"\n")
    header = json.loads(head) | {"home_account": "somebody.else"}
    return json.dumps(header, sort_keys=True).encode() + b"\n" + body


def elsewhere(raw: bytes) -> bytes:
    """Return the file as if it belonged to another authority."""
    head, _, body = raw.partition(b"\n")
    header = json.loads(head) | {"authority": "https://evil.example.test/common"}
    return json.dumps(header, sort_keys=True).encode() + b"\n" + body


def _of_version(raw: bytes, version: int) -> bytes:
    return raw.replace(b'"version": %d' % VERSION, b'"version": %d' % version, 1)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (halved, "was truncated or tampered with"),
    "truncated-header": (cut_in_the_header, "is not a vault file, or a truncated one"),
    "empty": (lambda _: b"", "is not a vault file, or a truncated one"),
    "flipped": (flipped, "was truncated or tampered with"),
    "longer": (lambda raw: raw + b"\0", "was truncated or tampered with"),
    "another-account": (redirected, "was truncated or tampered with"),
    "another-authority": (elsewhere, "belongs to another sign-in"),
    "noise": (lambda raw: os.urandom(len(raw)), "is not a vault file"),
    "past": (lambda raw: _of_version(raw, 0), "is of a format that this cms does not know"),
}


@pytest.mark.parametrize("name", DAMAGES)
@on_moving_clock
async def test_a_damaged_vault_file(tmp_path: Path, name: str) -> None:
    """It is told with its name and never redeemed; the token lives its life; a restored file needs nothing more."""
    damage, says = DAMAGES[name]
    async with whole_daemon(tmp_path) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        damaged = damage(vault)
        daemon.vault(ANN).write_bytes(damaged)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("failing", True, "vault-damaged") == (row["state"], row["usable"], row["problem"]["kind"])
        assert f"{daemon.vault(ANN)} {says}" in daemon.text()
        assert f"`cms login {ANN}`" in row["next_move"]

        await daemon.pass_time(HOUR)
        refusal = await daemon.refusal(ANN)
        assert ("unavailable", 0) == (refusal["code"], redemptions(daemon))
        assert says in refusal["message"]
        assert damaged == daemon.vault(ANN).read_bytes(), "it is not touched"

        daemon.vault(ANN).write_bytes(vault)
        await daemon.pass_time(refusal["retry_after"] + 1)
        assert first != await daemon.token(ANN)
        assert ("ok", 0) == (daemon.row(ANN)["state"], daemon.exit_code())


@on_moving_clock
async def test_a_vault_file_of_a_newer_cms(tmp_path: Path) -> None:
    """After a step back to an older cms: it is told, and neither redeemed, replaced nor deleted; the newer one goes on."""
    async with whole_daemon(tmp_path) as daemon:
        first, vault = await daemon.token(ANN), daemon.vault(ANN).read_bytes()
        newer = _of_version(vault, VERSION + 1)
        daemon.vault(ANN).write_bytes(newer)
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        assert ("failing", "vault-newer") == (daemon.row(ANN)["state"], daemon.row(ANN)["problem"]["kind"])
        assert "was written by a newer cms than this one" in daemon.text()
        assert "install that cms again" in daemon.row(ANN)["next_move"]
        refused = await daemon.sign_in(ANN)
        assert isinstance(refused, Transient)
        assert ("vault-newer", []) == (refused.trouble.kind, daemon.links[1:])
        assert not (await daemon.app.commands.logout(ANN)).ok
        assert (newer, 0) == (daemon.vault(ANN).read_bytes(), redemptions(daemon))

        daemon.vault(ANN).write_bytes(vault)
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert first != await daemon.token(ANN)


@on_moving_clock
async def test_a_sign_in_over_a_damaged_vault_file(tmp_path: Path) -> None:
    """Signing in again also recovers; cms keeps the damaged file beside the new one for inspection."""
    async with whole_daemon(tmp_path) as daemon:
        damaged = halved(daemon.vault(ANN).read_bytes())
        daemon.vault(ANN).write_bytes(damaged)
        await daemon.pass_time(DUE)
        assert isinstance(await daemon.sign_in(ANN), Granted)
        await daemon.pass_time(DUE)

        await daemon.token(ANN)
        assert "ok" == daemon.row(ANN)["state"]
        assert [damaged] == [path.read_bytes() for path in daemon.state.glob("*.damaged-*")]


@on_moving_clock
async def test_a_vault_file_in_anothers_place(tmp_path: Path) -> None:
    """A file that was copied over another account's never gives the one account's mail to the other."""
    async with whole_daemon(tmp_path, (ANN, BOB)) as daemon:
        anns = daemon.vault(ANN).read_bytes()
        daemon.vault(ANN).write_bytes(daemon.vault(BOB).read_bytes())
        await daemon.pass_time(DUE)

        assert "vault-damaged" == daemon.row(ANN)["problem"]["kind"]
        assert "belongs to another sign-in" in daemon.text()
        assert 0 == daemon.entra.count("token", user=ANN, grant_type="refresh_token")
        assert 1 == daemon.entra.count("token", user=BOB, grant_type="refresh_token"), "his own"
        await daemon.token(ANN)
        await daemon.token(BOB)
        daemon.vault(ANN).write_bytes(anns)
        await daemon.pass_time(daemon.row(ANN)["problem"]["retry_in"] + 1)
        assert ["ok", "ok"] == [daemon.row(user)["state"] for user in (ANN, BOB)]


@on_moving_clock
async def test_a_vault_file_that_is_gone(tmp_path: Path) -> None:
    """After a person deletes the vault file, the current token serves until it expires; then cms asks for a sign-in."""
    async with whole_daemon(tmp_path) as daemon:
        first = await daemon.token(ANN)
        daemon.vault(ANN).unlink()
        await daemon.pass_time(DUE)

        assert first == await daemon.token(ANN)
        row = daemon.row(ANN)
        assert ("sign-in-required", True, "no-sign-in") == (row["state"], row["usable"], row["problem"]["kind"])
        assert f"`cms login {ANN}`" in row["next_move"]
        assert isinstance(await daemon.sign_in(ANN), Granted)
        assert "ok" == daemon.row(ANN)["state"]
