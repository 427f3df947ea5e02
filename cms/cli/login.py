"""The terminal's half of a sign-in: what it shows to the person, and what they paste.

The daemon does the sign-in. It sends events over the control socket: a link or a code to show, and how it ended.
"""

from __future__ import annotations

import io
import math
import os
import select
import shutil
import socket
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from cms.cli.client import Remote
from cms.system import users

EX_OK = 0
NOT_SIGNED_IN = 1

# Bytes that are read from the terminal at once. A pasted address may be longer: it is then read piece by piece.
_PIECE = 4096

_ERASE = (b"\x7f", b"\x08")

# The standard wants four modules of quiet around a code; two are enough against a terminal's dark ground, and save rows.
QR_BORDER = 2

# Where a browser can be shown.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")

# sshd sets both for a terminal, the first for a command as well: client, its port, server, its port.
_SSH = ("SSH_CONNECTION", "SSH_TTY")
_SSH_PORT = "22"

# Seconds after the turn of one that the count is written.
_AFTER = 0.02

# Terminals that show text line by line and no more: a real teletype, and Emacs' shell.
_PLAIN = ("dumb", "")

# Back to the beginning of the line, and clear what is in it (ECMA-48).
_ANEW = "\r\x1b[K"


# Most refusals of Entra's stay in the browser.
_OR_AN_ERROR = "An error there with a number, such as AADSTS50105, can be pasted here too."


class Typed:
    """Lines that a person types or pastes, read without waiting for a whole one.

    A terminal's own line editing cuts lines at 4,095 bytes, and an address with an authorization code may be longer;
    so it is switched off while this is open.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd
        # Lines that were handed on and of which the daemon has not said that they will not do.
        self.unanswered = 0
        self._typed = b""
        # What a person types for the end of input, while the terminal does not look after it.
        self._end = b""

    @contextmanager
    def open(self) -> Iterator[Typed]:
        """Read from the terminal while the block runs."""
        fd = self.fd
        if fd is None or not os.isatty(fd):
            yield self
            return
        before = termios.tcgetattr(fd)
        during = termios.tcgetattr(fd)
        during[3] &= ~termios.ICANON
        self._end = before[6][termios.VEOF]
        termios.tcsetattr(fd, termios.TCSADRAIN, during)
        try:
            yield self
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def read(self) -> list[str]:
        """Return the lines that have become whole; wait for at least a byte. At the end, `fd` becomes None."""
        assert self.fd is not None, "there is nothing more to read"
        piece = os.read(self.fd, _PIECE)
        if not piece or (self._end and self._end in piece):
            self.fd, piece = None, piece.partition(self._end or b"\n")[0] + b"\n"
        for index in range(len(piece)):
            byte = piece[index : index + 1]
            self._typed = self._typed[:-1] if byte in _ERASE else self._typed + byte
        *lines, self._typed = self._typed.split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip())]


class Screen:
    """A terminal that a person looks at: it can draw, and write a line anew."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._ends = math.inf

    def count_down(self, seconds: float) -> None:
        """From now on `tick` tells how much of this is left."""
        self._ends = self._clock() + seconds

    def tick(self) -> float | None:
        """Write how much time is left, if that is counted; return the seconds until the next time, None for never."""
        left = self._ends - self._clock()
        if left == math.inf:
            return None
        minutes, seconds = divmod(max(0, math.ceil(left)), 60)
        self._write(f"{_ANEW}Waiting: {minutes}:{seconds:02} left. Ctrl-C cancels.")
        # A little after the second's turn, so that each is written once.
        return left % 1 + _AFTER if left > 0 else None

    def clear(self) -> None:
        """Take the line away that `tick` has written."""
        if self._ends < math.inf:
            self._write(_ANEW)

    def code(self, address: str) -> str:
        """Return an address as a QR code, "" where this terminal cannot show one."""
        if (self._out.encoding or "").lower().replace("-", "") != "utf8" or os.environ.get("TERM") in _PLAIN:
            return ""
        code = qr_code(address)
        width, height = os.get_terminal_size(self._out.fileno())
        lines = code.splitlines()
        return code if len(lines[0]) <= width and len(lines) < height else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def qr_code(address: str) -> str:
    """Return an address as a QR code for a phone: lines of block characters, light on dark as most terminals are."""
    import segno  # noqa: PLC0415 - a library that only a sign-in with a code needs

    out = io.StringIO()
    segno.make(address, error="l", micro=False).terminal(out, border=QR_BORDER, compact=True)
    return out.getvalue().rstrip("\n")


def screen(out: TextIO | None = None) -> Screen | None:
    """Return the standard output as a screen, None where it is none."""
    out = out or sys.stdout
    return Screen(out) if out.isatty() else None


def sign_in_here(remote: Remote, user: str, method: str, say: Callable[[str], None]) -> int:
    """Sign in with this process's terminal, browser and screen; return the exit code."""
    typed = Typed(sys.stdin.fileno())
    return sign_in(remote, user, method, typed, say=say, browse=browser(), shown_on=screen())


