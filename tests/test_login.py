"""The terminal's half of a sign-in."""

from __future__ import annotations

import json
import os
import socket
import stat
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest
from support.waiting import until

from cms import login
from cms.login import NOT_SIGNED_IN, Typed, in_words, sign_in
from cms.remote import Remote

PROMPT: dict[str, Any] = {
    "event": "prompt",
    "user": "a@example.test",
    "registration": "cms (it may vanish)",
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


def test_a_failure_has_its_own_exit_code() -> None:
    """Message and hint are shown."""

    def script(lines: Lines) -> None:
        lines.hear()
        lines.tell(event="done", ok=False, message="nobody came", hint="try again")

    said: list[str] = []
    with daemon(script) as remote:
        code = sign_in(remote, "", "", nothing_typed(), say=said.append)

    assert (NOT_SIGNED_IN, ["\nnobody came\ntry again"]) == (code, said)


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
def test_nobody_waits_for_what_cannot_be_pasted_any_more(pasted: bytes) -> None:
    """At the end of the input a sign-in by pasting is over, once the daemon has turned down what there was."""

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
        code = sign_in(remote, "", "paste", Typed(read), say=said.append)
    os.close(read)

    assert NOT_SIGNED_IN == code
    assert ["no state"] * len(pasted.split()) == said[1:-1]
    assert "the input ended before the address was pasted" in said[-1]


def test_a_desktops_browser_is_opened_for_a_browser_sign_in_only() -> None:
    """A device code or a link to paste from is for wherever the person is."""
    opened: list[str] = []
    for method in ("browser", "device", "paste"):

        def script(lines: Lines, method: str = method) -> None:
            lines.hear()
            lines.tell(**{**PROMPT, "method": method, "url": f"https://{method}.test/", "user_code": "X"})
            lines.tell(**DONE)

        with typing(b"") as typed, daemon(script) as remote:
            sign_in(remote, "", method, typed, say=lambda _text: None, browse=opened.append)

    assert ["https://browser.test/"] == opened


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "browser", "page": "http://127.0.0.1:8080/"}, "http://127.0.0.1:8080/"),
        ({"method": "device", "user_code": "ABCD-1234"}, "ABCD-1234"),
        ({"method": "paste"}, "Paste the address"),
    ],
)
def test_each_way_is_explained(changes: dict[str, str], words: str) -> None:
    """Who signs in, with whose application, where, and for how long."""
    text = in_words({**PROMPT, **changes})

    for each in (words, "a@example.test", "it may vanish", PROMPT["url"], "10 minutes"):
        assert each in text


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


@pytest.fixture
def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An xdg-open on the PATH that writes down what it is to open."""
    program = tmp_path / "xdg-open"
    program.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "opened"


def test_a_browser_is_opened_on_a_desktop(opener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a display and xdg-open, the address is opened by itself."""
    monkeypatch.setenv("DISPLAY", ":0")
    browse = login.browser()
    assert browse is not None
    browse("https://x.test/")

    assert until(lambda: opener.exists() and opener.read_text() == "https://x.test/\n", "the address")


@pytest.mark.usefixtures("opener")
def test_no_browser_is_opened_without_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display: nothing is started. Nor without xdg-open."""
    assert login.browser() is None
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", "/nowhere")
    assert login.browser() is None


def test_the_terminal_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person types comes from there."""
    with open(os.devnull) as devnull:  # noqa: PTH123 - a device
        monkeypatch.setattr("sys.stdin", devnull)

        assert devnull.fileno() == login.terminal().fd
