"""How an application proves itself at a token endpoint."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from support.proofs import AppCertificate

from cms.grants.credentials import Assertion, Certificate, parse
from cms.grants.oauth2.metadata import Metadata
from cms.grants.oauth2.proof import proof

ISSUER = "https://sso.example"


@pytest.fixture(scope="module")
def app() -> AppCertificate:
    return AppCertificate()


def server(*methods: str, issuer: str = ISSUER) -> Metadata:
    return Metadata(issuer, "", "https://sso.example/token", "", "", "", "", methods)


def test_a_public_client() -> None:
    """It says its name only."""
    assert ({"client_id": "me"}, {}) == proof("me", "", "none", server())


@pytest.mark.parametrize("methods", [(), ("client_secret_post",), ("client_secret_basic", "client_secret_post")])
def test_a_secret_goes_into_the_form(methods: tuple[str, ...]) -> None:
    """Unless the configuration or the server says otherwise."""
    assert ({"client_id": "me", "client_secret": "s"}, {}) == proof("me", "s", "", server(*methods))


@pytest.mark.parametrize(("word", "methods"), [("basic", ()), ("", ("client_secret_basic", "none"))])
def test_a_secret_for_basic_is_encoded(word: str, methods: tuple[str, ...]) -> None:
    """Id and secret are form-encoded before they are put together (RFC 6749, 2.3.1)."""
    fields, headers = proof("me:you", "s3cr:%+/et ä", word, server(*methods))

    assert {} == fields
    scheme, _, encoded = headers["Authorization"].partition(" ")
    assert "Basic" == scheme
    assert "me%3Ayou:s3cr%3A%25%2B%2Fet+%C3%A4" == base64.b64decode(encoded).decode()


def test_the_configurations_word_counts_before_the_servers() -> None:
    """Some servers take what they do not announce."""
    assert "client_secret" in proof("me", "s", "post", server("client_secret_basic"))[0]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        (json.dumps({"installed": {"client_id": "me", "client_secret": "inside"}}), "inside"),
        ("{braces}", "{braces}"),
        ("{}", "{}"),
        (json.dumps({"installed": {}}), json.dumps({"installed": {}})),
    ],
)
def test_the_file_of_googles_console(text: str, sent: str) -> None:
    """A Desktop client comes as JSON with its secret in it; another secret may begin with a brace."""
    assert sent == proof("me", text, "post", server())[0]["client_secret"]


@pytest.mark.parametrize(("issuer", "audience"), [(ISSUER, ISSUER), ("", "https://sso.example/token")])
def test_a_key(issuer: str, audience: str, app: AppCertificate) -> None:
    """The application signs who it is, for this server."""
    found = parse(app.pem())
    assert isinstance(found, Certificate)
    fields, headers = proof("me", found, "private_key_jwt", server(issuer=issuer))
    claims = jwt.decode(fields["client_assertion"], options={"verify_signature": False})

    assert ("me", audience, "me", {}) == (claims["iss"], claims["aud"], fields["client_id"], headers)
    assert "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" == fields["client_assertion_type"]
    assert "client_secret" not in fields


def test_an_assertion_of_another_program() -> None:
    """It is sent as it is."""
    assert "a.b.c" == proof("me", Assertion("a.b.c"), "", server())[0]["client_assertion"]
