"""Replies of Gmail's servers: each has its own meaning, and none is told as Exchange's."""

from __future__ import annotations

import re

import pytest

from cms_oauth.diagnosis import gmail
from cms_oauth.diagnosis.lookup import Evidence, diagnose, is_stale
from cms_oauth.diagnosis.verdicts import MOVERS, Verdict

CHALLENGE = '{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
HOSTS = {"smtp": "smtp.gmail.com", "imap": "imap.gmail.com", "pop": "pop.gmail.com"}

REPLIES = [
    ("imap", "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", "token-revoked"),
    (
        "smtp",
        "535-5.7.8 Username and Password not accepted. For more information, go to 535 5.7.8 ...",
        "token-revoked",
    ),
    ("imap", "NO Invalid SASL argument. a1", "malformed-login"),
    ("imap", "NO Lookup failed a1", "gmail-no-mailbox"),
    (
        "imap",
        "NO [ALERT] IMAP access is disabled for your domain. Please contact your administrator",
        "gmail-imap-domain",
    ),
    ("imap", "NO [ALERT] Your account is not enabled for IMAP use.", "gmail-imap-off"),
    (
        "imap",
        "NO [ALERT] Please log in via your web browser: https://support.google.com/mail/answer/78754",
        "gmail-web-login",
    ),
    ("smtp", "534-5.7.14 <https://accounts.google.com/signin/continue?sarp=1> Please log in", "gmail-web-login"),
    ("smtp", "534-5.7.9 Please log in with your web browser and then try again. WebLoginRequired", "gmail-web-login"),
    ("pop", "-ERR [AUTH] Web login required: https://support.google.com/mail/answer/78754", "gmail-web-login"),
    ("smtp", "534-5.7.9 Application-specific password required. InvalidSecondFactor", "gmail-password-sent"),
    ("imap", "NO [ALERT] Too many simultaneous connections. (Failure)", "gmail-connections"),
    ("imap", "BYE [OVERQUOTA] Account exceeded command or bandwidth limits.", "gmail-bandwidth"),
    ("smtp", "454 4.7.0 Too many login attempts, please try again later.", "gmail-logins"),
    ("smtp", "421 4.7.0 Try again later, closing connection.", "gmail-logins"),
    ("pop", "-ERR [SYS/PERM] Your account is not enabled for POP access.", "gmail-pop-off"),
    ("imap", "NO [UNAVAILABLE] Temporary System Error", "gmail-fault"),
    ("pop", "-ERR [SYS/TEMP] Temporary system problem. Please try again later.", "gmail-fault"),
]


@pytest.mark.parametrize(("protocol", "reply", "name"), REPLIES)
def test_a_reply_of_gmails(protocol: str, reply: str, name: str) -> None:
    """Told by the host, or by the greeting where another name leads there; nothing of Exchange's is guessed."""
    greeting = {"smtp": "220 smtp.gmail.com ESMTP x - gsmtp", "imap": "* OK Gimap ready for requests"}.get(protocol, "")
    known = diagnose(protocol, reply, Evidence(user="ann@gmail.com", host=HOSTS[protocol], challenge=CHALLENGE))

    assert name == known[0].name
    assert not any("Exchange" in each.cause or "microsoft" in each.link for each in known if each.name != name)
    if greeting:
        relayed = diagnose(protocol, reply, Evidence(host="mail.corp.example", greeting=greeting))
        assert name == relayed[0].name


def test_a_new_token_is_tried_after_a_stale_one() -> None:
    """Gmail says the same of an old token, of one without the scope and of another account's: the first is mended at once."""
    found = diagnose("imap", REPLIES[0][1], Evidence(user="ann@gmail.com", host="imap.gmail.com", challenge=CHALLENGE))

    assert is_stale(found)
    assert ["token-revoked", "gmail-scope", "gmail-user"] == [each.name for each in found]
    assert '("status":"400"' not in found[0].cause
    assert '"status":"400"' in found[0].cause
    assert "`cms login ann@gmail.com`" in found[1].steps[0]


def test_exchange_keeps_its_own() -> None:
    """The same words of another server are another server's."""
    full = diagnose("imap", "NO [OVERQUOTA] Quota exceeded", Evidence(host="outlook.office365.com"))

    assert "mailbox-full" == full[0].name
    assert "unknown" == diagnose("imap", "NO something new", Evidence(host="imap.gmail.com"))[0].name


@pytest.mark.parametrize("verdict", gmail.VERDICTS, ids=lambda each: each.name)
def test_every_verdict_is_whole(verdict: Verdict) -> None:
    """A sentence, who can fix it and how, and words to search for."""
    assert re.fullmatch(r"[A-Z{].*\.", verdict.cause)
    assert verdict.mover in MOVERS
    assert verdict.steps
    assert verdict.takes
    assert verdict.words
