"""What a reply means: which candidate comes first by what the token and the server tell."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.diagnosis import lookup, mail
from cms_oauth.diagnosis.lookup import (
    diagnose,
    identifiers_of,
    is_greeting,
    is_stale,
    may_be_stale,
    of_client,
    of_entra,
)
from cms_oauth.diagnosis.verdicts import MOVERS, Claims, Evidence
from cms_oauth.microsoft import CLOUDS, EXCHANGE_HOSTS
from cms_oauth.moves import commands_of, signs_in

USER = "user@contoso.example"
NOW = 1_800_000_000.0
GOOD = Claims(
    audience="https://outlook.office.com",
    scopes=("SMTP.Send", "IMAP.AccessAsUser.All", "POP.AccessAsUser.All"),
    user=USER,
    tenant="t",
    app="11111111-2222-3333-4444-555555555555",
    expires=NOW + 3600,
)
APPLICATION = GOOD._replace(user="", scopes=(), application=True)
HOSTS = {"smtp": "smtp.office365.com", "imap": "outlook.office365.com", "pop": "outlook.office365.com"}
ID = "[AM0PR04CA0123.eurprd04.prod.outlook.com 2026-11-20T09:15:27.311Z 08DE2791D54B1C3F]"
REFUSALS = {
    "smtp": f"535 5.7.3 Authentication unsuccessful {ID}",
    "imap": "AUTHENTICATE failed.",
    "pop": "-ERR Authentication failure: unknown user name or bad password.",
}


def evidence(protocol: str, claims: Claims | None = GOOD, **more: object) -> Evidence:
    known = Evidence(user=USER, host=HOSTS[protocol], claims=claims, now=NOW)
    return replace(known, **more)  # type: ignore[arg-type]  # the fields' types differ


def names(protocol: str, reply: str, known: Evidence | None = None) -> list[str]:
    return [each.name for each in diagnose(protocol, reply, known)]


@pytest.mark.parametrize(
    ("claims", "more", "expected"),
    [
        (GOOD, {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (None, {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (Claims(), {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (GOOD._replace(audience="https://graph.microsoft.com"), {}, ("token-audience",) * 3),
        (GOOD._replace(audience="00000003-0000-0000-c000-000000000000"), {}, ("token-audience",) * 3),
        (GOOD._replace(audience="https://vault.azure.net"), {}, ("token-audience",) * 3),
        (GOOD._replace(audience="00000002-0000-0ff1-ce00-000000000000"), {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (GOOD._replace(audience="https://outlook.office365.com/"), {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (GOOD._replace(audience="https://outlook.office365.us"), {}, ("token-cloud",) * 3),
        (GOOD._replace(scopes=("EWS.AccessAsUser.All",)), {}, ("token-scope",) * 3),
        (GOOD._replace(scopes=("SMTP.Send",)), {}, ("smtp-auth-off", "token-scope", "token-scope")),
        (GOOD._replace(user="ann@contoso.example"), {}, ("token-user", "no-full-access", "no-full-access")),
        (GOOD._replace(user=USER.upper()), {}, ("smtp-auth-off", "imap-off", "pop-off")),
        (GOOD._replace(expires=NOW - 1), {}, ("token-expired",) * 3),
        (GOOD._replace(expires=NOW + 60), {"skew": -120.0}, ("clock-wrong",) * 3),
        (GOOD._replace(expires=NOW - 60), {"skew": 120.0}, ("smtp-auth-off", "imap-off", "pop-off")),
        (GOOD, {"skew": 600.0}, ("clock-wrong",) * 3),
        (APPLICATION, {}, ("service-principal", "application-permission", "application-permission")),
        (
            APPLICATION._replace(roles=("IMAP.AccessAsApp",)),
            {},
            ("application-permission", "service-principal", "application-permission"),
        ),
        (GOOD, {"challenge": '{"status":"invalid_token"}'}, ("token-revoked",) * 3),
        (GOOD, {"user": f"ann@contoso.example\\{USER}"}, ("shared-syntax",) * 3),
    ],
)
def test_what_the_evidence_decides(claims: Claims | None, more: dict[str, object], expected: tuple[str, ...]) -> None:
    """A refusal that names no cause: audience, permission, user, time, clock, application; else what is switched off."""
    first = tuple(names(protocol, reply, evidence(protocol, claims, **more))[0] for protocol, reply in REFUSALS.items())

    assert expected == first


def test_what_is_worse_comes_first() -> None:
    """A token that is expired, for another resource, with few permissions and another user's: fixed in this order."""
    worst = Claims(
        audience="https://graph.microsoft.com", scopes=("Mail.Read",), user="ann@contoso.example", expires=NOW - 5
    )

    assert ["token-expired", "token-audience", "token-scope", "token-user", "smtp-auth-off"] == names(
        "smtp", REFUSALS["smtp"], evidence("smtp", worst)
    )[:5]


@pytest.mark.parametrize(
    "reply",
    [
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
        "535 5.7.139 Authentication unsuccessful, user is locked by your organization's security defaults policy.",
    ],
)
def test_a_cause_that_the_reply_names_comes_first(reply: str) -> None:
    """What is wrong with the token as well is said after it."""
    both = names("smtp", reply, evidence("smtp", GOOD._replace(expires=NOW - 5)))

    assert names("smtp", reply)[0] == both[0]
    assert "token-expired" == both[-1]


