"""A token is looked into before it is served: the right resource by any of its names, an application's roles."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any

import pytest
from support.keeper import FakeKeeper
from support.trio_run import in_trio

from cms.cli.doctor.assess import Asked, consent
from cms.core.accounts import Account, Grant, Scopes
from cms.core.lifecycle import Deny, Granted, Life, Need, Outcome, Token, absorb
from cms.core.policy import Peer, Rules
from cms.core.preflight import covers, fits, misfit, permission_for, permission_of
from cms.core.status import AccountFacts, describe
from cms.daemon.serving.issue import Issuer
from cms_oauth.claims import Claims
from cms_oauth.microsoft import EXCHANGE, GRAPH
from cms_oauth.providers import Server
from cms_oauth.wire import TokenRequest

MAIL: Scopes = ("https://outlook.office.com/SMTP.Send", "https://outlook.office.com/IMAP.AccessAsUser.All")
GRAPH_SCOPES: Scopes = ("https://graph.microsoft.com/Mail.Send",)
NOW = 1000.0


def person(audience: str) -> Claims:
    return Claims(audience=audience, scopes=("SMTP.Send",), user="a@example.test")


def application(*roles: str) -> Claims:
    return Claims(audience="https://outlook.office365.com", roles=roles, application=True)


def message(claims: Claims | None, protocol: str = "SMTP", scopes: Scopes = MAIL) -> str:
    found = misfit(claims, protocol, scopes)
    return found.message if found else ""


@pytest.mark.parametrize(
    "audience",
    [
        "https://outlook.office.com",
        "https://outlook.office.com/",
        "https://outlook.office365.com",
        "https://OUTLOOK.office365.com:443/",
        "https://outlook.office365.us",
        "https://outlook-dod.office365.us",
        "https://partner.outlook.cn",
        "outlook.office.com",
        EXCHANGE,
        EXCHANGE.upper(),
        "",
    ],
)
@pytest.mark.parametrize("protocol", ["SMTP", "IMAP", "POP"])
def test_exchange_has_many_names(audience: str, protocol: str) -> None:
    """Whatever the token calls Exchange Online, and where it names no resource, it is served."""
    assert "" == message(person(audience), protocol)


@pytest.mark.parametrize("protocol", ["SMTP", "IMAP", "POP"])
@pytest.mark.parametrize("audience", ["https://graph.microsoft.com", "https://graph.microsoft.us/", GRAPH])
def test_a_graph_token_opens_no_mail_protocol(audience: str, protocol: str) -> None:
    """The commonest mistake of all is named, with both resources."""
    expected = f"the token is for Microsoft Graph, and {protocol} needs one for Exchange Online"

    assert expected == message(person(audience), protocol)
    assert expected == message(person(audience), protocol, scopes=("https://graph.microsoft.com/SMTP.Send",))


def test_another_resource_is_named() -> None:
    """By its name, its host, or its id."""
    assert "the token is for Azure Key Vault, and SMTP needs one for Exchange Online" == message(
        person("https://vault.azure.net")
    )
    assert "the token is for webmail.apps.mil, and SMTP needs one for Exchange Online" == message(
        person("https://webmail.apps.mil")
    )
    assert "the token is for 11111111-2222-3333-4444-555555555555, and SMTP needs one for Exchange Online" == message(
        person("11111111-2222-3333-4444-555555555555")
    )


@pytest.mark.parametrize(
    ("audience", "certain"),
    [
        ("https://graph.microsoft.com", True),
        ("https://microsoftgraph.chinacloudapi.cn", True),
        ("https://management.azure.com/", True),
        ("https://management.core.usgovcloudapi.net/", True),
        ("00000002-0000-0000-c000-000000000000", True),
        ("https://webmail.apps.mil", False),
        ("https://outlook.cn", False),
        ("https://substrate.office.com", False),
        ("11111111-2222-3333-4444-555555555555", False),
    ],
)
def test_only_what_is_known_to_be_another_is_refused(audience: str, certain: bool) -> None:
    """Any other may be a name of Exchange's that is not known here: it is served, and warned about."""
    found = misfit(person(audience), "SMTP", MAIL)
    token = replace(held(MAIL_TOKEN), claims=person(audience))
    account = replace(OWN_ACCOUNT, scopes={"SMTP": MAIL})

    assert found is not None
    assert (certain, not certain) == (found.certain, fits(token, account, "SMTP"))
    elsewhere = replace(account, grant=replace(account.grant, server=Server()), needs={})
    assert fits(token, elsewhere, "SMTP"), "what another provider's token says is not known"


