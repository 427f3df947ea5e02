"""Counts the questions for a token that went to the provider, for `cms metrics`."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from cms.core.lifecycle import Outcome

# Seconds. A refresh takes half a second, and two if the worker must be started; it is given up after half a minute.
BOUNDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
OUTCOMES = ("granted", "transient", "refused")


class Refreshes:
    """How often the provider was asked for a token, by outcome, and how long that took: for `cms metrics`."""

    def __init__(self) -> None:
        # The last place is for what took longer than all bounds.
        self._counts = {each: [0] * (len(BOUNDS) + 1) for each in OUTCOMES}
        self._seconds = dict.fromkeys(OUTCOMES, 0.0)

    def count(self, outcome: Outcome, seconds: float) -> None:
        name = type(outcome).__name__.lower()
        self._counts[name][bisect_left(BOUNDS, seconds)] += 1
        self._seconds[name] += seconds

    def as_data(self) -> dict[str, Any]:
        """Return the counts as JSON carries them. `counts` are of each interval that `bounds` end, and one beyond them."""
        outcomes = {each: {"counts": counts, "seconds": self._seconds[each]} for each, counts in self._counts.items()}
        return {"bounds": BOUNDS, "outcomes": outcomes}
