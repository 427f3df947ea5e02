"""GET /metrics, and nothing else."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from support.trio_run import in_trio

from cms.daemon.metrics_server import MAX_CONNECTIONS, MetricsServer


async def metrics() -> tuple[bytes, str]:
    await trio.lowlevel.checkpoint()
    return b"cms_accounts 1\n# EOF\n", "application/openmetrics-text; version=1.0.0; charset=utf-8"


async def broken() -> tuple[bytes, str]:
    await trio.lowlevel.checkpoint()
    raise ValueError


async def ask(server: MetricsServer, request: bytes) -> bytes:
    """Return the whole answer to a request."""
    ours, theirs = trio.testing.memory_stream_pair()
    answer = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs)
        await ours.send_all(request)
        while chunk := await ours.receive_some():
            answer += chunk
    return answer


def get(target: str = "/metrics", host: str = "localhost:9464", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@in_trio
async def test_a_scrape() -> None:
    """The text with its media type, which Prometheus goes by."""
    head, _, body = (await ask(MetricsServer(metrics, 9464), get())).partition(b"\r\n\r\n")

    assert b"HTTP/1.1 200 OK" == head.splitlines()[0]
    assert b"Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head.splitlines()
    assert b"cms_accounts 1\n# EOF\n" == body


@pytest.mark.parametrize(
    ("port", "request_", "status"),
    [
        (9464, get("/"), b"404"),
        (9464, get(method="POST"), b"405"),
        (9464, get(host="evil.example:9464"), b"421"),
        (0, get(host="relay.example:9464"), b"200"),
        (9464, b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_scrape(port: int, request_: bytes, status: bytes) -> None:
    """Another path, method or host: on loopback a name that an attacker's DNS points here is none of ours."""

    @in_trio
    async def run() -> None:
        assert status == (await ask(MetricsServer(metrics, port), request_)).split()[1]

    run()


@in_trio
async def test_a_fault_ends_one_connection_only() -> None:
    """It is logged, and not told to who asked."""
    with capture_logs() as logged:
        assert b"" == await ask(MetricsServer(broken), get())

    assert ["metrics failed"] == [each["event"] for each in logged]


@pytest.mark.parametrize("said", [b"", get()], ids=["asks nothing", "does not read"])
def test_silent_connections_do_not_keep_monitoring_out(said: bytes) -> None:
    """The oldest makes room: each user of the machine can connect to a port, ask nothing, or not read the answer."""

    @in_trio
    async def run() -> None:
        server = MetricsServer(metrics)
        async with trio.open_nursery() as nursery:
            silent = []
            for _ in range(MAX_CONNECTIONS):
                # What is sent waits until it is read, as where the metrics are longer than a socket's buffer.
                ours, theirs = trio.testing.lockstep_stream_pair()
                silent.append(ours)
                nursery.start_soon(server.serve, theirs)
                if said:
                    await ours.send_all(said)
                await trio.testing.wait_all_tasks_blocked()
            assert b"HTTP/1.1 200 OK" == (await ask(server, get())).splitlines()[0]
            # The oldest was closed; a stream of this kind still has what was not read.
            with pytest.raises(trio.BrokenResourceError):
                await silent[0].send_all(b"x")
            nursery.cancel_scope.cancel()

    run()


@in_trio
async def test_connections_are_limited() -> None:
    """One more than fits is closed without an answer while all others are answered; afterwards there is room again."""
    ready = trio.Event()

    async def slow() -> tuple[bytes, str]:
        await ready.wait()
        return await metrics()

    server = MetricsServer(slow)
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_CONNECTIONS):
            nursery.start_soon(ask, server, get())
        await trio.testing.wait_all_tasks_blocked()
        assert b"" == await ask(server, get())
        ready.set()

    assert b"HTTP/1.1 200 OK" == (await ask(server, get())).splitlines()[0]
