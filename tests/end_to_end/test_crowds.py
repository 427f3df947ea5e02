"""Many clients at once, at the real daemon: one request to Entra for all, and no client delays another."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import proc
from support.broker import Broker
from support.daemon import account_line, ask, daemons
from support.ports import free_port, listens
from support.programs import require_program, require_root
from support.reachable import ALICE, Installation
from support.waiting import PATIENCE, until

from cms.core.lifecycle import PAUSE_AFTER_GRANT
from cms.sandbox.entra import Entra
from cms_oauth import wire

USER = "crowd@example.test"
OTHER = "other@example.test"
REQUEST = f"SMTP {USER}".encode()
CROWD = 50
SILENT = 1000
FEW_FILES = 256
# Together with the daemon's cap on unfinished requests more than FEW_FILES.
WAITING = 180

# Clients that never end their request, one after the other: enough for what each of them leaves behind to show.
ENDLESS_CLIENTS = 4
# What a daemon may grow by, whatever it is sent: buffers and the allocator's slack, no request.
SLACK = 8 * proc.MB

# Descriptors that a daemon which has just started may still close.
STARTING = 3

# Seconds of the processor in one second: an accept() that is tried again at once takes all of it.
BUSY = 0.3

# What a shortage of descriptors may add to the log in a second of it.
FEW_LINES = 5
SHORTAGE = "cannot accept connections for now"


@pytest.fixture(scope="module")
def page() -> int:
    """The port of the sign-in page."""
    return free_port()


@pytest.fixture(scope="module")
def broker(installation: Installation, page: int) -> Iterator[Broker]:
    """An ordinary user's daemon, signed in as USER, not as OTHER, whose page is there therefore."""
    require_root()
    with Entra() as entra, daemons(installation) as make:
        daemon = make(ALICE)
        other = account_line("other", OTHER, entra).replace("http://localhost/", f"http://127.0.0.1:{page}/back")
        other += f'CredentialServer("{daemon.sockets}/other.sock", accounts=[other])\n'
        broker = Broker(daemon, entra, USER, more=other)
        daemon.sign_in(USER, entra)
        yield broker


@pytest.fixture
def few_files() -> tuple[str, ...]:
    """What gives a command few descriptors."""
    return require_program("prlimit", "util-linux"), f"--nofile={FEW_FILES}:{FEW_FILES}"


@pytest.fixture
def cramped(broker: Broker, few_files: tuple[str, ...]) -> Iterator[Broker]:
    """The same daemon with few descriptors; as it was after the test."""
    broker.daemon.stop()
    broker.daemon.start(before=few_files)
    until(lambda: ask(broker.path, REQUEST), "a token")
    yield broker
    broker.daemon.stop()
    # With what the start needs, a worker above all: the next test counts descriptors.
    broker.daemon.resume(broker.path, USER)


def answered(reply: bytes) -> bool:
    """Whether a reply is a token for USER."""
    return reply.startswith(f"user={USER}\x01auth=Bearer ".encode())


def age(broker: Broker) -> float:
    """Return how many seconds ago Entra gave the token that is held."""
    left: int = json.loads(ask(broker.path, b"SMTP,json\n"))["expires_in"]
    return broker.entra.token_life - left


def dial(path: str, sent: bytes) -> socket.socket:
    """Connect, and send something."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(path)
    if sent:
        client.sendall(sent)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def still_open(client: socket.socket) -> bool:
    """Whether the daemon has not ended this connection, of which nothing has been read."""
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def at_last(path: str, client: socket.socket, asked: bytes = REQUEST) -> bytes:
    """Read to the end. A client whose time is over before there is a token, as on a busy machine, asks again."""
    return read_all(client) or until(lambda: ask(path, asked), "a token")


@contextmanager
def crowd(path: str, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Yield so many connections, of which each has sent this and says nothing more."""
    with proc.many_files(number + FEW_FILES), ExitStack() as stack:
        yield [stack.enter_context(dial(path, sent)) for _ in range(number)]


