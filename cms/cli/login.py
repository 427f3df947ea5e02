"""`cms login` in the terminal: shows the link or code, and reads what the person pastes.

The daemon does the sign-in itself. It sends events over the control socket: a link or a code to show, and the result.
"""

from __future__ import annotations

import io
import math
import os
import select
import socket
import string
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from cms.cli.browser import Browse, browser
from cms.cli.client import Remote
from cms.cli.failure import Failure
from cms.system import users
from cms_oauth.moves import Command, cms
from cms_oauth.providers import MICROSOFT, PROVIDERS
from cms_oauth.text import is_link, printable

EX_OK = 0
NOT_SIGNED_IN = 1

# Bytes to read from the terminal at once. A longer pasted address is read in several pieces.
_PIECE = 4096

_ERASE = b"\x7f\x08"
_NEW_LINE = 0x0A

# More than the daemon takes of a pasted address. The rest of a longer line is left out: the input may never end.
_LONGEST = 64 * 1024

# The standard asks for a border of four modules. Two are enough on a terminal's dark background, and need fewer lines.
QR_BORDER = 2

# sshd sets both for a terminal, and the first also for a command. Its value is: client, its port, server, its port.
_SSH = ("SSH_CONNECTION", "SSH_TTY")
_SSH_PORT = "22"

# The countdown is redrawn this many seconds after each full second.
_AFTER = 0.02

# Terminals that cannot move the cursor: teletypes, and Emacs' shell.
_PLAIN = ("dumb", "")

# Return to the beginning of the line and clear it (ECMA-48).
_ANEW = "\r\x1b[K"


# Entra shows most refusals in the browser only. Other providers give them no numbers.
_OR_AN_ERROR = "An error there with a number, such as AADSTS50105, can be pasted here too."


class Typed:
    """Reads lines that a person types or pastes.

    A terminal's own line editing cuts lines off at 4,095 bytes, and an address with an authorization code may be
    longer. So it is switched off while this is open.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int | None = fd
        # The number of lines that were sent to the daemon and that it has not rejected yet.
        self.unanswered = 0
        self._typed = bytearray()
        # The character for the end of input (Ctrl-D), which the terminal does not handle while this is open.
        self._end = b""
        # How the terminal was before this was opened, None while this is not open, or for what is no terminal.
        self._before: list[Any] | None = None

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
        self._before = before
        try:
            yield self
        finally:
            self._before = None
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give the terminal to another program while the block runs, as it was before this was opened."""
        if self.fd is None or self._before is None:
            yield
            return
        during = termios.tcgetattr(self.fd)
        termios.tcsetattr(self.fd, termios.TCSADRAIN, self._before)
        try:
            yield
        finally:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, during)

    def read(self) -> list[str]:
        """Wait for input; return the lines that are complete. At the end of the input, `fd` becomes None."""
        assert self.fd is not None, "there is nothing more to read"
        piece = os.read(self.fd, _PIECE)
        if not piece or (self._end and self._end in piece):
            self.fd, piece = None, piece.partition(self._end or b"\n")[0] + b"\n"
        begun = 0
        for byte in piece:
            if byte in _ERASE:
                del self._typed[-1:]
            elif byte == _NEW_LINE:
                self._typed.append(byte)
                begun = len(self._typed)
            elif len(self._typed) - begun <= _LONGEST:
                self._typed.append(byte)
        *lines, self._typed = self._typed.split(b"\n")
        return [text for line in lines if (text := line.decode(errors="replace").strip())]


