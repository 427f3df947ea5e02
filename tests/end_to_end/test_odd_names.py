"""What `cms init` shows for mail programs, for a person whose name, address and folder have signs of every syntax.

The real programs log in with it to servers that check each token and compare it with the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_string
from email.header import decode_header, make_header
from email.utils import parseaddr

import pytest
from support.contrib import ODD, replaced
from support.fragments import contrib, shown
from support.getmail import patient
from support.person import READER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login, terminal

from cms.cli.init.mail_programs import TOOLS, Setting, fragment
from cms.sandbox.directory import CLIENT_ID

USER = ODD
NAME = 'A "B" \\ C'

# A program's file of the examples, where it goes, and the page with its form.
SENDERS = {
    "msmtp": ("msmtp.conf", ".msmtprc"),
    "mutt": ("muttrc", ".muttrc"),
    "neomutt": ("muttrc", ".neomuttrc"),
    "s-nail": ("mailrc", ".mailrc"),
    "emacs": ("cms.el", ".emacs.d/init.el"),
    "git": ("gitconfig-msmtp", ".gitconfig"),
}
READERS = {
    "mbsync": ("mbsyncrc", ".mbsyncrc"),
    "offlineimap": ("offlineimaprc", ".offlineimaprc"),
    "getmail": ("getmailrc", "config/getmail/getmailrc"),
    "mpop": ("mpop.conf", ".mpoprc"),
}
FETCH = {
    "mbsync": ["mbsync", "work"],
    "offlineimap": ["offlineimap", "-o", "-u", "basic"],
    "getmail": ["getmail"],
    "mpop": ["mpop", "-q"],
}


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """The odd person, with a socket for that account alone and cms in a folder with a space."""
    for program in (*SENDERS, *READERS, "aerc", "tmux"):
        require_program(program, program)
    servers.add_user(USER)
    there = f'authority="{servers.entra.authority}", client_id="{CLIENT_ID}", redirect_uri="http://localhost/"'
    odd = (
        f"odd = Office365_Account({USER!r}, {there})\n"
        'CredentialServer("{sockets}/odd.sock", accounts=[odd], protocols=["SMTP", "IMAP", "POP"])\n'
    )
    with login(installation, servers, odd) as owner:
        owner.broker.sign_in(USER, servers.entra)
        folders = [f"{folder}/{each}" for folder in ("Mail", "Pop") for each in ("cur", "new", "tmp")]
        assert 0 == owner.run("mkdir", "-p", "my cms's", *folders).returncode
        assert 0 == owner.run("ln", "-s", installation.command("cms-oauth"), "my cms's/cms-oauth").returncode
        owner.file(".emacs.d/lisp/cms.el", contrib("cms.el"))
        yield owner


def configure(owner: Login, file: str, goes: str) -> None:
    """Write what init shows where it belongs, for the test's servers."""
    (tool, *_) = [each for each in TOOLS if each.file == file]
    setting = Setting(USER, NAME, "localhost", "localhost", str(owner.home / "my cms's" / "cms-oauth"))
    text = fragment(tool, setting)
    servers = owner.servers
    for old, new in {
        "localhost:587": f"localhost:{servers.submission}",
        "localhost:993": f"localhost:{servers.imap}",
        "port 587": f"port {servers.submission}",
        "-service 587": f"-service {servers.submission}",
        "port 995": f"port {servers.pop}",
        "Port 993": f"Port {servers.imap}",
        "port = 993": f"port = {servers.imap}",
        "remoteport = 993": f"remoteport = {servers.imap}",
        "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
    }.items():
        text = text.replace(old, new)
    if file == "cms.el":
        text = f"(with-eval-after-load 'gnutls (add-to-list 'gnutls-trustfiles \"{servers.ca_file}\"))\n{text}"
    owner.file(goes, text)


def run(owner: Login, *command: str, stdin: str = "", **environment: str) -> None:
    done = owner.run(*command, stdin=stdin, CMS_SOCK=f"{owner.broker.sockets}/odd.sock", **environment)
    assert done.returncode == 0, done.stdout + done.stderr


def sends(owner: Login, program: str, subject: str) -> None:
    """Send a message to the reader, as the pages' tests do."""
    match program:
        case "msmtp":
            run(owner, "msmtp", READER, stdin=f"From: x <{USER}>\nTo: {READER}\nSubject: {subject}\n\nhello\n")
        case "mutt" | "neomutt":
            run(owner, program, "-s", subject, READER, stdin="hello\n")
        case "s-nail":
            run(owner, "s-nail", "-A", "work", "-s", subject, READER, stdin="hello\n")
        case "emacs":
            script = replaced(shown("emacs", "send"), **{'"test"': f'"{subject}"'})
            run(owner, "sh", "-c", script.replace("user@domain.com", READER))
        case "git":
            configure(owner, *SENDERS["msmtp"])
            run(owner, "sh", "-ec", _SERIES, subject, READER)


# A commit with this subject, sent.
_SERIES = """
git init -q work && cd work && echo 1 >file && git add file
git -c user.name=x -c user.email="$1" commit -q -m "$0"
git send-email --to="$1" --confirm=never --suppress-cc=all -1
"""


@pytest.mark.parametrize("program", SENDERS)
def test_mail_is_sent(signed_in: Login, program: str) -> None:
    """In the person's name, spelled as it is, and from their address."""
    configure(signed_in, *SENDERS[program])
    subject = f"by {program}, odd"
    sends(signed_in, program, subject)
    text = signed_in.servers.wait_for_mail(READER, subject)

    assert f"Return-path: <{USER}>" in text
    # msmtp sends the line that it gets.
    assert ("x" if program == "msmtp" else NAME, USER) == sender(text)


def sender(text: str) -> tuple[str, str]:
    """Return the name and address of a message's From: line."""
    return parseaddr(str(make_header(decode_header(str(message_from_string(text)["From"])))))


@pytest.mark.parametrize("program", READERS)
def test_mail_is_fetched(signed_in: Login, program: str) -> None:
    """By the protocol of each."""
    configure(signed_in, *READERS[program])
    subject = signed_in.receive(USER)
    run(signed_in, *FETCH[program], **(patient(signed_in) if program == "getmail" else {}))

    assert any(subject in path.read_text() for path in (signed_in.home / "Mail").glob("**/[cn]*/*") if path.is_file())


def test_aerc(signed_in: Login) -> None:
    """Reads, and sends in the person's name."""
    configure(signed_in, "aerc-accounts.conf", "config/aerc/accounts.conf")
    received = signed_in.receive(USER)
    subject = "by aerc, odd"
    sock = f"{signed_in.broker.sockets}/odd.sock"

    with terminal(signed_in, "aerc", EDITOR="echo hello >>", TMPDIR=str(signed_in.home), CMS_SOCK=sock) as window:
        window.wait_for("Connected", received)
        window.press("Enter" if "smtp-starttls is deprecated" in window.screen() else "")  # aerc 0.15 and newer
        window.press(f":compose -H 'To: {READER}' -H 'Subject: {subject}'", "Enter")
        window.wait_for("Send this email?", subject)
        window.press("y")
        text = signed_in.servers.wait_for_mail(READER, subject)

    assert f"Return-path: <{USER}>" in text
    # aerc writes quotes and backslashes in a name in its own way.
    name, address = sender(text)
    assert (USER, ["A", "B", "C"]) == (address, re.findall(r"\w", name))
