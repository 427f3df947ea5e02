"""The small HTTP server for one browser: limited, on loopback only, up only while a flow holds it open."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import trio
from support.ports import free_port
from support.trio_run import in_trio, in_trio_clock, until

from cms.daemon.signin import http
from cms.daemon.signin.http import (
    Address,
    BadHttp,
    Loopback,
    PageRequest,
    Response,
    Unreachable,
    address_of,
    parse_fields,
)

HERE = Address("127.0.0.1", 0, "/back")
ASKED = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Echo:
    """Answers every request with its path, and remembers it."""

    def __init__(self) -> None:
        self.requests: list[PageRequest] = []
        self.gate = trio.Event()
        self.gate.set()
        self.fails = False

    async def __call__(self, request: PageRequest, port: int) -> Response:
        self.requests.append(request)
        if self.fails:
            raise RuntimeError("bug")
        await self.gate.wait()
        return Response(200, f"{request.path} at {port}")


OWNER, STRANGER = 4242, 4343


def served_by(echo: Echo, uid: int | None = OWNER) -> Loopback:
    """Return a server that the owner's browser may use, where every peer has this uid."""
    return Loopback(echo, uid_of=lambda _peer, _ours: uid, allowed=(OWNER,), refusal=Response(403, "not yours"))


async def talk(port: int, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes, half-close, and return all that comes back."""
    stream = await trio.open_tcp_stream(host, port)
    said = b""
    async with stream:
        try:
            await stream.send_all(sent)
            await stream.send_eof()
            while chunk := await stream.receive_some():
                said += chunk
        except trio.BrokenResourceError:
            pass
    return said


@in_trio
async def test_a_request_is_answered_with_guarded_headers() -> None:
    """No cache, no frame, no script, no referrer; one request a connection."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        said = await talk(port, b"GET /x?a=1 HTTP/1.1\r\nHost: h\r\n\r\n")

    head, _, page = said.decode().partition("\r\n\r\n")
    request = echo.requests[0]
    assert ("HTTP/1.1 200 OK", f"/x at {port}") == (head.split("\r\n")[0], page)
    for header in ("Cache-Control: no-store", "Content-Security-Policy:", "Referrer-Policy: same-origin"):
        assert header in head
    assert "cookie" not in head.lower()
    assert ("GET", "/x", "a=1", "h") == (request.method, request.path, request.query, request.headers["host"])


@in_trio
async def test_a_form_comes_whole() -> None:
    """A body arrives in as many pieces as it likes."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            for piece in (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Le", b"ngth: 5\r\n\r\na=", b"b", b"cd"):
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            assert b"200" in await stream.receive_some()

    assert b"a=bcd" == echo.requests[0].body


def asked(*headers: str, start: str = "POST / HTTP/1.1", body: str = "") -> bytes:
    """Return a request with these headers after its Host."""
    return "\r\n".join([start, "Host: h", *headers, "", body]).encode("latin-1")


LENGTH = "Content-Length: 3"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n", 400),
        (asked(start="GET x HTTP/1.1"), 400),
        (asked(start="GET http://h/ HTTP/1.1"), 400),
        (asked(start="CONNECT h:80 HTTP/1.1"), 400),
        (asked(start="OPTIONS * HTTP/1.1"), 400),
        (asked(start="GET / HTTP/2.0"), 400),
        (asked(start="GET / HTTP/0.9"), 400),
        (asked("no colon"), 400),
        (asked("X: a\0b"), 400),
        (asked("Origin : http://h"), 400),
        (asked("X: a", " folded"), 400),
        (asked(LENGTH, body="abc").replace(b"h\r\n", b"h\n"), 400),
        (asked("X: a\nContent-Length: 3", body="abc"), 400),
        (asked("Host: h"), 400),
        (asked("Origin: http://h", "Origin: http://h"), 400),
        (asked("Content-Type: a", "content-type: b"), 400),
        (asked(LENGTH, LENGTH, body="abc"), 400),
        (asked(LENGTH, "X: a", "CONTENT-LENGTH: 4", body="abcd"), 400),
        (asked("Content-Length: 3, 3", body="abc"), 400),
        (asked("Content-Length: -1"), 400),
        (asked("Content-Length: +3", body="abc"), 400),
        (asked(f"Content-Length: {http.MAX_BODY + 1}"), 413),
        (asked("Content-Length: 9999999999999999"), 413),
        (asked("Content-Length: 5", body="ab"), 400),
        (asked("Transfer-Encoding: chunked", body="0\r\n\r\n"), 400),
        (asked("Transfer-Encoding: chunked", LENGTH, body="0\r\n\r\n"), 400),
        (asked("Transfer-Encoding: identity", LENGTH, body="abc"), 400),
        (asked(start="GET /" + "x" * http.MAX_HEAD + " HTTP/1.1"), 413),
        (asked("X: " + "x" * http.MAX_HEAD), 413),
    ],
)
@in_trio
async def test_what_no_browser_sends_is_refused(sent: bytes, status: int) -> None:
    """Anything longer or stranger than a browser's request, or with two meanings, never reaches the handler."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        said = await talk(port, sent)

    assert [] == echo.requests
    assert said.startswith(f"HTTP/1.1 {status} ".encode())


@in_trio
async def test_a_request_may_be_as_long_as_the_limits_say() -> None:
    """A head and a body of exactly the limits are taken; one byte more of a head is refused."""
    echo = Echo()
    served = served_by(echo)
    body = "x" * http.MAX_BODY
    short = asked(f"Content-Length: {http.MAX_BODY}", "X: ")
    head = short[:-4] + b"x" * (http.MAX_HEAD - len(short)) + b"\r\n\r\n"
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        taken = await talk(port, head + body.encode())
        refused = await talk(port, head.replace(b"X: ", b"X: x") + body.encode())

    assert (b" 200 " in taken, b" 413 " in refused) == (True, True)
    assert [body.encode()] == [each.body for each in echo.requests]


@in_trio
async def test_a_connection_has_one_request() -> None:
    """What comes after it is not read, nor answered."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        said = await talk(port, asked(LENGTH, body="abc" + ASKED.decode()))

    assert ([b"abc"], 1) == ([each.body for each in echo.requests], said.count(b"HTTP/1.1"))
    assert b"\r\nConnection: close\r\n" in said


@pytest.mark.parametrize("start", ["HEAD / HTTP/1.1", "CONNECT / HTTP/1.1", "GET / HTTP/1.0"])
@in_trio
async def test_the_handler_decides_about_every_method(start: str) -> None:
    """Whatever is one request for a path gets to the handler, also from an HTTP/1.0 client."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        said = await talk(port, asked("Upgrade: h2c", "Expect: 100-continue", LENGTH, start=start, body="abc"))

    assert b"HTTP/1.1 200 OK" in said
    assert [start.split(maxsplit=1)[0]] == [each.method for each in echo.requests]


LOADED = """
import sys, trio
import cms.daemon.app
from cms.daemon.signin.http import Address, Loopback, Response

async def main():
    served = Loopback(None, uid_of=None, allowed=(), refusal=Response(403))
    async with trio.open_nursery() as nursery:
        print("h11" in sys.modules)
        async with served.open(Address("127.0.0.1", 0, "/"), nursery):
            print("h11" in sys.modules)

trio.run(main)
"""


def test_h11_is_loaded_when_a_browser_is_first_awaited() -> None:
    """A daemon that waits for no browser does not pay for it; one that listens for one has it at hand."""
    said = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)

    assert ["False", "True"] == said.stdout.split()


