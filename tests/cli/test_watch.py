"""`cms status --watch`: what a screenful shows, and what a terminal is like after it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from support.status_rows import row_of
from support.waiting import PATIENCE

from cms.cli import watch
from cms.cli.client import NoDaemon
from cms.cli.watch import Screen, page, scrolled
from cms.core.status import Problem

ROW = {**asdict(row_of("ok")), "token": {"age": 600, "left": 3000, "refresh_in": 75}}
PROBLEM = {**asdict(Problem("network", "no network", None, "", 1, 0, tries=1)), "retry_in": 61}
ASKED = {
    "age": 3,
    "uid": 1000,
    "pid": 4711,
    "user": "a@example.test",
    "protocol": "SMTP",
    "form": "token",
    "outcome": "granted",
}
DAEMON = {"version": "1.2", "pid": 12, "uptime": 3700}


def shown(width: int = 120, height: int = 40, gone: str = "", top: int = 0, **document: Any) -> list[str]:
    whole = {"daemon": DAEMON, "accounts": [ROW], "requests": [ASKED], **document}
    return page(whole, width, height, top=top, gone=gone, name_of=lambda uid: f"user{uid}")[0]


def test_each_account_has_a_line() -> None:
    """Its state, its protocols, what is left of its token, and when the next one is fetched."""
    assert [
        "cms 1.2, process 12, up 1 h 1 min (Ctrl-C ends)",
        "",
        "ACCOUNT         STATE  PROTOCOLS   TOKEN        NEXT REFRESH",
        "a@example.test  ok     SMTP, IMAP  50 min left  in 1 min 15 s",
        "",
        "LAST REQUESTS",
        "3 s ago  user1000 (uid 1000, process 4711)  SMTP  a@example.test  granted",
    ] == shown()


def test_a_narrow_terminal_has_a_block_for_each_account() -> None:
    """Nothing of an account is cut off at 44 columns, and of a request only who has asked."""
    assert [
        "a@example.test: ok",
        "    SMTP, IMAP: 50 min left",
        "    next refresh in 1 min 15 s",
        "",
        "LAST REQUESTS",
        "3 s ago  granted  SMTP  a@example.test  use…",
    ] == shown(44)[2:]
    row = {**ROW, "token": None, "problem": PROBLEM}
    assert ["    SMTP, IMAP: none", "    next try in 1 min 1 s", "    last error: no network"] == shown(
        44, accounts=[row]
    )[3:6]


def test_what_is_wrong_stands_below() -> None:
    """The last error, what may go wrong, and whose move it is; the next try in place of the next refresh."""
    token = {"age": 9, "left": 0, "refresh_in": None}
    row = {**ROW, "state": "failing", "usable": False, "token": token, "problem": PROBLEM}
    lines = shown(accounts=[{**row, "warning": "long", "next_move": "wait"}])

    assert "a@example.test  failing  SMTP, IMAP  NOT USABLE any more  next try in 1 min 1 s" == lines[3]
    assert ["    last error: no network", "    warning: long", "    next move: wait"] == lines[4:7]


def test_what_is_not_there_is_said() -> None:
    """No user yet, no token, no request, no account, a stranger that said nothing."""
    nameless = {**ROW, "user": "", "token": None, "protocols": []}
    stranger = {**ASKED, "user": "", "protocol": ""}

    assert any("(not signed in yet)  ok     none       none" in line for line in shown(accounts=[nameless]))
    assert "none yet" == shown(requests=[])[-1]
    assert "no accounts are configured" in shown(accounts=[])
    assert shown(requests=[stranger])[-1].endswith("-  -  granted")
    assert "cms: no daemon has answered yet (Ctrl-C ends)" == page({}, 80, 24)[0][0]


def test_a_daemon_that_is_gone_is_said_above() -> None:
    """With what it said last."""
    lines = shown(gone="no daemon is running")

    assert "NO ANSWER: no daemon is running; waiting for it" == lines[1]
    assert any("a@example.test" in line for line in lines)


def test_a_refresh_that_is_due_is_now() -> None:
    """A count-down ends with a word."""
    row = {**ROW, "token": {"age": 1, "left": 9, "refresh_in": 0}}

    assert shown(accounts=[row])[3].endswith("now")


@pytest.mark.parametrize("height", range(5, 60, 5))
@pytest.mark.parametrize("width", [20, 80])
def test_it_fits_the_screen(width: int, height: int) -> None:
    """However small it is, and however many accounts and requests there are: some of both are on it."""
    row = {**ROW, "warning": "w" * 300}
    lines = shown(width, height, accounts=[row] * 30, requests=[ASKED] * 50)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    if height >= 10:
        assert any(line.startswith("3 s ago") for line in lines)
        assert any(line.startswith("a@example.test") for line in lines)


MANY = [{**ROW, "user": f"box{number:03}@example.test", "grant": str(number)} for number in range(200)]
BROKEN = {**ROW, "user": "z@example.test", "state": "failing", "problem": PROBLEM, "severity": 1, "grant": "z"}


def test_many_accounts_are_sorted_and_scroll() -> None:
    """The worst first, with its cause once; the end can be reached and not passed."""
    first, last = (shown(100, 24, accounts=[*MANY, BROKEN], top=top) for top in (0, 9999))

    assert first[0].endswith("(Ctrl-C ends; arrows, space and b scroll)"), (
        "no page of a manual is needed to see the rest"
    )
    assert "201 accounts: 1 failing, 200 ok" == first[2]
    assert ["z@example.test: failing", "    last error: no network"] == first[3:5]
    assert first[7].startswith("z@example.test")
    assert any(line.startswith("box199@example.test") for line in last)
    assert [24, 24] == [len(first), len(last)]


def test_causes_leave_room_for_accounts() -> None:
    """Of many causes the worst are told, and how many there are besides; the first screenful has accounts."""
    broken = [
        {**BROKEN, "user": f"{each}@x.test", "grant": each, "problem": {**PROBLEM, "message": each}}
        for each in "abcdefgh"
    ]
    lines = shown(80, 24, accounts=[*MANY, *broken])

    assert "5 more: `cms status`" in lines
    assert any(line.startswith("a@x.test  ") for line in lines)


def test_a_cause_of_many_says_of_how_many() -> None:
    """On a narrow screen too, where eight addresses would hide the number and the state."""
    warned = [{**each, "warning": "the token is long"} for each in MANY]

    assert "box000@example.test, box001@example.test, 198 more: ok" in shown(80, 24, accounts=warned)


@pytest.mark.parametrize(
    ("keys", "top"),
    [
        *((b"j", 6), (b"\x1b[A", 4), (b" ", 15), (b"b", 0), (b"\x1b[6~", 15), (b"x", 5), (b"", 5)),
        *((b"jjj", 8), (b"\x1b[B\x1bOB", 7), (b"b  ", 20), (b"\x1b[3~", 5), (b"\x1b[1;5C", 5)),
    ],
)
def test_keys_scroll(keys: bytes, top: int) -> None:
    """By a line or by ten, each of those that are pressed between two looks; other keys do nothing."""
    assert top == scrolled(5, keys, 100)
    assert 0 == scrolled(0, b"k", 100)
    assert 3 == scrolled(3, b"j", 3)


def test_scrolling_ends_where_the_lines_end() -> None:
    """So that the first key upwards moves the screen, however often the one downwards was pressed."""
    whole = {"daemon": DAEMON, "accounts": MANY, "requests": []}
    last, hidden = page(whole, 100, 24, top=9999)

    assert last == page(whole, 100, 24, top=scrolled(0, b" " * 60, hidden))[0]
    assert last != page(whole, 100, 24, top=scrolled(hidden, b"k", hidden))[0]
    assert 0 == page({**whole, "accounts": MANY[:2]}, 100, 24)[1]


def test_nothing_moves_the_cursor() -> None:
    """Parts of messages come from elsewhere."""
    assert "\x1b" not in "".join(shown(accounts=[{**ROW, "warning": "\x1b[2J"}]))


# The cursor is hidden; all is drawn; the first screen is back.
HIDDEN, DRAWN, LEFT = "\x1b[?25l", "\x1b[J", "\x1b[?1049l"


@pytest.fixture
def line() -> Iterator[tuple[int, int]]:
    """A terminal of 100 columns and 30 lines: the viewer's side and the program's."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def read(ours: int, end: str) -> str:
    """Return what is drawn, up to this end. A terminal may hand over in pieces what was written at once."""
    drawn = b""
    while not drawn.endswith(end.encode()):
        assert select.select([ours], [], [], PATIENCE)[0], drawn
        drawn += os.read(ours, 65536)
    # The terminal makes CR LF of each LF.
    return drawn.decode().replace("\r\r\n", "\r\n")


