"""The store of a fleet: the service's questions about a sign-in, asked of the database that several hosts share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cms.core.accounts import Grant, Scopes
from cms.grants.fleet.hear import Hearing
from cms.grants.fleet.held import FleetHeld
from cms.grants.fleet.member import Member
from cms.grants.messages import Told
from cms.grants.vault.entry_file import busy


class FleetStore(Member):
    """The sign-ins of a fleet, as this host sees them."""

    # It hears of what other hosts change.
    stays = True

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._locks: dict[str, threading.Lock] = {}
        self._hearing: Hearing | None = None

    def __repr__(self) -> str:
        return f"FleetStore({self.fleet.schema!r})"

    @contextmanager
    def hold(self, grant: Grant, scopes: Scopes = ()) -> Iterator[FleetHeld]:
        """Hold a grant against this host's other threads and processes. Raises Unavailable."""
        lock = self._locks.setdefault(grant.key, threading.Lock())
        self.journals.folder.make()
        if not lock.acquire(timeout=self.patience):
            raise busy()
        try:
            with self.journals.folder.lock(grant.key):
                held = FleetHeld(self, grant, scopes)
                try:
                    yield held
                finally:
                    held.end()
        finally:
            lock.release()

    def listen(self, tell: Callable[[Told], None]) -> None:
        """Tell of sign-ins that other hosts change, and whether the database answers, from now on. Does not wait."""
        if self._hearing is None:
            self.tell = tell
            channel = self.channel if self.fleet.listen else ""
            self._hearing = Hearing(
                self.open_wire,
                self.database.greet,
                channel,
                tell,
                began=lambda: self.began,
                host=lambda: self.host,
            )
            self._hearing.start()

    def rest(self) -> None:
        """Close the connection for work until the next question."""
        self.database.rest()

    def close(self) -> None:
        """End all connections, and hear no more."""
        if self._hearing:
            self._hearing.stop()
        self.database.rest()
