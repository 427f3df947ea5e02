"""Accounts and grants: what the configuration describes, as data.

A Grant is one sign-in: (authority, client id, who signs in). An Account is what a mail program asks for by name: a
Grant, the user for the SASL string, and the scopes for each protocol. Several Accounts may share a Grant, as for a
shared mailbox: they need one sign-in together.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, cached_property, lru_cache

from cms.core.words import NAMELESS, stored_sign_in
from cms_oauth.addresses import bare, fault
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import COMMON, PERMISSIONS, Cloud
from cms_oauth.moves import Command
from cms_oauth.providers import DYNAMIC, MICROSOFT, OPENID, OWN, PROVIDERS, Server

Scopes = tuple[str, ...]

# How a person signs in: the words that `sign_in=` and `cms login --method` take.
METHODS = ("browser", "device", "paste", "broker")

# Ways to get a token without a person: an application signs in with its own credential, or Azure identifies the machine.
UNATTENDED = ("app", "managed-identity")

# The scope that an application asks for: all permissions that an administrator has consented to. Entra accepts no other
# from it (Microsoft: "OAuth 2.0 client credentials flow").
ALL_CONSENTED = ".default"


@dataclass(frozen=True, slots=True)
class Registration:
    """A known application id.

    `origin` is set for registrations of the SPA platform, which demand that header. `device` says whether its owner
    allows the device flow, None if that is not known. `domains` are the mail domains whose users get this registration
    unless they ask for the default.
    """

    name: str
    client_id: str
    tenant: str
    redirect_uri: str
    origin: str | None
    caveat: str
    domains: tuple[str, ...] = ()
    device: bool | None = None

    @property
    def platform(self) -> str:
        """How the redirect address is registered: "spa", or "native" (Mobile and desktop applications)."""
        return "spa" if self.origin else "native"


# Microsoft, "Refresh tokens in the Microsoft identity platform": 24 hours for the redirect type "spa".
SPA_CAVEAT = "its redirect is a single-page application's, so each sign-in with it may end after 24 hours"

CMS_REDIRECT = "http://127.0.0.1:8080/oauth2/msal"
CMS_ORIGIN = "http://127.0.0.1:8080/"

REGISTRATIONS = (
    Registration(
        "cms",
        "122f4826-adf9-465d-8e84-e9d00bc9f234",
        COMMON,
        CMS_REDIRECT,
        CMS_ORIGIN,
        "cloud_mdir_sync's own, in a private person's tenant: it may vanish; register your own for anything that matters",
        device=False,
    ),
    Registration(
        "nvidia",
        "472bb794-a546-4311-96f9-76bc79989214",
        "43083d15-7273-40c1-b7db-39efd9ccc17a",
        CMS_REDIRECT,
        CMS_ORIGIN,
        "cloud_mdir_sync's registration for nvidia.com",
        ("nvidia.com",),
        device=False,
    ),
    Registration(
        "thunderbird",
        "9e5f94bc-e8a4-4e73-b8be-63364c29d753",
        COMMON,
        "https://localhost",
        None,
        "Thunderbird's: its authors ask others not to copy it, and it may be withdrawn",
    ),
)
DEFAULT_REGISTRATION = REGISTRATIONS[0]
_BY_CLIENT_ID = {registration.client_id: registration for registration in REGISTRATIONS}


@dataclass(frozen=True, slots=True)
class Source:
    """Where to read a secret: never the secret itself. Only the grant worker opens it.

    `kind` is "file" (a path), "credential" (a systemd credential's name), "command" (an argument vector),
    "keyring" or "memory" (both without a value).
    """

    kind: str
    value: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.value)}".strip()

    @property
    def origin(self) -> str:
        """Where this is in words, without private parts: as `SignInFacts.key_from` says it of the vault's key."""
        return {
            "file": f"key file {' '.join(self.value)}",
            "credential": "systemd credential",
        }.get(self.kind, self.kind)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy on the way to the providers. `url` is `http://HOST:PORT`; `user` and `password` log in to it.

    Hosts in `no_proxy` are reached without it.
    """

    url: str
    no_proxy: tuple[str, ...] = ()
    user: str = ""
    password: Source | None = None

    def serves(self, host: str) -> bool:
        """True if this host is reached through the proxy: `no_proxy` has neither the host, nor its domain, nor `*`."""
        name = f".{host.lower()}"
        return not any(each == "*" or name.endswith(f".{each.lower().removeprefix('.')}") for each in self.no_proxy)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The PostgreSQL database through which several hosts share their sign-ins.

    - `dsn`: a connection string of libpq's, without a password.
    - `token_keys`, `keys`: where the keys of access tokens and of sign-ins are: the first encrypts, and all decrypt.
    - `schema`: the schema that has the tables. `listen`: whether the host hears of changes by LISTEN, or asks for them only.
    """

    dsn: str
    token_keys: tuple[Source, ...]
    keys: tuple[Source, ...] = ()
    password: Source | None = None
    schema: str = "cms"
    listen: bool = True

    @property
    def serves_only(self) -> bool:
        """True if this host serves tokens that others mint: without the key of sign-ins it redeems none."""
        return not self.keys


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """The fleet's database: for how many seconds it could not be asked, and `why`; 0 and "" if it can be."""

    away: float = 0.0
    why: str = ""


# Without slots: `key` is cached in the instance's dictionary. The standard decorator: there may be ten thousand of them.
@dataclasses.dataclass(frozen=True)
class Grant:
    """One sign-in, and everything that a token request for it needs. Times are seconds.

    - `authority`, `client_id` and `login` are its identity: a stored sign-in is used with no other authority or
      application. `authority` is `https://HOST[:PORT]/TENANT`, or the issuer of a server that is not Microsoft's.
    - `login` is who signs in, in lower case, "" if the configuration does not say.
    - `provider` is the name of a row of `cms_oauth.providers`. `server` is how to talk to its server, None for Microsoft's.
    - `scope_sets` are the token requests that its accounts need; a sign-in asks for all of them at once.
    """

    authority: str
    client_id: str
    login: str
    scope_sets: tuple[Scopes, ...] = ()
    sign_in: str = "browser"
    redirect_uri: str = CMS_REDIRECT
    origin: str | None = None
    prompt: str | None = None
    registration: str = ""
    client_secret: Source | None = None
    certificate: Source | None = None
    client_assertion: Source | None = None
    refresh_before: float | None = None
    certificate_password: Source | None = None
    provider: str = MICROSOFT
    server: Server | None = None

    @property
    def unattended(self) -> bool:
        """True if no person signs in: then there is no refresh token, and only access tokens are in the vault."""
        return self.sign_in in UNATTENDED

    @property
    def rotates(self) -> bool:
        """True if a refresh token works only once, or may: cms does not know how your own server does it."""
        return self.server is not None and (self.server.rotates or self.provider == OWN)

    @cached_property
    def key(self) -> str:
        """The name of this grant: the same after a restart, safe as a file name, and without an address in it.

        Cached, because each token request looks up its keeper by this.
        """
        identity = f"{self.authority.lower()}\n{self.client_id.lower()}\n{self.login.lower()}"
        if self.unattended:
            # A person may sign in to the same application, and that is another grant.
            identity += f"\n{self.sign_in}"
        return hashlib.sha256(identity.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class StoredSignIn:
    """A sign-in in the vault, without its secrets. `key` and the three fields after it are its Grant's.

    `who` is the user who signed in and `signed_in` when (Unix time): "" and 0 if only the file's header is readable.
    `provider` is its Grant's too, "" in what an earlier cms has written.
    """

    key: str
    authority: str
    client_id: str
    login: str
    who: str = ""
    signed_in: float = 0.0
    provider: str = ""

    @property
    def name(self) -> str:
        """Whose sign-in this is, for people."""
        return self.login or self.who

    @property
    def in_words(self) -> str:
        """This sign-in as a line of a list."""
        return stored_sign_in(self.key, self.authority, self.client_id, self.name)


def says_who(grant: Grant) -> bool:
    """False if the provider is not asked who signs in: then cms takes it that it is the user whom the configuration names."""
    if grant.server is None or grant.unattended:
        return True
    return OPENID in grant.server.identity or any(OPENID in scopes for scopes in grant.scope_sets)


# How the user of an account begins that is for every address of a domain: `*@domain.com`.
EVERY = "*@"


# The standard decorator: there may be ten thousand of them.
@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """What a mail program asks for by name. `user` goes into the SASL string; the token comes from `grant`.

    An account whose user is `*@domain.com` is for every address of that domain: the address that is asked for takes the
    place of its user. If a token opens only one mailbox, each address has its own grant, and `max_mailboxes` limits how many
    of them cms serves at a time; 0 if one grant opens them all.

    `scopes` gives, for each protocol, the exact scope set whose token serves it: a member of `grant.scope_sets`, which are
    none if only the addresses have tokens. `needs` names, for each protocol, the scope that its token must have; None for
    Microsoft's, which are known.
    """

    user: str
    grant: Grant
    scopes: Mapping[str, Scopes]
    preflight: bool = True
    imap_host: str = ""
    smtp_host: str = ""
    pop_host: str = ""
    # The mailbox that Office365(mailbox, account) names, for tests that open one.
    mailbox: str = ""
    needs: Mapping[str, str] | None = None
    max_mailboxes: int = 0

    def of(self, address: str) -> Account:
        """Return what an account for every address of a domain is for one of them."""
        if not self.max_mailboxes:
            return dataclasses.replace(self, user=address)
        sets = tuple(dict.fromkeys(self.scopes.values()))
        return dataclasses.replace(self, user=address, grant=_own(self.grant, address.lower(), sets), max_mailboxes=0)

    @property
    def domain(self) -> str:
        """The domain whose every address this account is for, in lower case, "" for an account of one address."""
        return self.user[len(EVERY) :].lower() if self.user.startswith(EVERY) else ""


@lru_cache(maxsize=1024)
def _own(grant: Grant, login: str, scope_sets: tuple[Scopes, ...]) -> Grant:
    """Return a mailbox's own grant. Cached, because each request asks for one, and its key is computed once."""
    return dataclasses.replace(grant, login=login, scope_sets=scope_sets)


@dataclass(frozen=True, slots=True)
class Unclear:
    """Why a name does not tell which sign-in is meant, and what to type instead."""

    message: str
    hint: str


def accounts_meant(accounts: Sequence[Account], name: str, who: Mapping[str, str] = {}) -> tuple[Account, ...]:
    """Return the accounts that a person means by a name, "" for all. Case does not matter.

    A name may be the account's user, the login that the configuration gives for it, or the user who has signed in
    (`who` maps a grant's key to that user). Mail programs can name the user only: see policy.py. An address that none has
    means the account for every address of its domain.
    """
    found = tuple(
        each
        for each in accounts
        if not name or is_named(name, each.user, each.grant.login, who.get(each.grant.key, ""))
    )
    return found or tuple(each for each in accounts if each.domain and each.domain == domain_of(bare(name)))


def is_served(accounts: Iterable[Account], user: str) -> bool:
    """Return True if a mail program that names this user means one of these accounts."""
    wanted = domain_of(bare(user))
    return any(is_named(user, each.user) or (each.domain and each.domain == wanted) for each in accounts)


def domain_of(user: str) -> str:
    """Return the domain of an address in lower case, "" if this is no address."""
    return "" if fault(user) else user.rpartition("@")[2].lower()


def mailboxes(user: str) -> str:
    """Return what an account is for, in words: its user, or every mailbox of a domain."""
    return f"every mailbox of {user[len(EVERY) :]}" if user.startswith(EVERY) else user


def accounts_matching(accounts: Sequence[Account], pattern: str, who: Mapping[str, str] = {}) -> tuple[Account, ...]:
    """Return the accounts that a pattern names: `*` stands for any characters and `?` for one. Case does not matter.

    It is compared with the same names as in `accounts_meant`.
    """
    # Brackets stand for themselves: shells have a meaning of their own for them, and people expect none here.
    wanted = pattern.lower().replace("[", "[[]")
    return tuple(
        each
        for each in accounts
        if any(
            fnmatchcase(name.lower(), wanted)
            for name in (each.user, each.grant.login, who.get(each.grant.key, ""))
            if name
        )
    )


def is_named(name: str, *known: str) -> bool:
    """Return True if a name that a person typed or pasted is one of these. Case does not matter."""
    wanted = bare(name).lower()
    return bool(wanted) and wanted in (each.lower() for each in known)


def sign_ins_meant(
    accounts: Sequence[Account], name: str, command: str, who: Mapping[str, str] = {}
) -> tuple[Grant, ...] | Unclear:
    """Return the sign-ins that a person means by a name, "" for the only one. `command` is the command they typed.

    There may be several, because accounts with the same name can have different sign-ins.
    """
    grants = {each.grant.key: each.grant for each in accounts_meant(accounts, name, who)}
    if len(grants) == 1 or (grants and name):
        return tuple(grants.values())
    if not accounts:
        remedy = "add an account, such as Office365_Account(...), and a CredentialServer(...) that serves it to the configuration"
        return Unclear("there is no account", remedy)
    said = f"there is no account {name!r:.80}" if name else "there are several accounts"
    usage = "cms import FILE --account USER" if command == "import" else f"cms {command} USER"
    every = "" if name or command != "login" else ", or sign in each that needs it, `cms login --all`"
    return Unclear(said, f"name one of these, `{usage}`{every}: {users_to_type(accounts, who)}")


# So many names are a choice for a person who has mistyped one. More would push the error itself off the screen.
MOST_TO_TYPE = 8


def users_in_words(accounts: Iterable[Account], who: Mapping[str, str] = {}) -> str:
    """Return the names of accounts as a list for people, each once."""
    return ", ".join(_names(accounts, who))


def users_to_type(accounts: Iterable[Account], who: Mapping[str, str] = {}) -> str:
    """Return the names of accounts as a list from which a person types one in a shell."""
    names = [each if each == NAMELESS else to_type(each) for each in _names(accounts, who)]
    more = len(names) - MOST_TO_TYPE
    return ", ".join([*names[:MOST_TO_TYPE], *([f"{more} more"] if more > 0 else [])])


def to_type(name: str) -> str:
    """Return a name as an argument of a command in a shell. Behind `--` it is no option."""
    return str(Command(("--", name) if name.startswith("-") else (name,)))


def _names(accounts: Iterable[Account], who: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(each.user or who.get(each.grant.key) or NAMELESS for each in accounts))


def mail_scopes(resource: str, protocols: Iterable[str]) -> Scopes:
    """Return the delegated scopes that one token request names for these mail protocols, in one fixed order."""
    return _mail_scopes(resource, frozenset(protocols))


@cache
def _mail_scopes(resource: str, wanted: frozenset[str]) -> Scopes:
    """As `mail_scopes`. Cached, so that ten thousand accounts with the same scopes share one value."""
    return tuple(f"{resource}/{permission}" for protocol, permission in PERMISSIONS.items() if protocol in wanted)


def app_scopes(cloud: Cloud) -> Scopes:
    """Return the scope with which an application opens mailboxes: one token for all mail protocols."""
    return (f"{cloud.app_resource or cloud.resource}/{ALL_CONSENTED}",)


def resource(scopes: Scopes) -> str:
    """Return the resource that a scope set is for. A token is for one resource only."""
    return scopes[0].rpartition("/")[0] if scopes else ""


def registration_for(user: str | None, *, use_default: bool) -> Registration:
    """Return the registration for a user's domain, or the default one."""
    domain = (user or "").rpartition("@")[2].lower()
    for registration in REGISTRATIONS:
        if not use_default and domain and domain in registration.domains:
            return registration
    return DEFAULT_REGISTRATION


def registration_of(client_id: str) -> Registration | None:
    """Return the known registration with this application id, None for any other."""
    return _BY_CLIENT_ID.get(client_id.lower())


def application(grant: Grant) -> str:
    """Return a description of the application that a sign-in uses, with its caveats, for people."""
    if grant.server:
        return _other_application(grant)
    known = registration_of(grant.client_id)
    if not grant.client_id:
        return "the machine's own identity"
    whose = f"{known.name} ({known.caveat})" if known else f"{grant.client_id}, from the configuration"
    return f"{whose}; {SPA_CAVEAT}" if grant.origin else whose


def _other_application(grant: Grant) -> str:
    """As `application`, for a provider other than Microsoft."""
    row = PROVIDERS[grant.provider]
    if grant.unattended:
        return "its service account"
    whose = f"registered by cms itself with {row.title}" if grant.client_id == DYNAMIC else grant.client_id
    return f"{whose}; {row.caveat}" if row.caveat else whose
