"""contrib/mbsyncrc and docs/clients/mbsync.md in a real mbsync, against a Dovecot that checks each token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import USER
from support.programs import give_up, require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login

# Debian's place for plug-ins, on any architecture.
_PLUGINS = Path("/usr/lib")

# What mbsync says without one.
MISSING = "IMAP error: selected SASL mechanism(s) not available"


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person with an empty ~/Mail."""
    require_program("mbsync", "isync")
    if not list(_PLUGINS.glob("*/sasl2/libkdexoauth2.so")):
        give_up("the SASL plug-in is missing: apt-get install libsasl2-modules-kdexoauth2")
    with login(installation, servers) as owner:
        assert owner.shell("mkdir -p ~/Mail").returncode == 0
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/mbsyncrc for the test's server."""
    usual = {
        "Host outlook.office365.com": "Host localhost",
        "Host imap.gmail.com": "Host localhost",
        "Port 993": f"Port {owner.servers.imap}",
        "/etc/ssl/certs/ca-certificates.crt": owner.servers.ca_file,
    }
    owner.file(".mbsyncrc", contrib("mbsyncrc"), **(usual | words))


def sync(owner: Login, **environment: str) -> subprocess.CompletedProcess[str]:
    return owner.run("mbsync", "work", **environment)


def near(owner: Login) -> list[Path]:
    """Return the files of the messages in the local INBOX."""
    return list((owner.home / "Mail" / "INBOX").glob("[cn]*/*"))


def one_near(owner: Login, subject: str) -> Path:
    (found,) = (path for path in near(owner) if subject in path.read_text())
    return found


def test_a_mailbox_syncs_both_ways(signed_in: Login) -> None:
    """New mail comes, a message that was put into the local folder goes, and so do a flag and a deletion."""
    configure(signed_in)
    came = signed_in.receive()
    first = sync(signed_in)
    text, went = signed_in.message()
    signed_in.file("Mail/INBOX/new/1.written.here", text)
    read = one_near(signed_in, came)
    read.rename(read.parents[1] / "cur" / f"{read.name}S")
    second = sync(signed_in)
    far = signed_in.servers.mail_of(USER)
    gone = one_near(signed_in, went)
    gone.rename(gone.parents[1] / "cur" / f"{gone.name.split(':')[0]}:2,T")
    third = sync(signed_in)

    assert [0, 0, 0] == [first.returncode, second.returncode, third.returncode], first.stderr
    assert 1 == sum(went in message for message in far)
    assert [came] == [each for each in (came, went) if any(each in left for left in signed_in.servers.mail_of(USER))]
    maildir = signed_in.servers.folder / "mail" / USER / "Maildir"
    (flags,) = (path.name.rpartition(":")[2] for path in maildir.glob("[cn]*/*") if came in path.read_text())
    # Small letters are keywords, which Dovecot 2.4.5 keeps there for itself.
    assert "2,S" == flags.rstrip("abcdefghijklmnopqrstuvwxyz")
    assert "method=XOAUTH2" in signed_in.servers.log()


def test_the_pages_test_passes(signed_in: Login) -> None:
    """It lists the INBOX; the plug-in talks, without a token in it."""
    configure(signed_in)

    done = signed_in.shell(shown("mbsync", "test"))

    assert (0, "INBOX") == (done.returncode, done.stdout.strip()), done.stderr
    assert "[SASL-XOAUTH2] - Requesting token!" in done.stdout + done.stderr


def test_another_account_asks_for_its_own_token(signed_in: Login) -> None:
    """The example's second provider is an account of its own: cms says that this one is not configured here."""
    configure(signed_in)
    signed_in.shell("mkdir -p ~/Gmail")
    done = signed_in.run("mbsync", "--list", "gmail")

    assert 1 == done.returncode
    assert "(unknown-account)" in done.stderr
    assert "Skipping account gmail, PassCmd exited with status" in done.stderr


def test_without_a_broker_no_login_is_tried(signed_in: Login) -> None:
    """mbsync ends with 1, says why in cms's words, and catches up the next time."""
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
    assert "Skipping account work, PassCmd exited with status 69" in done.stderr
    assert explains("mbsync", done.stderr)
    assert subject in one_near(signed_in, subject).read_text()


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
    assert "PassCmd exited with status 75" in done.stderr
    assert explains("mbsync", done.stderr)


def test_a_protocol_that_is_not_served(signed_in: Login) -> None:
    """The page explains what is said."""
    configure(signed_in, **{"--proto=IMAP": "--proto=IMAPS"})

    done = sync(signed_in)

    assert 1 == done.returncode
    assert "PassCmd exited with status 64" in done.stderr
    assert explains("mbsync", done.stderr)


def test_without_the_plug_in(signed_in: Login) -> None:
    """The page knows what mbsync says then."""
    configure(signed_in)

    done = sync(signed_in, SASL_PATH="/nonexistent")

    assert 1 == done.returncode
    assert MISSING in done.stderr
    assert f"`{MISSING}`" in page("mbsync")
