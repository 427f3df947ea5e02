"""contrib/graph-sendmail as a program: against the sandbox's Graph, with tokens from a stand-in for cms-oauth."""

from __future__ import annotations

import base64
import json
import os
import pwd
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.utils import getaddresses
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.waiting import PATIENCE

from cms.sandbox.directory import APP_ID, Client
from cms.sandbox.entra import Entra
from cms.sandbox.faults import Fault
from cms.sandbox.graph import Posted
from cms.sandbox.web import WebReply, WebRequest, as_json, redirect

SCRIPT = ROOT / "contrib" / "graph-sendmail"
USER, READER, OTHER, SHARED = "user@domain.com", "reader@domain.com", "other@domain.com", "shared@domain.com"
GRAPH = "https://graph.microsoft.com"
SEND, SEND_SHARED = f"{GRAPH}/Mail.Send", f"{GRAPH}/Mail.Send.Shared"
LOGIN = pwd.getpwuid(os.geteuid()).pw_name
# Three quarters of Graph's 4 MB.
MOST = 3 * 1024 * 1024

# Prints what lies ready for a first token and for another one, and fails as cms-oauth does where nothing does.
CMS_OAUTH = """#!/bin/sh
folder=$(dirname "$0")
echo "$*" >>"$folder/asked"
case "$*" in *--rejected*) cat >"$folder/rejected"; ready=$folder/another ;; *) ready=$folder/token ;; esac
cat "$ready" 2>/dev/null || { echo "cms-oauth: there is none (unavailable) - run: cms status" >&2; exit 75; }
"""


class RecordingEntra(Entra):
    """The sandbox; it keeps the paths that it was asked for, and can answer a message with something else."""

    instead: WebReply | None = None

    def __init__(self, users: Iterable[str]) -> None:
        self.paths: list[str] = []
        super().__init__(users)

    def answer(self, request: WebRequest) -> WebReply:
        self.paths.append(request.path)
        if self.instead is not None and request.path.endswith("/sendMail"):
            return self.instead
        return super().answer(request)


