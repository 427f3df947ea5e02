"""Times in what a mail server says: its clock, how long to wait, and how a duration is told. Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

# Exchange's SMTP greeting contains its time, in the format of RFC 5322.
_READY_AT = re.compile(
    r"microsoft .{0,80} ready at (\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4})", re.IGNORECASE
)


def clock_of(greeting: str) -> float | None:
    """Return the Unix time in Exchange's greeting, None if there is none."""
    found = _READY_AT.search(greeting)
    try:
        return parsedate_to_datetime(found[1]).timestamp() if found else None
    except (ValueError, OverflowError):
        return None


# How replies name a waiting time, and its unit in seconds.
_WAITS = (
    (re.compile(r"backoff time: *(\d{1,9}) milliseconds", re.IGNORECASE), 0.001),
    (re.compile(r"retry-after:? *(\d{1,9})\b", re.IGNORECASE), 1.0),
    (re.compile(r"(?:in|after|for) (\d{1,9}) ?(?:s\b|sec)", re.IGNORECASE), 1.0),
    (re.compile(r"(?:in|after|for) (\d{1,9}) ?min", re.IGNORECASE), 60.0),
)


def wait_of(reply: str) -> float | None:
    """Return how many seconds a reply asks to wait, None if it names no time."""
    return next((int(found[1]) * unit for pattern, unit in _WAITS if (found := pattern.search(reply))), None)


# The least number of seconds for which a unit is used, and the unit in seconds: 119 s, 2 minutes, 2 hours, 2 days.
_UNITS = ((172_800, 86_400, "days"), (7_200, 3_600, "hours"), (120, 60, "minutes"))


def span(seconds: float) -> str:
    """Return a duration in words, such as "5 minutes"."""
    return next((f"{seconds / one:.0f} {unit}" for least, one, unit in _UNITS if seconds >= least), f"{seconds:.0f} s")
