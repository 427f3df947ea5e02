"""The sockets of a configuration: whose rules hold where cms did not make the socket, and in which folders none is made."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from support.keeper import FakeKeeper
from support.sockets import STRANGER, TOKEN, A, Stopped, connections_are_from, read_all
from support.trio_run import in_trio

from cms.config.model import Config, ConfigError, FileSpec, SocketSpec
from cms.core.policy import NAMESPACE, Unmapped
from cms.daemon.serving.audit import Audit
from cms.daemon.serving.sockets import Inherited, Sockets, look_up
from cms.daemon.serving.token_files import TokenFiles
from cms.system import users
from cms.system.listener import ListenError


def spec_of(path: Path, mode: int = 0o600, users: tuple[str, ...] | None = None) -> SocketSpec:
    return SocketSpec(str(path), (A,), ("SMTP",), mode, users, None, None, 1)


def config_of(*specs: SocketSpec) -> Config:
    return Config("cms.cfg", (A,), specs, None, None, ())


@asynccontextmanager
async def running() -> AsyncIterator[Sockets]:
    keeper = FakeKeeper()
    keeper.open.set()
    sockets = Sockets(lambda _grant, _uid: keeper, Stopped(), Audit(Stopped().boot))
    async with trio.open_nursery() as nursery:
        await nursery.start(sockets.run)
        yield sockets
        nursery.cancel_scope.cancel()


async def serve(sockets: Sockets, spec: SocketSpec, inherited: Inherited) -> None:
    loaded = look_up(config_of(spec))
    sockets.apply(loaded, await sockets.open(loaded.config.sockets, inherited))
    # cms has looked whether systemd's socket is there, and finds its own connection.
    await trio.testing.wait_all_tasks_blocked()


async def ask(path: Path) -> bytes:
    client = await trio.open_unix_socket(str(path))
    await client.send_all(TOKEN.request())
    return await read_all(client)


def systemds(path: Path, mode: int = 0o666) -> Inherited:
    """Return a socket as systemd hands it over: it listens, and its unit says who may connect."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    path.chmod(mode)
    return {str(path.resolve()): made}


@in_trio
async def test_systemds_socket_is_held_to_the_configured_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could not connect to a socket as it is configured gets nothing, although systemd's lets everybody in."""
    path = tmp_path / "cms.sock"
    async with running() as sockets:
        await serve(sockets, spec_of(path), systemds(path))
        connections_are_from(monkeypatch, STRANGER, os.getuid())
        stranger, owner = await ask(path), await ask(path)
        # A reload that opens it.
        await serve(sockets, spec_of(path, 0o666), {})
        connections_are_from(monkeypatch, STRANGER)

        assert (b"", TOKEN.granted(), TOKEN.granted()) == (stranger, owner, await ask(path))


@in_trio
async def test_a_socket_of_cms_itself_is_the_kernels_to_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has come in through its mode, or by an access list that its owner has set, may ask."""
    path = tmp_path / "cms.sock"
    async with running() as sockets:
        await serve(sockets, spec_of(path), {})
        connections_are_from(monkeypatch, STRANGER)

        assert TOKEN.granted() == await ask(path)


@in_trio
async def test_systemds_socket_that_cms_has_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the mode that systemd's had, and is held to the configuration as that was."""
    path = tmp_path / "cms.sock"
    async with running() as sockets:
        await serve(sockets, spec_of(path), systemds(path))
        path.unlink()
        (listening,) = sockets.listeners
        listening.mend()
        await serve(sockets, spec_of(path), {})
        connections_are_from(monkeypatch, STRANGER, os.getuid())

        assert (b"", TOKEN.granted()) == (await ask(path), await ask(path))


@pytest.mark.parametrize(("named", "level"), [(None, "info"), (("65534",), "warning")])
@in_trio
async def test_a_number_that_stands_for_many_is_logged_once(
    tmp_path: Path,
    named: tuple[str, ...] | None,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the start, not at each reload; as a warning where the configuration names it."""
    monkeypatch.setattr(users, "unmapped", lambda: Unmapped(65534, 65534))
    path = tmp_path / "cms.sock"
    async with running() as sockets:
        for mode in (0o600, 0o666):
            await serve(sockets, spec_of(path, mode, named), {})
        connections_are_from(monkeypatch, 65534)

        assert b"" == await ask(path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if NAMESPACE in line]
    assert level in line
    assert "uid=65534" in line


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@in_trio
async def test_no_socket_is_made_where_others_can_write(tmp_path: Path, mode: int) -> None:
    """Nor is systemd's used: one sentence says why. A folder of one's own below passes."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    async with running() as sockets:
        passed = systemds(shared / "cms.sock")
        for inherited in ({}, passed):
            with pytest.raises(ListenError, match=f"the folder {shared} can be written by everyone, who could .*chmod"):
                await serve(sockets, spec_of(shared / "cms.sock"), inherited)
        for each in passed.values():
            each.close()
        with pytest.raises(ListenError, match="can be written by everyone"):
            await TokenFiles.check([FileSpec(str(shared / "token"), A, "SMTP", 0o600, newline=False, line=1)])
        shared.chmod(0o1777)
        (shared / "own").mkdir(mode=0o700)
        await TokenFiles.check([FileSpec(str(shared / "own" / "token"), A, "SMTP", 0o600, newline=False, line=1)])
        await serve(sockets, spec_of(shared / "own" / "cms.sock"), {})

        assert TOKEN.granted() == await ask(shared / "own" / "cms.sock")


@in_trio
async def test_a_folder_that_cannot_be_looked_at_is_the_token_files_own_trouble(tmp_path: Path) -> None:
    """It is tried again there: no reason not to start."""
    (tmp_path / "loop").symlink_to("loop")
    await TokenFiles.check([FileSpec(str(tmp_path / "loop" / "token"), A, "SMTP", 0o600, newline=False, line=1)])


def test_a_name_that_has_gone_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    """Between loading the file and looking the name up."""
    with pytest.raises(ConfigError, match="there is no no-such-user on this machine"):
        look_up(config_of(spec_of(tmp_path / "cms.sock", users=("no-such-user",))))
