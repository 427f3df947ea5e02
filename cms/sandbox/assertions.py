"""Checks an application's credential: a secret, a certificate's signature, or a federated assertion.

Checked as Entra checks them (Microsoft: "Microsoft identity platform application authentication certificate
credentials", "Workload identity federation"): a JWT signed by the key of a registered certificate, or by
an outside issuer that a federated credential of the application names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from cms.sandbox.errors import Refusal
from cms.sandbox.tokens import unb64url

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

# The audience that a federated assertion needs.
EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"

# Clocks differ by minutes at most.
_LEEWAY = 300.0
_THREE_PARTS = 3

_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
_ALGORITHMS: dict[str, padding.AsymmetricPadding] = {"PS256": _PSS, "RS256": padding.PKCS1v15()}


@dataclass(frozen=True, slots=True)
class Federation:
    """A federated credential: an issuer and subject whose assertions are accepted. `public_key` is the issuer's, as PEM."""

    issuer: str
    subject: str
    public_key: str
    audience: str = EXCHANGE_AUDIENCE


@dataclass(frozen=True, slots=True)
class Proofs:
    """The credentials of a registered application. `certificates` are PEM; `expired` refuses the secret as too old."""

    secret: str = field(default="", repr=False)
    certificates: tuple[str, ...] = ()
    federations: tuple[Federation, ...] = ()
    expired: bool = False

    @property
    def any(self) -> bool:
        """True if the application has to send a credential."""
        return bool(self.secret or self.certificates or self.federations)


def check(proofs: Proofs, client_id: str, fields: Mapping[str, str], endpoint: str, now: float) -> None:
    """Raise Refusal unless the request has the application's credential. `endpoint` is the address of the request."""
    if "client_assertion" in fields:
        if fields.get("client_assertion_type") != ASSERTION_TYPE:
            raise Refusal(90014, "client_assertion_type is missing.")
        _check_assertion(proofs, client_id, fields["client_assertion"], endpoint, now)
    elif "client_secret" not in fields:
        raise Refusal(7000216 if fields.get("grant_type") == "client_credentials" else 7000218)
    elif not proofs.secret or fields["client_secret"] != proofs.secret:
        raise Refusal(7000215)
    elif proofs.expired:
        raise Refusal(7000222)


def _check_assertion(proofs: Proofs, client_id: str, assertion: str, endpoint: str, now: float) -> None:
    head, claims = parts(assertion)
    if claims.get("iss") == client_id:
        _check_signed_by_certificate(proofs, head, assertion)
        _check_fields(claims, client_id, endpoint)
    else:
        _check_federated(proofs, claims, assertion)
    if not claims.get("nbf", 0) - _LEEWAY <= now <= claims.get("exp", 0) + _LEEWAY:
        raise Refusal(700024, "The assertion is not within its valid time range.")


def parts(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims of a JWT; raises Refusal."""
    try:
        encoded = assertion.split(".")
        head, claims = (json.loads(unb64url(part)) for part in encoded[:2])
        whole = len(encoded) == _THREE_PARTS and isinstance(head, dict) and isinstance(claims, dict)
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise Refusal(50027, "The client_assertion is no JWT.")
    return head, claims


def _check_fields(claims: Mapping[str, Any], client_id: str, endpoint: str) -> None:
    if claims.get("sub") != client_id:
        raise Refusal(700021, "The assertion's subject is not the application.")
    if claims.get("aud") != endpoint:
        raise Refusal(700023, "The assertion's audience is not this token endpoint.")


def _check_signed_by_certificate(proofs: Proofs, head: Mapping[str, Any], assertion: str) -> None:
    for pem in proofs.certificates:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        if _names(head, certificate):
            key = certificate.public_key()
            assert isinstance(key, RSAPublicKey), "an application's certificate has an RSA key"
            if is_signed(key, head, assertion):
                return
            raise Refusal(700027, "The signature does not fit the certificate that the thumbprint names.")
    raise Refusal(700027, "The key was not found: no certificate with this thumbprint is registered.")


def _names(head: Mapping[str, Any], certificate: x509.Certificate) -> bool:
    """True if the header names this certificate, by either thumbprint."""
    der = certificate.public_bytes(Encoding.DER)
    thumbs = {"x5t#S256": hashlib.sha256(der).digest(), "x5t": hashlib.sha1(der, usedforsecurity=False).digest()}
    named = [name for name in thumbs if name in head]
    return bool(named) and all(_same(str(head[name]), thumbs[name]) for name in named)


def _same(told: str, thumb: bytes) -> bool:
    return told.rstrip("=") == base64.urlsafe_b64encode(thumb).decode().rstrip("=")


def _check_federated(proofs: Proofs, claims: Mapping[str, Any], assertion: str) -> None:
    head, _ = parts(assertion)
    of_issuer = [each for each in proofs.federations if each.issuer == claims.get("iss")]
    if not of_issuer:
        raise Refusal(700211, f"No matching federated identity record found for issuer '{claims.get('iss')}'.")
    fitting = [each for each in of_issuer if each.subject == claims.get("sub")]
    if not fitting:
        raise Refusal(700213, f"No matching federated identity record found for subject '{claims.get('sub')}'.")
    if claims.get("aud") != fitting[0].audience:
        raise Refusal(700212, f"No matching federated identity record found for audience '{claims.get('aud')}'.")
    key = load_pem_public_key(fitting[0].public_key.encode())
    assert isinstance(key, RSAPublicKey), "an issuer of the sandbox signs with RSA"
    if not is_signed(key, head, assertion):
        raise Refusal(50013, "The assertion's signature is not its issuer's.")


def is_signed(key: RSAPublicKey, head: Mapping[str, Any], assertion: str) -> bool:
    """True if a JWT is signed by this key."""
    signed, _, signature = assertion.rpartition(".")
    algorithm = _ALGORITHMS.get(str(head.get("alg")))
    if algorithm is None:
        return False
    try:
        key.verify(unb64url(signature), signed.encode(), algorithm, hashes.SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True
