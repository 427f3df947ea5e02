"""Nonsense at every door of the real daemon: no traceback, no credential, nothing left behind, and it still serves."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import proc
from support.broker import Broker, signed_in
from support.daemon import ask
from support.programs import require_root
from support.reachable import ALICE, Installation
from support.waiting import PATIENCE, until

from cms_oauth import wire
from cms_oauth.addresses import bare

USER = "fuzz@example.test"
SEED = 20_250_101

TOKEN_STRINGS = 100_000
CONTROL_STRINGS = 4_000
PAGE_STRINGS = 2_000

# Open at one time: below the daemon's cap, so that each string is really read.
BATCH = 100
# The page serves 32 connections at most.
PAGE_BATCH = 16
CONTROL_BATCH = 32

# What a daemon may have grown by at the end: the allocator's slack, and the caches of what it had not done before.
SLACK = 4 * proc.MB

# docs/protocol.md's grammar for this daemon: the requests that may be answered with a token.
_OPTION = rb"(xoauth2|xoauth2-b64|oauthbearer|oauthbearer-b64|token|json|why|min=[0-9]{1,5}|rejected=[0-9a-f]{16})"
_GOOD = re.compile(rb"(SMTP|IMAP)(," + _OPTION + rb")*( (?P<user>[^ \r\n]*))?\r?\n?")

_SEEDS = (
    b"SMTP fuzz@example.test\n",
    b"IMAP,json fuzz@example.test\n",
    b"SMTP,oauthbearer-b64,min=300 fuzz@example.test",
    b"SMTP,xoauth2-b64,rejected=0123456789abcdef\n",
    b"POP,token nobody@example.test\r\n",
    b"SMTP,json,min=99999\n",
    b"SMTP,token,why nobody@example.test\n",
)
_WORDS = (
    b"SMTP",
    b"IMAP",
    b"POP",
    b",",
    b" ",
    b"\n",
    b"\r\n",
    b"json",
    b"token",
    b"min=",
    b"rejected=",
    b"\0",
    b"\xff",
)

_RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def broker(installation: Installation) -> Iterator[Broker]:
    """An ordinary user's daemon, signed in."""
    require_root()
    with signed_in(installation, ALICE, USER) as running:
        yield running


@dataclass(frozen=True)
class Before:
    """What the daemon used, and had logged, before the nonsense."""

    descriptors: int
    memory: int
    logged: int


@pytest.fixture
def before(broker: Broker) -> Before:
    """Warmed up: what a first request costs is no leak."""
    for number in range(500):
        ask(broker.path, b"SMTP nonsense %d\n" % number)
    until(lambda: not proc.workers(broker.pid), "no worker, whose descriptors would count")
    return Before(proc.descriptors(broker.pid), proc.memory(broker.pid), len(broker.daemon.log))


def noise(chance: random.Random) -> bytes:
    """Return random bytes, now and then more of them than a request may have."""
    size = chance.choice((0, 1, 8, 40, 200, 1024, 1025, 3000)) if chance.random() < 0.2 else chance.randrange(60)
    return chance.randbytes(size) + chance.choice((b"", b"\n"))


def mutated(chance: random.Random, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> bytes:
    """Return something that was well-formed before a few changes."""
    text = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(text) + 1)
        until_here = min(len(text), at + chance.choice((0, 0, 1, 1, 5)))
        text[at:until_here] = chance.choice((b"", chance.randbytes(1), chance.choice(words), bytes(text[:at])))
    return bytes(text)