@pytest.mark.parametrize(
    ("reply", "usual"),
    [
        ("535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.", "credentials-incorrect"),
        ("535 5.7.139 Authentication unsuccessful, the request did not meet the criteria.", "conditional-access"),
    ],
)
def test_the_evidence_counts_before_a_reply_that_only_guesses(reply: str, usual: str) -> None:
    """Exchange says so of a token for Graph, too: what is certain comes first."""
    graph = evidence("smtp", GOOD._replace(audience="https://graph.microsoft.com"))

    assert ["token-audience", usual] == names("smtp", reply, graph)[:2]
    assert usual == names("smtp", reply, evidence("smtp"))[0]


def test_a_logon_failure_of_pops_names_no_cause() -> None:
    """Too many of them are likeliest; but a token for Graph never opens a mailbox, and POP may be switched off."""
    reply = "-ERR Logon failure: unknown user name or bad password."
    graph = evidence("pop", GOOD._replace(audience="https://graph.microsoft.com"))

    assert ["pop-polling", "server-trouble", "pop-off"] == names("pop", reply, evidence("pop"))[:3]
    assert ["token-audience", "pop-polling"] == names("pop", reply, graph)[:2]


def test_what_the_evidence_rules_out_is_not_said() -> None:
    """A delegated token needs no service principal, and who owns the mailbox needs no full access to it."""
    with_claims = names("imap", REFUSALS["imap"], evidence("imap"))
    without = names("imap", REFUSALS["imap"], evidence("imap", None))

    assert {"service-principal", "no-full-access", "personal-switches"} == set(without) - set(with_claims)


@pytest.mark.parametrize("user", ["a@outlook.com", "a@hotmail.co.uk", "a@live.de", "a@msn.com"])
def test_a_personal_account_has_no_administrator(user: str) -> None:
    """Its owner is told what to click."""
    known = Evidence(user=user, host="outlook.office365.com", now=NOW)

    assert ["personal-switches"] == names("imap", REFUSALS["imap"], known)
    assert ["personal-switches", "microsoft-outage"] == names("imap", "User is authenticated but not connected.", known)
    assert ["personal-alias", "personal-switches"] == names(
        "smtp", REFUSALS["smtp"], replace(known, host="smtp-mail.outlook.com")
    )
    assert "personal-host" == names("smtp", REFUSALS["smtp"], replace(known, host="smtp.office365.com"))[0]


@pytest.mark.parametrize(
    "reply",
    [
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
        "535 5.7.139 Authentication unsuccessful. Visit https://aka.ms/smtp_auth_disabled",
        "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be authenticated.",
    ],
)
def test_a_personal_account_is_never_sent_to_an_administrator(reply: str) -> None:
    """Whatever the reply says is switched off: its owner switches it on, in the settings of Outlook.com."""
    first, *others = diagnose("smtp", reply, Evidence(user="a@outlook.com", host="smtp-mail.outlook.com"))

    assert "personal-switches" == first.name
    assert "Sync email" in first.steps[0]
    assert {"you"} == {each.mover for each in (first, *others)}


def test_an_app_password_does_not_meet_the_criteria_either() -> None:
    """It is the last candidate for an account of an organisation's."""
    assert "password-used" in names("smtp", "535 5.7.139 the request did not meet the criteria", evidence("smtp"))


@pytest.mark.parametrize(("protocol", "likeliest"), [("smtp", "smtp-auth-off"), ("imap", "imap-off")])
def test_a_personal_account_with_a_private_domain(protocol: str, likeliest: str) -> None:
    """Its token is opaque and its address looks like any other: its causes come last, unless another fact names it."""
    known = evidence(protocol, None, user="jane@gmail.com")
    unsaid, yes, no = (names(protocol, REFUSALS[protocol], replace(known, personal=it)) for it in (None, True, False))

    assert (likeliest, "personal-switches") == (unsaid[0], unsaid[-1])
    assert {"personal-host", "personal-alias", "personal-switches"} >= set(yes)
    assert "personal-switches" in yes
    assert not any(name.startswith("personal-") for name in no)
    assert "personal-switches" not in names(protocol, REFUSALS[protocol], evidence(protocol))


@pytest.mark.parametrize(
    ("protocol", "host", "wrong"),
    [
        ("smtp", "smtp.office365.com", True),
        ("smtp", "outlook.office365.com", True),
        ("smtp", "SMTP-mail.Outlook.com", False),
        ("imap", "outlook.office365.com", False),
        ("imap", "imap-mail.outlook.com", False),
        ("imap", "smtp-mail.outlook.com", True),
        ("imap", "smtp.office365.com", True),
        ("imap", "outlook.office365.us", True),
        ("pop", "outlook.office365.com", False),
        ("pop", "pop-mail.outlook.com", False),
        ("pop", "imap-mail.outlook.com", True),
        ("pop", "partner.outlook.cn", True),
        ("imap", "localhost", False),
    ],
)
def test_the_wrong_host_for_a_personal_account(protocol: str, host: str, *, wrong: bool) -> None:
    """Whatever the protocol; a host that is not Microsoft's is the owner's business."""
    known = Evidence(user="a@outlook.com", host=host)

    assert wrong == ("personal-host" == names(protocol, REFUSALS[protocol], known)[0])


