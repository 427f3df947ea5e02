"""Microsoft's facts: each once, and no table at odds with another."""

from __future__ import annotations

import pytest

from cms.core.accounts import app_scopes
from cms_oauth.diagnosis.lookup import Evidence, diagnose
from cms_oauth.microsoft import (
    CLOUDS,
    EXCHANGE,
    EXCHANGE_HOSTS,
    GRAPH,
    GRAPH_HOSTS,
    INITIAL_DOMAINS,
    LOGIN_ALIASES,
    LOGIN_HOSTS,
    PORTALS,
    RESOURCES,
    clouds_of_audience,
    clouds_of_server,
    has_lost_the_code,
    is_personal,
    national_cloud,
    portal,
    resource_name,
    takes_the_code,
)

# Each row: login host, mail resource, IMAP and POP host, SMTP host, Graph, and what an application asks for.
EXPECTED_CLOUDS = {
    "global": (
        "login.microsoftonline.com",
        "outlook.office.com",
        "outlook.office365.com",
        "smtp.office365.com",
        "graph.microsoft.com",
        "outlook.office365.com",
    ),
    "gcc-high": (
        "login.microsoftonline.us",
        "outlook.office365.us",
        "outlook.office365.us",
        "smtp.office365.us",
        "graph.microsoft.us",
        "outlook.office365.us",
    ),
    "dod": (
        "login.microsoftonline.us",
        "outlook-dod.office365.us",
        "outlook-dod.office365.us",
        "outlook-dod.office365.us",
        "dod-graph.microsoft.us",
        "outlook-dod.office365.us",
    ),
    "china": (
        "login.partner.microsoftonline.cn",
        "partner.outlook.cn",
        "partner.outlook.cn",
        "smtp.partner.outlook.cn",
        "microsoftgraph.chinacloudapi.cn",
        "partner.outlook.cn",
    ),
    "personal": (
        "login.microsoftonline.com",
        "outlook.office.com",
        "outlook.office365.com",
        "smtp-mail.outlook.com",
        "graph.microsoft.com",
        "outlook.office.com",
    ),
}


def test_clouds_are_where_microsoft_says() -> None:
    """Login host, token resources and mail hosts of each national cloud; IMAP and POP share a host."""
    actual = {
        cloud.name: (
            cloud.login.removeprefix("https://"),
            cloud.resource.removeprefix("https://"),
            cloud.imap_host,
            cloud.smtp_host,
            cloud.graph.removeprefix("https://"),
            app_scopes(cloud)[0].removeprefix("https://").removesuffix("/.default"),
        )
        for cloud in CLOUDS.values()
    }

    assert EXPECTED_CLOUDS == actual
    assert {cloud.imap_host for cloud in CLOUDS.values()} == {cloud.pop_host for cloud in CLOUDS.values()}


def test_tables_name_clouds() -> None:
    """No row of a table names a cloud that there is not."""
    tables = (LOGIN_HOSTS, INITIAL_DOMAINS, RESOURCES, EXCHANGE_HOSTS, GRAPH_HOSTS)

    assert set(CLOUDS) == {cloud for table in tables for clouds in table.values() for cloud in clouds}


@pytest.mark.parametrize("name", CLOUDS)
def test_each_cloud_is_found_by_its_own_hosts(name: str) -> None:
    """A cloud's login host, mail servers, resource and Graph tell of that cloud, in every table."""
    cloud = CLOUDS[name]

    assert name in LOGIN_HOSTS[cloud.login.removeprefix("https://")]
    assert all(name in clouds_of_server(host) for host in (cloud.imap_host, cloud.smtp_host, cloud.pop_host))
    assert name in clouds_of_audience(cloud.resource)
    assert (EXCHANGE, GRAPH) == (resource_name(cloud.resource), resource_name(cloud.graph))


@pytest.mark.parametrize(
    ("audience", "name", "clouds"),
    [
        ("https://outlook.office.com", EXCHANGE, ("global", "personal")),
        ("HTTPS://Outlook.office365.com:443/", EXCHANGE, ("global", "personal")),
        ("outlook-dod.office365.us", EXCHANGE, ("dod",)),
        ("https://outlook.com", EXCHANGE, ()),
        ("https://ps.outlook.com/", EXCHANGE, ()),
        (EXCHANGE.upper(), EXCHANGE, ()),
        ("https://dod-graph.microsoft.us", GRAPH, ()),
        (GRAPH, GRAPH, ()),
        ("https://mail.example.test/x", "mail.example.test", ()),
        ("", "", ()),
    ],
)
def test_a_resource_has_one_name(audience: str, name: str, clouds: tuple[str, ...]) -> None:
    """However a token spells it. Exchange's older names and its id do not tell the cloud."""
    assert (name, clouds) == (resource_name(audience), clouds_of_audience(audience))


