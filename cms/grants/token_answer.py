"""Judges what a token endpoint has answered, whichever provider's. Pure.

For Microsoft's answers this comes before MSAL, which does not check: it passes an empty access token on, and replaces a
stored refresh token with an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from cms_oauth import sasl
from cms_oauth.claims import claims_of
from cms_oauth.json_object import read_object

# A token with a lifetime of more than a year is a mistake of the provider.
MAX_LIFE = 366 * 24 * 60 * 60.0

# In bytes. Entra's longest tokens have some 10 KB. This many fit into a token file and into every reply of cms.
LONGEST_TOKEN = 48 * 1024

_TOKENS = ("access_token", "refresh_token")


def read(text: str) -> dict[str, Any]:
    """Return an answer that gives tokens, usable or not; an empty one for any other answer."""
    try:
        answer = read_object(text)
    except ValueError:
        return {}
    gives = "error" not in answer and any(name in answer for name in _TOKENS)
    return answer if gives else {}


def fault(answer: Mapping[str, Any], sent_at: float | None = None) -> str:
    """Return why the access token of an answer cannot be used, as a clause; "" if it can.

    `sent_at` is when the provider sent it, as Unix time by its own clock: this machine's may be wrong.
    """
    token, kind = answer.get("access_token"), answer.get("token_type")
    if token is None:
        return "there is no access token in it"
    if not isinstance(token, str):
        return "its access token is not text"
    if not token.strip():
        return "its access token is empty"
    if not sasl.is_token(token):
        return "its access token has characters that no token can have"
    if len(token) > LONGEST_TOKEN:
        return f"its access token has {len(token)} bytes"
    # RFC 6749, 7.1: a token of an unknown type must not be used. Upper and lower case are the same.
    if kind is not None and (not isinstance(kind, str) or kind.lower() != "bearer"):
        return "its access token is not a bearer token"
    claims = None if sent_at is None else claims_of(token)
    if sent_at is not None and claims and claims.expires is not None and claims.expires <= sent_at:
        return "its access token has expired already"
    return _lifetime_fault(answer)


def _lifetime_fault(answer: Mapping[str, Any]) -> str:
    if life(answer.get("expires_in")) is not None:
        return ""
    if "expires_in" in answer:
        return "the lifetime of its access token makes no sense"
    # The metadata service of a machine may name the end in its place.
    return "" if "expires_on" in answer else "it does not say how long its access token lives"


def life(value: object) -> float | None:
    """Return a valid lifetime in seconds, else None. Some providers send it as text."""
    try:
        seconds = float(value)  # type: ignore[arg-type]  # raises for anything but a number
    except (TypeError, ValueError, OverflowError):
        return None
    valid = not isinstance(value, bool) and math.isfinite(seconds) and 0 < seconds <= MAX_LIFE
    return seconds if valid else None


def is_refresh_token(value: object) -> TypeGuard[str]:
    """Return True if this can be a refresh token: visible ASCII (RFC 6749, A.17), and not blank."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and value.strip() != ""