@pytest.mark.parametrize("reply", [REFUSALS["imap"], "User is authenticated but not connected.", "LOGIN failed."])
def test_an_old_report_on_administrators_comes_last(reply: str) -> None:
    """It is marked as old, is about IMAP alone, and is not shown for a personal account."""
    *_, last = diagnose("imap", reply, evidence("imap"))

    assert "administrator-mailbox" == last.name
    assert last.cause.startswith("Some users report")
    assert "administrator-mailbox" not in names("pop", REFUSALS["pop"], evidence("pop"))
    assert "administrator-mailbox" not in names("imap", reply, evidence("imap", None, user="a@outlook.com"))


@pytest.mark.parametrize(
    ("protocol", "reply", "expected"),
    [
        ("smtp", "535 5.7.139 Authentication unsuccessful, multi-factor authentication is required.", "unknown"),
        ("smtp", "530 5.7.0 Authentication required", "not-logged-in"),
        ("smtp", "550 authentication is required for relay", "not-logged-in"),
        ("smtp", "452 4.2.2 The mailbox is over quota", "mailbox-full"),
        ("smtp", "421 4.7.0 Rate limit exceeded, try later", "throttled"),
        ("smtp", "450 4.7.1 Error: too much mail from 198.51.100.7", "throttled"),
        ("smtp", "550 5.1.90 recipient rate limit exceeded", "sending-limit"),
        ("imap", "[ALERT] Mailbox is full", "mailbox-full"),
        ("imap", "[OVERQUOTA] x", "mailbox-full"),
        ("pop", "-ERR [SYS/TEMP] mailbox over quota", "mailbox-full"),
        ("pop", "-ERR maildrop already locked", "pop-polling"),
    ],
)
def test_limits_and_needs_in_other_servers_words(protocol: str, reply: str, expected: str) -> None:
    """A full mailbox is not a fault that passes, and a need of the account is not a missing login."""
    assert expected == names(protocol, reply, evidence(protocol))[0]


def test_the_tenant_of_personal_accounts() -> None:
    """Their domain may be their owner's own."""
    claims = GOOD._replace(tenant="9188040d-6c67-4c5b-b112-36a304b66dad")

    assert ["personal-switches"] == names("imap", REFUSALS["imap"], evidence("imap", claims))


@pytest.mark.parametrize(
    ("protocol", "reply", "greeting", "software"),
    [
        ("imap", "[AUTHENTICATIONFAILED] Authentication failed.", "", "Dovecot"),
        ("imap", "authentication failed", "* OK [CAPABILITY IMAP4rev1] Dovecot (Debian) ready.", "Dovecot"),
        ("pop", "-ERR [AUTH] Authentication failed.", "", "Dovecot"),
        ("smtp", "535 5.7.8 Error: authentication failed: x", "", "Postfix"),
        ("smtp", "535 5.7.8 no", "220 mail ESMTP Postfix (Debian/GNU)", "Postfix"),
        ("smtp", "535 Incorrect authentication data", "", "exim"),
        ("imap", "login failed", "* OK x Cyrus IMAP 3.6 server ready", "Cyrus"),
        ("imap", "LOGIN failed", "* OK Courier-IMAP ready", "Courier"),
    ],
)
def test_other_servers_are_recognised(protocol: str, reply: str, greeting: str, software: str) -> None:
    """Nothing that Exchange's administrators could do is said of them."""
    verdicts = diagnose(protocol, reply, evidence(protocol, host="mail.example.net", greeting=greeting))

    assert "not-exchange" == verdicts[0].name
    assert f"This is a server with {software}, not Exchange" in verdicts[0].cause
    assert {each.mover for each in verdicts} == {"you"}


@pytest.mark.parametrize(
    ("protocol", "reply", "greeting"),
    [
        ("smtp", "535 authorization failed (#5.7.0)", "220 mail.example.net ESMTP"),
        ("smtp", "535 Authentication failed.", "220 courier.example.net ESMTP"),
        ("smtp", "535 5.7.0 authentication failed", "220 mx ESMTP Sendmail 8.17/8.17; Fri, 20 Nov 2026"),
        ("imap", "AUTHENTICATE failed", "* OK IMAP4rev1 proxy server ready"),
        ("imap", "[AUTHORIZATIONFAILED] AUTHENTICATE Invalid credentials", "* OK [CAPABILITY IMAP4rev1] ready"),
        ("imap", "Login failed.", "* OK mail.example.net ready"),
        ("pop", "-ERR authentication failed", "+OK Hello there."),
        ("pop", "-ERR [SYS/PERM] invalid credentials", "+OK DavMail POP ready"),
    ],
)
def test_servers_that_greet_as_no_exchange_does(protocol: str, reply: str, greeting: str) -> None:
    """qmail, Courier, sendmail, Zimbra, DavMail...: no command of Exchange's is given, and the greeting is shown."""
    there = evidence(protocol, host="mail.example.net", greeting=greeting)

    assert ["not-exchange"] == [each for each in names(protocol, reply, there) if each != "unknown"]
    assert greeting in diagnose(protocol, reply, there)[-1].cause
    assert "not-exchange" not in names(protocol, reply, evidence(protocol, greeting=greeting))


def test_another_server_with_an_expired_token() -> None:
    """Then the time comes first: no server takes it."""
    known = evidence("imap", GOOD._replace(expires=NOW - 9), host="mail.example.net", greeting="* OK Dovecot ready.")

    assert ["token-expired", "not-exchange"] == names("imap", "[AUTHENTICATIONFAILED] Authentication failed.", known)