@pytest.mark.parametrize(
    ("host", "clouds"),
    [
        ("smtp.office365.com", ("global", "personal")),
        ("SMTP-MAIL.outlook.com", ("global", "personal")),
        ("smtp.office365.us", ("gcc-high",)),
        ("outlook-dod.office365.us", ("dod",)),
        ("notoutlook.com", ()),
        ("mail.example.test", ()),
        ("", ()),
    ],
)
def test_where_a_mail_server_is(host: str, clouds: tuple[str, ...]) -> None:
    """By the end of its name, whole labels only."""
    assert clouds == clouds_of_server(host)


def test_one_login_service_has_several_names() -> None:
    """A sign-in at one is good at the others; a national cloud's is another service."""
    assert {"login.microsoftonline.com", "login.windows.net", "sts.windows.net", "login.live.com"} < LOGIN_ALIASES
    assert LOGIN_ALIASES.isdisjoint(PORTALS)


def test_portals() -> None:
    """Applications are registered where their cloud's administrators work."""
    assert "https://entra.microsoft.com" == portal("https://login.microsoftonline.com/common")
    assert "https://portal.azure.us" == portal("https://login.microsoftonline.us/common")


@pytest.mark.parametrize(
    ("domain", "personal"),
    [
        ("outlook.com", True),
        ("OUTLOOK.com", True),
        ("outlook.de", True),
        ("hotmail.co.uk", True),
        ("live.com.mx", True),
        ("msn.com", True),
        ("windowslive.com", True),
        ("passport.com", True),
        ("msn.de", False),
        ("msn.cn", False),
        ("windowslive.fr", False),
        ("live.nation.com", False),
        ("live", False),
        ("live.", False),
        ("live.example.com", False),
        ("outlook.example", False),
        ("outlook.a.b.c", False),
        ("myoutlook.com", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_personal_domains(domain: str, personal: bool) -> None:
    """One rule everywhere: Outlook.com's own domains, with those of countries, and no company's that sounds like one."""
    reply = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."
    first, *_ = diagnose("smtp", reply, Evidence(user=f"a@{domain}", host="smtp-mail.outlook.com"))

    assert (personal, personal) == (is_personal(domain), first.name == "personal-switches")


@pytest.mark.parametrize(
    ("document", "cloud"),
    [
        ({"cloud_instance_name": "microsoftonline.com", "tenant_region_sub_scope": "GCC"}, ""),
        ({"cloud_instance_name": "microsoftonline.us", "tenant_region_sub_scope": "DODCON"}, "gcc-high"),
        ({"cloud_instance_name": "microsoftonline.us", "tenant_region_sub_scope": "DOD"}, "dod"),
        ({"cloud_instance_name": "partner.microsoftonline.cn"}, "china"),
        ({}, ""),
    ],
)
def test_a_tenants_cloud(document: dict[str, object], cloud: str) -> None:
    """As its discovery document tells it."""
    assert cloud == national_cloud(document)


@pytest.mark.parametrize(
    ("address", "takes", "lost"),
    [
        ("https://login.microsoftonline.com/common/oauth2/nativeclient", True, True),
        ("https://LOGIN.microsoftonline.com/Contoso.com/oauth2/NativeClient/", True, True),
        ("https://login.microsoftonline.us/common/oauth2/nativeclient", True, True),
        ("https://login.partner.microsoftonline.cn/common/oauth2/nativeclient", True, True),
        ("https://login.live.com/oauth20_desktop.srf", True, True),
        ("https://login.microsoftonline.com/common/wrongplace", False, True),
        ("login.microsoftonline.com/common/wrongplace", False, True),
        ("login.live.com/oauth20_desktop.srf?lc=1033&removed=true", True, True),
        ("https://login.example.com/common/oauth2/nativeclient", False, False),
        ("http://localhost/oauth2/nativeclient", False, False),
        ("https://login.microsoftonline.com/common/oauth2/v2.0/authorize", False, False),
        ("https://[", False, False),
        ("", False, False),
    ],
)
def test_microsofts_own_pages(address: str, *, takes: bool, lost: bool) -> None:
    """Those that take the code out of an address, in every cloud, and where the browser ends then."""
    assert (takes, lost) == (takes_the_code(address), has_lost_the_code(address))
