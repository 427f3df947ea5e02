"""The mail that the sandbox's IMAP server has: folders, their messages, and what a client can ask of one message.

Plain state without a connection. Times are Unix seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from imaplib import Time2Internaldate

INBOX = "INBOX"

SEEN, DELETED = "\\Seen", "\\Deleted"

# RFC 3501, 2.3.2. Clients may invent others.
FLAGS = ("\\Answered", "\\Flagged", DELETED, SEEN, "\\Draft")

_FAST = ("FLAGS", "INTERNALDATE", "RFC822.SIZE")
_BODY = re.compile(r"BODY(?P<peek>\.PEEK)?\[(?P<section>[^\]]*)\](?:<(?P<first>\d+)\.(?P<many>\d+)>)?", re.IGNORECASE)
_FIELDS = re.compile(r"HEADER\.FIELDS(?P<others>\.NOT)? \((?P<names>[^)]*)\)", re.IGNORECASE)
_OLD_NAMES = {"RFC822": "BODY[]", "RFC822.HEADER": "BODY.PEEK[HEADER]", "RFC822.TEXT": "BODY[TEXT]"}

# A field of a header, with the lines that continue it.
_FIELD = re.compile(rb"([^\s:]+):.*\r\n(?:[ \t].*\r\n)*")


class Unknown(Exception):
    """A client asks for what the sandbox does not have. The text names it."""


@dataclass(eq=False)
class Message:
    """One message in one folder."""

    uid: int
    content: bytes = field(repr=False)
    when: float
    flags: frozenset[str] = frozenset()

    def item(self, name: str) -> tuple[str, bytes]:
        """Return what FETCH answers for an item: its name there, and its value. Raises Unknown."""
        plain = {
            "UID": str(self.uid),
            "FLAGS": in_brackets(self.flags),
            "INTERNALDATE": Time2Internaldate(self.when),
            "RFC822.SIZE": str(len(self.content)),
        }
        if name.upper() in plain:
            return name.upper(), plain[name.upper()].encode()
        found = _BODY.fullmatch(_OLD_NAMES.get(name.upper(), name))
        if not found:
            raise Unknown(f"{name} of a message")
        part = self._section(found["section"])
        told = name.upper() if name.upper() in _OLD_NAMES else f"BODY[{found['section']}]"
        if found["first"]:
            first = int(found["first"])
            part, told = part[first : first + int(found["many"])], f"{told}<{first}>"
        return told, b"{%d}\r\n%b" % (len(part), part)

    def _section(self, section: str) -> bytes:
        header, empty, text = self.content.partition(b"\r\n\r\n")
        header += empty or b"\r\n\r\n"
        whole = {"": self.content, "HEADER": header, "TEXT": text}
        if section.upper() in whole:
            return whole[section.upper()]
        found = _FIELDS.fullmatch(section)
        if not found:
            raise Unknown(f"BODY[{section}]")
        names = {each.strip('"').upper().encode() for each in found["names"].split()}
        wanted = (each[0] for each in _FIELD.finditer(header) if (each[1].upper() in names) != bool(found["others"]))
        return b"".join(wanted) + b"\r\n"


def fetched(names: list[str]) -> list[str]:
    """Return the items that these stand for."""
    return [item for name in names for item in (_FAST if name.upper() == "FAST" else (name,))]


def marks_as_read(name: str) -> bool:
    """True if to fetch this item is to have read the message."""
    found = _BODY.fullmatch(_OLD_NAMES.get(name.upper(), name))
    return found is not None and not found["peek"]


def in_brackets(flags: frozenset[str] | tuple[str, ...]) -> str:
    """Return flags as IMAP lists them."""
    return f"({' '.join(sorted(flags))})"


@dataclass(eq=False)
class Folder:
    """A folder. `validity` changes when a folder with the name of an earlier one is made."""

    validity: int
    messages: list[Message] = field(default_factory=list)
    next_uid: int = 1

    def add(self, content: bytes, when: float, flags: frozenset[str] = frozenset()) -> Message:
        """Put a message in."""
        self.messages.append(Message(self.next_uid, content, when, flags))
        self.next_uid += 1
        return self.messages[-1]

    def expunge(self, among: frozenset[int] | None = None) -> None:
        """Remove what is marked as deleted, all of it or what has one of these UIDs."""
        self.messages = [
            each for each in self.messages if DELETED not in each.flags or (among is not None and each.uid not in among)
        ]

    def counts(self) -> dict[str, int]:
        """Return what STATUS can ask for."""
        return {
            "MESSAGES": len(self.messages),
            "RECENT": 0,
            "UIDNEXT": self.next_uid,
            "UIDVALIDITY": self.validity,
            "UNSEEN": sum(SEEN not in each.flags for each in self.messages),
        }


class Mailbox:
    """All folders of an account. INBOX is always there; names of its letters in any case mean it."""

    def __init__(self) -> None:
        self._made = 1
        self.folders = {INBOX: Folder(self._made)}

    def find(self, name: str) -> Folder | None:
        """Return a folder."""
        return self.folders.get(_known(name))

    def make(self, name: str) -> bool:
        """Make a folder. False if there is one."""
        if self.find(name):
            return False
        self._made += 1
        self.folders[_known(name.rstrip("/"))] = Folder(self._made)
        return True

    def remove(self, name: str) -> bool:
        """Remove a folder. False for INBOX, and if there is none."""
        return _known(name) != INBOX and self.folders.pop(_known(name), None) is not None

    def like(self, pattern: str) -> Iterator[str]:
        """Yield the names that fit a pattern of LIST: `*` stands for anything, `%` for anything without a `/`."""
        shape = "".join({"*": ".*", "%": "[^/]*"}.get(each) or re.escape(each) for each in _known(pattern))
        return (name for name in self.folders if re.fullmatch(shape, name))


def _known(name: str) -> str:
    return INBOX if name.upper() == INBOX else name
