"""An application's certificate with its key, as it comes in a file: PEM, or PKCS #12 (.pfx, .p12).

PEM has both in one file, the application's certificate before those of its issuers. Entra takes RSA keys only
(Microsoft: "Microsoft identity platform application authentication certificate credentials").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

_PEM_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Unusable(Exception):
    """Bytes that are no certificate with its key. The text says what is wrong, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, both as PEM; `expires` is Unix time."""

    private_key: str = field(repr=False)
    public: str
    expires: float


def parse(raw: bytes, password: bytes = b"") -> Certificate:
    """Return what a file holds, PEM or PKCS #12. Raises Unusable."""
    key, certificate = _from_pem(raw, password) if b"-----BEGIN " in raw else _from_pfx(raw, password)
    if not isinstance(key, RSAPrivateKey):
        raise Unusable("has no RSA key, and Entra takes no other")
    if key.public_key() != certificate.public_key():
        raise Unusable("has a key that is not the certificate's")
    clear = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(clear.decode(), certificate.public_bytes(Encoding.PEM).decode(), _end(certificate))


def expiry(raw: bytes, password: bytes = b"") -> float:
    """Return when the certificate in a file ends, as Unix time, without opening the key of a PEM file. Raises Unusable."""
    return _end(_certificate(raw)) if b"-----BEGIN " in raw else _end(_from_pfx(raw, password)[1])


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _certificate(raw: bytes) -> x509.Certificate:
    found = _PEM_CERTIFICATE.search(raw)
    if not found:
        raise Unusable("has no certificate in it: the key and the certificate belong into one file")
    try:
        return x509.load_pem_x509_certificate(found[0])
    except ValueError:
        raise Unusable("has a certificate that cannot be read") from None


def _from_pem(raw: bytes, password: bytes) -> tuple[object, x509.Certificate]:
    certificate = _certificate(raw)
    found = _PEM_KEY.search(raw)
    if not found:
        raise Unusable("has no private key in it: the key and the certificate belong into one file")
    encrypted = b"ENCRYPTED" in found[0]
    if encrypted and not password:
        raise Unusable("has an encrypted key: certificate_password= says where its password is")
    try:
        return load_pem_private_key(found[0], password if encrypted else None), certificate
    except (ValueError, TypeError):
        raise Unusable(f"has a key that cannot be read{': the password is wrong' if encrypted else ''}") from None


def _from_pfx(raw: bytes, password: bytes) -> tuple[object, x509.Certificate]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(raw, password or None)
    except ValueError:
        raise Unusable(
            "is neither PEM nor PKCS #12, or certificate_password= does not open it"
            if password
            else "is neither PEM nor PKCS #12, or is encrypted: certificate_password= says where its password is"
        ) from None
    if key is None or certificate is None:
        raise Unusable("has not both a key and its certificate in it")
    return key, certificate
