"""Replies of other providers' mail servers: each is told as that provider's, and what nobody knows is said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cms_oauth.diagnosis import servers
from cms_oauth.diagnosis.lookup import Evidence, diagnose, is_stale
from cms_oauth.diagnosis.verdicts import MOVERS, Claims, Verdict
from cms_oauth.providers import MICROSOFT, PROVIDERS, Provider

USER = "ann@example.test"

REPLIES = [
    (
        "imap",
        "imap.yandex.com",
        "NO [AUTHENTICATIONFAILED] AUTHENTICATE Invalid credentials or IMAP is disabled sc=ANQhQk2BrGkH_101523_7m",
        ["token-revoked", "yandex-imap-off"],
    ),
    (
        "imap",
        "imap.yandex.ru",
        "NO [AUTHENTICATIONFAILED] LOGIN invalid credentials or IMAP is disabled sc=x",
        ["yandex-imap-off", "password-sent"],
    ),
    (
        "smtp",
        "smtp.yandex.com",
        "535 5.7.8 Error: authentication failed: Invalid user or password!",
        ["token-revoked", "password-sent"],
    ),
    ("smtp", "smtp.yandex.com", "535 5.7.8 Error: authentication failed:Invalid format.", ["malformed-login"]),
    (
        "smtp",
        "smtp.yandex.com",
        "535 5.7.8 Error: authentication failed: This user does not have access rights to this service",
        ["yandex-imap-off", "token-revoked"],
    ),
    (
        "smtp",
        "smtp.yandex.com",
        "535 5.7.8 Error: authentication failed: Your message looks like spam. You need to use web for sending",
        ["yandex-spam"],
    ),
    ("smtp", "smtp.mail.yahoo.com", "535 5.7.0 (#AUTH005) Too many bad auth attempts.", ["yahoo-login"]),
    ("smtp", "smtp.aol.com", "535 5.7.0 (#AUTH005) Too many bad auth attempts.", ["yahoo-login"]),
    ("imap", "imap.mail.yahoo.com", "NO [AUTHENTICATIONFAILED] AUTHENTICATE Invalid credentials", ["token-revoked"]),
    (
        "imap",
        "imap.mail.yahoo.com",
        "NO [AUTHENTICATIONFAILED] LOGIN Invalid credentials",
        ["password-sent", "token-revoked"],
    ),
    (
        "smtp",
        "smtp.mail.ru",
        "535 5.7.0 NEOBHODIM parol prilozheniya https://help.mail.ru/ / Application password is REQUIRED",
        ["password-sent"],
    ),
]


@pytest.mark.parametrize(("protocol", "host", "reply", "expected"), REPLIES)
def test_a_reply(protocol: str, host: str, reply: str, expected: list[str]) -> None:
    """Told by the host; nothing of Exchange's or of another server's is guessed."""
    found = diagnose(protocol, reply, Evidence(user=USER, host=host))

    assert expected == [each.name for each in found]
    assert not any("Exchange" in each.cause or "learn.microsoft" in each.link for each in found if each.link)
    assert is_stale(found) == (expected[0] == "token-revoked")


@pytest.mark.parametrize(
    ("protocol", "greeting", "reply", "expected"),
    [
        (
            "imap",
            "* OK Yandex IMAP4rev1 at imap53p.mail.yandex.net:993 ready to talk with ::ffff:192.0.2.1:39078",
            "NO [AUTHENTICATIONFAILED] AUTHENTICATE Invalid credentials or IMAP is disabled",
            "token-revoked",
        ),
        (
            "smtp",
            "220 smtp2o.mail.yandex.net ESMTP (Want to use Yandex.Mail for your domain? Visit http://pdd.yandex.ru)",
            "535 5.7.8 Error: authentication failed: Invalid user or password!",
            "token-revoked",
        ),
        (
            "smtp",
            "220 smtp.mail.yahoo.com ESMTP ready",
            "535 5.7.0 (#AUTH005) Too many bad auth attempts.",
            "yahoo-login",
        ),
        ("smtp", "220 mail.corp.example ESMTP Postfix", "535 5.7.8 Error: authentication failed: no", "not-exchange"),
    ],
)
def test_a_server_under_another_name(protocol: str, greeting: str, reply: str, expected: str) -> None:
    """Then its greeting tells whose it is."""
    found = diagnose(protocol, reply, Evidence(user=USER, host="mail.corp.example", greeting=greeting))

    assert expected == found[0].name


@pytest.mark.parametrize("row", [row for row in PROVIDERS.values() if row.imap_host and row.name != MICROSOFT])
def test_what_nobody_knows_is_said(row: Provider) -> None:
    """A refusal that no row has: whose server it is, what to try, and that cms does not know what it means."""
    there = Evidence(user=USER, host=row.imap_host)
    refused = diagnose("imap", "NO [AUTHENTICATIONFAILED] Something that was never seen", there)

    assert ["provider-refused"] == [each.name for each in refused]
    assert f"This is a server of {row.title}, and cms does not know" in refused[0].cause
    assert f"`cms login {USER}`" in refused[0].steps[0]
    assert ["unknown", "provider-refused"] == [each.name for each in diagnose("imap", "NO new", there)]
    assert not is_stale(refused)


def test_a_fault_is_no_refusal() -> None:
    """What any server may say keeps its meaning."""
    found = diagnose("imap", "NO [UNAVAILABLE] Internal error", Evidence(host="imap.yandex.com"))

    assert ["server-trouble"] == [each.name for each in found]


def test_an_own_servers_refusal() -> None:
    """Its administrator is sent to its log; a server of Microsoft's for an account there is none of its business."""
    there = Evidence(user=USER, host="mail.corp.example", greeting="* OK Dovecot ready.")
    reply = "NO [AUTHENTICATIONFAILED] Authentication failed."
    (own,) = diagnose("imap", reply, replace(there, provider="oauth2"))

    assert ("server-refused", "you") == (own.name, own.mover)
    assert "This is a server with Dovecot, and its reply does not say why." == own.cause
    assert "read its log" in own.steps[0]
    assert ["not-exchange"] == [each.name for each in diagnose("imap", reply, there)]
    assert ["not-exchange"] == [each.name for each in diagnose("imap", reply, replace(there, provider=MICROSOFT))]


