"""The terminal's half of a sign-in."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shlex
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import pytest
from support.foreign import HARMLESS, HOSTILE

from cms.cli import login
from cms.cli.client import Remote
from cms.cli.failure import Failure
from cms.cli.login import NOT_SIGNED_IN, Screen, Typed, in_words, sign_in
from cms.daemon.signin.flow import MAX_PASTED

PROMPT: dict[str, Any] = {
    "event": "prompt",
    "user": "a@example.test",
    "registration": "cms (it may vanish)",
    "provider": "microsoft",
    "method": "paste",
    "url": "https://login.example.test/authorize",
    "user_code": "",
    "page": "",
    "expires_in": 600.0,
}
DONE = {"event": "done", "ok": True, "message": "a@example.test is signed in", "hint": ""}


@dataclass
class Lines:
    """The daemon's end of the conversation."""

    heard: TextIO
    said: TextIO

    def hear(self) -> Any:
        return json.loads(self.heard.readline())

    def tell(self, **event: Any) -> None:
        self.said.write(json.dumps(event) + "\n")
        self.said.flush()


@contextmanager
def daemon(script: Callable[[Lines], None]) -> Iterator[Remote]:
    """Give a connection to a daemon that follows a script."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        # Not one file for both ways: its buffer forgets what it has read ahead when it is written to.
        with theirs, theirs.makefile("r") as heard, theirs.makefile("w") as said:
            script(Lines(heard, said))

    thread = threading.Thread(target=play)
    thread.start()
    with Remote(ours) as made:
        yield made
    thread.join()


def nothing_typed() -> Typed:
    typed = Typed(0)
    typed.fd = None
    return typed


@contextmanager
def typing(text: bytes) -> Iterator[Typed]:
    """Give an input with this text in it and no end."""
    read, write = os.pipe()
    os.write(write, text)
    yield Typed(read)
    os.close(read)
    os.close(write)


def test_a_sign_in_shows_what_to_do_and_how_it_ended() -> None:
    """The prompt, then the end; the exit code is 0."""
    asked: list[Any] = []

    def script(lines: Lines) -> None:
        asked.append(lines.hear())
        lines.tell(**PROMPT)
        lines.tell(**DONE)

    said: list[str] = []
    with typing(b"") as typed, daemon(script) as remote:
        code = sign_in(remote, "a@example.test", "paste", typed, say=said.append)

    assert [{"command": "login", "user": "a@example.test", "method": "paste"}] == asked
    assert 0 == code
    assert PROMPT["url"] in said[0]
    assert "\na@example.test is signed in" == said[1]


def test_ctrl_d_ends_the_input_of_a_terminal() -> None:
    """As it does at a shell's prompt: what was typed before it counts, and nothing more can come."""
    ours, theirs = os.openpty()
    with Typed(theirs).open() as typed:
        os.write(ours, b"http://127.0.0.1/?code=1\x04")
        lines = typed.read()

    assert (["http://127.0.0.1/?code=1"], None) == (lines, typed.fd)
    os.close(ours)
    os.close(theirs)


def test_ctrl_d_is_no_end_of_a_pipe() -> None:
    """There it is a byte like any other."""
    with typing(b"a\x04b\n") as typed, typed.open():
        assert ["a\x04b"] == typed.read()


