"""`OAuth2`: all that the worker asks of a provider that is not Microsoft: redeem, sign in, request a mailbox's token.

Each question is one exchange (`cms.grants.oauth2.exchange`) with one deadline.
"""

from __future__ import annotations

import os
from dataclasses import replace

from cms.core import refusals
from cms.core.accounts import Grant, Proxy, Scopes
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.grants.credentials import Secret
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import Discovery
from cms.grants.network.proxy import Routes
from cms.grants.network.session import HttpSession
from cms.grants.oauth2 import flows, jwts, metadata
from cms.grants.oauth2.exchange import Application, Exchange
from cms.grants.oauth2.kept import Kept
from cms.grants.oauth2.metadata import Metadata
from cms.grants.oauth2.registration import register
from cms.grants.providers import ExchangeEnd, Flow
from cms_oauth import tls
from cms_oauth.json_object import read_object
from cms_oauth.providers import DYNAMIC

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class OAuth2:
    """The client of all providers that are not Microsoft. There is one per process, shared by its threads."""

    def __init__(self, ca: str | None = None, proxy: Proxy | None = None) -> None:
        self._routes = Routes(proxy, os.environ)
        self._session = HttpSession(self._routes, lambda: tls.authorities(ca, os.environ))
        self._discovery = Discovery(self._session, metadata.places)

    def rest(self) -> None:
        """Close idle connections, which firewalls drop silently, and forget discovery documents."""
        self._discovery = Discovery(self._session, metadata.places)
        self._session.close()
        self._routes.forget_password()

    def begin(
        self,
        grant: Grant,
        method: str,
        claims: str = "",  # noqa: ARG002 - challenges are Microsoft's
        secret: Secret = "",
        known: str = "",
    ) -> Flow | Outcome:
        """Begin a sign-in: `method` is "browser", "paste" or "device"."""
        exchange = self._exchange(grant, secret)
        if not isinstance(exchange, Exchange):
            return exchange
        exchange.known = known
        if grant.client_id == DYNAMIC:
            client_id = register(exchange)
            if not isinstance(client_id, str):
                return client_id
            exchange.application = Application(client_id)
        return flows.begin(exchange, method)

    def redeem(
        self, grant: Grant, scopes: Scopes, cache: str, subject: str, *, who: str = "", secret: Secret = ""
    ) -> ExchangeEnd:
        """Redeem the refresh token in `cache`. A lost answer is asked for once more at once.

        Where a refresh token works once, some servers give the answer again for seconds; after a minute none does. No scope
        is sent: without one the token has all that was granted (RFC 6749, 6).
        """
        kept = Kept.read(cache)
        exchange = self._exchange(grant, secret, kept.client_id)
        if not isinstance(exchange, Exchange):
            return ExchangeEnd(exchange)
        form = {"grant_type": "refresh_token", "refresh_token": kept.refresh_token}
        result = exchange.ask(form, who)
        lost = exchange.lost
        if lost:
            result = exchange.ask(form, who)
        unsure = exchange.http.unsure or (lost and not exchange.answered)
        renewed = replace(kept, refresh_token=exchange.successor or kept.refresh_token).text()
        if not isinstance(result, dict):
            return ExchangeEnd(result, renewed if exchange.answered else "", unsure=unsure)
        outcome = exchange.granted({"scope": kept.scope, **result}, scopes, who)
        return ExchangeEnd(outcome, renewed, subject, who, unsure=unsure)

    def adopt(self, grant: Grant, refresh_token: str, secret: Secret = "", known: str = "") -> ExchangeEnd:
        """Redeem a refresh token that another program got for the same application."""
        exchange = self._exchange(grant, secret)
        if not isinstance(exchange, Exchange):
            return ExchangeEnd(exchange)
        exchange.known = known
        result = exchange.ask({"grant_type": "refresh_token", "refresh_token": refresh_token})
        return exchange.signed_in(result, kept=refresh_token)

    def mint(self, grant: Grant, scopes: Scopes, secret: Secret) -> Outcome:
        """Get a mailbox's token for a service account (RFC 7523). No person signs in, so there is no refresh token."""
        exchange = self._exchange(grant, "")
        if not isinstance(exchange, Exchange):
            return exchange
        try:
            account = jwts.service_account(secret if isinstance(secret, str) else "")
            assertion = jwts.for_mailbox(account, grant.login, scopes, exchange.metadata.token)
        except jwts.NotAnAccount as wrong:
            return Refused(_no_account(grant, str(wrong)))
        result = exchange.answer_to({"grant_type": _JWT_BEARER, "assertion": assertion})
        return exchange.granted(result, scopes, "") if isinstance(result, dict) else result

    def revoke(self, grant: Grant, cache: str, secret: Secret = "") -> Transient | Refused | None:
        """End the sign-in in `cache` at the provider (RFC 7009)."""
        kept = Kept.read(cache)
        exchange = self._exchange(grant, secret, kept.client_id, revoking=True)
        if not isinstance(exchange, Exchange):
            assert not isinstance(exchange, Granted), "a server's document grants nothing"
            return exchange
        return exchange.revoke(kept.refresh_token)

    def exportable(self, cache: str) -> bool:  # noqa: ARG002 - the service asks every provider this
        """Return True: a refresh token works on any machine."""
        return True

    def _exchange(
        self, grant: Grant, secret: Secret, client_id: str = "", *, revoking: bool = False
    ) -> Exchange | Outcome:
        """Return a new exchange with one deadline, or why there cannot be one now."""
        deadline = Deadline()
        known = self._metadata(grant, deadline, revoking=revoking)
        if not isinstance(known, Metadata):
            return known
        return Exchange(grant, self._session, deadline, known, Application(client_id or grant.client_id, secret))

    def _metadata(self, grant: Grant, deadline: Deadline, *, revoking: bool) -> Metadata | Outcome:
        server = grant.server
        assert server is not None, "the service picks the provider by it"
        if metadata.is_complete(server, revoking=revoking):
            return metadata.metadata(server, {})
        found = self._discovery.document(grant, deadline)
        if not isinstance(found, str):
            return found
        document = read_object(found)
        if named := metadata.foreign(server, document):
            return Transient(_another_issuer(grant, named))
        return metadata.metadata(server, document)


def _another_issuer(grant: Grant, named: str) -> Trouble:
    return Trouble(
        "garbage",
        f"the server at {grant.authority} says that it is {named}",
        refusals.hint("if that is the right one, set issuer= of the account to exactly that, then {reload}", grant),
    )


def _no_account(grant: Grant, why: str) -> Trouble:
    return Trouble(
        "application",
        f"the file of the service account {why}",
        refusals.hint("make a new key for it, in JSON, and set service_account= of the account to that file", grant),
    )
