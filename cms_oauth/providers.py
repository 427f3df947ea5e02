"""The mail providers that cms knows: for each, where its authorization server is, what to ask it for, and its rules.

A provider is one row. Microsoft's facts are in `cms_oauth.microsoft`, because it has several clouds; its row says only
what all providers have. docs/providers.md tells people what to do for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from urllib.parse import urlsplit

from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import CLOUDS, LOGIN_HOSTS, PERMISSIONS

# The providers that need a name here: Microsoft, Google, and a server that the configuration describes itself.
MICROSOFT = "microsoft"
GOOGLE = "google"
OWN = "oauth2"

# The client id of a grant whose application is registered at the first sign-in (RFC 7591).
DYNAMIC = "dynamic"

# How an application proves itself at the token endpoint, by cms's names (RFC 7591, 2, has longer ones).
CLIENT_AUTH = ("none", "basic", "post", "private_key_jwt")

# The scope that asks who signs in (OpenID Connect Core, 3.1.2.1).
OPENID = "openid"

# Scopes that ask for no permission at a resource (OpenID Connect Core, 5.4 and 11).
SIGN_INS_OWN = frozenset((OPENID, "profile", "email", "address", "phone", "offline_access"))

_DAY = 24 * 60 * 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """An authorization server: what the grant worker has to know to talk to it.

    - `issuer` is compared exactly; "" for a server without a discovery document. An endpoint is "" if that document says
      it, or if there is none.
    - `aliases` are further names of the issuer in its id tokens, beside `issuer`.
    - `identity` are scopes that a sign-in asks for beside those for mail: for the person's name (mostly openid and email),
      and for a refresh token (offline_access, where the server knows it).
    - `who` are the claims that may have the person's name; the first that is there counts.
    - `client_auth` is one of CLIENT_AUTH, "" for "post" if the application has a secret and the document allows that.
    - `resource` is a resource indicator (RFC 8707), `parameters` are further parameters of the sign-in's address.
    - `lifetime` is how many seconds a token lives if the answer does not say.
    - `rotates` is True if each redemption replaces the refresh token, and a second use of an old one ends the sign-in.
    """

    issuer: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    device_endpoint: str = ""
    registration_endpoint: str = ""
    userinfo_endpoint: str = ""
    revocation_endpoint: str = ""
    aliases: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    who: tuple[str, ...] = ("email", "preferred_username")
    client_auth: str = ""
    pkce: bool = True
    resource: str = ""
    parameters: tuple[tuple[str, ...], ...] = ()
    lifetime: float = 3600.0
    rotates: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider of mailboxes. `name` is the word that the configuration and `cms status` use, `title` its name for people.

    - `scopes` has what each mail protocol needs. A sign-in asks for all that its account's protocols need.
    - `ways` are the ways to sign in that work with it, the usual one first; "app" is a service account.
    - `redirect` is the usual redirect address.
    - `imap_host`, `smtp_host` and `pop_host` are its mail servers, "" for none or for unknown.
    - `silent` is True if its IMAP server takes XOAUTH2 without saying so.
    - `domains` are mail domains that are certainly its own.
    - `hosts` are further domains of its mail servers, such as those that receive its customers' mail (MX).
    - `registers` is True if cms can register itself with it, so that nobody has to get a client id.
    - `client` says how a person gets a client id, for messages.
    - `idle` is after how many seconds without a redemption a sign-in ends, 0 for unknown.
    - `ends` is what else ends if a program ends a sign-in there, "" for unknown.
    - `caveat` is what a person should know before using it.
    """

    name: str
    title: str
    server: Server | None
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ways: tuple[str, ...] = ("browser", "paste", "device")
    redirect: str = "http://127.0.0.1:8080"
    imap_host: str = ""
    smtp_host: str = ""
    pop_host: str = ""
    silent: bool = False
    domains: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    registers: bool = False
    client: str = ""
    idle: float = 0.0
    ends: str = ""
    caveat: str = ""


def _all(*scopes: str) -> dict[str, tuple[str, ...]]:
    """Return scopes that serve every mail protocol."""
    return dict.fromkeys(PERMISSIONS, scopes)


