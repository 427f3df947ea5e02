"""contrib/mailrc and docs/clients/s-nail.md in a real s-nail, against a real server that checks each token."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.fragments import contrib, explains, page, shown
from support.person import USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login

# What s-nail says when it has no token, and its exit status then.
NO_TOKEN = "s-nail: A password is necessary for smtp authentication"
NOT_SENT = 4


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person who uses s-nail."""
    require_program("s-nail", "s-nail")
    with login(installation, servers) as owner:
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/mailrc for the test's server."""
    usual = {
        "smtp.office365.com:587": f"localhost:{owner.servers.submission}",
        "/etc/ssl/certs/ca-certificates.crt": owner.servers.ca_file,
    }
    owner.file(".mailrc", contrib("mailrc"), **(usual | words))


def send(owner: Login) -> tuple[subprocess.CompletedProcess[str], str]:
    """Send a message to oneself with the page's test; return how that ended, and the subject."""
    subject = owner.message()[1]
    return owner.shell(shown("s-nail", "test").replace("-s test", f"-s '{subject}'")), subject


def test_a_message_is_sent(signed_in: Login) -> None:
    """With XOAUTH2, and nothing is said."""
    configure(signed_in)
    before = signed_in.servers.log().count(f"A=xoauth2:{USER}")

    done, subject = send(signed_in)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(USER, subject)
    assert before + 1 == signed_in.servers.log().count(f"A=xoauth2:{USER}")


def test_another_account_asks_for_its_own_token(signed_in: Login) -> None:
    """The example's second provider is an account of its own: cms says that this one is not configured here."""
    configure(signed_in)
    done = signed_in.shell("echo hello | s-nail -A gmail -s test user@gmail.com")

    assert 0 != done.returncode
    assert "(unknown-account)" in done.stderr


def test_without_a_broker_no_login_is_tried(signed_in: Login) -> None:
    """s-nail says why in cms's words and keeps the text; sent again later, it arrives."""
    configure(signed_in)
    signed_in.broker.stop()
    before = signed_in.attempts()
    done, subject = send(signed_in)
    attempts = signed_in.attempts() - before
    signed_in.start_broker()
    again, later = send(signed_in)

    assert (NOT_SENT, 0, 0) == (done.returncode, attempts, again.returncode)
    assert "(no-daemon)" in done.stderr
    assert NO_TOKEN in done.stderr
    assert f"`{NO_TOKEN}`" in page("s-nail")
    assert explains("s-nail", done.stderr)
    assert "hello" in (signed_in.home / "dead.letter").read_text()
    assert signed_in.servers.wait_for_mail(USER, later)
    assert not any(subject in each for each in signed_in.servers.mail_of(USER))


def test_signed_out(signed_in: Login) -> None:
    """No login is tried, and the page explains what is said."""
    configure(signed_in)
    signed_in.logout()
    before = signed_in.attempts()
    done, _ = send(signed_in)
    attempts = signed_in.attempts() - before
    signed_in.login()

    assert (NOT_SENT, 0) == (done.returncode, attempts)
    assert "(sign-in-required)" in done.stderr
    assert explains("s-nail", done.stderr)


def test_a_protocol_that_is_not_served(signed_in: Login) -> None:
    """The page explains what is said."""
    configure(signed_in, **{"--proto=SMTP": "--proto=SMTPS"})

    done, _ = send(signed_in)

    assert NOT_SENT == done.returncode
    assert "(unknown-protocol)" in done.stderr
    assert explains("s-nail", done.stderr)


def test_xoauth2_is_not_its_name(signed_in: Login) -> None:
    """What the page says of the mechanism's name."""
    configure(signed_in, **{"smtp-auth=oauthbearer": "smtp-auth=xoauth2"})

    done, _ = send(signed_in)

    assert 0 != done.returncode
    assert "xoauth2" in done.stderr
