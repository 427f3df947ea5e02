"""Reads the claims of an access token that is a JWT, for display and advice. They are never verified.

Only the mail server decides whether a token is good. Microsoft may make its tokens opaque at any time, as those of
personal accounts are, so nothing depends on the claims.
"""

from __future__ import annotations

import json
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from cms_oauth.text import printable

# Header, claims, signature (RFC 7519).
_JWT_PARTS = 3

# The longest token that is read. A token has about 2 KB.
_MAX_TOKEN = 100_000

# The year 9999 as Unix time: later values are ignored, and so are NaN and infinity, which Python's JSON reader accepts.
_LAST_MOMENT = 253_402_300_800

# Longer claims are cut.
_MAX_TEXT = 512

# The claims that may name the user, depending on the token's version; the first one that exists is used.
_NAMES = ("upn", "preferred_username", "unique_name", "email")


class Claims(NamedTuple):
    """The claims of a token, never verified. A tuple, because each request hashes one (`cms.core.preflight.misfit`).

    `scopes` are delegated permissions and `roles` those of an application; `expires` is Unix time, None if missing; `app`
    is the client id; `application` is True if no person signed in; `issuer` is whose token it is.
    """

    audience: str = ""
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    user: str = ""
    tenant: str = ""
    app: str = ""
    expires: float | None = None
    application: bool = False
    issuer: str = ""


def claims_of(token: str) -> Claims | None:
    """Return the claims of a token, None if it is not a JWT."""
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
        roles=tuple(_safe(each) for each in roles if isinstance(each, str)) if isinstance(roles, list) else (),
        user=_text(claims, *_NAMES),
        tenant=_text(claims, "tid"),
        app=_text(claims, "appid", "azp"),
        expires=_moment(claims.get("exp")),
        application=claims.get("idtyp") == "app" or (not scopes and bool(roles)),
        issuer=_text(claims, "iss"),
    )


def _moment(value: Any) -> float | None:
    """Return a Unix time, None if the value is not one. True is not one, although Python counts it as a number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LAST_MOMENT
    return float(value) if known else None


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """Return the first of these claims that is text, made printable."""
    return next((_safe(text) for name in names if isinstance(text := claims.get(name), str)), "")


def _safe(text: str) -> str:
    # Nearly every claim is short and printable as it is.
    return text if text.isprintable() and len(text) <= _MAX_TEXT else printable(text, _MAX_TEXT)
