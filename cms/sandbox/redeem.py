"""Codes, device codes and refresh tokens, and the token endpoint that redeems them.

Secrets are kept by their digest only. Refusals are raised as `Refusal`, in the order in which Entra checks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cms.sandbox.assertions import check
from cms.sandbox.directory import RESERVED, TENANT, Client, Directory, User, resource_of
from cms.sandbox.errors import DECLINED, SLOW_DOWN, Refusal
from cms.sandbox.tokens import client_info, digest, s256
from cms_oauth.microsoft import TENANT_WORDS

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

# The characters of a device's code: no vowels, so that there are no words, and none that look alike.
_CODE_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"

# Polling this much sooner than the interval is answered with slow_down; MSAL's own clock is as coarse as a second.
_EARLY_SHARE = 0.7

# Entra's number for a refresh token that is not one; the detail says which of the reasons it was.
_INVALID_GRANT = 70000


@dataclass
class Code:
    """An authorization code's record."""

    user: User
    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    nonce: str
    challenge: str
    expires: float
    used: bool = False


@dataclass
class Device:
    """A device code's record; `user` is None until a person approves."""

    client_id: str
    scopes: tuple[str, ...]
    user_code: str
    expires: float
    claims: str = ""
    user: User | None = None
    declined: bool = False
    last_poll: float = 0.0


@dataclass
class Refresh:
    """A refresh token's record. `refused` is the AADSTS number with which it is refused, 0 for not at all."""

    user: User
    client_id: str
    expires: float
    spa: bool
    used: int = 0
    refused: int = 0


