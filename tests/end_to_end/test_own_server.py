"""A mail server of one's own with an OAuth2 server of one's own: mail is sent by msmtp and read by mbsync."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.programs import give_up, require_program
from support.reachable import ALICE
from support.servers import MailServers

from cms.sandbox.habits import MAIL, strict
from cms.sandbox.issuer import Issuer

ME = "me@own.example"

_MSMTP = """\
account default
host localhost
port {port}
tls on
tls_starttls on
tls_trust_file {ca}
auth {mechanism}
user {user}
from {user}
passwordeval {fetch}
"""
_MBSYNC = """\
IMAPAccount own
Host localhost
Port {port}
User {user}
PassCmd "{fetch}"
AuthMechs XOAUTH2
SSLType IMAPS
CertificateFile {ca}

IMAPStore far
Account own

MaildirStore near
Path ~/Mail/
Inbox ~/Mail/INBOX
SubFolders Verbatim

Channel own
Far :far:
Near :near:
Patterns INBOX
Create Near
SyncState *
"""


@dataclass
class Owner:
    """A person whose cms is signed in at the strict provider, whose tokens the mail servers take."""

    daemon: Daemon
    servers: MailServers

    def write(self, name: str, text: str, port: int, mechanism: str = "") -> Path:
        path = self.daemon.home / name
        fetch = f"{self.daemon.installation.command('cms-oauth')} --user={ME} --output=token"
        path.write_text(text.format(port=port, ca=self.servers.ca_file, user=ME, fetch=fetch, mechanism=mechanism))
        path.chmod(0o600)
        os.chown(path, self.daemon.uid, self.daemon.uid)
        return path

    def send(self, mechanism: str) -> tuple[int, str]:
        path = self.write("msmtprc", _MSMTP, self.servers.submission, mechanism)
        text = f"From: {ME}\nTo: {ME}\nSubject: by {mechanism}.\n\nhello\n"
        done = self.daemon.run("msmtp", "-C", str(path), ME, stdin=text)
        return done.returncode, done.stderr

    def sync(self) -> tuple[int, str]:
        path = self.write("mbsyncrc", _MBSYNC, self.servers.imap)
        done = self.daemon.run("mbsync", "-c", str(path), "own")
        return done.returncode, done.stderr

    def read(self) -> str:
        """Return all that mbsync has brought."""
        return "".join(path.read_text() for path in (self.daemon.home / "Mail" / "INBOX").glob("[cn]*/*"))


@pytest.fixture
def owner(make_daemon: Callable[..., Daemon], servers: MailServers) -> Iterator[Owner]:
    require_program("msmtp", "msmtp")
    require_program("mbsync", "isync")
    if not list(Path("/usr/lib").glob("*/sasl2/libkdexoauth2.so")):
        give_up("the SASL plug-in is missing: apt-get install libsasl2-modules-kdexoauth2")
    servers.add_user(ME)
    with Issuer(strict(), [ME]) as issuer:
        servers.others.append(issuer)
        daemon = make_daemon(ALICE)
        (daemon.home / "Mail").mkdir()
        os.chown(daemon.home / "Mail", ALICE, ALICE)
        daemon.configure(
            f"""\
Vault(key=File("{daemon.key}"))
Tls(ca="{issuer.ca_file}")
own = OAuth2_Account("{ME}", issuer="{issuer.issuer}", scopes=["{MAIL}", "openid", "email", "offline_access"],
    imap_host="localhost", smtp_host="localhost")
CredentialServer("{daemon.home}/run/cms/cms.sock", accounts=[own], protocols=["SMTP", "IMAP"])
"""
        )
        daemon.start()
        daemon.sign_in(ME, issuer)
        yield Owner(daemon, servers)
        servers.others.remove(issuer)


def test_mail_is_sent_and_read(owner: Owner) -> None:
    """By either mechanism; with the next token too."""
    assert [(0, ""), (0, "")] == [owner.send(mechanism) for mechanism in ("xoauth2", "oauthbearer")]
    for mechanism in ("xoauth2", "oauthbearer"):
        owner.servers.wait_for_mail(ME, f"Subject: by {mechanism}.")
    assert 0 == owner.daemon.cms("refresh", ME).returncode
    status, said = owner.sync()

    assert 0 == status, said
    assert ["xoauth2", "oauthbearer"] == [each for each in ("xoauth2", "oauthbearer") if f"by {each}." in owner.read()]
    log = owner.servers.log()
    assert f"A=xoauth2:{ME}" in log
    assert f"A=oauthbearer:{ME}" in log
    assert "method=XOAUTH2" in log
