"""The audit: a record of each request, with who asked for what, and whether they got it. Never a token.

`record` only keeps a request. `flush` writes all that were kept with one call. It is called once the replies are sent: at
the end of each round of connections, and within it where few have come. So a line is late by no more than a round.
`Audit(...)` of the configuration says where to, and `cms status` shows the last ones. The log has only what was refused.

Nobody can fill a disk by asking. Of a user's refusals ten a second are written, and of everything so many bytes a day, for
each user and for all. The rest is counted.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from cms.core.accounts import EVERY
from cms.core.policy import DENIED, Peer
from cms.core.ration import DAY, Ration, Rations
from cms.core.status import AuditFacts
from cms.daemon.serving.folders import distrust
from cms.system import logs
from cms.system.append import AppendFile
from cms.system.journal import Journal
from cms_oauth.wire import EXIT_CODES, TokenRequest

# As many as fit a screen, and the refusals of one uid among them: a stranger does not push all others out. Older ones are
# in the audit's file.
MAX_RECENT = 50
MAX_RECENT_REFUSALS = 20

# Of how many accounts and protocols the last grant is known: of ten thousand accounts with three each. An account for every
# address of a domain has no end of them.
MAX_TAKEN = 32_768

# Refusals of one uid that are written in each second.
MAX_REFUSALS = 10

# What is written, in bytes: at once, and in a day after that. A line has about 130. Exim asks for every mail, as one user:
# two million a day. Others' refusals must not use up what is meant for those who may ask.
_MB = 1024 * 1024
GRANTS_OF_ONE, GRANTS_OF_ALL = (256 * _MB, 256 * _MB), (1024 * _MB, 1024 * _MB)
REFUSALS_OF_ONE, REFUSALS_OF_ALL = (1 * _MB, 1 * _MB), (16 * _MB, 16 * _MB)

# Refusals in the log, at once and in a day: a part of what the log may have, so that they silence nothing else there; and
# of that a fifth for each uid, so that no other's are hidden.
LOGGED_OF_ONE, LOGGED_OF_ALL = (100, 1000), (500, 5000)

# How often the log says that refusals were only counted, at once and in a day.
_TOLD = (1, 24)

# Of a round with more requests than this, no line names the program: that costs as much as an answer.
MAX_NAMED = 16

IDENTIFIER = "cms-audit"

_UNNAMED = "-"

# TASK_COMM_LEN of the kernel is 16, and a line ends the name.
_COMM_BYTES = 17

log = logs.get_logger()


class Asked(NamedTuple):
    """One request. `user` is whose token it is, as far as that is known.

    `outcome` is "granted" or a code of the wire protocol.
    """

    peer: Peer
    request: TokenRequest
    user: str
    outcome: str


# A request, when its line was written (CLOCK_BOOTTIME), and the name of the program that asked.
Written = tuple[Asked, float, str]


class Place(Protocol):
    """Where records are written: the file or the journal."""

    place: str
    lost: int
    trouble: str

    def write(self, lines: Sequence[str]) -> None: ...
    def reopen(self) -> None: ...
    def mend(self) -> None: ...
    def close(self) -> None: ...


class Audit:
    """The requests of all sockets. `now` is the boot clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._recent = deque[Written](maxlen=MAX_RECENT)
        # The last grant by account and protocol.
        self._last = dict[tuple[str, str], Written]()
        self._unwritten = list[Asked]()
        self._places = list[Place]()
        self._often = Rations((MAX_REFUSALS, MAX_REFUSALS * DAY), (math.inf, 0.0))
        self._grants = Rations(GRANTS_OF_ONE, GRANTS_OF_ALL)
        self._refusals = Rations(REFUSALS_OF_ONE, REFUSALS_OF_ALL)
        self._logged = Rations(LOGGED_OF_ONE, LOGGED_OF_ALL)
        self._telling = Ration(*_TOLD)
        # What was only counted: in all, what the log does not know yet, and whose was the last.
        self._counted = self._untold = 0
        self._last_counted = 0
        # All requests since the start, by outcome. The known ones begin with 0: monitoring sees the first of each.
        self.outcomes = Counter[str](dict.fromkeys(("granted", *EXIT_CODES), 0))

    # Where to.

    def apply(self, file: str, *, journal: bool) -> None:
        """Write to this file ("" for none) and to the journal from now on. A file that stays is opened anew."""
        self.flush()
        wanted = [*filter(None, [file]), *([Journal.place] if journal else [])]
        before = {each.place: each for each in self._places}
        self._places = [before[each] if each in before else _opened(each) for each in wanted]
        for each in before.keys() - wanted:
            before[each].close()
        self.reopen()

    def reopen(self) -> None:
        """Open the file anew: logrotate may have renamed it. What was recorded until now goes to the old one."""
        self.flush()
        for each in self._places:
            each.reopen()

    def mend(self) -> None:
        """Open the file again if it could not be opened, or is gone."""
        for each in self._places:
            each.mend()

    # What is recorded.

    def record(self, peer: Peer, request: TokenRequest, user: str, outcome: str) -> None:
        """Keep a request, for `flush` and for the status."""
        self.outcomes[outcome] += 1
        if outcome != "granted" and not self._often.take(peer.uid, 1, self.now()):
            self._count(peer.uid)
            return
        self._unwritten.append(Asked(peer, request, user, outcome))

    def count_unread(self, peer: Peer) -> None:
        """Count a request of a peer that may not ask, which was not even read."""
        self.outcomes[DENIED] += 1
        self._count(peer.uid)

    def flush(self) -> None:
        """Write a line for each request that was recorded since the last time."""
        if self._untold and self._telling.take(1, self.now()):
            self._tell()
        if not self._unwritten:
            return
        asked, self._unwritten = self._unwritten, []
        pids = {each.peer.pid for each in asked} if len(asked) <= MAX_NAMED else ()
        programs = {pid: program(pid) for pid in pids}
        stamp, now = logs.stamp(), self.now()
        lines: dict[tuple[Rations, int], list[str]] = defaultdict(list)
        for each in asked:
            name = programs.get(each.peer.pid, _UNNAMED)
            granted, written = each.outcome == "granted", (each, now, name)
            self._remember(written)
            if granted:
                self._note(written)
            elif self._logged.take(each.peer.uid, 1, now):
                log.info("request", **_facts(each, name))
            elif not self._places:
                # It is written nowhere else.
                self._count(each.peer.uid)
            if self._places:
                share = self._grants if granted else self._refusals
                lines[share, each.peer.uid].append(f"time={stamp} {_line(each, name)}")
        if lines:
            found = [line for (share, uid), more in lines.items() for line in self._rationed(share, uid, more, now)]
            for place in self._places:
                place.write(found)

    def _rationed(self, share: Rations, uid: int, lines: list[str], now: float) -> list[str]:
        """Return those of a user's lines that there is room for. Nearly always there is for all of a round."""
        if share.take(uid, _size(*lines), now):
            return lines
        found = [line for line in lines if share.take(uid, _size(line), now)]
        self._count(uid, len(lines) - len(found))
        return found

    def close(self) -> None:
        """Write all that is not written."""
        self.flush()
        if self._untold:
            self._tell()
        for each in self._places:
            each.close()

    def _note(self, written: Written) -> None:
        """Keep a grant as the last of its account and protocol, in place of the one that was longest ago."""
        asked, _, _ = written
        key = asked.user, asked.request.protocol
        self._last.pop(key, None)
        if len(self._last) >= MAX_TAKEN:
            del self._last[next(iter(self._last))]
        self._last[key] = written

    def _remember(self, written: Written) -> None:
        """Keep a request for the status, in place of the oldest or of its uid's oldest refusal."""
        asked, _, _ = written
        if asked.outcome != "granted":
            refused = [
                each for each in self._recent if each[0].outcome != "granted" and each[0].peer.uid == asked.peer.uid
            ]
            if len(refused) >= MAX_RECENT_REFUSALS:
                self._recent.remove(refused[0])
        self._recent.append(written)

    def _count(self, uid: int, number: int = 1) -> None:
        self._counted += number
        self._untold += number
        self._last_counted = uid

    def _tell(self) -> None:
        count, self._untold = self._untold, 0
        log.warning("requests were counted, not recorded: there were too many", count=count, uid=self._last_counted)

    # What the status shows.

    @property
    def facts(self) -> AuditFacts:
        """Where records are written, and what is not there."""
        return AuditFacts(
            tuple(each.place for each in self._places),
            self._counted,
            sum(each.lost for each in self._places),
            "; ".join(f"{each.place}: {each.trouble}" for each in self._places if each.trouble),
        )

    def as_data(self, wall: float) -> list[dict[str, Any]]:
        """Return the last requests as JSON carries them, the newest first: `age` in seconds, `at` as Unix time. `wall` is now's."""
        self.flush()
        return [self._data(each, wall) for each in reversed(self._recent)]

    def last_taken(self, user: str, protocols: Sequence[str], wall: float) -> dict[str, Any] | None:
        """Return the last grant of this account for one of these protocols as `as_data` does, None if there was none."""
        users = [user]
        if user.startswith(EVERY):
            users = [each for each, _ in self._last if each.lower().endswith(user[1:].lower())]
        found = [self._last[one, each] for one in users for each in protocols if (one, each) in self._last]
        return self._data(max(found, key=lambda each: each[1]), wall) if found else None

    def _data(self, written: Written, wall: float) -> dict[str, Any]:
        asked, at, name = written
        age = self.now() - at
        return {"age": int(age), "at": int(wall - age), **_facts(asked, name)}


def _opened(place: str) -> Place:
    return Journal(IDENTIFIER) if place == Journal.place else AppendFile(place, distrust)


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


def _size(*lines: str) -> int:
    """Return the bytes of lines in a file."""
    return len("\n".join(lines).encode()) + 1


def _facts(asked: Asked, name: str) -> dict[str, Any]:
    peer, request = asked.peer, asked.request
    what = {"outcome": asked.outcome, "user": asked.user, "protocol": request.protocol, "form": request.form}
    return {**what, "uid": peer.uid, "gid": peer.gid, "program": name, "pid": peer.pid}


def _line(asked: Asked, name: str) -> str:
    (pid, uid, gid, _groups), request, user, outcome = asked
    return f"{_before(name, uid, gid, user, request.protocol, request.form, outcome)} pid={pid}"


@lru_cache(maxsize=1024)
def _before(name: str, uid: int, gid: int, *what: str) -> str:
    """Return what a line has before its process id. Cached, because rendering costs more than answering."""
    user, protocol, form, outcome = what
    return logs.pairs(outcome=outcome, account=user, protocol=protocol, form=form, uid=uid, gid=gid, program=name)
