"""What a mail server says, during the login, of the token that it wants (RFC 7628, 3.2.2). Pure."""

from __future__ import annotations

from contextlib import suppress

from cms_oauth.diagnosis import mail
from cms_oauth.diagnosis.verdicts import Evidence, Verdict
from cms_oauth.json_object import read_object
from cms_oauth.text import printable

# More of a value is shown to nobody.
_MAX_TEXT = 512


def asked(evidence: Evidence) -> dict[str, str]:
    """Return what the server sent, by name: `status`, `scope`, `openid-configuration`."""
    with suppress(ValueError):
        found = read_object(evidence.challenge)
        return {name: printable(each, _MAX_TEXT) for name, each in found.items() if isinstance(each, str)}
    return {}


def wanted_issuer(evidence: Evidence) -> str:
    """Return whose tokens the server says that it accepts, by the address of the discovery document, "" for nobody's."""
    base, _, document = asked(evidence).get("openid-configuration", "").partition("/.well-known/")
    # RFC 8414 has the issuer's path at the end of the address.
    return f"{base}/{document.partition('/')[2]}".rstrip("/")


def scope(_: str, evidence: Evidence) -> Verdict | None:
    """Find a token without the scope that the server wants."""
    return mail.WANTED_SCOPE if asked(evidence).get("status") == "insufficient_scope" else None


def issuer(_: str, evidence: Evidence) -> Verdict | None:
    """Find a token of another issuer than the server names. Entra has several names for one."""
    claims, wanted = evidence.claims, wanted_issuer(evidence)
    if not claims or not claims.issuer or claims.tenant or not wanted:
        return None
    return mail.ISSUER if claims.issuer.rstrip("/") != wanted else None
