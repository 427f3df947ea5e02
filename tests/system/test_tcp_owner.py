"""Whose TCP connection it is, from the kernel's tables."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cms.system import tcp_owner
from cms.system.tcp_owner import holder_of, is_held_by, peer_uid

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(local: str, remote: str, state: str, uid: int, inode: int) -> str:
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1 0 20 4 30 10 -1\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel table that a test may fill, beside one that is missing."""
    path = tmp_path / "tcp"
    monkeypatch.setattr(tcp_owner, "TABLES", (tmp_path / "missing", path))
    monkeypatch.setattr(tcp_owner, "PROCESSES", tmp_path / "proc")
    return path


@pytest.fixture(params=["asked", "looked up"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to find out: the kernel's answer, where there is one, and its tables."""
    if request.param == "looked up":
        silence(monkeypatch)
    name: str = request.param
    return name


def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a kernel that does not answer: there is no netlink of this number."""
    monkeypatch.setattr(tcp_owner, "NETLINK_SOCK_DIAG", 31)


def kernel_answers() -> bool:
    """Whether this kernel has sock_diag for TCP. Containers of some makes do not."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        return tcp_owner._is_socket(tcp_owner._ask(accepted.getpeername(), accepted.getsockname()))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_real_connection_is_found(family: socket.AddressFamily, host: str) -> None:
    """The other end of a connection from this process is this user's."""
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]),
        server.accept()[0] as accepted,
    ):
        found = peer_uid(accepted.getpeername()[:2], accepted.getsockname()[:2])

    assert os.getuid() == found


@pytest.mark.usefixtures("way")
def test_a_dual_stack_client_is_found() -> None:
    """A browser may reach 127.0.0.1 through an IPv6 socket: the kernel lists it so."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        with server.accept()[0] as accepted:
            found = peer_uid(accepted.getpeername(), accepted.getsockname())

    assert os.getuid() == found


@pytest.mark.parametrize(
    ("state", "inode", "expected"),
    [("01", 77, 1000), ("06", 0, None), ("05", 0, None), ("01", 0, None)],
    ids=["open", "time-wait", "closed", "orphan"],
)
def test_only_an_open_socket_counts(table: Path, state: str, inode: int, expected: int | None) -> None:
    """A socket that was closed at once claims to be root's: it has no owner."""
    # Written as a little-endian machine has it, and as a big-endian one has it. Where a program listens at the port, the
    # kernel would be asked: nobody listens at this one.
    rows = [row(f"{ip}:C350", f"{ip}:0001", state, 1000, inode) for ip in ("0100007F", "7F000001")]
    table.write_text(HEAD + "".join(rows))

    assert expected == peer_uid(("127.0.0.1", 50_000), ("127.0.0.1", 1))


def test_without_tables_no_owner_is_found(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc and no answer: no peer is let in."""
    silence(monkeypatch)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        assert not table.exists()
        assert None is peer_uid(accepted.getpeername(), accepted.getsockname())


def test_the_kernels_answer_needs_no_tables(table: Path) -> None:
    """Where the kernel answers, its tables are not read, however long they are."""
    expected = os.getuid() if kernel_answers() else None
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        server.accept()[0] as accepted,
    ):
        assert not table.exists()
        assert expected == peer_uid(accepted.getpeername(), accepted.getsockname())


def answer(*, kind: int = 20, state: int = 1, uid: int = 1000, inode: int = 77) -> bytes:
    """What the kernel says of a connection: nlmsghdr and inet_diag_msg."""
    return (
        struct.pack("=IHHII", 88, kind, 0, 1, 0)
        + struct.pack("=BBBB", 2, state, 0, 0)
        + bytes(48)
        + struct.pack("=IIIII", 0, 0, 0, uid, inode)
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (answer(), 1000),
        (answer(uid=0), 0),
        # The listener that the kernel names when the connection has gone, and one that no process has open any more.
        (answer(state=10), None),
        (answer(inode=0), None),
        # NLMSG_ERROR, and less than an answer.
        (answer(kind=2), None),
        (answer()[:60], None),
        (b"", None),
    ],
)
def test_an_answer_is_read_with_care(said: bytes, expected: int | None) -> None:
    """Only an established connection that is open in a process has a user."""
    assert expected == (tcp_owner._owner_in(said) if tcp_owner._is_socket(said) else None)


def test_a_closed_connection_has_no_owner() -> None:
    """Its listener is not taken for it, nor the other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        with server.accept()[0] as accepted:
            ends = accepted.getpeername(), accepted.getsockname()
            client.close()

            assert None is peer_uid(*ends)
            assert None is peer_uid(server.getsockname(), ("127.0.0.1", 1))


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_connects_and_leaves_costs_no_tables(
    way: str, monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, host: str
) -> None:
    """The tables have a row for each socket of the machine, and any user can open thousands: reading them takes half a second.

    Where the kernel does not answer, they are all that there is.
    """
    read, rows = list[str](), tcp_owner._rows

    def counted(likely: Callable[[str], bool]) -> Iterator[tcp_owner._SocketRow]:
        read.append("tables")
        return rows(likely)

    monkeypatch.setattr(tcp_owner, "_rows", counted)
    with socket.create_server((host, 0), family=family) as server:
        client = socket.create_connection(server.getsockname()[:2])
        # It leaves by a reset, so that nothing is left of either end.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with server.accept()[0] as accepted:
            ends = accepted.getpeername()[:2], accepted.getsockname()[:2]
            client.close()
            found = peer_uid(*ends)

    assert (None, [] if way == "asked" and kernel_answers() else ["tables"]) == (found, read)


def test_the_holder_of_a_port_is_named() -> None:
    """Who listens at a port is found by program and process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = holder_of(server.getsockname()[1])

    assert f"(pid {os.getpid()})" in found


def test_a_holder_that_hides_is_named_by_user(table: Path) -> None:
    """Another user's processes cannot be looked into: the table has the uid all the same."""
    (tcp_owner.PROCESSES / "1").mkdir(parents=True)
    table.write_text(HEAD + row("0100007F:1F90", "00000000:0000", "0A", 0, 5))

    assert " by a program of root (uid 0)" == holder_of(8080)


def test_whose_a_port_is() -> None:
    """A port is a user's while a program of theirs listens there; a connection does not count."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert (True, False) == (is_held_by(os.getuid(), port), is_held_by(os.getuid() + 1, port))
        with socket.create_connection(("127.0.0.1", port)):
            server.close()
            assert not is_held_by(os.getuid(), port)


def test_a_port_that_another_user_shares(table: Path) -> None:
    """One listens at 127.0.0.1, another at 127.0.0.2: which one a browser reaches is not looked at."""
    everybody = [row(f"0{number}00007F:1F90", "00000000:0000", "0A", 1000 + number, 5) for number in (1, 2)]
    table.write_text(HEAD + "".join(everybody))

    assert not is_held_by(1001, 8080)


def test_a_port_that_no_process_holds(table: Path) -> None:
    """Then cms names no process."""
    table.write_text(HEAD)

    assert "" == holder_of(8080)
