"""How much may be written: so much at once, and so much in each second after that. What is refused is counted. Pure.

The log and the audit use this, so that nobody can fill a disk by asking for tokens or by making something fail.
"""

from __future__ import annotations

DAY = 24 * 60 * 60.0


class Ration:
    """A token bucket. It begins full, with `at_once`, and gets `each_day` back in the course of a day.

    Not a frozen value like other state, because it is asked at every request. `refused` counts what was refused since the
    beginning, and `untold` since `told` was called.
    """

    __slots__ = ("_at", "_at_once", "_left", "_per_second", "refused", "untold")

    def __init__(self, at_once: float, each_day: float) -> None:
        self._at_once = self._left = at_once
        self._per_second = each_day / DAY
        self._at = 0.0
        self.refused = self.untold = 0

    def take(self, cost: float, now: float) -> bool:
        """Take a part, if there is as much; `now` is any clock that only goes forward."""
        if now > self._at:
            self._left = min(self._at_once, self._left + (now - self._at) * self._per_second)
            self._at = now
        if cost > self._left:
            self.refused += 1
            self.untold += 1
            return False
        self._left -= cost
        return True

    def give_back(self, cost: float) -> None:
        """Give a part back that was taken, and is not counted after all."""
        self._left = min(self._at_once, self._left + cost)

    def is_full(self, now: float) -> bool:
        """True if all that was taken has come back, so that a new one would be the same."""
        return self._left + (now - self._at) * self._per_second >= self._at_once

    def told(self) -> int:
        """Return `untold`, and count it from 0 again."""
        count, self.untold = self.untold, 0
        return count


class Rations:
    """One ration for each of many users, and one for all of them together.

    No more than `most` users have one of their own at a time, because a user of the machine may have thousands of uids
    (subuid(5)). Those beyond share one.
    """

    def __init__(self, each: tuple[float, float], together: tuple[float, float], most: int = 256) -> None:
        self._each = each
        self._together = Ration(*together)
        self._others = Ration(*each)
        self._most = most
        self._by_key = dict[int, Ration]()

    def take(self, key: int, cost: float, now: float) -> bool:
        """Take a user's part, if there is as much for this user and for all."""
        ration = self._by_key.get(key) or self._ration_of(key, now)
        if not ration.take(cost, now):
            return False
        if not self._together.take(cost, now):
            ration.give_back(cost)
            return False
        return True

    def give_back(self, key: int, cost: float) -> None:
        """Give a part back that a user took, and is not counted after all."""
        for ration in (self._by_key.get(key, self._others), self._together):
            ration.give_back(cost)

    def _ration_of(self, key: int, now: float) -> Ration:
        if len(self._by_key) >= self._most:
            self._by_key = {each: ration for each, ration in self._by_key.items() if not ration.is_full(now)}
        if len(self._by_key) >= self._most:
            return self._others
        return self._by_key.setdefault(key, Ration(*self._each))
