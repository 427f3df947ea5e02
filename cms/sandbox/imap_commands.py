"""The commands of the sandbox's IMAP server, apart from those that wait for the client.

Each is a function of a client and the words after the command's name. It says what it has to say, and returns the end of
the last line, "" for the usual one.
"""

from __future__ import annotations

import imaplib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cms.sandbox.imap_words import Word, quoted, text, texts
from cms.sandbox.mailboxes import (
    FLAGS,
    SEEN,
    Folder,
    Mailbox,
    Message,
    Unknown,
    fetched,
    in_brackets,
    marks_as_read,
)

CAPABILITIES = "IMAP4rev1 SASL-IR AUTH=XOAUTH2 AUTH=OAUTHBEARER IDLE LITERAL+ UIDPLUS UNSELECT"


class Refused(Exception):
    """A command is answered with this: NO or BAD, and why."""


@dataclass(eq=False)
class Selected:
    """The folder that a client has open, as the client knows it.

    `view` has the messages in the order of their numbers, with the flags that the client knows; `next_uid` is the first
    UID that it has not been told of.
    """

    folder: Folder
    read_only: bool
    view: list[tuple[Message, frozenset[str]]] = field(default_factory=list)
    next_uid: int = 0

    def among(self, words: str, *, by_uid: bool) -> list[int]:
        """Return the numbers of the messages in a set such as `1:3,7,*`; those that are not there are left out."""
        ids = [message.uid if by_uid else number for number, (message, _) in enumerate(self.view, 1)]
        last = ids[-1] if ids else 0
        wanted = set[int]()
        for part in words.split(","):
            ends = [last if end == "*" else int(end) for end in part.split(":")]
            wanted.update(each for each in ids if min(ends) <= each <= max(ends))
        return [number for number, each in enumerate(ids, 1) if each in wanted]

    def message(self, number: int) -> Message:
        """Return the message that has this number for the client."""
        return self.view[number - 1][0]

    def flag(self, number: int, flags: frozenset[str]) -> None:
        """Change a message's flags; this client knows."""
        message = self.message(number)
        message.flags = flags
        self.view[number - 1] = message, flags

    def news(self, *, gone: bool) -> list[str]:
        """Return what the client has to be told; afterwards it knows. Without `gone`, numbers stay what they are."""
        told = []
        if gone:
            left = {message.uid for message in self.folder.messages}
            for number in range(len(self.view), 0, -1):
                if self.message(number).uid not in left:
                    told.append(f"* {number} EXPUNGE")
                    del self.view[number - 1]
        for number, (message, flags) in enumerate(self.view, 1):
            if message.flags != flags:
                told.append(flags_of(number, message))
        self.view = [(message, message.flags) for message, _ in self.view]
        fresh = [(each, each.flags) for each in self.folder.messages if each.uid >= self.next_uid]
        self.next_uid = self.folder.next_uid
        if fresh:
            self.view += fresh
            told.append(f"* {len(self.view)} EXISTS")
        return told


@dataclass(eq=False)
class Client:
    """What is known of a connection. `stir` tells all others that something has changed; `now` is Unix time."""

    write: Callable[[bytes], None]
    stir: Callable[[], None]
    now: Callable[[], float]
    mailbox: Mailbox | None = None
    selected: Selected | None = None

    def say(self, line: str) -> None:
        """Send a line."""
        self.write(f"{line}\r\n".encode())

    def tell_news(self, *, gone: bool = True) -> None:
        """Tell what has changed in the open folder."""
        for line in self.selected.news(gone=gone) if self.selected else ():
            self.say(line)

    def own(self) -> Mailbox:
        """Return the mailbox of who has logged in; raises Refused."""
        if not self.mailbox:
            raise Refused("NO Log in first.")
        return self.mailbox

    def folder(self, name: Word) -> Folder:
        """Return the folder with this name; raises Refused."""
        found = self.own().find(text(name))
        if not found:
            raise Refused("NO [TRYCREATE] There is no such folder.")
        return found

    def opened(self, *, to_change: bool = False) -> Selected:
        """Return the open folder; raises Refused."""
        if not self.selected:
            raise Refused("NO Select a folder first.")
        if to_change and self.selected.read_only:
            raise Refused("NO This folder was opened for reading only.")
        return self.selected


def flags_of(number: int, message: Message) -> str:
    """Return the line that says which flags a message has."""
    return f"* {number} FETCH (UID {message.uid} FLAGS {in_brackets(message.flags)})"


def _capability(client: Client, _words: list[Word]) -> str:
    client.say(f"* CAPABILITY {CAPABILITIES}")
    return ""


def _nothing(_client: Client, _words: list[Word]) -> str:
    return ""


def _list(client: Client, words: list[Word], name: str = "LIST") -> str:
    reference, pattern = map(text, words)
    if not pattern:
        client.say(f'* {name} (\\Noselect) "/" ""')
        return ""
    for each in client.own().like(reference + pattern):
        client.say(f'* {name} () "/" {quoted(each)}')
    return ""


def _lsub(client: Client, words: list[Word]) -> str:
    return _list(client, words, "LSUB")


def _status(client: Client, words: list[Word]) -> str:
    counts = client.folder(words[0]).counts()
    told = " ".join(f"{name} {counts[name]}" for name in map(str.upper, texts(words[1])) if name in counts)
    client.say(f"* STATUS {quoted(text(words[0]))} ({told})")
    return ""


def _select(client: Client, words: list[Word]) -> str:
    return _open(client, words, read_only=False)


def _examine(client: Client, words: list[Word]) -> str:
    return _open(client, words, read_only=True)


