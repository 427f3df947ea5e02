"""The last requests, for `cms status`: who asked for what, and whether they got it. Never a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cms.core.policy import Peer

# As many as fit a screen. Older ones are in the log.
MAX_RECENT = 50


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `at` is CLOCK_BOOTTIME; `outcome` is "granted" or a code of the wire protocol.

    `user` is "" for a peer that was turned away before it had said anything.
    """

    at: float
    uid: int
    pid: int
    user: str
    protocol: str
    form: str
    outcome: str


class Recent:
    """The last requests of all sockets."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._asked: deque[Asked] = deque(maxlen=MAX_RECENT)

    def note(self, peer: Peer, *, outcome: str, user: str, protocol: str, form: str) -> None:
        """Remember one request, in place of the oldest."""
        self._asked.append(Asked(self._now(), peer.uid, peer.pid, user, protocol, form, outcome))

    def as_data(self, wall: float) -> list[dict[str, Any]]:
        """Return them as JSON carries them, the newest first: `age` in seconds, `at` as Unix time. `wall` is now's."""
        now = self._now()
        return [_data(each, now - each.at, wall) for each in reversed(self._asked)]


def _data(asked: Asked, age: float, wall: float) -> dict[str, Any]:
    return {**asdict(asked), "age": int(age), "at": int(wall - age)}
