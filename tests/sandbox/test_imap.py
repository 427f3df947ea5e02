"""The IMAP server, driven by imaplib, and by lines that imaplib does not send."""

from __future__ import annotations

import email
import imaplib
import re
import smtplib
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from support.waiting import PATIENCE

from cms.sandbox.directory import EXCHANGE
from cms.sandbox.entra import Entra
from cms.sandbox.imap import LINE, Imap
from cms.sandbox.mail_server import MailLogin
from cms.sandbox.submission import Submission
from cms_oauth import sasl

A, B, SHARED, NOBODY = "a@example.test", "b@example.test", "shared@example.test", "nobody@example.test"
FORMS = {"XOAUTH2": sasl.xoauth2, "OAUTHBEARER": sasl.oauthbearer}
UNREADABLE = "BAD The sandbox cannot read this command."
LETTER = b"Subject: hello\r\nFrom: B <b@example.test>\r\nX-Long: one\r\n two\r\n\r\nIt works.\r\n"


@pytest.fixture(scope="module")
def entra() -> Iterator[Entra]:
    with Entra([B, NOBODY], token_size=4096) as entra:
        entra.add_user(A, [SHARED])
        yield entra


@pytest.fixture
def server(entra: Entra) -> Iterator[Imap]:
    with Imap(entra.introspect, entra.cert_file, users=(A, B, SHARED)) as server:
        yield server


def log_in(entra: Entra, server: Imap, user: str, mechanism: str, token: str) -> imaplib.IMAP4_SSL:
    """Raises imaplib.IMAP4.error."""
    context = ssl.create_default_context(cafile=entra.ca_file)
    client = imaplib.IMAP4_SSL("localhost", server.port, ssl_context=context, timeout=PATIENCE)
    try:
        client.authenticate(mechanism, lambda _challenge: FORMS[mechanism](user, token).encode())
    except imaplib.IMAP4.error:
        client.shutdown()
        raise
    return client


class Wire:
    """A client that sends what it is told."""

    def __init__(self, entra: Entra, server: Imap) -> None:
        context = ssl.create_default_context(cafile=entra.ca_file)
        plain = socket.create_connection(("localhost", server.port), timeout=PATIENCE)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._file = self._socket.makefile("rwb")
        self.line()

    def line(self) -> str:
        """Return the next line. Raises EOFError."""
        line = self._file.readline()
        if not line:
            raise EOFError
        return line.decode().removesuffix("\r\n")

    def say(self, text: str) -> None:
        self._file.write(f"{text}\r\n".encode())
        self._file.flush()

    def answer(self) -> list[str]:
        """Return the lines of an answer, the last one without the tag."""
        lines = [self.line()]
        while not lines[-1].startswith("t "):
            lines.append(self.line())
        return [*lines[:-1], lines[-1].removeprefix("t ")]

    def ask(self, command: str) -> list[str]:
        self.say(f"t {command}")
        return self.answer()

    def log_in(self, entra: Entra, user: str = A) -> None:
        """Log in in one line, as clients do that know SASL-IR (RFC 4959)."""
        credential = sasl.encode(sasl.xoauth2(user, entra.issue(user)))
        assert self.ask(f"AUTHENTICATE XOAUTH2 {credential}")[-1].startswith("OK")

    def append(self, *before: str) -> str:
        """Put the letter into a folder; return the answer."""
        self.say(f"t APPEND {' '.join(before)} {{{len(LETTER)}+}}")
        self.say(LETTER.decode())
        return self.answer()[-1]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def wire(entra: Entra, server: Imap) -> Iterator[Wire]:
    """Nobody yet."""
    wire = Wire(entra, server)
    yield wire
    wire.close()


@pytest.fixture
def inbox(wire: Wire, entra: Entra) -> Wire:
    """A, with the INBOX open."""
    wire.log_in(entra)
    assert "* 1 EXISTS" in wire.ask("SELECT inbox")
    return wire


@pytest.mark.parametrize("mechanism", FORMS)
def test_the_welcome_is_read(entra: Entra, server: Imap, mechanism: str) -> None:
    """A 4 KB token of the named user's opens the mailbox, with a message that says where one is."""
    client = log_in(entra, server, A, mechanism, entra.issue(A))
    status, count = client.select()
    data: Any = client.fetch("1", "(BODY[])")[1]
    client.logout()

    message = email.message_from_bytes(data[0][1])
    assert ("OK", [b"1"]) == (status, count)
    assert ("Welcome to the sandbox of cms", A) == (message["Subject"], message["To"])
    assert [MailLogin(mechanism, A, accepted=True)] == server.logins