@in_trio
async def test_a_fault_in_an_answer_ends_with_its_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """The next request is answered."""
    echo = Echo()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        echo.fails = True
        first = await talk(port, ASKED)
        echo.fails = False
        second = await talk(port, ASKED)

    assert b"" == first
    assert b"200" in second
    assert "RuntimeError" in capsys.readouterr().out


@in_trio
async def test_more_connections_than_a_browser_has_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a connection is closed unread."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 1)
    echo = Echo()
    echo.gate = trio.Event()
    served = served_by(echo)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        first = await trio.open_tcp_stream("127.0.0.1", port)
        await first.send_all(ASKED)
        await until(lambda: echo.requests)

        assert b"" == await talk(port, ASKED)
        echo.gate.set()
        assert b"200" in await first.receive_some()
        await first.aclose()


@pytest.mark.parametrize("uid", [STRANGER, None])
@pytest.mark.parametrize("sent", [b"GET /x?code=1 HTTP/1.1\r\nHost: h\r\n\r\n", b"GET", b""])
@in_trio
async def test_a_stranger_is_told_so_unheard(sent: bytes, uid: int | None) -> None:
    """The server does not read the request of another user, or of a peer whose user is unknown."""
    echo = Echo()
    served = served_by(echo, uid)
    async with trio.open_nursery() as nursery, served.open(HERE, nursery) as port:
        said = await talk(port, sent)

    assert (True, True) == (said.startswith(b"HTTP/1.1 403 "), said.endswith(b"not yours"))
    assert [] == echo.requests


