"""What is true of Microsoft 365 everywhere: clouds, hosts, resources, permissions, personal accounts, portals.

Each fact is here once, with its source, and cms and the client read it from here. What can be derived from the table of
clouds is derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from cms_oauth.frozen import dataclass

# What each mail protocol needs of a person's token (Microsoft: "Authenticate an IMAP, POP or SMTP connection using
# OAuth"). All three share one audience, so one token request serves them together.
PERMISSIONS = {"SMTP": "SMTP.Send", "IMAP": "IMAP.AccessAsUser.All", "POP": "POP.AccessAsUser.All"}
# And of an application's (the same page, client credentials).
ROLES = {"SMTP": "SMTP.SendAsApp", "IMAP": "IMAP.AccessAsApp", "POP": "POP.AccessAsApp"}


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


# The tenant of all personal accounts, by its id and by its name (Microsoft: "Microsoft identity platform and OpenID
# Connect", issuers).
PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"
CONSUMERS = "consumers"
PERSONAL_TENANTS = frozenset((CONSUMERS, PERSONAL_TENANT))
# Words that stand for more than one tenant: with personal accounts, and without them.
COMMON, ORGANIZATIONS = "common", "organizations"
ANY_TENANT = (COMMON, ORGANIZATIONS)
# Where a personal account can sign in.
OPEN_TO_PERSONAL = PERSONAL_TENANTS | {COMMON}
# All words that are no tenant's own name.
TENANT_WORDS = (*ANY_TENANT, CONSUMERS)

# Outlook.com's own domains: a person's, never an organisation's.
_PERSONAL_DOMAINS = ("outlook.com", "hotmail.com", "live.com", "msn.com", "passport.com", "windowslive.com")
# Those that exist under the domains of many countries as well: hotmail.fr, live.co.uk, outlook.com.br.
_PERSONAL_BRANDS = ("outlook", "hotmail", "live")
_MOST_LABELS = 3
# The labels of a country's domain are short: live.co.uk is Outlook.com's, live.nation.com is a company's.
_LONGEST_LABEL = 3


def is_personal(domain: str) -> bool:
    """Return whether a mail domain is Outlook.com's. Personal accounts may have any other address as well."""
    brand, *country = domain.lower().split(".")
    short = 0 < len(country) < _MOST_LABELS and all(0 < len(each) <= _LONGEST_LABEL for each in country)
    return domain.lower() in _PERSONAL_DOMAINS or (brand in _PERSONAL_BRANDS and short)


# The login hosts that Microsoft documents, with their older names, and the clouds that each is for.
LOGIN_HOSTS = {
    "login.microsoftonline.com": ("global", "personal"),
    "login.microsoft.com": ("global", "personal"),
    "login.windows.net": ("global", "personal"),
    "sts.windows.net": ("global", "personal"),
    "login.live.com": ("personal",),
    "login.microsoftonline.us": ("gcc-high", "dod"),
    "login.partner.microsoftonline.cn": ("china",),
    "login.chinacloudapi.cn": ("china",),
}

# The issuers of these hosts' certificates, in lower case. Another issuer means that a proxy intercepts TLS.
LOGIN_ISSUERS = ("digicert", "microsoft", "globalsign", "baltimore", "entrust", "sectigo", "geotrust", "cfca")
# The redirect address that Microsoft's portal has offered for desktop applications, and that of its broker on Linux
# (MSAL: `enable_broker_on_linux`).
NATIVE_CLIENT = "https://login.microsoftonline.com/common/oauth2/nativeclient"

# Pages of Microsoft's own that applications have used as redirect addresses. Since January 2026 they take the code out of
# the address and go on to a page that has none, whose address ends like one of the other two.
_OWN_REDIRECTS = ("/oauth2/nativeclient", "/oauth20_desktop.srf")
_OWN_ENDS = (*_OWN_REDIRECTS, "/wrongplace")


def takes_the_code(redirect_uri: str) -> bool:
    """Return True if the browser cannot end at this redirect address with a code: a page of Microsoft's removes it."""
    return _is_page_of_microsofts(redirect_uri, _OWN_REDIRECTS)


def has_lost_the_code(address: str) -> bool:
    """Return True if this is where a browser ends after a page of Microsoft's has removed the code from the address."""
    return _is_page_of_microsofts(address, _OWN_ENDS)


def _is_page_of_microsofts(address: str, ends: tuple[str, ...]) -> bool:
    try:
        # Browsers show an address without its scheme.
        parts = urlsplit(address.lower() if "://" in address else f"//{address.lower()}")
    except ValueError:
        return False
    return parts.hostname in LOGIN_HOSTS and parts.path.rstrip("/").endswith(ends)


# Names of one login service: a sign-in of one is good at all (the aliases of Microsoft's own instance discovery).
LOGIN_ALIASES = frozenset(host for host, clouds in LOGIN_HOSTS.items() if "personal" in clouds)

# `cloud_instance_name` of tenants outside of the global cloud. The United States' two have the same; one is told by
# its `tenant_region_sub_scope` DOD, where the other's is DODCON. (Both are Microsoft's additions to the document, seen
# in it for public tenants of each cloud; GCC, which is in the global cloud, has the sub scope GCC.)
_INSTANCES = {"microsoftonline.us": "gcc-high", "partner.microsoftonline.cn": "china"}


