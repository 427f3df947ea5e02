"""The HTTPS endpoints of the simulated Entra and Graph: for MSAL, the browser, a device's code, and messages to send.

Each request is recorded, and answered as usual or with the fault that is scripted for it.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from cms.sandbox import pages
from cms.sandbox.directory import TENANT
from cms.sandbox.errors import BAD_REQUEST, KINDS, Refusal
from cms.sandbox.faults import Fault, Faults
from cms.sandbox.graph import Graph
from cms.sandbox.redeem import Redeemer
from cms.sandbox.tokens import digest
from cms.sandbox.web import NOT_FOUND, WebReply, WebRequest, as_html, as_json, redirect

_PORTAL = "<html><head><title>Hotel Wi-Fi</title></head><body>Please accept our terms.</body></html>"
# The beginning of an answer of the token endpoint. The fault `truncated` sends it if the request is not carried out.
_HALF = b'{"token_type":"Bearer","scope":"https://outlook.office.com/SMTP.Send","expires_in":3599,"access_to'


@dataclass(slots=True)
class Asked:
    """One request, for counting. No secret is kept: `refresh` is the digest of the refresh token that came.

    `endpoint` is a word of `Fault.endpoint`, or "page" or "device" for what a person sees before answering. `at` is Unix time. `status` is 0 until the answer is on its way; `aadsts` and `fault` say what was answered. `claims` is the challenge that came.
    """

    endpoint: str
    grant_type: str
    user: str
    client_id: str
    scope: str
    origin: str
    refresh: str
    at: float
    status: int = 0
    aadsts: int = 0
    fault: str = ""
    claims: str = ""


class Endpoints:
    """Answers requests, from several threads. `changed` is the lock of everything below, notified at each request."""

    def __init__(self, redeemer: Redeemer, faults: Faults, authority: Callable[[], str]) -> None:
        self.requests: list[Asked] = []
        self.changed = threading.Condition()
        self.graph = Graph(redeemer.directory)
        self._redeemer = redeemer
        self._directory = redeemer.directory
        self._faults = faults
        self._authority = authority

    @property
    def device_url(self) -> str:
        """The page where a person enters the code of a device."""
        return f"{self._authority()}/device"

    def answer(self, request: WebRequest) -> WebReply:
        """Answer one request."""
        endpoint, handler = self._route(request)
        asked = self._record(endpoint, request)
        fault = self._faults.take(endpoint, asked.user, asked.grant_type)
        reply = self._with_fault(fault, handler, request, asked) if fault else self._handle(handler, request, asked)
        asked.status = reply.status
        return reply

    def _route(self, request: WebRequest) -> tuple[str, Callable[[WebRequest], WebReply]]:
        path = request.path
        for ending, endpoint, handler in (
            ("/oauth2/v2.0/token", "token", self._token),
            ("/oauth2/v2.0/devicecode", "devicecode", self._devicecode),
            # A fault for "authorize" is for the person's answer, so showing the page must not use it up.
            ("/oauth2/v2.0/authorize", "page" if request.method == "GET" else "authorize", self._authorize),
            ("/v2.0/.well-known/openid-configuration", "discovery", self._discovery),
            ("/common/discovery/instance", "discovery", self._instance),
            ("/device", "device", self._device),
            ("/sendMail", "sendMail", self.graph.send_mail),
        ):
            if path.endswith(ending):
                return endpoint, handler
        return "", lambda _: WebReply(NOT_FOUND)

    def _record(self, endpoint: str, request: WebRequest) -> Asked:
        told = request.fields.get
        with self.changed:
            user = self._redeemer.whose(request.fields) if endpoint == "token" else told("user", "")
            refresh = digest(told("refresh_token", "")) if "refresh_token" in request.fields else ""
            origin = request.headers.get("origin", "")
            grant_type, client_id, scope = told("grant_type", ""), told("client_id", ""), told("scope", "")
            now = self._directory.now()
            asked = Asked(endpoint, grant_type, user, client_id, scope, origin, refresh, now, claims=told("claims", ""))
            self.requests.append(asked)
            self.changed.notify_all()
            return asked

    def _handle(self, handler: Callable[[WebRequest], WebReply], request: WebRequest, asked: Asked) -> WebReply:
        try:
            with self.changed:
                return handler(request)
        except Refusal as refusal:
            return self._refuse(refusal, request, asked)

    def _refuse(self, refusal: Refusal, request: WebRequest, asked: Asked) -> WebReply:
        asked.aadsts = refusal.aadsts
        if asked.endpoint in ("page", "authorize", "device"):
            return as_html(pages.message("Sorry, but we're having trouble signing you in", str(refusal)), BAD_REQUEST)
        correlation = request.headers.get("client-request-id") or str(uuid.uuid4())
        return as_json(refusal.body(self._authority(), correlation, self._directory.now()), refusal.kind.status)

    def _with_fault(
        self, fault: Fault, handler: Callable[[WebRequest], WebReply], request: WebRequest, asked: Asked
    ) -> WebReply:
        asked.fault = fault.kind
        if fault.kind == "silence":
            self._faults.silence(fault.seconds)
        usual = None
        if fault.after or fault.kind in ("silence", "fields"):
            usual = self._handle(handler, request, asked)
        return self._spoilt(fault, usual, request, asked)

    def _spoilt(self, fault: Fault, usual: WebReply | None, request: WebRequest, asked: Asked) -> WebReply:
        if fault.kind == "reset":
            return WebReply(reset=True)
        if fault.kind == "html":
            return as_html(_PORTAL)
        if fault.kind == "truncated":
            return WebReply(body=usual.body[: len(usual.body) // 2] if usual else _HALF)
        if fault.kind in ("aadsts", "page"):
            return self._fault_refusal(fault, request, asked)
        if fault.kind == "status":
            headers = (("Retry-After", fault.retry_after),) if fault.retry_after else ()
            return as_json({"error": "temporarily_unavailable", "error_description": "scripted"}, fault.status, headers)
        assert usual is not None  # silence, fields
        return usual if fault.kind == "silence" else _with_fields(usual, fault.fields)

    def _fault_refusal(self, fault: Fault, request: WebRequest, asked: Asked) -> WebReply:
        kind = KINDS.get(fault.aadsts)
        refusal = Refusal(fault.aadsts, "(scripted)", kind=kind, claims=fault.claims)
        if asked.endpoint == "authorize" and "redirect_uri" in request.fields and fault.kind != "page":
            asked.aadsts = fault.aadsts
            return _sent_back(request.fields, self._denial(refusal))
        return self._refuse(refusal, request, asked)

    def _discovery(self, request: WebRequest) -> WebReply:
        tenant = request.path.removesuffix("/v2.0/.well-known/openid-configuration").strip("/")
        base = f"{self._authority()}/{tenant}"
        return as_json(
            {
                "issuer": f"{self._authority()}/{self._tenant_of(tenant)}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "response_modes_supported": ["query", "form_post"],
                "response_types_supported": ["code"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            }
        )

    def _tenant_of(self, name: str) -> str:
        """Return the tenant that a domain is in; other names are tenants themselves."""
        if "." not in name:
            return name
        if name.lower() not in {user.name.rpartition("@")[2].lower() for user in self._directory.users.values()}:
            raise Refusal(90002)
        return TENANT

    def _instance(self, _request: WebRequest) -> WebReply:
        host = self._authority().removeprefix("https://")
        network = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
        where = f"{self._authority()}/common/v2.0/.well-known/openid-configuration"
        return as_json({"tenant_discovery_endpoint": where, "api-version": "1.1", "metadata": [network]})

    def _authorize(self, request: WebRequest) -> WebReply:
        fields = request.fields
        self._redeemer.check_authorize(fields)
        if request.method == "GET":
            names = [user.name for user in self._directory.users.values()]
            return as_html(pages.sign_in(request.path, fields, names, chosen=fields.get("login_hint", "")))
        if fields.get("decision") != "accept":
            return _sent_back(fields, self._denial(Refusal(65004)))
        code = self._redeemer.authorize(fields, fields.get("user", ""))
        user = self._directory.user(fields.get("user", ""))
        return _sent_back(fields, {"code": code, "session_state": user.oid})

    def _denial(self, refusal: Refusal) -> dict[str, str]:
        body = refusal.body(self._authority(), str(uuid.uuid4()), self._directory.now())
        return {"error": refusal.kind.error, "error_description": str(body["error_description"])}

    def _devicecode(self, request: WebRequest) -> WebReply:
        return as_json(self._redeemer.start_device(request.fields, self.device_url))

    def _device(self, request: WebRequest) -> WebReply:
        if request.method == "GET":
            return as_html(pages.device(request.path, [user.name for user in self._directory.users.values()]))
        told = request.fields.get
        self._redeemer.approve_device(told("user_code", ""), told("user", ""), decline=told("decision") != "accept")
        return as_html(pages.message("Done", "You may close this window and go back to your device."))

    def _token(self, request: WebRequest) -> WebReply:
        endpoint = f"{self._authority()}{request.path}"
        return as_json(self._redeemer.token(request.fields, request.headers.get("origin", ""), endpoint))


def _with_fields(reply: WebReply, fields: Mapping[str, Any]) -> WebReply:
    """Return a JSON answer with other values of these fields; `...` removes one."""
    changed = {**json.loads(reply.body), **fields}
    return as_json({name: value for name, value in changed.items() if value is not ...}, reply.status)


def _sent_back(fields: Mapping[str, str], answer: Mapping[str, str]) -> WebReply:
    """Return the browser to the application with an answer."""
    answer = {**answer, **({"state": fields["state"]} if "state" in fields else {})}
    target = fields["redirect_uri"]
    if fields.get("response_mode") == "form_post":
        return as_html(pages.post_back(target, answer))
    return redirect(f"{target}{'&' if '?' in target else '?'}{urlencode(answer)}")
