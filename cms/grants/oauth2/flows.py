"""Sign-ins with a person: by authorization code (RFC 6749, 4.1, with RFC 7636 and RFC 9207), or on another device (RFC 8628).

The verifier, the nonce and the device code never leave this file.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from cms.core import refusals
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants import token_answer
from cms.grants.exchange import SIGN_IN_SECONDS, foreign, is_code
from cms.grants.network.http import HttpReply, object_in
from cms.grants.network.trouble import garbage
from cms.grants.oauth2.exchange import Exchange
from cms.grants.providers import ExchangeEnd
from cms_oauth.providers import OPENID
from cms_oauth.text import is_link

_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

# RFC 8628, 3.2 and 3.5: where the server names no interval, and how much longer after `slow_down`.
_INTERVAL = 5.0
_SLOWER = 5.0

_OFFLINE, _CONSENT = "offline_access", "consent"


class CodeFlow:
    """A sign-in by authorization code."""

    user_code = complete_url = ""
    expires_in = SIGN_IN_SECONDS

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._verifier = _verifier(exchange)
        self._nonce = secrets.token_urlsafe(24) if OPENID in exchange.scopes else ""
        self.state = secrets.token_urlsafe(24)
        self.redirect_uri = exchange.grant.redirect_uri
        address = exchange.metadata.authorization
        self.url = f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(self._asked())}"

    def _asked(self) -> dict[str, str]:
        exchange, scopes = self._exchange, self._exchange.scopes
        asked = {each[0]: each[1] for each in exchange.server.parameters}
        prompts = asked.pop("prompt", "").split()
        if _OFFLINE in scopes:
            # OpenID Connect Core, 11: without it servers leave out the refresh token, and say nothing.
            prompts.append(_CONSENT)
        more = {
            "prompt": " ".join(dict.fromkeys(prompts)),
            "login_hint": exchange.grant.login,
            "nonce": self._nonce,
            "resource": exchange.server.resource,
        }
        return {
            "response_type": "code",
            "client_id": exchange.application.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(scopes),
            "state": self.state,
            **{name: value for name, value in more.items() if value},
            **_challenge(self._verifier),
            **asked,
        }

    def finish(self, fields: Mapping[str, str]) -> ExchangeEnd:
        """Redeem the code from the redirect."""
        exchange = self._exchange
        if fields.get("state") != self.state or not self._is_of_issuer(fields):
            return ExchangeEnd(Refused(foreign(exchange.grant)))
        if fields.get("error"):
            return ExchangeEnd(refusals.explain(fields, exchange.grant))
        if not fields.get("code"):
            return ExchangeEnd(Refused(foreign(exchange.grant)))
        exchange.renew()
        form = {"grant_type": "authorization_code", "code": fields["code"], "redirect_uri": self.redirect_uri}
        result = exchange.ask(form | _proof(self._verifier))
        return exchange.signed_in(result, self._nonce)

    def _is_of_issuer(self, fields: Mapping[str, str]) -> bool:
        """True unless the answer names another issuer, or none although this one always does (RFC 9207, 2.4)."""
        metadata = self._exchange.metadata
        if "iss" not in fields:
            return not metadata.says_iss
        return not metadata.issuer or fields["iss"] == metadata.issuer


def _verifier(exchange: Exchange) -> str:
    """Return a new verifier, "" for a server that knows none (RFC 7636, 4.1)."""
    return secrets.token_urlsafe(48) if exchange.server.pkce else ""


def _challenge(verifier: str) -> dict[str, str]:
    """Return what a request says of its verifier (RFC 7636, 4.3)."""
    if not verifier:
        return {}
    digest = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return {"code_challenge": digest, "code_challenge_method": "S256"}


def _proof(verifier: str) -> dict[str, str]:
    """Return the verifier, where there is one (RFC 7636, 4.5)."""
    return {"code_verifier": verifier} if verifier else {}


class DeviceFlow:
    """A sign-in on another device, polled: one request for each call of `poll`."""

    state = ""
    redirect_uri = ""

    def __init__(self, exchange: Exchange, answer: Mapping[str, Any], verifier: str) -> None:
        self._exchange = exchange
        self._verifier = verifier
        self._device_code = str(answer["device_code"])
        # Google has another name for it.
        self.url: str = answer.get("verification_uri") or answer.get("verification_url") or ""
        self.user_code: str = answer["user_code"]
        complete = answer.get("verification_uri_complete")
        self.complete_url = str(complete) if is_link(complete) else ""
        self.expires_in = token_answer.life(answer.get("expires_in")) or SIGN_IN_SECONDS
        self._interval = token_answer.life(answer.get("interval")) or _INTERVAL

    @property
    def interval(self) -> float:
        """Seconds to wait before the next poll; the provider may raise it."""
        return max(self._interval, self._exchange.http.retry_after)

    def poll(self) -> ExchangeEnd | None:
        """Poll once. Returns None if the person has not finished, or the provider could not be reached.

        An answer with tokens ends it even if they cannot be used: it has used the code up.
        """
        exchange = self._exchange
        exchange.renew()
        form = {"grant_type": _DEVICE, "device_code": self._device_code}
        result = exchange.ask(form | _proof(self._verifier))
        if isinstance(result, Transient | Refused):
            word = result.trouble.error
            if word == "slow_down":
                self._interval += _SLOWER
            pending = word in ("authorization_pending", "slow_down")
            if pending or (isinstance(result, Transient) and not exchange.answered):
                return None
        return exchange.signed_in(result)


def begin(exchange: Exchange, method: str) -> CodeFlow | DeviceFlow | Outcome:
    """Begin a sign-in: `method` is "browser", "paste" or "device"."""
    flow = _begin_device(exchange) if method == "device" else CodeFlow(exchange)
    if isinstance(flow, CodeFlow | DeviceFlow) and not (is_link(flow.url) and is_code(flow.user_code)):
        return Transient(garbage(exchange.grant, "it names no web address to sign in at, or no code to enter there"))
    return flow


def _begin_device(exchange: Exchange) -> DeviceFlow | Outcome:
    if not exchange.metadata.device:
        return Refused(
            Trouble(
                "refused",
                "this provider has no sign-in with a code on another device",
                refusals.hint("sign in another way: {login --browser}, or {login --paste}", exchange.grant),
            )
        )
    verifier = _verifier(exchange)
    # RFC 8628 has none. Keycloak wants one of each client for which PKCE is enforced, and others ignore it.
    form = {"scope": " ".join(exchange.scopes), **_challenge(verifier)}
    if exchange.server.resource:
        # As where a code comes back: a server gives no token for a resource that the person was not asked about.
        form["resource"] = exchange.server.resource
    reply = exchange.post(exchange.metadata.device, *exchange.proved(form))
    if not isinstance(reply, HttpReply):
        return reply
    answer = object_in(reply)
    if "error" in answer:
        return exchange.refused(answer)
    if "device_code" not in answer or "user_code" not in answer:
        return exchange.failure()
    return DeviceFlow(exchange, answer, verifier)
