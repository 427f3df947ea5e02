"""Simulated providers other than Entra: one that behaves as Google does, and a strict one.

    with Issuer(google(), ["a@example.test"]) as issuer:
        ...  OAuth2_Account(issuer=issuer.issuer, client_id=CLIENT_ID, client_secret=...), Tls(ca=issuer.ca_file)
        issuer.sign_in(url, "a@example.test")
        issuer.faults.add(Fault("refusal", error="invalid_grant", fields={"error_subtype": "invalid_rapt"}))

Like `cms.sandbox.entra`, which has the tests' usual provider: servers, faults and records are the same (`Host`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from cms.sandbox.directory import Client, User
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, PUBLIC_ID, Habits
from cms.sandbox.host import Host
from cms.sandbox.issued import Issued, OAuthRefusal, denied
from cms.sandbox.issuer_endpoints import IssuerEndpoints
from cms.sandbox.proving import ServiceAccount

_ANYWHERE = ("http://127.0.0.1/*", "http://localhost/*")


class Issuer(Host):
    """A simulated provider with these habits; `now` is Unix time."""

    endpoints: IssuerEndpoints

    def __init__(self, habits: Habits, users: Iterable[str] = (), *, now: Callable[[], float] = time.time) -> None:
        super().__init__(now)
        self.habits = habits
        self.issued = Issued(habits, now, lambda: self.issuer)
        self.endpoints = IssuerEndpoints(self.issued, self.faults, lambda: self.authority)
        self.register(Client(CLIENT_ID, _ANYWHERE, secret=CLIENT_SECRET))
        self.register(Client(PUBLIC_ID, _ANYWHERE))
        for user in users:
            self.add_user(user)

    @property
    def issuer(self) -> str:
        """What `issuer=` of an account says."""
        return self.endpoints.issuer

    @property
    def device_url(self) -> str:
        """The page where a person enters the code of a device."""
        return f"{self.authority}/device"

    def add_user(self, name: str) -> User:
        """Make a user; a second one of the same name replaces the first, as another account."""
        return self.issued.add_user(name)

    def register(self, client: Client, public_key: str = "") -> None:
        """Register a client, or replace it. With a public key (PEM) it proves itself by JWT."""
        self.issued.clients[client.client_id] = client
        if public_key:
            self.endpoints.proving.client_keys[client.client_id] = public_key

    def trust(self, account: ServiceAccount) -> None:
        """Let a service account have tokens of its domains' users."""
        self.endpoints.proving.service_accounts[account.email] = account

    def revoke(self, user: str, error: str = "invalid_grant", subtype: str = "") -> None:
        """End all sign-ins of a user so far. Redemptions are refused with this word, and with `error_subtype`."""
        refusal = OAuthRefusal(error, "scripted", error_subtype=subtype) if subtype else denied(error)
        with self.endpoints.changed:
            for each in self.issued.sign_ins:
                if each.user.name.lower() == user.lower():
                    self.issued.end(each, refusal)

    def issue(self, user: str, scopes: Iterable[str] = (), life: float | None = None) -> str:
        """Return an access token without a sign-in; a negative life gives one that has expired."""
        scopes = tuple(scopes) or (self.habits.mail,)
        sign_in = self.issued.begin(self.issued.user(user), self.issued.clients[PUBLIC_ID], scopes)
        return self.issued.access(sign_in, scopes, self.habits.token_life if life is None else life)

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what RFC 7662 asks for, as Dovecot reads it: `active`, `email`, `scope`, `exp`."""
        with self.endpoints.changed:
            access = self.issued.valid(token)
        if access is None:
            return {"active": False}
        name = access.sign_in.user.name
        others = list(access.sign_in.user.mailboxes)
        scope = " ".join(access.scopes)
        return {
            "active": True,
            "email": name,
            "username": name,
            "scope": scope,
            "exp": access.expires,
            "mailboxes": others,
        }
