from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from support.trio_run import in_trio_clock

from cms.core.hooks import EVENTS
from cms.core.notices import Notice
from cms.daemon import hooks
from cms.system import sd_notify
from cms.system.sd_notify import Systemd


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """What systemd listens at, and the name it gives to it."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@cms-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.setblocking(False)
        yield sock, name


def heard(sock: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(sock.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_it_speaks_to_the_socket_that_systemd_named(manager: tuple[socket.socket, str]) -> None:
    """Ready, one line of status, stopping: each a datagram; the variable is gone from the environment."""
    sock, name = manager
    environ = {"NOTIFY_SOCKET": name, "HOME": "/"}
    systemd = Systemd(environ, 1)
    systemd.ready()
    systemd.status("2 ok\nREADY=0  x")
    systemd.stopping()

    assert ["READY=1", "STATUS=2 ok READY=0 x", "STOPPING=1"] == heard(sock)
    assert ({"HOME": "/"}, True) == (environ, systemd.listens)


def test_a_reload_carries_its_moment(manager: tuple[socket.socket, str]) -> None:
    """Type=notify-reload wants CLOCK_MONOTONIC in microseconds in the same datagram."""
    sock, name = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Systemd({"NOTIFY_SOCKET": name}, 1).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    first, second = heard(sock)[0].split("\n")
    assert "RELOADING=1" == first
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after


def test_a_status_has_an_end(manager: tuple[socket.socket, str]) -> None:
    """A long status is cut: a datagram that is too long would be lost whole."""
    sock, name = manager
    Systemd({"NOTIFY_SOCKET": name}, 1).status("x" * 10_000)

    assert len("STATUS=") + sd_notify.MAX_STATUS == len(heard(sock)[0])


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative/path", "/nowhere/at/all", "@nobody-listens-here"])
def test_systemd_need_not_listen(name: str) -> None:
    """Without systemd, or if it cannot be reached, nothing happens."""
    Systemd({"NOTIFY_SOCKET": name}, 1).ready()


def test_no_variable_no_word() -> None:
    """Outside systemd there is no service manager to notify."""
    assert not Systemd({}, 1).listens


def test_the_watchdog_is_fed_twice_as_often_as_it_wants(manager: tuple[socket.socket, str]) -> None:
    """Three signs of life in two periods of 60 s, from the loop itself."""
    sock, name = manager

    @in_trio_clock
    async def run() -> None:
        systemd = Systemd({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 7)
        with trio.move_on_after(61.0):
            await systemd.watchdog()

    run()

    assert ["WATCHDOG=1"] * 3 == heard(sock)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"},
        {"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "7"},
        {"WATCHDOG_USEC": "0"},
    ],
)
def test_no_watchdog_no_wakeups(environ: dict[str, str]) -> None:
    """Where none is wanted, or of another process, the task ends at once."""

    @in_trio_clock
    async def run() -> None:
        await Systemd(environ, 7).watchdog()

        assert 0.0 == trio.current_time()

    run()


def test_tasks_of_one_period_wake_together() -> None:
    """Whenever they have begun, and however long each of them works: the process wakes up once for both."""
    woken = set[float]()

    async def work(after: float, takes: float) -> None:
        await trio.sleep(after)
        while True:
            await sd_notify.beat(30.0)
            woken.add(trio.current_time())
            await trio.sleep(takes)

    @in_trio_clock
    async def run() -> None:
        with trio.move_on_after(100.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, 0.0, 0.0)
                nursery.start_soon(work, 7.0, 2.0)

    run()

    assert {30.0, 60.0, 90.0} == woken


@pytest.mark.parametrize("event", EVENTS)
def test_notices_are_lines_of_the_log(event: str) -> None:
    """What is wrong is a warning with the next move, what is well again is not."""
    with capture_logs() as lines:
        hooks.tell(Notice(event, "a@example.test", "what happened", "the next move"))
        hooks.tell(Notice(event, "a@example.test", "what happened"))

    level = "info" if event in {"recovered", "signed-in", "refreshed"} else "warning"
    line = {"event": "what happened", "log_level": level, "notice": event, "account": "a@example.test"}
    assert [line | {"do": "the next move"}, line] == lines
