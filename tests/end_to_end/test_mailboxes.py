"""What was sent is read back with cms-oauth's token; and the same servers refuse every token that they should."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest
from support.daemon import Daemon, account_line, daemons, settings_lines
from support.reachable import ALICE, Installation
from support.servers import MailServers

USER = "reads@domain.com"
OTHER = "other@domain.com"


@pytest.fixture(scope="module")
def broker(installation: Installation, servers: MailServers) -> Iterator[Daemon]:
    """A person's cms, signed in for all three protocols."""
    servers.add_user(USER)
    servers.add_user(OTHER)
    with daemons(installation) as make:
        broker = make(ALICE)
        broker.configure(
            settings_lines(broker.home, servers.entra)
            + account_line("account", USER, servers.entra)
            + f'CredentialServer("{broker.sockets}/cms.sock", [account], protocols=["SMTP", "IMAP", "POP"])\n'
        )
        broker.start()
        broker.sign_in(USER, servers.entra)
        yield broker


def token(broker: Daemon, protocol: str) -> str:
    """Return a token from cms-oauth."""
    got = broker.token(broker.sockets / "cms.sock", USER, f"--proto={protocol}", "--output=token", "--no_newline")
    assert got.returncode == 0, got.stderr
    return got.stdout


def xoauth2(user: str, bearer: str) -> bytes:
    """Return the string that a mail program makes of a token."""
    return f"user={user}\x01auth=Bearer {bearer}\x01\x01".encode()


def over_smtp(servers: MailServers, user: str, bearer: str, message: str = "") -> None:
    """Log in at the submission server, and send a message to oneself."""
    with smtplib.SMTP("localhost", servers.submission) as server:
        server.starttls(context=servers.tls)
        server.ehlo()
        server.auth("XOAUTH2", lambda challenge=None: "" if challenge else xoauth2(user, bearer).decode())
        if message:
            server.sendmail(user, [user], message)


def over_imap(servers: MailServers, user: str, bearer: str) -> list[bytes]:
    """Log in over IMAP and return the messages of the INBOX."""
    with imaplib.IMAP4_SSL("localhost", servers.imap, ssl_context=servers.tls) as server:
        server.authenticate("XOAUTH2", lambda challenge: b"" if challenge else xoauth2(user, bearer))
        server.select("INBOX", readonly=True)
        numbers = server.search(None, "ALL")[1][0].split()
        return [server.fetch(each.decode(), "(RFC822)")[1][0][1] for each in numbers]  # type: ignore[index,misc]  # typeshed knows no structure


def over_pop(servers: MailServers, user: str, bearer: str) -> list[bytes]:
    """Log in over POP and return the messages."""
    server = poplib.POP3_SSL("localhost", servers.pop, context=servers.tls)
    try:
        server._shortcmd("AUTH XOAUTH2 " + b64encode(xoauth2(user, bearer)).decode())  # type: ignore[attr-defined]  # poplib has no AUTH
        return [b"\n".join(server.retr(number + 1)[1]) for number in range(server.stat()[0])]
    finally:
        server.close()


PROTOCOLS: dict[str, Callable[[MailServers, str, str], object]] = {
    "SMTP": over_smtp,
    "IMAP": over_imap,
    "POP": over_pop,
}
REFUSED = (smtplib.SMTPAuthenticationError, imaplib.IMAP4.error, poplib.error_proto)