def test_a_screen_is_put_back(line: tuple[int, int]) -> None:
    """The other screen and a hidden cursor while it is open; neither afterwards, and the signals are as before."""
    ours, theirs = line
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)]
    screen = Screen(theirs)
    with screen.open():
        begun = read(ours, HIDDEN)
        size = screen.size()
        screen.draw(["one", "two"])
        drawn = read(ours, DRAWN)

    assert (f"\x1b[?1049h{HIDDEN}", (100, 30), f"\x1b[?25h{LEFT}") == (begun, size, read(ours, LEFT))
    assert f"\x1b[Hone\x1b[K\r\ntwo\x1b[K{DRAWN}" == drawn
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)]


def test_a_key_ends_the_pause(line: tuple[int, int]) -> None:
    """And is handed over, without a line's end and without an echo."""
    ours, theirs = line
    screen = Screen(theirs)
    with screen.open():
        os.write(ours, b"j")
        assert b"j" == screen.pause(60.0)


def test_a_new_size_ends_the_pause(line: tuple[int, int]) -> None:
    """The screen is drawn anew at once."""
    screen = Screen(line[1])
    with screen.open():
        os.kill(os.getpid(), signal.SIGWINCH)
        # For a minute, were it not for the signal.
        screen.pause(60.0)
        drained = read_nothing(screen)

    assert drained


