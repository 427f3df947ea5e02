"""The command line: `python -m bench`. `make bench` and `make bench-check` call it."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import figures, report
from bench.ground import CMS, ROOT, Ground, ground, machine
from bench.measure import FAULTS, Missing, Section, say

CHAPTERS = ("fetch", "socket", "hostile", "scale", "idle", "start")

# Where a run puts its results that has not measured everything.
_PARTIAL = ROOT / "build" / "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and say what was measured. Returns 1 if something could not be, or has become worse; else 0."""
    given = _options().parse_args(arguments)
    begun, old = time.monotonic(), given.check or ""
    chapters = given.chapters.split() or list(CHAPTERS)
    with ground(installed=given.installed, revision=old, short=given.short) as here:
        sections = [_measured(name, here) for name in chapters]
        facts = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            **machine(here.python),
            "took": f"{(time.monotonic() - begun) / 60:.0f} min",
        }
        faults = sum(len(section.faults) for section in sections)
        if old:
            text, worse = report.comparison(sections, CMS, here.cms[1].who)
            print(text)
            print(f"\n{worse} figures are worse by more than {report.NOISE:.0%}, {faults} could not be measured.")
            return 1 if worse or faults else 0
        whole = chapters == list(CHAPTERS) and not given.short
        out = Path(given.out) if given.out else ROOT / "bench" if whole else _PARTIAL
        _write(
            out, sections, report.document(sections, facts, here.missing, short=given.short), pictures=_pictures(out)
        )
    return 1 if faults else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--chapters", default="", help=f"some of {', '.join(CHAPTERS)}; all if this is empty")
    parser.add_argument("--short", action="store_true", help="a minute for everything; the numbers say little")
    parser.add_argument("--check", metavar="REVISION", help="compare with this revision, in the same run")
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


def _pictures(out: Path) -> Path:
    return ROOT / "docs" / "images" if out == ROOT / "bench" else out


def _write(out: Path, sections: Sequence[Section], text: str, *, pictures: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "RESULTS.md").write_text(text)
    print(text)
    for section in sections:
        draw = {"One fetch": figures.fetch, "The token socket": figures.socket}.get(section.title)
        if draw:
            try:
                (pictures / f"bench-{draw.__name__}.svg").write_text(draw(section))
            except Missing as missing:
                say(f"no picture: {missing}")
    say(f"Written to {out / 'RESULTS.md'}.")


if __name__ == "__main__":
    sys.exit(main())
