"""Tests of cms.system.network."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_interface

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.programs import require_program, require_root
from support.trio_run import in_trio_clock, in_trio_jumps, jump, until
from support.waiting import PATIENCE

from cms.system import network
from cms.system.network import Connection

NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE = 20, 21, 24, 25
MULTIPART = 2
LINK = 253


def report(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a message of rtnetlink, as the kernel aligns it."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def address(kind: int, text: str, *, interface: int = 2, scope: int = 0, flags: int = 0, life: int = 3600) -> bytes:
    """Return the report of an address with its prefix; `life` is in seconds."""
    found = ip_interface(text)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, found.network.prefixlen, 0, scope, interface)
    cache = attribute(6, struct.pack("=IIII", life, life, 0, 0))
    return report(kind, head + attribute(1, found.ip.packed) + cache, flags)


def route(kind: int, gateway: str = "192.0.2.1", *, prefix: int = 0, interface: int = 2) -> bytes:
    """Return the report of a route, a default one without a prefix."""
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, 254, 3, 0, 1, 0)
    away = attribute(5, ip_interface(gateway).ip.packed)
    return report(kind, head + attribute(4, struct.pack("=I", interface)) + away)


HOME = address(NEW_ADDRESS, "192.0.2.7/24", flags=MULTIPART) + address(NEW_ADDRESS, "2001:db8::7/64", flags=MULTIPART)


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        (address(NEW_ADDRESS, "198.51.100.7/24"), True),
        (address(NEW_ADDRESS, "192.0.2.7/24", interface=3), True),
        (address(NEW_ADDRESS, "10.8.0.2/32", interface=9), True),
        (address(DEL_ADDRESS, "192.0.2.7/24"), True),
        (address(DEL_ADDRESS, "192.0.2.7/24") + address(NEW_ADDRESS, "192.0.2.7/24"), True),
        (route(NEW_ROUTE), True),
        (route(DEL_ROUTE), True),
        (route(NEW_ROUTE, prefix=1, interface=9), True),
        (b"no report", True),
        (address(NEW_ADDRESS, "198.51.100.7/24")[:-3], True),
        (report(NEW_ADDRESS, b"short"), True),
        (b"", False),
        (HOME, False),
        (address(NEW_ADDRESS, "192.0.2.7/24", life=7200), False),
        (address(NEW_ADDRESS, "2001:db8::7/64", life=7200), False),
        (address(NEW_ADDRESS, "2001:db8::abcd/64") + address(DEL_ADDRESS, "2001:db8::abcd/64"), False),
        (address(NEW_ADDRESS, "fe80::1/64", interface=12, scope=LINK), False),
        (address(DEL_ADDRESS, "fe80::1/64", interface=12, scope=LINK), False),
        (route(NEW_ROUTE, prefix=24), False),
        (route(DEL_ROUTE, prefix=16), False),
        (report(3, b""), False),
        (report(16, b"a link"), False),
    ],
)
def test_what_is_a_change(told: bytes, changes: bool) -> None:
    """Another network or default route is; what is announced anew, privacy addresses, containers and routes are not."""
    connection = Connection()
    connection.changes(HOME)

    assert changes == connection.changes(told)


def test_what_was_told_before_is_no_change() -> None:
    """A default route that is set again with every router advertisement is a change once, until it is gone."""
    connection = Connection()
    told = [route(NEW_ROUTE), route(NEW_ROUTE), route(DEL_ROUTE), route(NEW_ROUTE), route(NEW_ROUTE, "192.0.2.9")]

    assert [True, False, True, True, True] == [connection.changes(each) for each in told]


class Watched:
    """A watch over a socket whose other end the test holds."""

    def __init__(self) -> None:
        self.kernel, self.ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.times: list[float] = []
        self.stirs = 0
        self.heard = trio.Event()

    def stirred(self) -> None:
        self.stirs += 1
        self.heard.set()
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
            watch = partial(network.watch, watched.changed, lambda: watched.ours, stirred=watched.stirred)
            nursery.start_soon(watch)
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
async def test_what_comes_together_is_one_change() -> None:
    """A VPN that comes up in ten steps, announced addresses among them; what changes nothing is told apart."""
    async with watching() as watched:
        for told in (HOME, address(NEW_ADDRESS, "192.0.2.7/24")):
            heard = watched.heard
            watched.kernel.send(told)
            await trio.testing.wait_all_tasks_blocked()
            jump(network.SETTLING_SECONDS)
            await heard.wait()
        quiet = (watched.stirs, list(watched.times))
        heard = watched.heard
        for number in range(10):
            watched.kernel.send(address(NEW_ADDRESS, f"10.{number // 5}.0.2/32", interface=9))
        await trio.testing.wait_all_tasks_blocked()
        jump(network.SETTLING_SECONDS)
        await heard.wait()

    assert ((2, []), 1, 2) == (quiet, len(watched.times), watched.stirs)


# Runs in a network namespace of its own: says after each step whether it was a change.
_STEPS = """
import json, subprocess, sys, trio
from cms.system import network
told = []

async def main():
    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel(100)
        watch = lambda: network.watch(lambda: send.send_nowait(True), stirred=lambda: send.send_nowait(False))
        nursery.start_soon(watch)
        await receive.receive()  # the addresses that there are
        for step in json.loads(sys.argv[1]):
            await trio.run_process(["ip", *step.split()])
            told.append(await receive.receive())
        nursery.cancel_scope.cancel()

network.SETTLING_SECONDS = 0.3
trio.run(main)
print(json.dumps(told))
"""


def test_the_kernel_tells_changes_from_what_is_none() -> None:
    """With the real kernel: another network, a default route; and an address that is announced anew."""
    require_root()
    require_program("ip", "iproute2")
    steps = {
        "link set lo up": False,
        "address add 192.0.2.7/24 dev lo": True,
        "address change 192.0.2.7/24 dev lo valid_lft 3600 preferred_lft 1800": False,
        "address add 192.0.2.8/24 dev lo": False,
        "route add default via 192.0.2.1 dev lo": True,
        "route add 198.51.100.0/24 via 192.0.2.1 dev lo": False,
        "-6 address add 2001:db8::7/64 dev lo": True,
        "-6 address del 2001:db8::7/64 dev lo": True,
        "route del default": True,
    }
    unshare = [require_program("unshare", "util-linux"), "--net", sys.executable, "-c", _STEPS, json.dumps(list(steps))]
    done = subprocess.run(unshare, capture_output=True, text=True, check=True, timeout=PATIENCE)

    assert list(steps.values()) == json.loads(done.stdout)


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
