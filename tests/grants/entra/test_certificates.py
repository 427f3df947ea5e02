"""An application's certificate and its key, in the forms in which people have them."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from support.proofs import AppCertificate

from cms.grants.entra.certificates import Unusable, expiry, parse

MADE, OTHER = AppCertificate(), AppCertificate()
# X.509 counts in whole seconds.
ENDS = float(int(MADE.ends))
CURVE = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
KEY, _, CERTIFICATE = MADE.pem().partition(b"-----BEGIN CERTIFICATE")


@pytest.mark.parametrize(
    ("raw", "password"),
    [
        (MADE.pem(), b""),
        (MADE.public.encode() + KEY, b""),
        (MADE.pem() + OTHER.public.encode(), b""),
        (MADE.pem("hunter2"), b"hunter2"),
        (MADE.pem(), b"not needed"),
        (MADE.pfx(), b""),
        (MADE.pfx("hunter2"), b"hunter2"),
    ],
    ids=[
        "PEM",
        "certificate first",
        "with an issuer's",
        "encrypted",
        "password of nothing",
        "PFX",
        "PFX with password",
    ],
)
def test_forms(raw: bytes, password: bytes) -> None:
    """Each gives the key in clear, the application's own certificate, and its end."""
    found = parse(raw, password)

    assert (MADE.public, ENDS) == (found.public, found.expires)
    assert parse(found.private_key.encode() + found.public.encode()) == found
    assert ENDS == expiry(raw, password)
    assert "PRIVATE" not in repr(found)


@pytest.mark.parametrize(
    ("raw", "password", "why"),
    [
        (MADE.public.encode(), b"", "has no private key in it: the key and the certificate belong into one file"),
        (KEY, b"", "has no certificate in it: the key and the certificate belong into one file"),
        (MADE.pem("x"), b"", "has an encrypted key: certificate_password= says where its password is"),
        (MADE.pem("x"), b"y", "has a key that cannot be read: the password is wrong"),
        (KEY.replace(b"MII", b"!!!") + MADE.public.encode(), b"", "has a key that cannot be read"),
        (KEY + MADE.public.replace("MII", "!!!").encode(), b"", "has a certificate that cannot be read"),
        (KEY + OTHER.public.encode(), b"", "has a key that is not the certificate's"),
        (CURVE + MADE.public.encode(), b"", "has no RSA key, and Entra takes no other"),
        (MADE.pfx("x"), b"", "is neither PEM nor PKCS #12, or is encrypted: certificate_password= says where"),
        (MADE.pfx("x"), b"y", "is neither PEM nor PKCS #12, or certificate_password= does not open it"),
        (b"", b"", "is neither PEM nor PKCS #12"),
        (
            pkcs12.serialize_key_and_certificates(b"x", None, MADE.certificate, None, NoEncryption()),
            b"",
            "has not both a key and its certificate in it",
        ),
    ],
)
def test_unusable(raw: bytes, password: bytes, why: str) -> None:
    """What will not do is told in words that mend it, and quoted nowhere."""
    with pytest.raises(Unusable) as caught:
        parse(raw, password)

    assert str(caught.value).startswith(why)
    assert "PRIVATE" not in str(caught.value)


def test_the_end_needs_no_key() -> None:
    """`cms check` reads the end of a PEM file's certificate without its password."""
    assert ENDS == expiry(MADE.pem("hunter2"))
    assert time.time() < ENDS
