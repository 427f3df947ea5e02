"""An error's text alone is enough: whoever said it, and whatever stands around it."""

from __future__ import annotations

import pytest

from cms_oauth.diagnosis import entra, oauth2
from cms_oauth.diagnosis.explain import explain
from cms_oauth.diagnosis.verdicts import UNKNOWN

# Texts as people have them, and the name of the likeliest verdict.
KNOWN = {
    "AADSTS50105": "not-assigned",
    "AADSTS50105: Your administrator has configured the application to block users. Trace ID: x": "not-assigned",
    " 50105 ": "not-assigned",
    "Error Code: 53003": "conditional-access",
    '{"error": "invalid_grant", "suberror": "bad_token"}': "refresh-token-invalid",
    "http://localhost/?error=consent_required&state=x": "no-consent",
    "Error 400: admin_policy_enforced": "client-blocked",
    '{"error": "invalid_grant", "error_description": "reauth related error", "error_subtype": "invalid_rapt"}': "session-control",
    '{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}': "ended",
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
    "a1 NO [AUTHENTICATIONFAILED] AUTHENTICATE invalid credentials or IMAP is disabled sc=x": "token-revoked",
    "535 5.7.8 Error: authentication failed: This user does not have access rights to this service": "yandex-imap-off",
    "535 5.7.0 NEOBHODIM parol prilozheniya https://help.mail.ru / Application password is REQUIRED": "password-sent",
    "Application-specific password required. Learn more at InvalidSecondFactor": "gmail-password-sent",
    "cms-oauth: there is no socket at /run/cms.sock": "no-socket",
    "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy. Contact your "
    "administrator.": "security-defaults",
    "cms-oauth: the keyring is locked (locked) - unlock it": "locked",
    "msmtp: cannot locate host smtp.office365.com: Temporary failure in name resolution": "no-such-host",
    "smtplib.SMTPAuthenticationError: (535, b'5.7.3 Authentication unsuccessful [X.PROD.OUTLOOK.COM]')": "smtp-auth-off",
    "imaplib.IMAP4.error: b'AUTHENTICATE failed.'": "imap-off",
    "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)": "token-revoked",
    "Invalid credentials (Failure)": "token-revoked",
    "A3 NO [ALERT] Your account is not enabled for IMAP use. Please visit your Gmail settings page. (Failure)": "gmail-imap-off",
    "NO [ALERT] Please log in via your web browser: https://support.google.com/mail/answer/78754 (Failure)": "gmail-web-login",
    "-ERR [AUTH] Web login required": "gmail-web-login",
    "-ERR [SYS/PERM] Your account is not enabled for POP access.": "gmail-pop-off",
    "534-5.7.9 Application-specific password required. Learn more at": "gmail-password-sent",
    "534-5.7.14 <https://accounts.google.com/signin/continue?x> Please": "gmail-web-login",
    "* BYE [OVERQUOTA] Account exceeded command or bandwidth limits.": "gmail-bandwidth",
    "Error: SASL(-4): no mechanism available: No worthy mechs found": "no-plugin",
    "status=deferred (SASL authentication failed; cannot authenticate to server smtp.office365.com[1.2.3.4]: no mechanism "
    "available)": "no-plugin",
    "invalid_grant": "refused",
    'oauth2: "invalid_grant" "Token has been expired or revoked."': "ended",
    "invalid_rapt": "session-control",
    "interaction_required": "person-wanted",
    "redirect_uri_mismatch": "redirect-not-registered",
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


@pytest.mark.parametrize("word", sorted((*entra.ERRORS, *(key[1] for key in oauth2.ROWS))))
def test_an_error_word_alone(word: str) -> None:
    """It has a meaning, and where Google means something else, both are told; a whole line would say more."""
    (found,) = explain([word])

    assert UNKNOWN != found.verdicts[0].name
    assert "give all of it to `cms explain`" in found.verdicts[0].steps[-1]
    assert len(found.verdicts) == len({each.name for each in found.verdicts})


def test_what_google_means_by_a_word() -> None:
    """Is told too: that a project in testing ends each sign-in after a week is found nowhere else."""
    (found,) = explain(["Error: invalid_grant"])

    assert ["refused", "ended"] == [each.name for each in found.verdicts]


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
