"""`Entra`: all that the worker asks of the identity provider: redeem, sign in, request an application's token, discover.

Each question is one exchange (`cms.grants.entra.exchange`) with one deadline.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from cms.core import refusals
from cms.core.accounts import Grant, Proxy, Scopes
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants.credentials import Secret
from cms.grants.entra import flows, ms_broker
from cms.grants.entra.exchange import Call
from cms.grants.entra.machine import Machine
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import Discovery, Http
from cms.grants.network.proxy import Routes
from cms.grants.network.session import HttpSession
from cms.grants.providers import ExchangeEnd, Flow, note, wanted
from cms_oauth import tls
from cms_oauth.diagnosis.entra import NO_CONSENT
from cms_oauth.moves import fill

# How MSAL's cache marks an account that Microsoft's broker signed in (msal.application._GRANT_TYPE_BROKER).
_BROKER = "broker"


def places(authority: str) -> tuple[str, ...]:
    """Return where an authority's discovery document is."""
    return (f"{authority}/v2.0/.well-known/openid-configuration",)


def silence() -> None:
    """Silence the libraries' logs: MSAL logs answers that are not JSON, urllib3 logs URLs."""
    for name in ("msal", "urllib3", "requests"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    # With form_post a person could not copy the answer of a paste flow, and browsers warn of a form that leaves https.
    # PKCE makes the code in the address useless to others.
    warnings.filterwarnings("ignore", message="response_mode='form_post' is recommended", category=UserWarning)
    # MSAL measures with the wall clock, which may have been set back; cms itself paces the polling.
    warnings.filterwarnings("ignore", message="Attempted too soon", category=UserWarning)


class Entra:
    """The client of the identity provider. There is one per process, shared by its threads."""

    def __init__(self, ca: str | None = None, proxy: Proxy | None = None) -> None:
        silence()
        self._routes = Routes(proxy, os.environ)
        self._session = HttpSession(self._routes, lambda: tls.authorities(ca, os.environ))
        self._discovery = Discovery(self._session, places)
        self._noted: set[tuple[str, Scopes]] = set()

    def rest(self) -> None:
        """Close idle connections, which firewalls drop silently, and forget discovery documents."""
        self._discovery = Discovery(self._session, places)
        self._session.close()
        self._routes.forget_password()

    def redeem(
        self, grant: Grant, scopes: Scopes, cache: str, subject: str, *, who: str = "", secret: Secret = ""
    ) -> ExchangeEnd:
        """Redeem the refresh token in MSAL's `cache` for an access token with these scopes.

        If consent is missing for some of them, as after a protocol was added, the token is for those consented to
        before, so that the other protocols go on working.
        """
        answer = self._redeem(grant, scopes, cache, subject, who=who, secret=secret)
        lesser = _consented(scopes, cache) if _lacks_consent(answer.outcome) else ()
        if not lesser:
            return answer
        missing = ", ".join(scope for scope in scopes if scope not in lesser)
        note(
            refusals.hint("there is no consent to {missing} yet: tokens lack it until {login}", grant, missing=missing)
        )
        return self._redeem(grant, lesser, cache, subject, who=who, secret=secret)

    def _redeem(
        self, grant: Grant, scopes: Scopes, cache: str, home_account_id: str, *, who: str, secret: Secret
    ) -> ExchangeEnd:
        broker = _is_kept_by_ms_broker(cache)
        call = self._call(grant, secret, cache, broker=broker)
        if not isinstance(call, Call):
            return ExchangeEnd(call)
        account = {"home_account_id": home_account_id, "environment": urlsplit(grant.authority).hostname}
        if broker:
            result = ms_broker.silently(call, scopes, call.account(home_account_id), who)
        else:
            result = call.ask(
                lambda: call.app.acquire_token_silent_with_error(list(scopes), account, force_refresh=True), who
            )
        if not isinstance(result, dict):
            return ExchangeEnd(result, call.kept() if call.answered else "", unsure=call.http.unsure)
        self._compare(grant, scopes, result)
        end = call.granted(result, scopes, who)
        return ExchangeEnd(end, call.kept(), home_account_id, who, unsure=call.http.unsure)

    def adopt(self, grant: Grant, refresh_token: str, secret: Secret = "", known: str = "") -> ExchangeEnd:
        """Redeem a refresh token that another program got for the same application."""
        call = self._call(grant, secret)
        if not isinstance(call, Call):
            return ExchangeEnd(call)
        call.known = known
        scopes, _ = wanted(grant)
        result = call.ask(lambda: call.app.acquire_token_by_refresh_token(refresh_token, list(scopes)))
        if isinstance(result, dict):
            call.keep_unrotated(refresh_token)
        return call.signed_in(result, scopes)

    def discovered(self, authority: str) -> Mapping[str, Any] | Trouble:
        """Return an authority's discovery document, or why there is none."""
        found = self._discovery.document(Grant(authority, "", ""), Deadline())
        return dict(json.loads(found)) if isinstance(found, str) else found.trouble

    def mint(self, grant: Grant, scopes: Scopes, secret: Secret) -> Outcome:
        """Get a token for the application itself, or for the machine that cms runs on."""
        if grant.sign_in == "managed-identity":
            return self._machine_token(grant, scopes)
        call = self._call(grant, secret)
        if not isinstance(call, Call):
            return call
        result = call.ask(lambda: call.app.acquire_token_for_client(list(scopes)))
        return call.granted(result, scopes, "") if isinstance(result, dict) else result

    def _machine_token(self, grant: Grant, scopes: Scopes) -> Outcome:
        """Get a token from the managed identity of the machine."""
        if "IDENTITY_SERVER_THUMBPRINT" in os.environ:
            return Refused(_SERVICE_FABRIC)
        machine = Machine(grant)
        try:
            result = machine.token(scopes)
        except OSError as error:
            return Transient(_no_key_file(error))
        return machine.granted(result, scopes, "") if isinstance(result, dict) else result

    def begin(
        self, grant: Grant, method: str, claims: str = "", secret: Secret = "", known: str = ""
    ) -> Flow | Outcome:
        """Begin a sign-in for all scope sets of the grant: `method` is "browser", "device", "paste" or "broker".

        `known` is the home account of the sign-in that this one replaces, "" for none.
        """
        dark = ms_broker.no_display(os.environ) if method == "broker" else None
        call = dark or self._call(grant, secret, broker=method == "broker")
        if not isinstance(call, Call):
            return call
        call.known = known
        if method == "device" and secret:
            return Refused(
                Trouble("refused", "an application with a client secret cannot use the device flow", "use --browser")
            )
        return flows.begin(call, method, claims)

    def revoke(self, grant: Grant, cache: str, secret: Secret = "") -> Transient | Refused | None:  # noqa: ARG002 - the service asks every provider this
        """Refuse: no endpoint of Microsoft's ends the sign-in of one refresh token."""
        move = "end all sign-ins of the user at Microsoft; {logout} deletes this one from this machine"
        said = "Microsoft lets no program end a sign-in by its token"
        return Refused(Trouble("refused", said, refusals.hint(move, grant)))

    def exportable(self, cache: str) -> bool:
        """True unless Microsoft's broker keeps the refresh token."""
        return not _is_kept_by_ms_broker(cache)

    def _call(self, grant: Grant, secret: Secret, cache: str = "", *, broker: bool = False) -> Call | Outcome:
        """Return a new exchange with this cache and one deadline, or why there cannot be one now."""
        deadline = Deadline()
        document = self._discovery.document(grant, deadline)
        if not isinstance(document, str):
            return document
        http = Http(self._session, document, grant.origin, deadline)
        try:
            call = Call(grant, secret, cache, http, broker=broker)
        except ImportError:
            return ms_broker.NO_LIBRARY
        return call if call.has_broker or not broker else ms_broker.NOT_RUNNING

    def _compare(self, grant: Grant, scopes: Scopes, result: Mapping[str, Any]) -> None:
        """Warn once if the server grants other scopes than requested: MSAL and cms store the token under those."""
        echoed = set(str(result.get("scope", "")).lower().split())
        missing = [each for each in scopes if each.lower() not in echoed and not each.endswith("/.default")]
        if echoed and missing and (grant.key, scopes) not in self._noted:
            self._noted.add((grant.key, scopes))
            note(f"{grant.login or grant.key}: asked for {' '.join(missing)}, but the provider granted other scopes")


def _no_key_file(error: OSError) -> Trouble:
    """Return the trouble that Azure Arc's key file cannot be read: only its group may (Microsoft: "Azure Arc managed identity")."""
    return Trouble(
        "locked",
        f"Azure Arc's key file cannot be read: {error.strerror}",
        fill("add cms's user to the group himds and restart cms; {retries}"),
    )


_SERVICE_FABRIC = Trouble(
    "application",
    "cms does not support the managed identities of Azure Service Fabric",
    'use your own application for the account: sign_in="app"',
)


def _lacks_consent(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.trouble.aadsts == NO_CONSENT


def _consented(scopes: Scopes, cache: str) -> Scopes:
    """Return those of `scopes` that the last token was for, if that is some but not all of them."""
    tokens = json.loads(cache).get("RefreshToken", {}).values()
    known = {scope for token in tokens for scope in token.get("target", "").split()}
    lesser = tuple(scope for scope in scopes if scope in known)
    return lesser if len(lesser) < len(scopes) else ()


def _is_kept_by_ms_broker(cache: str) -> bool:
    """Return True if Microsoft's broker signed in, so that it keeps the refresh token too."""
    accounts = json.loads(cache).get("Account", {}).values() if cache else ()
    return any(each.get("account_source") == _BROKER for each in accounts)
