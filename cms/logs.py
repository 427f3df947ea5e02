"""The log."""

from __future__ import annotations

from typing import Any

import structlog


def get_logger() -> Any:
    """Return a logger; it may be made before `setup` has run."""
    return structlog.get_logger()
