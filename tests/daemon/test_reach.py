"""Whether the fleet's database can be asked, from what the worker tells."""

from __future__ import annotations

from collections.abc import Sequence

from support.trio_run import FakeClock, in_trio_clock

from cms.core.accounts import FleetFacts
from cms.daemon.reach import Reach
from cms.grants.messages import Heard, Reached


@in_trio_clock
async def test_since_when_it_is_away() -> None:
    """From the first failure on, with the latest reason, until it answers: that is told then, once."""
    clock, heard, back = FakeClock(), list[Sequence[str]](), list[bool]()
    reach = Reach(clock, heard.append, lambda: back.append(True))
    reach.told(Reached(""))
    assert FleetFacts() == reach.facts
    for why in ("refused", "no route"):
        reach.told(Reached(why))
        clock.asleep += 10.0
    assert FleetFacts(20.0, "no route") == reach.facts
    reach.told(Reached(""))

    assert ([], [True], FleetFacts()) == (heard, back, reach.facts)


@in_trio_clock
async def test_what_other_hosts_do_is_passed_on() -> None:
    """It says nothing of the database."""
    heard = list[Sequence[str]]()
    reach = Reach(FakeClock(), heard.append, lambda: None)
    reach.told(Reached("refused"))
    reach.told(Heard(("a",)))

    assert ([("a",)], "refused") == (heard, reach.facts.why)
    reach.forget()
    assert FleetFacts() == reach.facts
