"""Sign-ins with a person: by authorization code, on another device, or in the window of Microsoft's broker.

Each begins with an exchange (`Call`), which has an MSAL app, and ends with its `signed_in`. The verifier, the nonce and
the device code never leave this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cms.core.accounts import Scopes
from cms.core.lifecycle import Outcome, Refused, Transient
from cms.grants import bugs, token_answer
from cms.grants.entra.exchange import Call, challenge
from cms.grants.entra.ms_broker import BrokerFlow
from cms.grants.exchange import SIGN_IN_SECONDS, foreign, is_code
from cms.grants.network.trouble import garbage
from cms.grants.providers import ExchangeEnd, Flow, wanted
from cms_oauth.text import is_link


def _same_resource(first: Scopes, scopes: Scopes) -> Scopes:
    """Return those of `scopes` with the resource of `first`: a device flow cannot ask consent for a second resource."""
    resources = {scope.rpartition("/")[0] for scope in first}
    return tuple(scope for scope in scopes if scope.rpartition("/")[0] in resources)


class CodeFlow:
    """A sign-in by authorization code."""

    user_code = complete_url = ""
    expires_in = SIGN_IN_SECONDS

    def __init__(self, call: Call, flow: dict[str, Any], scopes: Scopes) -> None:
        self._call = call
        self._flow = flow
        self._scopes = scopes
        self.url: str = flow["auth_uri"]
        self.state: str = flow["state"]
        self.redirect_uri = call.grant.redirect_uri

    def finish(self, fields: Mapping[str, str]) -> ExchangeEnd:
        """Redeem the code from the redirect."""
        if fields.get("state") != self.state or not (fields.get("code") or fields.get("error")):
            return ExchangeEnd(Refused(foreign(self._call.grant)))
        self._call.renew()
        result = self._call.ask(
            lambda: self._call.app.acquire_token_by_auth_code_flow(
                dict(self._flow), dict(fields), scopes=list(self._scopes) or None
            )
        )
        return self._call.signed_in(result, self._scopes)


class DeviceFlow:
    """A sign-in on another device, polled: one request for each call of `poll`."""

    state = ""
    redirect_uri = ""
    # Microsoft, "OAuth 2.0 device authorization grant flow": verification_uri_complete is not included.
    complete_url = ""

    def __init__(self, call: Call, flow: dict[str, Any], scopes: Scopes, claims: str) -> None:
        self._call = call
        self._flow = flow
        self._scopes = scopes
        self._claims = claims
        self.url: str = flow["verification_uri"]
        self.user_code: str = flow["user_code"]
        self.expires_in = token_answer.life(flow.get("expires_in")) or SIGN_IN_SECONDS

    @property
    def interval(self) -> float:
        """Seconds to wait before the next poll; the provider may raise it."""
        return max(token_answer.life(self._flow.get("interval")) or 0.0, self._call.http.retry_after)

    def poll(self) -> ExchangeEnd | None:
        """Poll once. Returns None if the person has not finished, or the provider could not be reached.

        An answer with tokens ends it even if they cannot be used: it has used the code up.
        """
        pending = False

        def once() -> Any:
            nonlocal pending
            answer = self._call.app.acquire_token_by_device_flow(
                self._flow, exit_condition=lambda _flow: True, **challenge(self._claims)
            )
            pending = answer.get("error") in ("authorization_pending", "slow_down")
            return answer

        self._call.renew()
        result = self._call.ask(once)
        lost = isinstance(result, Transient) and result.trouble.kind != bugs.KIND and not self._call.answered
        if pending or lost:
            return None
        return self._call.signed_in(result, self._scopes)


def begin(call: Call, method: str, claims: str) -> Flow | Outcome:
    """Begin a sign-in for all scope sets of the grant: `method` is "browser", "device", "paste" or "broker"."""
    if method == "broker":
        first, consent = wanted(call.grant)
        return BrokerFlow(call, _same_resource(first, consent), claims, SIGN_IN_SECONDS)
    flow = _begin_device(call, claims) if method == "device" else _begin_code(call, claims)
    if isinstance(flow, CodeFlow | DeviceFlow) and not (is_link(flow.url) and is_code(flow.user_code)):
        return Transient(garbage(call.grant, "it names no web address to sign in at, or no code to enter there"))
    return flow


def _begin_code(call: Call, claims: str) -> CodeFlow:
    first, consent = wanted(call.grant)
    flow = call.app.initiate_auth_code_flow(
        list(consent),
        redirect_uri=call.grant.redirect_uri,
        prompt=call.grant.prompt,
        login_hint=call.grant.login or None,
        response_mode="query",
        **challenge(claims),
    )
    return CodeFlow(call, flow, first)


def _begin_device(call: Call, claims: str) -> DeviceFlow | Outcome:
    first, consent = wanted(call.grant)
    flow: dict[str, Any] = {}

    def initiate() -> Any:
        flow.update(call.app.initiate_device_flow(list(_same_resource(first, consent)), **challenge(claims)))
        # Without a code, this is the provider's error in MSAL's form.
        return {"access_token": "-", "expires_in": 1} if "user_code" in flow and "verification_uri" in flow else flow

    result = call.ask(initiate)
    return DeviceFlow(call, flow, first, claims) if isinstance(result, dict) else result
