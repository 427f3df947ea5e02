"""What is true of Microsoft 365 everywhere: clouds, hosts, resources, roles, personal accounts, portals.

Each fact stands here once, with its source; whatever needs it, cms or the client, reads it here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

# What each mail protocol needs of a token (Microsoft: "Authenticate an IMAP, POP or SMTP connection using OAuth").
# All three share one audience, so one token request serves them together.
PERMISSIONS = {"SMTP": "SMTP.Send", "IMAP": "IMAP.AccessAsUser.All", "POP": "POP.AccessAsUser.All"}


@dataclass(frozen=True, slots=True)
class Cloud:
    """One national cloud of Microsoft's (Microsoft: "National clouds", "Authenticate an IMAP, POP or SMTP connection").

    `login` is the authority host, `resource` the prefix of mail scopes, `graph` that of Graph's. `app_resource` is the
    prefix where an application asks for itself, "" for the same as `resource`.
    """

    name: str
    login: str
    resource: str
    imap_host: str
    smtp_host: str
    pop_host: str
    graph: str
    app_resource: str = ""


CLOUDS = {
    cloud.name: cloud
    for cloud in (
        Cloud(
            "global",
            "https://login.microsoftonline.com",
            "https://outlook.office.com",
            "outlook.office365.com",
            "smtp.office365.com",
            "outlook.office365.com",
            "https://graph.microsoft.com",
            app_resource="https://outlook.office365.com",
        ),
        Cloud(
            "gcc-high",
            "https://login.microsoftonline.us",
            "https://outlook.office365.us",
            "outlook.office365.us",
            "smtp.office365.us",
            "outlook.office365.us",
            "https://graph.microsoft.us",
        ),
        Cloud(
            "dod",
            "https://login.microsoftonline.us",
            "https://outlook-dod.office365.us",
            "outlook-dod.office365.us",
            "outlook-dod.office365.us",
            "outlook-dod.office365.us",
            "https://dod-graph.microsoft.us",
        ),
        Cloud(
            "china",
            "https://login.partner.microsoftonline.cn",
            "https://partner.outlook.cn",
            "partner.outlook.cn",
            "smtp.partner.outlook.cn",
            "partner.outlook.cn",
            "https://microsoftgraph.chinacloudapi.cn",
        ),
        Cloud(
            "personal",
            "https://login.microsoftonline.com",
            "https://outlook.office.com",
            "outlook.office365.com",
            "smtp-mail.outlook.com",
            "outlook.office365.com",
            "https://graph.microsoft.com",
        ),
    )
}


# Where every personal account is at home (Microsoft: "Microsoft identity platform and OpenID Connect", issuers).
PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"

# Words that stand for more than one tenant.
ANY_TENANT = ("common", "organizations")

# Outlook.com's own domains: a person's, never an organisation's. Those with an asterisk exist in many countries.
_PERSONAL_DOMAINS = ("outlook.com", "hotmail.com", "live.com", "msn.com", "passport.com", "windowslive.com")
_PERSONAL_BRANDS = ("outlook", "hotmail", "live")
# A country's: hotmail.fr, live.co.uk, outlook.com.br.
_MOST_LABELS = 3

# The login hosts that Microsoft documents, with their older names, and the clouds that each is for.
LOGIN_HOSTS = {
    "login.microsoftonline.com": ("global", "personal"),
    "login.microsoft.com": ("global", "personal"),
    "login.windows.net": ("global", "personal"),
    "login.live.com": ("personal",),
    "login.microsoftonline.us": ("gcc-high", "dod"),
    "login.partner.microsoftonline.cn": ("china",),
    "login.chinacloudapi.cn": ("china",),
}

# The domain that each tenant has from the start, and the clouds whose tenants have it. Only what is certain: some
# tenants of the American government have onmicrosoft.com.
INITIAL_DOMAINS = {
    ".onmicrosoft.us": ("gcc-high", "dod"),
    ".onmschina.cn": ("china",),
}

# Resources that the clouds' own rows do not name.
_MORE_RESOURCES = {
    "outlook.office365.com": ("global", "personal"),
    "ps.outlook.com": ("global",),
    "webmail.apps.mil": ("dod",),
}


def _resources() -> dict[str, tuple[str, ...]]:
    """Return the hosts of the resources that are known, each with the clouds that it is in."""
    found: dict[str, tuple[str, ...]] = dict(_MORE_RESOURCES)
    for cloud in CLOUDS.values():
        for url in (cloud.resource, cloud.graph):
            host = urlsplit(url).netloc
            found[host] = tuple(dict.fromkeys((*found.get(host, ()), cloud.name)))
    return found


RESOURCES = _resources()


def is_personal(domain: str) -> bool:
    """Whether a mail domain is Outlook.com's. Personal accounts may have any other address as well."""
    brand, _, country = domain.partition(".")
    known = brand in _PERSONAL_BRANDS and bool(country) and domain.count(".") < _MOST_LABELS
    return domain in _PERSONAL_DOMAINS or (known and all(len(each) <= _MOST_LABELS for each in country.split(".")))