def sign_in(
    remote: Remote,
    user: str,
    method: str,
    typed: Typed,
    *,
    say: Callable[[str], None] = print,
    browse: Callable[[str], None] | None = None,
    shown_on: Screen | None = None,
) -> int:
    """Sign in over a connection to the daemon; return the exit code. `browse` opens an address, if anything can."""
    remote.send({"command": "login", "user": user, "method": method})
    needed = False
    with typed.open():
        while True:
            event = _next_event(remote, typed, shown_on, needed=needed)
            if shown_on:
                shown_on.clear()
            match event.get("event"):
                case "prompt":
                    needed = event["method"] == "paste"
                    say(in_words(event, shown_on, tunnel=over_ssh()))
                    if event["method"] == "browser" and browse:
                        browse(event["url"])
                    if event["method"] == "device" and shown_on:
                        shown_on.count_down(float(event.get("expires_in", 0)))
                case "told":
                    typed.unanswered -= 1
                    say(str(event.get("message")))
                case _:
                    say("\n".join(filter(None, [f"\n{event.get('message')}", event.get("hint")])))
                    return EX_OK if event.get("ok") else NOT_SIGNED_IN


_NOTHING_PASTED = {
    "event": "done",
    "ok": False,
    "message": "the input ended before the address was pasted",
    "hint": "give the command in a terminal, or sign in with a code: `cms login --device`",
}


def _next_event(remote: Remote, typed: Typed, shown_on: Screen | None, *, needed: bool) -> dict[str, Any]:
    """Return what the daemon says next; hand on what is pasted meanwhile.

    Where a pasted line is `needed` and none can come any more, that is the end.
    """
    while not remote.ready:
        if needed and typed.fd is None and not typed.unanswered:
            return _NOTHING_PASTED
        watched = [remote.fileno(), *([] if typed.fd is None else [typed.fd])]
        readable, _, _ = select.select(watched, [], [], shown_on.tick() if shown_on else None)
        if remote.fileno() in readable:
            break
        for line in typed.read() if readable else ():
            remote.send({"pasted": line})
            typed.unanswered += 1
    return remote.receive()


def in_words(event: Mapping[str, Any], shown_on: Screen | None = None, *, tunnel: str = "") -> str:
    """Return what a prompt asks of a person. `tunnel` is what `over_ssh` returns."""
    who = event.get("user") or "the account that this is for"
    head = f"Sign in as {who}. Application: {event.get('registration')}.\n"
    minutes = int(float(event.get("expires_in", 0)) / 60)
    limit = f"\nYou have {minutes} minutes; Ctrl-C cancels." if minutes else ""
    match event["method"]:
        case "device":
            code = shown_on.code(event["url"]) if shown_on else ""
            drawing = f"\n{code}\n" if code else ""
            return f"{head}{drawing}\nOpen {event['url']} in a browser anywhere, and enter the code\n\n    {event['user_code']}\n{limit}"
        case "browser":
            return f"{head}\n{_to_a_browser(event, tunnel)}\n{_OR_AN_ERROR}{limit}"
        case "broker":
            return f"{head}\nSign in in the window that Microsoft's broker opens on the desktop.{limit}"
    instead = f"{event['instead']}, so its address is pasted.\n" if event.get("instead") else ""
    return (
        f"{head}{instead}\nOpen this in a browser anywhere:\n\n{event['url']}\n\n"
        f"It ends at a page that may not load. Paste the address of that page here, whole.\n{_OR_AN_ERROR}{limit}"
    )


def _to_a_browser(event: Mapping[str, Any], tunnel: str) -> str:
    """Return how a browser gets to the link and back to this machine."""
    if tunnel:
        return (
            f"You are here over SSH. Run this on the machine with your browser, and leave it running:\n\n"
            f"ssh -L {_forwarded(event)} {tunnel}\n\nThen open this there:\n\n{event['url']}\n\n"
            "Or open the link without that, and paste here the address that the browser ends at."
        )
    return (
        f"Open this in a browser on this machine:\n\n{event['url']}\n\n"
        f"The page {event['page']} leads there too. If the browser is on another machine, paste here the address that it ends at."
    )


def _forwarded(event: Mapping[str, Any]) -> str:
    """Return what `ssh -L` takes to bring a browser to where the prompt says. Some shells take brackets for a pattern."""
    # A daemon that was not started again since an upgrade names no host.
    host, port = event.get("host") or "127.0.0.1", event.get("port")
    return f"'{port}:[{host}]:{port}'" if ":" in host else f"{port}:{host}:{port}"


def over_ssh(environment: Mapping[str, str] | None = None) -> str:
    """Return this machine and user as an ssh command names them, "" where the person is not here over SSH."""
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in _SSH):
        return ""
    words = environment.get("SSH_CONNECTION", "").split()
    host, port = words[2:4] if len(words) == len(("from", "port", "to", "port")) else (socket.gethostname(), _SSH_PORT)
    there = f"{_user_name(environment)}@{host}"
    return there if port == _SSH_PORT else f"-p {port} {there}"


def _user_name(environment: Mapping[str, str]) -> str:
    known = users.user(os.getuid())
    return environment.get("USER") or environment.get("LOGNAME") or (known.pw_name if known else "USER")


def browser() -> Callable[[str], None] | None:
    """Return what opens an address on this desktop, None where there is none or the person is elsewhere."""
    opener = shutil.which("xdg-open")
    if not opener or not any(os.environ.get(name) for name in _DISPLAYS) or over_ssh():
        return None

    def browse(url: str) -> None:
        # Its chatter is not for this terminal, and it may live as long as the browser does: nobody waits for it.
        quiet = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, fd) for fd in (1, 2))]
        os.posix_spawn(opener, [opener, url], os.environ, file_actions=quiet, setsid=True)

    return browse
