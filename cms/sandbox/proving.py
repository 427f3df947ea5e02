"""Who asks a simulated provider: a client that proves itself, or a service account that asks for a user's token."""

from __future__ import annotations

import base64
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cms.sandbox.assertions import ASSERTION_TYPE, is_signed, parts
from cms.sandbox.directory import Client
from cms.sandbox.errors import Refusal
from cms.sandbox.issued import UNAUTHORIZED, Issued, OAuthRefusal, SignedIn
from cms.sandbox.web import WebRequest

# Google's longest life of an assertion, and a minute for clocks that differ.
_LONGEST = 3660


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Who may ask for a token of each user in these `domains`, with an assertion signed by its key (PEM)."""

    email: str
    public_key: str = field(repr=False)
    domains: tuple[str, ...]
    scopes: tuple[str, ...]


class Proving:
    """Looks at what those who ask prove themselves with. `issuer` and `endpoint` are what they may have it for."""

    def __init__(self, issued: Issued, issuer: Callable[[], str], endpoint: Callable[[], str]) -> None:
        self.service_accounts: dict[str, ServiceAccount] = {}
        # The public keys (PEM) of clients that prove themselves with a JWT (RFC 7523), by client id.
        self.client_keys: dict[str, str] = {}
        self._issued = issued
        self._issuer = issuer
        self._endpoint = endpoint

    def client(self, fields: Mapping[str, str]) -> Client:
        """Return the client that a request names; raises OAuthRefusal."""
        client = self._issued.clients.get(fields.get("client_id", ""))
        if client is None:
            raise OAuthRefusal("invalid_client", "The OAuth client was not found.", UNAUTHORIZED)
        return client

    def proved(self, request: WebRequest) -> Client:
        """Return the client of a request after a look at what it proves itself with (RFC 6749, 2.3; RFC 7523, 2.2)."""
        fields = dict(request.fields)
        if basic := _basic(request.headers.get("authorization", "")):
            fields["client_id"], fields["client_secret"] = basic
        if "client_assertion" in fields:
            return self._proved_by_key(fields)
        client = self.client(fields)
        if client.client_id in self.client_keys or client.secret != fields.get("client_secret", ""):
            missing = client.secret and "client_secret" not in fields
            if missing:
                raise OAuthRefusal("invalid_request", "client_secret is missing.")
            raise OAuthRefusal("invalid_client", "Unauthorized", UNAUTHORIZED)
        return client

    def _proved_by_key(self, fields: Mapping[str, str]) -> Client:
        claims = self._signed(fields["client_assertion"], self.client_keys)
        ours = claims.get("aud") in (self._issuer(), self._endpoint())
        fresh = claims.get("exp", 0) > self._issued.now()
        rest = (fields.get("client_assertion_type"), claims.get("sub"), fields.get("client_id", claims.get("iss")))
        if not ours or not fresh or rest != (ASSERTION_TYPE, claims["iss"], claims["iss"]) or not claims.get("jti"):
            raise OAuthRefusal("invalid_client", "The client assertion is not valid.", UNAUTHORIZED)
        return self.client({"client_id": claims["iss"]})

    def _signed(self, assertion: str, keys: Mapping[str, str]) -> dict[str, Any]:
        """Return the claims of a JWT that its issuer has signed with the key that is known of it."""
        try:
            head, claims = parts(assertion)
        except Refusal:
            raise OAuthRefusal("invalid_request", "The assertion is no JWT.") from None
        pem = keys.get(str(claims.get("iss")), "")
        key = load_pem_public_key(pem.encode()) if pem else None
        if not isinstance(key, RSAPublicKey) or not is_signed(key, head, assertion):
            raise OAuthRefusal("invalid_client", "Invalid JWT Signature.", UNAUTHORIZED)
        return claims

    def delegated(self, assertion: str) -> SignedIn:
        """Return a sign-in for the user whom a service account asks for (RFC 7523, 2.1)."""
        claims = self._signed(assertion, {name: each.public_key for name, each in self.service_accounts.items()})
        account, now = self.service_accounts[claims["iss"]], self._issued.now()
        if claims.get("aud") != self._endpoint() or not now < claims.get("exp", 0) <= now + _LONGEST:
            raise OAuthRefusal("invalid_grant", "Invalid JWT: check your iat and exp values in the JWT claim.")
        user, scopes = str(claims.get("sub", "")), tuple(str(claims.get("scope", "")).split())
        if user.rpartition("@")[2] not in account.domains or not set(scopes) <= set(account.scopes):
            raise OAuthRefusal(
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of "
                "the scopes requested.",
                UNAUTHORIZED,
            )
        if user.lower() not in self._issued.users:
            raise OAuthRefusal("invalid_grant", "Invalid email or User ID")
        return self._issued.begin(self._issued.user(user), Client(account.email, ()), scopes)


def _basic(header: str) -> tuple[str, str] | None:
    """Return client id and secret of HTTP Basic, which are form-encoded before (RFC 6749, 2.3.1); None without it."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (NotBase64, UnicodeDecodeError):
        raise OAuthRefusal("invalid_request", "Malformed Authorization header.") from None
    return unquote_plus(name), unquote_plus(secret)
