"""Reads an object of JSON that comes from outside: a server, a file, another process."""

import json
from typing import Any


def read_object(text: str | bytes) -> dict[str, Any]:
    """Return the object. Raises ValueError for anything else, and never quotes it."""
    try:
        found = json.loads(text)
    # Python's parser recurses for each bracket.
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise ValueError("it is not a JSON object")
