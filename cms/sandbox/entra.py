"""A simulated Entra that unmodified MSAL talks to over TLS, with Microsoft's error shapes and scripted faults.

    with Entra() as entra:
        entra.add_user("a@example.test")
        ...  Office365_Account(authority=entra.authority, client_id=CLIENT_ID), Tls(ca=entra.ca_file)
        entra.sign_in(auth_uri, "a@example.test")
        entra.faults.add(Fault("status", status=503))
        assert 1 == entra.count("token", grant_type="refresh_token")

The HTTPS server is for what MSAL and browsers call, and for Graph's sendMail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from cms.sandbox.answering import Asked
from cms.sandbox.directory import CLIENT_ID, MAIL_SCOPES, Client, Directory, Settings, User
from cms.sandbox.endpoints import Endpoints
from cms.sandbox.faults import CLAIMS, Fault
from cms.sandbox.host import Host
from cms.sandbox.redeem import Redeemer

__all__ = ["CLIENT_ID", "MAIL_SCOPES", "Asked", "Entra", "Fault", "Settings"]


class Entra(Settings, Host):
    """The simulator. Settings may be given here or changed at any time; `now` is Unix time.

    `authority` is what `Office365_Account(authority=...)` takes, without a tenant.
    """

    endpoints: Endpoints

    def __init__(self, users: Iterable[str] = (), *, now: Callable[[], float] = time.time, **settings: Any) -> None:
        Settings.__init__(self, **settings)
        Host.__init__(self, now)
        self.directory = Directory(self, now)
        self.redeemer = Redeemer(self.directory)
        self.endpoints = Endpoints(self.redeemer, self.faults, lambda: self.authority)
        self.graph = self.endpoints.graph
        for user in users:
            self.add_user(user)

    @property
    def device_url(self) -> str:
        """The page where a person enters the code of a device."""
        return self.endpoints.device_url

    def add_user(self, name: str, mailboxes: Iterable[str] = ()) -> User:
        """Make a user, who may open others' mailboxes as well."""
        return self.directory.add_user(name, mailboxes)

    def register(self, client: Client) -> None:
        """Register an application, or replace it."""
        self.directory.clients[client.client_id.lower()] = client

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