@pytest.mark.parametrize(
    ("provider", "host", "place"),
    [
        (MICROSOFT, "imap.gmail.com", "Exchange Online: outlook.office365.com, port 993"),
        ("google", "outlook.office365.com", "Google: imap.gmail.com, port 993"),
        ("fastmail", "imap.yandex.com", "Fastmail: imap.fastmail.com, port 993"),
    ],
)
def test_another_providers_server(provider: str, host: str, place: str) -> None:
    """What it says of the token means nothing: the account has its mailbox elsewhere. No other token is asked for."""
    known = Evidence(user=USER, host=host, provider=provider)
    refused = diagnose("imap", "NO AUTHENTICATE failed.", known)

    assert ["another-providers-server"] == [each.name for each in refused]
    assert place in refused[0].steps[0]
    assert not is_stale(refused)
    throttled = diagnose("imap", "NO Request is throttled. Suggested Backoff Time: 9 milliseconds", known)
    assert ["another-providers-server", "throttled"] == [each.name for each in throttled]
    after = diagnose("imap", "NO AUTHENTICATE failed.", replace(known, accepted=True))
    assert "another-providers-server" not in [each.name for each in after]


@pytest.mark.parametrize(
    ("provider", "claims"),
    [
        ("google", None),
        ("oauth2", None),
        ("", None),
        ("", Claims(issuer="https://accounts.google.com")),
        ("", Claims(issuer="https://sso.corp.example")),
        ("", Claims()),
    ],
)
def test_the_accounts_own_server(provider: str, claims: Claims | None) -> None:
    """If cms does not know the token's provider, it does not say that the server is another provider's."""
    known = Evidence(user=USER, host="imap.gmail.com", provider=provider, claims=claims)

    assert "token-revoked" == diagnose("imap", "NO Invalid credentials (Failure)", known)[0].name


def test_a_token_tells_whose_it_is() -> None:
    """`cms-oauth --test-imap` knows the provider only from the token: Entra's tokens have a tenant."""
    entras = Evidence(user=USER, host="imap.gmail.com", claims=Claims(tenant="t"))

    assert "another-providers-server" == diagnose("imap", "NO Invalid credentials (Failure)", entras)[0].name
    assert not servers.strangers("aol", "yahoo")


@pytest.mark.parametrize("verdict", servers.VERDICTS, ids=lambda each: each.name)
def test_every_verdict_is_whole(verdict: Verdict) -> None:
    """A sentence, who can fix it and how; every one that is about a known reply has words to search for."""
    assert re.fullmatch(r"[A-Z{].*\.", verdict.cause)
    assert verdict.mover in MOVERS
    assert verdict.steps
    assert verdict.takes
    assert bool(verdict.words) == (verdict not in (servers.SILENT, servers.UNSAID, servers.OTHER_PROVIDER))


def test_every_row_is_of_a_provider() -> None:
    """The first column is a provider's name."""
    assert {name for name, _, _ in servers.ROWS} <= PROVIDERS.keys()
