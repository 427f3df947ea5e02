"""Runs calls that may never return in daemon threads, so that the caller can stop waiting.

Python cannot end a thread: not a name lookup, not a keyring that waits for a person. So the caller waits with a deadline
and then abandons the thread: it keeps running, its result is dropped, and the process can exit without it. Each caller
limits how many abandoned threads there may be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(call: Callable[[], T], name: str | None = None) -> Future[T]:
    """Run a call in a daemon thread with this name, and return its future.

    Wait with `future.result(seconds)`: it returns what the call returns, raises what the call raises, and raises
    TimeoutError after that time. To wait for several calls, use `concurrent.futures.wait`.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
