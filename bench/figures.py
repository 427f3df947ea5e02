"""The two pictures of the README, as SVG that is readable on light and on dark pages: bars, each with its name and value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.chapters.fetch import BARE, FETCH, PASS
from bench.chapters.socket import CLIENTS
from bench.ground import CMS
from bench.measure import Missing, Section
from bench.report import shown

_WIDTH, _NAMES, _VALUES = 720, 180, 120
_BAR, _GAP, _HEADING = 16, 4, 26

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.value { font-variant-numeric: tabular-nums }
.cms { fill: #1a7f37 }
.other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .cms { fill: #3fb950 }
  .other { fill: #6e7681 }
}"""


@dataclass(frozen=True)
class Bar:
    """One bar; `text` is its value in words."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Panel:
    """Some bars under a heading. On the scale of `most`, by the logarithm from `least` on if that is not 0."""

    title: str
    bars: Sequence[Bar]
    most: float
    least: float = 0.0


def drawn(title: str, panels: Sequence[Panel]) -> str:
    """Return a picture."""
    parts, y = list[str](), 0
    for panel in panels:
        y += _HEADING
        parts.append(f'<text class="title" x="0" y="{y - 8}">{escape(panel.title)}</text>')
        for bar in panel.bars:
            length = max(2.0, _length(bar.value, panel) * (_WIDTH - _NAMES - _VALUES))
            middle, kind = y + _BAR - 3, "cms" if bar.name.startswith(CMS) else "other"
            parts.append(f'<text x="{_NAMES - 8}" y="{middle}" text-anchor="end">{escape(bar.name)}</text>')
            parts.append(f'<rect class="{kind}" x="{_NAMES}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2"/>')
            parts.append(f'<text class="value" x="{_NAMES + length + 6:.1f}" y="{middle}">{escape(bar.text)}</text>')
            y += _BAR + _GAP
    size = f'viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" {size}>'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", *parts, "</svg>"]) + "\n"


def _length(value: float, panel: Panel) -> float:
    if panel.least:
        return math.log(max(value, panel.least) / panel.least) / math.log(panel.most / panel.least)
    return value / panel.most


def fetch(section: Section) -> str:
    """Return the picture of one fetch. Raises Missing."""
    bare = section.median((BARE, PASS, "wall"))
    who = [(name, case) for name, case in section.rounds if case in (FETCH, PASS)]
    found = sorted((section.median((name, case, "wall")), name) for name, case in who)
    bars = [Bar(name, value, f"{value * 1e3:.1f} ms, {value / bare:.3g} x") for value, name in found]
    title = "One fetch of a token, from the start of the command to its end"
    return drawn(title, [Panel(f"{title} (x: beside a bare interpreter)", bars, found[-1][0])])


def socket(section: Section) -> str:
    """Return the picture of the token socket. Raises Missing."""
    panels = []
    for name, what in (
        ("rate", "Requests a second"),
        ("p99", "p99, ms, logarithmic"),
    ):
        cases = {case: [who for who, each in section.rounds if each == case] for case in CLIENTS}
        found = {(who, case): section.median((who, case, name)) for case, names in cases.items() for who in names}
        if not found:
            raise Missing((CMS, CLIENTS[0], name))
        most, least = max(found.values()), min(found.values()) / 2 if name == "p99" else 0.0
        for case, names in cases.items():
            bars = [Bar(who, found[who, case], shown(name, found[who, case])) for who in names]
            panels.append(Panel(f"{what}: {case}", bars, most, least))
    return drawn("The token socket: throughput and p99 by number of clients", panels)