def test_a_failure_has_its_own_exit_code() -> None:
    """Message and hint are shown."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(event="done", ok=False, message="nobody came", hint="try again")

    said: list[str] = []
    with daemon(script) as remote:
        code = sign_in(remote, "", "", nothing_typed(), say=said.append)

    assert (NOT_SIGNED_IN, ["nobody came\ntry again"]) == (code, said)


def test_what_is_pasted_is_handed_on() -> None:
    """What will not do is answered, and the next is tried."""
    pasted: list[Any] = []

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**PROMPT)
        pasted.append(lines.hear())
        lines.tell(event="told", message="no state")
        pasted.append(lines.hear())
        lines.tell(**DONE)

    said: list[str] = []
    with typing(b"first\n\nsecond\n") as typed, daemon(script) as remote:
        code = sign_in(remote, "", "paste", typed, say=said.append)

    assert 0 == code
    assert [{"pasted": "first"}, {"pasted": "second"}] == pasted
    assert "no state" in said


def test_an_input_at_its_end_is_no_reason_to_stop() -> None:
    """Without a terminal the sign-in goes on elsewhere."""

    def script(lines: Lines) -> None:
        lines.hear()
        assert "last" == lines.hear()["pasted"]
        lines.tell(**DONE)

    read, write = os.pipe()
    os.write(write, b"last")
    os.close(write)
    typed = Typed(read)
    with daemon(script) as remote:
        code = sign_in(remote, "", "", typed, say=lambda _text: None)
    os.close(read)

    assert (0, None) == (code, typed.fd)


@pytest.mark.parametrize("pasted", [b"", b"wrong", b"wrong\nworse\n"])
def test_the_end_of_the_input_ends_a_sign_in_by_pasting(pasted: bytes) -> None:
    """At the end of the input a sign-in by pasting ends, once the daemon has refused what was pasted before."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**PROMPT)
        for _ in pasted.split():
            lines.hear()
            lines.tell(event="told", message="no state")
        assert "" == lines.heard.readline()

    read, write = os.pipe()
    os.write(write, pasted)
    os.close(write)
    said: list[str] = []
    with daemon(script) as remote, remote:
        code = sign_in(remote, "o'connor@example.test", "paste", Typed(read), say=said.append)
    os.close(read)

    assert NOT_SIGNED_IN == code
    assert ["cms", "login", "o'connor@example.test", "--device"] == shlex.split(said[-1].split("`")[1])
    assert ["no state"] * len(pasted.split()) == said[1:-1]
    assert "the input ended before the address was pasted" in said[-1]


def test_no_code_is_offered_where_the_provider_has_none() -> None:
    """Google signs no mail program in with a code, so the way out of a sign-in without a terminal is a terminal."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**{**PROMPT, "provider": "google"})
        assert "" == lines.heard.readline()

    read, write = os.pipe()
    os.close(write)
    said: list[str] = []
    with daemon(script) as remote, remote:
        code = sign_in(remote, "ann@gmail.com", "paste", Typed(read), say=said.append)
    os.close(read)

    assert NOT_SIGNED_IN == code
    assert said[-1].endswith("\nrun the command in a terminal")


@pytest.mark.parametrize("starts", [True, False])
def test_a_browser_is_opened_for_a_browser_sign_in_only(*, starts: bool) -> None:
    """A device code or a link to paste from is for wherever the person is. One that does not start is no end."""
    opened: list[str] = []
    said: list[str] = []

    def browse(url: str) -> bool:
        opened.append(url)
        return starts

    for method in ("browser", "device", "paste"):

        def script(lines: Lines, method: str = method) -> None:
            lines.hear()
            lines.tell(**{**PROMPT, "method": method, "url": f"https://{method}.test/", "user_code": "X"})
            lines.tell(**DONE)

        with typing(b"") as typed, daemon(script) as remote:
            assert login.EX_OK == sign_in(remote, "", method, typed, say=said.append, browse=browse)

    assert ["https://browser.test/"] == opened
    assert starts != ("No browser could be started: open the link yourself." in said)


def test_the_terminal_is_lent_as_it_was() -> None:
    """A browser in the terminal finds lines edited as ever, and afterwards a long address can be pasted again."""
    ours, theirs = os.openpty()

    def edits() -> bool:
        return bool(termios.tcgetattr(theirs)[3] & termios.ICANON)

    typed = Typed(theirs)
    with typed.open():
        seen = [edits()]
        with typed.lent():
            seen.append(edits())
        seen.append(edits())
    with typed.lent():
        seen.append(edits())
    os.close(ours)
    os.close(theirs)

    assert [False, True, False, True] == seen


def test_what_is_no_terminal_is_lent_too() -> None:
    """There is nothing to restore."""
    with typing(b"") as typed, typed.open(), typed.lent():
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "browser", "page": "http://127.0.0.1:8080/"}, "http://127.0.0.1:8080/"),
        ({"method": "device", "user_code": "ABCD-1234"}, "ABCD-1234"),
        ({"method": "paste"}, "Paste the whole address"),
    ],
)
def test_each_way_is_explained(changes: dict[str, str], words: str) -> None:
    """Who signs in, with whose application, where, and for how long."""
    text = in_words({**PROMPT, **changes})

    for each in (words, "a@example.test", "it may vanish", PROMPT["url"], "10 minutes"):
        assert each in text


def test_a_link_with_the_code_in_it(window: Window) -> None:
    """It is drawn and shown; the code is there too, to be compared or typed (RFC 8628, 3.3.1)."""
    complete = "https://x.test/device?user_code=ABCD-1234"
    event = {**PROMPT, "method": "device", "user_code": "ABCD-1234", "complete_url": complete}
    text = in_words(event, Screen(window))

    assert login.qr_code(complete) in text
    assert f"Open {PROMPT['url']} in a browser anywhere, and enter the code\n\n    ABCD-1234\n" in text
    assert f"Or open this, which has the code in it:\n\n{complete}\n" in text


@pytest.mark.parametrize("complete", ["javascript:x", 7, "https://x.test/\x1b[2J"])
def test_a_link_with_the_code_in_it_is_a_link(complete: object) -> None:
    """A daemon may be anything: as for the other link."""
    with pytest.raises(Failure, match="without a web address"):
        login.checked_prompt({**PROMPT, "method": "device", "complete_url": complete})


@pytest.mark.parametrize("method", ["browser", "paste"])
def test_numbers_are_microsofts(method: str) -> None:
    """Another provider's page shows none that could be pasted."""
    texts = [in_words({**PROMPT, "method": method, "provider": name}) for name in ("microsoft", "google")]

    assert [True, False] == ["AADSTS50105" in each for each in texts]


