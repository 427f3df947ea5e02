"""The terminal's half of a sign-in: what a person is shown, and what they paste."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cms.remote import Remote

EX_OK = 0
NOT_SIGNED_IN = 1

# Bytes that are read from the terminal at once. A pasted address may be longer: it is then read piece by piece.
_PIECE = 4096

_ERASE = (b"\x7f", b"\x08")

# Where a browser can be shown.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


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
        termios.tcsetattr(fd, termios.TCSADRAIN, during)
        try:
            yield self
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def read(self) -> list[str]:
        """Return the lines that have become whole; wait for at least a byte. At the end, `fd` becomes None."""
        assert self.fd is not None, "there is nothing more to read"
        piece = os.read(self.fd, _PIECE)
        if not piece:
            self.fd, piece = None, b"\n"
        for index in range(len(piece)):
            byte = piece[index : index + 1]
            self._typed = self._typed[:-1] if byte in _ERASE else self._typed + byte
        *lines, self._typed = self._typed.split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip())]


def sign_in(
    remote: Remote,
    user: str,
    method: str,
    typed: Typed,
    *,
    say: Callable[[str], None] = print,
    browse: Callable[[str], None] | None = None,
) -> int:
    """Sign in over a connection to the daemon; return the exit code. `browse` opens an address, if anything can."""
    remote.send({"command": "login", "user": user, "method": method})
    needed = False
    with typed.open():
        while True:
            event = _next_event(remote, typed, needed=needed)
            match event.get("event"):
                case "prompt":
                    needed = event["method"] == "paste"
                    say(in_words(event))
                    if event["method"] == "browser" and browse:
                        browse(event["url"])
                case "told":
                    typed.unanswered -= 1
                    say(str(event.get("message")))
                case _:
                    return _ended(event, say)


def _ended(event: Mapping[str, Any], say: Callable[[str], None]) -> int:
    say("\n".join(filter(None, [f"\n{event.get('message')}", event.get("hint")])))
    return EX_OK if event.get("ok") else NOT_SIGNED_IN


_NOTHING_PASTED = {
    "event": "done",
    "ok": False,
    "message": "the input ended before the address was pasted",
    "hint": "give the command in a terminal, or sign in with a code: `cms login --device`",
}


def _next_event(remote: Remote, typed: Typed, *, needed: bool) -> dict[str, Any]:
    """Return what the daemon says next; hand on what is pasted meanwhile.

    Where a pasted line is `needed` and none can come any more, that is the end.
    """
    while not remote.ready:
        if needed and typed.fd is None and not typed.unanswered:
            return _NOTHING_PASTED
        watched = [remote.fileno(), *([] if typed.fd is None else [typed.fd])]
        readable, _, _ = select.select(watched, [], [])
        if remote.fileno() in readable:
            break
        for line in typed.read():
            remote.send({"pasted": line})
            typed.unanswered += 1
    return remote.receive()


def in_words(event: Mapping[str, Any]) -> str:
    """Return what a prompt asks of a person."""
    who = event.get("user") or "the account that this is for"
    head = f"Sign in as {who}. Application: {event.get('registration')}.\n"
    minutes = int(float(event.get("expires_in", 0)) / 60)
    limit = f"\nThere are {minutes} minutes for it; Ctrl-C gives up." if minutes else ""
    match event["method"]:
        case "device":
            return f"{head}\nOpen {event['url']} in a browser anywhere, and enter the code\n\n    {event['user_code']}\n{limit}"
        case "browser":
            ways = f"The page {event['page']} leads there too. If the browser is on another machine, paste here the address that it ends at."
            return f"{head}\nOpen this in a browser on this machine:\n\n{event['url']}\n\n{ways}{limit}"
    return (
        f"{head}\nOpen this in a browser anywhere:\n\n{event['url']}\n\n"
        f"It ends at a page that may not load. Paste the address of that page here, whole.{limit}"
    )


def browser() -> Callable[[str], None] | None:
    """Return what opens an address on this desktop, None where there is none."""
    opener = shutil.which("xdg-open")
    if not opener or not any(os.environ.get(name) for name in _DISPLAYS):
        return None

    def browse(url: str) -> None:
        # Its chatter is not for this terminal, and it may live as long as the browser does: nobody waits for it.
        quiet = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, fd) for fd in (1, 2))]
        os.posix_spawn(opener, [opener, url], os.environ, file_actions=quiet, setsid=True)

    return browse


def terminal() -> Typed:
    """Return the standard input as what a person types."""
    return Typed(sys.stdin.fileno())
