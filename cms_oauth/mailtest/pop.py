"""The test over POP: log in, and ask for the number of messages (STAT). Nothing is fetched or deleted."""

from __future__ import annotations

import poplib
import ssl
from contextlib import closing, suppress
from typing import Any

from cms_oauth.mailtest.dialogue import (
    ANSWER_SECONDS,
    Dialogue,
    Place,
    Refused,
    answers,
    decoded,
    in_clear,
    is_temporary,
    line,
    mechanism_of,
)

# A challenge has some hundred characters; RFC 4954 allows 12,288, and POP's own limit is less.
_POP_MAX_LINE = 16 * 1024


class _Pop(poplib.POP3):
    """poplib's connection. poplib knows no AUTH, so commands are sent from here, and shown."""

    def __init__(self, place: Place, dialogue: Dialogue, **tls: Any) -> None:
        self._dialogue = dialogue
        try:
            super().__init__(place.host, place.port, timeout=ANSWER_SECONDS, **tls)
        except BaseException as error:
            if isinstance(error, poplib.error_proto) and isinstance(error.args[0], bytes):
                dialogue.greet(error.args[0].decode(errors="replace"))
                dialogue.goodbye = dialogue.greeting
            # poplib leaves its socket open when the greeting is bad, and has none when there was no connection.
            with suppress(AttributeError):
                self.close()
            raise
        self._dialogue.greet(self.getwelcome().decode(errors="replace"))
        self._dialogue.show(f"reply: {self.getwelcome()!r}")

    def ask(self, command: str) -> str:
        """Send a command and return the first line of the answer."""
        line = command.encode() + b"\r\n"
        self._dialogue.show(f"send: {line!r}")
        self.sock.sendall(line)
        return self.more()

    def more(self) -> str:
        """Return the next line of an answer."""
        line = self.file.readline(_POP_MAX_LINE)
        if not line:
            raise EOFError
        self._dialogue.show(f"reply: {line!r}")
        return line.decode(errors="replace").rstrip("\r\n")

    def capabilities(self) -> list[str]:
        """Return the lines of CAPA, in capitals; none where the server does not know that."""
        lines = []
        if self.ask("CAPA").startswith("+OK"):
            while (line := self.more()) != ".":
                lines.append(line.upper())
        return lines

    def upgrade(self, context: ssl.SSLContext) -> None:
        """Go on over TLS. What came in clear before is forgotten."""
        self.file.close()
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
        self.file = self.sock.makefile("rb")


class _Pops(_Pop, poplib.POP3_SSL):
    """The same over TLS from the first byte."""


def test_pop(place: Place, dialogue: Dialogue, context: ssl.SSLContext) -> None:
    """Log in over TLS, and count the messages. Raises Refused, EOFError, and the errors of sockets."""
    client = _Pops(place, dialogue, context=context) if place.tls_at_once else _Pop(place, dialogue)
    with closing(client) as pop:
        if not place.tls_at_once:
            if "STLS" not in pop.capabilities() or not pop.ask("STLS").startswith("+OK"):
                raise in_clear()
            pop.upgrade(context)
        _pop_login(pop, dialogue)
        status = pop.ask("STAT")
        if not status.startswith("+OK"):
            raise Refused(status, temporary=True)
        pop.ask("QUIT")


def _pop_login(pop: _Pop, dialogue: Dialogue) -> None:
    sasl_line = next((line for line in pop.capabilities() if line.startswith("SASL ")), "")
    mechanism = mechanism_of(dialogue, sasl_line.split()[1:])
    answer = answers(dialogue, mechanism)
    reply = pop.ask(f"AUTH {mechanism}")
    while reply.startswith("+") and not reply.startswith("+OK"):
        reply = pop.ask(line(answer(decoded(reply[2:]))))
    if not reply.startswith("+OK"):
        raise Refused(reply, temporary=is_temporary(reply))
    dialogue.logged_in(reply, "STAT")
