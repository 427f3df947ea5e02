"""A simulated Entra that unmodified MSAL talks to over TLS, with Microsoft's error shapes and scripted faults.

    with Entra() as entra:
        entra.add_user("a@example.test")
        ...  Office365_Account(authority=entra.authority, client_id=CLIENT_ID), Tls(ca=entra.ca_file)
        entra.sign_in(auth_uri, "a@example.test")
        entra.faults.add(Fault("status", status=503))
        assert 1 == entra.count("token", grant_type="refresh_token")

Two servers on loopback: HTTPS for what MSAL and browsers call, plain HTTP for introspection (as Dovecot asks).
"""

from __future__ import annotations

import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import trustme

from cms.sandbox import pages, person
from cms.sandbox.directory import CLIENT_ID, MAIL_SCOPES, TENANT, Client, Directory, Settings, User
from cms.sandbox.errors import KINDS, Kind, Refusal
from cms.sandbox.faults import CLAIMS, Fault, Faults
from cms.sandbox.redeem import Redeemer
from cms.sandbox.tokens import digest
from cms.sandbox.web import HOST_NAME, Reply, Request, Server, as_html, as_json, redirect

__all__ = ["CLIENT_ID", "MAIL_SCOPES", "Asked", "Entra", "Fault", "Settings"]

_PORTAL = "<html><head><title>Hotel Wi-Fi</title></head><body>Please accept our terms.</body></html>"
# What a token endpoint's answer begins with: half of one is what `truncated` sends when nothing is carried out.
_HALF = b'{"token_type":"Bearer","scope":"https://outlook.office.com/SMTP.Send","expires_in":3599,"access_to'
_UNKNOWN_PAGE = 404


