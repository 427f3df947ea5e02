"""How many fetches a Grant may have that no timer asks for: clients ask for a better token, refusals are looked at. Pure."""

from __future__ import annotations

from dataclasses import replace

from cms_oauth.frozen import dataclass

# Limits on the fetches that clients cause by asking for a better token: Entra takes repeated requests for a loop.
MINT_INTERVAL = 5 * 60.0
# The fetches of one kind that a budget allows in a day.
MINTS_PER_DAY = 6
DAY = 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Budget:
    """The boot-clock moments of the recent fetches of one kind, and the least time between two of them.

    There is one budget for each Grant, for the fetches that clients cause, and one for the looks at its refusals.
    """

    mints: tuple[float, ...] = ()
    interval: float = MINT_INTERVAL

    def allows(self, now: float) -> bool:
        return self.free_at(now) <= now

    def free_at(self, when: float) -> float:
        """Return the first moment from `when` on at which there may be a fetch."""
        recent = self._within(when)
        first = recent[-MINTS_PER_DAY] + DAY if len(recent) >= MINTS_PER_DAY else when
        return max(when, first, recent[-1] + self.interval if recent else when)

    def spend(self, now: float) -> Budget:
        return replace(self, mints=(*self._within(now), now))

    def _within(self, now: float) -> tuple[float, ...]:
        return tuple(when for when in self.mints if now - when < DAY)


# The looks at the refusals of a Grant, before the first one.
LOOKS = Budget(interval=0.0)