class Screen:
    """A terminal's output: shows a QR code, and a countdown that is redrawn in place."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._ends = math.inf

    def count_down(self, seconds: float) -> None:
        """Start a countdown, which `tick` draws."""
        self._ends = self._clock() + seconds

    def tick(self) -> float | None:
        """Draw the countdown, if there is one; return the seconds until it has to be drawn again, None for never."""
        left = self._ends - self._clock()
        if left == math.inf:
            return None
        minutes, seconds = divmod(max(0, math.ceil(left)), 60)
        self._write(f"{_ANEW}Waiting: {minutes}:{seconds:02} left. Ctrl-C cancels.")
        # A little after each full second, so that no second is shown twice or left out.
        return left % 1 + _AFTER if left > 0 else None

    def clear(self) -> None:
        """Remove the line that `tick` has drawn."""
        if self._ends < math.inf:
            self._write(_ANEW)

    def code(self, address: str) -> str:
        """Return an address as a QR code, "" if this terminal cannot show it."""
        if (self._out.encoding or "").lower().replace("-", "") != "utf8" or os.environ.get("TERM") in _PLAIN:
            return ""
        try:
            code = qr_code(address)
        except ValueError:
            # The largest holds 3 KB.
            return ""
        width, height = os.get_terminal_size(self._out.fileno())
        lines = code.splitlines()
        return code if len(lines[0]) <= width and len(lines) < height else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def qr_code(address: str) -> str:
    """Return an address as a QR code: lines of block characters, for a terminal with a dark background."""
    import segno  # noqa: PLC0415 - only a sign-in with a code needs it

    out = io.StringIO()
    segno.make(address, error="l", micro=False).terminal(out, border=QR_BORDER, compact=True)
    return out.getvalue().rstrip("\n")


def screen(out: TextIO | None = None) -> Screen | None:
    """Return the standard output as a Screen, None if it is not a terminal."""
    out = out or sys.stdout
    return Screen(out) if out.isatty() else None


def sign_in_here(remote: Remote, user: str, method: str, say: Callable[[str], None]) -> int:
    """Sign in with this process's terminal, browser and screen; return the exit code."""
    typed = Typed(sys.stdin.fileno())
    browse = browser(remote=bool(over_ssh()), terminal=sys.stdin.isatty() and sys.stdout.isatty(), lent=typed.lent)
    if browse is None and os.environ.get("BROWSER"):
        # Who named a browser expects one: that none of the programs is there has to be said.
        browse = _no_browser
    return sign_in(remote, user, method, typed, say=say, browse=browse, shown_on=screen())


def _no_browser(_url: str) -> bool:
    return False


def sign_in(
    remote: Remote,
    user: str,
    method: str,
    typed: Typed,
    *,
    say: Callable[[str], None] = print,
    browse: Browse | None = None,
    shown_on: Screen | None = None,
) -> int:
    """Sign in over a connection to the daemon; return the exit code. `browse` opens an address in a browser."""
    remote.send({"command": "login", "user": user, "method": method})
    needed, before, provider = False, "", MICROSOFT
    with typed.open():
        while True:
            event = _next_event(remote, typed, shown_on, needed=needed) or _nothing_pasted(user, provider)
            if shown_on:
                shown_on.clear()
            match event.get("event"):
                case "prompt":
                    event, before = checked_prompt(event), "\n"
                    needed, provider = event["method"] == "paste", str(event.get("provider", MICROSOFT))
                    say(in_words(event, shown_on, tunnel=over_ssh()))
                    if event["method"] == "browser" and browse and not browse(event["url"]):
                        say("No browser could be started: open the link yourself.")
                    if event["method"] == "device" and shown_on:
                        shown_on.count_down(float(event.get("expires_in", 0)))
                case "told":
                    typed.unanswered -= 1
                    say(str(event.get("message")))
                case _:
                    say("\n".join(filter(None, [f"{before}{event.get('message')}", event.get("hint")])))
                    return EX_OK if event.get("ok") else NOT_SIGNED_IN