def test_dovecot_calls_another_users_token_invalid_too() -> None:
    """The user that is known to be another one comes first, and no other token is asked for."""
    known = evidence(
        "imap",
        GOOD._replace(user="ann@contoso.example"),
        host="mail.example.net",
        greeting="* OK Dovecot ready.",
        challenge='{"status":"invalid_token"}',
    )
    verdicts = diagnose("imap", "[AUTHENTICATIONFAILED] Authentication failed.", known)

    assert ["not-exchange", "token-user", "token-revoked"] == [each.name for each in verdicts]
    assert not is_stale(verdicts)


@pytest.mark.parametrize("greeting", ["* OK Dovecot ready.", "* OK ready", ""])
def test_a_server_that_says_which_token_it_wants(greeting: str) -> None:
    """RFC 7628: a scope that the token lacks, and another issuer's tokens; both come before what is only likely."""
    scope = '{"status":"insufficient_scope","scope":"mail","openid-configuration":"ISSUER/.well-known/openid-configuration"}'
    own = GOOD._replace(audience="mail", issuer="https://sso.corp.example/realms/a", tenant="")
    there = evidence("imap", own, host="mail.example.net", greeting=greeting)

    def said(issuer: str, status: str) -> list[str]:
        challenge = scope.replace("ISSUER", issuer).replace("insufficient_scope", status)
        return names("imap", "[AUTHENTICATIONFAILED] Authentication failed.", replace(there, challenge=challenge))

    assert "server-scope" == said("https://sso.corp.example/realms/a", "insufficient_scope")[0]
    assert "token-issuer" == said("https://sso.corp.example/realms/b", "invalid_token")[0]
    assert "token-issuer" not in said("https://sso.corp.example/realms/a", "invalid_token")
    (first, *_) = diagnose(
        "imap",
        "[AUTHENTICATIONFAILED] Authentication failed.",
        replace(there, challenge=scope.replace("ISSUER", "https://sso.corp.example/realms/a")),
    )
    assert first.cause.endswith("another scope: mail.")


@pytest.mark.parametrize(
    ("document", "issuer", "same"),
    [
        ("https://a.example/.well-known/openid-configuration", "https://a.example/", True),
        ("https://a.example/.well-known/oauth-authorization-server/realms/x", "https://a.example/realms/x", True),
        ("https://a.example/realms/x", "https://a.example/realms/x", True),
        ("https://a.example/.well-known/openid-configuration", "https://b.example", False),
        ("", "https://b.example", True),
    ],
)
def test_whose_tokens_a_server_takes(document: str, issuer: str, *, same: bool) -> None:
    """By the address of the issuer's document, in either place that the RFCs have for it."""
    known = evidence(
        "imap",
        GOOD._replace(issuer=issuer, tenant=""),
        host="mail.example.net",
        greeting="* OK Dovecot ready.",
        challenge=json.dumps({"status": "invalid_token", "openid-configuration": document}),
    )

    assert same == ("token-issuer" not in names("imap", "[AUTHENTICATIONFAILED] Authentication failed.", known))


def test_entra_has_many_names() -> None:
    """A token of Microsoft's may have another issuer than the address says that it comes from."""
    known = evidence(
        "imap",
        GOOD._replace(issuer="https://sts.windows.net/5a5a5a5a/", tenant="5a5a5a5a"),
        greeting="* OK Dovecot ready.",
        challenge='{"openid-configuration":"https://login.microsoftonline.com/common/v2.0/.well-known/openid-configuration"}',
    )

    assert "token-issuer" not in names("imap", "[AUTHENTICATIONFAILED] Authentication failed.", known)


def test_another_servers_unknown_reply() -> None:
    """The reply itself, and whose server it is."""
    assert ["unknown", "not-exchange"] == names("smtp", "599 what", Evidence(greeting="220 mail ESMTP Exim 4.96"))


def test_another_servers_tokens_are_its_own_business() -> None:
    """But Graph's tokens are for no mail server."""
    own = evidence("imap", GOOD._replace(audience="https://mail.example.net"), host="mail.example.net")
    graph = replace(own, claims=GOOD._replace(audience="https://graph.microsoft.com"))

    assert "token-audience" not in names("imap", "authentication failed", own)
    assert "token-audience" == names("imap", "authentication failed", graph)[0]


@pytest.mark.parametrize("host", sorted(EXCHANGE_HOSTS))
def test_what_is_served_as_exchanges_is_no_foreign_token(host: str) -> None:
    """The daemon and the diagnosis agree on Exchange's names: none that is let through is called the wrong resource."""
    known = evidence("imap", GOOD._replace(audience=f"https://{host}"))

    assert "token-audience" not in names("imap", REFUSALS["imap"], known)


@pytest.mark.parametrize("host", ["outlook.office365.com", "outlook.office365.us", "partner.outlook.cn"])
@pytest.mark.parametrize("audience", ["https://outlook.com", "https://ps.outlook.com"])
def test_a_name_without_a_cloud_is_no_other_clouds(host: str, audience: str) -> None:
    """Exchange's older names do not tell where they are."""
    known = evidence("imap", GOOD._replace(audience=audience), host=host)

    assert "token-cloud" not in names("imap", REFUSALS["imap"], known)