@pytest.mark.parametrize(
    ("users", "scope", "life"),
    [
        ((B, A), "IMAP.AccessAsUser.All", 60),
        ((A, A), "SMTP.Send", 60),
        ((A, A), "IMAP.AccessAsUser.All", -1),
        ((NOBODY, NOBODY), "IMAP.AccessAsUser.All", 60),
    ],
    ids=["another user's", "for SMTP", "expired", "no mailbox"],
)
def test_a_token_that_does_not_count(
    entra: Entra, server: Imap, users: tuple[str, str], scope: str, life: float
) -> None:
    """Is refused as Exchange does it."""
    user, owner = users
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATE failed"):
        log_in(entra, server, user, "XOAUTH2", entra.issue(owner, [f"{EXCHANGE}/{scope}"], life))


def test_a_shared_mailbox(entra: Entra, server: Imap) -> None:
    """Is opened with the token of a person who may."""
    client = log_in(entra, server, SHARED, "XOAUTH2", entra.issue(A))

    assert ("OK", [b"1"]) == client.select()
    client.logout()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("SELECT INBOX", "NO Log in first."),
        ("IDLE", "NO Log in first."),
        ("FETCH 1 FLAGS", "NO Select a folder first."),
        ("LOGIN a b", "BAD The sandbox has no command LOGIN."),
        ("AUTHENTICATE PLAIN", "NO The sandbox takes only tokens, by XOAUTH2 or OAUTHBEARER."),
        ("AUTHENTICATE XOAUTH2 !!!", UNREADABLE),
        (f"AUTHENTICATE XOAUTH2 {b64encode(b'user=a').decode()}", UNREADABLE),
        (f"AUTHENTICATE OAUTHBEARER {b64encode(b'n,a=a').decode()}", UNREADABLE),
        ("SELECT", UNREADABLE),
        ('SELECT "INBOX', UNREADABLE),
        ("LIST (", UNREADABLE),
    ],
)
def test_before_the_login(wire: Wire, command: str, said: str) -> None:
    """There is no mail, and what cannot be read is said; the connection goes on."""
    assert said == wire.ask(command)[-1]
    assert "OK NOOP completed." == wire.ask("NOOP")[-1]


@pytest.mark.parametrize(("line", "tag"), [("", "*"), ("t", "t")])
def test_half_a_command(wire: Wire, line: str, tag: str) -> None:
    """Is answered too, with its tag if there is one."""
    wire.say(line)

    assert f"{tag} {UNREADABLE}" == wire.line()


def test_a_login_that_is_cancelled(wire: Wire) -> None:
    """By `*`, as RFC 3501 has it."""
    wire.say("t AUTHENTICATE XOAUTH2")
    challenge = wire.line()
    wire.say("*")

    assert ("+ ", "t BAD Cancelled.") == (challenge, wire.line())


def test_flags(inbox: Wire) -> None:
    """To read a message marks it, to peek does not; flags are set, added and removed."""
    inbox.ask("FETCH 1 BODY.PEEK[HEADER.FIELDS (SUBJECT)]")
    peeked = inbox.ask("FETCH 1 FLAGS")
    read = inbox.ask("FETCH 1 BODY[TEXT]")
    changed = [
        inbox.ask(f"STORE 1 {each}")[0]
        for each in ("+FLAGS (\\Flagged)", "-FLAGS \\Seen", "FLAGS (Own \\Answered)", "FLAGS.SILENT ()")
    ]

    assert "* 1 FETCH (FLAGS ())" == peeked[0]
    assert " FLAGS (\\Seen))" == read[-2]
    assert [
        "* 1 FETCH (UID 1 FLAGS (\\Flagged \\Seen))",
        "* 1 FETCH (UID 1 FLAGS (\\Flagged))",
        "* 1 FETCH (UID 1 FLAGS (Own \\Answered))",
        "OK STORE completed.",
    ] == changed


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("RFC822.SIZE", str(len(LETTER))),
        ("BODY[]", LETTER),
        ("rfc822", LETTER),
        ("RFC822.HEADER", LETTER.partition(b"It")[0]),
        ("BODY.PEEK[TEXT]", b"It works.\r\n"),
        ("BODY[TEXT]<3.5>", b"works"),
        ("BODY[HEADER.FIELDS (x-long)]", b"X-Long: one\r\n two\r\n\r\n"),
        ("BODY[HEADER.FIELDS.NOT (FROM X-LONG)]", b"Subject: hello\r\n\r\n"),
    ],
)
def test_what_there_is_of_a_message(inbox: Wire, item: str, told: str | bytes) -> None:
    """Header, text, fields and pieces, by their names, and its size."""
    inbox.append("INBOX", "(\\Seen)")
    inbox.ask("NOOP")

    name = re.sub(r"(?<=<\d)\.\d", "", item.replace(".PEEK", ""))
    name = name if "[" in name else name.upper()
    value = told if isinstance(told, str) else f"{{{len(told)}}}\r\n{told.decode()}"
    assert f"* 2 FETCH ({name} {value})" == "\r\n".join(inbox.ask(f"FETCH 2 ({item})")[:-1])


