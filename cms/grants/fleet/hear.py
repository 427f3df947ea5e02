"""Hears of what other hosts change: sign-ins, sign-outs and refusals, and what relays wish.

A notification is a hint to look, which may be lost or made up. The truth is a question: what has changed since the earliest
transaction that was still under way at the question before. It is also asked within each minute. Renewed tokens are not told:
every host holds a good one, and comes when it is due.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cms.grants.fleet import statements
from cms.grants.fleet.connection import Away, Wire, only
from cms.grants.messages import Heard, Reached, Told
from cms.grants.secret_sources import Unavailable

# How often a host asks without a notification, and how long it waits after one for others that come with it. After a loss, no
# host claims anything for one lease. A host that only polls must ask and bring its journals within that time.
POLL_SECONDS = 45.0
GATHER_SECONDS = 1.0

# The pause after a lost connection, which doubles up to the longest.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class Hearing:
    """A thread with its own connection. `channel` is "" where a pooler, or the configuration, allows no LISTEN.

    `began` returns the mark from which on changes are told, once the database was greeted. `host` returns this host's id.
    """

    def __init__(
        self,
        open_wire: Callable[[], Wire],
        greet: Callable[[], None],
        channel: str,
        tell: Callable[[Told], None],
        *,
        began: Callable[[], str],
        host: Callable[[], str],
    ) -> None:
        self._host = host
        self._began = began
        self._open = open_wire
        self._greet = greet
        self._channel = channel
        self._tell = tell
        self._stopped = threading.Event()
        self._wire: Wire | None = None
        self._asking: Wire | None = None
        self._since = self._history = ""
        # Why the database could not be asked the last time, None before the first.
        self._why: str | None = None
        # What was told, of transactions that the next question sees again.
        self._told = set[tuple[object, ...]]()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        for each in (self._wire, self._asking):
            if each:
                each.cut()
        self._thread.join()

    def _run(self) -> None:
        pause = _SHORTEST_PAUSE
        while not self._stopped.is_set():
            try:
                # A database that is back gets what it lacks, even if no program asks for a token.
                self._greet()
                self._wire = self._open()
                self._reached("")
                if not self._stopped.is_set():
                    self._hear(self._wire)
            except (Away, Unavailable) as error:
                # A lost connection mostly comes back at the first try: that is not worth telling.
                if self._wire is None:
                    self._reached(str(error))
            pause = _SHORTEST_PAUSE if self._wire else min(_LONGEST_PAUSE, 2 * pause)
            if self._wire:
                self._wire.close()
            self._wire = None
            self._stopped.wait(pause)

    def _reached(self, why: str) -> None:
        """Tell whether the database can be asked, if that has changed."""
        if why != self._why:
            self._why = why
            self._tell(Reached(why))

    def _hear(self, wire: Wire) -> None:
        """Ask, and wait for the next notification, until the connection is lost."""
        if self._channel:
            wire.listen(self._channel, self._host())
        while not self._stopped.is_set():
            if not self._channel:
                self.ask(wire)
                self._stopped.wait(POLL_SECONDS)
                continue
            self._ask_apart()
            wire.wait(POLL_SECONDS, GATHER_SECONDS)

    def _ask_apart(self) -> None:
        """Ask on a connection that hears nothing: an answer would come after all notifications, of which there may be no end."""
        self._asking = self._open()
        try:
            self.ask(self._asking)
        finally:
            asked, self._asking = self._asking, None
            asked.close()

    def ask(self, wire: Wire) -> None:
        """Ask for what has changed since the last time, and tell it. Raises Away, Unavailable."""
        mark, history = only(wire.run(statements.MARK))
        if history != self._history:
            # All that is known may be of another life of the database.
            lost, self._told = bool(self._history), set()
            self._since, self._history = mark if lost else self._began(), history
            if lost:
                self._tell(Heard(()))
        changed = {tuple(row) for row in wire.run(statements.CHANGED, since=self._since)}
        changed |= {("wish", *row) for row in wire.run(statements.WISHED)}
        news = changed - self._told
        self._told, self._since = changed, mark
        keys = tuple(sorted({str(row[1] if row[0] == "wish" else row[0]) for row in news}))
        if keys:
            self._tell(Heard(keys))
