"""What is logged, as data."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from cms.system.logs import get_logger


@contextmanager
def capture_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Gather what is logged, of every level, in place of writing it: the values, with `event` and `log_level`."""
    log, lines = get_logger(), list[MutableMapping[str, Any]]()
    before = dict(vars(log))
    log.least, log.take = "debug", lambda level, event: lines.append({**event, "log_level": level})
    try:
        yield lines
    finally:
        vars(log).update(before)
