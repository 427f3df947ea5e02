"""`cms status --watch`: shows the status and the latest requests on a terminal, updated every second.

It asks the daemon once a second as `cms status` does. So no connection stays open, and after a restart of the daemon
the next question finds it.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from cms.cli.client import NoDaemon, understood
from cms.core.status_table import MOST_IN_FULL, causes, some, summary, table
from cms.core.status_text import Document, facts, life_left, name, protocols, until
from cms.core.words import duration
from cms.system import users
from cms_oauth.text import printable

# The page has countdowns in seconds, so it is drawn once a second.
PAUSE_SECONDS = 1.0

# So many causes are told above many accounts, which are what the screen is for. `cms status` has them all.
_MOST_CAUSES = 3

# So many accounts of a cause are named: its line is cut off at the screen's width, and has how many there are besides.
_MOST_NAMED = 2

# What the first line says of the keys, and where there is more than the screen has.
_ENDS, _SCROLLS_TOO = "(Ctrl-C ends)", "(Ctrl-C ends; arrows, space and b scroll)"

# If the screen is too small for everything, the requests get at least this many lines.
_LEAST_REQUESTS = 4

# Switch to the alternate screen and hide the cursor, and back (xterm's sequences, which all current terminals know).
_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
# Move to the upper left; clear the rest of the line; clear the rest of the screen (ECMA-48: CUP, EL, ED).
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_GAP = "  "
_COLUMNS = ("ACCOUNT", "STATE", "PROTOCOLS", "TOKEN", "NEXT REFRESH")

# The facts of an account that the table has no column for.
_REMARKS = ("last error", "reason", "warning", "next move")


def page(
    document: Document,
    width: int,
    height: int,
    *,
    top: int = 0,
    gone: str = "",
    name_of: Callable[[int], str] = users.user_name,
) -> tuple[list[str], int]:
    """Return the screen's content, at most `height` lines of at most `width` characters, and how many can be scrolled away.

    Of the accounts' lines, the first `top` are scrolled away, or fewer if the rest fits.

    `gone` says why the daemon did not answer, "" if it did; `document` is then its last answer. `name_of` returns the
    name of a user id.
    """
    rows = _rows(document.get("accounts", ()), width)
    requests = _requests(document.get("requests", ()), name_of, width)
    head = [_head(document.get("daemon", {})), *([f"NO ANSWER: {gone}; waiting for it"] if gone else []), ""]
    room = max(_LEAST_REQUESTS, height - len(head) - len(rows) - 2)
    shown = max(1, height - len(head) - 2 - min(room, len(requests)))
    hidden = max(0, len(rows) - shown)
    if hidden:
        head[0] = head[0].replace(_ENDS, _SCROLLS_TOO)
    rows = rows[min(top, hidden) :][:shown]
    lines = [*head, *rows, "", "LAST REQUESTS", *requests[:room]]
    return [_fitting(line, width) for line in lines[:height]], hidden


def _head(daemon: Document) -> str:
    if not daemon:
        return f"cms: no daemon has answered yet {_ENDS}"
    up = duration(float(daemon.get("uptime", 0)))
    return f"cms {daemon.get('version')}, process {daemon.get('pid')}, up {up} {_ENDS}"


def _many(accounts: Sequence[Document], width: int) -> list[str]:
    """Return how many accounts are in each state, each cause once in two lines, and the table: the worst first."""
    lines = [summary(accounts)]
    found = causes(accounts)
    for told, group in found[:_MOST_CAUSES]:
        state, *rest = told.split("\n")
        lines.append(f"{some(list(dict.fromkeys(map(name, group))), _MOST_NAMED)}: {state}")
        lines += [f"    {label}: {text}" for label, _, text in (each.partition("\t") for each in rest)]
    if (more := len(found) - _MOST_CAUSES) > 0:
        lines.append(f"{more} more: `cms status`")
    return [*lines, "", *(line for line, _ in table(accounts, width))]


def _rows(accounts: Sequence[Document], width: int) -> list[str]:
    if len(accounts) > MOST_IN_FULL:
        return _many(accounts, width)
    table = [_COLUMNS, *map(_cells, accounts)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_COLUMNS))]
    if accounts and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        return [line for account, cells in zip(accounts, table[1:], strict=True) for line in _block(account, cells)]
    lines = [_aligned(_COLUMNS, widths)]
    for account, cells in zip(accounts, table[1:], strict=True):
        lines.append(_aligned(cells, widths))
        lines += _remarks(account)
    return lines if accounts else [*lines, "no accounts are configured"]


def _block(account: Document, cells: Sequence[str]) -> Iterator[str]:
    """Yield an account's lines for a terminal that is too narrow for the table."""
    user, state, protocols, left, due = cells
    yield f"{user}: {state}"
    yield f"    {protocols}: {left}"
    if due:
        yield f"    {due}" if due.startswith("next") else f"    next refresh {due}"
    yield from _remarks(account)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(account: Document) -> tuple[str, ...]:
    token, problem, due = account["token"], account["problem"], ""
    if problem and problem["retry_in"] is not None:
        due = f"next try {until(problem['retry_in'])}"
    elif token and token["refresh_in"] is not None:
        due = until(token["refresh_in"])
    return name(account), account["state"], protocols(account), life_left(account), due