def test_a_window_of_the_brokers_needs_no_address() -> None:
    """It opens by itself, on the desktop."""
    text = in_words({**PROMPT, "method": "broker", "url": ""})

    assert "Sign in in the window that Microsoft's broker opens on the desktop.\nYou have 10 minutes" in text
    assert "http" not in text


def test_an_account_without_a_user_and_a_prompt_without_an_end() -> None:
    """What is not known is left out."""
    text = in_words({**PROMPT, "user": "", "expires_in": 0})

    assert "the account that this is for" in text
    assert "minutes" not in text


def test_a_terminal_gives_more_than_its_own_lines_hold() -> None:
    """An address of 10,000 characters comes whole: the terminal's own editing would cut it at 4,095."""
    address = "https://x.test/?code=" + "c" * 10_000
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    typed = Typed(slave)
    lines: list[str] = []
    with typed.open():
        paste = threading.Thread(target=lambda: write_all(master, address.encode() + b"\n"))
        paste.start()
        while not lines:
            lines += typed.read()
        paste.join()

    assert [address] == lines
    assert before == termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)


def write_all(fd: int, data: bytes) -> None:
    """Write, and read what the terminal echoes so that it does not fill up."""
    while data:
        data = data[os.write(fd, data[:256]) :]
        os.read(fd, 65_536)


def test_a_typed_mistake_can_be_taken_back() -> None:
    """Backspace works although the terminal's own editing is off."""
    with typing(b"ax\x7fb\n") as typed:
        assert ["ab"] == typed.read()


class Window(io.StringIO):
    """A terminal of this size, as far as a Screen asks."""

    def __init__(self, columns: int = 80, rows: int = 24, *, encoding: str = "utf-8") -> None:
        super().__init__()
        self._master, self._slave = os.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a StringIO has none
        return self._encoding

    def fileno(self) -> int:
        return self._slave

    def isatty(self) -> bool:
        return True

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)
        super().close()


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    monkeypatch.setenv("TERM", "xterm")
    with Window() as made:
        yield made


def test_the_time_left_is_written_over_itself(window: Window) -> None:
    """Each second once, down to nothing; then nothing more is due."""
    now = [100.0]
    screen = Screen(window, lambda: now[0])
    screen.count_down(61.5)
    waits = []
    for _ in range(3):
        wait = screen.tick()
        assert wait is not None
        waits.append(wait)
        now[0] += wait
    now[0] = 200.0
    end = screen.tick()
    screen.clear()

    lines = window.getvalue().split("\r\x1b[K")
    assert ["", "1:02", "1:01", "1:00", "0:00", ""] == [line.removeprefix("Waiting: ")[:4] for line in lines]
    assert ([0.52, 1.0, 1.0], None) == ([round(wait, 2) for wait in waits], end)


def test_a_screen_without_a_count_is_left_alone(window: Window) -> None:
    """Only a device code counts down."""
    screen = Screen(window)
    screen.clear()

    assert (None, "") == (screen.tick(), window.getvalue())


