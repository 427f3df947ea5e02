"""The HTTPS endpoints of the simulated Entra and Graph: for MSAL, the browser, a device's code, and messages to send.

Each request is recorded, and answered as usual or with the fault that is scripted for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

from cms.sandbox import pages
from cms.sandbox.answering import Answering, Asked, Declined, sent_back
from cms.sandbox.directory import TENANT
from cms.sandbox.errors import BAD_REQUEST, KINDS, Refusal
from cms.sandbox.faults import Fault, Faults
from cms.sandbox.graph import Graph
from cms.sandbox.redeem import Redeemer
from cms.sandbox.web import NOT_FOUND, Handler, WebReply, WebRequest, as_html, as_json


class Endpoints(Answering):
    """Answers requests, from several threads. `changed` is the lock of everything below, notified at each request."""

    def __init__(self, redeemer: Redeemer, faults: Faults, authority: Callable[[], str]) -> None:
        super().__init__(faults, redeemer.directory.now)
        self.graph = Graph(redeemer.directory)
        self._redeemer = redeemer
        self._directory = redeemer.directory
        self._authority = authority

    @property
    def device_url(self) -> str:
        """The page where a person enters the code of a device."""
        return f"{self._authority()}/device"

    def route(self, request: WebRequest) -> tuple[str, Handler]:
        """Return the name of the endpoint that a request is for, and what answers it."""
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

    def whose(self, fields: Mapping[str, str]) -> str:
        """Return the user whom a token request is for, "" if it is unknown."""
        return self._redeemer.whose(fields)

    def refuse(self, declined: Declined, request: WebRequest, asked: Asked) -> WebReply:
        """Return Entra's answer: a page for a person, else Microsoft's error object."""
        assert isinstance(declined, Refusal), "Entra's part of the sandbox raises no other"
        refusal = declined
        asked.aadsts = refusal.aadsts
        if asked.endpoint in ("page", "authorize", "device"):
            return as_html(pages.message("Sorry, but we're having trouble signing you in", str(refusal)), BAD_REQUEST)
        correlation = request.headers.get("client-request-id") or str(uuid.uuid4())
        return as_json(refusal.body(self._authority(), correlation, self._directory.now()), refusal.kind.status)

    def scripted(self, fault: Fault, request: WebRequest, asked: Asked) -> WebReply:
        """Return the refusal with the fault's number."""
        kind = KINDS.get(fault.aadsts)
        refusal = Refusal(fault.aadsts, "(scripted)", kind=kind, claims=fault.claims)
        if asked.endpoint == "authorize" and "redirect_uri" in request.fields and fault.kind != "page":
            asked.aadsts = fault.aadsts
            return sent_back(request.fields, self._denial(refusal))
        return self.refuse(refusal, request, asked)

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
            return sent_back(fields, self._denial(Refusal(65004)))
        code = self._redeemer.authorize(fields, fields.get("user", ""))
        user = self._directory.user(fields.get("user", ""))
        return sent_back(fields, {"code": code, "session_state": user.oid})

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
