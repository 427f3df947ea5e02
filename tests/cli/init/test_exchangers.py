"""The hosts that receive a domain's mail, as a real name server on loopback answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from cms.cli.init import exchangers as module
from cms.cli.init.exchangers import exchangers

Answer = Callable[[dns.message.Message], dns.message.Message | None]


@contextmanager
def name_server(answer: Answer) -> Iterator[dns.resolver.Resolver]:
    """Serve DNS on a UDP port in the block; yields a resolver that asks there. `answer` returns None for silence."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                query, client = sock.recvfrom(4096)
                if not query:
                    return
                if response := answer(dns.message.from_wire(query)):
                    sock.sendto(response.to_wire(), client)

        thread = threading.Thread(target=serve)
        thread.start()
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], sock.getsockname()[1]
        try:
            yield resolver
        finally:
            sock.sendto(b"", sock.getsockname())
            thread.join()


def answers(*records: str, code: dns.rcode.Rcode = dns.rcode.NOERROR) -> Answer:
    """Return what answers each question about example.test with these MX records."""

    def answer(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(code)
        assert "example.test. IN MX" == query.question[0].to_text()
        if records:
            response.answer.append(dns.rrset.from_text("example.test.", 300, "IN", "MX", *records))
        return response

    return answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            answers("20 alt1.aspmx.l.google.com.", "10 aspmx.l.google.com."),
            ("aspmx.l.google.com", "alt1.aspmx.l.google.com"),
        ),
        (answers("0 ."), ()),
        (answers(r"0 \027[2J\010.aspmx.l.google.com."), (r"\027[2J\010.aspmx.l.google.com",)),
        (answers(), ()),
        (answers(code=dns.rcode.NXDOMAIN), ()),
        (answers(code=dns.rcode.SERVFAIL), "the name servers have no answer"),
        (answers(code=dns.rcode.REFUSED), "the name servers have no answer"),
    ],
)
def test_what_a_name_server_says(answer: Answer, expected: tuple[str, ...] | str) -> None:
    """The hosts, the preferred ones first; none where there are none; a name server's failure is no lack of hosts."""
    with name_server(answer) as resolver:
        assert expected == exchangers("example.test", resolver)


def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up ends, however long the name server takes."""
    monkeypatch.setattr(module, "_SECONDS", 0.2)

    with name_server(lambda _query: None) as resolver:
        assert "no name server answers in time" == exchangers("example.test", resolver)


@pytest.mark.parametrize("text", ["", None])
def test_a_machine_without_a_name_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    """An empty resolv.conf, or none, is no failure of `cms init`."""
    path = tmp_path / "resolv.conf"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(dns.resolver, "Resolver", partial(dns.resolver.Resolver, str(path)))

    assert "this machine has no name server" == exchangers("example.test")


def test_a_domain_that_is_no_name() -> None:
    """An address may have one that DNS cannot ask for."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]

    assert "the name servers have no answer" == exchangers("a..example.test", resolver)
    assert "the name servers have no answer" == exchangers(f"{'a' * 64}.test", resolver)
