"""Finds the user at the other end of a local TCP connection, and the process that listens at a port.

TCP has no SO_PEERCRED. Over netlink (sock_diag(7)), the kernel answers for one connection, quickly however many there
are. If it does not answer, /proc/net/tcp and tcp6 list the user of every socket on this machine.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cms.system.users import user_name
from cms_oauth.frozen import dataclass

# Longer than an answer.
_CHUNK = 8192

# An address and a port, as getpeername() gives them.
End = tuple[str, int]

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
PROCESSES = Path("/proc")

# sock_diag(7), linux/sock_diag.h and linux/inet_diag.h: Python has no names for these.
NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = 1
_ALL_STATES = 0xFFFF_FFFF
_NO_COOKIE = (0xFFFF_FFFF, 0xFFFF_FFFF)
# nlmsghdr: length, type, flags, number, port.
_HEADER = struct.Struct("=IHHII")
# inet_diag_req_v2 without the socket: family, protocol, what else is wanted, padding, states.
_QUESTION = struct.Struct("=BBBBI")
# inet_diag_sockid: both ports and addresses as on the wire, then interface and cookie.
_PORTS = struct.Struct("!HH16s16s")
_REST = struct.Struct("=III")
# inet_diag_msg without the socket: family, state, timer, tries; then expiry, both queues, uid, inode.
_STATE = struct.Struct("=BBBB")
_OWNER = struct.Struct("=IIIII")
_ANSWER = _HEADER.size + _STATE.size + _PORTS.size + _REST.size + _OWNER.size

# States as the kernel numbers them (include/net/tcp_states.h).
_ESTABLISHED = "01"
_LISTENING = "0A"
_NUMBER_OF_ESTABLISHED = int(_ESTABLISHED, 16)


@dataclass(frozen=True, slots=True)
class _SocketRow:
    """One socket. A socket that no process has open any more has inode 0, and root as its user."""

    local: str
    remote: str
    state: str
    uid: int
    inode: int


def peer_uid(peer: End, ours: End) -> int | None:
    """Return the local user who owns the socket `peer` of a connection with `ours`, None if there is none.

    Only a socket that a process has open counts: for one that was closed after its request, the kernel reports root.
    """
    told = _ask(peer, ours)
    if _is_socket(told):
        return _owner_in(told)
    # Either the peer has gone, or the kernel has no sock_diag: both are ENOENT. Our own end, or the socket that listens
    # there, tells which. Whoever connects and leaves again and again must not make the daemon read long tables each time.
    return None if _is_socket(_ask(ours, peer)) else _look_up(peer, ours)


def _ask(local: End, remote: End) -> bytes:
    """Return the kernel's answer about the socket at `local` that is connected to `remote`, empty if there is none."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    ends = (socket.inet_pton(family, local[0]), socket.inet_pton(family, remote[0]))
    which = _PORTS.pack(local[1], remote[1], *ends) + _REST.pack(0, *_NO_COOKIE)
    body = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + which
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
            kernel.setblocking(False)
            kernel.sendto(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body, (0, 0))
            # The kernel answers before sendto returns, so this does not block.
            answer, (sender, _) = kernel.recvfrom(_CHUNK)
    except OSError:
        return b""
    return answer if sender == 0 else b""


def _is_socket(answer: bytes) -> bool:
    """True if the kernel's answer describes a socket, and is no error."""
    return len(answer) >= _ANSWER and _HEADER.unpack_from(answer)[1] == _BY_FAMILY


def _owner_in(answer: bytes) -> int | None:
    """Return the user of the socket in an answer, None unless it is an established connection that a process has open."""
    _, state, _, _ = _STATE.unpack_from(answer, _HEADER.size)
    *_, uid, inode = _OWNER.unpack_from(answer, _ANSWER - _OWNER.size)
    # For a connection that is closed, the kernel reports the process that listens at that port.
    return uid if inode and state == _NUMBER_OF_ESTABLISHED else None


def _look_up(peer: End, ours: End) -> int | None:
    """Return the user from the tables in /proc/net, None if there is none."""
    wanted = _spellings(peer, ours)
    # A busy machine has thousands of sockets, and the daemon is blocked while it reads them.
    local = tuple({f"{local} " for local, _ in wanted})
    for row in _rows(lambda line: any(each in line for each in local)):
        if row.state == _ESTABLISHED and row.inode and (row.local, row.remote) in wanted:
            return row.uid
    return None


def holder_of(port: int) -> str:
    """Return which process or user listens at a port, as the end of a sentence (" by NAME (pid N)"), "" if not known."""
    for row in _listeners(port):
        return _process_with(row.inode) or f" by a program of {user_name(row.uid)} (uid {row.uid})"
    return ""


def is_held_by(uid: int, port: int) -> bool:
    """True if a program of this user listens at a port, and none of another user, at whichever address."""
    return {row.uid for row in _listeners(port)} == {uid}


def _listeners(port: int) -> Iterator[_SocketRow]:
    suffix = f":{port:04X}"
    return (row for row in _rows() if row.state == _LISTENING and row.local.endswith(suffix))


def _rows(likely: Callable[[str], bool] = bool) -> Iterator[_SocketRow]:
    """Yield the rows of the tables. `likely` is a quick test that leaves out other lines."""
    for table in TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            # No IPv6 here, or no /proc. Then no user is found, and none is allowed.
            continue
        yield from map(_row, filter(likely, lines))


def _row(line: str) -> _SocketRow:
    words = line.split()
    return _SocketRow(words[1], words[2], words[3], int(words[7]), int(words[9]))


def _spellings(peer: End, ours: End) -> set[tuple[str, str]]:
    """Return the ways in which the kernel may write a connection. An IPv6 socket can have an IPv4 connection."""
    pairs = {(_spell(peer), _spell(ours))}
    if ":" not in peer[0]:
        pairs.add((_spell((f"::ffff:{peer[0]}", peer[1])), _spell((f"::ffff:{ours[0]}", ours[1]))))
    return pairs


def _spell(end: End) -> str:
    """Return an address as in the tables: 32-bit words in the machine's byte order."""
    host, port = end
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _process_with(inode: int) -> str:
    """Return " by NAME (pid N)" for the process that has this socket open, "" if this user may not see it."""
    wanted = f"socket:[{inode}]"
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if wanted in _links(process / "fd"):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f" by {name} (pid {process.name})"
    return ""


def _links(folder: Path) -> Iterator[str]:
    """Yield the targets of the links in a folder. Links that disappear in the meantime are left out."""
    for link in folder.iterdir():
        with suppress(OSError):
            yield str(link.readlink())
