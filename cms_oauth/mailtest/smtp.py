"""The test over SMTP: log in at a submission server as a mail program would, then RSET. No mail is sent."""

from __future__ import annotations

import smtplib
import ssl
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cms_oauth.mailtest.dialogue import (
    ANSWER_SECONDS,
    Dialogue,
    Place,
    Refused,
    answers,
    decoded,
    in_clear,
    line,
    mechanism_of,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SMTP_DONE = 250
_SMTP_CONTINUE = 334
_SMTP_PASSED = 235
_SMTP_UNRECOGNISED = 504
_SMTP_PERMANENT = 500


class _Smtp(smtplib.SMTP):
    """smtplib's client with the dialogue shown."""

    def __init__(self, place: Place, dialogue: Dialogue, **tls: Any) -> None:
        self._dialogue = dialogue
        try:
            super().__init__(place.host, place.port, timeout=ANSWER_SECONDS, **tls)
        except BaseException:
            self.close()
            raise

    def send(self, s: ReadableBuffer | str) -> None:
        self._dialogue.show(f"send: {s!r}")
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        first = "" if self._dialogue.greeting else self._first_line()
        code, message = super().getreply()
        self._dialogue.greet(smtp_text(code, message) if code > 0 else first)
        self._dialogue.show(f"reply: retcode ({code}); Msg: {message!r}")
        return code, message

    def _first_line(self) -> str:
        """Return what the server begins with: smtplib cuts a line that is not SMTP's."""
        if self.file is None:
            # Any: typeshed does not know of smtplib's socket.
            sock: Any = self.sock
            self.file = sock.makefile("rb")
        first: bytes = self.file.peek()
        return first.decode(errors="replace").partition("\n")[0].strip()


class _Smtps(_Smtp, smtplib.SMTP_SSL):
    """The same over TLS from the first byte."""


def test_smtp(place: Place, dialogue: Dialogue, context: ssl.SSLContext) -> None:
    """Log in over TLS, and send a command that needs the login. Raises Refused, and the errors of smtplib and sockets."""
    client = _Smtps(place, dialogue, context=context) if place.tls_at_once else _Smtp(place, dialogue)
    with closing(client) as smtp:
        smtp.ehlo_or_helo_if_needed()
        if not place.tls_at_once:
            if not smtp.has_extn("starttls"):
                raise in_clear()
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        code, message = _smtp_login(smtp, dialogue)
        reset = smtp.rset()
        if reset[0] != _SMTP_DONE:
            raise _of_smtp(*reset)
        with suppress(smtplib.SMTPException, OSError):
            smtp.quit()
    # The promise of cloud_mdir_sync's document: the last line is the server's answer to the login.
    dialogue.show(f"reply: retcode ({code}); Msg: {message!r}")


def _smtp_login(smtp: smtplib.SMTP, dialogue: Dialogue) -> tuple[int, bytes]:
    """Log in and return the server's answer.

    In two steps, since a command line may not be as long as a token (RFC 4954, 4); in one, once, where a server says
    that it does not know that way: by then it has not seen the token.
    """
    mechanism = mechanism_of(dialogue, smtp.esmtp_features.get("auth", "").upper().split())
    answer = answers(dialogue, mechanism)
    code, message = smtp.docmd("AUTH", mechanism)
    if code == _SMTP_UNRECOGNISED:
        code, message = smtp.docmd("AUTH", f"{mechanism} {line(answer(b''))}")
    while code == _SMTP_CONTINUE:
        code, message = smtp.docmd(line(answer(decoded(message))))
    if code != _SMTP_PASSED:
        raise _of_smtp(code, message)
    dialogue.logged_in(smtp_text(code, message), "RSET")
    return code, message


def _of_smtp(code: int, message: bytes) -> Refused:
    return Refused(smtp_text(code, message), temporary=code < _SMTP_PERMANENT)


def smtp_text(code: int, message: bytes | str) -> str:
    text = message if isinstance(message, str) else message.decode(errors="replace")
    return f"{code} {' '.join(text.split())}"
