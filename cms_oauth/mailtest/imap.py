"""The test over IMAP: log in, and open a mailbox read-only (EXAMINE), so that no message changes."""

from __future__ import annotations

import imaplib
import re
import ssl
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cms_oauth.mailtest.dialogue import (
    ANSWER_SECONDS,
    Dialogue,
    Place,
    Refused,
    answers,
    in_clear,
    is_temporary,
    mechanism_of,
)
from cms_oauth.providers import PROVIDERS

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Imap(imaplib.IMAP4):
    """imaplib's client with the dialogue shown."""

    def __init__(self, place: Place, dialogue: Dialogue, **tls: Any) -> None:
        self._dialogue = dialogue
        super().__init__(place.host, place.port, timeout=ANSWER_SECONDS, **tls)

    def send(self, data: ReadableBuffer) -> None:
        self._dialogue.show(f"send: {data!r}")
        super().send(data)

    def capability(self) -> tuple[str, list[Any]]:
        """Ask for the capabilities before the login only.

        Python 3.13.18 and 3.14 ask after it as well. Nothing here needs that answer, and a server that refuses the
        question would seem to have refused the login.
        """
        if self.state == "NONAUTH" or not self.capabilities:
            return super().capability()
        return "OK", [" ".join(self.capabilities).encode()]

    def readline(self) -> bytes:
        line = super().readline()
        text = line.decode(errors="replace").strip()
        self._dialogue.greet(text)
        if text.upper().startswith("* BYE "):
            self._dialogue.goodbye = self._dialogue.mask(text[len("* BYE ") :])
        self._dialogue.show(f"reply: {line!r}")
        return line


class _Imaps(_Imap, imaplib.IMAP4_SSL):
    """The same over TLS from the first byte."""


def test_imap(place: Place, dialogue: Dialogue, context: ssl.SSLContext) -> None:
    """Log in over TLS, and open the mailbox. Raises Refused, and the errors of imaplib and sockets."""
    imap = _Imaps(place, dialogue, ssl_context=context) if place.tls_at_once else _Imap(place, dialogue)
    try:
        if not place.tls_at_once:
            if "STARTTLS" not in imap.capabilities:
                raise in_clear()
            imap.starttls(context)
        _imap_login(imap, dialogue)
        with suppress(imaplib.IMAP4.error, OSError):
            imap.logout()
    finally:
        # imaplib's own way to close logs out first, and what goes wrong with that hides what went wrong before.
        with suppress(OSError):
            imap.shutdown()


def _imap_login(imap: imaplib.IMAP4, dialogue: Dialogue) -> None:
    """Log in, and open the mailbox so that nothing in it changes."""
    mechanism = mechanism_of(dialogue, offered_by(imap.host, imap.capabilities))
    with _said_no():
        # Any: typeshed has it for text, and it is a list of bytes.
        said: Any = imap.authenticate(mechanism, answers(dialogue, mechanism))
    dialogue.logged_in(f"{said[0]} {said[1][0].decode(errors='replace')}", f"EXAMINE {dialogue.mailbox}")
    with _said_no(after_login=True):
        status, data = imap.select(_mailbox_name(dialogue.mailbox), readonly=True)
        if status != "OK":
            raise imaplib.IMAP4.error((data[0] or b"").decode(errors="replace"))


def offered_by(host: str, capabilities: Iterable[str]) -> list[str]:
    """Return the mechanisms that a server says it takes, and XOAUTH2 of one that is known to take it all the same."""
    said = [each.removeprefix("AUTH=") for each in capabilities if each.startswith("AUTH=")]
    silent = any(row.silent and row.imap_host == host.lower() for row in PROVIDERS.values())
    return [*said, *(["XOAUTH2"] if silent and "XOAUTH2" not in said else [])]


def _mailbox_name(name: str) -> str:
    """Return a mailbox's name as IMAP carries it: modified UTF-7 (RFC 3501, 5.1.3), quoted unless it is a plain word."""

    def shifted(found: re.Match[str]) -> str:
        return f"&{b2a_base64(found[0].encode('utf-16-be'), newline=False).decode().rstrip('=').replace('/', ',')}-"

    encoded = re.sub(r"[^\x20-\x7e]+", shifted, name.replace("&", "&-"))
    return encoded if encoded.isalnum() else '"' + re.sub(r'(["\\])', r"\\\1", encoded) + '"'


@contextmanager
def _said_no(*, after_login: bool = False) -> Iterator[None]:
    """Turn imaplib's exception for NO and BAD into the server's answer; a lost connection stays what it is.

    What is refused after a login that passed may be Exchange's trouble as well as the mailbox's.
    """
    try:
        yield
    except imaplib.IMAP4.abort:
        raise
    except imaplib.IMAP4.error as error:
        text = _own_words(str(error))
        raise Refused(text, temporary=after_login or is_temporary(text)) from None


def _own_words(text: str) -> str:
    """Return the server's answer without what imaplib puts around it: `EXAMINE command error: BAD [b'...']`."""
    found = re.fullmatch(r"\w+ command error: (\w+) \[b(['\"])(.*)\2\]", text)
    return f"{found[1]} {found[3]}" if found else text
