"""Loads the configuration, for the commands that read it."""

from __future__ import annotations

import os
import sys
from concurrent.futures import wait
from types import FrameType

from cms.cli.failure import Failure
from cms.config.load import load
from cms.config.model import LOAD_SECONDS, Config, ConfigError
from cms.system import threads


def load_config(path: str) -> Config:
    """Load a configuration. Raises Failure if it is faulty."""
    try:
        return load_in_time(path)
    except ConfigError as error:
        raise Failure(str(error), status=os.EX_CONFIG) from None


def load_in_time(path: str) -> Config:
    """Load a configuration. It is a program and may never end, so this has a time limit. Raises ConfigError."""
    loading = threads.start(lambda: load(path), "configuration")
    if not wait([loading], LOAD_SECONDS).done:
        message = f"it did not end within {LOAD_SECONDS:g} s"
        raise ConfigError(
            path, _running_line(path), message, "A configuration must come to its end: look for a loop or a wait"
        )
    return loading.result()


def _running_line(path: str) -> int | None:
    """Return the line of this file that a thread is executing, None if none is."""
    for frame in sys._current_frames().values():  # noqa: SLF001 - documented, for just this
        inner: FrameType | None = frame
        while inner and inner.f_code.co_filename != path:
            inner = inner.f_back
        if inner:
            return inner.f_lineno
    return None
