"""contrib/offlineimaprc and docs/clients/offlineimap.md in a real offlineimap, against a Dovecot that checks tokens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login

# What offlineimap says when it has no token, and goes on without a login.
NO_TOKEN = ("command LIST illegal in state NONAUTH", "unknown url type")


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who uses OfflineIMAP."""
    require_program("offlineimap", "offlineimap3")
    with login(installation, servers) as owner:
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/offlineimaprc for the test's server."""
    usual = {
        "remotehost = outlook.office365.com": "remotehost = localhost",
        "remoteport = 993": f"remoteport = {owner.servers.imap}",
        "/etc/ssl/certs/ca-certificates.crt": owner.servers.ca_file,
    }
    owner.file(".offlineimaprc", contrib("offlineimaprc"), **(usual | words))


def sync(owner: Login) -> subprocess.CompletedProcess[str]:
    return owner.run("offlineimap", "-o", "-u", "basic")


def near(owner: Login) -> list[Path]:
    """Return the files of the messages in the local INBOX."""
    return list((owner.home / "Mail" / "INBOX").glob("[cn]*/*"))


def test_a_mailbox_syncs_both_ways(signed_in: Login) -> None:
    """New mail comes, and a message that was put into the local folder goes."""
    configure(signed_in)
    came = signed_in.receive()
    first = sync(signed_in)
    text, went = signed_in.message()
    signed_in.file("Mail/INBOX/new/1.written.here", text)
    second = sync(signed_in)

    assert [0, 0] == [first.returncode, second.returncode], first.stderr
    assert 1 == sum(came in path.read_text() for path in near(signed_in))
    assert signed_in.servers.wait_for_mail(USER, went)
    assert "method=XOAUTH2" in signed_in.servers.log()


def test_the_pages_test_passes(signed_in: Login) -> None:
    """It lists the INBOX, and shows no token."""
    configure(signed_in)

    done = signed_in.shell(shown("offlineimap", "test"))

    assert 0 == done.returncode, done.stderr
    assert " INBOX\n" in done.stdout + done.stderr


def test_another_account_asks_for_its_own_token(signed_in: Login) -> None:
    """The example's second provider is an account of its own: cms says that this one is not configured here."""
    configure(signed_in, **{"remotehost = imap.gmail.com": "remotehost = localhost"})
    done = signed_in.run("offlineimap", "-o", "-u", "basic", "-a", "gmail")

    assert 0 != done.returncode
    assert "(unknown-account)" in done.stderr


def test_without_a_broker_no_login_is_tried(signed_in: Login) -> None:
    """offlineimap ends with 1, cms's words are there, and the next run catches up."""
    configure(signed_in)
    subject = signed_in.receive()
    signed_in.broker.stop()
    before = signed_in.attempts()
    done = sync(signed_in)
    attempts = signed_in.attempts() - before
    signed_in.start_broker()
    again = sync(signed_in)

    assert (1, 0, 0) == (done.returncode, attempts, again.returncode)
    assert "(no-daemon)" in done.stderr
    (said,) = (words for words in NO_TOKEN if words in done.stderr + done.stdout)
    assert f"`{said}`" in page("offlineimap")
    assert explains("offlineimap", done.stderr)
    assert any(subject in path.read_text() for path in near(signed_in))


def test_signed_out(signed_in: Login) -> None:
    """No login is tried, and the page explains what is said."""
    configure(signed_in)
    signed_in.logout()
    before = signed_in.attempts()
    done = sync(signed_in)
    attempts = signed_in.attempts() - before
    signed_in.login()

    assert (1, 0) == (done.returncode, attempts)
    assert "(sign-in-required)" in done.stderr
    assert explains("offlineimap", done.stderr)


def test_a_protocol_that_is_not_served(signed_in: Login) -> None:
    """The page explains what is said."""
    configure(signed_in, **{"--proto=IMAP": "--proto=IMAPS"})

    done = sync(signed_in)

    assert 1 == done.returncode
    assert "(unknown-protocol)" in done.stderr
    assert explains("offlineimap", done.stderr)


def test_the_server_is_verified(signed_in: Login) -> None:
    """A server that none of the authorities vouches for gets no login, and the page knows what is said."""
    configure(signed_in, **{"remotehost = outlook.office365.com": "remotehost = 127.0.0.1"})
    before = signed_in.attempts()

    done = sync(signed_in)

    assert 1 == done.returncode
    assert "CA Cert verifying failed" in done.stderr + done.stdout
    assert "`CA Cert verifying failed`" in page("offlineimap")
    assert before == signed_in.attempts()
