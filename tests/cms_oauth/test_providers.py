"""The rows of providers: complete, at odds with nothing, and of the places they are for."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cms_oauth.microsoft import CLOUDS, PERMISSIONS
from cms_oauth.providers import (
    CLIENT_AUTH,
    GOOGLE,
    MICROSOFT,
    OPENID,
    OWN,
    PROVIDERS,
    Provider,
    Server,
    can_revoke,
    of_domain,
    of_host,
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
    assert "device" not in row.ways or server.issuer or server.device_endpoint, "no address for device codes is known"
    assert server.client_auth in ("", *CLIENT_AUTH)
    assert all(len(pair) == 2 for pair in server.parameters)
    # A person has to be told how to get a client id, unless cms gets one.
    assert row.registers != bool(row.client)
    assert row.registers == bool(server.registration_endpoint)
    assert can_revoke(server) or not row.ends


def test_no_domain_is_of_two_providers() -> None:
    """A mail domain names one provider, and so does a domain of mail servers."""
    domains = [domain for row in PROVIDERS.values() for domain in (*row.domains, *row.hosts)]

    assert len(domains) == len({*domains})
    assert PROVIDERS["google"] is of_domain("GMail.com")
    assert of_domain("example.com") is of_domain("outlook.com") is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("aspmx.l.google.com", "google"),
        ("ALT1.ASPMX.L.GOOGLE.COM", "google"),
        ("aspmx2.googlemail.com", "google"),
        ("in1-smtp.messagingengine.com", "fastmail"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("mx-aol.mail.gm0.yahoodns.net", "aol"),
        ("mx.yandex.net", "yandex"),
        ("imap.yandex.ru", "yandex"),
        ("emx.mail.ru", "mailru"),
        ("mx1.seznam.cz", "seznam"),
        ("notgoogle.com", ""),
        ("google.com.example", ""),
        ("contoso-com.mail.protection.outlook.com", ""),
        ("", ""),
    ],
)
def test_whose_mail_server_a_host_is(host: str, expected: str) -> None:
    """A host that takes logins, or that receives mail (MX); one that no row has is nobody's."""
    found = of_host(host)

    assert expected == (found.name if found else "")


@pytest.mark.parametrize(("row", "server"), OTHERS, ids=[row.name for row, _ in OTHERS])
def test_the_documents_have_it(row: Provider, server: Server) -> None:
    """A person finds the name to write, how to sign in and to get a client id, and the mail servers to give to a program."""
    names, hosts = ((DOCS / name).read_text() for name in ("providers.md", "clients/README.md"))
    ways = ", ".join(way for way in row.ways if way != "app")
    asked = {*itertools.chain(server.identity, *row.scopes.values())}
    missing = [host for host in (row.imap_host, row.smtp_host, row.pop_host) if host and f" {host} " not in hosts]

    assert re.search(rf"^\| .*`{row.name}`.* \| {ways} \|", names, re.MULTILINE), (
        f"docs/providers.md: the table has no line with `{row.name}` and {ways}"
    )
    assert re.search(rf"^- \*\*([^*]*, )?{re.escape(row.title)}(, [^*]*)?:\*\*", names, re.MULTILINE), (
        f"docs/providers.md: the list below the table has no item **{row.title}:**"
    )
    for words, holds in (
        (r"^([^.]*) give a new refresh token each time", server.rotates),
        (r"Only at ([^,]*), cms gets a client id by itself", row.registers),
        (r"^OAuth2 alone says nothing of the person\. At ([^:]*), and at a server", OPENID not in asked),
    ):
        listed = re.search(words, names, re.MULTILINE)
        assert listed, words
        assert holds == bool(re.search(rf"\b{re.escape(row.title)}\b", listed[1])), (
            f"docs/providers.md: {row.title} is missing, or is not to be there, where it says: {listed[0]}"
        )
    assert not missing, f"docs/clients/README.md: the table has no {', '.join(missing)}"


def test_google() -> None:
    """One scope, whose slash is part of it; no device flow; consent each time, because only then is there a refresh token."""
    row = PROVIDERS[GOOGLE]

    assert row.server
    assert {"https://mail.google.com/"} == {scope for scopes in row.scopes.values() for scope in scopes}
    assert "device" not in row.ways
    assert {("access_type", "offline"), ("prompt", "consent")} <= {*row.server.parameters}


@pytest.mark.parametrize(
    ("authority", "named", "expected"),
    [
        ("https://accounts.google.com", "", "google"),
        ("https://oauth.yandex.com/token", "", "yandex"),
        ("https://login.microsoftonline.com/common", "", MICROSOFT),
        ("https://login.microsoftonline.us:443/common", "", MICROSOFT),
        ("https://sso.corp.example", "", OWN),
        ("https://sso.corp.example", OWN, OWN),
        # A cloud that no table has; a provider that a later cms knows; a file that cannot be read.
        ("https://login.cloud.example/common", MICROSOFT, MICROSOFT),
        ("https://sso.corp.example", "another", OWN),
        ("", "", MICROSOFT),
        ("https://[", "", OWN),
    ],
)
def test_whose_a_stored_sign_in_is(authority: str, named: str, expected: str) -> None:
    """As was stored; an earlier cms has stored the authority only."""
    assert expected == provider_of(authority, named)


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
