"""Replies of the mail servers of providers other than Microsoft, by whose server it is. Pure.

Gmail's are in `gmail`. The wordings are from Yandex's documentation and from transcripts that users have published; none
was seen in a session of cms's own. What Fastmail's, Seznam.cz's and Thundermail's servers say of a token is not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from cms_oauth.diagnosis import gmail, mail
from cms_oauth.diagnosis.verdicts import Evidence, Verdict
from cms_oauth.providers import GOOGLE, MICROSOFT, OWN, PROVIDERS, Provider, of_host, provider_of

_AT_ONCE = "immediately"
_YANDEX = "https://yandex.com/dev/mail/doc/en/"

# The name is that of the verdict for any server: a new token is tried once after it.
TOKEN = replace(
    mail.REVOKED,
    cause="The server does not accept the token: it has expired or was revoked, is not for {protocol}, or is another account's.",
    link="",
    words=("AUTHENTICATE Invalid credentials", "authentication failed: Invalid user or password!"),
)
YANDEX_OFF = Verdict(
    "yandex-imap-off",
    "Mail programs are not allowed for this mailbox.",
    "you",
    ("Yandex Mail in a browser > Settings > Email clients: allow imap.yandex.com by IMAP, with OAuth tokens",),
    "within minutes",
    _YANDEX,
    ("Invalid credentials or IMAP is disabled", "This user does not have access rights to this service"),
)
YANDEX_SPAM = Verdict(
    "yandex-spam",
    "Yandex takes the message for spam, and wants to see a person.",
    "you",
    ("open the address in the reply in a browser, and confirm; or send the message from Yandex's own page",),
    "within minutes",
    "",
    ("authentication failed: Your message looks like spam", "prove you are not a robot"),
)
YAHOO_LOGIN = Verdict(
    "yahoo-login",
    "The server refuses the login. Yahoo says this of a wrong password too, however few there were.",
    "you",
    (
        "get a new token: {refresh}",
        "make sure that the mail program sends a token, not a password: docs/clients/README.md",
    ),
    _AT_ONCE,
    "",
    ("535 5.7.0 (#AUTH005) Too many bad auth attempts",),
)
PASSWORD = replace(gmail.PASSWORD, name="password-sent", words=("LOGIN Invalid credentials", "parol prilozheniya"))
# For a server of a provider whose reply no row knows.
SILENT = Verdict(
    "provider-refused",
    "This is {software}, and cms does not know what it means by this reply.",
    "you",
    (
        "get a new token: {refresh}; if that is refused too, sign in again: {login}",
        "the login name has to be the address of the mailbox that signed in",
        "look in the mailbox's settings whether {protocol} is allowed; docs/providers.md has what is known of the provider",
    ),
    _AT_ONCE,
)
# For the server of an account whose provider has no row here, such as one's own.
UNSAID = replace(
    mail.OTHER_SERVER,
    name="server-refused",
    cause="This is {software}, and its reply does not say why.",
    steps=mail.OTHER_SERVER.steps[:2],
    words=(),
)
OTHER_PROVIDER = Verdict(
    "another-providers-server",
    "{host} is a server of {server_of}, and the token is of {token_of}: no server takes another provider's tokens.",
    "you",
    (
        "log in where the account has its mailbox: {login_place}",
        "if the mailbox is at {server_of}: it needs an account of that provider in the configuration, see docs/providers.md",
    ),
    _AT_ONCE,
)

_YAHOO = (
    (r"#AUTH\d+|too many bad auth", (YAHOO_LOGIN,)),
    (r"\bLOGIN invalid credentials", (PASSWORD, TOKEN)),
    (r"AUTHENTICATE invalid credentials", (TOKEN,)),
)
_TABLES: Mapping[str, tuple[tuple[str, tuple[Verdict, ...]], ...]] = {
    GOOGLE: gmail.ROWS,
    "yandex": (
        (r"looks like spam|not a robot", (YANDEX_SPAM,)),
        (r"failed: ?invalid format", (replace(mail.MALFORMED, link=_YANDEX),)),
        (r"access rights to this service", (YANDEX_OFF, TOKEN)),
        (r"\bLOGIN invalid credentials or imap is disabled", (YANDEX_OFF, PASSWORD)),
        (r"invalid credentials or imap is disabled", (TOKEN, YANDEX_OFF)),
        (r"invalid user or password", (TOKEN, PASSWORD)),
    ),
    "yahoo": _YAHOO,
    "aol": _YAHOO,
    "mailru": ((r"parol prilozheniya|application password", (PASSWORD,)),),
}

# Whose server it is, what a reply has in it (without regard to case), and the causes, the likeliest first. The first row of
# a server counts.
ROWS = tuple(
    (name, re.compile(pattern, re.IGNORECASE), causes) for name, rows in _TABLES.items() for pattern, causes in rows
)

# What only this provider's servers say, in their greeting or in a reply: another name may lead to them, or none is known.
_WORDS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        (
            GOOGLE,
            # Its refusals over IMAP end with the word in brackets.
            (
                r"\bgsmtp\b|\bGimap ready\b|Username and Password not accepted|WebLoginRequired|InvalidSecondFactor|\w \(Failure\)|"
                r"\b(support|accounts)\.google\.com\b|\b5\.7\.9 Application-specific password required|\[AUTH\] Web login required|"
                r"not enabled for (IMAP use|POP access)|exceeded command or bandwidth limits"
            ),
        ),
        ("yandex", r"\bYandex IMAP4|\.yandex\.net ESMTP|or IMAP is disabled|access rights to this service"),
        ("yahoo", r"^220 \S+\.yahoo\.com ESMTP|\(#AUTH\d+\)"),
        ("mailru", r"parol prilozheniya"),
    )
)


def whose(said: str, host: str) -> Provider | None:
    """Return the provider whose mail server this is, None for Microsoft's and for one that nobody knows.

    `said` is what the server said so far, with a line for each.
    """
    words = (name for name, pattern in _WORDS if any(map(pattern.search, said.split("\n"))))
    return of_host(host) or PROVIDERS.get(next(words, ""))


def provider_of_account(evidence: Evidence) -> str:
    """Return the account's provider, as was told or as the token says, "" for unknown."""
    claims = evidence.claims
    if evidence.provider or not claims:
        return evidence.provider
    return MICROSOFT if claims.tenant else provider_of(claims.issuer) if claims.issuer else ""