@pytest.mark.parametrize(
    ("host", "audience", "wrong"),
    [
        ("outlook.office365.us", "https://outlook.office.com", True),
        ("outlook.office365.us", "https://outlook.office365.us", False),
        ("outlook-dod.office365.us", "https://outlook-dod.office365.us", False),
        ("outlook-dod.office365.us", "https://outlook.office365.us", True),
        ("partner.outlook.cn", "https://partner.outlook.cn", False),
        ("smtp.partner.outlook.cn", "https://outlook.office.com", True),
        ("smtp-mail.outlook.com", "https://outlook.office.com", False),
        ("notoutlook.com.example.net", "https://outlook.office365.us", False),
    ],
)
def test_clouds(host: str, audience: str, *, wrong: bool) -> None:
    """Each national cloud takes its own tokens."""
    known = evidence("imap", GOOD._replace(audience=audience), host=host)

    assert wrong == ("token-cloud" in names("imap", REFUSALS["imap"], known))


@pytest.mark.parametrize(
    ("protocol", "switch"),
    [
        ("smtp", "-SmtpClientAuthenticationDisabled $false"),
        ("imap", "-ImapEnabled $true"),
        ("pop", "-PopEnabled $true"),
    ],
)
def test_security_defaults_are_followed_by_the_protocols_own_switch(protocol: str, switch: str) -> None:
    """Not by SMTP's where IMAP or POP was refused."""
    verdicts = diagnose(protocol, REFUSALS[protocol], evidence(protocol))
    found = next(each for each in verdicts if each.name == "security-defaults")

    assert (
        f"switch {protocol.upper()} on for the mailbox: `Set-CASMailbox -Identity {USER} {switch}`" in found.steps[-2]
    )


OFF = "535 5.7.139 Authentication unsuccessful, "


@pytest.mark.parametrize(
    ("protocol", "reply", "way"),
    [
        ("smtp", f"{OFF}SmtpClientAuthentication is disabled for the Tenant. {ID}", "contrib/graph-sendmail"),
        ("smtp", f"{OFF}SmtpClientAuthentication is disabled for the Mailbox. {ID}", "contrib/graph-sendmail"),
        ("smtp", "535 5.7.139 see https://aka.ms/smtp_auth_disabled", "contrib/graph-sendmail"),
        ("smtp", REFUSALS["smtp"], "contrib/graph-sendmail"),
        ("smtp", f"{OFF}user is locked by your organization's security defaults policy. {ID}", "Microsoft Graph"),
        ("smtp", f"{OFF}the request did not meet the criteria to be authenticated successfully. {ID}", "Graph"),
        ("imap", "BAD User is authenticated but not connected.", "DavMail"),
        ("imap", REFUSALS["imap"], "DavMail"),
        ("pop", "-ERR User is authenticated but not connected.", "DavMail"),
        ("pop", REFUSALS["pop"], "DavMail"),
    ],
)
def test_what_is_switched_off_has_another_way(protocol: str, reply: str, way: str) -> None:
    """The last step is for those whose administrator leaves it off; it names a page that exists."""
    last = diagnose(protocol, reply, evidence(protocol))[0].steps[-1]
    page = re.search(r"docs/[\w-]+\.md", last)

    assert way in last
    assert page is not None
    assert (Path(__file__).parents[3] / page[0]).is_file()


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("smtp", "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect."),
        ("smtp", "554 5.2.252 SendAsDenied"),
        ("smtp", "421 4.3.2 Service not active"),
        ("imap", "NO [UNAVAILABLE] Server Unavailable. 15"),
        ("imap", "BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds"),
    ],
)
def test_what_is_not_switched_off_has_none(protocol: str, reply: str) -> None:
    """Another way does not help where the mailbox may be used, or where only time helps."""
    assert "docs/other-ways.md" not in str(diagnose(protocol, reply, evidence(protocol))[0].steps)


def test_commands_name_the_mailbox() -> None:
    """Quoted as PowerShell wants it; unknown, a stand-in."""
    known = evidence("smtp", None, user="o'neil@contoso.example")
    named, unnamed = diagnose("smtp", REFUSALS["smtp"], known)[0], diagnose("smtp", REFUSALS["smtp"])[0]

    assert (
        "Set-CASMailbox -Identity 'o''neil@contoso.example' -SmtpClientAuthenticationDisabled $false" in named.steps[0]
    )
    assert "-Identity USER@DOMAIN " in unnamed.steps[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("BAD Request is throttled. Suggested Backoff Time: 299961 milliseconds", "5 minutes"),
        ("Request is throttled. Suggested Backoff Time: 45000 milliseconds", "45 s"),
        ("Request is throttled. Retry-After: 7200", "2 hours"),
        ("451 4.7.500 Server busy, try again in 3 minutes", "3 minutes"),
        ("451 4.7.500 Server busy, try again after 30 seconds", "30 s"),
        ("451 4.7.500 Server busy", "some minutes"),
    ],
)
def test_throttling_names_its_time(reply: str, expected: str) -> None:
    """As the reply does, in what a person reads, wherever it is said."""
    for protocol in ("smtp", "imap", "pop"):
        verdict = diagnose(protocol, reply, evidence(protocol, GOOD._replace(expires=NOW - 5)))[0]

        assert ("throttled", "wait", expected) == (verdict.name, verdict.mover, verdict.takes)
        assert expected in verdict.cause


