"""A program of the same user that tries to get at a process's memory from the process's first moment.

Run as `python3 -c SOURCE MODE PIPE COMMAND...`, so it imports only the standard library. It starts the command under
ptrace, which stops it before its first instruction; nobody can be earlier. With MODE

- `open`, it opens `/proc/PID/mem` then, lets go, and keeps the file,
- `trace`, it stays attached, also to what the command forks.

Whenever a line comes through the descriptor PIPE, a secret in hexadecimal, it prints one object of JSON: `kept`, whether
the secret is in the memory that it opened at first; `opened` and `seized`, the processes of the command whose memory it
can open and that it can seize now; `traced`, those that it is attached to.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

_TRACEME, _CONT, _DETACH, _SETOPTIONS, _SEIZE = 0, 7, 17, 0x4200, 0x4206
# Attach to what is forked, and kill all of it when the tracer ends.
_FORKS = 0x2 | 0x4 | 0x8 | 0x100000
_WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def start(argv: list[str]) -> int:
    """Start the command; return when it is stopped before its first instruction."""
    child = os.fork()
    if not child:
        _libc.ptrace(_TRACEME, 0, None, None)
        os.execv(argv[0], argv)
    os.waitpid(child, 0)
    return child


def holds(memory: int, maps: int, secret: bytes) -> bool:
    """Whether the memory behind descriptors that were opened long ago has these bytes."""
    os.lseek(maps, 0, os.SEEK_SET)
    with os.fdopen(os.dup(maps)) as lines:
        places = [line.split()[:2] for line in lines]
    for place, rights in places:
        first, last = (int(each, 16) for each in place.split("-"))
        if rights.startswith("r"):
            with suppress(OSError, OverflowError):
                if secret in os.pread(memory, last - first, first):
                    return True
    return False


def family(process: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield process
    with suppress(OSError), open(f"/proc/{process}/task/{process}/children") as children:  # noqa: PTH123 - as it is
        for child in children.read().split():
            yield from family(int(child))


def opens(process: int) -> bool:
    """Whether the memory of a process can be opened."""
    try:
        os.close(os.open(f"/proc/{process}/mem", os.O_RDONLY))
    except OSError:
        return False
    return True


def seizes(process: int) -> bool:
    """Whether a process can be attached to now."""
    return bool(_libc.ptrace(_SEIZE, process, None, None) == 0)


def tracer(process: int) -> int:
    with open(f"/proc/{process}/status") as status:  # noqa: PTH123 - as it is
        return next(int(line.split()[1]) for line in status if line.startswith("TracerPid"))


def go_on() -> bool:
    """Let every stopped tracee go on; return False when none is left."""
    try:
        while True:
            process, status = os.waitpid(-1, os.WNOHANG | _WALL)
            if not process:
                return True
            if os.WIFSTOPPED(status):
                number = os.WSTOPSIG(status)
                passed = 0 if status >> 16 or number in (signal.SIGTRAP, signal.SIGSTOP) else number
                _libc.ptrace(_CONT, process, None, passed)
    except ChildProcessError:
        return False


def main(mode: str, pipe: int, argv: list[str]) -> None:
    first = start(argv)
    memory, maps = (os.open(f"/proc/{first}/{name}", os.O_RDONLY) for name in ("mem", "maps"))
    if mode == "open":
        _libc.ptrace(_DETACH, first, None, None)
    else:
        _libc.ptrace(_SETOPTIONS, first, None, _FORKS)
        _libc.ptrace(_CONT, first, None, None)
    while go_on():
        if not select.select([pipe], [], [], 0.01)[0]:
            continue
        line = os.read(pipe, 4096)
        if not line:
            break
        known = list(family(first))
        found = {
            "kept": holds(memory, maps, bytes.fromhex(line.decode().strip())),
            "traced": [each for each in known if tracer(each) == os.getpid()],
            "opened": [each for each in known if opens(each)],
            "seized": [each for each in known if seizes(each)],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
