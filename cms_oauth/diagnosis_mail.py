"""What SMTP, IMAP and POP servers answer, and the causes: Exchange Online's replies first, then those of others.

The patterns are from logs, Microsoft's documentation and sources of servers; Microsoft changes its wording, so each
asks for no more than what tells one reply from another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cms_oauth.verdicts import Verdict

LEARN = "https://learn.microsoft.com/en-us"
_SMTP_AUTH = f"{LEARN}/exchange/clients-and-mobile-in-exchange-online/authenticated-client-smtp-submission"
_OAUTH = (
    f"{LEARN}/exchange/client-developer/legacy-protocols/"
    "how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth"
)
_SECURITY_DEFAULTS = f"{LEARN}/entra/fundamentals/security-defaults"
_AN_HOUR = "minutes, up to an hour"

SMTP_AUTH_MAILBOX = Verdict(
    "smtp-auth-off-mailbox",
    "Authenticated SMTP is switched off for this mailbox.",
    "administrator",
    (
        "Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false",
        "or click: Microsoft 365 admin center > Users > Active users > the user > Mail > Manage email apps > Authenticated SMTP",
    ),
    _AN_HOUR,
    _SMTP_AUTH,
    ("SmtpClientAuthentication is disabled for the Mailbox", "535 5.7.139", "Authenticated SMTP"),
)
SMTP_AUTH_TENANT = Verdict(
    "smtp-auth-off-organisation",
    "Authenticated SMTP is switched off for the whole organisation, and nothing switches it on for this mailbox.",
    "administrator",
    (
        "Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false  (the mailbox wins)",
        "or for everybody: Set-TransportConfig -SmtpClientAuthenticationDisabled $false",
        "look: Get-TransportConfig | fl SmtpClientAuthenticationDisabled; Get-CASMailbox {mailbox} | fl SmtpClientAuthenticationDisabled  (blank: as the organisation)",
    ),
    _AN_HOUR,
    _SMTP_AUTH,
    ("SmtpClientAuthentication is disabled for the Tenant", "535 5.7.139", "aka.ms/smtp_auth_disabled"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A reply and its causes, the likeliest first where nothing else is known.

    `pattern` is searched for, whatever the case. `open` says that the reply does not name its cause: then what the
    token and the server tell decides. `source` is where the wording comes from.
    """

    protocols: tuple[str, ...]
    pattern: re.Pattern[str]
    causes: tuple[Verdict, ...]
    source: str
    open: bool = False


def _row(protocols: str, pattern: str, *causes: Verdict, source: str, unsaid: bool = False) -> Row:
    return Row(tuple(protocols.split()), re.compile(pattern, re.IGNORECASE), causes, source, unsaid)


ROWS = (
    _row("smtp", r"disabled for the tenant|smtp_auth_disabled", SMTP_AUTH_TENANT, source="microsoft.md D3"),
    _row("smtp", r"disabled for the mailbox", SMTP_AUTH_MAILBOX, source="microsoft.md D3"),
)