def _remarks(account: Document) -> Iterator[str]:
    yield from (f"    {label}: {text}" for label, text in facts(account) if label in _REMARKS)


def _requests(requests: Sequence[Document], name_of: Callable[[int], str], width: int) -> list[str]:
    table = [_request(each, name_of) for each in requests]
    widths = [max((len(cells[column]) for cells in table), default=0) for column in range(5)]
    if sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        # Too wide: the user who asked comes last, so that only this is cut off.
        return [_GAP.join((ago, outcome, what, user, who)) for ago, who, what, user, outcome in table]
    return [_aligned(cells, widths) for cells in table] or ["none yet"]


def _request(asked: Document, name_of: Callable[[int], str]) -> tuple[str, ...]:
    who = f"{name_of(int(asked['uid']))} (uid {asked['uid']}, process {asked['pid']})"
    what = str(asked.get("protocol") or "-")
    return f"{duration(asked['age'])} ago", who, what, str(asked.get("user") or "-"), str(asked["outcome"])


def _fitting(line: str, width: int) -> str:
    """Return a line without control characters, cut off at the terminal's width."""
    plain = printable(line)
    return plain if len(plain) <= width else f"{plain[: width - 1]}…"


class Screen:
    """The alternate screen of a terminal. `pause` ends early if the terminal's size changes.

    `style` returns a line with its colours.
    """

    def __init__(self, fd: int, style: Callable[[str], str] = str) -> None:
        self._fd = fd
        self._style = style
        self._nudge = -1

    @contextmanager
    def open(self) -> Iterator[None]:
        """Use the alternate screen while the block runs, and restore the terminal afterwards, also after SIGTERM."""
        self._nudge, nudged = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wakeup = signal.set_wakeup_fd(nudged, warn_on_full_buffer=False)
        before = {number: signal.signal(number, each) for number, each in _HANDLERS.items()}
        typing = termios.tcgetattr(self._fd)
        try:
            self._silence(typing)
            self._write(_BEGIN)
            yield
        finally:
            self._write(_END)
            # Keys that were typed in the meantime are dropped.
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, typing)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(self._nudge)
            os.close(nudged)

    def _silence(self, typing: list[Any]) -> None:
        """Do not echo typed keys, which would spoil the screen, and take each without waiting for a line."""
        silent = [*typing]
        silent[3] &= ~(termios.ECHO | termios.ECHOCTL | termios.ICANON)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, silent)

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        size = os.get_terminal_size(self._fd)
        return max(20, size.columns), max(5, size.lines)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else."""
        # In one write, so that no half-drawn screen is visible.
        self._write(_HOME + "\r\n".join(f"{self._style(line)}{_REST_OF_LINE}" for line in lines) + _REST_OF_SCREEN)

    def pause(self, seconds: float) -> bytes:
        """Wait for this long, or until the terminal's size changes or keys are pressed; return those keys."""
        ready = select.select([self._nudge, self._fd], [], [], seconds)[0]
        if self._nudge in ready:
            with suppress(BlockingIOError):
                os.read(self._nudge, 512)
        # `> /dev/tty` opens a terminal that cannot be read.
        with suppress(OSError):
            return os.read(self._fd, 64) if self._fd in ready else b""
        return b""

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._fd, data) :]


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's arguments
    raise KeyboardInterrupt


def _look_again(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal's number in the wakeup pipe ends the pause."""


_HANDLERS: dict[int, Callable[[int, FrameType | None], None]] = {
    signal.SIGINT: _end,
    signal.SIGTERM: _end,
    signal.SIGWINCH: _look_again,
}


# Keys that scroll, by how many lines: j and k, the arrows, space and Page Down, b and Page Up (xterm's sequences).
_PAGE = 10
_SCROLLS = {
    **dict.fromkeys((b"j", b"\x1b[B", b"\x1bOB"), 1),
    **dict.fromkeys((b"k", b"\x1b[A", b"\x1bOA"), -1),
    **dict.fromkeys((b" ", b"\x1b[6~"), _PAGE),
    **dict.fromkeys((b"b", b"\x1b[5~"), -_PAGE),
}


# A key that is held down, or a slow answer of the daemon's: several are read at once.
_KEY = re.compile(rb"\x1b[\[O][A-Z]|\x1b\[\d+~|.", re.DOTALL)


def scrolled(top: int, keys: bytes, lines: int) -> int:
    """Return how many lines are scrolled away after these keys. `lines` is the most that can be."""
    for key in _KEY.findall(keys):
        top = max(0, min(lines, top + _SCROLLS.get(key, 0)))
    return min(top, lines)


def watch(ask: Callable[[], Document], screen: Screen) -> None:
    """Show the status until Ctrl-C. `ask` returns the JSON of the status or raises NoDaemon."""
    document: Document = {}
    top = 0
    with suppress(KeyboardInterrupt), screen.open():
        while True:
            try:
                latest = ask()
                with understood():
                    lines, hidden = page(latest, *screen.size(), top=top)
                document = latest
            except NoDaemon as error:
                lines, hidden = page(document, *screen.size(), top=top, gone=error.message)
            screen.draw(lines)
            top = scrolled(top, screen.pause(PAUSE_SECONDS), hidden)
