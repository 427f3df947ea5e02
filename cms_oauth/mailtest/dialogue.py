"""The parts that the tests over SMTP, IMAP and POP share: the server, the login, and the dialogue that is shown.

A credential is sent only over TLS, once, and every line that is shown or kept has it masked.
"""

from __future__ import annotations

import re
import sys
import time
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable

from cms_oauth import sasl
from cms_oauth.diagnosis import lookup
from cms_oauth.text import printable

# The time limit for one answer, and for connecting to one address: a second address must be tried within the minute.
ANSWER_SECONDS = 20.0

# Exchange offers only XOAUTH2; OAUTHBEARER is for servers that support only the standard.
_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")

_DEFAULT_PORTS = {"smtp": 587, "imap": 993, "pop": 995}

# Submission starts with TLS only on port 465; IMAP and POP start with it on all ports except their oldest ones.
_SMTPS_PORT = 465
_UPGRADED_PORTS = {"imap": 143, "pop": 110}

# Words of IMAP and POP servers for a temporary fault (Exchange's replies, RFC 5530, RFC 3206).
_TEMPORARY = ("[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[SYS/TEMP]", "[IN-USE]", "THROTTLED", "SERVER UNAVAILABLE")


class Refused(Exception):
    """The server refused, which ends the test. `text` is its reply; `temporary` is True if trying later may help."""

    def __init__(self, text: str, *, temporary: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.temporary = temporary


class Place:
    """The server to log in to. `tls_at_once` is False if the connection starts unencrypted and is upgraded."""

    __slots__ = ("host", "port", "tls_at_once")

    def __init__(self, host: str, port: int, *, tls_at_once: bool) -> None:
        self.host = host
        self.port = port
        self.tls_at_once = tls_at_once

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def place_of(test: str, text: str) -> Place | None:
    """Parse HOST, HOST:PORT, [ADDRESS]:PORT or a bare IPv6 address; return None for anything else."""
    shape = re.fullmatch(
        r"\[([^\]\s]+)\](?::(\d{1,5}))?|([^:\[\]\s]+)(?::(\d{1,5}))?|([0-9A-Fa-f.]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)", text
    )
    if not shape:
        return None
    host = shape[1] or shape[3] or shape[5]
    port = int(shape[2] or shape[4] or _DEFAULT_PORTS[test])
    at_once = port == _SMTPS_PORT if test == "smtp" else port != _UPGRADED_PORTS[test]
    return Place(host, port, tls_at_once=at_once) if 0 < port < 1 << 16 else None


class Dialogue:
    """One login: user, credential and mailbox, and what the server has said so far, masked.

    `greeting`, `offered` and `challenge` are what the server said before its decision. `greeted` is how many seconds this
    machine's clock was ahead of the time in the greeting, None if that had none. `passed` is the answer to a successful
    login, and `step` the command that followed; `goodbye` is what the server said when it ended the dialogue early.
    """

    # A server may quote a credential cut off. A piece of this many characters counts as the credential, and `mask`
    # looks at words of at least this length.
    _TELLING = 20

    def __init__(self, user: str, token: str, mailbox: str = "INBOX") -> None:
        self.user = user
        self.mailbox = mailbox
        self.trace: list[str] = []
        self.greeting = ""
        self.greeted: float | None = None
        self.offered: tuple[str, ...] = ()
        self.challenge = ""
        self.passed = ""
        self.step = ""
        self.goodbye = ""
        self._texts = {"XOAUTH2": sasl.xoauth2(user, token), "OAUTHBEARER": sasl.oauthbearer(user, token)}
        self._forms = "\n".join([token, *map(sasl.encode, (token, *self._texts.values()))])

    def text(self, mechanism: str) -> str:
        """Return the initial response of a mechanism, not encoded."""
        return self._texts[mechanism]

    def mask(self, text: str) -> str:
        """Return the text with each word replaced that contains a piece of the credential."""
        return re.sub(r"[^\s'\"\\]{20,}", self._masked, text)

    def _masked(self, word: re.Match[str]) -> str:
        pieces = (word[0][start : start + self._TELLING] for start in range(len(word[0]) - self._TELLING + 1))
        return "<credential>" if any(piece in self._forms for piece in pieces) else word[0]

    def show(self, text: str) -> None:
        """Show one line of the dialogue on stderr, and keep it."""
        self.trace.append(printable(self.mask(text)))
        print(self.trace[-1], file=sys.stderr, flush=True)

    def logged_in(self, answer: str, step: str) -> None:
        """Keep the answer to a login that worked, and name the command that comes next."""
        self.passed, self.step = answer, step

    def greet(self, text: str) -> None:
        """Keep the server's first line as its greeting; ignore later ones."""
        if not self.greeting:
            self.greeting, said = self.mask(text), lookup.clock_of(text)
            self.greeted = None if said is None else time.time() - said


def mechanism_of(dialogue: Dialogue, offered: list[str]) -> str:
    """Return the mechanism to use, of those that the server offers. Raises Refused if there is none."""
    dialogue.offered = tuple(offered)
    for mechanism in _MECHANISMS:
        if mechanism in offered:
            return mechanism
    raise Refused(f"it offers no OAuth2 login, only: {' '.join(offered) or 'none'}")


def answers(dialogue: Dialogue, mechanism: str) -> Callable[[bytes], bytes | None]:
    """Return a function that answers challenges: first the credential, then the end of an error, then None to cancel."""
    answers = iter((dialogue.text(mechanism).encode(), sasl.closing_answer(mechanism).encode()))

    def answer(challenge: bytes) -> bytes | None:
        if challenge:
            text = challenge.decode(errors="replace")
            dialogue.challenge = dialogue.mask(text)
            dialogue.show(f"challenge: {text!r}")
        return next(answers, None)

    return answer


def line(answer: bytes | None) -> str:
    """Return an answer as SMTP and POP carry it; `*` cancels."""
    return "*" if answer is None else sasl.encode(answer.decode())


def decoded(challenge: bytes | str) -> bytes:
    """Return a challenge decoded from base64, or unchanged if it is not base64."""
    try:
        return a2b_base64(challenge)
    except NotBase64:
        return challenge if isinstance(challenge, bytes) else challenge.encode()


def in_clear() -> Refused:
    return Refused("it offers no TLS, and cms sends no token unencrypted")


def is_temporary(text: str) -> bool:
    return any(word in text.upper() for word in _TEMPORARY)