def national_cloud(document: Mapping[str, object]) -> str:
    """Return the national cloud that a tenant's discovery document is about, "" for none."""
    cloud = _INSTANCES.get(str(document.get("cloud_instance_name")), "")
    return "dod" if cloud == "gcc-high" and document.get("tenant_region_sub_scope") == "DOD" else cloud


# The domain that each tenant has from the start, and the clouds whose tenants have it. Only what is certain: some
# tenants of the American government have onmicrosoft.com.
INITIAL_DOMAINS = {
    ".onmicrosoft.us": ("gcc-high", "dod"),
    ".onmschina.cn": ("china",),
}

# Exchange Online's application id, which a token may name where another has its address (v2.0 access tokens have the
# id; which of the two, the resource decides). Microsoft Graph's is the one mistaken for it.
EXCHANGE = "00000002-0000-0ff1-ce00-000000000000"
GRAPH = "00000003-0000-0000-c000-000000000000"


def _hosts(*urls: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the hosts of these addresses, each with the clouds that it is in."""
    found: dict[str, tuple[str, ...]] = {}
    for url, cloud in urls:
        host = urlsplit(url).netloc
        found[host] = (*found.get(host, ()), cloud)
    return found


GRAPH_HOSTS = _hosts(*((each.graph, each.name) for each in CLOUDS.values()))

# The names that a token may have Exchange by, and the clouds that each is in; none where the name does not tell.
EXCHANGE_HOSTS = {
    **_hosts(*((each.resource, each.name) for each in CLOUDS.values())),
    "outlook.office365.com": ("global", "personal"),
    "outlook.com": (),
    "ps.outlook.com": (),
}

# What a scope may name, and the clouds that have it (Microsoft: "National clouds").
RESOURCES = {
    **GRAPH_HOSTS,
    **{host: clouds for host, clouds in EXCHANGE_HOSTS.items() if clouds},
    # Documented for the consent of applications in the global cloud alone, whatever tokens call themselves.
    "ps.outlook.com": ("global",),
    "webmail.apps.mil": ("dod",),
}

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
    **dict.fromkeys(
        ("00000002-0000-0000-c000-000000000000", "graph.windows.net", "graph.chinacloudapi.cn"), "Azure AD Graph"
    ),
    **dict.fromkeys(("vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn"), "Azure Key Vault"),
}


def _host_of(audience: str) -> str:
    """Return the host that an audience names, else the audience, in lower case."""
    name = audience.strip().lower().rstrip("/")
    _, scheme, rest = name.partition("://")
    return rest.partition("/")[0].partition(":")[0] if scheme else name


def resource_name(audience: str) -> str:
    """Return one name for the many spellings of a resource: the known ones' ids, else its host, else as it is."""
    host = _host_of(audience)
    return EXCHANGE if host in EXCHANGE_HOSTS else GRAPH if host in GRAPH_HOSTS else host


def clouds_of_audience(audience: str) -> tuple[str, ...]:
    """Return the clouds whose mail a token is for, none where its audience does not tell."""
    return EXCHANGE_HOSTS.get(_host_of(audience), ())


# Where the mail servers of a cloud are, the most telling ending first (Microsoft: "Microsoft 365 URLs and IP address
# ranges", of each cloud).
_SERVERS = (
    (".outlook-dod.office365.us", ("dod",)),
    (".office365.us", ("gcc-high",)),
    (".outlook.cn", ("china",)),
    (".office365.com", ("global", "personal")),
    (".outlook.com", ("global", "personal")),
)


def clouds_of_server(host: str) -> tuple[str, ...]:
    """Return the clouds that a mail server may be in, none for a server that is not Microsoft's."""
    return next((clouds for ending, clouds in _SERVERS if f".{host.lower()}".endswith(ending)), ())


# Hosts that take a cloud's mail for delivery (MX), which take no logins; those of domains with DNSSEC are under
# mx.microsoft (Microsoft: "Office 365 URLs and IP address ranges", "How SMTP DNS-based Authentication of Named Entities
# works").
_EXCHANGERS = (
    (".olc.protection.outlook.com", "personal"),
    (".mail.protection.outlook.com", "global"),
    (".mail.eo.outlook.com", "global"),
    (".mx.microsoft", "global"),
    (".protection.office365.us", "gcc-high"),
    (".mail.protection.partner.outlook.cn", "china"),
)


def cloud_of_exchanger(host: str) -> str:
    """Return the cloud that takes mail for delivery at this host, "" where it is no such host of Microsoft's."""
    return next((cloud for ending, cloud in _EXCHANGERS if host.lower().rstrip(".").endswith(ending)), "")


_PORTAL = "https://entra.microsoft.com"
# Where administrators of the other clouds work, by login host (Microsoft: "National clouds").
PORTALS = {
    "login.microsoftonline.us": "https://portal.azure.us",
    "login.partner.microsoftonline.cn": "https://portal.azure.cn",
}

# Where people end their sessions on all machines: at work or school, and of a personal account.
WORK_SESSIONS = "https://mysignins.microsoft.com"
PERSONAL_SESSIONS = "https://account.microsoft.com"


def portal(authority: str) -> str:
    """Return where applications of an authority's cloud are registered and consented to."""
    return PORTALS.get(urlsplit(authority).netloc, _PORTAL)