# Exchange Online's application id, which a token may name where another has its address (v2.0 access tokens have the
# id; which of the two, the resource decides). Microsoft Graph's is the one mistaken for it.
EXCHANGE = "00000002-0000-0ff1-ce00-000000000000"
GRAPH = "00000003-0000-0000-c000-000000000000"

# The addresses of one and the same resource, in each of Microsoft's clouds.
EXCHANGE_HOSTS = frozenset(
    (
        "outlook.office.com",
        "outlook.office365.com",
        "outlook.com",
        "ps.outlook.com",
        "outlook.office365.us",
        "outlook-dod.office365.us",
        "partner.outlook.cn",
    )
)
GRAPH_HOSTS = frozenset(
    ("graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn")
)

# Resources that are certainly no mail server, and what they are: Azure's management, whose tokens `az account
# get-access-token` gives unasked (Microsoft: "Azure Resource Manager", "National clouds"), Azure AD Graph, which Graph
# has replaced, and Key Vault. Whatever else a token names may be another name of the right resource.
OTHERS = {
    GRAPH: "Microsoft Graph",
    **dict.fromkeys(
        (
            "797f4846-ba00-4fd7-ba43-dac1f8f63013",
            "management.azure.com",
            "management.core.windows.net",
            "management.usgovcloudapi.net",
            "management.core.usgovcloudapi.net",
            "management.chinacloudapi.cn",
            "management.core.chinacloudapi.cn",
        ),
        "the management of Azure",
    ),
    **dict.fromkeys(("00000002-0000-0000-c000-000000000000", "graph.windows.net"), "Azure AD Graph"),
    **dict.fromkeys(("vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn"), "Azure Key Vault"),
}

# What an application's token needs for each mail protocol (Microsoft: "Authenticate an IMAP, POP or SMTP connection
# using OAuth", client credentials).
ROLES = {"SMTP": "SMTP.SendAsApp", "IMAP": "IMAP.AccessAsApp", "POP": "POP.AccessAsApp"}


def resource_name(audience: str) -> str:
    """Return one name for the many spellings of a resource: the known ones' ids, else its host, else as it is."""
    name = audience.strip().lower().rstrip("/")
    _, scheme, rest = name.partition("://")
    host = rest.partition("/")[0].partition(":")[0] if scheme else name
    return EXCHANGE if host in EXCHANGE_HOSTS else GRAPH if host in GRAPH_HOSTS else host


_PORTAL = "https://entra.microsoft.com"
# Where administrators of the other clouds work, by login host.
_PORTALS = {
    "login.microsoftonline.us": "https://portal.azure.us",
    "login.partner.microsoftonline.cn": "https://portal.azure.cn",
}

APPLICATIONS = {"SMTP": "SMTP.SendAsApp", "IMAP": "IMAP.AccessAsApp", "POP": "POP.AccessAsApp"}


def portal(authority: str) -> str:
    """Return where applications of an authority's cloud are registered and consented to."""
    return _PORTALS.get(urlsplit(authority).netloc, _PORTAL)


# Exchange's resources, by cloud (microsoft.md B1) where they tell it, and the identifier that version 2 tokens name
# instead.
AUDIENCES = {
    "outlook.office.com": "worldwide",
    "outlook.office365.com": "worldwide",
    "outlook.com": "",
    "ps.outlook.com": "",
    "outlook.office365.us": "GCC High",
    "outlook-dod.office365.us": "DoD",
    "partner.outlook.cn": "China",
    "00000002-0000-0ff1-ce00-000000000000": "",
}

# Where the servers of a cloud are, the most telling ending first.
_HOSTS = (
    ("outlook-dod.office365.us", "DoD"),
    (".office365.us", "GCC High"),
    (".outlook.cn", "China"),
    (".office365.com", "worldwide"),
    (".outlook.com", "worldwide"),
)

# Domains of personal accounts, in whatever country, and the tenant that all of them are in.
PERSONAL = re.compile(r"@(outlook|hotmail|live|msn|passport|windowslive)\.[a-z.]+$", re.IGNORECASE)
PERSONAL_TENANT_ID = "9188040d-6c67-4c5b-b112-36a304b66dad"

WANTED = {"smtp": "SMTP.Send", "imap": "IMAP.AccessAsUser.All", "pop": "POP.AccessAsUser.All"}
WANTED_ROLES = {"smtp": "SMTP.SendAsApp", "imap": "IMAP.AccessAsApp", "pop": "POP.AccessAsApp"}


def cloud_of(host: str) -> str:
    return next((cloud for ending, cloud in _HOSTS if f".{host.lower()}".endswith(ending)), "")


def bare_audience(audience: str) -> str:
    return audience.lower().removeprefix("https://").rstrip("/")
