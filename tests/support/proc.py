"""What the kernel says of a process: its memory, descriptors, ports, limits and children. For most of it one must be root."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import sys
import termios
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path

from support.evidence import descendants

MB = 1024 * 1024

# Pages that belong to the kernel: they cannot be read through /proc/PID/mem.
_KERNELS_OWN = ("[vvar", "[vsyscall]")
_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r\S* \S+ \S+ \S+ *(.*)$", re.MULTILINE)

# A piece of a secret, long enough not to occur by chance. Memory that was given back is overwritten from its start, so
# pieces from all over a secret are looked for.
_PIECE = 20
_PIECES = 5

# A socket's state in /proc/net/tcp (include/net/tcp_states.h).
_LISTENING = "0A"

# write(2) to /proc/PID/clear_refs: forget the peak of the resident memory (proc(5)).
_FORGET_PEAK = "5"


def memory(pid: int) -> int:
    """Return the resident memory in bytes."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Return the most resident memory since the start or `forget_peak`, in bytes."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Begin to measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)


def descriptors(pid: int) -> int:
    """Return how many descriptors are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - no paths are wanted


def cpu_seconds(pid: int) -> float:
    """Return the processor time that the process has used."""
    # Behind the name, which may have spaces and parentheses in it: fields 14 and 15 of proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_done(pid: int) -> bool:
    """Whether the process has read all that lies in its pipes, and sleeps."""
    if any(map(_unread, Path(f"/proc/{pid}/fd").iterdir())):
        return False
    # The field behind the name, which may have spaces and parentheses in it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _unread(descriptor: Path) -> int:
    """Return how many bytes a process can read from one of its descriptors, if that is the reading end of a pipe."""
    reads_only = descriptor.lstat().st_mode & 0o700 == 0o500
    if not reads_only or not str(descriptor.readlink()).startswith("pipe:"):
        return 0
    ours = os.open(descriptor, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(ours)


def listening(pid: int) -> list[str]:
    """Return the TCP ends at which the process listens, as the kernel writes them: ADDRESS:PORT, hexadecimal."""
    sockets = set()
    with suppress(FileNotFoundError):  # the process has ended
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has been closed
                sockets.add(str(each.readlink()))
    rows = (row.split() for name in ("tcp", "tcp6") for row in _read(f"/proc/{pid}/net/{name}").decode().splitlines())
    # proc_net_tcp: the local end, the state, and the inode; the table's head has fewer words.
    return [row[1] for row in rows if row[3] == _LISTENING and f"socket:[{row[9]}]" in sockets]


def core_limits(pid: int) -> tuple[str, str]:
    """Return the soft and the hard limit of the size of a core dump."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max core file size +(\S+) +(\S+)", limits, re.MULTILINE)
    assert found
    return found[1], found[2]


def name(pid: int) -> str:
    """Return the process's name, or nothing if it is gone meanwhile."""
    return _read(f"/proc/{pid}/comm").decode().strip()


def beside(pid: int) -> list[int]:
    """Return the processes that see the same mounts as this one, itself included."""
    mounts = Path(f"/proc/{pid}/ns/mnt").readlink()
    return [int(each.name) for each in Path("/proc").glob("[0-9]*") if _mounts(each) == mounts]


def _mounts(process: Path) -> Path | None:
    try:
        return (process / "ns" / "mnt").readlink()
    except OSError:
        return None  # gone meanwhile


def environment(pid: int) -> dict[str, str]:
    """Return the environment that the process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def workers(pid: int) -> list[int]:
    """Return the processes below this one that do the work of grant workers."""
    below = [int(each) for each in descendants(pid)]
    return at_work([each for each in below if b"cms.grants" in _read(f"/proc/{each}/cmdline").split(b"\0")])


def at_work(processes: Collection[int]) -> list[int]:
    """Of a grant worker's two processes, return the one that does not only wait for the other."""
    return [each for each in processes if not any(int(child) in processes for child in descendants(each))]


def contents(pid: int) -> bytes:
    """Return everything that is in the process's memory."""
    return b"\0".join(_regions(pid))


def found(image: bytes, secret: bytes) -> bool:
    """Whether a secret, or a piece of one, is in a memory."""
    return any(piece in image for piece in _pieces(secret))


@contextmanager
def many_files(number: int) -> Iterator[None]:
    """Let this process open so many files while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), max(hard, number)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _pieces(secret: bytes) -> Iterable[bytes]:
    if secret.startswith(b"eyJ"):
        # A web token's header and claims are much like the next one's; its signature is its own.
        secret = secret.rpartition(b".")[2]
    last = max(len(secret) - _PIECE, 0)
    return {secret[start : start + _PIECE] for start in (last * each // (_PIECES - 1) for each in range(_PIECES))}


def _regions(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for start, end, name in _REGION.findall(Path(f"/proc/{pid}/maps").read_text()):
            if not name.startswith(_KERNELS_OWN):
                yield b"".join(_region(file, int(start, 16), int(end, 16)))


def _region(file: RawIOBase, start: int, end: int) -> Iterator[bytes]:
    """Yield what can be read there. Since 2.42 glibc guards a thread's stack by pages in it that cannot be."""
    while start < end:
        file.seek(start)
        try:
            piece = file.read(end - start) or b""
        except OSError:
            piece = b""
        yield piece
        start += len(piece) or resource.getpagesize()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""  # gone meanwhile


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
