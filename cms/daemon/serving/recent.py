"""The last requests, for `cms status`: who asked for what, and whether they got it. Never a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

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


class Recent(deque[Asked]):
    """The last requests of all sockets, the oldest first. `now` is the boot clock: when a request is added."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(maxlen=MAX_RECENT)
        self.now = now

    def as_data(self, wall: float) -> list[dict[str, Any]]:
        """Return them as JSON carries them, the newest first: `age` in seconds, `at` as Unix time. `wall` is now's."""
        now = self.now()
        return [_data(each, now - each.at, wall) for each in reversed(self)]


def _data(asked: Asked, age: float, wall: float) -> dict[str, Any]:
    return {**asdict(asked), "age": int(age), "at": int(wall - age)}