def test_what_the_server_offers_is_named() -> None:
    """Where it takes no OAuth2 login."""
    offers = evidence("smtp", None, offered=("LOGIN", "PLAIN"))

    assert "it offers: LOGIN, PLAIN." in diagnose("smtp", "it offers no OAuth2 login", offers)[0].cause
    reply = "504 5.7.4 Unrecognized authentication type"
    assert "it offers: none." in diagnose("smtp", reply, Evidence(host="mail.example.test"))[0].cause
    assert "what it offers is not known." in diagnose("smtp", reply)[0].cause


@pytest.mark.parametrize(
    ("protocol", "reply", "meaning"),
    [
        ("smtp", "538 5.9.77 Flux capacitor required", "this way to log in needs encryption"),
        ("smtp", "454 4.9.1 Tea break", "the login failed for the moment"),
        ("smtp", "473 4.9.2 Half time", "the fault is temporary: the same may work later"),
        ("smtp", "571 5.9.9 Not today", "the fault is permanent: the same will not work later"),
        ("imap", "NO [CONTACTADMIN] ring the bell", "whoever runs the server has to look at it"),
        ("pop", "-ERR [AUTH] the door is shut", "it refused the login"),
    ],
)
def test_the_code_of_an_unknown_reply_is_explained(protocol: str, reply: str, meaning: str) -> None:
    """It says so first, and what the standard says of its code; guesses come after that."""
    unknown, *guesses = diagnose(protocol, reply)

    assert "unknown" == unknown.name
    assert reply in unknown.cause
    assert f"read the reply; its code says: {meaning}" == unknown.steps[0]
    assert "unknown" not in [each.name for each in guesses]


def test_what_the_token_shows_is_no_guess() -> None:
    """An expired token is refused whatever the words; it comes first, and another one is asked for."""
    reply, now = "535 5.9.9 Nobody has seen this", 1000.0
    found = diagnose("smtp", reply, Evidence(host="smtp.office365.com", claims=Claims(expires=10), now=now))

    assert ["token-expired", "unknown", "smtp-auth-off"] == [each.name for each in found[:3]]
    assert is_stale(found)


@pytest.mark.parametrize(
    ("protocol", "host", "expected"),
    [
        ("smtp", "contoso-com.mail.protection.outlook.com", "log in at smtp.office365.com, port 587"),
        ("imap", "contoso-com.d-v1.mx.microsoft", "log in at outlook.office365.com, port 993"),
        ("pop", "contoso.MAIL.eo.outlook.com", "log in at outlook.office365.com, port 995"),
        ("smtp", "outlook-com.olc.protection.outlook.com", "log in at smtp-mail.outlook.com, port 587"),
        ("smtp", "agency.mail.protection.office365.us", "log in at smtp.office365.us, port 587"),
        ("smtp", "contoso-cn.mail.protection.partner.outlook.cn", "log in at smtp.partner.outlook.cn, port 587"),
    ],
)
def test_a_host_that_takes_no_logins(protocol: str, host: str, expected: str) -> None:
    """Whatever it answers, or not at all: the host that does is named."""
    for reply in ("it offers no OAuth2 login, only: none", f"nothing came from {host}:993 for 20 s", "550 what"):
        first = diagnose(protocol, reply, Evidence(host=host))[0]

        assert "mail-exchanger" == first.name
        assert first.steps[0].startswith(expected)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "mail.example.test", "192.0.2.7"])
def test_no_connection_with_a_server_of_ones_own(host: str) -> None:
    """Nothing is said of Exchange's ports, nor of another protocol than the one that was tried."""
    (verdict,) = diagnose("smtp", f"no connection with {host}:39917: Connection refused", Evidence(host=host))
    advice = " ".join(map(str, verdict.steps))

    assert "no-connection" == verdict.name
    assert ("ss --listening" in advice) == (host in ("localhost", "127.0.0.1", "::1"))
    assert not [each for each in ("587", "993", "IMAP", "POP", "465") if each in advice]


def test_no_connection_with_exchange() -> None:
    """The port of the protocol that was tried has to be open in the network."""
    reply = "no connection with it: Network is unreachable"
    smtp, imap = (
        diagnose(name, reply, Evidence(host="outlook.office365.com"))[0].steps[1] for name in ("smtp", "imap")
    )

    asked = "ask the administrator of your network, or try from another network"
    assert f"outgoing port 587 must be open; many networks allow that and block 25 and 465: {asked}" == str(smtp)
    assert f"outgoing port 993 must be open; {asked}" == str(imap)


@pytest.mark.parametrize("cloud", ["global", "gcc-high", "dod", "china"])
def test_another_servers_port_25(cloud: str) -> None:
    """Where Exchange takes the logins of this token is named, in its cloud."""
    claims = Claims(audience=CLOUDS[cloud].resource)
    first = diagnose(
        "smtp", "it offers no OAuth2 login, only: none", Evidence(host="mx.contoso.example", claims=claims)
    )[0]

    assert "no-oauth" == first.name
    assert f"Exchange Online: {CLOUDS[cloud].smtp_host}, port 587" in first.steps