@in_trio_clock
async def test_a_silent_stranger_is_told_so_and_leaves_soon() -> None:
    """Who says nothing, and never goes, has a place for two seconds and not for ten."""
    stream = SlowStream()
    took = await seconds_of(served_by(Echo(), STRANGER), stream)

    assert (b" 403 " in stream.sent, 2 * http.LINGER_SECONDS) == (True, took)


@in_trio_clock
async def test_strangers_take_no_places_but_their_own() -> None:
    """However many are there: the next of them is closed unheard, and the owner is served."""
    who, echo = [STRANGER], Echo()
    served = Loopback(echo, uid_of=lambda _peer, _ours: who[0], allowed=(OWNER,), refusal=Response(403))
    async with trio.open_nursery() as nursery:
        for _ in range(http.MAX_CONNECTIONS):
            nursery.start_soon(seconds_of, served, SlowStream())
        await trio.testing.wait_all_tasks_blocked()
        late = SlowStream()
        assert 0 == await seconds_of(served, late)
        who[0] = OWNER
        stream = SlowStream(ASKED, b"")
        await seconds_of(served, stream)

    assert (b"", True) == (late.sent, b" 200 " in stream.sent)


@in_trio
async def test_a_port_is_shared_and_closed_with_its_last_holder() -> None:
    """Two flows listen at one port; when both have gone it is closed, and can be opened anew."""
    served, port = served_by(Echo()), free_port()
    first, same = (Address("127.0.0.1", port, path) for path in ("/back", "/other"))
    async with trio.open_nursery() as nursery:
        async with served.open(first, nursery):
            async with served.open(same, nursery) as again:
                assert port == again
            assert b"200" in await talk(port, ASKED)
        async with served.open(same, nursery) as third:
            assert port == third
            assert b"200" in await talk(port, ASKED)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("127.0.0.1", port)


@in_trio
async def test_an_answer_outlives_its_listener() -> None:
    """The page that says "signed in" arrives although the sign-in, and with it the listener, has ended."""
    echo = Echo()
    echo.gate = trio.Event()
    served = served_by(echo)
    async with trio.open_nursery() as nursery:
        async with served.open(HERE, nursery) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(ASKED)
            await until(lambda: echo.requests)
        echo.gate.set()

        assert b"200" in await stream.receive_some()
        await stream.aclose()
        await served.idle()


@in_trio
async def test_localhost_means_both_families() -> None:
    """Browsers take ::1 for localhost where they can."""
    served = served_by(Echo())
    async with trio.open_nursery() as nursery, served.open(Address("localhost", 0, "/"), nursery) as port:
        for host in ("127.0.0.1", "::1"):
            assert b"200" in await talk(port, ASKED, host)
        assert "127.0.0.1" == served.host(Address("localhost", port, "/"))


