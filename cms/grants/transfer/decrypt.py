"""Decrypts what other programs have encrypted with their own code. Computation only.

pizauth's dump is ChaCha20-Poly1305 under a key that is in its source: "lightly encrypted", it says, so that no token is
found by accident. email-oauth2-proxy has Fernet under a key derived from the password that mail programs give.
"""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from cms.grants.transfer.formats import Encryption

# Public: it is in pizauth's source (src/server/state.rs, CHACHA20_KEY), the same for all users.
PIZAUTH_KEY = bytes.fromhex("66a247a85e48cfecaaed9b36eba97d5350d4286375097a44eeffb9c4546b65a3")
PIZAUTH_NONCE_BYTES = 12

# email-oauth2-proxy encrypts anew with the rounds of its version but may note those of an older one (Cryptographer).
PROXY_ROUNDS = (1_200_000, 100_000)
# So many rounds would take an hour: they are a mistake.
MOST_ROUNDS = 10_000_000

_KEY_BYTES = 32


def open_pizauth(raw: bytes) -> bytes | None:
    """Return what is in a dump, None for bytes that are none: the cipher tells."""
    if len(raw) < PIZAUTH_NONCE_BYTES:
        return None
    try:
        return ChaCha20Poly1305(PIZAUTH_KEY).decrypt(raw[:PIZAUTH_NONCE_BYTES], raw[PIZAUTH_NONCE_BYTES:], None)
    except InvalidTag:
        return None


def open_fernet(token: str, encryption: Encryption, password: str) -> str | None:
    """Return the token that a password opens, None if it does not open it."""
    try:
        salt = base64.b64decode(encryption.salt)
    except ValueError:  # binascii.Error is one, and so is what letters beyond ASCII raise
        return None
    for rounds in dict.fromkeys((encryption.rounds, *PROXY_ROUNDS)):
        if 0 < rounds <= MOST_ROUNDS and (opened := _try_fernet(token, salt, rounds, password)):
            return opened
    return None


def _try_fernet(token: str, salt: bytes, rounds: int, password: str) -> str | None:
    try:
        # A password that cannot be encoded is a wrong one: UnicodeEncodeError is a ValueError.
        key = PBKDF2HMAC(hashes.SHA256(), _KEY_BYTES, salt, rounds).derive(password.encode())
        return Fernet(base64.urlsafe_b64encode(key)).decrypt(token).decode()
    except (InvalidToken, ValueError):
        return None
