"""What an application proves itself with, and what its refusals mean.

That is a secret, a certificate, or an assertion that another program makes.

Everything is read anew for each token, so a renewed certificate, a replaced secret and an assertion that Kubernetes or a
pipeline has rotated are used at once.

A certificate comes in one file with its key: PEM, with the application's certificate before those of its issuers, or
PKCS #12 (.pfx, .p12). cms signs with RSA keys only, which every server takes, and Entra takes no other (Microsoft:
"Microsoft identity platform application authentication certificate credentials").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import field, replace
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from cms.core import refusals
from cms.core.accounts import Grant, Source
from cms.core.lifecycle import LONGEST_PAUSE, Granted, Outcome, Refused, Transient, Trouble
from cms.grants.messages import CredentialEnd
from cms.grants.secret_sources import Missing, Unavailable, read_source
from cms_oauth.frozen import dataclass
from cms_oauth.moves import RETRIES, Move

# How soon a refused application is tried again: a repair at the provider, or in a file, is not announced to cms.
AGAIN_SECONDS = LONGEST_PAUSE

_PEM_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Unusable(Exception):
    """Bytes that are no certificate with its key. The text says what is wrong, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, both as PEM; `expires` is Unix time, `thumbprint` as Entra's portal shows it."""

    private_key: str = field(repr=False)
    public: str
    expires: float
    thumbprint: str


@dataclass(frozen=True, slots=True)
class Assertion:
    """A client assertion that another program made, ready to be sent."""

    text: str = field(repr=False)


# What an application proves itself with: "" for nothing, its secret as text, or one of the others.
Secret: TypeAlias = str | Assertion | Certificate


@dataclass(frozen=True, slots=True)
class Credential:
    """What an application proves itself with. `expires` is the Unix time at which a certificate ends, 0 for unknown."""

    value: Secret = field(default="", repr=False)
    expires: float = 0.0

    @property
    def fingerprint(self) -> str:
        """A hash that tells one secret or certificate from another, "" for none. An assertion is replaced all the time."""
        proof = self.value.public if isinstance(self.value, Certificate) else self.value
        return hashlib.sha256(proof.encode()).hexdigest() if proof and isinstance(proof, str) else ""

    def behind(self, outcome: Outcome) -> Outcome:
        """Return the outcome of using this credential, with the end of its certificate."""
        if not self.expires or not isinstance(outcome, Granted):
            return outcome
        return replace(outcome, sign_in=replace(outcome.sign_in, credential_expires=self.expires))


NONE = Credential()


def credential(grant: Grant) -> Credential:
    """Return what the grant's application proves itself with, read now. Raises Unavailable."""
    if grant.client_secret:
        return Credential(_text("client_secret", grant.client_secret))
    if grant.client_assertion:
        # Kubernetes mounts its tokens readable by all of the pod.
        return Credential(Assertion(_text("client_assertion", grant.client_assertion, private=False)))
    if grant.certificate:
        return _certificate_credential(grant.certificate, grant.certificate_password)
    return NONE


def _certificate_credential(source: Source, password: Source | None) -> Credential:
    opened_by = _read("certificate_password", password).rstrip(b"\r\n") if password else b""
    try:
        found = parse(_read("certificate", source), opened_by)
    except Unusable as unusable:
        raise _unavailable("certificate", source, str(unusable)) from None
    return Credential(found, found.expires)


def _text(name: str, source: Source, *, private: bool = True) -> str:
    try:
        found = _read(name, source, private=private).decode("ascii").strip()
    except UnicodeDecodeError:
        raise _unavailable(name, source, "is not text") from None
    if not found:
        raise _unavailable(name, source, "is empty")
    return found


def _read(name: str, source: Source, *, private: bool = True) -> bytes:
    try:
        return read_source(source, private=private)
    except Missing as missing:
        raise _unavailable(name, source, str(missing)) from None


def _cannot_be_had(name: str, source: Source, why: str) -> str:
    return f"the {name.replace('_', ' ')} cannot be read: {source} {why}"


def _unavailable(name: str, source: Source, why: str) -> Unavailable:
    hint = Move(f"check {name} of the account in the configuration; ", RETRIES)
    return Unavailable(Transient(Trouble("locked", _cannot_be_had(name, source, why), hint)))


def explain(outcome: Outcome, grant: Grant) -> Outcome:
    """Return what a refusal means for an application: no person is asked to sign in, and cms tries again by itself."""
    if not isinstance(outcome, Refused):
        return outcome
    trouble = outcome.trouble
    if trouble.kind == "application":
        return Refused(trouble, AGAIN_SECONDS)
    return Refused(refusals.of_application(trouble, grant), AGAIN_SECONDS)


def certificate_end(grant: Grant) -> CredentialEnd:
    """Return when the certificate of a grant's application ends, for `cms check`.

    No command is run, and no key is opened but a PKCS #12 file's: that has the certificate inside.
    """
    source, password = grant.certificate, grant.certificate_password
    if source is None:
        return CredentialEnd(grant.key)
    if command := next((each for each in (source, password) if each and each.kind == "command"), None):
        return CredentialEnd(grant.key, why=f"{command} is not run to look at a certificate")
    try:
        opened_by = _read("certificate_password", password).rstrip(b"\r\n") if password else b""
        return CredentialEnd(grant.key, expiry(_read("certificate", source), opened_by))
    except Unavailable as unavailable:
        return CredentialEnd(grant.key, why=unavailable.outcome.trouble.message)
    except Unusable as unusable:
        return CredentialEnd(grant.key, why=_cannot_be_had("certificate", source, str(unusable)))


def parse(raw: bytes, password: bytes = b"") -> Certificate:
    """Return what a file holds, PEM or PKCS #12. Raises Unusable."""
    key, certificate = _from_pem(raw, password) if b"-----BEGIN " in raw else _from_pfx(raw, password)
    if not isinstance(key, RSAPrivateKey):
        raise Unusable("has no RSA key, and cms signs with no other")
    if key.public_key() != certificate.public_key():
        raise Unusable("has a key that is not the certificate's")
    clear = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # S303: it tells which certificate is meant, and protects nothing.
    thumbprint = certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303
    public = certificate.public_bytes(Encoding.PEM).decode()
    return Certificate(clear.decode(), public, _end(certificate), thumbprint)


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
