"""Hosts with one sign-in: whole daemons, each with its own folders, over one database and one provider."""

from __future__ import annotations

import base64
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import Base, Cluster, new_cluster
from support.whole_daemon import ANN, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.lifecycle import token_hash
from cms.grants.vault.keyring import KEY_BYTES
from cms.sandbox.entra import Entra


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with new_cluster() as running:
        yield running


class Site:
    """What the hosts have in common."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.base = Base(cluster)
        self._folder = folder
        for name in ("fleet.key", "tokens.key"):
            (folder / name).write_bytes(base64.b64encode(secrets.token_bytes(KEY_BYTES)))
            (folder / name).chmod(0o600)

    def place(self, name: str) -> Path:
        """Return the folder of a host."""
        folder = self._folder / name
        folder.mkdir()
        return folder

    def directive(self, *, relay: bool = False) -> str:
        """Return what a host's configuration says of the fleet."""
        fleet = self.base.fleet(self._folder, relay=relay)
        key = "" if relay else f'key=File("{self._folder}/fleet.key"), '
        tokens = f'token_key=File("{self._folder}/tokens.key")'
        return f'Fleet("{fleet.dsn}", {key}{tokens}, schema="{fleet.schema}")\n'


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    return Site(cluster, tmp_path)


def redeemed(entra: Entra) -> int:
    return entra.count("token", grant_type="refresh_token")


async def state(daemon: WholeDaemon, wanted: str) -> None:
    """Wait until `cms status` says this of Ann's account. Nobody asks for a token meanwhile."""
    await until(lambda: daemon.row(ANN)["state"] == wanted, wanted)


@on_moving_clock
async def test_one_sign_in_serves_all_hosts_and_one_sign_out_ends_it_on_all(site: Site) -> None:
    """The second host asks the provider nothing. Each hears what the other does."""
    async with (
        whole_daemon(site.place("one"), more=site.directive()) as one,
        whole_daemon(site.place("other"), more=site.directive(), server=one.entra, signed_in=False) as other,
    ):
        first = await one.token(ANN)
        assert first == await other.recovery(ANN)
        assert 0 == redeemed(one.entra)

        out = await one.app.commands.logout(ANN)
        assert f"{ANN}: signed out on every host of the fleet" in out.message
        # Whether both listen yet is a matter of time.
        assert re.match(r"[12] hosts? (is|are) connected|No host listens", out.hint)
        await state(other, "sign-in-required")
        assert "error" in await other.told(ANN)

        await other.sign_in(ANN)
        await state(one, "ok")
        assert await other.token(ANN) == await one.token(ANN) != first
        assert 0 == redeemed(one.entra)


@on_moving_clock
async def test_a_host_without_the_key_serves_tokens_and_has_others_by_its_wish(site: Site) -> None:
    """A mail server has refused its token: the host with the key hears of that and redeems, once, for both."""
    async with (
        whole_daemon(site.place("one"), more=site.directive()) as one,
        whole_daemon(site.place("relay"), more=site.directive(relay=True), server=one.entra, signed_in=False) as relay,
    ):
        first = await relay.recovery(ANN)
        later = ", ".join(f"{each} = {each} - interval '10 minutes'" for each in ("expires_at", "refresh_at"))
        site.base.sql(f"UPDATE cms.tokens SET {later} RETURNING 1")
        await relay.pass_time(2.0)
        second = await relay.token(ANN, f"rejected={token_hash(first)}")
        await until(lambda: redeemed(one.entra) == 1, "one redemption")

        assert first == await one.token(ANN) or second == await one.token(ANN)
        assert second != first
        assert "relay" == (await relay.sign_in(ANN)).trouble.kind  # type: ignore[union-attr]  # it is refused


@on_moving_clock
async def test_a_sign_out_is_heard_by_a_host_whose_worker_was_dead(site: Site) -> None:
    """Another process is started for that alone."""
    async with (
        whole_daemon(site.place("one"), more=site.directive()) as one,
        whole_daemon(site.place("other"), more=site.directive(), server=one.entra, signed_in=False) as other,
    ):
        await other.recovery(ANN)
        for each in other.workers():
            os.kill(each, signal.SIGKILL)
        assert (await one.app.commands.logout(ANN)).ok

        await state(other, "sign-in-required")


@on_moving_clock
async def test_a_daemon_that_starts_without_the_database_serves_what_it_was_given(site: Site, cluster: Cluster) -> None:
    """Its journal has the token. Once the database is back, what was done meanwhile to the sign-in is heard."""
    place = site.place("one")
    with Entra([ANN]) as entra:
        async with whole_daemon(place, more=site.directive(), server=entra) as one:
            held = await one.token(ANN)
        cluster.stop()
        try:
            async with whole_daemon(place, more=site.directive(), server=entra, signed_in=False) as one:
                away = await one.token(ANN)
                cluster.start()
                async with whole_daemon(
                    site.place("other"), more=site.directive(), server=entra, signed_in=False
                ) as other:
                    # On a busy machine the database may answer too slowly at first.
                    assert held == away == await other.recovery(ANN)
                    assert (await other.app.commands.logout(ANN)).ok
                await state(one, "sign-in-required")
        finally:
            cluster.stop()
            cluster.start()