def test_an_application_needs_no_sign_in() -> None:
    """cms asks for an application's token anew; a person's token needs a sign-in."""
    graph = Claims(audience=GRAPH, application=True)
    hints = [misfit(each, "SMTP", MAIL) for each in (graph, person(GRAPH))]

    assert [True, False] == ["`cms refresh`" in each.hint for each in hints if each]
    assert [False, True] == ["`cms login`" in each.hint for each in hints if each]


def test_a_resource_of_ones_own_is_right_where_it_was_asked_for() -> None:
    """An Exchange of one's own, behind scopes= of one's own; an id may be any resource's but Exchange Online's."""
    own = ("https://mail.example.test/SMTP.Send",)

    assert "" == message(person("https://mail.example.test/"), scopes=own)
    assert "" == message(person("11111111-2222-3333-4444-555555555555"), scopes=own)
    assert "" == message(person(EXCHANGE), scopes=own)
    assert "" != message(person(GRAPH), scopes=own)


@pytest.mark.parametrize("audience", ["https://graph.microsoft.com", GRAPH, "11111111-2222-3333-4444-555555555555"])
def test_a_protocol_of_ones_own_has_its_resource(audience: str) -> None:
    """Under either name; an unknown id is served."""
    assert "" == message(person(audience), "GRAPH", GRAPH_SCOPES)


@pytest.mark.parametrize("audience", ["https://outlook.office.com", EXCHANGE, "https://vault.azure.net"])
def test_a_protocol_of_ones_own_takes_no_other(audience: str) -> None:
    """A mail token does not serve for Graph."""
    assert "and GRAPH needs one for Microsoft Graph" in message(person(audience), "GRAPH", GRAPH_SCOPES)


@pytest.mark.parametrize(
    ("audience", "expected"),
    [
        ("https://management.azure.com/", ""),
        ("https://management.core.windows.net/", ""),
        ("797f4846-ba00-4fd7-ba43-dac1f8f63013", ""),
        ("https://vault.azure.net", "the token is for Azure Key Vault, and ARM needs one for the management of Azure"),
        (GRAPH, "the token is for Microsoft Graph, and ARM needs one for the management of Azure"),
    ],
)
def test_a_resource_with_several_names_is_one(audience: str, expected: str) -> None:
    """Azure's management is asked for by one name, and its tokens have another; any other resource's are refused."""
    scopes = ("https://management.azure.com/.default",)

    assert expected == message(person(audience), "ARM", scopes)


def test_what_cannot_be_decoded_is_served() -> None:
    """A token is the server's to judge."""
    assert misfit(None, "SMTP", MAIL) is None


@pytest.mark.parametrize(
    ("protocol", "role"), [("SMTP", "SMTP.SendAsApp"), ("IMAP", "IMAP.AccessAsApp"), ("POP", "POP.AccessAsApp")]
)
def test_an_application_needs_a_role_for_each_protocol(protocol: str, role: str) -> None:
    """It has what it needs, or is told what is missing and who gives it. SMTP may have been given in Exchange."""
    found = misfit(application("Mail.Send"), protocol, MAIL)

    assert misfit(application(role), protocol, MAIL) is None
    assert found is not None
    assert (f"the application's token has no role {role}, which {protocol} needs", protocol != "SMTP") == (
        found.message,
        found.certain,
    )
    assert f"an administrator adds {role}" in found.hint


