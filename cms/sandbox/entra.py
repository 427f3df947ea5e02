"""A simulated Entra that unmodified MSAL talks to over TLS, with Microsoft's error shapes and scripted faults.

    with Entra() as entra:
        entra.add_user("a@example.test")
        ...  Office365_Account(authority=entra.authority, client_id=CLIENT_ID), Tls(ca=entra.ca_file)
        entra.sign_in(auth_uri, "a@example.test")
        entra.faults.add(Fault("status", status=503))
        assert 1 == entra.count("token", grant_type="refresh_token")

Two servers on loopback: HTTPS for what MSAL and browsers call, and for Graph's sendMail; plain HTTP for introspection
(as Dovecot asks).
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import trustme

from cms.sandbox import person
from cms.sandbox.directory import CLIENT_ID, MAIL_SCOPES, Client, Directory, Settings, User
from cms.sandbox.endpoints import Asked, Endpoints
from cms.sandbox.faults import CLAIMS, Fault, Faults
from cms.sandbox.redeem import Redeemer
from cms.sandbox.web import HOST_NAME, NOT_FOUND, Handler, Server, WebReply, WebRequest, as_json

__all__ = ["CLIENT_ID", "MAIL_SCOPES", "Asked", "Entra", "Fault", "Settings"]


class Entra(Settings):
    """The simulator. Settings may be given here or changed at any time; `now` is Unix time."""

    def __init__(self, users: Iterable[str] = (), *, now: Callable[[], float] = time.time, **settings: Any) -> None:
        super().__init__(**settings)
        self.faults = Faults()
        self.directory = Directory(self, now)
        self.redeemer = Redeemer(self.directory)
        self.endpoints = Endpoints(self.redeemer, self.faults, lambda: self.authority)
        self.graph = self.endpoints.graph
        self._folder = tempfile.TemporaryDirectory(prefix="cms-sandbox-")
        self.ca_file, self.cert_file = _certify(Path(self._folder.name))
        self.secure = Server(self.answer, _showing(self.cert_file), now)
        self.plain = PlainServer(self.introspect, now)
        for user in users:
            self.add_user(user)

    def __enter__(self) -> Self:
        """Listen on ports of the system's choice."""
        self.plain.start()
        self.secure.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """End all silences, close everything, and remove the certificates."""
        self.faults.clear()
        try:
            self.secure.stop()
            self.plain.stop()
        finally:
            self._folder.cleanup()

    def go_down(self) -> None:
        """Refuse connections, like an endpoint that is down. Users, tokens and applications stay."""
        self.faults.release()
        self.secure.pause()

    def come_up(self) -> None:
        """Listen again, on the same port."""
        self.secure.start()

    @property
    def authority(self) -> str:
        """What `Office365_Account(authority=...)` takes, without a tenant."""
        return f"https://localhost:{self.secure.port}"

    def answer(self, request: WebRequest) -> WebReply:
        """Answer one HTTPS request. Subclasses can see every request and answer here."""
        return self.endpoints.answer(request)

    def add_user(self, name: str, mailboxes: Iterable[str] = ()) -> User:
        """Make a user, who may open others' mailboxes as well."""
        return self.directory.add_user(name, mailboxes)

    def register(self, client: Client) -> None:
        """Register an application, or replace it."""
        self.directory.clients[client.client_id.lower()] = client

    def sign_in(self, url: str, user: str, *, decision: str = "accept", follow: bool = True) -> person.Page:
        """Sign in as a person with a browser does: see `cms.sandbox.person.sign_in`."""
        return person.sign_in(url, user, ca_file=self.ca_file, decision=decision, follow=follow)

    def approve_device(self, user_code: str, user: str, *, decision: str = "accept") -> None:
        """Enter the code of a device as a person does."""
        person.enter_code(self.endpoints.device_url, user_code, user, ca_file=self.ca_file, decision=decision)

    def revoke(self, user: str, aadsts: int = 50173, *, access: bool = False) -> None:
        """Refuse this user's refresh tokens from now on; with `access`, introspect access tokens as inactive too."""
        with self.endpoints.changed:
            self.redeemer.revoke(user, aadsts)
            if access:
                self.directory.revoke_access(user)

    def challenge(self, user: str, claims: str = CLAIMS) -> None:
        """Answer AADSTS50076 with these claims until the user signs in with them."""
        self.directory.user(user).challenge = claims

    def withdraw_consent(self, user: str, scope: str = "") -> None:
        """Answer AADSTS65001 for this scope, or for all, until the user consents again by signing in."""
        self.directory.withdraw_consent(user, scope)

    def issue(self, user: str, scopes: Iterable[str] = MAIL_SCOPES, life: float | None = None) -> str:
        """Return an access token without a sign-in; a negative life gives one that has expired."""
        return self.directory.issue(user, scopes, life)

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what the introspection endpoint says."""
        with self.endpoints.changed:
            return self.directory.introspect(token)

    @property
    def requests(self) -> list[Asked]:
        """The HTTPS requests so far, in order."""
        return self.endpoints.requests

    def asked(self, endpoint: str = "token", **wanted: object) -> list[Asked]:
        """Return the requests so far at an endpoint ("" for any), with these values of `Asked`'s fields."""
        with self.endpoints.changed:
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
        with self.endpoints.changed:
            return self.endpoints.changed.wait_for(lambda: self.count(endpoint, **wanted) >= number, seconds)


class PlainServer(Server):
    """The plain HTTP server: introspection as a mail server asks for it, and further paths that a test adds."""

    def __init__(self, introspect: Callable[[str], dict[str, Any]], now: Callable[[], float] = time.time) -> None:
        super().__init__(lambda request: self.paths.get(request.path, _unknown)(request), now=now)
        self.paths: dict[str, Handler] = {
            "/introspect": lambda request: as_json(introspect(request.fields.get("token", "")))
        }

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{HOST_NAME}:{self.port}"

    @property
    def introspect_url(self) -> str:
        """Where a mail server asks; the token is appended."""
        return f"{self.url}/introspect?token="


def _unknown(_request: WebRequest) -> WebReply:
    return WebReply(NOT_FOUND)


def _certify(folder: Path) -> tuple[str, str]:
    """Write the certificate of an authority, and key and certificate of a server; return both names."""
    folder.chmod(0o755)  # a mail server or worker under another uid reads the CA here
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1", "::1")
    ca_file, cert_file = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(cert_file))
    cert_file.chmod(0o600)
    return str(ca_file), str(cert_file)


def _showing(cert_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file)
    return context