def is_of_others(evidence: Evidence) -> bool:
    """Return True if the account is known not to be Microsoft's."""
    return provider_of_account(evidence) not in ("", MICROSOFT)


def title(provider: str) -> str:
    return PROVIDERS[provider].title if provider else "an unknown provider"


def strangers(token_of: str, server_of: str) -> bool:
    """Return True if tokens of the one provider are certainly nothing to servers of the other. "" is for an unknown one.

    A server that the configuration describes itself may be any provider's. Yahoo and AOL are one system.
    """
    if not token_of or not server_of or OWN in (token_of, server_of):
        return False
    return _TABLES.get(token_of, token_of) != _TABLES.get(server_of, server_of)


# What only Microsoft has: its names, and the commands that its administrators give in PowerShell.
_MICROSOFTS = re.compile(r"microsoft|exchange|outlook|(?-i:`[A-Z][a-z]+-[A-Z])", re.IGNORECASE)


def elsewhere(verdict: Verdict, unknown: Verdict) -> Verdict:
    """Return a verdict of `mail` as it holds at a server that is not Microsoft's; `unknown` if too little of it does."""
    steps = tuple(step for step in verdict.steps if not _MICROSOFTS.search(step))
    if _MICROSOFTS.search(verdict.cause) or not steps:
        return unknown
    return replace(verdict, steps=steps, link="" if _MICROSOFTS.search(verdict.link) else verdict.link)


def causes(provider: Provider, reply: str) -> tuple[Verdict, ...]:
    """Return the possible causes of a reply of a provider's server, none if it is not known."""
    return next((found for name, pattern, found in ROWS if name == provider.name and pattern.search(reply)), ())


# All of them but Gmail's, for the pages.
VERDICTS = tuple(each for each in vars().copy().values() if isinstance(each, Verdict))
