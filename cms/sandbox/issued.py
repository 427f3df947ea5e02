"""What a simulated provider other than Entra has issued: codes, device codes, and sign-ins with their tokens.

Plain state without HTTP. All tokens are opaque, and known by their digest only. Times are Unix seconds.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cms.sandbox.answering import Declined
from cms.sandbox.directory import Client, User
from cms.sandbox.habits import OFFLINE_ACCESS, Habits
from cms.sandbox.tokens import Signer, digest, s256

BAD_REQUEST = 400
UNAUTHORIZED = 401

# A device that polls this much sooner than the interval is told to slow down.
_EARLY_SHARE = 0.7
_CODE_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"


class OAuthRefusal(Declined):
    """A refusal with one of OAuth's words, and further fields of its body."""

    def __init__(self, error: str, description: str = "", status: int = BAD_REQUEST, **more: str) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.status = status
        self.body = {"error": error, **({"error_description": description} if description else {}), **more}


@dataclass(eq=False)
class SignedIn:
    """One sign-in. `refusal` is what its redemptions are refused with, None for nothing."""

    user: User
    client: Client
    scopes: tuple[str, ...]
    begun: float
    expires: float
    refusal: OAuthRefusal | None = None
    # When each refresh token was used, 0 for not yet, by digest.
    refreshes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Access:
    """An access token's record."""

    sign_in: SignedIn
    scopes: tuple[str, ...]
    expires: float


@dataclass
class Code:
    """An authorization code's record."""

    user: User
    client: Client
    fields: Mapping[str, str] = field(repr=False)
    offline: bool
    expires: float
    sign_in: SignedIn | None = None


@dataclass
class Device:
    """A device code's record; `user` is None until a person approves."""

    client: Client
    scopes: tuple[str, ...]
    user_code: str
    expires: float
    interval: float
    user: User | None = None
    declined: bool = False
    last_poll: float = 0.0


def denied(error: str = "invalid_grant", description: str = "Token has been expired or revoked.") -> OAuthRefusal:
    """Return the refusal of a refresh token or of a code."""
    return OAuthRefusal(error, description)