def test_what_was_sent_is_read_back(broker: Daemon, servers: MailServers) -> None:
    """One sign-in sends a message, and reads it over IMAP and over POP."""
    over_smtp(servers, USER, token(broker, "SMTP"), "Subject: there and back\n\nhello\n")
    servers.wait_for_mail(USER, "there and back")

    assert any(b"there and back" in each for each in over_imap(servers, USER, token(broker, "IMAP")))
    assert any(b"there and back" in each for each in over_pop(servers, USER, token(broker, "POP")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_expired_token_is_refused(broker: Daemon, servers: MailServers, protocol: str) -> None:
    """The servers really look at a token: one that has expired does not get in."""
    with pytest.raises(REFUSED):
        PROTOCOLS[protocol](servers, USER, servers.entra.issue(USER, life=-1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_anothers_token_is_refused(broker: Daemon, servers: MailServers, protocol: str) -> None:
    """Another user's token does not open this mailbox."""
    with pytest.raises(REFUSED):
        PROTOCOLS[protocol](servers, OTHER, token(broker, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_token_without_the_permission_is_refused(broker: Daemon, servers: MailServers, protocol: str) -> None:
    """A token is good for the protocols that were consented to, and for no other."""
    with pytest.raises(REFUSED):
        PROTOCOLS[protocol](servers, USER, servers.entra.issue(USER, ["https://outlook.office.com/Mail.Read"]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_revoked_token_is_refused(servers: MailServers, protocol: str) -> None:
    """A token that worked does not work any more once its user's sessions are revoked."""
    user = servers.add_user(f"revoked-{protocol.lower()}@domain.com")
    bearer = servers.entra.issue(user)
    PROTOCOLS[protocol](servers, user, bearer)
    servers.entra.revoke(user, access=True)

    with pytest.raises(REFUSED):
        PROTOCOLS[protocol](servers, user, bearer)


@pytest.mark.parametrize(
    ("test", "port", "last"),
    [
        ("--test-smtp", "submission", "reply: retcode (235); Msg: b'Authentication succeeded'"),
        ("--test-imap", "imap", ""),
        ("--test-pop", "pop", ""),
    ],
)
def test_cms_oauth_tests_the_servers(broker: Daemon, servers: MailServers, test: str, port: str, last: str) -> None:
    """Each test of cms-oauth's passes, verifying the server's certificate, and shows no credential."""
    done = broker.run(
        "cms-oauth",
        f"--user={USER}",
        f"--cms_sock={broker.sockets}/cms.sock",
        f"{test}=localhost:{getattr(servers, port)}",
        SSL_CERT_FILE=servers.ca_file,
    )

    assert 0 == done.returncode, done.stderr
    assert (done.stdout + done.stderr).rstrip().endswith(last)
    assert token(broker, "SMTP") not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("test", "port"), [("--test-smtp", "submission"), ("--test-imap", "imap"), ("--test-pop", "pop")]
)
def test_cms_oauth_trusts_no_unknown_server(broker: Daemon, servers: MailServers, test: str, port: str) -> None:
    """An untrusted certificate ends the test before a token is sent."""
    done = broker.run(
        "cms-oauth",
        f"--user={USER}",
        f"--cms_sock={broker.sockets}/cms.sock",
        f"{test}=localhost:{getattr(servers, port)}",
    )

    assert 0 != done.returncode
    assert "certificate" in done.stderr


def test_a_refused_token_is_replaced(broker: Daemon, servers: MailServers) -> None:
    """A server refuses the token that cms holds: the test says so, gets another one from cms, and passes with that."""
    broker.outlive_pause(broker.sockets / "cms.sock", USER, servers.entra.token_life)
    refused = token(broker, "IMAP")
    servers.entra.directory.revoke_access(USER)
    socket = f"--cms_sock={broker.sockets}/cms.sock"
    tested = broker.run(
        "cms-oauth", f"--user={USER}", socket, f"--test-imap=localhost:{servers.imap}", SSL_CERT_FILE=servers.ca_file
    )
    fresh = broker.run(
        "cms-oauth", f"--user={USER}", socket, "--proto=IMAP", "--output=token", "--rejected", stdin=refused
    )

    assert (0, "") == (tested.returncode, tested.stdout), tested.stderr
    assert "asking cms for another one" in tested.stderr
    assert refused not in tested.stderr
    assert (0, False) == (fresh.returncode, fresh.stdout.strip() == refused), fresh.stderr
    # It opens the mailbox.
    over_imap(servers, USER, fresh.stdout.strip())