def test_roles_are_for_mail_protocols() -> None:
    """What another resource calls its permissions is not known here."""
    graph = Claims(audience=GRAPH, roles=("Mail.Send",), application=True)

    assert misfit(graph, "GRAPH", GRAPH_SCOPES) is None


def jwt(**claims: Any) -> str:
    parts = ({"typ": "JWT"}, claims)
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def life(secret: str) -> Life:
    outcome: Outcome = Granted(secret, NOW, 3600.0, MAIL)
    return absorb(Life(), outcome, NOW, 0.5)


def held(secret: str) -> Token:
    token = life(secret).held
    assert token is not None
    return token


GRAPH_TOKEN = jwt(aud="https://graph.microsoft.com", scp="Mail.Send", upn="a@example.test")
MAIL_TOKEN = jwt(aud="https://outlook.office.com", scp="SMTP.Send", upn="a@example.test")
APP_TOKEN = jwt(aud="https://outlook.office365.com", idtyp="app", roles=[])
GRANT = Grant("https://login.example.test/common", "client", "a@example.test", (MAIL,))
ACCOUNT = Account("a@example.test", GRANT, {"SMTP": MAIL, "IMAP": MAIL})


def issued(keeper: FakeKeeper, account: Account, protocol: str) -> Token | Deny:
    """Return what a client gets at a socket that serves this account."""
    issuer = Issuer(Rules(0, (account,), (protocol,)), lambda _grant, _uid: keeper)
    answer = issuer.token(Peer(1, 0, 0), TokenRequest(protocol))
    assert isinstance(answer, tuple)
    return answer[1]


@pytest.mark.parametrize(
    ("secret", "protocol", "expected"),
    [
        (GRAPH_TOKEN, "SMTP", "sign-in-required"),
        (MAIL_TOKEN, "SMTP", ""),
        ("opaque", "SMTP", ""),
        (APP_TOKEN, "SMTP", ""),
        (APP_TOKEN, "IMAP", "sign-in-required"),
    ],
)
@in_trio
async def test_a_token_that_cannot_do_it_is_not_served(secret: str, protocol: str, expected: str) -> None:
    """The request gets a coded error in place of the token; mail waits."""
    keeper = FakeKeeper(reply=held(secret))
    keeper.open.set()
    reply = issued(keeper, ACCOUNT, protocol)

    assert expected == (reply.code if isinstance(reply, Deny) else "")


@in_trio
async def test_preflight_can_be_switched_off() -> None:
    """Then neither the token nor its scopes are looked at."""
    keeper = FakeKeeper(reply=held(GRAPH_TOKEN))
    keeper.open.set()
    reply = issued(keeper, replace(ACCOUNT, preflight=False), "SMTP")

    assert isinstance(reply, Token)
    assert [(MAIL, Need())] == keeper.asked


def test_status_says_so() -> None:
    """Each row warns of what its token cannot open, whether it is served or not."""
    (row,) = describe([AccountFacts(ACCOUNT, "a@example.test", {MAIL: life(GRAPH_TOKEN)})], NOW, 0.0)
    (good,) = describe([AccountFacts(ACCOUNT, "a@example.test", {MAIL: life(MAIL_TOKEN)})], NOW, 0.0)

    assert "the token is for Microsoft Graph, and SMTP needs one for Exchange Online" in row.warning
    assert "the token is for Microsoft Graph, and IMAP needs one" in row.warning
    assert "" == good.warning


# A mail server of one's own, whose provider calls its permission as it likes.
OWN: Scopes = ("https://dovecot.example.test/mail.access",)
OWN_ACCOUNT = replace(ACCOUNT, grant=replace(GRANT, scope_sets=(OWN,)), scopes={"SMTP": OWN, "IMAP": OWN})
OWN_TOKEN = replace(held(jwt(aud="dovecot", scp="mail.access")), scopes=OWN)