def test_the_usual_items(inbox: Wire) -> None:
    """FAST stands for flags, date and size; a UID comes with them where messages are named by it."""
    inbox.append("INBOX", '"30-Nov-2026 12:00:00 +0000"')
    inbox.ask("NOOP")

    assert re.fullmatch(
        r'\* 2 FETCH \(UID 2 FLAGS \(\) INTERNALDATE "(29|30|01)-(Nov|Dec)-2026 .*" RFC822.SIZE \d+\)',
        inbox.ask("UID FETCH 2 FAST")[0],
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("FETCH 1 ENVELOPE", "BAD The sandbox has no ENVELOPE of a message."),
        ("FETCH 1 BODY[1]", "BAD The sandbox has no BODY[1]."),
        ("FETCH x FLAGS", UNREADABLE),
        ("STATUS (INBOX) (MESSAGES)", UNREADABLE),
        ("UID SEARCH ALL", "BAD The sandbox has no command UID SEARCH."),
        ("STORE 1 =FLAGS (x)", "BAD The sandbox has no STORE =FLAGS."),
        ("SELECT Elsewhere", "NO [TRYCREATE] There is no such folder."),
        ("COPY 1 Elsewhere", "NO [TRYCREATE] There is no such folder."),
        ("CREATE inbox", "NO [ALREADYEXISTS] This folder exists."),
        ("DELETE INBOX", "NO [NONEXISTENT] There is no such folder to delete."),
        ("APPEND INBOX (x) (y)", "BAD A message is no list."),
    ],
)
def test_what_there_is_not(inbox: Wire, command: str, said: str) -> None:
    """Is said, and the connection goes on."""
    assert said == inbox.ask(command)[-1]
    assert "OK NOOP completed." == inbox.ask("NOOP")[-1]


def test_folders(inbox: Wire) -> None:
    """Are made, listed, counted and removed."""
    made = inbox.ask("CREATE Other/Deep")
    lists = [
        [line.rpartition(" ")[2] for line in inbox.ask(f'LIST "" {each}')[:-1]] for each in ('"*"', "%", "Other/%")
    ]
    root = inbox.ask('LSUB "" ""')
    inbox.append("Other/Deep")

    assert "OK CREATE completed." == made[-1]
    assert [['"INBOX"', '"Other/Deep"'], ['"INBOX"'], ['"Other/Deep"']] == lists
    assert '* LSUB (\\Noselect) "/" ""' == root[0]
    assert '* STATUS "Other/Deep" (MESSAGES 1 UIDNEXT 2)' == inbox.ask("STATUS Other/Deep (MESSAGES UIDNEXT SIZE)")[0]
    assert ["OK", "NO"] == [inbox.ask("DELETE Other/Deep")[-1][:2] for _ in range(2)]


def test_messages_are_copied_and_removed(inbox: Wire) -> None:
    """By their UIDs, with the answers of UIDPLUS (RFC 4315)."""
    inbox.ask("CREATE Other")
    appended = inbox.append("Other", "(\\Seen)")
    copied = inbox.ask("UID COPY 1 Other")
    nothing = inbox.ask("UID COPY 7 Other")
    inbox.ask("SELECT Other")
    inbox.ask("UID STORE 1:* +FLAGS.SILENT (\\Deleted)")

    assert "OK [APPENDUID 2 1] The message is there." == appended
    assert ["OK [COPYUID 2 1 2] Copied."] == copied
    assert ["OK UID completed."] == nothing
    assert ["* 2 EXPUNGE"] == inbox.ask("UID EXPUNGE 2")[:-1]
    assert ["* 1 EXPUNGE"] == inbox.ask("EXPUNGE")[:-1]
    assert ["OK UNSELECT completed."] == inbox.ask("UNSELECT")
    assert ["NO Select a folder first."] == inbox.ask("EXPUNGE")


def test_a_folder_for_reading(inbox: Wire) -> None:
    """EXAMINE changes nothing; to close a folder that can be changed removes what is marked."""
    inbox.ask("EXAMINE INBOX")
    inbox.ask("FETCH 1 BODY[]")
    flags = inbox.ask("FETCH 1 FLAGS")
    refused = inbox.ask("STORE 1 +FLAGS (\\Deleted)")
    inbox.ask("CLOSE")
    inbox.ask("SELECT INBOX")
    inbox.ask("STORE 1 +FLAGS (\\Deleted)")
    inbox.ask("CLOSE")

    assert "* 1 FETCH (FLAGS ())" == flags[0]
    assert ["NO This folder was opened for reading only."] == refused
    assert "* 0 EXISTS" in inbox.ask("SELECT INBOX")


