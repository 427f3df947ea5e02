"""What a mail server or Entra said, and what it means: the cause, whose move it is, and the exact fix.

Tables, not code: a reply is looked up, candidates are ranked by the evidence at hand, and what no row knows is shown as
it came. Pure: the tests of `cms-oauth`, `cms doctor` and docs/troubleshooting.md are all made from here.
"""

from __future__ import annotations

import json
import math
import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any

from cms_oauth import diagnosis_mail
from cms_oauth.verdicts import (
    MOVERS,
    Claims,
    Evidence,
    Verdict,
    as_data,
    as_lines,
    command,
    evidence_data,
    fill,
    for_powershell,
    printable,
)

__all__ = (
    "MOVERS",
    "Claims",
    "Evidence",
    "Verdict",
    "as_data",
    "as_lines",
    "claims_of",
    "diagnose",
    "evidence_data",
    "of_entra",
)

# Header, claims, signature (RFC 7519).
_JWT_PARTS = 3

# A token has some 2 KB, and whatever is longer than a socket's reply is none.
_MAX_TOKEN = 100_000

# Longer claims are no names, and no reply needs more to be recognised by a person.
_MAX_TEXT = 512

# Which claim names the user differs between the versions of tokens; the first that is there counts.
_NAMES = ("upn", "preferred_username", "unique_name", "email")


def claims_of(token: str) -> Claims | None:
    """Return what the token says of itself; None for one that is no JWT, which is nobody's mistake."""
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
    scopes, roles, expires = _text(claims, "scp"), claims.get("roles"), claims.get("exp")
    audience = claims.get("aud")
    return Claims(
        audience=_text({"aud": audience[0] if isinstance(audience, list) and audience else audience}, "aud"),
        scopes=tuple(scopes.split()),
        roles=tuple(each for each in roles if isinstance(each, str)) if isinstance(roles, list) else (),
        user=_text(claims, *_NAMES),
        tenant=_text(claims, "tid"),
        app=_text(claims, "appid", "azp"),
        expires=float(expires) if _is_number(expires) else None,
        application=claims.get("idtyp") == "app" or (not scopes and bool(roles)),
    )


def _is_number(value: Any) -> bool:
    """Return whether it is a moment in time: not True, nor what JSON's readers take for infinite or for no number."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _text(claims: Mapping[str, Any], *names: str) -> str:
    """Return the first of these claims that is a text, as it may be shown."""
    return next((printable(text[:_MAX_TEXT]) for name in names if isinstance(text := claims.get(name), str)), "")


def diagnose(protocol: str, reply: str, evidence: Evidence | None = None) -> tuple[Verdict, ...]:
    """Return what the reply means, the likeliest first; never nothing.

    `protocol` is "smtp", "imap" or "pop"; `reply` the server's own words.
    """
    evidence = evidence or Evidence()
    found = next((row for row in diagnosis_mail.ROWS if protocol in row.protocols and row.pattern.search(reply)), None)
    verdicts = found.causes if found else (_unknown(reply),)
    values = {"mailbox": for_powershell(evidence.user or "USER@DOMAIN"), "login": command("login", evidence.user)}
    return tuple(fill(each, values) for each in verdicts)


def of_entra(
    aadsts: int | None, error: str = "", suberror: str = "", status: int | None = None, *, user: str = ""
) -> tuple[Verdict, ...]:
    """Return what a refusal of Entra's means: its AADSTS number, `error`, `suberror` and HTTP status, as far as known."""
    said = ", ".join(
        part
        for part in (f"AADSTS{aadsts}" if aadsts else "", error, suberror, f"HTTP {status}" if status else "")
        if part
    )
    return (fill(_unknown(said), {"login": command("login", user)}),)


# What support asks for: Exchange's server, time and id; Entra's trace and correlation ids.
_IDENTIFIERS = re.compile(
    r"\[\S+\.(?:outlook|office365|protection|exchangelabs)\.\S+[^\]]*\]|(?:trace|correlation) id: ?\S+", re.IGNORECASE
)


def identifiers_of(reply: str) -> tuple[str, ...]:
    """Return what Microsoft's support asks for, as it stands in a reply."""
    return tuple(_IDENTIFIERS.findall(printable(reply)))


def _unknown(reply: str) -> Verdict:
    shown = printable(reply).strip()[:_MAX_TEXT] or "nothing"
    steps = ["read the reply itself: it is all that is known"]
    steps += [f"give support these identifiers: {' '.join(known)}"] if (known := identifiers_of(reply)) else []
    return Verdict("unknown", f"No row of cms's tables knows this reply: {shown}", "you", tuple(steps))
