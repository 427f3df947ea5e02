"""A provider of tokens and its simulated server, the same for each: what a person and the service do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cms.core.accounts import Grant
from cms.core.lifecycle import Granted, Outcome
from cms.grants.credentials import Secret
from cms.grants.entra.client import Entra as Microsoft
from cms.grants.oauth2.client import OAuth2
from cms.grants.providers import CodeFlow, DeviceFlow, ExchangeEnd, Flow, TokenProvider
from cms.sandbox.entra import Entra
from cms.sandbox.habits import CLIENT_ID, CLIENT_SECRET, GOOGLE_MAIL, MAIL, OFFLINE_ACCESS, PUBLIC_ID, google, strict
from cms.sandbox.host import Host
from cms.sandbox.issuer import Issuer
from cms_oauth.providers import GOOGLE, OWN, Server
from support.grants import ANN, BEN, SCOPES, grant_for

REDIRECT = "http://127.0.0.1:1/oauth2"
# A second scope for mail, as where each protocol has one of its own.
MORE = "mail:more"


@dataclass
class World:
    """A provider, its server, and a grant there. `rotates`: a redeemed refresh token works no more."""

    server: Host
    client: TokenProvider
    grant: Grant
    revoke: Callable[[str], None]
    withhold: Callable[[str, str], None]
    anew: Callable[[str], object]
    secret: Secret = ""
    rotates: bool = False
    names: tuple[str, str] = field(default=(ANN, BEN))

    @property
    def scopes(self) -> tuple[str, ...]:
        return self.grant.scope_sets[0]

    def begin(self, method: str = "browser", known: str = "") -> Flow | Outcome:
        return self.client.begin(self.grant, method, secret=self.secret, known=known)

    def sign_in(self, user: str = ANN, known: str = "", **fields: str) -> ExchangeEnd:
        """Sign in as a person does; `fields` change what the browser brings."""
        flow = code_flow(self.begin(known=known))
        page = self.server.sign_in(flow.url, user, follow=False)
        return flow.finish({**page.fields, **fields})

    def end(self, end: ExchangeEnd) -> Outcome | None:
        """Have the provider end a sign-in; return why it has not, None if it has."""
        return self.client.revoke(self.grant, end.cache, self.secret)

    def redeem(self, end: ExchangeEnd) -> ExchangeEnd:
        return self.client.redeem(self.grant, self.scopes, end.cache, end.subject, who=end.who, secret=self.secret)


def code_flow(flow: Flow | Outcome) -> CodeFlow:
    assert isinstance(flow, CodeFlow), flow
    return flow


def device_flow(flow: Flow | Outcome) -> DeviceFlow:
    assert isinstance(flow, DeviceFlow), flow
    return flow


def token(end: ExchangeEnd) -> str:
    assert isinstance(end.outcome, Granted), end.outcome
    return end.outcome.secret


def trouble(end: ExchangeEnd | Outcome) -> str:
    """Return the kind of trouble that an outcome tells of."""
    outcome = end.outcome if isinstance(end, ExchangeEnd) else end
    assert not isinstance(outcome, Granted), outcome
    return outcome.trouble.kind


@contextmanager
def entra_world() -> Iterator[World]:
    """Microsoft, whose used refresh tokens stay valid."""
    with Entra([ANN, BEN]) as server:
        users = server.directory
        yield World(
            server,
            Microsoft(server.ca_file),
            grant_for(server),
            server.revoke,
            lambda user, scope: users.user(user).withheld.add(scope),
            lambda user: users.add_user(user, anew=True),
        )


@contextmanager
def strict_entra_world() -> Iterator[World]:
    """Microsoft, as some say that it may do any day: a refresh token works once."""
    with entra_world() as world:
        assert isinstance(world.server, Entra)
        world.server.refuse_reuse = True
        yield replace(world, rotates=True)


def issuer_world(server: Issuer, grant: Grant, secret: Secret = "", **more: Any) -> World:
    """Return a world with a simulated provider that is not Microsoft."""
    return World(
        server,
        OAuth2(server.ca_file),
        grant,
        server.revoke,
        lambda user, scope: server.issued.user(user).withheld.add(scope),
        server.add_user,
        secret,
        **more,
    )


def google_grant(server: Issuer, **more: Any) -> Grant:
    """Return a grant as a GMail_Account's, at the simulated Google; `more` are other fields of it."""
    described = Server(
        server.issuer,
        identity=("openid", "email"),
        who=("email",),
        client_auth="post",
        parameters=(("access_type", "offline"), ("prompt", "consent")),
    )
    grant = Grant(server.issuer, CLIENT_ID, ANN, ((GOOGLE_MAIL,),))
    return replace(grant, redirect_uri=REDIRECT, provider=GOOGLE, server=described, **more)


def strict_grant(server: Issuer, client_id: str = PUBLIC_ID, **described: Any) -> Grant:
    """Return a grant as an OAuth2_Account's, at the strict provider; `described` changes what is known of its server."""
    own = Server(server.issuer, identity=("openid", "email", OFFLINE_ACCESS), rotates=True)
    own = replace(own, **described)
    return Grant(server.issuer, client_id, ANN, ((MAIL,),), redirect_uri=REDIRECT, provider=OWN, server=own)


@contextmanager
def google_world() -> Iterator[World]:
    """A provider that behaves as Google does: no rotation."""
    with Issuer(google(), [ANN, BEN]) as server:
        yield issuer_world(server, google_grant(server), CLIENT_SECRET)


@contextmanager
def strict_world() -> Iterator[World]:
    """A provider at which a second use of a refresh token ends the sign-in."""
    with Issuer(strict(), [ANN, BEN]) as server:
        # It says none, so that the client waits for five seconds, and the tests for none.
        server.habits.device_interval = 0
        yield issuer_world(server, strict_grant(server), rotates=True)


WORLDS = {
    "entra": entra_world,
    "entra-strict": strict_entra_world,
    "google": google_world,
    "strict": strict_world,
}


def with_two_scopes(world: World) -> World:
    """Return a world whose grant asks for two scopes for mail."""
    if isinstance(world.server, Issuer):
        world.server.habits.scopes += (MORE,)
        return replace(world, grant=replace(world.grant, scope_sets=((*world.scopes, MORE),)))
    assert len(SCOPES) > 1
    return world