def _open(client: Client, words: list[Word], *, read_only: bool) -> str:
    client.selected = None
    folder = client.folder(words[0])
    changeable = "()" if read_only else in_brackets((*FLAGS, "\\*"))
    client.say(f"* FLAGS {in_brackets(FLAGS)}")
    client.say(f"* OK [PERMANENTFLAGS {changeable}] What can be changed.")
    client.say(f"* OK [UIDVALIDITY {folder.validity}] UIDs stay.")
    client.say(f"* OK [UIDNEXT {folder.next_uid}] The next UID.")
    client.say("* 0 RECENT")
    if not folder.messages:
        client.say("* 0 EXISTS")
    client.selected = Selected(folder, read_only)
    client.tell_news()
    return f"[{'READ-ONLY' if read_only else 'READ-WRITE'}] The folder is open."


def _create(client: Client, words: list[Word]) -> str:
    if not client.own().make(text(words[0])):
        raise Refused("NO [ALREADYEXISTS] This folder exists.")
    return ""


def _delete(client: Client, words: list[Word]) -> str:
    if not client.own().remove(text(words[0])):
        raise Refused("NO [NONEXISTENT] There is no such folder to delete.")
    return ""


def _append(client: Client, words: list[Word]) -> str:
    folder = client.folder(words[0])
    *options, content = words[1:]
    if isinstance(content, list):
        raise Refused("BAD A message is no list.")
    flags = next((frozenset(texts(each)) for each in options if isinstance(each, list)), frozenset[str]())
    date = next((each for each in options if isinstance(each, bytes)), b"")
    when = imaplib.Internaldate2tuple(b'INTERNALDATE "%b"' % date)
    message = folder.add(content, time.mktime(when) if when else client.now(), flags)
    client.stir()
    return f"[APPENDUID {folder.validity} {message.uid}] The message is there."


def _close(client: Client, _words: list[Word]) -> str:
    selected = client.opened()
    if not selected.read_only:
        selected.folder.expunge()
        client.stir()
    client.selected = None
    return ""


def _unselect(client: Client, _words: list[Word]) -> str:
    client.opened()
    client.selected = None
    return ""


def _expunge(client: Client, words: list[Word], *, by_uid: bool = False) -> str:
    selected = client.opened(to_change=True)
    among = selected.among(text(words[0]), by_uid=True) if by_uid else None
    selected.folder.expunge(None if among is None else frozenset(selected.message(each).uid for each in among))
    client.tell_news()
    client.stir()
    return ""


def _fetch(client: Client, words: list[Word], *, by_uid: bool = False) -> str:
    selected = client.opened()
    names = fetched(texts(words[1]))
    if by_uid and "UID" not in map(str.upper, names):
        names.insert(0, "UID")
    for number in selected.among(text(words[0]), by_uid=by_uid):
        message = selected.message(number)
        told = dict.fromkeys(names)
        if not selected.read_only and SEEN not in message.flags and any(map(marks_as_read, names)):
            selected.flag(number, message.flags | {SEEN})
            told["FLAGS"] = None
        items = b" ".join(b"%b %b" % (name.encode(), value) for name, value in map(message.item, told))
        client.write(b"* %d FETCH (%b)\r\n" % (number, items))
    return ""


def _store(client: Client, words: list[Word], *, by_uid: bool = False) -> str:
    selected = client.opened(to_change=True)
    how, _, silent = text(words[1]).upper().partition(".")
    named = frozenset(each for word in words[2:] for each in texts(word))
    for number in selected.among(text(words[0]), by_uid=by_uid):
        message = selected.message(number)
        flags = {"FLAGS": named, "+FLAGS": message.flags | named, "-FLAGS": message.flags - named}.get(how)
        if flags is None:
            raise Unknown(f"STORE {how}")
        selected.flag(number, flags)
        if not silent:
            client.say(flags_of(number, message))
    client.stir()
    return ""


def _copy(client: Client, words: list[Word], *, by_uid: bool = False) -> str:
    selected = client.opened()
    folder = client.folder(words[1])
    chosen = [selected.message(number) for number in selected.among(text(words[0]), by_uid=by_uid)]
    copies = [folder.add(each.content, each.when, each.flags) for each in chosen]
    client.stir()
    if not copies:
        return ""
    uids = (",".join(str(each.uid) for each in some) for some in (chosen, copies))
    return f"[COPYUID {folder.validity} {' '.join(uids)}] Copied."


def _uid(client: Client, words: list[Word]) -> str:
    name = text(words[0]).upper()
    if name not in _BY_UID:
        raise Unknown(f"command UID {name}")
    return _BY_UID[name](client, words[1:], by_uid=True)


_BY_UID = {"FETCH": _fetch, "STORE": _store, "COPY": _copy, "EXPUNGE": _expunge}

COMMANDS: Mapping[str, Callable[[Client, list[Word]], str]] = {
    "CAPABILITY": _capability,
    "NOOP": _nothing,
    "LIST": _list,
    "LSUB": _lsub,
    "SUBSCRIBE": _nothing,
    "UNSUBSCRIBE": _nothing,
    "STATUS": _status,
    "SELECT": _select,
    "EXAMINE": _examine,
    "CREATE": _create,
    "DELETE": _delete,
    "APPEND": _append,
    "CHECK": _nothing,
    "CLOSE": _close,
    "UNSELECT": _unselect,
    "EXPUNGE": _expunge,
    "FETCH": _fetch,
    "STORE": _store,
    "COPY": _copy,
    "UID": _uid,
}

# While a client asks for messages by their numbers, these stay what they are (RFC 3501, 7.4.1).
KEEP_NUMBERS = frozenset(("FETCH", "STORE", "UID"))
