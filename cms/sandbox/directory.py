"""The sandbox's tenant: its users, its registered applications, and the access tokens that it issues.

Plain state without HTTP. Times are Unix seconds, from the clock that the directory is given.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cms.core.accounts import REGISTRATIONS
from cms.sandbox.assertions import Federation, Proofs
from cms.sandbox.errors import Refusal
from cms.sandbox.tokens import USUAL_SIZE, Signer
from cms_oauth.microsoft import CLOUDS, GRAPH, NATIVE_CLIENT, PERMISSIONS, ROLES, resource_name

TENANT = "5a5a5a5a-0000-4000-8000-000000000001"

# The sandbox's own native application. It allows any path and port on loopback.
CLIENT_ID = "5a5a5a5a-0000-4000-8000-00000000c115"
# One with a secret, for sign-in without a person.
APP_ID = "5a5a5a5a-0000-4000-8000-00000000a995"
APP_SECRET = "sandbox-secret"  # noqa: S105 - opens nothing but this sandbox

EXCHANGE = CLOUDS["global"].resource
# Tokens for any of these open mailboxes; one for Graph does not.
_MAIL_AUDIENCES = (EXCHANGE, CLOUDS["global"].app_resource)
MAIL_SCOPES = tuple(f"{EXCHANGE}/{name}" for name in PERMISSIONS.values())
# Requested in addition to a resource's scopes. They do not change what the access token is for.
RESERVED = frozenset(("openid", "profile", "offline_access", "email"))

_LOOPBACK = ("localhost", "127.0.0.1")
_DAY = 86_400.0


@dataclass(eq=False)
class Settings:
    """How the sandbox behaves; may be changed at any time. Times are seconds.

    `rotate`: every redemption gives a new refresh token, and the old one stays valid, as Entra documents. With
    `refuse_reuse` a refresh token works once. `token_size` is the length of an access token in characters.
    """

    token_life: float = 3600.0
    rotate: bool = True
    refuse_reuse: bool = False
    refresh_life: float = 90 * _DAY
    spa_life: float = _DAY
    code_life: float = 600.0
    device_life: float = 900.0
    device_interval: int = 5
    token_size: int = USUAL_SIZE


@dataclass
class User:
    """A user. `mailboxes` are other users' mailboxes that this user may open.

    `challenge` are the claims that the next sign-in has to carry before anything is redeemed for this person.
    """

    name: str
    oid: str
    mailboxes: tuple[str, ...] = ()
    challenge: str = ""
    consents: set[tuple[str, str]] = field(default_factory=set)
    # Scopes that tokens for this user come without. The answer's `scope` says so, as Entra may do (RFC 6749, 5.1).
    withheld: set[str] = field(default_factory=set)
    # Access tokens issued before this moment are introspected as inactive.
    valid_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Client:
    """A registered application. `redirects` are compared without the port on loopback, "*" there is any path.

    It proves itself with `secret`, which may have `expired`, one of `certificates` (PEM) or an assertion of
    `federations`. Without a person it opens `mailboxes`, as the administrator of Exchange lets it.
    """

    client_id: str
    redirects: tuple[str, ...]
    spa: bool = False
    secret: str = field(default="", repr=False)
    expired: bool = False
    certificates: tuple[str, ...] = ()
    federations: tuple[Federation, ...] = ()
    mailboxes: tuple[str, ...] = ()

    @property
    def proofs(self) -> Proofs:
        """The credentials that it can sign in with."""
        return Proofs(self.secret, self.certificates, self.federations, self.expired)

    def allows(self, redirect_uri: str) -> bool:
        """True if this redirect address is registered."""
        return any(_same_address(each, redirect_uri) for each in self.redirects)


class Directory:
    """The tenant's users and applications, and the state of the access tokens issued to them."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self.settings = settings
        self.now = now
        self.users: dict[str, User] = {}
        self.clients: dict[str, Client] = {}
        self._signer = Signer()
        for client in _usual_clients():
            self.clients[client.client_id] = client

    def add_user(self, name: str, mailboxes: Iterable[str] = (), *, anew: bool = False) -> User:
        """Make a user; a second one of the same name replaces the first, as another account if made `anew`."""
        oid = str(uuid.uuid4() if anew else uuid.uuid5(uuid.NAMESPACE_DNS, name.lower()))
        self.users[name.lower()] = User(name, oid, tuple(mailboxes))
        return self.users[name.lower()]

    def rename(self, name: str, new: str) -> None:
        """Rename a user; the account stays the same."""
        user = self.users.pop(name.lower())
        user.name = new
        self.users[new.lower()] = user

    def user(self, name: str) -> User:
        """Return a user, by the name in any case; raises Refusal."""
        try:
            return self.users[name.lower()]
        except KeyError:
            raise Refusal(50034, f"There is no {name!r} in the sandbox.") from None

    def client(self, client_id: str) -> Client:
        """Return a registered application; raises Refusal."""
        try:
            return self.clients[client_id.lower()]
        except KeyError:
            raise Refusal(700016, f"Application with identifier '{client_id}'.") from None

    def withdraw_consent(self, name: str, scope: str = "") -> None:
        """Forget this user's consent to one scope, or to all."""
        user = self.user(name)
        user.consents = {each for each in user.consents if scope not in ("", each[1])}

    def revoke_access(self, name: str) -> None:
        """Make introspection report all of this user's access tokens so far as inactive."""
        self.user(name).valid_from = self.now()

    def issue(self, name: str, scopes: Iterable[str] = MAIL_SCOPES, life: float | None = None, client: str = "") -> str:
        """Return an access token; a negative life gives one that has expired."""
        user = self.user(name)
        life = self.settings.token_life if life is None else life
        who = {"upn": user.name, "unique_name": user.name, "oid": user.oid, "mailboxes": user.mailboxes}
        return self._sign(who, tuple(scopes), life, client or CLIENT_ID)

    def issue_for_app(self, resource: str, client_id: str) -> str:
        """Return an application's own access token, with all its permissions for a resource."""
        registered = self.clients.get(client_id.lower())
        roles = ["Mail.Send"] if resource_name(resource) == GRAPH else list(ROLES.values())
        who = {
            "roles": roles,
            "scp": " ".join(roles),
            "idtyp": "app",
            "oid": str(uuid.uuid5(uuid.NAMESPACE_DNS, client_id)),
            "mailboxes": registered.mailboxes if registered else (),
        }
        return self._sign(who, (f"{resource}/.default",), self.settings.token_life, client_id)

    def id_token(self, user: User, client_id: str, nonce: str) -> str:
        """Return the data from which MSAL makes an account."""
        now = self.now()
        claims = {"aud": client_id, "iss": f"sandbox/{TENANT}/v2.0", "iat": int(now), "exp": int(now) + 3600}
        person = {"oid": user.oid, "sub": user.oid, "tid": TENANT, "preferred_username": user.name, "name": user.name}
        return self._signer.jwt(claims | person | ({"nonce": nonce} if nonce else {}))

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what RFC 7662 asks for, as Dovecot reads it: `active`, `email`, `scope`, `exp`."""
        claims = self._signer.claims(token)
        if claims is None or claims["exp"] <= self.now() or self._revoked(claims):
            return {"active": False}
        name = claims.get("upn", "")
        told = {key: claims[key] for key in ("aud", "exp", "scp", "appid")}
        scope = claims["scp"] if claims["aud"] in _MAIL_AUDIENCES else f"{claims['aud']}/{claims['scp']}"
        others = {"mailboxes": claims.get("mailboxes", [])}
        return {"active": True, "email": name, "username": name} | told | {"scope": scope} | others

    def _revoked(self, claims: dict[str, Any]) -> bool:
        user = self.users.get(claims.get("upn", "").lower())
        return user is not None and claims["minted"] <= user.valid_from

    def _sign(self, who: dict[str, Any], scopes: tuple[str, ...], life: float, client_id: str) -> str:
        now = self.now()
        resource = resource_of(scopes[0]) if scopes else ""
        claims = {
            "aud": resource,
            "iss": f"sandbox/{TENANT}/",
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + life),
            "appid": client_id,
            "tid": TENANT,
            "scp": " ".join(scope.removeprefix(f"{resource}/") for scope in scopes),
            "uti": uuid.uuid4().hex,
            # In microseconds, unlike `iat`, because a revocation and the next sign-in may happen in the same second.
            "minted": now,
            "ver": "1.0",
        }
        return self._signer.jwt(claims | who, self.settings.token_size)


def resource_of(scope: str) -> str:
    """Return the resource that a scope names, Graph if it names none."""
    resource, _, _ = scope.rpartition("/")
    return resource or "https://graph.microsoft.com"


def _usual_clients() -> list[Client]:
    """Return the sandbox's own registrations and those that cms knows by name, by their ids."""
    anywhere = (
        "http://localhost/*",
        "http://127.0.0.1/*",
        NATIVE_CLIENT,
    )
    own = [Client(CLIENT_ID, anywhere), Client(APP_ID, anywhere, secret=APP_SECRET)]
    known = [Client(each.client_id, (each.redirect_uri,), each.origin is not None) for each in REGISTRATIONS]
    return own + known


def _same_address(registered: str, asked: str) -> bool:
    ours, theirs = urlsplit(registered), urlsplit(asked)
    if ours.hostname not in _LOOPBACK:
        return registered == asked
    same_path = ours.path in ("/*", theirs.path) or (ours.path, theirs.path) in (("", "/"), ("/", ""))
    return (ours.scheme, ours.hostname) == (theirs.scheme, theirs.hostname) and same_path