@dataclass(slots=True)
class Asked:
    """One request, for counting. No secret is kept: `refresh` is the digest of the refresh token that came.

    `endpoint` is a word of `Fault.endpoint`, or "page" or "device" for what a person sees before answering. `at` is Unix time. `status` is 0 until the answer is on its way; `aadsts` and `fault` say what was answered.
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


class Entra(Settings):
    """The simulator. Settings may be given here or changed at any time; `now` is Unix time."""

    def __init__(self, users: Iterable[str] = (), *, now: Callable[[], float] = time.time, **settings: Any) -> None:
        super().__init__(**settings)
        self.faults = Faults()
        self.requests: list[Asked] = []
        self.directory = Directory(self, now)
        self.redeemer = Redeemer(self.directory)
        self._changed = threading.Condition(threading.RLock())
        self._folder = tempfile.TemporaryDirectory(prefix="cms-sandbox-")
        self._tls = Server(self._answer, self._certify(Path(self._folder.name)))
        self._plain = Server(self._answer_plain)
        self._extra: dict[str, Callable[[Request], Reply]] = {}
        for user in users:
            self.add_user(user)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on ports of the system's choice."""
        self._plain.start()
        self._tls.start()

    def stop(self) -> None:
        """End every silence, close everything, remove the certificates."""
        self.faults.clear()
        try:
            self._tls.stop()
            self._plain.stop()
        finally:
            self._folder.cleanup()

    def go_down(self) -> None:
        """Refuse connections, as an endpoint that is down does; what is known stays known."""
        self.faults.release()
        self._tls.pause()

    def come_up(self) -> None:
        """Listen again, on the same port."""
        self._tls.start()

    @property
    def authority(self) -> str:
        """What `Office365_Account(authority=...)` takes, without a tenant."""
        return f"https://localhost:{self._tls.port}"

    @property
    def introspect_url(self) -> str:
        """Where a mail server asks; the token goes behind it."""
        return f"{self.plain_url}/introspect?token="

    @property
    def plain_url(self) -> str:
        """The plain HTTP server."""
        return f"http://{HOST_NAME}:{self._plain.port}"

    def add_user(self, name: str, mailboxes: Iterable[str] = ()) -> User:
        """Make a user, who may open others' mailboxes as well."""
        return self.directory.add_user(name, mailboxes)

    @property
    def users(self) -> dict[str, User]:
        """The users by name in lower case."""
        return self.directory.users

    def register(self, client: Client) -> None:
        """Register an application, or replace it."""
        self.directory.clients[client.client_id.lower()] = client

    def sign_in(self, url: str, user: str, *, decision: str = "accept", follow: bool = True) -> person.Page:
        """Be the person at the browser: see `cms.sandbox.person.sign_in`."""
        return person.sign_in(url, user, ca_file=self.ca_file, decision=decision, follow=follow)

    def approve_device(self, user_code: str, user: str, *, decision: str = "accept") -> None:
        """Be the person who enters the code of a device."""
        person.enter_code(self.device_url, user_code, user, ca_file=self.ca_file, decision=decision)

    @property
    def device_url(self) -> str:
        """Where a person enters the code of a device."""
        return f"{self.authority}/device"

    def revoke(self, user: str, aadsts: int = 50173, *, access: bool = False) -> None:
        """Refuse this user's refresh tokens from now on; with `access`, introspect access tokens as inactive too."""
        with self._changed:
            self.redeemer.revoke(user, aadsts)
            if access:
                self.directory.revoke_access(user)

    def challenge(self, user: str, claims: str = CLAIMS) -> None:
        """Answer AADSTS50076 with these claims until the user signs in with them."""
        self.directory.challenge(user, claims)

    def withdraw_consent(self, user: str, scope: str = "") -> None:
        """Answer AADSTS65001 for this scope, or for all, until the user consents again by signing in."""
        self.directory.withdraw_consent(user, scope)

    def withhold(self, user: str, scope: str) -> None:
        """Grant one scope less than is asked for, which the answer's `scope` says, as Entra may (RFC 6749, 5.1)."""
        self.directory.withhold(user, scope)

    def mint(self, user: str, scopes: Iterable[str] = MAIL_SCOPES, life: float | None = None) -> str:
        """Return an access token without a sign-in; a negative life gives one that has expired."""
        return self.directory.mint(user, scopes, life)

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what the introspection endpoint says."""
        with self._changed:
            return self.directory.introspect(token)

    def asked(self, endpoint: str = "token", **wanted: object) -> list[Asked]:
        """Return the requests so far at an endpoint ("" for any), with these values of `Asked`'s fields."""
        with self._changed:
            return [
                each
                for each in self.requests
                if endpoint in ("", each.endpoint) and all(getattr(each, name) == wanted[name] for name in wanted)
            ]

    def count(self, endpoint: str = "token", **wanted: object) -> int:
        """Return how many requests there have been."""
        return len(self.asked(endpoint, **wanted))

    def wait_for(self, number: int, endpoint: str = "token", *, seconds: float = 60.0, **wanted: object) -> bool:
        """Wait until there have been so many requests; False when there were not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count(endpoint, **wanted) >= number, seconds)

    def serve(self, path: str, handler: Callable[[Request], Reply]) -> None:
        """Answer one more path of the plain HTTP server."""
        self._extra[path] = handler

    def _certify(self, folder: Path) -> ssl.SSLContext:
        folder.chmod(0o755)  # a mail server or worker under another uid reads the CA here
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1", "::1")
        self.ca_file = str(folder / "ca.pem")
        self.cert_file = str(folder / "server.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        certificate.private_key_and_cert_chain_pem.write_to_path(self.cert_file)
        Path(self.cert_file).chmod(0o600)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file)
        return context

    def _answer_plain(self, request: Request) -> Reply:
        if request.path == "/introspect":
            return as_json(self.introspect(request.fields.get("token", "")))
        handler = self._extra.get(request.path)
        return handler(request) if handler else Reply(_UNKNOWN_PAGE)

    def _answer(self, request: Request) -> Reply:
        endpoint, handler = self._route(request)
        asked = self._record(endpoint, request)
        fault = self.faults.take(endpoint, asked.user, asked.grant_type)
        reply = self._with_fault(fault, handler, request, asked) if fault else self._handle(handler, request, asked)
        asked.status = reply.status
        return reply

    def _route(self, request: Request) -> tuple[str, Callable[[Request], Reply]]:
        path = request.path
        for ending, endpoint, handler in (
            ("/oauth2/v2.0/token", "token", self._token),
            ("/oauth2/v2.0/devicecode", "devicecode", self._devicecode),
            # The page alone is nothing that a fault should spend itself on: "authorize" is the person's answer.
            ("/oauth2/v2.0/authorize", "page" if request.method == "GET" else "authorize", self._authorize),
            ("/v2.0/.well-known/openid-configuration", "discovery", self._discovery),
            ("/common/discovery/instance", "discovery", self._instance),
            ("/device", "device", self._device),
        ):
            if path.endswith(ending):
                return endpoint, handler
        return "", lambda _: Reply(_UNKNOWN_PAGE)

    def _record(self, endpoint: str, request: Request) -> Asked:
        told = request.fields.get
        with self._changed:
            user = self.redeemer.whose(request.fields) if endpoint == "token" else told("user", "")
            refresh = digest(told("refresh_token", "")) if "refresh_token" in request.fields else ""
            origin = request.headers.get("origin", "")
            grant_type, client_id, scope = told("grant_type", ""), told("client_id", ""), told("scope", "")
            now = self.directory.now()
            self.requests.append(Asked(endpoint, grant_type, user, client_id, scope, origin, refresh, now))
            self._changed.notify_all()
            return self.requests[-1]

    def _handle(self, handler: Callable[[Request], Reply], request: Request, asked: Asked) -> Reply:
        try:
            with self._changed:
                return handler(request)
        except Refusal as refusal:
            return self._refuse(refusal, request, asked)

    def _refuse(self, refusal: Refusal, request: Request, asked: Asked) -> Reply:
        asked.aadsts = refusal.aadsts
        if asked.endpoint in ("page", "authorize", "device"):
            return as_html(pages.message("Sorry, but we're having trouble signing you in", str(refusal)), _REFUSED)
        correlation = request.headers.get("client-request-id") or str(uuid.uuid4())
        return as_json(refusal.body(self.authority, correlation, self.directory.now()), refusal.kind.status)

    def _with_fault(self, fault: Fault, handler: Callable[[Request], Reply], request: Request, asked: Asked) -> Reply:
        asked.fault = fault.kind
        if fault.kind == "silence":
            self.faults.silence(fault.seconds)
        usual = None
        if fault.after or fault.kind == "silence":
            usual = self._handle(handler, request, asked)
        if fault.kind == "wrong-user":
            request = Request(request.method, request.path, {**request.fields, "user": fault.as_user}, request.headers)
            usual = self._handle(handler, request, asked)
        return self._spoilt(fault, usual, request, asked)

    def _spoilt(self, fault: Fault, usual: Reply | None, request: Request, asked: Asked) -> Reply:
        if fault.kind == "reset":
            return Reply(reset=True)
        if fault.kind == "html":
            return as_html(_PORTAL)
        if fault.kind == "truncated":
            return Reply(body=usual.body[: len(usual.body) // 2] if usual else _HALF)
        if fault.kind in ("aadsts", "page"):
            return self._fault_refusal(fault, request, asked)
        if fault.kind == "status":
            headers = (("Retry-After", fault.retry_after),) if fault.retry_after else ()
            return as_json({"error": "temporarily_unavailable", "error_description": "scripted"}, fault.status, headers)
        assert usual is not None  # silence and wrong-user
        return usual

    def _fault_refusal(self, fault: Fault, request: Request, asked: Asked) -> Reply:
        kind = KINDS.get(fault.aadsts)
        refusal = Refusal(fault.aadsts, "(scripted)", kind=kind, claims=fault.claims)
        if asked.endpoint == "authorize" and "redirect_uri" in request.fields and fault.kind != "page":
            asked.aadsts = fault.aadsts
            return self._sent_back(request.fields, self._denial(refusal))
        return self._refuse(refusal, request, asked)

    def _discovery(self, request: Request) -> Reply:
        tenant = request.path.removesuffix("/v2.0/.well-known/openid-configuration").strip("/")
        base = f"{self.authority}/{tenant}"
        return as_json(
            {
                "issuer": f"{self.authority}/{self._tenant_of(tenant)}/v2.0",
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
        if name.lower() not in {user.name.rpartition("@")[2].lower() for user in self.users.values()}:
            raise Refusal(90002)
        return TENANT

    def _instance(self, _request: Request) -> Reply:
        host = self.authority.removeprefix("https://")
        network = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
        where = f"{self.authority}/common/v2.0/.well-known/openid-configuration"
        return as_json({"tenant_discovery_endpoint": where, "api-version": "1.1", "metadata": [network]})

    def _authorize(self, request: Request) -> Reply:
        fields = request.fields
        self.redeemer.check_authorize(fields)
        if request.method == "GET":
            names = [user.name for user in self.users.values()]
            return as_html(pages.sign_in(request.path, fields, names, chosen=fields.get("login_hint", "")))
        if fields.get("decision") != "accept":
            return self._sent_back(fields, self._denial(Refusal(65004)))
        code = self.redeemer.authorize(fields, fields.get("user", ""))
        user = self.directory.user(fields.get("user", ""))
        return self._sent_back(fields, {"code": code, "session_state": user.oid})

    def _denial(self, refusal: Refusal) -> dict[str, str]:
        body = refusal.body(self.authority, str(uuid.uuid4()), self.directory.now())
        return {"error": refusal.kind.error, "error_description": str(body["error_description"])}

    def _sent_back(self, fields: Mapping[str, str], answer: Mapping[str, str]) -> Reply:
        answer = {**answer, **({"state": fields["state"]} if "state" in fields else {})}
        target = fields["redirect_uri"]
        if fields.get("response_mode") == "form_post":
            return as_html(pages.post_back(target, answer))
        return redirect(f"{target}{'&' if '?' in target else '?'}{urlencode(answer)}")

    def _devicecode(self, request: Request) -> Reply:
        return as_json(self.redeemer.start_device(request.fields, self.device_url))

    def _device(self, request: Request) -> Reply:
        if request.method == "GET":
            return as_html(pages.device(request.path, [user.name for user in self.users.values()]))
        told = request.fields.get
        self.redeemer.approve_device(told("user_code", ""), told("user", ""), decline=told("decision") != "accept")
        return as_html(pages.message("Done", "You may close this window and go back to your device."))

    def _token(self, request: Request) -> Reply:
        endpoint = f"{self.authority}{request.path}"
        return as_json(self.redeemer.token(request.fields, request.headers.get("origin", ""), endpoint))


_REFUSED = Kind("", "").status