# Yahoo and AOL are one system, with two names.
def _yahoo(name: str, title: str, domain: str, mail: str, host: str, *domains: str) -> Provider:
    issuer = f"https://api.login.{domain}"
    return Provider(
        name,
        title,
        Server(
            issuer,
            f"{issuer}/oauth2/request_auth",
            f"{issuer}/oauth2/get_token",
        ),
        _all("mail-w"),
        # It takes redirect addresses with https only, so no program on this machine can answer there.
        ways=("paste",),
        redirect="https://127.0.0.1",
        imap_host=f"imap.{mail}",
        smtp_host=f"smtp.{mail}",
        pop_host=f"pop.{mail}",
        domains=(domain, *domains),
        hosts=(host,),
        client=f"{title} gives client ids under a contract only: use an app password, or another program's client id",
    )


PROVIDERS = {
    row.name: row
    for row in (
        Provider(
            MICROSOFT,
            "Microsoft 365",
            None,
            ways=("browser", "paste", "device", "broker", "app", "managed-identity"),
            imap_host=CLOUDS["global"].imap_host,
            smtp_host=CLOUDS["global"].smtp_host,
            pop_host=CLOUDS["global"].pop_host,
            # AADSTS700082: 90 days without a redemption.
            idle=90 * _DAY,
        ),
        # Google: "OAuth 2.0 for iOS & Desktop Apps" (Token revocation, too), "OAuth 2.0 Mechanism", "Using OAuth 2.0" (Refresh
        # token expiration).
        Provider(
            GOOGLE,
            "Google",
            Server(
                "https://accounts.google.com",
                "https://accounts.google.com/o/oauth2/v2/auth",
                "https://oauth2.googleapis.com/token",
                # Its device flow has no scope for mail.
                userinfo_endpoint="https://openidconnect.googleapis.com/v1/userinfo",
                revocation_endpoint="https://oauth2.googleapis.com/revoke",
                # Google: "OpenID Connect API Reference" (issuer): "also returned for legacy implementations".
                aliases=("accounts.google.com",),
                identity=("openid", "email"),
                who=("email",),
                # A Desktop client has a secret, and is refused without it.
                client_auth="post",
                # Otherwise a second sign-in gives no refresh token.
                parameters=(("access_type", "offline"), ("prompt", "consent")),
            ),
            # The trailing slash is part of it. The gmail.* scopes are for Google's REST interface only.
            _all("https://mail.google.com/"),
            ways=("browser", "paste", "app"),
            imap_host="imap.gmail.com",
            smtp_host="smtp.gmail.com",
            pop_host="pop.gmail.com",
            domains=("gmail.com", "googlemail.com"),
            hosts=("google.com",),
            client="create a client id of type Desktop app in Google's console and download its JSON file",
            idle=180 * _DAY,
            ends="every sign-in of this user to the same Google project, with any client of it and on every machine",
            caveat="while the Google project is in testing, each sign-in ends after 7 days: publish it",
        ),
        # Fastmail follows draft-ietf-mailmaint-oauth-public, which registers clients.
        Provider(
            "fastmail",
            "Fastmail",
            Server(
                "https://api.fastmail.com",
                "https://api.fastmail.com/oauth/authorize",
                "https://api.fastmail.com/oauth/refresh",
                registration_endpoint="https://api.fastmail.com/oauth/register",
                revocation_endpoint="https://api.fastmail.com/oauth/revoke",
                identity=("offline_access",),
                client_auth="none",
                resource="https://api.fastmail.com/jmap/session",
                rotates=True,
            ),
            _all("urn:ietf:params:oauth:scope:mail"),
            ways=("browser", "paste"),
            imap_host="imap.fastmail.com",
            smtp_host="smtp.fastmail.com",
            pop_host="pop.fastmail.com",
            domains=("fastmail.com", "fastmail.fm"),
            hosts=("messagingengine.com",),
            registers=True,
        ),
        _yahoo("yahoo", "Yahoo", "yahoo.com", "mail.yahoo.com", "yahoodns.net", "ymail.com"),
        _yahoo("aol", "AOL", "aol.com", "aol.com", "mx-aol.mail.gm0.yahoodns.net"),
        # Yandex: "OAuth for Yandex ID".
        Provider(
            "yandex",
            "Yandex",
            Server(
                "",
                "https://oauth.yandex.com/authorize",
                "https://oauth.yandex.com/token",
                "https://oauth.yandex.com/device/code",
                rotates=True,
            ),
            {"IMAP": ("mail:imap_full",), "SMTP": ("mail:smtp",)},
            imap_host="imap.yandex.com",
            smtp_host="smtp.yandex.com",
            silent=True,
            domains=("yandex.com", "yandex.ru"),
            hosts=("yandex.net",),
            client="register an application at https://oauth.yandex.com with the permissions for mail: it has an id and a secret",
        ),
        Provider(
            "mailru",
            "Mail.ru",
            Server("", "https://o2.mail.ru/login", "https://o2.mail.ru/token"),
            {"IMAP": ("mail.imap",), "SMTP": ("mail.imap",)},
            ways=("paste", "browser"),
            redirect="http://localhost",
            imap_host="imap.mail.ru",
            smtp_host="smtp.mail.ru",
            domains=("mail.ru", "inbox.ru", "list.ru", "bk.ru"),
            client="register an application at https://o2.mail.ru/app: it has an id and a secret",
        ),
        Provider(
            "seznam",
            "Seznam.cz",
            Server(
                "",
                "https://login.seznam.cz/api/v1/oauth/auth",
                "https://login.seznam.cz/api/v1/oauth/token",
                client_auth="none",
            ),
            _all("identity", "calendar", "email"),
            ways=("browser", "paste"),
            redirect="http://127.0.0.1/seznam",
            imap_host="imap.seznam.cz",
            smtp_host="smtp.seznam.cz",
            domains=("seznam.cz",),
            client="how to get a client id of one's own is not known",
        ),
        Provider(
            "thundermail",
            "Thundermail",
            Server("https://auth.tb.pro/realms/tbpro", identity=("offline_access",), client_auth="none", rotates=True),
            _all("openid", "profile", "email"),
            client="its owners are asked for client ids at https://github.com/thunderbird/thunderbird-accounts",
        ),
        # What the configuration says of a server takes the place of these.
        Provider(OWN, "a server of your own", Server(), client="the server's administrator registers an application"),
    )
}


