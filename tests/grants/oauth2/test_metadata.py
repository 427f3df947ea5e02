"""What is known of an authorization server, from the configuration and from its document."""

from __future__ import annotations

from typing import Any

import pytest

from cms.grants.oauth2 import metadata
from cms_oauth.providers import Server

ISSUER = "https://sso.example/realms/mail"
DOCUMENT: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "device_authorization_endpoint": f"{ISSUER}/device",
    "userinfo_endpoint": f"{ISSUER}/userinfo",
    "registration_endpoint": f"{ISSUER}/register",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
    "authorization_response_iss_parameter_supported": True,
}


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        (
            ISSUER,
            (
                f"{ISSUER}/.well-known/openid-configuration",
                "https://sso.example/.well-known/oauth-authorization-server/realms/mail",
            ),
        ),
        # The slash is part of the name, and of no address (RFC 8414, 3.1).
        (
            "https://sso.example/",
            (
                "https://sso.example/.well-known/openid-configuration",
                "https://sso.example/.well-known/oauth-authorization-server",
            ),
        ),
    ],
)
def test_where_a_document_may_be(issuer: str, places: tuple[str, ...]) -> None:
    """OpenID's place has the path before it, RFC 8414's behind it."""
    assert places == metadata.places(issuer)


def test_a_document_fills_in_what_the_configuration_leaves_out() -> None:
    """What the configuration says counts."""
    found = metadata.metadata(Server(ISSUER, token_endpoint="https://other.example/token"), DOCUMENT)

    assert ("https://other.example/token", f"{ISSUER}/authorize") == (found.token, found.authorization)
    assert (f"{ISSUER}/device", f"{ISSUER}/userinfo", f"{ISSUER}/register", f"{ISSUER}/revoke") == (
        found.device,
        found.userinfo,
        found.registration,
        found.revocation,
    )
    assert (("none", "client_secret_basic"), True) == (found.auth_methods, found.says_iss)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://sso.example/device",
        7,
        None,
        "javascript:alert(1)",
        "https://",
        "https://[",
        "https://sso.example]/",
        "https://sso.example/\x1b[2J",
        "https://sso.example/\ud800",
    ],
)
def test_an_endpoint_without_tls_is_none(endpoint: object) -> None:
    """No secret goes to an address that a document names without https, and what is no address ends nothing."""
    document = DOCUMENT | {"device_authorization_endpoint": endpoint, "token_endpoint_auth_methods_supported": "none"}
    found = metadata.metadata(Server(ISSUER), document)

    assert ("", ()) == (found.device, found.auth_methods)


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (ISSUER, ""),
        (f"{ISSUER}/", f"{ISSUER}/"),
        ("https://evil.example", "https://evil.example"),
        (None, "nobody"),
        ("a\nb", "a b"),
    ],
)
def test_whose_document_it_is(named: object, shown: str) -> None:
    """An issuer's name is compared exactly, and another one's is shown on one line."""
    assert shown == metadata.foreign(Server(ISSUER), {"issuer": named})


def test_who_needs_no_document() -> None:
    """A server whose two endpoints the configuration has."""
    assert metadata.is_complete(Server("", "https://a.example/a", "https://a.example/t"))
    assert not metadata.is_complete(Server(ISSUER, token_endpoint="https://a.example/t"))


@pytest.mark.parametrize(
    ("known", "complete"),
    [
        (Server(ISSUER, "https://a.example/a", "https://a.example/t"), False),
        (Server(ISSUER, "https://a.example/a", "https://a.example/t", revocation_endpoint="https://a.example/r"), True),
        # There is no document that could say more.
        (Server("", "https://a.example/a", "https://a.example/t"), True),
    ],
)
def test_who_needs_a_document_to_end_a_sign_in(known: Server, *, complete: bool) -> None:
    """Where only the document may have the address for that, it is asked, although a redemption does without."""
    assert metadata.is_complete(known)
    assert complete == metadata.is_complete(known, revoking=True)
