"""Other programs' sign-ins: samples that those programs have written, and files of the same layouts for the sandbox.

The samples were made by running the programs against a local server; nothing in them was ever worth anything.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

import msal
import requests
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from cms.sandbox.directory import CLIENT_ID, MAIL_SCOPES
from cms.sandbox.entra import Entra

# What the local server gave to all of them.
SAMPLE_TOKEN = "made-up-refresh-token"
SAMPLE_PASSWORD = "pass word"

# mutt_oauth2.py of 2026-07, with `cat` for its pipes.
MUTT_SAMPLE = b"""{"registration": "microsoft", "authflow": "authcode", "email": "ann@example.test", \
"access_token": "made-up-access-token", "access_token_expiration": "2026-11-20T12:18:38.302954", \
"refresh_token": "made-up-refresh-token", "client_id": "5a5a5a5a-0000-4000-8000-00000000c115", "client_secret": " "}"""

# sasl-xoauth2-tool of 2026-04: `get-token outlook`.
SASL_SAMPLE = b"""{
    "access_token": "made-up-access-token",
    "refresh_token": "made-up-refresh-token",
    "expiry": 0
}"""

# emailproxy 2026.7.3 from PyPI.
PROXY_SAMPLE = b"""[Server setup]

[IMAP-2993]
server_address = outlook.office365.com
server_port = 993
local_address = 127.0.0.1

[Account setup]

[ann@example.test]
permission_url = http://127.0.0.1:38505/authorize
token_url = http://127.0.0.1:38505/token
oauth2_scope = https://outlook.office.com/IMAP.AccessAsUser.All offline_access
redirect_uri = http://localhost
client_id = 5a5a5a5a-0000-4000-8000-00000000c115
client_secret = none
token_salt = 1/BRtF1bKAaA9bzS82VCgw==
token_iterations = 1200000
access_token = gAAAAABrAC-C7HmdyWwYJFhdDa7wv8EeTBFOFMovYvkOVguAgD9ddb6gFOh3n8fisZz8qFsTbUPEiYPbIxxy1cCHswY2bGAq0hMO7yP_ukDpLaqNyFlTrfo=
access_token_expiry = 1795177874
refresh_token = gAAAAABrAC-CDPjcwzyUuj73-NPaZKTfujqj1ME7OgHHplY3GY6BQ-iEcR_gBp_lcEDB5beXXIq0qXZfHAdjc9uWXWin7IM7PTH2K6SwaEaNH4D4le8Jt08=

[emailproxy]
delete_account_token_on_password_error = True

"""

# pizauth 1.1.0: the account "work" is signed in, "spare" is not.
PIZAUTH_SAMPLE = base64.b64decode(
    """
    5EJI9BJoi5JAGpmSX+xUhcUMKoyvq68R2mCd73AFY4u93QErDG66Mm9TR7tCTI4R+tmW5pt0N4y5WflBlHHqUV5l5uG+6jaCn6Qy
    eWJOu6tC5JX8RdtM572cnEGd99hbYn1HTT5hx1D2jQGSgB8Gvr5754OhMhAugtzOpOxdV3ouXaULBCsxMNaFvXoru2rNJNuF4UsE
    aQBBhKvbWsDqMT7hUiZ/NIE99AZS1pays0ZErdERdz46Xe8RXP3ypfv1Pd21t2eDK8LuGAfVf9p+bDyZOvRKJwBeQJ2kJZCmYWlM
    IlKG94n75+kRKS53L4J8Hi6PwTcwmavqAxWTrV88Ii+85RO0KcG4LDigl2AS3+0Qr6NCLaDix3CoNqVwS6oN/MjHl0iEEX9BnA/4
    f2IDhjTqT6Cxmz0CL22H8GLAAEOox/JLZV/7rkVR3t7r3sz0bJbb6JDneBXNQmEhbK17kkY4/s5RFnWbqyzbboopPPPcuTZB0Fek
    s3CThGjoiJWnHAcl2mBEFPhQDMFs9GxuxRpeqynxhQSAVZTK2txkAKT65sRDJyGtpMbJnifSDwadSIgTezy7dIDhtJA8Z784hgAR
    xJg+P4scdV6zt+aETpOS315uJBUYTdMXi4oZLuSj7+lSYSlQy6o+y9Yv+rnvaARXQ3aMtEZxWS0exWxbSGf449nGoaaN9vPeg6zE
    8vTeuYJQHdU+dkuTWsTxWdfL93t+mY1t/sdaBeKeYEpqt9sg0SpmwFTi9C9KHplaUFRySXTgdcAFkqFll4oZfGevnn9ozNyX4J8m
    /CX1