@in_trio
async def test_a_permission_of_ones_own_is_served() -> None:
    """cms does not ask for consent to Exchange's: at the socket, in a token file, in the status and in the doctor."""
    keeper = FakeKeeper(reply=OWN_TOKEN)
    keeper.open.set()
    reply = issued(keeper, OWN_ACCOUNT, "IMAP")
    (row,) = describe([AccountFacts(OWN_ACCOUNT, "a@example.test", {OWN: Life(OWN_TOKEN)})], NOW, 0.0)
    finding = consent(Asked(OWN_ACCOUNT, "IMAP", got=True, claims=OWN_TOKEN.claims))

    assert (OWN_TOKEN, [(OWN, Need("mail.access"))]) == (reply, keeper.asked)
    assert (True, "") == (fits(OWN_TOKEN, OWN_ACCOUNT, "IMAP"), row.warning)
    assert finding is not None
    assert "pass" == finding.level


@pytest.mark.parametrize(
    ("protocol", "scopes", "expected"),
    [
        ("SMTP", ("https://outlook.office.com/SMTP.Send",), "SMTP.Send"),
        ("IMAP", ("https://outlook.office.com/SMTP.Send",), "IMAP.AccessAsUser.All"),
        ("POP", ("https://mail.example.test/imap.accessasuser.all",), "POP.AccessAsUser.All"),
        ("IMAP", ("https://outlook.office.com/.default",), ""),
        ("IMAP", ("https://dovecot.example.test/mail.access",), "mail.access"),
        ("GRAPH", ("https://graph.microsoft.com/Mail.Send", "https://graph.microsoft.com/User.Read"), "Mail.Send"),
        ("ALL", ("https://graph.microsoft.com/.default",), ""),
        ("NONE", (), ""),
    ],
)
def test_a_protocol_needs_a_permission(protocol: str, scopes: Scopes, expected: str) -> None:
    """A mail protocol its own of Exchange's; scopes of one's own the first of them; all that there is nothing by name."""
    assert expected == permission_for(protocol, scopes)


@pytest.mark.parametrize(
    ("scopes", "permission", "expected"),
    [
        (("https://outlook.office.com/SMTP.Send",), "SMTP.Send", True),
        (("https://outlook.office365.com/smtp.send", "openid"), "SMTP.Send", True),
        (("SMTP.Send",), "SMTP.Send", True),
        (("https://outlook.office.com/SMTP.Send",), "IMAP.AccessAsUser.All", False),
        (("https://outlook.office.com/SMTP.Send",), "", True),
        ((), "SMTP.Send", True),
        (("https://outlook.office365.com/.default",), "SMTP.SendAsApp", True),
    ],
)
def test_a_token_covers_what_its_scopes_name(scopes: tuple[str, ...], permission: str, expected: bool) -> None:
    """The spelling of the resource and letter case do not matter; an unknown scope is taken at its word."""
    assert expected == covers(Token("secret", 0.0, 1.0, 0.5, scopes), permission)


def test_another_providers_permission_is_named() -> None:
    """Each protocol needs its own scope of a token that may have several; where none is named, any token will do."""
    scopes = ("mail:imap_full", "mail:smtp")
    grant = Grant("https://oauth.example.test", "id", "a@example.test", (scopes,), provider="yandex", server=Server())
    needs = {"IMAP": "mail:imap_full", "SMTP": "mail:smtp"}
    account = Account("a@example.test", grant, dict.fromkeys(needs, scopes), needs=needs)
    lesser = replace(held(MAIL_TOKEN), scopes=("mail:imap_full",))

    assert ["mail:imap_full", "mail:smtp", ""] == [permission_of(account, each) for each in ("IMAP", "SMTP", "POP")]
    assert [True, False] == [fits(lesser, account, each) for each in ("IMAP", "SMTP")]
