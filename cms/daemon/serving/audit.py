"""The record of each request: who asked for what, and whether they got it. Never a token.

`record` only keeps a request. `flush` writes the lines of all that were kept with one call, and is called at the end of each
round of connections: so a line is late by no more than a round. The last requests stay for `cms status`.

A user who is refused again and again cannot fill the log: beyond ten refusals a second, those of one uid are counted.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from cms.core.policy import Peer
from cms.system import logs
from cms_oauth.wire import TokenRequest

# As many as fit a screen. Older ones are in the log.
MAX_RECENT = 50

# Refusals of one uid that are written in each second.
MAX_REFUSALS = 10

# Of a round with more requests than this, no line names the program: that costs as much as an answer.
MAX_NAMED = 16

_UNNAMED = "-"

# TASK_COMM_LEN of the kernel is 16, and a line ends the name.
_COMM_BYTES = 17


class Asked(NamedTuple):
    """One request. `at` is CLOCK_BOOTTIME; `user` is whose token it is, as far as that is known.

    `outcome` is "granted" or a code of the wire protocol.
    """

    at: float
    peer: Peer
    request: TokenRequest
    user: str
    outcome: str


class Audit:
    """The requests of all sockets. `now` is the boot clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.recent = deque[Asked](maxlen=MAX_RECENT)
        self._unwritten = list[Asked]()
        # By uid, the refusals of this second.
        self._second = 0
        self._refusals = dict[int, int]()

    def record(self, peer: Peer, request: TokenRequest, user: str, outcome: str) -> None:
        """Keep a request, for `flush` and for the status."""
        asked = Asked(self.now(), peer, request, user, outcome)
        if outcome != "granted" and not self._may_be_written(asked):
            return
        self.recent.append(asked)
        self._unwritten.append(asked)

    def _may_be_written(self, asked: Asked) -> bool:
        if int(asked.at) != self._second:
            self._tell_of_refusals()
            self._second = int(asked.at)
        count = self._refusals.get(asked.peer.uid, 0) + 1
        self._refusals[asked.peer.uid] = count
        return count <= MAX_REFUSALS

    def _tell_of_refusals(self) -> None:
        for uid, count in self._refusals.items():
            if count > MAX_REFUSALS:
                logs.get_logger().warning("refusals were counted, not written", uid=uid, count=count - MAX_REFUSALS)
        self._refusals.clear()

    def flush(self) -> None:
        """Write a line for each request that was recorded since the last time."""
        if not self._unwritten:
            return
        asked, self._unwritten = self._unwritten, []
        pids = {each.peer.pid for each in asked} if len(asked) <= MAX_NAMED else ()
        programs = {pid: program(pid) for pid in pids}
        second = int(time.time())
        logs.write("".join([_line(second, each, programs.get(each.peer.pid, _UNNAMED)) for each in asked]))

    def close(self) -> None:
        """Write all that is not written."""
        self.flush()
        self._tell_of_refusals()

    def as_data(self, wall: float) -> list[dict[str, Any]]:
        """Return the last requests as JSON carries them, the newest first: `age` in seconds, `at` as Unix time. `wall` is now's."""
        now = self.now()
        return [_data(each, now - each.at, wall) for each in reversed(self.recent)]


def _data(asked: Asked, age: float, wall: float) -> dict[str, Any]:
    peer, request = asked.peer, asked.request
    when = {"age": int(age), "at": int(wall - age)}
    what = {"outcome": asked.outcome, "user": asked.user, "protocol": request.protocol, "form": request.form}
    return {**when, **what, "uid": peer.uid, "gid": peer.gid, "pid": peer.pid}


def program(pid: int) -> str:
    """Return the name of a process's program, as the process itself gives it; "-" if it has ended meanwhile."""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _UNNAMED
    try:
        return os.read(fd, _COMM_BYTES).decode(errors="replace").rstrip("\n") or _UNNAMED
    except OSError:
        return _UNNAMED
    finally:
        os.close(fd)


def _line(second: int, asked: Asked, name: str) -> str:
    _at, (pid, uid, gid, _groups), request, user, outcome = asked
    head, tail = _around(second, name, uid, gid, user, request.protocol, request.form, outcome)
    return f"{head}{pid}{tail}"


# No process has it.
_NO_PID = 10**15


@lru_cache(maxsize=1024)
def _around(_second: int, name: str, uid: int, gid: int, *what: str) -> tuple[str, str]:
    """Return what a line has before and after its process id.

    Cached, because rendering costs more than answering. `_second` is there because each line has its time.
    """
    user, protocol, form, outcome = what
    facts = {"outcome": outcome, "user": user, "protocol": protocol, "form": form, "uid": uid, "gid": gid}
    head, _, tail = logs.line("request", **facts, program=name, pid=_NO_PID).rpartition(str(_NO_PID))
    return head, tail
