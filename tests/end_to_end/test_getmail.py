"""contrib/getmailrc and docs/clients/getmail.md in a real getmail, against a Dovecot that checks each token."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from support.fragments import contrib, explains, page, shown
from support.getmail import patient
from support.person import USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person with an empty maildir."""
    require_program("getmail", "getmail6")
    with login(installation, servers) as owner:
        assert owner.shell("mkdir -p ~/Mail/cur ~/Mail/new ~/Mail/tmp").returncode == 0
        yield owner


def configure(owner: Login, **words: str) -> None:
    """Write contrib/getmailrc for the test's server; this person's ~/.config is ~/config."""
    usual = {
        "server = outlook.office365.com": "server = localhost",
        "port = 993": f"port = {owner.servers.imap}",
        "/etc/ssl/certs/ca-certificates.crt": owner.servers.ca_file,
    }
    owner.file("config/getmail/getmailrc", contrib("getmailrc"), **(usual | words))


def fetch(owner: Login, command: str = "getmail", **environment: str) -> subprocess.CompletedProcess[str]:
    return owner.shell(command, **patient(owner), **environment)


def fetched(owner: Login) -> list[str]:
    return [path.read_text() for path in (owner.home / "Mail" / "new").iterdir()]


def test_mail_is_fetched(signed_in: Login) -> None:
    """By the page's test; once, however often it is run, and it stays on the server."""
    configure(signed_in)
    subject = signed_in.receive()

    tested = fetch(signed_in, f"set -e\n{shown('getmail', 'test')}")
    again = fetch(signed_in)

    assert (0, 0) == (tested.returncode, again.returncode), tested.stderr
    assert 'password="*"' in tested.stdout
    assert 1 == sum(subject in each for each in fetched(signed_in))
    assert any(subject in each for each in signed_in.servers.mail_of(USER))
    assert "method=XOAUTH2" in signed_in.servers.log()


def test_mail_is_fetched_over_pop_since_6_19(signed_in: Login) -> None:
    """As the page says; an older one logs in with a password, which gets nothing."""
    configure(
        signed_in,
        **{
            "SimpleIMAPSSLRetriever": "SimplePOP3SSLRetriever",
            "port = 993": f"port = {signed_in.servers.pop}",
            "--proto=IMAP": "--proto=POP",
            'mailboxes = ("INBOX",)\n': "",
        },
    )
    subject = signed_in.receive()
    version = re.search(r"\d+\.\d+", fetch(signed_in, "getmail --version").stdout)

    done = fetch(signed_in)

    assert version
    fetches = float(version[0]) >= 6.19
    assert (fetches, fetches) == (done.returncode == 0, any(subject in each for each in fetched(signed_in)))
    assert "getmail 6.18's POP retrievers do not support XOAUTH2" in " ".join(page("getmail").split())


def assert_page_explains(done: subprocess.CompletedProcess[str], why: subprocess.CompletedProcess[str]) -> None:
    """getmail shows cms-oauth's exit status, which the page has; the page's command says the rest, which it has too."""
    status = f"External program error (cms-oauth exited with {why.returncode})"

    assert status in done.stderr
    assert f"`{status}`" in page("getmail")
    assert explains("getmail", why.stderr)


def why(owner: Login) -> subprocess.CompletedProcess[str]:
    return owner.shell(shown("getmail", "why"))


def test_without_a_broker_no_login_is_tried(signed_in: Login) -> None:
    """getmail fails, the page explains it, and the next run fetches the mail."""
    configure(signed_in)
    subject = signed_in.receive()
    signed_in.broker.stop()
    before = signed_in.attempts()
    done = fetch(signed_in)
    attempts = signed_in.attempts() - before
    said = why(signed_in)
    signed_in.start_broker()
    again = fetch(signed_in)

    assert (True, 0, 0) == (done.returncode > 0, attempts, again.returncode)
    assert "(no-daemon)" in said.stderr
    assert_page_explains(done, said)
    assert any(subject in each for each in fetched(signed_in))


def test_signed_out(signed_in: Login) -> None:
    """No login is tried, and the page explains it."""
    configure(signed_in)
    signed_in.logout()
    before = signed_in.attempts()
    done = fetch(signed_in)
    attempts = signed_in.attempts() - before
    said = why(signed_in)
    signed_in.login()

    assert (True, 0) == (done.returncode > 0, attempts)
    assert "(sign-in-required)" in said.stderr
    assert_page_explains(done, said)


def test_a_protocol_that_is_not_served(signed_in: Login) -> None:
    """The page explains it."""
    configure(signed_in, **{"--proto=IMAP": "--proto=IMAPS"})

    done = fetch(signed_in)
    said = signed_in.shell(shown("getmail", "why").replace("IMAP", "IMAPS"))

    assert "(unknown-protocol)" in said.stderr
    assert_page_explains(done, said)


def test_without_cms_oauth_in_the_path(signed_in: Login) -> None:
    """The page knows what getmail says."""
    configure(signed_in)

    done = fetch(signed_in, PATH="/usr/bin:/bin")

    assert 0 != done.returncode
    assert 'Program "cms-oauth" not found' in done.stderr
    assert '`Program "cms-oauth" not found`' in page("getmail")


def test_the_server_is_verified(signed_in: Login) -> None:
    """The line with `ca_certs` does what its comment says: a server with an untrusted certificate gets no login."""
    others = "/etc/ssl/certs/ca-certificates.crt"
    configure(signed_in, **{others: others})
    before = signed_in.attempts()

    done = fetch(signed_in)

    assert 0 != done.returncode
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert before == signed_in.attempts()
