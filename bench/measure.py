"""Runs that take turns, the medians of their figures, and targets that are checked against them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from subprocess import SubprocessError
from typing import TypeAlias

# What one run has measured, by the name of the figure: see `UNITS`. In seconds, bytes and pieces.
Figures: TypeAlias = dict[str, float]

# Where a figure is: who, in which case, and its name.
Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Unit:
    """How a figure is shown: multiplied by `scale`. `more` says that more is better."""

    words: str
    scale: float = 1.0
    digits: int = 1
    more: bool = False


UNITS = {
    "rate": Unit("requests/s", digits=0, more=True),
    "p50": Unit("median, ms", 1e3, 3),
    "p99": Unit("p99, ms", 1e3, 3),
    "slowest": Unit("slowest, ms", 1e3),
    "wall": Unit("time, ms", 1e3),
    "cpu": Unit("CPU, ms", 1e3),
    "cpu_each": Unit("CPU each, µs", 1e6),
    "memory": Unit("memory, MB", 1e-6),
    "memory_each": Unit("memory of each, KB", 1 / 1024),
    "growth": Unit("more memory, MB", 1e-6, 2),
    "answer": Unit("socket answers, s", digits=2),
    "fresh": Unit("all fresh, s", digits=2),
    "cpu_refresh": Unit("CPU of a refresh, ms", 1e3, 2),
    "cpu_database": Unit("database CPU, ms", 1e3, 2),
    "refreshes": Unit("refreshes/s", digits=0, more=True),
    "reload": Unit("reload, s", digits=2),
    "p99_quiet": Unit("p99 quiet, ms", 1e3, 3),
    "p99_reload": Unit("p99 in the reload, ms", 1e3, 3),
    "late": Unit("latest line, ms", 1e3),
    "lost": Unit("lost lines", digits=0),
    "lines": Unit("other lines", digits=0),
    "failures": Unit("failures", digits=0),
    "left": Unit("not closed", digits=0),
    "descriptors": Unit("more descriptors", digits=0),
    "requests": Unit("requests", digits=0),
    "wakeups": Unit("wake-ups in 30 s", digits=2),
    "cpu_idle": Unit("CPU in 30 s, ms", 1e3, 2),
    "busiest": Unit("busiest minute, times the mean", digits=2),
}


class Failed(Exception):
    """A run that went wrong, and cannot be counted."""


class Missing(LookupError):
    """A figure that nothing has measured: its key."""


# What a run that cannot be counted raises: it is left out, and the others go on.
FAULTS = (Failed, OSError, SubprocessError, ValueError)


@dataclass(frozen=True)
class Run:
    """What `who` does in one `case`, and how to measure it once."""

    who: str
    case: str
    once: Callable[[], Figures]


@dataclass(frozen=True)
class Target:
    """What is promised of a figure, as a multiple of that of `beside` if there is one. Without limits it only informs.

    With `always`, every round has to keep the promise, not only their median.
    """

    what: str
    of: Key
    beside: Key | None = None
    at_most: float | None = None
    at_least: float | None = None
    always: bool = False

    @property
    def unit(self) -> str:
        return "x" if self.beside else UNITS[self.of[2]].words

    @property
    def wanted(self) -> str:
        """What is promised, in words."""
        limits = (("at most", self.at_most), ("at least", self.at_least))
        wanted = " and ".join(f"{words} {limit:g}" for words, limit in limits if limit is not None)
        return f"always {wanted}" if self.always else wanted

    def value(self, at: Callable[[Key], float]) -> float:
        """Return the value, of the figures that `at` returns."""
        return at(self.of) / at(self.beside) if self.beside else at(self.of) * UNITS[self.of[2]].scale

    def is_met(self, value: float) -> bool:
        """True if this is as promised."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass
class Section:
    """A chapter's results: the figures of each run, round by round, by (who, case)."""

    title: str
    targets: Sequence[Target] = ()
    rounds: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def values(self, key: Key) -> list[float]:
        """Return a figure, round by round. Raises Missing."""
        *who, name = key
        values = [each[name] for each in self.rounds.get((who[0], who[1]), ()) if name in each]
        if not values:
            raise Missing(key)
        return values

    def median(self, key: Key) -> float:
        """Return a figure's median. Raises Missing."""
        return statistics.median(self.values(key))

    def singly(self, target: Target) -> list[float]:
        """Return a target's value for each round by itself. Raises Missing."""
        number = min(len(self.values(key)) for key in (target.of, target.beside) if key)
        # mypy infers no type for a lambda's default.
        return [target.value(lambda key, at=at: self.values(key)[at]) for at in range(number)]  # type: ignore[misc]

    def take_turns(self, runs: Sequence[Run], rounds: int, *, warm_up: bool = False) -> None:
        """Run each once in every round, beginning with another one each time. With `warm_up`, a first round is not counted.

        Whatever the machine does meanwhile meets all of them. A run that fails is left out from then on.
        """
        going = list(runs)
        for number in range(-warm_up, rounds):
            begun = time.monotonic()
            first = number % max(len(going), 1)
            for run in going[first:] + going[:first]:
                try:
                    found = run.once()
                except FAULTS as fault:
                    self.faults.append(f"{run.who}, {run.case}: {type(fault).__name__}: {fault}")
                    going.remove(run)
                    continue
                if number >= 0:
                    self.rounds.setdefault((run.who, run.case), []).append(found)
            cases = ", ".join(dict.fromkeys(run.case for run in runs))
            say(f"  round {number + 1} of {rounds}, {time.monotonic() - begun:.1f} s: {cases[:100]}")


def say(text: str) -> None:
    """Tell a person who waits what is being done."""
    print(text, file=sys.stderr, flush=True)
