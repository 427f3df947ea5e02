"""Whether the database of a fleet can be asked, as the worker tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cms.core.accounts import FleetFacts
from cms.grants.messages import Heard, Told
from cms.system.clock import Clock
from cms.system.logs import get_logger

log = get_logger()


class Reach:
    """Takes what the worker tells without being asked.

    What other hosts have changed goes on to `heard`. `back` is called when the database answers again.
    """

    def __init__(self, clock: Clock, heard: Callable[[Sequence[str]], None], back: Callable[[], None]) -> None:
        self._clock = clock
        self._heard = heard
        self._back = back
        # Why it cannot be asked, and since when (boot clock).
        self._away: tuple[str, float] | None = None

    def told(self, told: Told) -> None:
        """Take it over."""
        if isinstance(told, Heard):
            self._heard(told.keys)
            return
        before, now = self._away, self._clock.boot()
        self._away = (told.why, before[1] if before else now) if told.why else None
        if told.why:
            log.warning("the fleet's database cannot be asked", reason=told.why)
        elif before:
            log.info("the fleet's database answers again", seconds=round(now - before[1]))
            self._back()

    def forget(self) -> None:
        """Forget what is known: there may be another database now."""
        self._away = None

    @property
    def facts(self) -> FleetFacts:
        """What `cms status` shows."""
        return FleetFacts(self._clock.boot() - self._away[1], self._away[0]) if self._away else FleetFacts()