@in_trio
async def test_a_redirect_address_of_ipv6_alone() -> None:
    """It is named as it was registered, with the port that was free."""
    served, address = served_by(Echo()), address_of("http://[::1]/back")
    async with trio.open_nursery() as nursery, served.open(address, nursery) as port:
        assert b"200" in await talk(port, ASKED, "::1")
    assert f"http://[::1]:{port}/back" == Address(address.host, port, address.path).redirect_uri


@in_trio
async def test_a_machine_without_ipv6_listens_on_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is served on 127.0.0.1 alone where there is no ::1."""
    real = trio.open_tcp_listeners

    async def without_ipv6(port: int, *, host: str) -> list[trio.SocketListener]:
        if host == "::1":
            raise OSError(99, "Cannot assign requested address")
        return await real(port, host=host)

    monkeypatch.setattr(trio, "open_tcp_listeners", without_ipv6)
    served = served_by(Echo())
    async with trio.open_nursery() as nursery, served.open(Address("localhost", 0, "/"), nursery) as port:
        assert b"200" in await talk(port, ASKED)


@in_trio
async def test_a_machine_without_ipv4_listens_on_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is served on ::1 alone; a redirect to 127.0.0.1 is told the ways around."""
    real = trio.open_tcp_listeners

    async def without_ipv4(port: int, *, host: str) -> list[trio.SocketListener]:
        if host == "127.0.0.1":
            raise OSError(99, "Cannot assign requested address")
        return await real(port, host=host)

    monkeypatch.setattr(trio, "open_tcp_listeners", without_ipv4)
    served = served_by(Echo())
    async with trio.open_nursery() as nursery:
        async with served.open(Address("localhost", 0, "/"), nursery) as port:
            assert b"200" in await talk(port, ASKED, "::1")
        with pytest.raises(Unreachable) as raised:
            await served.open(HERE, nursery).__aenter__()

    assert "this machine has no IPv4" in raised.value.message
    assert "--device or --paste" in raised.value.hint


@in_trio
async def test_localhost_and_its_address_share_a_port() -> None:
    """The page at http://127.0.0.1:8080/ and a redirect to http://localhost:8080 go together, in either order."""
    served, port = served_by(Echo()), free_port()
    async with trio.open_nursery() as nursery, served.open(Address("127.0.0.1", port, "/"), nursery):
        async with served.open(Address("localhost", port, "/"), nursery):
            for host in ("127.0.0.1", "::1"):
                assert b"200" in await talk(port, ASKED, host)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("::1", port)
        assert b"200" in await talk(port, ASKED)


@in_trio
async def test_a_port_in_use_is_named_with_its_holder_and_the_ways_around() -> None:
    """The message has the port, the program, and --device and --paste."""
    served = served_by(Echo())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with trio.open_nursery() as nursery:
            with pytest.raises(Unreachable) as raised:
                await served.open(Address("127.0.0.1", port, "/"), nursery).__aenter__()

    assert f"port {port} is in use by" in raised.value.message
    assert f"(pid {os.getpid()})" in raised.value.message
    assert "--device or --paste" in raised.value.hint


