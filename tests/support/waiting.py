"""Waiting for what another process does, with a deadline. Nothing here sleeps for longer than a poll takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# What has not happened by now never will. Two cores run a dozen processes of these tests: what takes a tenth of a second
# alone can take a great many of them then.
PATIENCE = 120.0
_POLL = 0.02


class TooLate(AssertionError):
    """The deadline passed."""


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Return the first true value of `condition`; raise TooLate, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TooLate(f"{what}: not within {seconds:g} s")
        time.sleep(_POLL)
