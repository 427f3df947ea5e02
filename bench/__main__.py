"""The command line: `python -m bench`. `make bench` and `make bench-check` call it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import figures, report
from bench.ground import CMS, ROOT, Ground, ground, machine
from bench.measure import FAULTS, Missing, Section, say

CHAPTERS = ("fetch", "socket", "hostile", "scale", "idle", "start", "fleet")

# Where a run puts its results that has not measured everything.
_PARTIAL = ROOT / "build" / "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and say what was measured. Returns 1 if something could not be, or has become worse; else 0."""
    parser = _options()
    given = parser.parse_args(arguments)
    chapters = given.chapters.split() or list(CHAPTERS)
    if unknown := set(chapters) - set(CHAPTERS):
        parser.error(f"there is no chapter {', '.join(sorted(unknown))}: there are {', '.join(CHAPTERS)}")
    begun, load = time.monotonic(), os.getloadavg()[0]
    with ground(installed=given.installed, revision=given.check, short=given.short) as here:
        sections = [_measured(name, here) for name in chapters]
        facts = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            **machine(here.python),
            "took": f"{(time.monotonic() - begun) / 60:.0f} min; before it the machine had a load of {load:.1f}",
        }
    faults = [fault for section in sections for fault in section.faults]
    if given.check:
        text, worse = report.comparison(sections, CMS, here.cms[1].who)
        print("\n".join([text, "", f"{worse} figures are worse by more than {report.NOISE:.0%}.", *faults]))
        return 1 if worse or faults else 0
    whole = set(chapters) == set(CHAPTERS) and not given.short
    out = Path(given.out) if given.out else ROOT / "bench" if whole else _PARTIAL
    out.mkdir(parents=True, exist_ok=True)
    text = report.document(sections, facts, here.missing, short=given.short)
    (out / "RESULTS.md").write_text(text)
    _draw(sections, ROOT / "docs" / "images" if out == ROOT / "bench" else out)
    print(text)
    say(f"This is in {out / 'RESULTS.md'} as well.")
    return 1 if faults else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--chapters", default="", help=f"some of {', '.join(CHAPTERS)}; all if this is empty")
    parser.add_argument("--short", action="store_true", help="a minute for everything; the numbers say little")
    parser.add_argument("--check", metavar="REVISION", default="", help="compare with this revision, in the same run")
    parser.add_argument("--installed", metavar="FOLDER", default="", help="measure this virtual environment's cms")
    parser.add_argument("--out", metavar="FOLDER", default="", help="where RESULTS.md and the pictures go")
    return parser


def _measured(name: str, here: Ground) -> Section:
    """Return a chapter's results. One that cannot begin is a fault, and the others go on."""
    say(f"{name} ...")
    try:
        found: Section = importlib.import_module(f"bench.chapters.{name}").measure(here)
    except FAULTS as fault:
        found = Section(name, faults=[f"{type(fault).__name__}: {fault}"])
    return found


def _draw(sections: Sequence[Section], folder: Path) -> None:
    """Write the pictures of what was measured."""
    for section in sections:
        draw = {"One fetch": figures.fetch, "The token socket": figures.socket}.get(section.title)
        try:
            if draw:
                (folder / f"bench-{draw.__name__}.svg").write_text(draw(section))
        except Missing as missing:
            say(f"There is no picture of it: {missing}")


if __name__ == "__main__":
    sys.exit(main())
