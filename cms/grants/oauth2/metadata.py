"""What is known of an authorization server: its endpoints and its rules. Pure.

They come from the configuration and from the server's own document (RFC 8414, OpenID Connect Discovery).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cms_oauth.frozen import dataclass
from cms_oauth.providers import Server
from cms_oauth.text import is_link, printable

# Where RFC 8414, 3, and OpenID Connect Discovery, 4, have the document.
_OAUTH = "/.well-known/oauth-authorization-server"
_OPENID = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Metadata:
    """A server's endpoints, "" for what it does not have, and its rules.

    - `auth_methods` are the ways in which an application may prove itself (RFC 7591, 2), none if that is not known.
    - `says_iss` is True if each answer at the redirect address names the issuer (RFC 9207).
    """

    issuer: str
    authorization: str
    token: str
    device: str
    registration: str
    userinfo: str
    revocation: str
    auth_methods: tuple[str, ...] = ()
    says_iss: bool = False


def is_complete(server: Server, *, revoking: bool = False) -> bool:
    """True if the configuration has all that a sign-in and a redemption need, so that no document is asked for.

    To end a sign-in (`revoking`) needs one endpoint more, which only a document may have.
    """
    known = bool(server.authorization_endpoint and server.token_endpoint)
    return known and not (revoking and server.issuer and not server.revocation_endpoint)


def places(issuer: str) -> tuple[str, ...]:
    """Return where the document of an issuer may be, in the order in which they are tried."""
    parts = urlsplit(issuer.rstrip("/"))
    # RFC 8414 puts the path behind the well-known part, OpenID before it.
    return (
        f"{issuer.rstrip('/')}{_OPENID}",
        urlunsplit((parts.scheme, parts.netloc, f"{_OAUTH}{parts.path}", "", "")),
    )


def foreign(server: Server, document: Mapping[str, Any]) -> str:
    """Return the issuer that a document names if it is not the server's, as text for people; "" if it is (RFC 8414, 3.3)."""
    named = document.get("issuer")
    return "" if named == server.issuer else printable(str(named or "nobody"), 200)


def metadata(server: Server, document: Mapping[str, Any]) -> Metadata:
    """Return what is known of a server. What the configuration says counts before the document."""
    methods = document.get("token_endpoint_auth_methods_supported")
    return Metadata(
        server.issuer,
        server.authorization_endpoint or _endpoint(document, "authorization_endpoint"),
        server.token_endpoint or _endpoint(document, "token_endpoint"),
        server.device_endpoint or _endpoint(document, "device_authorization_endpoint"),
        server.registration_endpoint or _endpoint(document, "registration_endpoint"),
        server.userinfo_endpoint or _endpoint(document, "userinfo_endpoint"),
        server.revocation_endpoint or _endpoint(document, "revocation_endpoint"),
        tuple(map(str, methods)) if isinstance(methods, list) else (),
        document.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(document: Mapping[str, Any], name: str) -> str:
    found = document.get(name)
    return found if isinstance(found, str) and is_link(found) and _has_host(found) else ""


def _has_host(url: str) -> bool:
    """True for an address of HTTPS that names a server. `https://[` is none, and not even that for urllib."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname)
