"""JSON web tokens: made to prove who an application is, and read to learn who has signed in. Only this file knows PyJWT.

RSA keys only, by RS256: every server takes these, and Google's service accounts have no others.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import jwt

from cms.core.accounts import Scopes
from cms_oauth.frozen import dataclass
from cms_oauth.json_object import read_object

# How long an assertion is good for: long enough for clocks that differ by minutes. Google allows an hour.
ASSERTION_SECONDS = 600

_ALGORITHM = "RS256"
_SERVICE_ACCOUNT = "service_account"


class NotAnAccount(Exception):
    """A text that is no service account's key. The text says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A program's own account (Google: "Using OAuth 2.0 for Server to Server Applications")."""

    email: str
    key_id: str
    private_key: str = field(repr=False)


def service_account(text: str) -> ServiceAccount:
    """Return the account whose JSON file has this text. Raises NotAnAccount."""
    try:
        found = read_object(text)
    except ValueError:
        raise NotAnAccount("is not JSON") from None
    if found.get("type") != _SERVICE_ACCOUNT:
        raise NotAnAccount("is not the key file of a service account")
    values = [found.get(name) for name in ("client_email", "private_key_id", "private_key")]
    if not all(isinstance(each, str) for each in values):
        raise NotAnAccount("has no client_email, private_key_id and private_key")
    return ServiceAccount(*map(str, values))


def for_mailbox(account: ServiceAccount, mailbox: str, scopes: Scopes, audience: str) -> str:
    """Return the assertion with which a service account asks for a user's token (RFC 7523, 2.1). Raises NotAnAccount."""
    claims = {"iss": account.email, "sub": mailbox, "scope": " ".join(scopes)}
    try:
        return _signed(claims, audience, account.private_key, {"kid": account.key_id})
    except (ValueError, TypeError, jwt.PyJWTError):
        raise NotAnAccount("has a private_key that cannot be read") from None


def for_client(client_id: str, audience: str, private_key: str) -> str:
    """Return the assertion with which an application proves itself (RFC 7523, 2.2)."""
    claims = {"iss": client_id, "sub": client_id, "jti": secrets.token_urlsafe(16)}
    return _signed(claims, audience, private_key, {})


def _signed(claims: Mapping[str, Any], audience: str, private_key: str, header: Mapping[str, Any]) -> str:
    now = int(time.time())
    whole = {**claims, "aud": audience, "iat": now, "exp": now + ASSERTION_SECONDS}
    return jwt.encode(whole, private_key, _ALGORITHM, dict(header))


def claims_in(token: object) -> Mapping[str, Any]:
    """Return the claims of an id token, none if it is not one.

    Its signature is not checked: it came from the token endpoint by TLS (OpenID Connect Core, 3.1.3.7, 6).
    """
    try:
        found: Mapping[str, Any] = jwt.decode(str(token), options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        # PyJWT itself takes any JSON to be of Unicode, and not to be deep.
        return {}
    return found