def read_nothing(screen: Screen) -> bool:
    """Whether a pause is a pause again."""
    screen.pause(0.01)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_ends_cleanly(line: tuple[int, int], number: int) -> None:
    """At Ctrl-C and at SIGTERM, with the terminal as it was; a daemon that goes away or talks nonsense is no end."""
    nonsense = {"daemon": DAEMON, "accounts": [1]}
    answers = iter(({"daemon": DAEMON, "accounts": [ROW]}, None, nonsense, {"daemon": DAEMON, "accounts": []}))
    ours, theirs = line

    def ask() -> dict[str, Any]:
        try:
            answer = next(answers)
        except StopIteration:
            os.kill(os.getpid(), number)
            return {}
        if answer is None:
            raise NoDaemon("no daemon is running", "start it")
        return answer

    seen: list[str] = []
    looking = threading.Thread(target=lambda: seen.append(read(ours, LEFT)), daemon=True)
    looking.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "PAUSE_SECONDS", 0.01)
        watch.watch(ask, Screen(theirs, lambda text: f"\x1b[1m{text}\x1b[0m"))
    looking.join(PATIENCE)
    (text,) = seen

    places = (
        "a@example.test",
        "NO ANSWER: no daemon is running",
        "NO ANSWER: the daemon's answer makes",
        "no accounts are",
    )
    assert sorted(found := [text.index(each) for each in places]) == found
    assert "\x1b[1mNO ANSWER: no daemon is running; waiting for it\x1b[0m\x1b[K" in text, "each line has its colours"
    assert text.endswith(f"\x1b[?25h{LEFT}")