@pytest.mark.parametrize("challenge", ['{"status":"401","schemes":"bearer"}', "invalid_token", "the token has expired"])
@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("imap", "NO AUTHENTICATE failed."),
        ("pop", "-ERR Logon failure: unknown user name or bad password."),
        ("smtp", "535 5.7.3 Authentication unsuccessful"),
        ("smtp", "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect."),
    ],
)
def test_nobody_signs_an_application_in(protocol: str, reply: str, challenge: str) -> None:
    """Its own cause comes first, and no verdict tells anybody to sign in; another token is asked for all the same."""
    claims = Claims(application=True, roles=("SMTP.SendAsApp", "IMAP.AccessAsApp", "POP.AccessAsApp"))
    host = "outlook.office365.com"
    found = diagnose(
        protocol, reply, Evidence(user="box@contoso.example", host=host, claims=claims, challenge=challenge)
    )

    assert "service-principal" == found[0].name
    assert "token-revoked" in [each.name for each in found]
    assert [] == [step for each in found for step in each.steps if signs_in(step) or "sign in again" in step]
    assert is_stale(found)


@pytest.mark.parametrize(
    ("protocol", "greeting", "kind"),
    [
        ("smtp", "HTTP/1.0 408 Request Timeout", "a web server"),
        ("imap", "<html><head><title>Log in to the network</title>", "a web server"),
        ("pop", "RTSP/1.0 400 Bad Request", "a web server"),
        ("smtp", "SSH-2.0-dropbear", "an SSH server"),
        ("smtp", "220 ProFTPD Server ready (FTP)", "an FTP server"),
        ("smtp", "200 news.example InterNetNews NNRP server ready", "a news server"),
        ("smtp", "220 mail.example LMTP Dovecot ready", "an LMTP server"),
        ("smtp", "+OK POP3 ready", "a POP server"),
        ("pop", "* OK IMAP4rev1 ready", "an IMAP server"),
        ("imap", "+OK POP3 ready", "a POP server"),
        ("imap", "220 mail.example ESMTP", "an SMTP server"),
        ("imap", ":irc.example NOTICE AUTH", "no mail server"),
        ("smtp", "2", "no mail server"),
    ],
)
def test_what_answers_is_no_server_of_this_protocol(protocol: str, greeting: str, kind: str) -> None:
    """It is named, with its words, whatever it says afterwards; waiting for it helps nobody."""
    (only,) = diagnose(protocol, "530 Please log in", Evidence(host="mail.example", greeting=greeting))

    assert not is_greeting(protocol, greeting)
    assert ("no-mail-server", "you") == (only.name, only.mover)
    assert f"What answered is {kind}" in only.cause
    assert greeting in only.cause


@pytest.mark.parametrize(
    ("protocol", "greeting"),
    [
        ("smtp", "220 ftp.example ESMTP Postfix"),
        ("smtp", "554 5.7.1 No service"),
        ("imap", "* BYE too busy"),
        ("imap", "* PREAUTH welcome"),
        ("pop", "-ERR no"),
    ],
)
def test_mail_servers_may_say_what_they_like(protocol: str, greeting: str) -> None:
    """A refusal, or a name that sounds like another service's, makes it no other service."""
    assert is_greeting(protocol, greeting)


def test_an_unknown_reply_is_shown() -> None:
    """On one line, printable, as long as is bearable, with what support asks for."""
    verdict = diagnose("smtp", f"599 what\r\n\x1b[31mis this {{login}} {ID} " + "x" * 9999)[0]

    assert "unknown" == verdict.name
    assert "599 what  ?[31mis this {login}" in verdict.cause
    assert len(verdict.cause) < 700
    assert f"give support these identifiers: {ID}" == verdict.steps[-1]
    assert "nothing" in diagnose("imap", "")[0].cause


def test_identifiers() -> None:
    """Exchange's server, time and id; Entra's trace and correlation ids."""
    entra = "AADSTS50034: x. Trace ID: 1-2 Correlation ID: 3-4 Timestamp: 2026"

    assert (ID,) == identifiers_of(REFUSALS["smtp"])
    assert ("Trace ID: 1-2", "Correlation ID: 3-4") == identifiers_of(entra)
    assert () == identifiers_of("535 [10.0.0.1] no")


@pytest.mark.parametrize(
    ("reply", "known", "expected"),
    [
        (REFUSALS["smtp"], evidence("smtp", GOOD._replace(expires=NOW - 1)), True),
        (REFUSALS["smtp"], evidence("smtp", challenge='{"status": "401", "schemes": "bearer"}'), True),
        ("[EXPIRED] The access token has expired", Evidence(), True),
        ("[AUTHENTICATIONFAILED] Authentication failed.", Evidence(challenge='{"status":"invalid_token"}'), True),
        ("[AUTHENTICATIONFAILED] Authentication failed.", Evidence(), False),
        (REFUSALS["smtp"], evidence("smtp"), False),
        (REFUSALS["smtp"], evidence("smtp", None), False),
        (REFUSALS["smtp"], Evidence(challenge='{"status":"400","schemes":"Bearer"}'), False),
        (REFUSALS["smtp"], evidence("smtp", GOOD._replace(expires=NOW - 1), now=None), False),
        ("535 5.7.139 is disabled for the Tenant.", evidence("smtp", GOOD._replace(expires=NOW - 1)), False),
    ],
)
def test_another_token_may_help(reply: str, known: Evidence, *, expected: bool) -> None:
    """Where it is expired by its own word, or no longer good by the server's; not where the cause is another."""
    protocol = "smtp" if reply.startswith("535") else "imap"

    assert expected == is_stale(diagnose(protocol, reply, known))


