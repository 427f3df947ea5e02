"""JSON web tokens: what cms signs, and what it reads."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.proofs import KeyPair

from cms.grants.oauth2 import jwts

AUDIENCE = "https://oauth2.example/token"
MAILBOX = "desk@corp.example"


@pytest.fixture(scope="module")
def pair() -> KeyPair:
    return KeyPair()


def account_file(private_key: str, **more: object) -> str:
    found = {
        "type": "service_account",
        "client_email": "robot@project.iam.example",
        "private_key_id": "key-1",
        "private_key": private_key,
    }
    return json.dumps(found | more)


def test_the_assertion_of_a_service_account(pair: KeyPair) -> None:
    """It is for one mailbox and one token endpoint, for minutes, and names its key (RFC 7523, 3)."""
    account = jwts.service_account(account_file(pair.private_key))
    assertion = jwts.for_mailbox(account, MAILBOX, ("a", "b"), AUDIENCE)
    claims = jwt.decode(assertion, pair.public_key, ["RS256"], audience=AUDIENCE)

    assert ("robot@project.iam.example", MAILBOX, "a b") == (claims["iss"], claims["sub"], claims["scope"])
    assert jwts.ASSERTION_SECONDS == claims["exp"] - claims["iat"]
    assert abs(time.time() - claims["iat"]) < 60
    assert "key-1" == jwt.get_unverified_header(assertion)["kid"]
    assert pair.private_key not in repr(account)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not JSON"),
        ("[]", "is not JSON"),
        ('{"installed": {}}', "is not the key file of a service account"),
        (account_file("", private_key_id=7), "has no client_email, private_key_id and private_key"),
    ],
)
def test_what_is_no_service_account(text: str, why: str) -> None:
    """The text says what is wrong with the file."""
    with pytest.raises(jwts.NotAnAccount, match=why):
        jwts.service_account(text)


def test_a_key_that_cannot_sign() -> None:
    """Damaged, or of another kind: the text quotes nothing of it."""
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for key in ("-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----", pem):
        account = jwts.service_account(account_file(key))
        with pytest.raises(jwts.NotAnAccount) as wrong:
            jwts.for_mailbox(account, MAILBOX, (), AUDIENCE)
        assert "has a private_key that cannot be read" == str(wrong.value)


def test_the_assertion_of_a_client(pair: KeyPair) -> None:
    """It names the client twice, and is never the same (RFC 7523, 3)."""
    one, two = (jwts.for_client("client-1", AUDIENCE, pair.private_key) for _ in range(2))
    claims = jwt.decode(one, pair.public_key, ["RS256"], audience=AUDIENCE)

    assert ("client-1", "client-1") == (claims["iss"], claims["sub"])
    assert one != two


@pytest.mark.parametrize(
    "text", ["", "a.b.c", 7, None, "ya29.opaque", "\ud800", f"{'W1tb' * 40000}.{'W1tb' * 40000}.x"]
)
def test_what_is_no_id_token(text: object) -> None:
    """It says nothing."""
    assert {} == jwts.claims_in(text)


def test_an_id_token() -> None:
    """Its claims are read without its key: it came by TLS."""
    text = jwt.encode({"sub": "1", "email": MAILBOX}, "k" * 32, "HS256")

    assert {"sub": "1", "email": MAILBOX} == jwts.claims_in(text)