@dataclass
class Redeemer:
    """The grants of one directory."""

    directory: Directory
    # What is known of each refresh token, by its digest.
    refreshes: dict[str, Refresh] = field(default_factory=dict)
    _codes: dict[str, Code] = field(default_factory=dict)
    _devices: dict[str, Device] = field(default_factory=dict)

    def check_authorize(self, fields: Mapping[str, str]) -> Client:
        """Return the application that asks, or raise what Entra shows as a page: there is nowhere to redirect to."""
        client = self.directory.client(fields.get("client_id", ""))
        if not client.allows(fields.get("redirect_uri", "")):
            raise Refusal(50011, f"The redirect URI '{fields.get('redirect_uri', '')}' is not registered.")
        if fields.get("response_type") != "code" or not fields.get("scope"):
            raise Refusal(90014, "response_type=code and scope are needed.")
        if client.spa and not fields.get("code_challenge"):
            raise Refusal(90014, "Proof Key for Code Exchange is required.")
        return client

    def authorize(self, fields: Mapping[str, str], name: str) -> str:
        """Return a code: this user has signed in and consented to everything that was asked for."""
        user = self.directory.user(name)
        client = self.check_authorize(fields)
        scopes = _scopes(fields)
        self._consent(user, client.client_id, scopes)
        _answer_challenge(user, fields.get("claims", ""))
        expires = self.directory.now() + self.directory.settings.code_life
        proof = fields.get("code_challenge", "")
        secret = f"1.{secrets.token_urlsafe(300)}"
        self._codes[digest(secret)] = Code(
            user, client.client_id, fields["redirect_uri"], scopes, fields.get("nonce", ""), proof, expires
        )
        return secret

    def start_device(self, fields: Mapping[str, str], page: str) -> dict[str, Any]:
        """Return what the device authorization endpoint answers; `page` is where the person goes."""
        client = self.directory.client(fields.get("client_id", ""))
        settings = self.directory.settings
        secret = secrets.token_urlsafe(60)
        user_code = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(9))
        expires = self.directory.now() + settings.device_life
        self._devices[digest(secret)] = Device(
            client.client_id, _scopes(fields), user_code, expires, fields.get("claims", "")
        )
        return {
            "device_code": secret,
            "user_code": user_code,
            "verification_uri": page,
            "expires_in": int(settings.device_life),
            "interval": settings.device_interval,
            "message": f"To sign in, use a web browser to open the page {page} and enter the code {user_code}.",
        }

    def approve_device(self, user_code: str, name: str, *, decline: bool = False) -> None:
        """Sign this user in for the device that shows the code, or decline."""
        device = next((each for each in self._devices.values() if each.user_code == user_code.strip().upper()), None)
        if device is None:
            raise Refusal(70018)
        user = self.directory.user(name)
        self._consent(user, device.client_id, device.scopes)
        _answer_challenge(user, device.claims)
        device.user, device.declined = user, decline

    def revoke(self, name: str, aadsts: int = 50173) -> None:
        """Refuse every refresh token that this user has so far, with this number."""
        user = self.directory.user(name)
        for each in self.refreshes.values():
            if each.user is user:
                each.refused = aadsts

    def whose(self, fields: Mapping[str, str]) -> str:
        """Return the user whom a token request is for, "" if it is unknown."""
        record = (
            self.refreshes.get(digest(fields.get("refresh_token", "")))
            or self._codes.get(digest(fields.get("code", "")))
            or self._devices.get(digest(fields.get("device_code", "")))
        )
        return record.user.name if record and record.user else ""

    def token(self, fields: Mapping[str, str], origin: str, endpoint: str) -> dict[str, Any]:
        """Answer a request to the token endpoint, which is at this address; raises Refusal."""
        client = self.directory.client(fields.get("client_id", ""))
        self._check_origin(client, origin)
        grant_type = fields.get("grant_type", "")
        if grant_type == "client_credentials":
            return self._for_app(client, fields, endpoint)
        if client.proofs.any:
            self._check_proof(client, fields, endpoint)
        redeem = {"authorization_code": self._code, "refresh_token": self._refresh, DEVICE_GRANT: self._device}
        if grant_type not in redeem:
            raise Refusal(90014, "The grant_type is missing or unknown.")
        return redeem[grant_type](client, fields)

    def _check_origin(self, client: Client, origin: str) -> None:
        if client.spa and not origin:
            raise Refusal(9002327)
        if origin and not client.spa:
            raise Refusal(9002326)

    def _code(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        code = self._codes.get(digest(fields.get("code", "")))
        if code is None or code.client_id != client.client_id:
            raise Refusal(_INVALID_GRANT, "There is no such authorization code.")
        if code.used:
            raise Refusal(54005)
        if code.expires <= self.directory.now():
            raise Refusal(70008)
        if code.redirect_uri != fields.get("redirect_uri"):
            raise Refusal(50011, "The redirect URI is not the one of the authorization request.")
        if code.challenge and s256(fields.get("code_verifier", "")) != code.challenge:
            raise Refusal(501481)
        code.used = True
        return self._issue(code.user, client, _scopes(fields) or code.scopes, nonce=code.nonce)

    def _device(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        key = digest(fields.get("device_code", ""))
        device = self._devices.get(key)
        if device is None or device.client_id != client.client_id:
            raise Refusal(70018)
        now, last, device.last_poll = self.directory.now(), device.last_poll, self.directory.now()
        if device.expires <= now:
            raise Refusal(70019)
        if device.declined:
            raise Refusal(0, kind=DECLINED)
        if device.user is None:
            early = now - last < _EARLY_SHARE * self.directory.settings.device_interval
            raise Refusal(0, kind=SLOW_DOWN) if early else Refusal(70016)
        del self._devices[key]
        return self._issue(device.user, client, device.scopes)

    def _refresh(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        old = self.refreshes.get(digest(fields.get("refresh_token", "")))
        if old is None:
            raise Refusal(_INVALID_GRANT, "There is no such refresh token.")
        if old.client_id != client.client_id:
            raise Refusal(700003)
        if old.refused:
            raise Refusal(old.refused)
        if old.expires <= self.directory.now():
            raise Refusal(700084 if old.spa else 700082)
        if old.used and self.directory.settings.refuse_reuse:
            raise Refusal(_INVALID_GRANT, "The refresh token has been used before.")
        answer = self._issue(old.user, client, _scopes(fields), old=old)
        old.used += 1
        return answer

    def _check_proof(self, client: Client, fields: Mapping[str, str], endpoint: str) -> None:
        check(client.proofs, client.client_id, fields, endpoint, self.directory.now())

    def _for_app(self, client: Client, fields: Mapping[str, str], endpoint: str) -> dict[str, Any]:
        if urlsplit(endpoint).path.split("/")[1] in TENANT_WORDS:
            raise Refusal(9001023)
        self._check_proof(client, fields, endpoint)
        scopes = _scopes(fields)
        if len(scopes) != 1 or not scopes[0].endswith("/.default"):
            raise Refusal(1002012, "An application asks for one resource's /.default.")
        life = int(self.directory.settings.token_life)
        token = self.directory.issue_for_app(scopes[0].removesuffix("/.default"), client.client_id)
        return {"token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token}

    def _issue(
        self, user: User, client: Client, scopes: tuple[str, ...], *, nonce: str = "", old: Refresh | None = None
    ) -> dict[str, Any]:
        if user.challenge:
            raise Refusal(50076, claims=user.challenge)
        if len({resource_of(scope) for scope in scopes}) != 1:
            raise Refusal(28000 if scopes else 70011)
        if not self._consented(user, client.client_id, scopes):
            raise Refusal(65001)
        life = int(self.directory.settings.token_life)
        scopes = tuple(each for each in scopes if each not in user.withheld)
        answer = {
            "token_type": "Bearer",
            "scope": " ".join(scopes),
            "expires_in": life,
            "ext_expires_in": life,
            "access_token": self.directory.issue(user.name, scopes, client=client.client_id),
            "id_token": self.directory.id_token(user, client.client_id, nonce),
            "client_info": client_info(user.oid, TENANT),
        }
        return answer | ({"refresh_token": self._remember(user, client, old)} if self._rotates(old) else {})

    def _rotates(self, old: Refresh | None) -> bool:
        return old is None or self.directory.settings.rotate

    def _remember(self, user: User, client: Client, old: Refresh | None) -> str:
        settings = self.directory.settings
        expires = self.directory.now() + (settings.spa_life if client.spa else settings.refresh_life)
        if old is not None and client.spa:
            expires = old.expires  # a single-page application's ends a day after the sign-in, rotated or not
        secret = f"1.{secrets.token_urlsafe(600)}"
        self.refreshes[digest(secret)] = Refresh(user, client.client_id, expires, client.spa)
        return secret

    def _consent(self, user: User, client_id: str, scopes: tuple[str, ...]) -> None:
        user.consents |= {(client_id, scope) for scope in scopes}

    def _consented(self, user: User, client_id: str, scopes: tuple[str, ...]) -> bool:
        return all((client_id, scope) in user.consents for scope in scopes)


def _answer_challenge(user: User, claims: str) -> None:
    """Count a sign-in that sends the demanded claims as the answer to the challenge."""
    if user.challenge and _meets(claims, user.challenge):
        user.challenge = ""


def _meets(claims: str, challenge: str) -> bool:
    """True if two claims are the same JSON, however it is written: MSAL serialises it again."""
    return bool(claims) and json.loads(claims) == json.loads(challenge)


def _scopes(fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(scope for scope in fields.get("scope", "").split() if scope not in RESERVED)
