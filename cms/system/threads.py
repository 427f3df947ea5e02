"""Calls that may never return: each runs in a daemon thread, and the caller decides how long it waits.

Nothing can end a thread from outside: not a name lookup, not a keyring that waits for a person, not a configuration
that loops. So the caller waits with a deadline and then abandons the call: it goes on, its result is dropped, and the
process can end without it. How many abandoned calls there may be is for each caller to limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def start(call: Callable[[], T], name: str | None = None) -> Future[T]:
    """Run a call in a daemon thread of this name, and return its future.

    `future.result(seconds)` is the usual way to wait: it returns what the call returns, raises what the call raises,
    and raises TimeoutError when the time is over. To wait for several at once, there is `concurrent.futures.wait`.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