@in_trio
async def test_a_port_taken_in_one_family_only_is_given_back() -> None:
    """If ::1 has it, nothing stays open on 127.0.0.1."""
    served = served_by(Echo())
    port = free_port()
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        async with trio.open_nursery() as nursery:
            with pytest.raises(Unreachable):
                await served.open(Address("localhost", port, "/"), nursery).__aenter__()
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(13, "no"), f"uid {os.getuid()} may not listen on port 80"),
        (OSError(24, "Too many"), "cannot listen on port 80: Too many"),
    ],
)
@in_trio
async def test_other_reasons_are_given(monkeypatch: pytest.MonkeyPatch, error: OSError, words: str) -> None:
    """Whatever keeps cms from listening is said, with the other ways."""

    async def fails(_port: int, *, host: str) -> list[trio.SocketListener]:
        raise error

    monkeypatch.setattr(trio, "open_tcp_listeners", fails)
    async with trio.open_nursery() as nursery:
        with pytest.raises(Unreachable) as raised:
            await served_by(Echo()).open(Address("localhost", 80, "/"), nursery).__aenter__()

    assert words in raised.value.message
    assert "--device or --paste" in raised.value.hint


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:8080/oauth2/msal", Address("127.0.0.1", 8080, "/oauth2/msal")),
        ("http://localhost", Address("localhost", 0, "/")),
        ("http://[::1]:9/x", Address("::1", 9, "/x")),
    ],
)
def test_where_to_listen_is_read_from_the_redirect_address(uri: str, expected: Address) -> None:
    """Host, port and exact path; no port means any."""
    assert expected == address_of(uri)


@pytest.mark.parametrize(
    "uri", ["https://localhost", "http://example.test/", "https://login.example.test/common/oauth2/nativeclient"]
)
def test_a_redirect_elsewhere_is_for_pasting(uri: str) -> None:
    """What cannot be listened at is said with the way around."""
    with pytest.raises(Unreachable) as raised:
        address_of(uri)

    assert "--paste" in raised.value.hint


def test_an_address_is_written_as_browsers_do() -> None:
    """IPv6 addresses stand in brackets."""
    assert "http://[::1]:9/" == Address("::1", 9, "/x").url
    assert "http://localhost:9/x" == Address("localhost", 9, "/x").redirect_uri


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("127.0.0.1", 80, True),
        ("LOCALHOST:80", 80, True),
        ("localhost", 8080, False),
        ("[::1]:8080", 8080, True),
        ("127.0.0.1:8081", 8080, False),
        ("localhost.evil.test:80", 80, False),
    ],
)
def test_a_host_is_this_machines_loopback_with_the_right_port(host: str, port: int, expected: bool) -> None:
    """Browsers leave out port 80, and no other."""
    assert expected == http.names_loopback(host, port)


@pytest.mark.parametrize("text", ["a=1&a=2", "&".join(f"a{i}=1" for i in range(99)), "a=%ff"])
def test_fields_with_two_meanings_are_refused(text: str) -> None:
    """A field that is there twice, too many, or no text."""
    with pytest.raises(BadHttp):
        parse_fields(text)


def test_fields_are_decoded() -> None:
    """Empty ones stay."""
    assert {"a": "x y", "b": ""} == parse_fields("a=x+y&b=")


def test_a_request_does_not_print_what_it_carries() -> None:
    """The query and the body may hold an authorization code."""
    request = PageRequest("POST", "/", "code=secret", {"cookie": "secret"}, b"code=secret")

    assert "secret" not in repr(request)


class SlowStream(trio.abc.HalfCloseableStream):
    """A connection of a client that sends nothing, or takes nothing."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.sent = b""
        self.socket = self

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 2

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.chunks:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def seconds_of(served: Loopback, stream: SlowStream) -> float:
    before = trio.current_time()
    await served.serve(stream, 2)  # type: ignore[arg-type]  # what is used of a SocketStream
    return trio.current_time() - before


@in_trio_clock
async def test_a_silent_connection_has_ten_seconds() -> None:
    """Then it is closed without a word, or a second later at most."""
    stream = SlowStream(b"GET / HT")
    took = await seconds_of(served_by(Echo()), stream)

    assert (b"", True) == (stream.sent, took <= http.REQUEST_SECONDS + http.LINGER_SECONDS)


@in_trio_clock
async def test_an_answer_may_take_a_minute() -> None:
    """The provider redeems a code in seconds; a minute is enough for any."""
    echo = Echo()
    echo.gate = trio.Event()
    stream = SlowStream(ASKED)
    took = await seconds_of(served_by(echo), stream)

    assert (b"", http.ANSWER_SECONDS + http.LINGER_SECONDS) == (stream.sent, took)