def test_fifty_cold_clients_cause_one_request(broker: Broker) -> None:
    """However many wait for a token that is not there yet, Entra is asked once, and all of them get it."""
    before = broker.fetches
    with broker.waiting_for_entra():
        idle = proc.descriptors(broker.pid)
        with crowd(broker.path, CROWD, REQUEST + b"\n") as clients:
            until(lambda: proc.descriptors(broker.pid) >= idle + CROWD - STARTING, "fifty clients inside")
            broker.entra.faults.clear()
            replies = {at_last(broker.path, client) for client in clients}

    assert (1, 1) == (len(replies), broker.fetches - before)
    assert answered(replies.pop())


def test_fifty_cold_programs_cause_one_request(broker: Broker) -> None:
    """The same with fifty real `cms-oauth`, of which some wait and the rest come when the token is there."""
    before = broker.fetches
    command = [broker.daemon.installation.command("cms-oauth"), f"--user={USER}", f"--cms_sock={broker.path}"]

    def fetched() -> str:
        return broker.daemon.token(broker.path, USER).stdout

    with broker.waiting_for_entra(), ExitStack() as stack:
        idle = proc.descriptors(broker.pid)
        programs = [
            stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=broker.daemon.environment)
            )
            for _ in range(CROWD)
        ]
        until(lambda: proc.descriptors(broker.pid) > idle, "the first program inside")
        broker.entra.faults.clear()
        said = {program.communicate()[0] for program in programs}
        ended = {program.returncode for program in programs}
        # Those whose time was over before there was a token, as on a busy machine, come again.
        said = said - {""} | {until(fetched, "a token")}

    assert ended <= {0, os.EX_TEMPFAIL}
    assert (1, 1) == (len(said), broker.fetches - before)
    assert answered(said.pop().encode())


@pytest.mark.parametrize("sent", [b"", b"SMTP "], ids=["silent", "stuck"])
def test_a_thousand_silent_clients_do_not_delay_the_next(broker: Broker, sent: bytes) -> None:
    """While a thousand clients hold idle connections, the daemon answers the next before a deadline frees a place."""
    with crowd(broker.path, SILENT, sent) as clients:
        reply = ask(broker.path, REQUEST)
        # The youngest are still inside: it was not their deadline that made room.
        waiting = [client for client in clients if still_open(client)]

    assert answered(reply)
    assert len(waiting) > CROWD


@pytest.mark.parametrize("sent", [b"", b"SMTP "], ids=["silent", "stuck"])
def test_nor_with_few_descriptors(cramped: Broker, sent: bytes) -> None:
    """The same where the daemon may open 256 files only; nothing is written about it either."""
    with crowd(cramped.path, SILENT, sent) as clients:
        before = len(cramped.daemon.log)
        reply = ask(cramped.path, REQUEST)
        waiting = [client for client in clients if still_open(client)]
        said = cramped.daemon.log[before:].splitlines()

    assert answered(reply)
    assert len(waiting) > CROWD
    assert len(said) < CROWD


def test_silent_clients_are_dropped_in_the_end(broker: Broker) -> None:
    """Those that say nothing are given nothing, and after their deadline nothing is left of them."""
    idle = proc.descriptors(broker.pid)
    with crowd(broker.path, CROWD, b"SMTP") as clients:
        replies = {read_all(client) for client in clients}

    assert {b""} == replies
    until(lambda: proc.descriptors(broker.pid) <= idle, "no descriptor of theirs left")


def test_fifty_clients_with_one_refused_token_cause_one_request(broker: Broker) -> None:
    """A token that a mail server has refused is replaced once, for all who say so at the same time."""
    until(lambda: age(broker) > PAUSE_AFTER_GRANT, "a token that did not come only just now")
    refused = ask(broker.path, b"SMTP,token\n")
    name = hashlib.sha256(refused).hexdigest()[: wire.HASH_DIGITS]
    before = broker.fetches

    request = f"SMTP,token,rejected={name} {USER}\n".encode()
    with crowd(broker.path, CROWD, request) as clients:
        replies = {at_last(broker.path, client, request) for client in clients}

    assert (1, 1) == (len(replies), broker.fetches - before)
    assert replies.isdisjoint({refused, b""})


