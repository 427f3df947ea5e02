"""contrib/msmtp.conf in a real msmtp, with tokens of a real cms, against a real server that checks each token."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

import pytest
from support.contrib import ROOT, replaced
from support.daemon import Daemon, account_line, settings_lines
from support.programs import require_program
from support.reachable import ALICE
from support.servers import MailServers
from support.waiting import until

USER = "user@domain.com"
SHARED = "shared@domain.com"
GMAIL = "user@gmail.com"
READER = "reader@domain.com"

_numbers = count()

# What the server says, and counts, when a credential is invalid.
REFUSED = "535 Incorrect authentication data"
# sysexits: what msmtp says for every failure of passwordeval.
EX_CONFIG = 78


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], servers: MailServers) -> Daemon:
    """A person's cms, signed in, at the place where cms-oauth looks by itself."""
    for user in (USER, SHARED, GMAIL, READER):
        servers.add_user(user)
    broker = make_daemon(ALICE)
    broker.configure(
        settings_lines(broker.home, servers.entra)
        + account_line("account", USER, servers.entra)
        + account_line("shared", SHARED, servers.entra, f', sign_in_as="{USER}"')
        + account_line("gmail", GMAIL, servers.entra, f', sign_in_as="{USER}"')
        + f'CredentialServer("{broker.home}/run/cms/cms.sock", accounts=[account, shared, gmail])\n'
    )
    broker.start()
    broker.sign_in(USER, servers.entra)
    return broker


def configure(broker: Daemon, servers: MailServers, **words: str) -> str:
    """Write contrib/msmtp.conf for these servers; return its path."""
    text = (ROOT / "contrib" / "msmtp.conf").read_text()
    path = broker.home / "msmtprc"
    path.write_text(
        replaced(
            text,
            **{
                "port 587": f"port {servers.submission}",
                "host smtp.office365.com": "host localhost",
                "host smtp.gmail.com": "host localhost",
                "/etc/ssl/certs/ca-certificates.crt": servers.ca_file,
                "cms-oauth --user": f"{broker.installation.command('cms-oauth')} --user",
                **words,
            },
        )
    )
    path.chmod(0o600)
    os.chown(path, broker.uid, broker.uid)
    return str(path)


def send(broker: Daemon, servers: MailServers, sender: str, **words: str) -> tuple[int, str, str]:
    """Return msmtp's exit status, what it said, and the message's subject."""
    require_program("msmtp", "msmtp")
    subject = f"by msmtp {next(_numbers)}."
    text = f"From: {sender}\nTo: {READER}\nSubject: {subject}\n\nhello\n"
    path = configure(broker, servers, **words)
    done = broker.run("msmtp", "-C", path, "--read-envelope-from", "--read-recipients", stdin=text)
    return done.returncode, done.stderr, subject


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_a_message_is_delivered(broker: Daemon, servers: MailServers, mechanism: str) -> None:
    """The example delivers, with either mechanism."""
    done = send(broker, servers, USER, **{"auth xoauth2": f"auth {mechanism}"})

    assert (0, "") == done[:2]
    assert f"Return-path: <{USER}>" in servers.wait_for_mail(READER, done[2])
    assert f"A={mechanism}:{USER}" in servers.log()


@pytest.mark.parametrize("sender", [SHARED, GMAIL])
def test_the_sender_chooses_the_account(broker: Daemon, servers: MailServers, sender: str) -> None:
    """The other accounts of the example send under their own logins; what these are allowed there is the server's affair.

    Exchange takes the token of a person who may send as the shared mailbox. Dovecot compares the two names and
    refuses, which shows whose name went with the token.
    """
    status, _, _ = send(broker, servers, sender)

    assert 0 != status
    # The server writes its log when the client has its answer already.
    until(lambda: f"set_id={sender}" in servers.log(), "the refused login in the server's log")


def test_without_a_token_nothing_is_tried(broker: Daemon, servers: MailServers) -> None:
    """Signed out: msmtp fails, says why in cms's words, and makes no attempt to log in."""
    broker.cms("logout", "-c", str(broker.config), USER)
    before = servers.log().count(REFUSED)

    status, said, _ = send(broker, servers, USER)

    assert EX_CONFIG == status
    assert f"sign in again: `cms login {USER}`" in said
    assert before == servers.log().count(REFUSED)