def checked_prompt(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt with values that can be shown and opened. Raises Failure: a daemon may be anything."""
    method, seconds = event.get("method"), event.get("expires_in", 0)
    links = method == "broker" or is_link(event.get("url"))
    links = links and (not event.get("complete_url") or is_link(event["complete_url"]))
    times = type(seconds) in (int, float) and 0 <= seconds < math.inf
    # These two become part of a command that the person runs.
    back = type(event.get("port", 0)) is int and _is_host(event.get("host", ""))
    if not (isinstance(method, str) and links and times and back):
        raise Failure("the daemon sent a prompt without a web address to open", "restart the daemon, and see its log")
    words = {name: printable(value, len(value)) for name, value in event.items() if isinstance(value, str)}
    return {"user_code": "", "complete_url": "", "page": "", **event, **words}


def _is_host(host: object) -> bool:
    """True for an address of the Internet Protocol, or none."""
    return isinstance(host, str) and set(host) <= set(f"{string.hexdigits}.:")


def _nothing_pasted(user: str, provider: str) -> dict[str, Any]:
    hint = "run the command in a terminal"
    if provider in PROVIDERS and "device" in PROVIDERS[provider].ways:
        hint = f"{hint}, or sign in with a code: `{cms('login', user, '--device')}`"
    return {"event": "done", "ok": False, "message": "the input ended before the address was pasted", "hint": hint}


def _next_event(remote: Remote, typed: Typed, shown_on: Screen | None, *, needed: bool) -> dict[str, Any] | None:
    """Return the daemon's next event; send it what is pasted in the meantime.

    Return None if a pasted line is `needed` and the input has ended: the sign-in ends.
    """
    while not remote.ready:
        if needed and typed.fd is None and not typed.unanswered:
            return None
        watched = [remote.fileno(), *([] if typed.fd is None else [typed.fd])]
        readable, _, _ = select.select(watched, [], [], shown_on.tick() if shown_on else None)
        if remote.fileno() in readable:
            break
        for line in typed.read() if readable else ():
            remote.send({"pasted": line})
            typed.unanswered += 1
    return remote.receive()


def in_words(event: Mapping[str, Any], shown_on: Screen | None = None, *, tunnel: str = "") -> str:
    """Return the text of a prompt for the person. `tunnel` is what `over_ssh` returns."""
    who = event.get("user") or "the account that this is for"
    head = f"Sign in as {who}. Application: {event.get('registration')}.\n"
    minutes = int(float(event.get("expires_in", 0)) / 60)
    limit = f"\nYou have {minutes} minutes; Ctrl-C cancels." if minutes else ""
    error = f"\n{_OR_AN_ERROR}" if event.get("provider") == MICROSOFT else ""
    match event["method"]:
        case "device":
            complete = event.get("complete_url") or ""
            code = shown_on.code(complete or event["url"]) if shown_on else ""
            drawing = f"\n{code}\n" if code else ""
            direct = f"\nOr open this, which has the code in it:\n\n{complete}\n" if complete else ""
            where = f"Open {event['url']} in a browser anywhere, and enter the code\n\n    {event['user_code']}\n"
            return f"{head}{drawing}\n{where}{direct}{limit}"
        case "browser":
            return f"{head}\n{_to_a_browser(event, tunnel)}{error}{limit}"
        case "broker":
            return f"{head}\nSign in in the window that Microsoft's broker opens on the desktop.{limit}"
    instead = f"{event['instead']}, so paste its address instead.\n" if event.get("instead") else ""
    return (
        f"{head}{instead}\nOpen this in a browser anywhere:\n\n{event['url']}\n\n"
        f"It ends at a page that may not load. Paste the whole address of that page here.{error}{limit}"
    )


def _to_a_browser(event: Mapping[str, Any], tunnel: str) -> str:
    """Return how to open the link so that the browser gets back to this machine."""
    if tunnel:
        return (
            f"You are here over SSH. Run this on the machine with your browser, and leave it running:\n\n"
            f"ssh -L {_forwarded(event)} {tunnel}\n\nThen open this there:\n\n{event['url']}\n\n"
            "Or open the link without that, and paste the address at which the browser ends here."
        )
    return (
        f"Open this in a browser on this machine:\n\n{event['url']}\n\n"
        f"The page {event['page']} leads there too. If the browser is on another machine, paste the address at which it ends here."
    )


def _forwarded(event: Mapping[str, Any]) -> str:
    """Return the argument of `ssh -L` for the prompt's address. It is quoted, since some shells expand brackets."""
    # A daemon that was not restarted after an upgrade names no host.
    host, port = event.get("host") or "127.0.0.1", event.get("port")
    return f"'{port}:[{host}]:{port}'" if ":" in host else f"{port}:{host}:{port}"


def over_ssh(environment: Mapping[str, str] | None = None) -> str:
    """Return the arguments with which ssh reaches this user and machine, "" if the person is not here over SSH."""
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in _SSH):
        return ""
    words = environment.get("SSH_CONNECTION", "").split()
    host, port = words[2:4] if len(words) == len(("from", "port", "to", "port")) else (socket.gethostname(), _SSH_PORT)
    # Quoted, because a user of a domain is called DOMAIN\user.
    there = f"{_user_name(environment)}@{host}"
    return str(Command((there,) if port == _SSH_PORT else ("-p", port, there)))


def _user_name(environment: Mapping[str, str]) -> str:
    known = users.user(os.getuid())
    return environment.get("USER") or environment.get("LOGNAME") or (known.pw_name if known else "USER")