class Issued:
    """The users and clients of one provider, and what they were given."""

    def __init__(self, habits: Habits, now: Callable[[], float], issuer: Callable[[], str]) -> None:
        self.habits = habits
        self.now = now
        self.users: dict[str, User] = {}
        self.clients: dict[str, Client] = {}
        self.sign_ins: list[SignedIn] = []
        self._issuer = issuer
        self._codes: dict[str, Code] = {}
        self._devices: dict[str, Device] = {}
        self._refreshes: dict[str, SignedIn] = {}
        self._accesses: dict[str, Access] = {}
        self._signer = Signer()

    def add_user(self, name: str) -> User:
        """Make a user; a second one of the same name replaces the first, as another account."""
        self.users[name.lower()] = User(name, str(uuid.uuid4()))
        return self.users[name.lower()]

    def user(self, name: str) -> User:
        """Return a user, by the name in any case; raises OAuthRefusal."""
        try:
            return self.users[name.lower()]
        except KeyError:
            raise OAuthRefusal("access_denied", f"There is no {name!r} in the sandbox.") from None

    def whose(self, fields: Mapping[str, str]) -> str:
        """Return the user whom a token request is for, "" if it is unknown."""
        record = (
            self._refreshes.get(digest(fields.get("refresh_token", "")))
            or self._codes.get(digest(fields.get("code", "")))
            or self._devices.get(digest(fields.get("device_code", "")))
        )
        return record.user.name if record and record.user else ""

    def code(self, user: User, client: Client, fields: Mapping[str, str]) -> str:
        """Return a code: this user has signed in and consented to everything that was asked for."""
        before, asked = {client_id for client_id, _ in user.consents}, fields.get("scope", "").split()
        wanted = OFFLINE_ACCESS in asked if self.habits.by_scope else fields.get("access_type") == "offline"
        consents = "consent" in fields.get("prompt", "").split()
        # OpenID Connect Core, 11: without prompt=consent the scope is left out.
        offline = wanted and (consents or (client.client_id not in before and not self.habits.by_scope))
        user.consents |= {(client.client_id, scope) for scope in asked}
        secret = secrets.token_urlsafe(60)
        self._codes[digest(secret)] = Code(user, client, dict(fields), offline, self.now() + self.habits.code_life)
        return secret

    def redeem_code(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        """Return the tokens for a code; raises OAuthRefusal."""
        code = self._codes.get(digest(fields.get("code", "")))
        if code is None or code.client is not client or code.expires <= self.now():
            raise denied(description="Malformed auth code.")
        if code.sign_in is not None:
            # RFC 6749, 4.1.2: what was issued for it is revoked.
            self.end(code.sign_in)
            raise denied(description="Bad Request")
        if code.fields["redirect_uri"] != fields.get("redirect_uri"):
            raise OAuthRefusal("redirect_uri_mismatch", "Bad Request")
        challenge = code.fields.get("code_challenge", "")
        if challenge and s256(fields.get("code_verifier", "")) != challenge:
            raise denied(description="Invalid code verifier.")
        scopes = tuple(code.fields.get("scope", "").split())
        code.sign_in = self.begin(code.user, client, scopes)
        nonce = code.fields.get("nonce", "")
        return self.tokens(code.sign_in, offline=code.offline, nonce=nonce)

    def begin(self, user: User, client: Client, scopes: tuple[str, ...]) -> SignedIn:
        """Return a new sign-in with those scopes that the provider knows and the user grants."""
        granted = tuple(each for each in scopes if each in self.habits.scopes and each not in user.withheld)
        life = self.habits.refresh_life
        begun = SignedIn(user, client, granted, self.now(), self.now() + life if life else float("inf"))
        self.sign_ins.append(begun)
        return begun

    def start_device(self, client: Client, scopes: tuple[str, ...], page: str) -> dict[str, Any]:
        """Return what the device authorization endpoint answers; `page` is where the person goes."""
        allowed = self.habits.device_scopes
        wrong = [each for each in scopes if allowed and each not in allowed]
        if wrong:
            raise OAuthRefusal("invalid_scope", f"Invalid device flow scope: {wrong[0]}")
        secret, user_code = secrets.token_urlsafe(60), "".join(secrets.choice(_CODE_ALPHABET) for _ in range(8))
        life, interval = self.habits.device_life, self.habits.device_interval
        self._devices[digest(secret)] = Device(client, scopes, user_code, self.now() + life, interval)
        answer = {"device_code": secret, "user_code": user_code, "verification_uri": page, "expires_in": int(life)}
        answer["verification_uri_complete"] = f"{page}?user_code={user_code}"
        return answer | ({"interval": interval} if self.habits.says_interval else {})

    def approve_device(self, user_code: str, name: str, *, decline: bool = False) -> None:
        """Sign this user in for the device that shows the code, or decline."""
        device = next((each for each in self._devices.values() if each.user_code == user_code.strip().upper()), None)
        if device is None:
            raise denied(description="There is no such code.")
        device.user, device.declined = self.user(name), decline

    def redeem_device(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        """Return the tokens for a device code; raises OAuthRefusal."""
        key = digest(fields.get("device_code", ""))
        device = self._devices.get(key)
        if device is None or device.client is not client:
            raise denied(description="There is no such device code.")
        now, last, device.last_poll = self.now(), device.last_poll, self.now()
        if device.expires <= now:
            raise OAuthRefusal("expired_token")
        if device.declined:
            raise OAuthRefusal("access_denied")
        if now - last < _EARLY_SHARE * device.interval:
            device.interval += self.habits.device_interval
            raise OAuthRefusal("slow_down")
        if device.user is None:
            raise OAuthRefusal("authorization_pending")
        del self._devices[key]
        begun = self.begin(device.user, client, device.scopes)
        return self.tokens(begun, offline=OFFLINE_ACCESS in device.scopes or not self.habits.by_scope)

    def redeem(self, client: Client, fields: Mapping[str, str]) -> dict[str, Any]:
        """Return the tokens for a refresh token; raises OAuthRefusal."""
        key = digest(fields.get("refresh_token", ""))
        sign_in = self._refreshes.get(key)
        if sign_in is None or sign_in.client is not client:
            raise denied()
        if sign_in.refusal:
            raise sign_in.refusal
        if sign_in.expires <= self.now():
            raise denied()
        used = sign_in.refreshes[key]
        if used and self.now() - used >= self.habits.leeway:
            self.end(sign_in)
            raise denied(description="Maximum allowed refresh token reuse exceeded")
        scopes = tuple(fields.get("scope", "").split()) or sign_in.scopes
        if beyond := [each for each in scopes if each not in sign_in.scopes]:
            raise OAuthRefusal("invalid_scope", f"refresh token missing requested scope {beyond[0]}")
        if self.habits.rotates and not used:
            sign_in.refreshes[key] = self.now()
        return self.tokens(sign_in, offline=self.habits.rotates, scopes=scopes)

    def tokens(
        self, sign_in: SignedIn, *, offline: bool = False, nonce: str = "", scopes: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """Return the answer of the token endpoint, with a new refresh token if `offline`."""
        scopes = sign_in.scopes if scopes is None else scopes
        life = self.habits.token_life
        answer: dict[str, Any] = {
            "access_token": self.access(sign_in, scopes, life),
            "token_type": "Bearer",
            "scope": " ".join(self.habits.spelling.get(each, each) for each in scopes),
            **self.habits.more,
        }
        if self.habits.says_life:
            answer["expires_in"] = int(life)
        if self.habits.refresh_life and not self.habits.rotates:
            # As Google does of a consent for a limited time.
            answer["refresh_token_expires_in"] = int(sign_in.expires - self.now())
        if offline:
            secret = f"1//{secrets.token_urlsafe(75)}"
            sign_in.refreshes[digest(secret)] = 0.0
            self._refreshes[digest(secret)] = sign_in
            answer["refresh_token"] = secret
        if "openid" in scopes:
            answer["id_token"] = self._id_token(sign_in, nonce, by_name=self.habits.says_who and "email" in scopes)
        return answer

    def access(self, sign_in: SignedIn, scopes: tuple[str, ...], life: float) -> str:
        """Return an access token; a negative life gives one that has expired."""
        secret = f"{self.habits.prefix}{secrets.token_urlsafe(150)}"
        self._accesses[digest(secret)] = Access(sign_in, scopes, self.now() + life)
        return secret

    def end(self, sign_in: SignedIn, refusal: OAuthRefusal | None = None) -> None:
        """End a sign-in: its refresh tokens are refused and its access tokens are inactive."""
        sign_in.refusal = refusal or denied()

    def valid(self, token: str) -> Access | None:
        """Return what is known of an access token, None unless it is valid."""
        access = self._accesses.get(digest(token))
        if access is None or access.expires <= self.now() or access.sign_in.refusal:
            return None
        return access

    def sign_in_of(self, token: str) -> SignedIn | None:
        """Return the sign-in that a refresh or access token belongs to."""
        access = self._accesses.get(digest(token))
        return self._refreshes.get(digest(token)) or (access.sign_in if access else None)

    def _id_token(self, sign_in: SignedIn, nonce: str, *, by_name: bool) -> str:
        now = int(self.now())
        issuer = self.habits.named or self._issuer()
        claims: dict[str, Any] = {"iss": issuer, "aud": sign_in.client.client_id, "iat": now, "exp": now + 3600}
        claims["sub"] = sign_in.user.oid
        if nonce:
            claims["nonce"] = nonce
        return self._signer.jwt(claims | (self.about(sign_in.user) if by_name else {}))

    def about(self, user: User) -> dict[str, Any]:
        """Return the claims about a user that the scope email asks for."""
        return {"email": user.name, "email_verified": True}
