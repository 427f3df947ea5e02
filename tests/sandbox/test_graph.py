"""The sandbox's sendMail refuses what Graph refuses; what it accepts, the tests of contrib/graph-sendmail show."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
import requests
from support.waiting import PATIENCE

from cms.sandbox.directory import APP_ID, Client
from cms.sandbox.entra import Entra

USER, OTHER, SHARED = "user@example.test", "other@example.test", "shared@example.test"
GRAPH = "https://graph.microsoft.com"
LETTER = b"To: a@example.test\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def entra() -> Iterator[Entra]:
    with Entra([OTHER, SHARED]) as entra:
        entra.add_user(USER, [SHARED])
        yield entra


def post(
    entra: Entra,
    text: bytes = LETTER,
    *,
    sender: str = "me",
    token: str = "",
    kind: str = "text/plain",
    raw: bytes = b"",
) -> tuple[int, str]:
    """Post a message; return the status and the error's code."""
    token = token or entra.issue(USER, [f"{GRAPH}/Mail.Send"])
    reply = requests.post(
        f"{entra.authority}/v1.0/{sender}/sendMail",
        data=raw or base64.b64encode(text),
        headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
        verify=entra.ca_file,
        timeout=PATIENCE,
    )
    if not reply.content:
        return reply.status_code, ""
    error = reply.json()["error"]
    assert reply.headers["request-id"] == error["innerError"]["request-id"]
    return reply.status_code, error["code"]


def test_a_message_is_accepted_without_a_body(entra: Entra) -> None:
    """202, and the mailbox is the sender; Bcc is a recipient whom nobody sees."""
    status = post(entra, b"Bcc: b@example.test\r\nTo: a@example.test\r\n\r\nhello\r\n", sender=f"users/{USER}")
    posted = entra.graph.messages[-1]

    assert (202, "") == status
    assert (USER, USER, ("a@example.test", "b@example.test")) == (posted.user, posted.sender, posted.recipients)
    assert b"b@example.test" not in posted.content


@pytest.mark.parametrize("token", ["nonsense", "expired", "for mail"])
def test_tokens_that_are_not_for_graph(entra: Entra, token: str) -> None:
    """401: no token, one that has expired, one for another resource."""
    tokens = {
        "nonsense": "no-token",
        "expired": entra.issue(USER, [f"{GRAPH}/Mail.Send"], life=-1),
        "for mail": entra.issue(USER),
    }

    assert (401, "InvalidAuthenticationToken") == post(entra, token=tokens[token])


@pytest.mark.parametrize("scope", [f"{GRAPH}/Mail.Read", f"{GRAPH}/SMTP.Send"])
def test_a_permission_is_needed(entra: Entra, scope: str) -> None:
    """403 for a token of Graph's that may do something else."""
    assert (403, "ErrorAccessDenied") == post(entra, token=entra.issue(USER, [scope]))


def test_what_is_no_message(entra: Entra) -> None:
    """400 for JSON, which is not simulated, and for what is no base64; 413 for more than 4 MB."""
    assert (400, "ErrorMimeContentInvalidBase64String") == post(entra, kind="application/json")
    assert (400, "ErrorMimeContentInvalidBase64String") == post(entra, raw=LETTER)
    assert (413, "BadRequest") == post(entra, raw=b"QUJD" * (1024 * 1024 + 1))


@pytest.mark.parametrize(
    "text", [b"Subject: none\r\n\r\n", b"To: alice\r\n\r\n", b"To: undisclosed-recipients:;\r\n\r\n"]
)
def test_recipients_are_addresses(entra: Entra, text: bytes) -> None:
    """400 without one, and for a name without a domain."""
    assert (400, "ErrorInvalidRecipients") == post(entra, text)


def test_senders(entra: Entra) -> None:
    """Another mailbox needs Send As and Mail.Send.Shared, and one that does not exist is 404."""
    shared = entra.issue(USER, [f"{GRAPH}/Mail.Send.Shared"])
    as_shared, as_other = (f"From: {each}\r\n".encode() + LETTER for each in (SHARED, OTHER))

    assert (202, "") == post(entra, as_shared, token=shared)
    assert (202, "") == post(entra, sender=f"users/{SHARED}", token=shared)
    assert (403, "ErrorSendAsDenied") == post(entra, as_shared)
    assert (403, "ErrorSendAsDenied") == post(entra, as_other, token=shared)
    assert (403, "ErrorSendAsDenied") == post(entra, sender=f"users/{OTHER}", token=shared)
    assert (404, "ErrorInvalidUser") == post(entra, sender="users/nobody@example.test", token=shared)


def test_an_application_names_a_mailbox(entra: Entra) -> None:
    """It has none of its own."""
    entra.register(Client(APP_ID, (), mailboxes=(USER,)))
    token = entra.directory.issue_for_app(GRAPH, APP_ID)

    assert (400, "BadRequest") == post(entra, token=token)
    assert (202, "") == post(entra, sender=f"users/{USER}", token=token)
