"""The conversation with a person who signs in: the thread of the sign-in has one end, the worker's main loop the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from cms.grants.messages import Prompt


class Cancelled(Exception):
    """The sign-in was cancelled."""


class Conversation:
    """Prompts on their way out, and what the browser brought on its way in.

    The sign-in calls `prompt`, `wait` and `check`; the main loop calls `redirected` and `cancel`.
    """

    def __init__(self, send: Callable[[Prompt], None]) -> None:
        self._send = send
        self._cancelled = threading.Event()
        # None wakes a sign-in that waits while it is cancelled.
        self._inbox: queue.SimpleQueue[Mapping[str, str] | None] = queue.SimpleQueue()

    def prompt(self, prompt: Prompt) -> None:
        """Show the person what to do."""
        self._send(prompt)

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        """Return what the browser brought, or None after that many seconds. Raises Cancelled."""
        try:
            fields = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self.check()
        return fields

    def check(self) -> None:
        """Raise Cancelled if the sign-in was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def redirected(self, fields: Mapping[str, str]) -> None:
        """Hand over what the browser brought."""
        self._inbox.put(fields)

    def cancel(self) -> None:
        """Cancel the sign-in."""
        self._cancelled.set()
        self._inbox.put(None)