def test_a_device_code_comes_with_a_drawing_and_a_count(window: Window) -> None:
    """The address as a QR code above the words, and below them what is left of the time."""
    ready = threading.Event()

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**{**PROMPT, "method": "device", "url": "https://x.test/device", "user_code": "ABCD-1234"})
        assert ready.wait(60)
        lines.tell(**DONE)

    class Watched(Screen):
        def tick(self) -> float | None:
            wait = super().tick()
            if "left. Ctrl-C cancels" in window.getvalue():
                ready.set()
            return wait

    said: list[str] = []
    with typing(b"") as typed, daemon(script) as remote:
        code = sign_in(remote, "", "device", typed, say=said.append, shown_on=Watched(window))

    assert 0 == code
    assert said[0].index(login.qr_code("https://x.test/device")) < said[0].index("ABCD-1234")
    assert "Waiting: 10:00 left. Ctrl-C cancels." in window.getvalue()
    assert window.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(
    ("columns", "rows", "encoding", "term", "expected"),
    [
        (80, 24, "utf-8", "xterm", True),
        (80, 24, "UTF8", "xterm", True),
        (30, 24, "utf-8", "xterm", False),
        (80, 12, "utf-8", "xterm", False),
        (80, 24, "ascii", "xterm", False),
        (80, 24, "utf-8", "dumb", False),
    ],
)
def test_a_code_is_drawn_where_it_can_be_shown(
    columns: int, rows: int, encoding: str, term: str, *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block characters, enough columns, and enough lines to see it whole."""
    monkeypatch.setenv("TERM", term)
    with Window(columns, rows, encoding=encoding) as window:
        assert expected is bool(Screen(window).code("https://microsoft.com/devicelogin"))


def test_what_no_code_holds_is_not_drawn(window: Window) -> None:
    """The link itself is below."""
    assert "" == Screen(window).code(f"https://x.test/{'a' * 4000}")


def test_only_a_terminal_is_a_screen(window: Window) -> None:
    """What is piped gets no drawing and no count."""
    assert login.screen(io.StringIO()) is None
    assert isinstance(login.screen(window), Screen)


def test_a_drawing_is_a_rectangle_of_blocks() -> None:
    """Light modules are drawn, so that a dark terminal is the dark ones."""
    lines = login.qr_code("https://microsoft.com/devicelogin").splitlines()

    assert {33} == {len(line) for line in lines}
    assert 17 == len(lines)
    assert {" ", "\u2580", "\u2584", "\u2588"} == set("".join(lines))


# --- over SSH ---

OVER_SSH = {"SSH_CONNECTION": "198.51.100.9 50000 192.0.2.7 22", "USER": "ann"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        (OVER_SSH, "ann@192.0.2.7"),
        ({**OVER_SSH, "SSH_CONNECTION": "::1 5 2001:db8::7 2222"}, "-p 2222 ann@2001:db8::7"),
        ({**OVER_SSH, "USER": "CORP\\ann"}, "'CORP\\ann@192.0.2.7'"),
        ({**OVER_SSH, "USER": "ann lee"}, "'ann lee@192.0.2.7'"),
        ({**OVER_SSH, "USER": "$(id)"}, "'$(id)@192.0.2.7'"),
        ({"SSH_TTY": "/dev/pts/1", "LOGNAME": "ann"}, f"ann@{socket.gethostname()}"),
    ],
)
def test_an_ssh_connection_is_known_by_its_variables(environment: dict[str, str], expected: str) -> None:
    """User, host and port as the other machine's ssh names them, in words of a shell."""
    assert expected == login.over_ssh(environment)


def test_without_a_name_the_uids_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither USER nor LOGNAME: the login of this uid, or a word to replace."""
    environment = {"SSH_CONNECTION": OVER_SSH["SSH_CONNECTION"]}
    monkeypatch.setattr(os, "getuid", lambda: 0)
    root = login.over_ssh(environment)
    monkeypatch.setattr(os, "getuid", lambda: 64999)

    assert ("root@192.0.2.7", "USER@192.0.2.7") == (root, login.over_ssh(environment))


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        ({"host": "127.0.0.1"}, "41234:127.0.0.1:41234"),
        ({"host": "::1"}, "'41234:[::1]:41234'"),
        ({}, "41234:127.0.0.1:41234"),
    ],
)
def test_over_ssh_the_one_line_is_shown_that_makes_the_browser_work(host: dict[str, str], forwarded: str) -> None:
    """The redirect's own address and port are forwarded, and the page of this machine is not spoken of."""
    event = {**PROMPT, **host, "method": "browser", "port": 41234, "page": "http://127.0.0.1:41234/"}
    words = in_words(event, tunnel="ann@192.0.2.7")

    assert f"\nssh -L {forwarded} ann@192.0.2.7\n" in words
    assert "machine with your browser" in words
    assert PROMPT["url"] in words
    assert "leads there too" not in words


def test_a_change_of_method_is_explained() -> None:
    """Who asked for a browser and gets to paste is told why."""
    words = in_words({**PROMPT, "instead": "the redirect address https://localhost is not plain HTTP on this machine"})

    assert "https://localhost is not plain HTTP on this machine, so paste its address instead." in words


@pytest.mark.parametrize(
    ("named", "is_said"), [("no-such-program", True), ("no-such-program:/nor/this", True), ("", False)]
)
def test_that_no_browser_of_the_variable_is_there_is_said(
    monkeypatch: pytest.MonkeyPatch, named: str, *, is_said: bool
) -> None:
    """Who has set `$BROWSER` waits for it; who has not knows that the link is theirs to open."""
    said: list[str] = []
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BROWSER", named)
    monkeypatch.setenv("PATH", "/nonexistent")

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**{**PROMPT, "method": "browser"})
        lines.tell(**DONE)

    with open(os.devnull) as stdin, daemon(script) as remote:  # noqa: PTH123 - as below
        monkeypatch.setattr("sys.stdin", stdin)
        assert login.EX_OK == login.sign_in_here(remote, "a", "browser", said.append)

    assert is_said == ("No browser could be started: open the link yourself." in said)