def test_a_shortage_of_descriptors_is_survived(broker: Broker, page: int, few_files: tuple[str, ...]) -> None:
    """More waiting clients than descriptors: no busy loop, a line in the log, and all are answered in the end."""
    with broker.waiting_for_entra(*few_files):
        until(lambda: listens(page), "the sign-in page")
        before = len(broker.daemon.log)
        with crowd(broker.path, 2 * FEW_FILES, REQUEST + b"\n") as clients:
            until(lambda: SHORTAGE in broker.daemon.log[before:], "no descriptor left")
            # The sign-in page cannot accept its browser either.
            with socket.create_connection(("127.0.0.1", page)):
                used = cpu_of_a_second(broker.pid)
            said = broker.daemon.log[before:]
            broker.entra.faults.clear()
            replies = {at_last(broker.path, client) for client in clients}

    assert 1 == len(replies)
    assert answered(replies.pop())
    assert used < BUSY
    assert 1 == said.count(SHORTAGE)
    assert len(said.splitlines()) < FEW_LINES


def test_a_shortage_that_passes_and_comes_again_is_said_once(broker: Broker, few_files: tuple[str, ...]) -> None:
    """Where silent clients make room for others, one by one, the log does not tell of each."""
    with broker.waiting_for_entra(*few_files):
        idle = proc.descriptors(broker.pid)
        before = len(broker.daemon.log)
        with crowd(broker.path, WAITING, REQUEST + b"\n") as clients:
            until(lambda: proc.descriptors(broker.pid) >= idle + WAITING - STARTING, "those who wait inside")
            with crowd(broker.path, SILENT, b"SMTP "):
                broker.entra.faults.clear()
                replies = {at_last(broker.path, client) for client in clients}

    assert 1 == len(replies)
    assert answered(replies.pop())
    assert 1 == broker.daemon.log[before:].count(SHORTAGE)


def cpu_of_a_second(pid: int) -> float:
    """Watch a process for a second; return the processor time that it used."""
    used, since = proc.cpu_seconds(pid), time.monotonic()
    until(lambda: time.monotonic() - since > 1, "a second")
    return proc.cpu_seconds(pid) - used


def doors(broker: Broker, prompt: dict[str, Any]) -> dict[str, tuple[socket.AddressFamily, Any]]:
    """Return where the daemon listens."""
    page = urlsplit(prompt["page"])
    return {
        "token": (socket.AF_UNIX, broker.path),
        "control": (socket.AF_UNIX, broker.control),
        "page": (socket.AF_INET, (page.hostname, page.port)),
    }


@pytest.mark.parametrize("door", ["token", "control", "page"])
def test_an_endless_request_costs_no_memory(broker: Broker, door: str) -> None:
    """The daemon drops a client that sends without end, and its memory does not grow."""
    with broker.signing_in("browser") as prompt:
        family, address = doors(broker, prompt)[door]
        ask(broker.path, REQUEST)
        proc.forget_peak(broker.pid)
        before = proc.memory(broker.pid)
        for _ in range(ENDLESS_CLIENTS):
            pour(family, address)
        grown = proc.peak(broker.pid) - before

    assert grown < SLACK
    assert answered(ask(broker.path, REQUEST))


def pour(family: socket.AddressFamily, address: Any) -> None:
    """Send without an end of line until the daemon does not want any more."""
    deadline = time.monotonic() + PATIENCE
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        with suppress(ConnectionError):
            while client.send(b"A" * proc.MB):
                assert time.monotonic() < deadline, "the daemon reads on and on"
