"""docs/shared-mailboxes.md: one sign-in for any number of mailboxes, fetched once for all of them."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.contrib import ROOT, replaced
from support.daemon import Daemon, account_line, ask, settings_lines
from support.fragments import blocks
from support.programs import require_program
from support.reachable import ALICE
from support.submitting import log_in, sasl

from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra
from cms.sandbox.submission import Submission

ME, SALES, JOBS, STRANGER = (f"{name}@domain.com" for name in ("me", "sales", "jobs", "stranger"))
NAMES = (ME, SALES, JOBS)

SHOWN = {block.mark: block.text for block in blocks((ROOT / "docs" / "shared-mailboxes.md").read_text())}

# The page's accounts are Microsoft's; these are the sandbox's.
AT_THE_SANDBOX = """
_account = Office365_Account
def Office365_Account(**said):
    return _account(authority="{authority}", client_id="{client_id}", redirect_uri="http://localhost/", **said)
"""


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], entra: Entra) -> Daemon:
    """A person's cms with the page's configuration, not signed in."""
    entra.add_user(ME, mailboxes=[SALES, JOBS])
    for name in (SALES, STRANGER):
        entra.add_user(name)
    broker = make_daemon(ALICE)
    broker.configure(
        settings_lines(broker.home, entra)
        + AT_THE_SANDBOX.format(authority=entra.authority, client_id=CLIENT_ID)
        + replaced(SHOWN["test: configuration"], **{"/run/user/1000/cms/cms.sock": f"{broker.home}/run/cms/cms.sock"})
    )
    broker.start_unknown()
    return broker


def _socket(broker: Daemon) -> Path:
    return broker.home / "run" / "cms" / "cms.sock"


@pytest.fixture
def server(entra: Entra) -> Iterator[Submission]:
    """A submission server that lets a token in under its user's name, and under those of that user's mailboxes."""
    with Submission(entra.introspect, entra.cert_file) as running:
        yield running


def test_one_sign_in_serves_every_mailbox(broker: Daemon, entra: Entra, server: Submission) -> None:
    """Each name has the one token of the person beside it, and the server lets it in; a stranger's name stays out."""
    broker.sign_in(SALES, entra, as_user=ME)
    served = [sasl(_socket(broker), user, protocol) for user in NAMES for protocol in ("SMTP", "IMAP")]
    (token,) = {each for _, each in served}

    assert [name for name in NAMES for _ in range(2)] == [name for name, _ in served]
    assert (ME, 1) == (entra.introspect(token)["email"], entra.count("token", grant_type="authorization_code"))
    assert 0 == entra.count("token", grant_type="refresh_token")
    for user in NAMES:
        log_in(entra, server, user, token)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        log_in(entra, server, STRANGER, token)


def test_it_is_refreshed_once_for_all(broker: Daemon, entra: Entra) -> None:
    """Three mailboxes are one request at Entra, and all have the new token."""
    broker.sign_in(ME, entra)
    before = sasl(_socket(broker), ME)[1]
    refreshed = broker.cms("refresh")
    (after,) = {sasl(_socket(broker), user)[1] for user in NAMES}

    assert (0, 1) == (refreshed.returncode, entra.count("token", grant_type="refresh_token"))
    assert before != after


def test_another_persons_sign_in_is_refused(broker: Daemon, entra: Entra) -> None:
    """Another person signs in for a shared mailbox, perhaps as the mailbox: cms names both and serves no token."""
    with pytest.raises(AssertionError) as refused:
        broker.sign_in(SALES, entra, as_user=STRANGER)

    said = str(refused.value)
    assert (True, True) == (ME in said, STRANGER in said)
    assert b"" == ask(_socket(broker), f"SMTP {SALES}\n".encode())


def test_signing_out_of_one_is_signing_out_of_all(broker: Daemon, entra: Entra) -> None:
    """It is one sign-in, and the command says whose."""
    broker.sign_in(ME, entra)
    said = broker.cms("logout", JOBS)

    assert 0 == said.returncode
    assert [True] * 3 == [name in said.stdout for name in NAMES]
    assert b"" == ask(_socket(broker), f"SMTP {SALES}\n".encode())


def test_sending_as_oneself_for_a_mailbox(broker: Daemon, entra: Entra, server: Submission) -> None:
    """msmtp logs in as the person and names the mailbox as the sender, with the page's own lines."""
    broker.sign_in(ME, entra)
    lines = replaced(SHOWN["test: msmtp"], **{"cms-oauth --user": f"{broker.installation.command('cms-oauth')} --user"})
    settings = (
        f"host localhost\nport {server.port}\ntls on\ntls_starttls on\ntls_trust_file {entra.ca_file}\nauth xoauth2\n"
    )
    path = broker.home / "msmtprc"
    path.write_text(f"defaults\n{settings}account shared\n{lines}account default : shared\n")
    path.chmod(0o600)
    os.chown(path, ALICE, ALICE)
    sent = broker.run(
        require_program("msmtp", "msmtp"),
        f"--file={path}",
        STRANGER,
        stdin=f"From: {SALES}\nTo: {STRANGER}\nSubject: offer\n\nhello\n",
    )

    assert (0, "") == (sent.returncode, sent.stderr)
    assert [(ME, SALES, [STRANGER])] == [(each.user, each.sender, list(each.recipients)) for each in server.messages]


def test_the_person_need_not_be_an_account(make_daemon: Callable[..., Daemon], entra: Entra) -> None:
    """`sign_in_as` alone is enough."""
    entra.add_user(ME, mailboxes=[SALES])
    broker = make_daemon(ALICE)
    broker.configure(
        settings_lines(broker.home, entra)
        + account_line("sales", SALES, entra, f', sign_in_as="{ME}"')
        + f'CredentialServer("{broker.home}/run/cms/cms.sock", accounts=[sales])\n'
    )
    broker.start()
    broker.sign_in(SALES, entra, as_user=ME)

    assert SALES == sasl(_socket(broker), SALES)[0]
    assert b"" == ask(_socket(broker), f"SMTP {ME}\n".encode())
