"""Certificates of every kind: as companies' authorities make them, and as they go wrong."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)

# Details that corporate authorities leave out, and that Python's strict verification (3.13) demands.
COMPANIES = ("no authority key identifier", "no key usage", "constraints not critical", "no subject key identifier")


@dataclass
class Made:
    """A certificate with its key. `faults` are of `COMPANIES`; times are days from now."""

    name: str
    signed_by: Made | None = None
    is_authority: bool = False
    faults: frozenset[str] = frozenset()
    begins: float = -2.0
    ends: float = 2.0
    host: str = "localhost"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        signer, now = self.signed_by or self, datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, signer.name)])
        builder = x509.CertificateBuilder(issuer, subject, self.key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now + self.begins * DAY).not_valid_after(now + self.ends * DAY)
        for extension, critical in self._extensions(signer):
            builder = builder.add_extension(extension, critical)
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    def _extensions(self, signer: Made) -> list[tuple[x509.ExtensionType, bool]]:
        found: list[tuple[x509.ExtensionType, bool]] = []
        constraints = x509.BasicConstraints(ca=self.is_authority, path_length=None)
        found.append((constraints, self.is_authority and "constraints not critical" not in self.faults))
        if "no authority key identifier" not in self.faults:
            found.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False))
        if "no subject key identifier" not in self.faults:
            found.append((x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False))
        if self.is_authority and "no key usage" not in self.faults:
            found.append((_signs(), True))
        if not self.is_authority:
            names = [x509.DNSName(self.host)]
            if self.host == "localhost":
                names.append(x509.IPAddress(ip_address("127.0.0.1")))  # type: ignore[arg-type]  # GeneralNames of two kinds
            found.append((x509.SubjectAlternativeName(names), False))
        return found

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def write(self, path: Path) -> str:
        """Write the certificate, as authorities are named; return the path."""
        path.write_bytes(self.pem)
        return str(path)

    def server(self, folder: Path, *chain: Made) -> ssl.SSLContext:
        """Return a server's context with this certificate, and those of a chain behind it."""
        path = folder / f"{self.name}.key.pem"
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(b"".join((key, self.pem, *(each.pem for each in chain))))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _signs() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def of_company(fault: str) -> tuple[Made, Made]:
    """Return an authority and a server's certificate with one of the faults of `COMPANIES`."""
    own = frozenset([fault])
    authority = Made("Company CA", is_authority=True, faults=own - {"no authority key identifier"})
    return authority, Made("server", authority, faults=own & {"no authority key identifier"})
