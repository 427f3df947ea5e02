"""The submission server, driven by smtplib."""

from __future__ import annotations

import base64
import logging
import smtplib
import socket
import ssl
from collections.abc import Iterator

import pytest
from support.waiting import PATIENCE

from cms.sandbox.entra import Entra
from cms.sandbox.mail_server import MailLogin
from cms.sandbox.submission import Submission
from cms_oauth import sasl

A, B, SHARED = "a@example.test", "b@example.test", "shared@example.test"
FORMS = {"XOAUTH2": sasl.xoauth2, "OAUTHBEARER": sasl.oauthbearer}


@pytest.fixture(scope="module")
def entra() -> Iterator[Entra]:
    with Entra([B], token_size=4096) as entra:
        entra.add_user(A, [SHARED])
        yield entra


@pytest.fixture
def submission(entra: Entra) -> Iterator[Submission]:
    with Submission(entra.introspect, entra.cert_file) as submission:
        yield submission


@pytest.fixture
def client(entra: Entra, submission: Submission) -> Iterator[smtplib.SMTP]:
    client = connect(entra, submission)
    yield client
    client.close()


def connect(entra: Entra, submission: Submission) -> smtplib.SMTP:
    client = smtplib.SMTP("localhost", submission.port, timeout=PATIENCE)
    client.starttls(context=ssl.create_default_context(cafile=entra.ca_file))
    client.ehlo()
    return client


def log_in(
    client: smtplib.SMTP, user: str, token: str, mechanism: str = "XOAUTH2", *, one_line: bool = True
) -> tuple[int, bytes]:
    """Return the last reply."""
    credential = FORMS[mechanism](user, token)
    try:
        return client.auth(
            mechanism, lambda challenge=None: "" if challenge else credential, initial_response_ok=one_line
        )
    except smtplib.SMTPAuthenticationError as error:
        return error.smtp_code, bytes(error.smtp_error)  # type: ignore[arg-type]  # typed as for errors without a reply


@pytest.mark.parametrize("mechanism", FORMS)
@pytest.mark.parametrize("one_line", [True, False])
def test_token_is_accepted(
    client: smtplib.SMTP, entra: Entra, submission: Submission, mechanism: str, *, one_line: bool
) -> None:
    """A 4 KB token of the named user's is accepted, in one line and in two steps, and mail with it."""
    reply = log_in(client, A, entra.issue(A), mechanism, one_line=one_line)
    client.sendmail(A, [B, SHARED], "Subject: hello\r\n\r\nbody\r\n")

    assert (235, b"2.7.0 Authentication successful") == reply
    assert [MailLogin(mechanism, A, accepted=True)] == submission.logins
    received = submission.messages[0]
    assert (A, A, (B, SHARED)) == (received.user, received.sender, received.recipients)
    assert b"Subject: hello\r\n\r\nbody\r\n" == received.content


@pytest.mark.parametrize(
    ("user", "scope", "life"),
    [
        (B, "https://outlook.office.com/SMTP.Send", 60),
        (A, "https://outlook.office.com/IMAP.AccessAsUser.All", 60),
        (A, "https://graph.microsoft.com/SMTP.Send", 60),
        (A, "https://outlook.office.com/SMTP.Send", -1),
    ],
)
def test_token_that_does_not_count(entra: Entra, submission: Submission, user: str, scope: str, life: float) -> None:
    """Another user's token, one for IMAP or Graph only and an expired one are refused as Exchange does it."""
    client = connect(entra, submission)
    code, text = log_in(client, user, entra.issue(A, [scope], life))
    client.close()

    assert (535, b"5.7.3 Authentication unsuccessful") == (code, text.partition(b" [")[0])
    assert [MailLogin("XOAUTH2", user, accepted=False)] == submission.logins


def test_nothing_before_authentication(client: smtplib.SMTP) -> None:
    """Mail without a login is refused."""
    assert 530 == client.mail(A)[0]


def test_nothing_before_tls(submission: Submission) -> None:
    """Without TLS there is no AUTH and no mail."""
    with smtplib.SMTP("localhost", submission.port, timeout=PATIENCE) as plain:
        plain.ehlo()

        assert (False, 530, 530) == (plain.has_extn("auth"), plain.docmd("AUTH", "XOAUTH2")[0], plain.mail(A)[0])


@pytest.mark.parametrize("mechanism", FORMS)
def test_error_challenge(entra: Entra, mechanism: str) -> None:
    """A failure comes as a JSON challenge first where that is wanted, and is over after the empty answer."""
    with Submission(entra.introspect, entra.cert_file, error_challenge=True) as submission:
        client = connect(entra, submission)
        credential = FORMS[mechanism](B, entra.issue(A))

        code, challenge = client.docmd("AUTH", f"{mechanism} {sasl.encode(credential)}")
        end = client.docmd("")
        client.close()

    assert (334, 535) == (code, end[0])
    assert b'"status": "401"' in base64.b64decode(challenge)


@pytest.mark.parametrize(
    "words", ["XOAUTH2 =", "XOAUTH2 !!!", "XOAUTH2 dXNlcj1h", "OAUTHBEARER dXNlcj1h", "XOAUTH2 /w==", "OAUTHBEARER ="]
)
def test_malformed(client: smtplib.SMTP, words: str) -> None:
    """What is no credential at all is answered with 501."""
    assert (501, b"5.5.124 Invalid XOAUTH2 auth data") == client.docmd("AUTH", words)


def test_stop_ends_sessions(entra: Entra) -> None:
    """stop closes connections, with and without TLS, that say nothing."""
    with Submission(entra.introspect, entra.cert_file) as submission:
        secure = connect(entra, submission)
        plain = socket.create_connection(("127.0.0.1", submission.port), timeout=PATIENCE)
        plain.recv(100)

    with plain:
        try:
            rest = plain.recv(100)
        except ConnectionResetError:
            rest = b""
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        secure.noop()
    secure.close()
    assert b"" == rest


def test_no_credential_is_logged(client: smtplib.SMTP, entra: Entra, caplog: pytest.LogCaptureFixture) -> None:
    """aiosmtpd's log has no part of a credential, at any level and not of a broken one either."""
    caplog.set_level(logging.DEBUG)
    token = entra.issue(A)
    client.docmd("AUTH", "XOAUTH2")
    client.docmd(sasl.encode(sasl.xoauth2(A, token)) + "!")
    log_in(client, A, token, one_line=False)

    encoded = sasl.encode(sasl.xoauth2(A, token))
    assert [] == [text for text in (token[:20], encoded[40:60]) if text in caplog.text]
