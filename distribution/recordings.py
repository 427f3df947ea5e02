"""Makes the pictures of a terminal in docs/images/ from the real programs: `make recordings`.

Each command runs in a terminal of its own, and the picture shows what was on the screen at its end, row by row in the time
in which the rows came.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

# More than any line of the recordings has: a path or a web address that is cut in two cannot be read.
COLUMNS = 160
# More than any recording has: what is not used is left out.
ROWS = 200

# Picture -> what is typed. None of them asks.
RECORDINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "explain": (
        ("cms", "explain", "AADSTS50105"),
        ("cms", "explain", "550 5.7.60 SMTP; Client does not have permissions to send as this sender"),
    ),
    "demo": (("cms", "demo"),),
    "status": (("cms", "status"),),
}

# Those that ask a daemon with accounts: that of recording_world.py.
WITH_ACCOUNTS = ("status",)

# A pause that nobody wants to watch.
_LONGEST_PAUSE = 1.5
# Between a command and its output, so that it can be read.
_AFTER_TYPING = 0.6

_WIDE, _HIGH, _MARGIN = 8.0, 18, 14
# The colours of terminals that programs use, for a light and for a dark page.
_COLOURS = {
    "red": ("#cf222e", "#ff7b72"),
    "green": ("#1a7f37", "#3fb950"),
    "brown": ("#9a6700", "#d29922"),
    "blue": ("#0969da", "#58a6ff"),
    "magenta": ("#8250df", "#bc8cff"),
    "cyan": ("#1b7c83", "#39c5cf"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one look; `colour` is a name of `_COLOURS`, or "" for the usual one."""

    text: str
    colour: str = ""
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the screen, and after how many seconds it came."""

    pieces: tuple[Piece, ...]
    since: float = 0.0


def picture(title: str, rows: Sequence[Row]) -> str:
    """Return the rows as SVG. A reader who wants no motion sees all at once, and so does a program without animations."""
    longest = max(sum(len(each.text) for each in row.pieces) for row in rows)
    width, height = round(longest * _WIDE) + 2 * _MARGIN, len(rows) * _HIGH + 2 * _MARGIN
    light = "\n".join(f".{name} {{ fill: {pair[0]} }}" for name, pair in _COLOURS.items())
    dark = "\n".join(f"  .{name} {{ fill: {pair[1]} }}" for name, pair in _COLOURS.items())
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        ),
        f"<title>{escape(title)}</title>",
        "<style>rect { fill: #f6f8fa; stroke: #d1d9e0 }",
        "text { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; fill: #1f2328; white-space: pre }",
        ".bold { font-weight: 700 }",
        light,
        "@keyframes come { from { opacity: 0 } to { opacity: 1 } }",
        "@media (prefers-reduced-motion: no-preference) { text { animation: come 0.01s both } }",
        "@media (prefers-color-scheme: dark) {",
        "  rect { fill: #0d1117; stroke: #3d444d }",
        "  text { fill: #e6edf3 }",
        dark,
        "}</style>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for number, row in enumerate(rows, 1):
        spans = "".join(map(_span, row.pieces))
        if spans:
            place = f'x="{_MARGIN}" y="{_MARGIN + number * _HIGH - 4}"'
            lines.append(f'<text {place} style="animation-delay: {row.since:.1f}s" xml:space="preserve">{spans}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _span(piece: Piece) -> str:
    looks = " ".join(filter(None, (piece.colour, "bold" if piece.bold else "")))
    return f'<tspan class="{looks}">{escape(piece.text)}</tspan>' if looks else escape(piece.text)


def recorded(commands: Iterable[Sequence[str]], path: str, world: Mapping[str, str]) -> list[Row]:
    """Run the commands one after the other, found in the PATH given; return what the screen shows at the end.

    `world` are variables of their environment besides the usual ones.
    """
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    since: dict[int, float] = {}
    watched = 0.0
    with tempfile.TemporaryDirectory() as home:
        usual = {"HOME": home, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        for words in commands:
            stream.feed(f"\x1b[1m$ {shlex.join(words)}\x1b[0m\r\n".encode())
            watched = _noted(screen, since, watched) + _AFTER_TYPING
            before = time.monotonic()
            for data in _output(words, {**usual, **world, "PATH": path}):
                now = time.monotonic()
                watched += min(now - before, _LONGEST_PAUSE)
                before = now
                stream.feed(data)
                _noted(screen, since, watched)
            stream.feed(b"\r\n")
    last = max(number for number, line in enumerate(screen.display) if line.strip())
    return [Row(_pieces(screen.buffer[number]), since.get(number, 0.0)) for number in range(last + 1)]


def _noted(screen: object, since: dict[int, float], now: float) -> float:
    """Note which rows have come by now."""
    for number, line in enumerate(screen.display):  # type: ignore[attr-defined] # pyte has no types
        if line.strip():
            since.setdefault(number, now)
    return now


def _output(words: Sequence[str], environment: dict[str, str]) -> Iterable[bytes]:
    """Yield what a program writes to its terminal; it must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(words, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                yield data
        except OSError:
            # So a terminal ends on Linux.
            pass
        os.close(ours)
    if process.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {process.returncode}")


def _pieces(line: object) -> tuple[Piece, ...]:
    """Return a row of pyte's as pieces, without the blanks at its end."""
    cells = [line[column] for column in range(COLUMNS)]  # type: ignore[index] # pyte has no types
    while cells and cells[-1].data == " ":
        cells.pop()
    found: list[Piece] = []
    for cell in cells:
        colour = cell.fg.removeprefix("bright") if cell.fg.removeprefix("bright") in _COLOURS else ""
        if found and (found[-1].colour, found[-1].bold) == (colour, cell.bold):
            found[-1] = Piece(found[-1].text + cell.data, colour, cell.bold)
        else:
            found.append(Piece(cell.data, colour, cell.bold))
    return tuple(found)


@contextmanager
def accounts(programs: str) -> Iterator[Mapping[str, str]]:
    """Run a daemon with accounts; yield the environment for programs that ask it."""
    script = Path(__file__).with_name("recording_world.py")
    with subprocess.Popen(
        [f"{programs}/python", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())
        process.communicate()
    if process.returncode:
        raise SystemExit(f"{script.name} ended with {process.returncode}")


def main(programs: str, folder: str) -> None:
    path = f"{Path(programs).absolute()}:/usr/bin:/bin"
    with accounts(programs) as world:
        for name, commands in RECORDINGS.items():
            title = "; ".join(map(shlex.join, commands))
            rows = recorded(commands, path, world if name in WITH_ACCOUNTS else {})
            Path(folder, f"{name}.svg").write_text(picture(title, rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
