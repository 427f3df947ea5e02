"""What is made of the results: tables, as text that is Markdown as well, and whether targets are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.measure import UNITS, Missing, Section

# By how much a figure of another revision may differ without meaning anything, on a machine that does other things too.
NOISE = 0.15


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def figures(section: Section) -> str:
    """Return the medians of everything that a chapter has measured."""
    names = [name for name in UNITS if any(name in rounds[0] for rounds in section.rounds.values())]
    rows = []
    for (who, case), rounds in section.rounds.items():
        found = (shown(name, section.median((who, case, name))) if name in rounds[0] else "" for name in names)
        rows.append([case, who, *found])
    return table(["", "", *(UNITS[name].words for name in names)], rows)


def shown(name: str, value: float) -> str:
    """Return a figure as text, in its unit."""
    unit = UNITS[name]
    return f"{value * unit.scale:,.{unit.digits}f}"


def targets(sections: Sequence[Section]) -> str:
    """Return what was promised, what was measured, and whether it is met."""
    rows = []
    for target, section in [(target, each) for each in sections for target in each.targets]:
        try:
            value, rounds = target.value(section.median), section.singly(target)
        except (Missing, ZeroDivisionError):
            rows.append([target.what, "not measured", "", target.wanted, ""])
            continue
        kept = all(map(target.is_met, rounds if target.always else [value]))
        met = "" if not target.wanted else "yes" if kept else "**no**"
        single = f"{min(rounds):.3g} to {max(rounds):.3g}" if len(rounds) > 1 else ""
        rows.append([target.what, f"{value:.3g} {target.unit}", single, target.wanted, met])
    return table(["target", "measured", "single rounds", "wanted", "met"], rows)


def document(sections: Sequence[Section], facts: Mapping[str, str], missing: Mapping[str, str], *, short: bool) -> str:
    """Return everything as one document."""
    parts = ["# What cms costs", _HEAD, table(["", ""], [[name, said] for name, said in facts.items()])]
    if short:
        parts.append("**The short form: it shows that everything can be measured. Its numbers say little.**")
    parts += [*(f"Not here: {who} ({why})." for who, why in missing.items()), "## Targets", targets(sections)]
    for section in sections:
        parts += [
            f"## {section.title}",
            *section.notes,
            figures(section),
            *(f"Failed: {each}" for each in section.faults),
        ]
    return "\n\n".join(parts) + "\n"


_HEAD = """\
Made by `make bench`. All that is compared has run in turns, in one run. Numbers are medians of the rounds, and a target is
a ratio of such medians unless it has another unit; "single rounds" are the lowest and the highest if each round is taken
by itself. [bench/README.md](README.md) says what is measured, and how."""


def comparison(sections: Sequence[Section], new: str, old: str) -> tuple[str, int]:
    """Return a table of two revisions, and how many figures have become worse by more than noise."""
    rows = [row for section in sections for row in _compared(section, new, old)]
    return table(["", "figure", old, new, "times", ""], rows), sum(row[-1] == "worse" for row in rows)


def _compared(section: Section, new: str, old: str) -> Iterator[list[str]]:
    for (who, case), rounds in section.rounds.items():
        for name in UNITS if who == new and (old, case) in section.rounds else ():
            if name not in rounds[0]:
                continue
            before, now = section.median((old, case, name)), section.median((new, case, name))
            ratio = now / before if before else 1.0 + bool(now)
            gain = ratio if UNITS[name].more else 1 / ratio if ratio else 1.0
            verdict = "worse" if gain < 1 / (1 + NOISE) else "better" if gain > 1 + NOISE else ""
            yield [case, UNITS[name].words, shown(name, before), shown(name, now), f"{ratio:.2f}", verdict]