"""
)

# oauth2ms of 2021-07 with MSAL 1.39; its access token and its id token are left out.
OAUTH2MS_SAMPLE = (
    b'{"tenant_id": "common", "client_id": "5a5a5a5a-0000-4000-8000-0000000000f2", "client_secret": "made-'
    b'up", "redirect_host": "localhost", "redirect_port": "56103", "redirect_path": "/getToken/", "scopes"'
    b': ["https://outlook.office.com/SMTP.Send"], "redirect_uri": "http://localhost:56103/getToken", "toke'
    b'n_cache": "{\\"AccessToken\\": {}, \\"Account\\": {\\"b131b28e-ce7e-5a8b-9a53-fe1d7e6e316d.5a5a5a5a-0000-'
    b'4000-8000-000000000001-localhost-common\\": {\\"home_account_id\\": \\"b131b28e-ce7e-5a8b-9a53-fe1d7e6e3'
    b'16d.5a5a5a5a-0000-4000-8000-000000000001\\", \\"environment\\": \\"localhost\\", \\"realm\\": \\"common\\", \\'
    b'"local_account_id\\": \\"b131b28e-ce7e-5a8b-9a53-fe1d7e6e316d\\", \\"username\\": \\"ann@example.test\\", \\'
    b'"authority_type\\": \\"MSSTS\\", \\"account_source\\": \\"authorization_code\\"}}, \\"IdToken\\": {}, \\"Refre'
    b'shToken\\": {\\"b131b28e-ce7e-5a8b-9a53-fe1d7e6e316d.5a5a5a5a-0000-4000-8000-000000000001-localhost-re'
    b'freshtoken-5a5a5a5a-0000-4000-8000-0000000000f2--https://outlook.office.com/smtp.send\\": {\\"credenti'
    b'al_type\\": \\"RefreshToken\\", \\"secret\\": \\"made-up-refresh-token\\", \\"home_account_id\\": \\"b131b28e-'
    b'ce7e-5a8b-9a53-fe1d7e6e316d.5a5a5a5a-0000-4000-8000-000000000001\\", \\"environment\\": \\"localhost\\", '
    b'\\"client_id\\": \\"5a5a5a5a-0000-4000-8000-0000000000f2\\", \\"target\\": \\"https://outlook.office.com/SM'
    b'TP.Send\\", \\"last_modification_time\\": \\"1795175316\\"}}, \\"AppMetadata\\": {\\"appmetadata-localhost-5'
    b'a5a5a5a-0000-4000-8000-0000000000f2\\": {\\"client_id\\": \\"5a5a5a5a-0000-4000-8000-0000000000f2\\", \\"e'
    b'nvironment\\": \\"localhost\\"}}}"}'
)

# By the layout in oama 0.22's source: not one of a real oama's.
OAMA_SAMPLE = b"""{"access_token":"made-up-access-token","email":{"unEmailAddress":"ann@example.test"},\
"exp_date":"2026-11-20 12:18 UTC","expires_in":3599,"refresh_token":"made-up-refresh-token",\
"scope":"https://outlook.office.com/SMTP.Send","service":"microsoft","token_type":"Bearer"}
"""


@dataclass(frozen=True)
class SignedIn:
    """What a program has after a person has signed in with it: `cache` is MSAL's."""

    user: str
    refresh_token: str = field(repr=False)
    cache: str = field(repr=False)
    client_id: str = CLIENT_ID


