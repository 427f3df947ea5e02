"""How an application proves itself at a token endpoint: not at all, by HTTP Basic, in the form, or by a JWT it signs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import quote_plus

from cms.grants.credentials import Assertion, Certificate, Secret
from cms.grants.oauth2 import jwts
from cms.grants.oauth2.metadata import Metadata
from cms_oauth.json_object import read_object

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

# The names of RFC 7591, 2, for two of cms's.
_BASIC, _POST = "client_secret_basic", "client_secret_post"

# Fields of the form, and headers.
Proof: TypeAlias = tuple[Mapping[str, str], Mapping[str, str]]


def proof(client_id: str, secret: Secret, client_auth: str, metadata: Metadata) -> Proof:
    """Return what an application adds to a request. `client_auth` is the configuration's word, "" for the usual way."""
    named = {"client_id": client_id}
    if isinstance(secret, Certificate):
        # RFC 7523bis wants the issuer as the audience; servers take either.
        return named | _assertion(jwts.for_client(client_id, metadata.issuer or metadata.token, secret.private_key)), {}
    if isinstance(secret, Assertion):
        return named | _assertion(secret.text), {}
    if not secret:
        return named, {}
    password = _password(secret)
    if (client_auth or _usual(metadata)) == "basic":
        return {}, {"Authorization": _basic(client_id, password)}
    return named | {"client_secret": password}, {}


def _usual(metadata: Metadata) -> str:
    """Return the way for a secret: in the form, unless the server says that it takes no other than Basic."""
    methods = metadata.auth_methods
    return "basic" if _BASIC in methods and _POST not in methods else "post"


def _password(secret: str) -> str:
    """Return the secret in the text that the configuration names: the text itself, or that in Google's JSON file.

    Google's console offers a Desktop client as JSON with everything below "installed".
    """
    if not secret.startswith("{"):
        return secret
    try:
        found = read_object(secret).get("installed")
    except ValueError:
        return secret
    inside = found.get("client_secret") if isinstance(found, dict) else None
    return inside if isinstance(inside, str) else secret


def _assertion(text: str) -> dict[str, str]:
    return {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": text}


def _basic(client_id: str, password: str) -> str:
    """Return the header. Both are form-encoded before (RFC 6749, 2.3.1): a strict server refuses them raw."""
    pair = f"{quote_plus(client_id)}:{quote_plus(password)}"
    return f"Basic {b64encode(pair.encode()).decode()}"
