"""Tests of cms.system.network."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from structlog.testing import capture_logs
from support.trio_run import in_trio_clock, in_trio_jumps, jump, until

from cms.system import network


class Watched:
    """A watch over a socket whose other end the test holds."""

    def __init__(self) -> None:
        self.kernel, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.times: list[float] = []
        self.heard = trio.Event()

    def changed(self) -> None:
        self.times.append(trio.current_time())
        self.heard.set()
        self.heard = trio.Event()


@asynccontextmanager
async def watching() -> AsyncIterator[Watched]:
    watched = Watched()
    with watched.kernel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.watch, watched.changed, lambda: watched.ours)
            yield watched
            nursery.cancel_scope.cancel()


@in_trio_jumps
async def test_changes_are_told_once_they_have_settled() -> None:
    """The watch sleeps until the kernel says something; what comes with it within moments is one change."""
    async with watching() as watched:
        heard = watched.heard
        watched.kernel.send(b"an address")
        await trio.testing.wait_all_tasks_blocked()
        too_soon = list(watched.times)
        jump(network.SETTLING_SECONDS)
        await heard.wait()

    assert ([], 1) == (too_soon, len(watched.times))


@in_trio_jumps
async def test_more_changes_than_the_kernel_keeps_are_a_change() -> None:
    """An error of the socket says that something was missed, and the end of it ends the watch."""
    watched = Watched()
    watched.ours.send(b"unread: the close of this end is an error at the other")
    watched.kernel.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.watch, watched.changed, lambda: watched.ours)
        await until(lambda: nursery.child_tasks)
        await trio.testing.wait_all_tasks_blocked()
        jump(network.SETTLING_SECONDS)

    assert 1 == len(watched.times)


@in_trio_clock
async def test_a_kernel_that_does_not_tell_is_no_fault() -> None:
    """Where netlink is forbidden the watch ends with a line in the log, and the daemon goes on."""

    def forbidden() -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    with capture_logs() as lines:
        await network.watch(lambda: None, forbidden)

    assert ["changes of the network are not noticed here"] == [line["event"] for line in lines]


def test_the_kernel_lets_us_listen() -> None:
    """The socket is a netlink one that hears of addresses and routes, and is closed over exec."""
    with network.listen() as heard:
        assert (socket.AF_NETLINK, False) == (heard.family, heard.get_inheritable())
        assert network.GROUPS == heard.getsockname()[1]
