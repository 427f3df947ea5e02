"""Who is at the other end of a local TCP connection, and who listens at a port: the kernel's own tables.

TCP has no SO_PEERCRED; /proc/net/tcp and tcp6 name the user of every socket of this machine.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# An address and a port, as getpeername() gives them.
End = tuple[str, int]

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
PROCESSES = Path("/proc")

# States as the kernel numbers them (include/net/tcp_states.h).
_ESTABLISHED = "01"
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class _Row:
    """One socket. Those without an owner any more have inode 0, and claim to be root's."""

    local: str
    remote: str
    state: str
    uid: int
    inode: int


def peer_uid(peer: End, ours: End) -> int | None:
    """Return the local user whose socket is at `peer` of a connection with `ours`; None where there is none.

    Only a socket that is open in a process counts: one that was closed at once after its request claims to be root's.
    """
    wanted = _spellings(peer, ours)
    # A busy machine has thousands of sockets, and the broker stands still while this is looked up.
    local = tuple({f"{local} " for local, _ in wanted})
    for row in _rows(lambda line: any(each in line for each in local)):
        if row.state == _ESTABLISHED and row.inode and (row.local, row.remote) in wanted:
            return row.uid
    return None


def holder_of(port: int) -> str:
    """Return who listens at a port, as the end of a sentence: " by NAME (pid N)" or less, or ""."""
    suffix = f":{port:04X}"
    for row in _rows():
        if row.state == _LISTENING and row.local.endswith(suffix):
            return _process_with(row.inode) or f" by a program of uid {row.uid}"
    return ""


def _rows(likely: Callable[[str], bool] = bool) -> Iterator[_Row]:
    """Yield the rows of the tables whose line is likely to be one that is looked for."""
    for table in TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            # No IPv6 here, or no /proc: then nobody is found, and nobody is let in.
            continue
        yield from map(_row, filter(likely, lines))


def _row(line: str) -> _Row:
    words = line.split()
    return _Row(words[1], words[2], words[3], int(words[7]), int(words[9]))


def _spellings(peer: End, ours: End) -> set[tuple[str, str]]:
    """Return how the kernel may write a connection: an IPv4 one is in the IPv6 table if its socket is of that kind."""
    pairs = {(_spell(peer), _spell(ours))}
    if ":" not in peer[0]:
        pairs.add((_spell((f"::ffff:{peer[0]}", peer[1])), _spell((f"::ffff:{ours[0]}", ours[1]))))
    return pairs


def _spell(end: End) -> str:
    """Return an address as the tables have it: 32-bit words in the machine's own byte order."""
    host, port = end
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _process_with(inode: int) -> str:
    """Return " by NAME (pid N)" of the process that has this socket open, where we may look."""
    wanted = f"socket:[{inode}]"
    for process in PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is somebody else's
            if wanted in _links(process / "fd"):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return f" by {name} (pid {process.name})"
    return ""


def _links(folder: Path) -> Iterator[str]:
    """Yield where the links of a folder lead; those that go meanwhile are left out."""
    for link in folder.iterdir():
        with suppress(OSError):
            yield str(link.readlink())
