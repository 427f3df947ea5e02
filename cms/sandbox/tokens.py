"""Makes and checks the tokens that the sandbox issues. They are worthless anywhere else.

An access token looks like Exchange Online's: a JWT of about 2 KB. It is signed with a key that lives as long as the
sandbox, so that a server which checks it by introspection really checks something.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

# The size of an access token for Exchange Online with a few group claims.
USUAL_SIZE = 2200


def b64url(raw: bytes) -> str:
    """Return base64url without padding, as JWT and client_info have it."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    """Undo `b64url`; raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def digest(secret: str) -> str:
    """Return a short hash by which a secret can be recognised."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def s256(verifier: str) -> str:
    """Return the PKCE challenge of a verifier (RFC 7636, 4.2)."""
    return b64url(hashlib.sha256(verifier.encode()).digest())


def client_info(uid: str, utid: str) -> str:
    """Return the data from which MSAL makes the home account id."""
    return _part({"uid": uid, "utid": utid})


class Signer:
    """Signs and checks JWTs with a private key (HS256)."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def jwt(self, claims: dict[str, Any], size: int = 0) -> str:
        """Return a signed JWT, padded by a claim to about `size` characters."""
        bare = self._signed(claims)
        # The claim's name, quotes and comma also take characters; base64 makes four characters of three.
        missing = (size - len(bare)) * 3 // 4 - len(',"xms_pad":""')
        return bare if missing <= 0 else self._signed({**claims, "xms_pad": secrets.token_hex(missing)[:missing]})

    def claims(self, token: str) -> dict[str, Any] | None:
        """Return the claims of one of the sandbox's tokens, None for any other text."""
        head, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(head).encode(), signature.encode()):
            return None
        claims: dict[str, Any] = json.loads(unb64url(head.partition(".")[2]))
        return claims

    def _signed(self, claims: dict[str, Any]) -> str:
        head = f"{_part({'typ': 'JWT', 'alg': 'HS256', 'kid': 'sandbox'})}.{_part(claims)}"
        return f"{head}.{self._signature(head)}"

    def _signature(self, head: str) -> str:
        return b64url(hmac.digest(self._key, head.encode(), "sha256"))


def _part(value: dict[str, Any]) -> str:
    return b64url(json.dumps(value, separators=(",", ":")).encode())
