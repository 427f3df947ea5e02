"""The HTTPS endpoints of a simulated provider other than Entra. Each refuses what its RFC says is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from cms.sandbox import pages
from cms.sandbox.answering import Answering, Asked, Declined, sent_back
from cms.sandbox.directory import Client
from cms.sandbox.faults import Fault, Faults
from cms.sandbox.issued import BAD_REQUEST, UNAUTHORIZED, Issued, OAuthRefusal
from cms.sandbox.proving import Proving
from cms.sandbox.redeem import DEVICE_GRANT
from cms.sandbox.web import NOT_FOUND, Handler, WebReply, WebRequest, as_html, as_json

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_CREATED = 201
_FORBIDDEN = 403
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class IssuerEndpoints(Answering):
    """Answers requests. `base` is the address of the server, `issuer` the provider's name."""

    def __init__(self, issued: Issued, faults: Faults, base: Callable[[], str]) -> None:
        super().__init__(faults, issued.now)
        self._issued = issued
        self._base = base
        self.proving = Proving(issued, lambda: self.issuer, lambda: self.url("token"))

    @property
    def issuer(self) -> str:
        """The provider's name."""
        return f"{self._base()}{self._issued.habits.path}"

    def url(self, name: str) -> str:
        """Return the address of an endpoint."""
        return f"{self._base()}{self._issued.habits.paths[name]}"

    def route(self, request: WebRequest) -> tuple[str, Handler]:
        """Return the name of the endpoint that a request is for, and what answers it."""
        handlers: dict[str, Handler] = {
            "authorize": self._authorize,
            "token": self._token,
            "devicecode": self._devicecode,
            "userinfo": self._userinfo,
            "revoke": self._revoke,
            "register": self._register,
        }
        if request.path in self._issued.habits.documents:
            return "discovery", self._discovery
        if request.path == "/device":
            return "device", self._device
        name = next((name for name, path in self._issued.habits.paths.items() if path == request.path), "")
        if not name:
            return "", lambda _: WebReply(NOT_FOUND)
        # A fault for "authorize" is for the person's answer, so showing the page must not use it up.
        return "page" if name == "authorize" and request.method == "GET" else name, handlers[name]

    def whose(self, fields: Mapping[str, str]) -> str:
        """Return the user whom a token request is for, "" if it is unknown."""
        return self._issued.whose(fields)

    def refuse(self, declined: Declined, request: WebRequest, asked: Asked) -> WebReply:
        """Return a page for a person, the browser with the refusal, or the refusal as JSON."""
        assert isinstance(declined, OAuthRefusal), "this part of the sandbox raises no other"
        if asked.endpoint in ("page", "authorize") and self._leads_back(request.fields):
            return sent_back(request.fields, {**declined.body, "iss": self.issuer})
        if asked.endpoint in ("page", "authorize", "device"):
            return as_html(pages.message("Access blocked", f"Error 400: {declined}"), BAD_REQUEST)
        return as_json(declined.body, declined.status)

    def scripted(self, fault: Fault, request: WebRequest, asked: Asked) -> WebReply:
        """Return the refusal with the fault's word and fields; on a page that does not lead back for "page"."""
        refusal = OAuthRefusal(fault.error, "scripted", **fault.fields)
        if fault.kind == "page":
            return as_html(pages.message("Access blocked", f"Error 400: {refusal}"), BAD_REQUEST)
        return self.refuse(refusal, request, asked)

    def _discovery(self, _request: WebRequest) -> WebReply:
        names = {
            "authorize": "authorization_endpoint",
            "token": "token_endpoint",
            "devicecode": "device_authorization_endpoint",
            "userinfo": "userinfo_endpoint",
            "revoke": "revocation_endpoint",
            "register": "registration_endpoint",
        }
        found = {named: self.url(name) for name, named in names.items() if name in self._issued.habits.paths}
        return as_json(
            {
                "issuer": self.issuer,
                **found,
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": _METHODS,
                "authorization_response_iss_parameter_supported": True,
                "scopes_supported": list(self._issued.habits.scopes),
            }
        )

    def _leads_back(self, fields: Mapping[str, str]) -> bool:
        client = self._issued.clients.get(fields.get("client_id", ""))
        return client is not None and client.allows(fields.get("redirect_uri", ""))

    def _authorize(self, request: WebRequest) -> WebReply:
        fields, habits = request.fields, self._issued.habits
        client = self.proving.client(fields)
        if not client.allows(fields.get("redirect_uri", "")):
            raise OAuthRefusal("redirect_uri_mismatch", "The redirect URI is not registered.")
        if fields.get("response_type") != "code":
            raise OAuthRefusal("unsupported_response_type")
        if habits.needs_pkce and fields.get("code_challenge_method") != "S256":
            raise OAuthRefusal("invalid_request", "Authorization Server policy requires PKCE to be used.")
        self._check_resource(fields)
        unknown = [each for each in fields.get("scope", "").split() if each not in habits.scopes]
        if unknown and habits.known_only:
            raise OAuthRefusal("invalid_scope", f"Some requested scopes were invalid: {unknown}")
        if request.method == "GET":
            names = [user.name for user in self._issued.users.values()]
            return as_html(pages.sign_in(request.path, fields, names, chosen=fields.get("login_hint", "")))
        if fields.get("decision") != "accept":
            raise OAuthRefusal("access_denied")
        code = self._issued.code(self._issued.user(fields.get("user", "")), client, fields)
        return sent_back(fields, {"code": code, "iss": self.issuer})

    def _check_resource(self, fields: Mapping[str, str]) -> None:
        """Refuse a request without the resource that has to be named (RFC 8707, 2), and one that names another."""
        if fields.get("resource", "") != self._issued.habits.resource:
            raise OAuthRefusal("invalid_target", "The requested resource is invalid, missing or unknown.")

    def _device(self, request: WebRequest) -> WebReply:
        if request.method == "GET":
            code = request.fields.get("user_code", "")
            return as_html(pages.device(request.path, [user.name for user in self._issued.users.values()], code))
        told = request.fields.get
        self._issued.approve_device(told("user_code", ""), told("user", ""), decline=told("decision") != "accept")
        return as_html(pages.message("Done", "You may close this window and go back to your device."))

    def _devicecode(self, request: WebRequest) -> WebReply:
        client = self.proving.proved(request)
        self._check_resource(request.fields)
        scopes = tuple(request.fields.get("scope", "").split())
        return as_json(self._issued.start_device(client, scopes, f"{self._base()}/device"))

    def _token(self, request: WebRequest) -> WebReply:
        fields = request.fields
        if fields.get("grant_type") == _JWT_BEARER:
            answer = self._issued.tokens(self.proving.delegated(fields.get("assertion", "")))
            # Google's answer here has no scope.
            return as_json({name: value for name, value in answer.items() if name != "scope"})
        client = self.proving.proved(request)
        redeem = {
            "authorization_code": self._issued.redeem_code,
            "refresh_token": self._issued.redeem,
            DEVICE_GRANT: self._issued.redeem_device,
        }.get(fields.get("grant_type", ""))
        if redeem is None:
            raise OAuthRefusal("unsupported_grant_type")
        self._check_resource(fields)
        return as_json(redeem(client, fields))

    def _userinfo(self, request: WebRequest) -> WebReply:
        access = self._issued.valid(request.headers.get("authorization", "").removeprefix("Bearer "))
        if access is None:
            return WebReply(UNAUTHORIZED, headers=(("WWW-Authenticate", 'Bearer error="invalid_token"'),))
        if "openid" not in access.scopes:
            # OpenID Connect Core, 5.3; RFC 6750, 3.1.
            return WebReply(_FORBIDDEN, headers=(("WWW-Authenticate", 'Bearer error="insufficient_scope"'),))
        user = access.sign_in.user
        return as_json({"sub": user.oid} | (self._issued.about(user) if "email" in access.scopes else {}))

    def _revoke(self, request: WebRequest) -> WebReply:
        """End a sign-in (RFC 7009). Google asks for no client, and calls a token that it knows no more an error."""
        every = self._issued.habits.revokes_all
        client = None if every else self.proving.proved(request)
        sign_in = self._issued.sign_in_of(request.fields.get("token", ""))
        if sign_in is None or (every and sign_in.refusal) or (client and sign_in.client is not client):
            if every:
                raise OAuthRefusal("invalid_token", "Token expired or revoked")
            return WebReply()
        for each in list(self._issued.sign_ins):
            same = (each.user, each.client) == (sign_in.user, sign_in.client)
            if each is sign_in or (same and every):
                self._issued.end(each)
        return WebReply()

    def _register(self, request: WebRequest) -> WebReply:
        """Register a public client for loopback addresses (RFC 7591)."""
        asked = json.loads(request.body)
        redirects = tuple(asked.get("redirect_uris", ()))
        if not redirects or any(urlsplit(each).hostname not in _LOOPBACK for each in redirects):
            raise OAuthRefusal("invalid_redirect_uri", "Only loopback addresses can be registered.")
        if asked.get("token_endpoint_auth_method") != "none":
            raise OAuthRefusal("invalid_client_metadata", "Only public clients can be registered.")
        client = Client(f"dyn-{uuid.uuid4()}", redirects)
        self._issued.clients[client.client_id] = client
        return as_json({**asked, "client_id": client.client_id, "client_id_issued_at": int(self._now())}, _CREATED)


_METHODS = ["none", "client_secret_post", "client_secret_basic", "private_key_jwt"]