def test_the_terminal_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person pastes comes from there."""
    pasted: list[Any] = []

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**PROMPT)
        pasted.append(lines.hear())
        lines.tell(**DONE)

    read, write = os.pipe()
    os.write(write, b"http://localhost/?code=1\n")
    with open(read) as stdin, daemon(script) as remote:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr("sys.stdin", stdin)
        assert login.EX_OK == login.sign_in_here(remote, "a", "paste", print)
    os.close(write)

    assert [{"pasted": "http://localhost/?code=1"}] == pasted


def test_a_line_that_never_ends_takes_no_memory() -> None:
    """Its beginning is kept, and what is typed after it is a line of its own."""
    ours, theirs = os.pipe()
    typed = Typed(ours)
    for _ in range(40):
        os.write(theirs, b"x" * 4096)
        assert [] == typed.read()
    os.write(theirs, b"\nnext\n")
    long, after = typed.read()
    for each in (ours, theirs):
        os.close(each)

    assert ("next", True) == (after, MAX_PASTED < len(long) < 40 * 4096)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "javascript:alert(1)"},
        {"url": "file:///etc/passwd"},
        {"url": "https://x.test/\x1b[2J"},
        {"url": ""},
        {"url": None},
        {"method": ["browser"]},
        {"expires_in": "soon"},
        {"expires_in": 1e999},
        {"host": "$(reboot)", "port": 1},
        {"host": ["::1"], "port": 1},
        {"host": "::1", "port": "1; reboot"},
    ],
)
def test_a_link_that_is_none_is_neither_shown_nor_opened(fields: dict[str, object]) -> None:
    """The daemon at the socket may be another user's, and root may ask it."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(**{**PROMPT, "method": "browser", **fields})

    said, opened = list[str](), list[str]()

    def browse(url: str) -> bool:
        opened.append(url)
        return True

    with daemon(script) as remote, pytest.raises(Failure, match="without a web address"):
        sign_in(remote, "", "browser", nothing_typed(), say=said.append, browse=browse)

    assert [] == said == opened


def test_a_prompt_forges_no_line() -> None:
    """The values that the daemon sends stay on the line that they are for."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(
            **{**PROMPT, "method": "device", "user_code": f"A\n{HOSTILE}", "user": "a\nb", "registration": "c\nd"}
        )
        lines.tell(**DONE)

    said = list[str]()
    with daemon(script) as remote:
        sign_in(remote, "", "device", nothing_typed(), say=said.append)

    assert f"\n    A {HARMLESS}\n" in said[0]
    assert "Sign in as a b. Application: c d." in said[0]
