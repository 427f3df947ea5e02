"""Postfix's socketmap protocol (socketmap_table(5)), both directions, without I/O: netstrings, queries and replies.

    query = LENGTH ":" TABLE " " KEY ","
    reply = LENGTH ":" ("OK " DATA | "NOTFOUND " | "TEMP " REASON | "PERM " REASON) ","

A connection carries any number of queries, one at a time. NOTFOUND makes Postfix send without a login, and the mail
server's answer to that bounces the message: it is for senders that the table does not serve, never for a missing token.
"""

from __future__ import annotations

from dataclasses import dataclass

from cms_oauth.text import printable

# A key is an address (`addresses.MAX_ADDRESS` bytes at most) or a host and a port, and the table's name is a word: Postfix sends
# nothing longer.
MAX_QUERY = 1024

# Longer reasons only fill Postfix's log, which shows them in one line.
MAX_REASON = 300

_LENGTH_DIGITS = len(str(MAX_QUERY))


class BadQuery(ValueError):
    """The bytes are no query. The message never quotes them."""


@dataclass(frozen=True, slots=True)
class Query:
    """What Postfix asks. `table` is the word behind the socket's path in its configuration."""

    table: str
    key: str

    @property
    def sender(self) -> str:
        """The sender that Postfix asks for, "" where it asks for a host."""
        return self.key if "@" in self.key else ""


def take(received: bytes) -> tuple[Query | None, bytes]:
    """Return the first query in these bytes, None while it is not whole, and what comes after it. Raises BadQuery."""
    head, colon, rest = received.partition(b":")
    if len(head) > _LENGTH_DIGITS or not (head.isdigit() or not received):
        raise BadQuery("a query begins with its length")
    if not colon:
        return None, received
    length = int(head)
    if length > MAX_QUERY:
        raise BadQuery(f"a query has at most {MAX_QUERY} bytes")
    if len(rest) <= length:
        return None, received
    if rest[length : length + 1] != b",":
        raise BadQuery("a query ends with a comma")
    return _query(rest[:length]), rest[length + 1 :]


def _query(content: bytes) -> Query:
    # No account has a key that is not UTF-8: with its bytes replaced it is as unknown as before.
    table, space, key = content.decode(errors="replace").partition(" ")
    if not table or not space:
        raise BadQuery("a query is a table, a space and a key")
    return Query(table, key)


def query(table: str, key: str) -> bytes:
    """Return the bytes of a query, as Postfix sends them."""
    return _netstring(f"{table} {key}")


def found(user: str, token: str) -> bytes:
    """Return the reply with a user's token in it, as the lines of a smtp_sasl_password_maps are."""
    return _netstring(f"OK {user}:{token}")


def not_found() -> bytes:
    """Return the reply that makes Postfix look on, and in the end send without a login."""
    return _netstring("NOTFOUND ")


def temporary(reason: str) -> bytes:
    """Return the reply that keeps the message in Postfix's queue; it logs the reason."""
    return _netstring(f"TEMP {printable(reason, MAX_REASON)}")


def permanent(reason: str) -> bytes:
    """Return the reply to a query that would fail again."""
    return _netstring(f"PERM {printable(reason, MAX_REASON)}")


def reply(received: bytes) -> tuple[str, str]:
    """Return the first word of a reply, such as "OK", and its text. Raises ValueError if this is no reply."""
    head, _, rest = received.partition(b":")
    content = rest[: int(head)] if head.isdigit() else b""
    word, space, text = content.decode(errors="replace").partition(" ")
    if not space:
        raise ValueError("a reply is a netstring: a word, a space and a text")
    return word, text


def _netstring(text: str) -> bytes:
    content = text.encode()
    return b"%d:%s," % (len(content), content)
