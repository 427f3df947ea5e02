"""What applications prove themselves with: certificates and their keys, assertions of an issuer outside."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from cms.sandbox.assertions import EXCHANGE_AUDIENCE, Federation
from cms.sandbox.tokens import b64url

DAY = 86_400.0


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _encryption(password: str) -> KeySerializationEncryption:
    return BestAvailableEncryption(password.encode()) if password else NoEncryption()


@dataclass(frozen=True)
class KeyPair:
    """An RSA key, as a service account has it, and as its provider knows it: both PEM."""

    key: rsa.RSAPrivateKey = field(default_factory=_key)

    @property
    def private_key(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def public_key(self) -> str:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass
class AppCertificate:
    """A self-signed certificate with its key, as `openssl req -x509` makes them. `ends` is Unix time."""

    ends: float = field(default_factory=lambda: time.time() + 365 * DAY)
    key: rsa.RSAPrivateKey = field(default_factory=_key)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
        end = datetime.fromtimestamp(self.ends, UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=400))
            .not_valid_after(end)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def public(self) -> str:
        """The certificate without its key: what a registration has."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def pem(self, password: str = "") -> bytes:
        """Both in one file."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(password))
        return key + self.public.encode()

    def pfx(self, password: str = "") -> bytes:
        """Both as PKCS #12."""
        return pkcs12.serialize_key_and_certificates(b"mail", self.key, self.certificate, None, _encryption(password))


@dataclass
class Issuer:
    """An outside issuer that vouches for an application: a Kubernetes cluster, a pipeline."""

    issuer: str = "https://cluster.example"
    subject: str = "system:serviceaccount:mail:cms"
    key: rsa.RSAPrivateKey = field(default_factory=_key)

    @property
    def federation(self) -> Federation:
        """The federated credential that the application has for it."""
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return Federation(self.issuer, self.subject, public.decode())

    def assertion(self, now: float, **claims: Any) -> str:
        """Return an assertion that is good for an hour."""
        usual = {"iss": self.issuer, "sub": self.subject, "aud": EXCHANGE_AUDIENCE, "nbf": now, "exp": now + 3600}
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "1"}, usual | claims)
        signed = ".".join(b64url(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{b64url(self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def write_private(path: Path, content: bytes | str, mode: int = 0o600) -> Path:
    """Write a file, whole and at once, as a program that renews it should."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    draft.chmod(mode)
    return draft.replace(path)