def titled(provider: str) -> str:
    """Return the words behind an account that say whose it is, "" for Microsoft's: most are."""
    row = PROVIDERS.get(provider)
    return f" ({row.title})" if row and provider != MICROSOFT else ""


def can_revoke(server: Server | None) -> bool:
    """False if no program can end a sign-in at this server. A discovery document may still lack the endpoint for it."""
    return server is not None and bool(server.revocation_endpoint or server.issuer)


def has_codes(provider: str, server: Server | None) -> bool:
    """False if no one can sign in there with a code on another device. A discovery document may still lack it."""
    return "device" in PROVIDERS[provider].ways and (server is None or bool(server.device_endpoint or server.issuer))


_BY_AUTHORITY = {
    authority: row.name
    for row in PROVIDERS.values()
    if row.server
    for authority in (row.server.issuer, row.server.token_endpoint)
    if authority
}


def provider_of(authority: str, named: str = "") -> str:
    """Return the provider of a stored sign-in. `named` is what was stored beside its authority, "" by an earlier cms.

    An authority that no row has, at none of Microsoft's hosts, is a server of one's own.
    """
    if named in PROVIDERS:
        return named
    try:
        at_microsoft = urlsplit(authority).hostname in LOGIN_HOSTS
    except ValueError:
        at_microsoft = False
    return _BY_AUTHORITY.get(authority, MICROSOFT if at_microsoft or not authority else OWN)


# Google's older token endpoint, which other programs still use, is at another host than the row's.
_BY_HOST = dict.fromkeys(LOGIN_HOSTS, MICROSOFT) | {
    "www.googleapis.com": GOOGLE,
    **{
        str(urlsplit(address).hostname): row.name
        for row in PROVIDERS.values()
        if row.server
        for address in (row.server.issuer, row.server.authorization_endpoint, row.server.token_endpoint)
        if address
    },
}


def provider_at(host: str) -> str:
    """Return the provider whose authorization server this host is, "" if no row has it."""
    return _BY_HOST.get(host.lower(), "")


_BY_DOMAIN = {domain: row for row in PROVIDERS.values() for domain in row.domains}


def of_domain(domain: str) -> Provider | None:
    """Return the provider that a mail domain is certainly one of, None for Microsoft's domains and for any other."""
    return _BY_DOMAIN.get(domain.lower())


_BY_PARENT = {domain: row for row in PROVIDERS.values() for domain in (*row.domains, *row.hosts)}


def of_host(host: str) -> Provider | None:
    """Return the provider whose mail server this host is, None for Microsoft's hosts and for any other."""
    labels = host.lower().split(".")
    names = (".".join(labels[first:]) for first in range(len(labels)))
    return next((_BY_PARENT[name] for name in names if name in _BY_PARENT), None)
