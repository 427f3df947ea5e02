"""What an access token says of itself, if it is a JWT: for display and advice, never verified.

Only the mail server decides whether a token is good. Microsoft may make its tokens opaque at any time, as those of
personal accounts are, so nothing depends on claims being there.
"""

from __future__ import annotations

import json
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cms_oauth.text import printable

# Header, claims, signature (RFC 7519).
_JWT_PARTS = 3

# A token has some 2 KB. Nothing longer than a socket's reply is one.
_MAX_TOKEN = 100_000

# Unix time of the year 9999: what is later is no moment (nor are NaN and infinity, which JSON's reader lets through).
_LAST_MOMENT = 253_402_300_800

# Longer claims are no names of anything.
_MAX_TEXT = 512

# Which claim names the user differs between the versions of tokens; the first that is there counts.
_NAMES = ("upn", "preferred_username", "unique_name", "email")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself, where it is a JWT that can be decoded: best effort, never verified.

    `scopes` are its delegated permissions and `roles` an application's; `expires` is Unix time, None where it names
    none; `app` is the client id; `application` says that no person signed in.
    """

    audience: str = ""
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    user: str = ""
    tenant: str = ""
    app: str = ""
    expires: float | None = None
    application: bool = False


def claims_of(token: str) -> Claims | None:
    """Return what the token says of itself, None if it is not a JWT, which is no error."""
    parts = token.split(".")
    if len(parts) != _JWT_PARTS or len(token) > _MAX_TOKEN:
        return None
    try:
        claims = json.loads(a2b_base64(parts[1].translate(_URL_SAFE) + "==="))
    except (ValueError, NotBase64, RecursionError):
        return None
    return _claims(claims) if isinstance(claims, dict) else None


_URL_SAFE = str.maketrans("-_", "+/")


def _claims(claims: Mapping[str, Any]) -> Claims:
    scopes, roles = _text(claims, "scp"), claims.get("roles")
    audience = claims.get("aud")
    return Claims(
        audience=_text({"aud": audience[0] if isinstance(audience, list) and audience else audience}, "aud"),
        scopes=tuple(scopes.split()),
        roles=tuple(printable(each) for each in roles if isinstance(each, str)) if isinstance(roles, list) else (),
        user=_text(claims, *_NAMES),
        tenant=_text(claims, "tid"),
        app=_text(claims, "appid", "azp"),
        expires=_moment(claims.get("exp")),
        application=claims.get("idtyp") == "app" or (not scopes and bool(roles)),
    )


def _moment(value: Any) -> float | None:
    """Return a moment in Unix time, None for what is none; nor is True, though Python counts it among the numbers."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LAST_MOMENT
    return float(value) if known else None


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """Return the first of these claims that is a text, as it may be shown."""
    return next((printable(text, _MAX_TEXT) for name in names if isinstance(text := claims.get(name), str)), "")
