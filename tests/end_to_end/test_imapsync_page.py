"""docs/clients/imapsync.md: its configuration, and its file at a real IMAP server that checks the token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.contrib import replaced
from support.daemon import Daemon, settings_lines
from support.fragments import contrib, page, shown
from support.programs import require_program
from support.reachable import ALICE
from support.servers import MailServers
from support.waiting import until

from cms.sandbox.directory import CLIENT_ID

USER = "user@domain.com"
FILE = "/run/user/1000/cms/imap-token"


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon], servers: MailServers) -> Daemon:
    """A person's cms with the page's configuration, not signed in."""
    servers.add_user(USER)
    broker = make_daemon(ALICE)
    account = f', authority="{servers.entra.authority}", client_id="{CLIENT_ID}", redirect_uri="http://localhost/"'
    words = {FILE: f"{broker.home}/token", f'"{USER}"': f'"{USER}"{account}'}
    broker.configure(settings_lines(broker.home, servers.entra) + replaced(contrib("token-file.cfg"), **words))
    broker.start()
    return broker


def list_mailboxes(broker: Daemon, servers: MailServers) -> tuple[int, str]:
    """Run the page's test; return its exit status and what it printed."""
    require_program("curl", "curl")
    words = {FILE: f"{broker.home}/token", "outlook.office365.com": f"localhost:{servers.imap}"}
    example = replaced(shown("imapsync", "test"), **words)
    done = broker.run("env", f"SSL_CERT_FILE={servers.ca_file}", "sh", "-c", example)
    return done.returncode, done.stdout + done.stderr


def test_the_file_opens_the_mailbox(broker: Daemon, servers: MailServers) -> None:
    """With the page's lines the file opens the mailbox; after a sign-out the file is gone and opens nothing."""
    broker.sign_in(USER, servers.entra)
    until((broker.home / "token").exists, "the token file")
    signed_in = list_mailboxes(broker, servers)
    broker.cms("logout")
    until(lambda: not (broker.home / "token").exists(), "the end of the token file")
    status, said = list_mailboxes(broker, servers)

    assert (0, True) == (signed_in[0], "INBOX" in signed_in[1])
    # An older curl tries an empty token, a newer one does not.
    tried_or_not = ("Login denied", "option --config: error", "option --config: blank argument")
    assert [words for words in tried_or_not if words in said], said
    assert status != 0


def test_the_page_quotes_the_status(broker: Daemon, servers: MailServers) -> None:
    """Its words are those that a person reads there."""
    (broker.home / "token").mkdir()
    until(lambda: "sign-in-required" in broker.cms("status").stdout, "the state of an account that nobody signed in")
    broker.sign_in(USER, servers.entra)
    trouble = f"the token file {broker.home}/token cannot be kept"
    until(lambda: trouble in " ".join(broker.cms("status").stdout.split()), "the trouble in the status")

    assert [True, True] == [
        words in page("imapsync") for words in ("`sign-in-required`", "`the token file … cannot be kept`")
    ]
