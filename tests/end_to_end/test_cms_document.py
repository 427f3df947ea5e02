"""The document of the original CMS, "Outbound mail through SMTP", done as it says: paths and hosts aside.

Its `chgrp ... cms` means the folder `exim` that it has just made, its *cms-auth* means cms-oauth.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.contrib import replaced
from support.daemon import Daemon, ask, daemons
from support.machine import EXIM_USER, Machine
from support.reachable import ALICE, BOB, Installation, open_folder
from support.servers import MailServers

from cms_oauth import sasl

USER = "user@domain.com"

CONFIGURATION = """
account = Office365_Account(user="user@domain.com")
Office365("inbox", account)
CredentialServer("/var/run/user/XXX/cms.sock",
                 accounts=[account])
CredentialServer("/home/XX/mail/.cms/exim/cms.sock",
                 accounts=[account],
				 umask=0o666)
"""  # noqa: E101 - as the document has it

TEST = "cms-oauth --user=user@domain.com --cms_sock=/var/run/user/XXX/cms.sock --test-smtp=smtp.office365.com"

PERMISSIONS = """
cd /home/XX/mail/.cms
mkdir exim
chmod 0750 exim
"""
SUDO = "chgrp Debian-exim exim"

AUTHENTICATOR = """
begin authenticators

xoauth2_smart:
  driver = plaintext
  client_condition = ${if !eq{$tls_out_cipher}{}}
  public_name = XOAUTH2
  client_ignore_invalid_base64 = true
  client_send = : ${readsocket{/home/XX/mail/.cms/exim/cms.sock}{SMTP user@domain}}
"""

# The least that an exim needs around that authenticator.
EXIM = """
keep_environment =
untrusted_set_sender = *
acl_not_smtp = accept
begin routers
smarthost:
  driver = manualroute
  route_data = localhost
  self = send
  transport = smarthost
begin transports
smarthost:
  driver = smtp
  port = PORT
  hosts_require_auth = *
  hosts_require_tls = *
  tls_verify_certificates = CA
begin retry
* * F,1h,1m
"""


class Documented:
    """What the document's reader has at its end."""

    def __init__(self, broker: Daemon, servers: MailServers, mail: Path) -> None:
        self.broker = broker
        self.servers = servers
        self.mail = mail
        self.runtime = broker.home / "run"

    def in_place(self, text: str) -> str:
        """Return the document's text with its example paths replaced."""
        words = {"/var/run/user/XXX": str(self.runtime), "/home/XX/mail/.cms": str(self.mail)}
        return replaced(text, **{old: new for old, new in words.items() if old in text})


@pytest.fixture(scope="module")
def documented(installation: Installation, servers: MailServers) -> Iterator[Documented]:
    """Follow the document: folder, permissions, configuration, sign-in."""
    servers.add_user(USER)
    with daemons(installation) as make, open_folder("document") as mail:
        os.chown(mail, ALICE, ALICE)
        broker = make(ALICE)
        done = Documented(broker, servers, mail)
        assert broker.run("sh", "-ec", done.in_place(PERMISSIONS)).returncode == 0
        assert broker.run("sh", "-ec", f"cd {mail}; {SUDO}", uid=0).returncode == 0
        hosts = f', authority="{servers.entra.authority}")'
        configuration = replaced(done.in_place(CONFIGURATION), **{'@domain.com")': '@domain.com"' + hosts})
        broker.configure(f'Vault(key=File("{broker.home}/key"))\nTls(ca="{servers.entra.ca_file}")\n{configuration}')
        broker.start()
        broker.sign_in(USER, servers.entra)
        yield done


def test_the_permissions_are_what_the_document_makes_them(documented: Documented) -> None:
    """Only exim's group may enter the folder; inside, `umask=0o666` opens the socket."""
    folder = documented.mail / "exim"
    made = folder.stat()

    assert (0o750, grp.getgrnam(EXIM_USER).gr_gid) == (stat.S_IMODE(made.st_mode), made.st_gid)
    assert 0o666 == stat.S_IMODE((folder / "cms.sock").stat().st_mode)
    assert 0o600 == stat.S_IMODE((documented.runtime / "cms.sock").stat().st_mode)


def test_the_test_command_passes(documented: Documented) -> None:
    """The command of the document, as it stands, logs in."""
    command = documented.in_place(TEST).replace("smtp.office365.com", f"localhost:{documented.servers.submission}")

    done = documented.broker.run(*command.split(), SSL_CERT_FILE=documented.servers.ca_file)

    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert "reply: retcode (235); Msg: b'Authentication succeeded'" == done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("ending", "half_close"), [(b"", True), (b"\n", False)])
def test_a_client_of_the_original_protocol(documented: Documented, ending: bytes, half_close: bool) -> None:
    """A client that writes `SMTP user@domain` and ends it either way gets the raw XOAUTH2 string, and the end."""
    answer = ask(documented.runtime / "cms.sock", f"SMTP {USER}".encode() + ending, half_close=half_close)

    user, token = sasl.split(answer.decode())
    assert USER == user
    assert documented.servers.entra.introspect(token)["active"]


def test_who_is_not_let_in_gets_nothing(documented: Documented) -> None:
    """The folder admits only exim's group, so another user cannot connect."""
    refused = documented.broker.token(documented.mail / "exim" / "cms.sock", USER, uid=BOB)

    assert (0, "") != (refused.returncode, refused.stdout)
    assert "" == refused.stdout


def test_exim_sends_with_the_documents_authenticator(documented: Documented) -> None:
    """The authenticator of the document, its user and path filled in, delivers a message."""
    servers = documented.servers
    authenticator = replaced(documented.in_place(AUTHENTICATOR), **{"SMTP user@domain": f"SMTP {USER}"})
    with open_folder("exim") as folder:
        machine = Machine(folder, {"alice": ALICE})
        here = replaced(EXIM, PORT=str(servers.submission), CA=servers.ca_file)
        machine.configure(here + authenticator)

        sent = machine.send("alice", f"From: {USER}\nSubject: as documented\n\nhello\n", USER, sender=USER)

        assert (0, []) == (sent.returncode, machine.queue), machine.log()
    assert "hello" in servers.wait_for_mail(USER, "as documented")
