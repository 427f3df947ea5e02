"""Messages as lines of JSON, one object per line. The control socket and the grant worker's socket carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Garbled(ValueError):
    """A line is not a message. The text never quotes the line, because it may contain a token."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Return one line, LF included."""
    return json.dumps(message).encode() + b"\n"


def unpack(line: bytes) -> dict[str, Any]:
    """Return the object in a line. Raises Garbled."""
    try:
        message = json.loads(line)
    # Python's JSON parser recurses for each bracket.
    except (ValueError, RecursionError):
        raise Garbled("a line that is not JSON") from None
    if not isinstance(message, dict):
        raise Garbled("a line that is not a JSON object")
    return message


class Lines:
    """Splits a byte stream into lines, without their LF. No line, complete or not, may be longer than `longest` bytes."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """Return the lines that `data` completes. Raises Garbled if a line is too long."""
        first, *more = bytes(data).split(b"\n")
        self._rest += first
        whole = []
        if more:
            whole = [bytes(self._rest), *more[:-1]]
            self._rest[:] = more[-1]
        if any(len(line) > self._longest for line in (*whole, self._rest)):
            raise Garbled("a line that is too long for a message")
        return whole
