"""How evenly the refreshes of many accounts are spread, by cms's own rules and a fake clock. An installation runs this.

    python spread.py ACCOUNTS HOURS

All accounts begin without a token at the same moment, tokens live for an hour, and chance is seeded. Prints, from the
second hour on, the refreshes of the busiest minute as a multiple of the mean of all minutes.
"""

import heapq
import random
import sys
from collections import Counter

from cms.core.lifecycle import Granted, Life, SleepUntil, absorb, plan

_LIFE = 3600.0


def main(accounts: int, hours: int) -> None:
    """Let the hours pass."""
    minutes, chance = Counter[int](), random.Random(20261129)
    due = [(0.0, number) for number in range(accounts)]
    while due[0][0] < hours * 3600:
        now, number = due[0]
        minutes[int(now // 60)] += 1
        planned = plan(absorb(Life(), Granted("a token", now, _LIFE), now, chance.random()), now)
        assert isinstance(planned, SleepUntil)
        heapq.heapreplace(due, (planned.when, number))
    later = [minutes[minute] for minute in range(60, hours * 60)]
    print(max(later) * len(later) / sum(later))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