@dataclass(frozen=True)
class Door:
    """Where to knock, how many at a time, and which strings are answered without the client's half-close."""

    family: socket.AddressFamily
    address: Any
    at_a_time: int
    is_whole: Callable[[bytes], bool] = lambda _: False

    def dial(self, said: bytes, chance: random.Random) -> socket.socket | None:
        """Connect and say something, in one or two pieces; now and then leave at once."""
        client = socket.socket(self.family)
        client.settimeout(PATIENCE)
        client.connect(self.address)
        # A client that had said enough is cut off.
        with suppress(ConnectionError):
            at = chance.randrange(len(said) + 1) if chance.random() < 0.1 else len(said)
            client.sendall(said[:at])
            client.sendall(said[at:])
            if chance.random() < 0.02:
                client.close()
                return None
            if not self.is_whole(said):
                client.shutdown(socket.SHUT_WR)
        return client

    def talk(self, strings: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Send each string over a new connection; yield it and the reply."""
        chance = random.Random(SEED)
        while batch := list(islice(strings, self.at_a_time)):
            clients = [(said, self.dial(said, chance)) for said in batch]
            yield from ((said, answer(client)) for said, client in clients if client)


def answer(client: socket.socket) -> bytes:
    """Read to the end, or to a reset."""
    said = b""
    with client, suppress(ConnectionError):
        while chunk := client.recv(65536):
            said += chunk
        # No TIME_WAIT of thousands of connections.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return said


def strings(number: int, seeds: tuple[bytes, ...], words: tuple[bytes, ...]) -> Iterator[bytes]:
    """Yield half noise, half mutations; the same ones every time."""
    chance = random.Random(SEED)
    return (noise(chance) if chance.random() < 0.5 else mutated(chance, seeds, words) for _ in range(number))


def is_good(request: bytes) -> bool:
    """Whether a request may be answered with a token: it is well-formed, and for nobody else."""
    found = _GOOD.fullmatch(request)
    return found is not None and (not found["user"] or bare(found["user"].decode(errors="replace")).lower() == USER)


def is_refusal(reply: bytes) -> bool:
    """Whether a reply says nothing, or says only why."""
    if reply[:1] == b"{":
        return set(json.loads(reply)) == {"version", "error"}
    return reply == b"" or wire.parse_refusal(reply.decode()) is not None


def unharmed(broker: Broker, before: Before, token: bytes) -> None:
    """Fail unless the daemon is as it was before, and serves."""
    said = broker.daemon.log[before.logged :]

    assert not re.search(r"[Tt]raceback|level=(error|critical)", said)
    assert token.decode() not in said
    until(lambda: proc.descriptors(broker.pid) <= before.descriptors, "no descriptor left behind")
    assert proc.memory(broker.pid) - before.memory < SLACK
    # It may be another one: on a slow machine the first is a minute old by now, and who asks for more gets it renewed.
    served = broker.entra.introspect(ask(broker.path, b"SMTP,token\n").decode())
    assert (True, USER) == (served["active"], served.get("email"))


def test_nonsense_at_the_token_socket(broker: Broker, before: Before) -> None:
    """A hundred thousand strings: who does not ask in the protocol's words gets no token, and no harm is done."""
    token = ask(broker.path, b"SMTP,token\n")
    said = strings(TOKEN_STRINGS, _SEEDS, _WORDS)
    served = 0
    for request, reply in Door(socket.AF_UNIX, broker.path, BATCH).talk(said):
        assert is_refusal(reply) or is_good(request), request
        served += not is_refusal(reply)

    # Some mutations are requests still: the strings do get as far as the token.
    assert served > TOKEN_STRINGS / 100
    unharmed(broker, before, token)


_COMMANDS = (b'{"command": "ping"}\n', b'{"command": "status", "user": ""}\n', b'{"command": "nonsense"}', b"[1, 2]\n")
_JSON = (b"{", b"}", b'"', b":", b",", b"[" * 100, b"null", b"1e999", b"\\ud800", b'"command"', b"\n")


def test_nonsense_at_the_control_socket(broker: Broker, before: Before) -> None:
    """Whatever is sent where commands are taken, each line of the answer is one of the protocol's, without a token."""
    token = ask(broker.path, b"SMTP,token\n")
    said = strings(CONTROL_STRINGS, _COMMANDS, _JSON)
    served = 0
    for request, reply in Door(socket.AF_UNIX, broker.control, CONTROL_BATCH).talk(said):
        assert token not in reply
        answers = [json.loads(line) for line in reply.splitlines()]
        assert all(each["event"] == "done" for each in answers), request
        served += any(each["ok"] for each in answers)

    assert served > CONTROL_STRINGS / 100
    unharmed(broker, before, token)


_HTTP = (
    b"GET / HTTP/1.1\r\nHost: localhost:%d\r\n\r\n",
    b"GET /?code=0123456789&state=abc HTTP/1.1\r\nHost: localhost:%d\r\n\r\n",
    b"POST /start HTTP/1.1\r\nHost: localhost:%d\r\nOrigin: http://localhost:%d\r\nContent-Length: 7\r\n\r\ngrant=x",
    b"POST / HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 17\r\n\r\nstate=abc&code=12",
)
_HEADERS = (
    b"\r\n",
    b"\r\n\r\n",
    b"Host: localhost\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"%00%ff",
    b"HTTP/9",
    b"&state=",
)


def answered_anyhow(said: bytes) -> bool:
    """True for a whole head that announces no body: the refusal of a client that half-closes early. No browser does."""
    return b"\r\n\r\n" in said and b"content-length" not in said.lower()


def test_nonsense_at_the_sign_in_page(broker: Broker, before: Before) -> None:
    """Whatever is sent to the port that waits for a browser, the answer is a whole page or nothing, without a token."""
    token = ask(broker.path, b"SMTP,token\n")
    with broker.signing_in("browser") as prompt:
        page = urlsplit(prompt["page"])
        seeds = tuple(seed.replace(b"%d", b"%d" % page.port) for seed in _HTTP)
        said = strings(PAGE_STRINGS, seeds, _HEADERS)
        served = 0
        door = Door(socket.AF_INET, (page.hostname, page.port), PAGE_BATCH, answered_anyhow)
        for request, reply in door.talk(said):
            assert token not in reply
            assert re.match(rb"HTTP/1\.1 [24]\d\d [^\r]*\r\n", reply) or not reply, request
            served += reply.startswith(b"HTTP/1.1 200 ")

    assert served > PAGE_STRINGS / 100
    unharmed(broker, before, token)
