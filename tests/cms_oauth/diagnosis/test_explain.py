"""An error's text alone is enough: whoever said it, and whatever stands around it."""

from __future__ import annotations

import pytest

from cms_oauth.diagnosis.explain import explain

# Texts as people have them, and the name of the likeliest verdict.
KNOWN = {
    "AADSTS50105": "not-assigned",
    "AADSTS50105: Your administrator has configured the application to block users. Trace ID: x": "not-assigned",
    " 50105 ": "not-assigned",
    "Error Code: 53003": "conditional-access",
    '{"error": "invalid_grant", "suberror": "bad_token"}': "refresh-token-invalid",
    "http://localhost/?error=consent_required&state=x": "no-consent",
    "Error 400: admin_policy_enforced": "application-blocked",
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. [x]": "smtp-auth-off-organisation",
    "msmtp: server message: 535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the "
    "Mailbox.": "smtp-auth-off-mailbox",
    "2026-11-30 1abc == a@b.test R=r T=t defer (-46): SMTP error from remote mail server after MAIL FROM: host "
    "smtp.office365.com [1.2.3.4]: 432 4.3.2 Concurrent connections limit exceeded": "too-many-connections",
    "postfix/smtp[9]: B874: to=<x@b.test>, dsn=4.7.3, status=deferred (SASL authentication failed; server "
    "smtp.office365.com[1.2.3.4] said: 535 5.7.3 Authentication unsuccessful [X.PROD.OUTLOOK.COM])": "smtp-auth-off",
    "status=bounced (host smtp.office365.com[1.2.3.4] said: 550 5.7.60 SMTP; Client does not have permissions to send as "
    "this sender (in reply to MAIL FROM command))": "send-as-denied",
    "IMAP: 'a1 NO AUTHENTICATE failed.'": "imap-off",
    "* BYE Connection closed. 14": "server-trouble",
    "-ERR Logon failure: unknown user name or bad password.": "pop-polling",
    "neomutt: SMTP session failed: SmtpClientAuthentication is disabled for the Tenant": "smtp-auth-off-organisation",
    "cms-oauth: there is no socket at /run/cms.sock": "no-socket",
}


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_an_error_is_recognised_in_its_surroundings(text: str, expected: str) -> None:
    """Logs, quotes, addresses and numbers alone lead to the same rows as the error where it happens."""
    (found,) = explain([text])

    assert expected == found.verdicts[0].name


@pytest.mark.parametrize("text", ["", "hello", "250 2.1.0 Sender OK", "port 587 is in use", "call 5551234567", "535"])
def test_other_text_is_no_error(text: str) -> None:
    """A log's good lines, ports and telephone numbers are explained by nothing."""
    assert [] == explain([text])


def test_a_reply_is_told_without_what_a_log_puts_behind_it() -> None:
    """Postfix ends it with what it answered, and a bracket; a reply's own brackets stay."""
    texts = [
        "said: 554 5.9.9 no (yet) (in reply to end of DATA command))",
        "(said: 554 5.9.9 no (yet))",
        "554 5.9.9 no (yet)",
    ]

    assert ["554 5.9.9 no (yet)"] * 3 == [
        each.verdicts[0].cause.partition("reply: ")[2] for text in texts for each in explain([text])
    ]


def test_a_number_that_nobody_knows_says_where_to_look() -> None:
    """Entra's own page about a number is the link."""
    (found,) = explain(["AADSTS99999999"])

    assert found.verdicts[0].link.endswith("99999999")


def test_a_log_gives_each_cause_once() -> None:
    """A thousand lines with two causes are two explanations, which say how many lines they stand for."""
    log = ["AADSTS50105: a", "fine", "AADSTS50105: b", "-ERR Logon failure", "AADSTS50105: c"]

    assert [("AADSTS50105: a", 3), ("-ERR Logon failure", 1)] == [(each.line, each.times) for each in explain(log)]


def test_nothing_in_a_line_moves_a_cursor() -> None:
    """A line is shown as one line of printable characters."""
    (found,) = explain(["AADSTS50105 \x1b[2J\x9b31m"])

    assert found.line.isprintable()
