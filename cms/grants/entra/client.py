"""Entra, by way of MSAL: the only file that imports msal. Plain synchronous code.

MSAL is used so that none of its habits shows:

- a fresh app for every call, so that its throttling layer never replays a failure of up to an hour ago as an answer;
- `force_refresh`, so that a refused refresh token is never hidden behind an ageing access token;
- discovery is ours, once per process, so that making an app needs no network and tells no config error from an outage;
- HTTP is ours (`cms.grants.network.http`): it has a deadline and a bound on size, and remembers status and Retry-After.

Nothing that MSAL returns leaves but the access token, its lifetime, and who signed in; the cache goes to the vault.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msal
from msal.exceptions import MsalServiceError

from cms.core import refusals
from cms.core.accounts import ALL_CONSENTED, Grant, Proxy, Scopes, resource
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.grants.entra import flows, ms_broker
from cms.grants.entra.flows import Answer, Flow, wanted
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import (
    Discovery,
    Http,
    Metadata,
    NoAnswer,
    authorities,
    garbage,
    is_fault,
    network_trouble,
    new_session,
)
from cms.grants.network.proxy import ProxyRoute

# A token that claims a longer life than a year does so by mistake.
MAX_LIFE = 366 * 24 * 60 * 60.0

# What MSAL raises for an answer that is none, wherever in it that shows. ValueError includes JSON's and Unicode's,
# ArithmeticError a lifetime that is infinite.
_GARBLED = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)

# What MSAL's cache says of an account that a broker has signed in (msal.application._GRANT_TYPE_BROKER).
_BROKER = "broker"

# What the vault keeps of MSAL's cache: access tokens live in the broker only, and nobody needs the id token again.
_KEPT = ("RefreshToken", "Account", "AppMetadata")


# What an application proves itself with, as MSAL takes it: "" for nothing, a secret, or a dictionary.
Secret: TypeAlias = str | Mapping[str, Any]

# Whom to name when a managed identity's question gets no answer. What MSAL really asks depends on its environment.
METADATA = "http://azure-metadata"


def note(text: str) -> None:
    """Tell the log something, through stderr. `text` holds no secret."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def silence() -> None:
    """Keep the libraries quiet: MSAL logs answers that are not JSON, urllib3 logs URLs."""
    for name in ("msal", "urllib3", "requests"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
    # form_post would put the answer of a paste flow where nobody can copy it from, and makes browsers warn of a form
    # that leaves https. PKCE makes the code useless to whoever reads the address.
    warnings.filterwarnings("ignore", message="response_mode='form_post' is recommended", category=UserWarning)
    # Its clock is the wall's, which may have been set back; ours paces the polling.
    warnings.filterwarnings("ignore", message="Attempted too soon", category=UserWarning)


class Entra:
    """Everything that goes to the identity provider. One per process, shared by its threads."""

    def __init__(self, ca: str | None = None, proxy: Proxy | None = None) -> None:
        silence()
        self._ca = authorities(ca, os.environ)
        self._way = ProxyRoute(proxy) if proxy else None
        self._session = new_session(self._way)
        self._discovery = Discovery(self._session, self._ca)
        self._noted: set[tuple[str, Scopes]] = set()

    def rest(self) -> None:
        """Close idle connections, which firewalls forget, and read discovery anew when there is work again."""
        self._discovery = Discovery(self._session, self._ca)
        for adapter in self._session.adapters.values():
            adapter.close()
        if self._way:
            self._way.forget()

    def redeem(
        self, grant: Grant, scopes: Scopes, cache: str, home_account_id: str, *, who: str = "", secret: Secret = ""
    ) -> Answer:
        """Redeem the refresh token in MSAL's `cache` for an access token with these scopes.

        Where consent is missing for some of them, as after a protocol was added, the token is for those that were
        consented to before: the other protocols go on.
        """
        answer = self._redeem(grant, scopes, cache, home_account_id, who=who, secret=secret)
        lesser = _consented(scopes, cache) if _lacks_consent(answer.outcome) else ()
        if not lesser:
            return answer
        missing = ", ".join(scope for scope in scopes if scope not in lesser)
        note(f"nobody has consented to {missing} yet: the token is without until `cms login {grant.login}`")
        return self._redeem(grant, lesser, cache, home_account_id, who=who, secret=secret)

    def _redeem(
        self, grant: Grant, scopes: Scopes, cache: str, home_account_id: str, *, who: str, secret: Secret
    ) -> Answer:
        broker = is_brokered(cache)
        call = self._call(grant, secret, cache, broker=broker)
        if not isinstance(call, Call):
            return Answer(call)
        account = {"home_account_id": home_account_id, "environment": urlsplit(grant.authority).hostname}
        if broker:
            result = ms_broker.silently(call, scopes, call.account(home_account_id), who)
        else:
            result = call.ask(
                lambda: call.app.acquire_token_silent_with_error(list(scopes), account, force_refresh=True), who
            )
        if not isinstance(result, dict):
            return Answer(result, unsure=call.http.unsure)
        self._compare(grant, scopes, result)
        return Answer(call.granted(result, scopes, who), call.kept(), home_account_id, who)

    def adopt(self, grant: Grant, refresh_token: str, secret: Secret = "", known: str = "") -> Answer:
        """Redeem a refresh token that another program got for the same application."""
        call = self._call(grant, secret)
        if not isinstance(call, Call):
            return Answer(call)
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
        """Ask for a token for the application itself: there is nothing to redeem, and nothing to keep."""
        call = self._call(grant, secret)
        if not isinstance(call, Call):
            return call
        result = call.ask(lambda: call.app.acquire_token_for_client(list(scopes)))
        return call.granted(result, scopes, "") if isinstance(result, dict) else result

    def mint_by_machine(self, grant: Grant, scopes: Scopes) -> Outcome:
        """Ask the machine that cms runs on for a token of its managed identity."""
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

    def _call(self, grant: Grant, secret: Secret, cache: str = "", *, broker: bool = False) -> Call | Outcome:
        """Return a fresh MSAL app over the cache, and one budget for all that is asked, or why there is none now."""
        budget = Deadline()
        document = self._discovery.document(grant, budget)
        if not isinstance(document, str):
            return document
        http = Http(self._session, self._ca, document, grant.origin, budget)
        try:
            call = Call(grant, secret, cache, http, broker=broker)
        except ImportError:
            return ms_broker.NO_LIBRARY
        return call if call.has_broker or not broker else ms_broker.NOT_RUNNING

    def _compare(self, grant: Grant, scopes: Scopes, result: Mapping[str, Any]) -> None:
        """Warn once where the server grants other scopes than were asked for: MSAL and we think of it by those."""
        echoed = set(str(result.get("scope", "")).lower().split())
        missing = [each for each in scopes if each.lower() not in echoed and not each.endswith("/.default")]
        if echoed and missing and (grant.key, scopes) not in self._noted:
            self._noted.add((grant.key, scopes))
            note(f"{grant.login or grant.key}: asked for {' '.join(missing)}, but the provider granted other scopes")


def _no_key_file(error: OSError) -> Trouble:
    """Say what Azure Arc wants: who may read a file of its group's may ask (Microsoft: "Azure Arc managed identity")."""
    return Trouble(
        "locked",
        f"Azure Arc's key file cannot be read: {error.strerror}",
        f"let cms's user into the group himds, and start cms again; {refusals.RETRIES}",
    )


_SERVICE_FABRIC = Trouble(
    "application",
    "cms does not know the managed identities of Azure Service Fabric",
    'give an application of your own to the account: sign_in="app"',
)


class Exchange:
    """One exchange with a provider, and what its end means."""

    def __init__(self, grant: Grant, http: Http) -> None:
        self.grant = grant
        self.http = http
        self._replies: dict[str, object] = {}

    def renew(self) -> None:
        """Begin another exchange: time has passed, for a person."""
        self.http.budget = Deadline()

    def ask(self, question: Callable[[], Any], who: str = "") -> dict[str, Any] | Outcome:
        """Return MSAL's result that holds a token, or the outcome of what happened instead."""
        # MSAL would replay a failure of up to an hour ago: a device flow asks many times with one app.
        self._replies.clear()
        try:
            result = question()
        except OSError as error:
            return Transient(network_trouble(error, self.grant))
        except (MsalServiceError, *_GARBLED):
            return self._failure()
        if is_fault(self.http.status):
            return self._failure()
        if result is None and not self.http.status:
            return Refused(no_sign_in(self.grant))
        if not isinstance(result, dict):
            # MSAL takes an empty object for no answer at all.
            return self._failure()
        return self._judged(result, who)

    def _judged(self, result: dict[str, Any], who: str) -> dict[str, Any] | Outcome:
        if "error" in result:
            self.http.unsure = False
            outcome = refusals.explain(result, self.grant, who)
            pause = self.http.retry_after
            return (
                Transient(outcome.trouble, max(outcome.retry_after, pause))
                if isinstance(outcome, Transient)
                else outcome
            )
        if not isinstance(result.get("access_token"), str) or _seconds(result.get("expires_in")) is None:
            return Transient(garbage(self.grant))
        return result

    def _failure(self) -> Transient:
        trouble = refusals.of_status(self.http.status) if is_fault(self.http.status) else garbage(self.grant)
        return Transient(trouble, self.http.retry_after)

    def granted(self, result: Mapping[str, Any], scopes: Scopes, who: str) -> Granted:
        """Return the token, with its life counted from the moment at which the answer arrived."""
        life = _seconds(result["expires_in"]) or 0.0
        return Granted(result["access_token"], self.http.answered, life, _granted_scopes(result, scopes), who=who)


class Machine(Exchange):
    """A question to the machine that cms runs on: its managed identity needs no app, and nothing is kept."""

    def __init__(self, grant: Grant) -> None:
        super().__init__(replace(grant, authority=METADATA), Metadata())
        identity = (
            msal.UserAssignedManagedIdentity(client_id=grant.client_id)
            if grant.client_id
            else msal.SystemAssignedManagedIdentity()
        )
        self._client = msal.ManagedIdentityClient(identity, http_client=self.http, http_cache=self._replies)

    def token(self, scopes: Scopes) -> dict[str, Any] | Outcome:
        """Return a token for the resource that the scopes name. Raises OSError where a key file cannot be read."""
        files: list[OSError] = []

        def question() -> Any:
            try:
                return self._client.acquire_token_for_client(resource=resource(scopes))
            except NoAnswer:
                raise
            except OSError as error:
                files.append(error)
                raise

        result = self.ask(question)
        if files:
            raise files[0]
        return result


class Call(Exchange):
    """One exchange with Entra: a fresh MSAL app with a cache and an HTTP client of its own.

    With `broker`, it is the broker on this desktop that is asked for tokens. Raises ImportError without its library.
    `secret` is what the application proves itself with, as MSAL takes it; "" for a public client. `known` is the home
    account that has signed in before, "" for none.
    """

    known = ""

    def __init__(self, grant: Grant, secret: Secret, cache: str, http: Http, *, broker: bool = False) -> None:
        super().__init__(grant, http)
        self._cache = msal.SerializableTokenCache()
        self._cache.deserialize(cache or None)
        kind = msal.ConfidentialClientApplication if secret else msal.PublicClientApplication
        self.app = kind(
            grant.client_id,
            client_credential=secret or None,
            authority=grant.authority,
            instance_discovery=False,
            token_cache=self._cache,
            http_client=http,
            http_cache=self._replies,
            app_name="cms",
            **({"enable_broker_on_linux": True} if broker else {}),
        )

    @property
    def has_broker(self) -> bool:
        """Whether the broker is asked: MSAL goes on without one that does not start, and tells nobody."""
        return bool(self.app._enable_broker)  # noqa: SLF001 - there is no other way to know

    def arrived(self, moment: float) -> None:
        """Count a token's life from this boot-clock moment: a broker's answer comes by another way than HTTP."""
        self.http.answered = moment

    def account(self, home_account_id: str) -> dict[str, Any]:
        """Return what MSAL knows of an account."""
        known = (each for each in self.app.get_accounts() if each["home_account_id"] == home_account_id)
        return next(known, {"home_account_id": home_account_id})

    def kept(self) -> str:
        """Return the cache as the vault is to keep it."""
        cache = json.loads(self._cache.serialize())
        return json.dumps({name: cache[name] for name in _KEPT if name in cache}, sort_keys=True)

    def keep_unrotated(self, refresh_token: str) -> None:
        """Keep a refresh token from elsewhere where no successor came: it stays valid then."""
        cache = json.loads(self._cache.serialize())
        accounts = [] if cache.get("RefreshToken") else list(cache.get("Account", {}).values())
        for account in accounts:
            uid, _, utid = account["home_account_id"].partition(".")
            info = json.dumps({"uid": uid, "utid": utid}).encode()
            response = {"refresh_token": refresh_token, "client_info": base64.urlsafe_b64encode(info).decode()}
            event = {"client_id": self.grant.client_id, "environment": account["environment"], "response": response}
            self._cache.add({**event, "skip_account_creation": True})

    def signed_in(self, result: dict[str, Any] | Outcome, scopes: Scopes) -> Answer:
        """Return the end of a sign-in: only the person whom the grant names may have signed in."""
        if not isinstance(result, dict):
            return Answer(result)
        # The broker keeps refresh tokens to itself.
        kind = "Account" if self.has_broker else "RefreshToken"
        known = list(json.loads(self.kept()).get(kind, {}).values())
        home = str(known[0].get("home_account_id") or "") if known else ""
        who = recognised(self.grant, result, home, self.known)
        if isinstance(who, Trouble):
            return Answer(Refused(who))
        if not home:
            return Answer(Refused(_nothing_to_keep(self.grant)))
        return Answer(self.granted(result, scopes, who), self.kept(), home, who)


def _granted_scopes(result: Mapping[str, Any], asked: Scopes) -> Scopes:
    """Return what the provider says that its token is for: what was asked for where it says nothing of that.

    It may grant less (RFC 6749, 5.1). What a sign-in has of its own opens nothing; `.default` is all there is to grant.
    """
    told = result.get("scope")
    named = tuple(each for each in str(told or "").split() if each.lower() not in _SIGN_INS_OWN)
    whole = {each.lower() for each in asked} <= {each.lower() for each in named}
    return asked if whole or not named or any(each.endswith(f"/{ALL_CONSENTED}") for each in asked) else named


# Scopes that ask for no permission at a resource (OpenID Connect Core, 5.4 and 11).
_SIGN_INS_OWN = frozenset(("openid", "profile", "email", "address", "phone", "offline_access"))


def recognised(grant: Grant, result: Mapping[str, Any], home: str, known: str) -> str | Trouble:
    """Return the name of who has signed in, or why it is not whom the grant names.

    `home` is the account that has signed in, `known` the one of the sign-in before, "" for none. Its name may have
    been changed since then. A name can be given to somebody else too, which is for the vault's keeper to notice.
    """
    claims = result.get("id_token_claims") or {}
    names = [str(claims[name]) for name in ("preferred_username", "upn") if claims.get(name)]
    login, who = grant.login.casefold(), next(iter(names), "")
    right = next((name for name in names if name.casefold() == login), "")
    if right or not login:
        return right or who
    if not known or home != known:
        return _wrong_user(grant, who)
    note(
        f"{grant.login} is called {who} now, and is the account that has signed in before: put the new name into the configuration"
    )
    return who


def _seconds(value: object) -> float | None:
    """Return a lifetime that can be one: some providers send it as text."""
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number raises, which is the question
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds <= MAX_LIFE else None


def no_sign_in(grant: Grant) -> Trouble:
    """Say that the vault holds nothing for this grant."""
    message = f"{grant.login} has not signed in yet" if grant.login else "nobody has signed in yet"
    return Trouble("no-sign-in", message, refusals.hint("sign in: {login}", grant))


def _wrong_user(grant: Grant, who: str) -> Trouble:
    return Trouble(
        "wrong-user",
        f"{who or 'somebody without a name'} signed in, but {grant.login} was to: nothing was stored",
        refusals.hint(
            "sign in as the right user, in a private window for instance: {login}; if it was the right one, sign_in_as= of "
            "the account has to be that name (or user=, where that signs in), then `cms reload` and {login}",
            grant,
        ),
    )


def _nothing_to_keep(grant: Grant) -> Trouble:
    return Trouble(
        "refused",
        "the provider gave no refresh token, so nobody would stay signed in",
        refusals.hint("let the application's registration ask for offline_access, then {login}", grant),
    )


def _lacks_consent(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.trouble.aadsts == refusals.NO_CONSENT


def _consented(scopes: Scopes, cache: str) -> Scopes:
    """Return those of `scopes` that the last token was for, if that is some but not all of them."""
    tokens = json.loads(cache).get("RefreshToken", {}).values()
    known = {scope for token in tokens for scope in token.get("target", "").split()}
    lesser = tuple(scope for scope in scopes if scope in known)
    return lesser if len(lesser) < len(scopes) else ()


def is_brokered(cache: str) -> bool:
    """Whether it is the broker that has signed in: then it has the refresh token, too."""
    accounts = json.loads(cache).get("Account", {}).values() if cache else ()
    return any(each.get("account_source") == _BROKER for each in accounts)