def sign_in(entra: Entra, *users: str) -> SignedIn:
    """Sign these people in with MSAL itself, into one cache; the last one's is returned."""
    cache = msal.SerializableTokenCache()
    session = requests.Session()
    # Neither a proxy nor a CA bundle of this machine's.
    session.trust_env, session.verify = False, entra.ca_file
    app = msal.PublicClientApplication(
        CLIENT_ID,
        authority=f"{entra.authority}/common",
        instance_discovery=False,
        http_client=session,
        token_cache=cache,
    )
    try:
        for user in users:
            flow = app.initiate_auth_code_flow(list(MAIL_SCOPES), "http://localhost:1/x", response_mode="form_post")
            result = app.acquire_token_by_auth_code_flow(
                flow, entra.sign_in(flow["auth_uri"], user, follow=False).fields
            )
            assert "access_token" in result, result.get("error")
    finally:
        session.close()
    tokens = json.loads(cache.serialize())["RefreshToken"].values()
    return SignedIn(users[-1], list(tokens)[-1]["secret"], cache.serialize())


def mutt_file(signed_in: SignedIn, **changes: str) -> bytes:
    token = {"refresh_token": signed_in.refresh_token, "email": signed_in.user, "client_id": signed_in.client_id}
    return json.dumps({**json.loads(MUTT_SAMPLE), **token, **changes}).encode()


def oauth2ms_file(signed_in: SignedIn) -> bytes:
    """Return oauth2ms's credentials.bin: its configuration, with MSAL's cache as text in it."""
    config = {"tenant_id": "common", "client_id": signed_in.client_id, "client_secret": "x", "scopes": []}
    return json.dumps({**config, "token_cache": signed_in.cache}).encode()


def sasl_file(signed_in: SignedIn, **changes: str) -> bytes:
    return json.dumps({**json.loads(SASL_SAMPLE), "refresh_token": signed_in.refresh_token, **changes}).encode()


def oama_record(signed_in: SignedIn, **changes: str) -> bytes:
    token = {"refresh_token": signed_in.refresh_token, "email": {"unEmailAddress": signed_in.user}}
    return json.dumps({**json.loads(OAMA_SAMPLE), **token, **changes}).encode()


def fernet(token: str, password: str, salt: bytes, rounds: int) -> str:
    """Encrypt a token as email-oauth2-proxy does."""
    key = PBKDF2HMAC(hashes.SHA256(), 32, salt, rounds).derive(password.encode())
    return Fernet(base64.urlsafe_b64encode(key)).encrypt(token.encode()).decode()


def proxy_file(signed_in: SignedIn, password: str, *, rounds: int = 1000, **changes: str) -> bytes:
    salt = secrets.token_bytes(16)
    options = {
        "client_id": signed_in.client_id,
        "token_salt": base64.b64encode(salt).decode(),
        "token_iterations": str(rounds),
        "refresh_token": fernet(signed_in.refresh_token, password, salt, rounds),
        **changes,
    }
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return f"[Account setup]\n\n[{signed_in.user}]\n{lines}\n[emailproxy]\n".encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw


def pizauth_account(name: str, token: str, client_id: str = CLIENT_ID, hint: str = "") -> bytes:
    """Return one account of a dump; without a token it is one that is not signed in."""
    fields = (1).to_bytes(8, "little") + _text("login_hint") + _text(hint) if hint else bytes(8)
    head = _text(name) + _text("https://localhost/authorize") + fields + _text(client_id)
    rest = b"\0" + _text("http://localhost/") + bytes(8) + _text("https://localhost/token")
    if not token:
        return head + rest + bytes(4)
    return head + rest + b"\1\0\0\0" + _text("access") + bytes(24) + b"\1" + _text(token)


def pizauth_dump(accounts: Iterable[bytes], version: int = 1) -> bytes:
    found = list(accounts)
    clear = version.to_bytes(8, "little") + len(found).to_bytes(8, "little") + b"".join(found)
    return pizauth_seal(clear)


def pizauth_seal(clear: bytes) -> bytes:
    key = bytes.fromhex("66a247a85e48cfecaaed9b36eba97d5350d4286375097a44eeffb9c4546b65a3")
    nonce = secrets.token_bytes(12)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, clear, None)