def test_mail_arrives(entra: Entra, server: Imap, wire: Wire) -> None:
    """What is sent to an account of the sandbox is told to a client that waits; what goes elsewhere is not here."""
    wire.log_in(entra, B)
    wire.ask("SELECT INBOX")
    wire.say("t IDLE")
    begun = wire.line()
    with Submission(entra.introspect, entra.cert_file, deliver=server.deliver) as submission:
        sender = smtplib.SMTP("localhost", submission.port, timeout=PATIENCE)
        sender.starttls(context=ssl.create_default_context(cafile=entra.ca_file))
        sender.ehlo()
        sender.auth("XOAUTH2", lambda _challenge=None: sasl.xoauth2(A, entra.issue(A)))
        sender.sendmail(A, [B.upper(), "someone@elsewhere.test"], LETTER.decode())
        sender.close()
    told = wire.line()
    wire.say("DONE")
    ended = wire.line()
    first, second, *rest = wire.ask("FETCH 2 (BODY.PEEK[])")

    assert ("+", "* 2 EXISTS", "t OK IDLE completed.") == (begun[0], told, ended)
    assert "* 2 FETCH (BODY[] {" == first.rstrip("0123456789}")
    assert f"Return-Path: <{A}>" == second
    assert "It works." in rest


def test_an_idle_that_ends_otherwise(inbox: Wire) -> None:
    """Only DONE ends it."""
    inbox.say("t IDLE")
    inbox.line()
    inbox.say("t NOOP")

    assert "t BAD Only DONE ends IDLE." == inbox.line()


def test_two_clients(inbox: Wire, entra: Entra, server: Imap) -> None:
    """What one changes, the other is told; while it asks for messages by their numbers, these stay."""
    other = Wire(entra, server)
    other.log_in(entra)
    other.ask("SELECT INBOX")
    other.append("INBOX")
    other.ask("STORE 1 +FLAGS (\\Deleted)")
    told = inbox.ask("UID FETCH 1 (UID)")
    other.ask("EXPUNGE")
    still = inbox.ask("FETCH 2 (FLAGS)")
    gone = inbox.ask("NOOP")
    other.close()

    assert ["* 1 FETCH (UID 1)", "* 1 FETCH (UID 1 FLAGS (\\Deleted))", "* 2 EXISTS"] == told[:-1]
    assert ["* 2 FETCH (FLAGS ())"] == still[:-1]
    assert ["* 1 EXPUNGE"] == gone[:-1]


def test_a_command_of_a_stranger_costs_no_memory(wire: Wire) -> None:
    """Who has not logged in may send no message, and no lists without end."""
    assert [UNREADABLE] == wire.ask("NOOP " + 20_000 * "(")
    half = LINE // 2
    wire.say(f"t LOGIN {{{half}+}}")
    wire.say(f"{half * 'x'} {{{half}+}}")

    with pytest.raises((EOFError, OSError)):
        wire.line()


@pytest.mark.parametrize("plus", ["", "+"])
def test_literals(inbox: Wire, plus: str) -> None:
    """A message and a folder's name come as literals, asked for or not."""
    asked = []
    for line in (f"t APPEND {{5{plus}}}", f"INBOX (\\Seen) {{3{plus}}}"):
        inbox.say(line)
        asked += [] if plus else [inbox.line()]
    inbox.say("a b")

    assert ([] if plus else ["+ Go on."] * 2) == asked
    assert ["* 2 EXISTS", "t OK [APPENDUID 1 2] The message is there."] == [inbox.line(), inbox.line()]


@pytest.mark.parametrize("line", ["x" * 70_000, "t APPEND INBOX {99999999999}"], ids=["line", "message"])
def test_what_is_too_long(inbox: Wire, line: str) -> None:
    """Ends the connection."""
    inbox.say(line)

    with pytest.raises((EOFError, ConnectionError)):
        inbox.line()


def test_stop_ends_sessions(entra: Entra) -> None:
    """Stop closes connections that say nothing, and one that waits for news."""
    with Imap(entra.introspect, entra.cert_file, users=(A,)) as server:
        silent, waits = Wire(entra, server), Wire(entra, server)
        waits.log_in(entra)
        waits.say("t IDLE")
        waits.line()

    for each in (silent, waits):
        with pytest.raises((EOFError, ConnectionError)):
            each.line()
        each.close()
