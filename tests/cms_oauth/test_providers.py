"""The rows of providers: complete, at odds with nothing, and of the places they are for."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cms_oauth.microsoft import CLOUDS, PERMISSIONS
from cms_oauth.providers import (
    CLIENT_AUTH,
    GOOGLE,
    MICROSOFT,
    OWN,
    PROVIDERS,
    Provider,
    Server,
    of_domain,
    provider_at,
    provider_of,
)

# How an account may sign in: the words that `sign_in=` takes.
WAYS = {"browser", "paste", "device", "broker", "app", "managed-identity"}

DOCS = Path(__file__).parents[2] / "docs"
OTHERS = [(row, row.server) for row in PROVIDERS.values() if row.server and row.name != OWN]


def endpoints(server: Server) -> list[str]:
    """Return the addresses that a row has."""
    found = [getattr(server, name) for name in server.__match_args__ if name == "issuer" or name.endswith("_endpoint")]
    return [each for each in found if each]


def test_only_microsoft_has_no_server() -> None:
    """MSAL knows Microsoft's; every other provider is told by its row."""
    assert {MICROSOFT} == {row.name for row in PROVIDERS.values() if row.server is None}
    assert CLOUDS["global"].imap_host == PROVIDERS[MICROSOFT].imap_host


@pytest.mark.parametrize(("row", "server"), OTHERS, ids=[row.name for row, _ in OTHERS])
def test_a_row_is_whole(row: Provider, server: Server) -> None:
    """A server is found by its issuer, or both addresses that a sign-in needs are there; and its words are known ones."""
    assert row.name.isascii()
    assert row.name.islower()
    assert row.title
    assert server.issuer or (server.authorization_endpoint and server.token_endpoint)
    assert {"https"} == {urlsplit(each).scheme for each in endpoints(server)}
    assert row.scopes
    assert row.scopes.keys() <= PERMISSIONS.keys()
    assert all(row.scopes.values())
    assert {*row.ways} <= WAYS
    assert server.client_auth in ("", *CLIENT_AUTH)
    assert all(len(pair) == 2 for pair in server.parameters)
    # A person has to be told how to get a client id, unless cms gets one.
    assert row.registers != bool(row.client)
    assert row.registers == bool(server.registration_endpoint)


def test_no_domain_is_of_two_providers() -> None:
    """A mail domain names one provider."""
    domains = [domain for row in PROVIDERS.values() for domain in row.domains]

    assert len(domains) == len({*domains})
    assert PROVIDERS["google"] is of_domain("GMail.com")
    assert of_domain("example.com") is of_domain("outlook.com") is None


@pytest.mark.parametrize("row", [row for row, _ in OTHERS], ids=[row.name for row, _ in OTHERS])
def test_the_documents_have_it(row: Provider) -> None:
    """A person finds the name to write, how to get a client id, and the mail servers to give to a program."""
    names, hosts = ((DOCS / name).read_text() for name in ("providers.md", "clients/README.md"))

    assert f"`{row.name}`" in names
    assert re.search(rf"^- \*\*([^*]*, )?{re.escape(row.title)}(, [^*]*)?:\*\*", names, re.MULTILINE)
    assert [] == [host for host in (row.imap_host, row.smtp_host, row.pop_host) if host and f" {host} " not in hosts]


def test_google() -> None:
    """One scope, whose slash is part of it; no device flow; consent each time, because only then is there a refresh token."""
    row = PROVIDERS[GOOGLE]

    assert row.server
    assert {"https://mail.google.com/"} == {scope for scopes in row.scopes.values() for scope in scopes}
    assert "device" not in row.ways
    assert {("access_type", "offline"), ("prompt", "consent")} <= {*row.server.parameters}


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("https://accounts.google.com", "google"),
        ("https://oauth.yandex.com/token", "yandex"),
        ("https://login.microsoftonline.com/common", MICROSOFT),
        ("https://sso.corp.example", MICROSOFT),
    ],
)
def test_whose_a_stored_sign_in_is(authority: str, expected: str) -> None:
    """The vault has the authority only."""
    assert expected == provider_of(authority)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("oauth2.googleapis.com", GOOGLE),
        ("WWW.googleapis.com", GOOGLE),
        ("api.fastmail.com", "fastmail"),
        ("login.microsoftonline.us", MICROSOFT),
        ("sso.corp.example", ""),
        ("", ""),
    ],
)
def test_whose_an_authorization_server_is(host: str, expected: str) -> None:
    """Other programs name the token endpoint; Google's has had several."""
    assert expected == provider_at(host)