@pytest.mark.parametrize(
    ("reply", "known", "expected"),
    [
        (REFUSALS["smtp"], evidence("smtp"), True),
        (REFUSALS["smtp"], evidence("smtp", None), True),
        (REFUSALS["smtp"], evidence("smtp", host="localhost", greeting="220 x Microsoft ESMTP MAIL Service"), True),
        (REFUSALS["smtp"], evidence("smtp", host="mail.example.net", greeting="220 x ESMTP Postfix"), False),
        (REFUSALS["smtp"], evidence("smtp", GOOD._replace(audience="https://graph.microsoft.com")), False),
        (REFUSALS["smtp"], evidence("smtp", GOOD._replace(user="ann@contoso.example")), False),
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Mailbox.", evidence("smtp"), False),
        ("599 what", evidence("smtp"), False),
    ],
)
def test_exchange_does_not_tell_of_a_stale_token(reply: str, known: Evidence, *, expected: bool) -> None:
    """Where it gives no reason and none is known, another token is worth a try."""
    assert expected == may_be_stale("smtp", reply, known)


texts = st.text(max_size=60)


@given(
    st.sampled_from(["smtp", "imap", "pop"]),
    texts
    | st.sampled_from([f"535 {word}" for word in ("", "5.7.3 x", "throttled")])
    | st.sampled_from(list(REFUSALS.values())),
    st.builds(
        Evidence,
        user=texts,
        host=texts,
        claims=st.none()
        | st.builds(
            Claims, texts, st.tuples(texts), st.tuples(texts), texts, texts, texts, st.none() | st.floats(0, 1e11)
        ),
        skew=st.none() | st.floats(-1e6, 1e6),
        now=st.none() | st.floats(0, 1e11),
        greeting=texts,
        challenge=texts,
    ),
)
def test_there_is_always_a_verdict(protocol: str, reply: str, known: Evidence) -> None:
    """Whatever came: one at least, with nothing to fill in, that says whose move it is; none twice; on one line each."""
    verdicts = diagnose(protocol, reply, known)

    assert verdicts
    assert len({each.name for each in verdicts}) == len(verdicts)
    for verdict in verdicts:
        assert verdict.mover in MOVERS
        assert verdict.cause.isprintable()
        assert all(step.isprintable() for step in verdict.steps)


# --- Entra ---


def test_a_refusal_of_entras() -> None:
    """Its number's row, with the evidence, the commands for the user, and where it is documented."""
    verdict = of_entra(65001, "invalid_grant", "consent_required", 400, user=USER)[0]

    assert ("no-consent", "you") == (verdict.name, verdict.mover)
    assert verdict.cause.endswith("(AADSTS65001, invalid_grant, consent_required, HTTP 400).")
    assert f"`cms login {USER}`" in verdict.steps[0]
    assert f"`cms admin-consent-url {USER}`" in verdict.steps[0]
    assert verdict.link.startswith("https://learn.microsoft.com/")


def test_a_number_that_no_row_knows() -> None:
    """Is shown, with where Entra itself explains it; its word decides."""
    verdict = of_entra(424242, "invalid_grant")[0]

    assert "refused" == verdict.name
    assert "AADSTS424242" in verdict.cause
    assert "https://login.microsoftonline.com/error?code=50126" == of_entra(50126)[0].link
    assert "reference-error-codes" in of_entra(None, "something_new")[0].link
    assert "no reason given" in of_entra(None)[0].cause


def test_the_pause_that_an_answer_names() -> None:
    """Retry-After is how long it takes; without it the row says what is usual."""
    assert "2 minutes" == of_entra(None, status=429, retry_after=120)[0].takes
    assert "Retry-After" in of_entra(None, status=429)[0].takes


def test_the_redirect_address_is_named() -> None:
    """Exactly as it must be registered."""
    assert "register exactly http://localhost/x" in of_entra(50011, redirect="http://localhost/x")[0].steps[0]
    assert "{" not in of_entra(50011)[0].steps[0]


# --- the client itself ---


def test_the_clients_own_failures() -> None:
    """By their words, else by their code."""
    assert "no-socket" == of_client("no-daemon", "there is no socket at /x")[0].name
    assert "denied" == of_client("denied", "this protocol is not for you")[0].name
    assert "unknown" == of_client("of-tomorrow", "what")[0].name


def test_the_page_of_links() -> None:
    """Each link is https, without a space."""
    links = {cause.link for row in mail.ROWS for cause in row.causes} - {""}

    assert [] == [link for link in links if not re.fullmatch(r"https://[\w./#-]+", link)]
    assert lookup.MOVERS == MOVERS


def test_a_name_is_one_word_of_every_command() -> None:
    """Of cms's own and of the test that is named, whatever is in it and in the host."""
    user = "o'connor@example.test"
    steps = [*of_entra(65001, user=user)[0].steps, *of_client("sign-in-required", "signed out", user)[0].steps]
    steps += [
        step
        for each in diagnose("imap", "junk [AUTH] failed", Evidence(user=user, host="m.test"))
        for step in each.steps
    ]
    commands = [each for step in steps for each in commands_of(step) if user in str(each.words)]

    assert commands
    assert all(list(each.words) == shlex.split(str(each)) for each in commands)
    assert all(f"`{each}`" in " ".join(steps) for each in commands)