@dataclass
class Sender:
    """Runs the script."""

    folder: Path
    entra: RecordingEntra

    def hold(self, name: str, token: str, user: str = USER) -> str:
        """Let cms have a token: "token" for the first, "another" for the next; return it."""
        (self.folder / name).write_text(json.dumps({"version": 1, "user": user, "token": token}))
        return token

    def run(self, *words: str, text: bytes | str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run it with these words and this standard input."""
        done = subprocess.run(
            [sys.executable, SCRIPT, f"--graph={self.entra.authority}", *words],
            input=text if isinstance(text, bytes) else text.encode(),
            env={"PATH": f"{self.folder}:/usr/bin:/bin", "SSL_CERT_FILE": self.entra.ca_file, **environment},
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        for token in (each.read_text() for each in self.folder.iterdir() if each.name in ("token", "another")):
            assert json.loads(token)["token"].encode() not in done.stdout + done.stderr
        return done

    def sent(self, *words: str, text: bytes | str = "", **environment: str) -> Posted:
        """Run it, and return the one message that Graph has accepted."""
        before = len(self.entra.graph.messages)
        done = self.run(*words, text=text, **environment)
        assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
        assert before + 1 == len(self.entra.graph.messages)
        return self.entra.graph.messages[-1]

    def refused(self, status: int, *words: str, text: bytes | str = "", **environment: str) -> str:
        """Run it, and return its only line, which says why nothing was sent."""
        before = len(self.entra.graph.messages)
        done = self.run(*words, text=text, **environment)
        said = done.stderr.decode()
        line = said.splitlines()[-1]
        assert (status, b"", before) == (done.returncode, done.stdout, len(self.entra.graph.messages)), said
        assert line.startswith("graph-sendmail: ")
        assert line.isprintable()
        return line


@pytest.fixture(scope="module")
def entra() -> Iterator[RecordingEntra]:
    with RecordingEntra([READER]) as entra:
        entra.add_user(USER, [SHARED])
        entra.add_user(SHARED)
        yield entra
        entra.faults.clear()


@pytest.fixture
def sender(entra: RecordingEntra, tmp_path: Path) -> Sender:
    """With a token that may send."""
    program = tmp_path / "cms-oauth"
    program.write_text(CMS_OAUTH)
    program.chmod(0o755)
    made = Sender(tmp_path, entra)
    made.hold("token", entra.issue(USER, [SEND]))
    return made


def letter(to: str = f"To: {READER}\n", body: str = "hello\n", sender: str = f"From: {USER}\n") -> str:
    return f"{sender}{to}Subject: test\n\n{body}"


def header(posted: Posted, name: str) -> str | None:
    return message_from_bytes(posted.content)[name]


CALLS = {
    "git send-email": ["-i", READER],
    "mutt": ["-oem", "-oi", "-f", USER, "--", READER],
    "mutt, DSN": ["-N", "failure,delay", "-R", "hdrs", "--", READER],
    "Emacs": ["-oi", "-f", USER, "-oem", "-odb", "-t"],
    "PHP": ["-t", "-i"],
    "combined": ["-ti"],
    "combined with a value": ["-itf", USER],
    "attached": ["-tf" + USER],
    "bsd-mailx": ["-i", "-t", "-f", USER],
    "mailutils": ["-oi", "-f", f"root@{os.uname().nodename}", "-t"],
    "at": ["-i", READER],
    "s-nail": ["-i", "-r", USER, "--", READER],
    "a list": [f"<{READER}>, {READER.upper()}"],
    "old options": ["-bm", "-v", "-m", "-n", "-s", "-U", "-G", "-e", "m", "-h", "5", "-V", "id", "-L", "tag", READER],
    "options by name": ["-O", "QueueDirectory=/nowhere", "-OIgnoreDots", "-B8BITMIME", "-Ac", "-X", "/x", READER],
    "own options": ["--user", USER, "--cms-sock=/run/cms.sock", READER],
}


@pytest.mark.parametrize("words", CALLS.values(), ids=CALLS)
def test_callers_are_understood(sender: Sender, words: list[str]) -> None:
    """Mail programs call sendmail in many ways; each sends this message to the reader, once, from the mailbox."""
    posted = sender.sent(*words, text=letter())

    assert (USER, USER, (READER,)) == (posted.user, posted.sender, posted.recipients)
    assert "To: reader@domain.com\nSubject: test\n\nhello\n" == posted.content.decode().partition("\n")[2]


REFUSED = {
    "-bs": "speaks SMTP",
    "-bp": "shows a queue",
    "-bd": "waits for SMTP connections",
    "-bv": "checks addresses",
    "-bi": "rebuilds the aliases",
    "-bz": "is not possible",
    "-q": "runs a queue",
    "-q15m": "runs a queue",
    "-Z": "unknown option -Z",
    "--nonsense": "unknown option --nonsense",
    "--user=": "--user is empty",
    "--graph=http://graph.microsoft.com": "no token goes elsewhere",
    "--graph=https:///v1.0": "no token goes elsewhere",
    "--graph=https://[graph": "no token goes elsewhere",
    "--graph=https://graph:port": "no token goes elsewhere",
    "--graph=https://graph .example": "no token goes elsewhere",
    "-f": "-f needs a value",
    "-i": "no recipient",
    "--": "no recipient",
}


@pytest.mark.parametrize(("word", "why"), REFUSED.items())
def test_what_cannot_be_done_is_a_usage_error(sender: Sender, word: str, why: str) -> None:
    """EX_USAGE, before anything is read, and a sentence that says what is wrong; cms is not asked."""
    assert why in sender.refused(os.EX_USAGE, word, text=letter())
    assert not (sender.folder / "asked").exists()


def test_options_end_at_the_first_recipient(sender: Sender) -> None:
    """As in sendmail: what follows is an address, so a caller's unchecked address cannot redirect the token."""
    said = sender.refused(os.EX_NOUSER, READER, "--graph=https://evil.example", text=letter())

    assert "evil.example is not an address" in said


def test_help(sender: Sender) -> None:
    """--help tells the options, and sends nothing."""
    done = sender.run("--help", text=letter())

    assert (0, b"") == (done.returncode, done.stderr)
    assert b"--user=USER" in done.stdout


def test_cms_is_asked_for_the_account_that_is_named(sender: Sender) -> None:
    """The options go on to cms-oauth; without them it is the only account, at the usual place."""
    sender.sent("--user=user@domain.com", "--cms_sock=/run/x.sock", READER, text=letter())
    sender.sent(READER, text=letter())

    first, second = (sender.folder / "asked").read_text().splitlines()
    assert "--proto=GRAPH --output=json --user=user@domain.com --cms_sock=/run/x.sock" == first
    assert "--proto=GRAPH --output=json" == second


@pytest.mark.parametrize("words", [["-t", "-i"], ["-t", "-oi"], ["-t", "-O", "IgnoreDots=True"]])
def test_a_lone_dot_stays(sender: Sender, words: list[str]) -> None:
    """With -i or its other spellings; leading dots are never touched."""
    posted = sender.sent(*words, text=letter(body="one\n.\n..\n.two\n"))

    assert posted.content.endswith(b"\n\none\n.\n..\n.two\n")


def test_a_lone_dot_ends_the_message(sender: Sender) -> None:
    """Without -i, as a person types it; with CRLF too."""
    for end in (".\n", ".\r\n"):
        assert sender.sent("-t", text=letter(body=f"one\n{end}two\n")).content.endswith(b"\n\none\n")


def test_bcc_is_sent_to_and_not_shown(sender: Sender) -> None:
    """With -t each of To, Cc and Bcc gets it; the Bcc lines, continued ones too, are gone from what they get."""
    to = f"To: {READER}\nCc: A <a@x.example>\nBcc: B <b@x.example>,\n c@x.example\nBCC : {OTHER}\n"

    posted = sender.sent("-t", text=letter(to))

    assert {READER, "a@x.example", "b@x.example", "c@x.example", OTHER} == set(posted.recipients)
    assert b"b@x.example" not in posted.content
    assert b"c@x.example" not in posted.content
    assert b"bcc" not in posted.content.lower()


def test_without_t_only_the_command_line_counts(sender: Sender) -> None:
    """A Bcc in the message is neither sent to nor shown; recipients that no field shows are sent to blindly."""
    posted = sender.sent(READER, OTHER, text=letter(f"To: {READER}\nBcc: secret@x.example\n"))

    assert {READER, OTHER} == set(posted.recipients)
    assert b"secret" not in posted.content
    assert OTHER.encode() not in posted.content


def test_with_t_recipients_are_added(sender: Sender) -> None:
    """Those of the command line get it beside those of the message, as with Postfix."""
    posted = sender.sent("-t", OTHER, text=letter())

    assert {READER, OTHER} == set(posted.recipients)


MISMATCHES = {
    "a bounced message": ([OTHER], f"To: {READER}\nResent-To: {OTHER}\n"),
    "a list": (["member@x.example"], "To: list@x.example\n"),
    "half of Cc": ([READER], f"To: {READER}\nCc: {OTHER}\n"),
    "-t and Resent-": (["-t"], f"To: {READER}\nResent-To: {OTHER}\n"),
}


@pytest.mark.parametrize(("words", "to"), MISMATCHES.values(), ids=MISMATCHES)
def test_nobody_gets_a_message_who_was_not_to(sender: Sender, words: list[str], to: str) -> None:
    """Graph sends to everybody in To and Cc, so a message that shows others is refused, and they are named."""
    said = sender.refused(os.EX_DATAERR, *words, text=letter(to))

    assert "Graph sends to every address in To and Cc, so" in said
    assert any(each in said for each in (READER, OTHER, "list@x.example"))


@pytest.mark.parametrize(
    "header",
    [
        f"To: {READER},",
        f"To: {READER} <{READER}>",
        f"To: ann@elsewhere.example <{READER}>, {USER} <{USER}>",
        f"To: {USER}\nCc: {READER} ,",
        f"To: friends: {READER};",
        f'To: "Doe, J." <{READER}>',
    ],
)
def test_addresses_as_sendmail_takes_them(sender: Sender, header: str) -> None:
    """A comma too many, an address in the place of a name, a group: nobody is left out."""
    assert READER in sender.sent("-t", text=letter(f"{header}\n")).recipients


@pytest.mark.parametrize("value", [f"{READER};{OTHER}", f"[{READER}]", f"Ann ({READER}", f"<@a,@b:{READER}>"])
@pytest.mark.parametrize("name", ["To", "Cc", "Bcc"])
def test_addresses_that_cannot_be_read(sender: Sender, name: str, value: str) -> None:
    """They are shown, and nothing is sent: not to the others either."""
    said = sender.refused(os.EX_DATAERR, "-t", text=letter(f"To: {USER}\n{name}: {value}\n"))

    assert f"these addresses cannot be read: {value}; write each as" in said


def test_a_resent_message_whose_readers_agree_is_sent(sender: Sender) -> None:
    """-t takes the Resent- fields if there are any; what they say of blind copies is gone."""
    to = f"To: {READER}\nResent-From: {USER}\nResent-To: {READER}\nResent-Bcc: {OTHER}\n"

    posted = sender.sent("-t", text=letter(to))

    assert {READER, OTHER} == set(posted.recipients)
    assert OTHER.encode() not in posted.content


@pytest.mark.parametrize("to", ["", "To: undisclosed-recipients:;\n", "To: \nCc:\n", "To: Friends: ;\n"])
def test_a_message_for_blind_copies_only(sender: Sender, to: str) -> None:
    """Recipients whom no field shows; fields without an address do not disturb Graph."""
    posted = sender.sent(READER, text=letter(to))

    assert (READER,) == posted.recipients
    assert (None, None) == (header(posted, "To"), header(posted, "Cc"))


def test_with_t_and_nobody_in_the_message(sender: Sender) -> None:
    """Nothing to send to."""
    assert "neither To, Cc nor Bcc" in sender.refused(
        os.EX_DATAERR, "-t", text=letter("To: undisclosed-recipients:;\n")
    )


FROM = {
    "the account": ([], USER),
    "-f": (["-f", SHARED], SHARED),
    "-f, bracketed": (["-f", f"<{SHARED}>"], SHARED),
    "-f, without a domain": (["-froot"], USER),
    "-f, of this machine": (["-f", f"root@{os.uname().nodename.upper()}"], USER),
    "-f, of no machine": (["-f", "www-data@localhost"], USER),
    "-F": (["-F", "A. Name"], f'"A. Name" <{USER}>'),
    "-F, attached": (["-FCron Daemon"], f"Cron Daemon <{USER}>"),
    "-F, not ASCII": (["-F", "Jörg", "-f", USER], f"=?utf-8?b?SsO2cmc=?= <{USER}>"),
    "-F, two lines": (["-F", "x\nBcc: evil@x.example"], f'"x Bcc: evil@x.example" <{USER}>'),
}


@pytest.mark.parametrize(("words", "expected"), FROM.values(), ids=FROM)
def test_a_missing_from_is_added(sender: Sender, words: list[str], expected: str) -> None:
    """From the options, else the account's own address."""
    sender.hold("token", sender.entra.issue(USER, [SEND_SHARED]))

    posted = sender.sent(*words, READER, text=letter(sender=""))

    assert (expected, (READER,)) == (header(posted, "From"), posted.recipients)


@pytest.mark.parametrize("null", ["<>", ""])
def test_the_null_sender(sender: Sender, null: str) -> None:
    """Graph always sends with the mailbox's address, so others are told not to answer automatically."""
    posted = sender.sent("-f", null, READER, text=letter(sender=""))
    told = sender.sent("-f", null, READER, text=letter(sender="Auto-Submitted: auto-replied\n"))
    usual = sender.sent("-f", USER, READER, text=letter())

    assert (USER, "auto-generated") == (posted.sender, header(posted, "Auto-Submitted"))
    assert ["auto-replied", None] == [header(each, "Auto-Submitted") for each in (told, usual)]


def test_addresses_of_this_machine(sender: Sender) -> None:
    """mutt, mailutils and others put the machine's name behind a login: the own one is the account, whoever sends."""
    here = os.uname().nodename
    text = letter(f"To: {LOGIN}@{here}\nCc: {READER}\n", sender=f"From: A Name <{LOGIN}@{here}>\n")
    posted = sender.sent("-t", text=text)
    unknown = sender.refused(os.EX_NOUSER, f"www-data@{here}", text=letter())

    assert (USER, {USER, READER}) == (posted.sender, set(posted.recipients))
    assert [f"A Name <{USER}>", USER] == [header(posted, "From"), header(posted, "To")]
    assert f"www-data@{here} is not an address that Graph knows" in unknown


def test_a_machine_in_the_accounts_domain(sender: Sender) -> None:
    """Where the machine is named as the mail domain, its addresses are real ones."""
    here = os.uname().nodename
    sender.entra.add_user(f"user@{here}")
    sender.hold("token", sender.entra.issue(f"user@{here}", [SEND]), user=f"user@{here}")

    assert (f"somebody@{here}",) == sender.sent(f"somebody@{here}", text=letter("", sender="")).recipients


def test_cron(sender: Sender) -> None:
    """Debian's cron: the crontab's owner, named without a domain, gets the output from and at the account."""
    text = f"From: root (Cron Daemon)\nTo: {LOGIN}\nSubject: Cron <{LOGIN}@host> echo größe\n\ngröße\n"

    posted = sender.sent("-FCronDaemon", "-i", "-B8BITMIME", "-oem", LOGIN, text=text)

    assert (USER, (USER,)) == (posted.sender, posted.recipients)
    assert f"Cron Daemon <{USER}>" == header(posted, "From")
    assert "größe\n".encode() in posted.content


@pytest.mark.parametrize("words", [["nobody-here"], ["-t", "nobody-here"], ["-t"]])
def test_other_names_without_a_domain_are_unknown(sender: Sender, words: list[str]) -> None:
    """EX_NOUSER: Graph knows none of this machine's users."""
    to = "To: nobody-here\n" if words == ["-t"] else ""

    assert "nobody-here is not an address that Graph knows" in sender.refused(os.EX_NOUSER, *words, text=letter(to))


HEADERS = {
    "as it is": (f"To: {READER}\nSubject: test\n\nbody\n", f"To: {READER}\nSubject: test\n", "body\n"),
    "CRLF": (f"To: {READER}\r\nSubject: test\r\n\r\nbody\r\n", f"To: {READER}\nSubject: test\n", "body\n"),
    "no header": ("just text: really\nmore\n", "", "just text: really\nmore\n"),
    "an mbox's line": (f"From user Mon Jan  1 10:00:00 2026\nTo: {READER}\n\nbody\n", f"To: {READER}\n", "body\n"),
    "no empty line": (f"To: {READER}\nthis is no field\nbody\n", f"To: {READER}\n", "this is no field\nbody\n"),
    "no body": (f"To: {READER}\nX-End: no newline", f"To: {READER}\nX-End: no newline\n", ""),
    "continued": (f"X-Long: a\n\tb\n c\nTo: {READER}\n\nbody", f"X-Long: a\n\tb\n c\nTo: {READER}\n", "body\n"),
    "empty": ("", "", ""),
    "a body of an empty line": (f"To: {READER}\n\n\nbody\n", f"To: {READER}\n", "\nbody\n"),
}


@pytest.mark.parametrize(("text", "fields", "body"), HEADERS.values(), ids=HEADERS)
def test_header_and_body(sender: Sender, text: str, fields: str, body: str) -> None:
    """They are told apart as sendmail does it, and what the caller wrote stays as it was."""
    posted = sender.sent("-i", READER, text=text)

    assert f"{fields}From: {USER}\n\n{body}" == posted.content.decode()


def test_bytes_arrive_as_they_were(sender: Sender, entra: RecordingEntra, monkeypatch: pytest.MonkeyPatch) -> None:
    """8-bit text of any charset, in header and body, and an attachment; line ends are CRLF as MIME wants them."""
    raw = letter(body="").encode().replace(b"test", "größe".encode() + b" \xfc") + bytes(range(256)).replace(b"\n", b"")
    whole = raw + b"\n--x\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--x--\n"
    received = list[bytes]()
    accept = entra.graph._accept

    def received_and_accepted(request: WebRequest) -> Posted:
        received.append(request.body)
        return accept(request)

    # The request itself, before the sandbox parses it.
    monkeypatch.setattr(entra.graph, "_accept", received_and_accepted)
    sender.sent("-t", "-i", text=whole)

    assert whole.replace(b"\n", b"\r\n") == base64.b64decode(received[0])


def test_the_limit_of_graph(sender: Sender) -> None:
    """3 MB pass; one byte more is refused before it is sent, and the line names the limit."""
    start = letter(body="").encode()
    room = MOST - len(start.replace(b"\n", b"\r\n")) - 2
    fits = sender.sent("-t", "-i", text=start + b"x" * room + b"\n")
    said = sender.refused(os.EX_DATAERR, "-t", "-i", text=start + b"x" * (room + 1) + b"\n")
    huge = sender.refused(os.EX_DATAERR, "-t", "-i", text=start + (b"y" * 1023 + b"\n") * 9 * 1024)

    assert fits.content.endswith(b"x\n")
    assert "the message is too big (3.00 MB): Graph takes at most 3 MB, which is 4 MB in base64" in said
    assert "(9.01 MB)" in huge


def test_what_the_script_adds_counts_too(sender: Sender) -> None:
    """A Bcc can make a message too big that was just small enough."""
    start = letter(body="").encode()
    room = MOST - len(start.replace(b"\n", b"\r\n")) - 2

    assert "too big (3.00 MB)" in sender.refused(os.EX_DATAERR, "-ti", OTHER, text=start + b"x" * room + b"\n")


def test_without_a_token_mail_waits(sender: Sender) -> None:
    """75, cms-oauth's own line, and one that says that nothing was sent."""
    (sender.folder / "token").unlink()
    done = sender.run("-t", text=letter())

    assert os.EX_TEMPFAIL == done.returncode
    assert [
        "cms-oauth: there is none (unavailable) - run: cms status",
        "graph-sendmail: there is no token: the message was not sent",
    ] == done.stderr.decode().splitlines()


def test_without_cms_oauth_mail_waits(sender: Sender) -> None:
    """75, and where it was looked for."""
    said = sender.refused(os.EX_TEMPFAIL, "-t", text=letter(), PATH="/nowhere")

    assert f"there is no cms-oauth in {SCRIPT.parent} nor in the PATH" in said


def test_cms_oauth_is_found_beside_the_script(sender: Sender) -> None:
    """cron has its own PATH: a link in the folder of cms-oauth is enough."""
    link = sender.folder / "graph-sendmail"
    link.symlink_to(SCRIPT)
    done = subprocess.run(
        [sys.executable, link, f"--graph={sender.entra.authority}", READER],
        input=letter().encode(),
        env={"PATH": "/usr/bin:/bin", "SSL_CERT_FILE": sender.entra.ca_file},
        capture_output=True,
        check=False,
    )

    assert (0, b"") == (done.returncode, done.stderr)


def test_a_refused_token_is_replaced_once(sender: Sender) -> None:
    """Graph's 401 makes cms get a fresher token, and the message goes with that."""
    old = sender.hold("token", sender.entra.issue(USER, [SEND], life=-60))
    sender.hold("another", sender.entra.issue(USER, [SEND]))
    posted = sender.sent("-t", text=letter())

    assert (READER,) == posted.recipients
    assert old == (sender.folder / "rejected").read_text()


def test_two_refused_tokens(sender: Sender) -> None:
    """EX_NOPERM: here both are for Exchange, because the protocol is not configured right."""
    for name in ("token", "another"):
        sender.hold(name, sender.entra.issue(USER, ["https://outlook.office.com/SMTP.Send"]))
    said = sender.refused(os.EX_NOPERM, "-t", text=letter())

    assert f'Graph refused two tokens: the configuration needs Protocol("GRAPH", ["{sender.entra.authority}/M' in said
    assert "Invalid audience" in said


def test_a_refused_token_without_another(sender: Sender) -> None:
    """75: cms may not ask for more so soon, and mail waits."""
    sender.hold("token", sender.entra.issue(USER, [SEND], life=-60))

    assert "Graph refused the token, and there is no other one" in sender.refused(75, "-t", text=letter())


def test_a_token_without_the_permission(sender: Sender) -> None:
    """EX_NOPERM; the line names Mail.Send, the configuration, and a command that a shell reads."""
    sender.hold("token", sender.entra.issue(USER, [f"{GRAPH}/Mail.Read"]))
    plain = sender.refused(os.EX_NOPERM, "-t", text=letter())
    sender.hold("token", sender.entra.issue(USER, [f"{GRAPH}/Mail.Read"]), user="o'connor@domain.com")
    quoted = sender.refused(os.EX_NOPERM, "-t", text=letter())

    assert "the token lacks Mail.Send" in plain
    assert f"`cms login {USER}`" in plain
    assert "ErrorAccessDenied" in plain
    assert """`cms login 'o'"'"'connor@domain.com'`""" in quoted


def test_a_sender_that_is_not_allowed(sender: Sender) -> None:
    """EX_NOPERM, and what to do about it."""
    said = sender.refused(os.EX_NOPERM, "-t", text=letter(sender=f"From: {OTHER}\n"))

    assert f"{USER} may not send as the address in From" in said
    assert "ErrorSendAsDenied" in said
    assert "request-id" in said


def test_a_shared_mailbox(sender: Sender) -> None:
    """The account's name goes into From; the person's own token sends it, with Mail.Send.Shared."""
    sender.hold("token", sender.entra.issue(USER, [SEND_SHARED]), user=SHARED)
    posted = sender.sent(READER, text=letter(sender=""))

    assert (USER, SHARED) == (posted.user, posted.sender)


def test_an_application(sender: Sender, entra: RecordingEntra) -> None:
    """It has no mailbox of its own, so the account's is named in the address; one that Graph does not know is EX_NOUSER."""
    entra.register(Client(APP_ID, (), mailboxes=(USER,)))
    token = entra.directory.issue_for_app(GRAPH, APP_ID)
    sender.hold("token", token)
    posted = sender.sent(READER, text=letter())
    sender.hold("token", token, user="ghost@domain.com")
    said = sender.refused(os.EX_NOUSER, READER, text=letter())

    assert (USER, f"/v1.0/users/{USER}/sendMail") == (posted.user, entra.paths[-2])
    assert "Graph knows no mailbox of ghost@domain.com" in said


def test_an_opaque_token(sender: Sender, entra: RecordingEntra) -> None:
    """Those of personal accounts are no JWT: it is a person's."""
    sender.hold("token", "EwB4A8l6BAAU" + "x" * 900)
    sender.refused(75, READER, text=letter())

    assert "/v1.0/me/sendMail" == entra.paths[-1]


FAULTS = {
    "429": (Fault("status", "sendMail", status=429, retry_after="30"), 75, "sends too much at once: try again in 30 s"),
    "429, a date": (Fault("status", "sendMail", status=429, retry_after="Sun, 29 Nov 2026"), 75, "try again later"),
    "500": (Fault("status", "sendMail", status=500), 75, "Graph has a fault or is busy: try again later"),
    "503": (Fault("status", "sendMail", status=503, retry_after="5"), 75, "try again in 5 s"),
    "504": (Fault("status", "sendMail", status=504), 75, "Graph has a fault"),
    "509": (Fault("status", "sendMail", status=509), 75, "Graph has a fault"),
    "408": (Fault("status", "sendMail", status=408), 75, "did not reach Graph in time"),
    "400": (Fault("status", "sendMail", status=400), 65, "Graph refused the message (HTTP 400"),
    "403": (Fault("status", "sendMail", status=403), 77, f"{USER} may not do this"),
    "404": (Fault("status", "sendMail", status=404), 67, "knows no mailbox"),
    "413": (Fault("status", "sendMail", status=413), 65, "Graph takes at most 3 MB"),
    "a login page": (Fault("html", "sendMail"), 75, "what answered is not Graph"),
    "half an answer": (Fault("truncated", "sendMail"), 75, "what answered is not Graph"),
    "reset": (Fault("reset", "sendMail"), 75, "look into Sent Items before you send it again"),
}


@pytest.mark.parametrize(("fault", "status", "why"), FAULTS.values(), ids=FAULTS)
def test_what_graph_answers(sender: Sender, fault: Fault, status: int, why: str) -> None:
    """What passes by itself is 75; what does not is one of sysexits.h that says whose move it is."""
    sender.entra.faults.add(fault)

    assert why in sender.refused(status, "-t", text=letter())


def test_a_redirect_is_not_followed(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to one host only."""
    monkeypatch.setattr(sender.entra, "instead", redirect(f"{sender.entra.authority}/device"))

    assert "what answered is not Graph" in sender.refused(75, "-t", text=letter())
    assert "/device" not in sender.entra.paths


def test_no_network(sender: Sender, entra: RecordingEntra) -> None:
    """75: nothing was sent."""
    entra.go_down()
    try:
        said = sender.refused(75, "-t", text=letter())
    finally:
        entra.come_up()

    assert f"no connection with localhost:{entra.secure.port}" in said


def test_a_certificate_of_somebody_else(sender: Sender) -> None:
    """75, no token is sent, and OpenSSL's reason is shown."""
    before = len(sender.entra.paths)
    said = sender.refused(75, "-t", text=letter(), SSL_CERT_FILE="/dev/null")

    assert "certificate verify failed" in said
    assert before == len(sender.entra.paths)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there(sender: Sender, tmp_path: Path, variable: str) -> None:
    """OpenSSL ignores the variable, so the message names it; a good one is not blamed."""
    wrong = {"SSL_CERT_FILE": "", variable: f"{tmp_path}/none"}

    assert f"{variable} names {tmp_path}/none" in sender.refused(75, "-t", text=letter(), **wrong)
    assert " names " not in sender.refused(
        75, "-t", text=letter(), SSL_CERT_FILE="/dev/null", SSL_CERT_DIR=f"{tmp_path}"
    )


def test_an_authority_below_another(sender: Sender, entra: RecordingEntra, tmp_path: Path) -> None:
    """What SSL_CERT_FILE names is trusted, also if it is not signed by itself: as by cms-oauth."""
    named = tmp_path / "ca.pem"
    named.write_text(ssl.get_server_certificate(("localhost", entra.secure.port)))

    assert (READER,) == sender.sent("-t", text=letter(), SSL_CERT_FILE=str(named)).recipients


def test_a_proxy_that_is_not_there(sender: Sender) -> None:
    """$HTTPS_PROXY is used, and $NO_PROXY excepted."""
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9"}

    assert "no connection with" in sender.refused(75, "-t", text=letter(), **proxy)
    assert (READER,) == sender.sent("-t", text=letter(), **proxy, NO_PROXY="localhost").recipients


def test_without_standard_input(sender: Sender) -> None:
    """EX_NOINPUT, and no traceback."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", sys.executable, SCRIPT, READER], capture_output=True, text=True, check=False
    )

    assert (os.EX_NOINPUT, "graph-sendmail: there is no standard input\n") == (done.returncode, done.stderr)


def test_words_of_graph_cannot_move_the_cursor(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape sequences in an answer, and in an option, are made harmless: `refused` looks at the line."""
    evil = {"error": {"code": "Bad\x1b[2J", "message": "two\nlines\x9b31m" + " and so on" * 100}}
    monkeypatch.setattr(sender.entra, "instead", as_json(evil, 400))

    said = sender.refused(os.EX_DATAERR, "-t", text=letter())
    option = sender.refused(os.EX_USAGE, "--\x1b[2J")

    assert "Bad?[2J, two lines?31m and so on and" in said
    assert len(said) < 500
    assert "unknown option --?[2J" in option


def test_addresses_are_compared_without_case(sender: Sender) -> None:
    """A recipient whom To shows in capitals gets no second, blind copy."""
    posted = sender.sent(READER.upper(), text=letter(f"To: Reader <{READER}>\n"))

    assert [("Reader", READER)] == getaddresses([header(posted, "To") or ""])
    assert 1 == len(posted.recipients)
