"""One exchange with Entra, or with a machine's metadata service, and its outcome. Only this file imports msal.

It works around some of MSAL's behaviour:

- a fresh app for every exchange, so that its throttling layer never replays a failure of up to an hour ago as an answer;
- `force_refresh`, so that a refused refresh token is never hidden behind an ageing access token;
- an answer is judged before MSAL sees it (`cms.grants.exchange`), and a new refresh token is kept whatever else is wrong;
- discovery is ours, once per process, so that making an app needs no network and tells no config error from an outage;
- HTTP is ours (`cms.grants.network.http`): it has a deadline and a bound on size, and remembers status and Retry-After.

Of what MSAL returns, only the access token, its lifetime and who signed in are passed on; the cache goes to the vault.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msal
from msal.exceptions import MsalServiceError

from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants import providers, token_answer
from cms.grants.bugs import unexpected
from cms.grants.credentials import Assertion, Certificate, Secret
from cms.grants.exchange import TokenExchange, UnusableAnswer
from cms.grants.network.http import Endless, Http, is_fault
from cms.grants.network.trouble import garbage
from cms.grants.providers import ExchangeEnd, no_sign_in

# What MSAL raises for a malformed answer. ValueError includes the errors of JSON and Unicode, ArithmeticError an infinite
# lifetime.
_GARBLED = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError)

# How Python words a TypeError of a call whose arguments do not fit the function: no answer of a server causes that, but a
# version of MSAL without this argument does.
_MISCALLED = re.compile(r"unexpected keyword argument|positional argument|keyword-only argument|multiple values for")

# What the vault keeps of MSAL's cache: only the daemon holds access tokens, and the id token is not needed again.
_KEPT = ("RefreshToken", "Account", "AppMetadata")


# Later versions of MSAL make it from the certificate, and by SHA-256.
NEEDS_THUMBPRINT = tuple(map(int, msal.__version__.split(".")[:2])) < (1, 35)

# MSAL has it since 1.33.
_BROKER_ARGUMENT = "enable_broker_on_linux"

# MSAL looks for this library on the disk whenever an app is made, to warn of old versions. cms does without it.
sys.modules["msal_extensions"] = None  # type: ignore[assignment]  # how the import system is told that there is none

# What MSAL returned if it contains a token, else the outcome.
Result: TypeAlias = dict[str, Any] | Outcome


def challenge(claims: str) -> dict[str, str]:
    """Return the argument of MSAL's functions that has a conditional-access challenge, none without one.

    Not every version of MSAL knows it everywhere.
    """
    return {"claims_challenge": claims} if claims else {}


class Exchange(TokenExchange):
    """One exchange by MSAL, and the outcome of its answers."""

    def __init__(self, grant: Grant, http: Http) -> None:
        super().__init__(grant, http)
        self._replies: dict[str, object] = {}

    def ask(self, question: Callable[[], Any], who: str = "") -> Result:
        """Return MSAL's result if it contains a token, else the outcome."""
        # Otherwise MSAL would replay a failure of up to an hour ago: a device flow asks many times with one app.
        self._replies.clear()
        self.http.status = 0
        try:
            result = question()
        except UnusableAnswer as unusable:
            return Transient(garbage(self.grant, str(unusable)))
        except OSError as error:
            return Transient(self.http.trouble(error, self.grant))
        except Endless:
            return self.failure()
        except (MsalServiceError, *_GARBLED) as error:
            # Without an answer, or with arguments that do not fit, it was not the answer that broke MSAL.
            return self.failure() if self.http.status and not _is_miscall(error) else unexpected(error)
        if is_fault(self.http.status):
            return self.failure()
        if result is None and not self.http.status:
            return Refused(no_sign_in(self.grant))
        if not isinstance(result, dict):
            # MSAL returns None for an empty object.
            return self.failure()
        return self._judged(result, who)

    def _judged(self, result: dict[str, Any], who: str) -> Result:
        if "error" in result:
            return self.refused(result, who)
        # MSAL has worked out the lifetime, or Microsoft's broker has answered without HTTP.
        why = token_answer.fault({"expires_in": None, **result})
        if why:
            return Transient(garbage(self.grant, why))
        self.usable()
        return result


def _is_miscall(error: Exception) -> bool:
    return isinstance(error, TypeError) and _MISCALLED.search(str(error)) is not None


def proof(secret: Secret) -> str | dict[str, Any] | None:
    """Return what an application proves itself with, as MSAL takes it."""
    match secret:
        case Assertion():
            return {"client_assertion": lambda: secret.text}
        case Certificate():
            found = {"private_key": secret.private_key, "public_certificate": secret.public}
            return found | {"thumbprint": secret.thumbprint} if NEEDS_THUMBPRINT else found
    return secret or None


class _Cache(msal.SerializableTokenCache):  # type: ignore[misc]  # MSAL has no types
    """MSAL's cache of one exchange."""

    def parts(self, *names: str) -> dict[str, dict[str, Any]]:
        """Return these parts of the cache, where it has them. `serialize` would write them all, and indent them."""
        return {name: self._cache[name] for name in names if name in self._cache}


class Call(Exchange):
    """One exchange with Entra: a fresh MSAL app with a new cache and a new HTTP client.

    With `broker`, Microsoft's broker on this desktop is asked for tokens. Raises ImportError without its library. `secret`
    is what the application proves itself with, "" for a public client. `known` is the home account that has signed
    in before, "" for none.
    """

    known = ""

    def __init__(self, grant: Grant, secret: Secret, cache: str, http: Http, *, broker: bool = False) -> None:
        super().__init__(grant, http)
        self._cache = _Cache()
        self._cache.deserialize(cache or None)
        kind = msal.ConfidentialClientApplication if secret else msal.PublicClientApplication
        if broker and _BROKER_ARGUMENT not in inspect.signature(kind).parameters:
            raise ImportError("this MSAL is too old for Microsoft's broker on Linux")
        self.app = kind(
            grant.client_id,
            client_credential=proof(secret),
            authority=grant.authority,
            instance_discovery=False,
            token_cache=self._cache,
            http_client=http,
            http_cache=self._replies,
            app_name="cms",
            **({_BROKER_ARGUMENT: True} if broker else {}),
        )

    @property
    def has_broker(self) -> bool:
        """True if Microsoft's broker is used. MSAL silently goes on without a broker that does not start."""
        return bool(self.app._enable_broker)  # noqa: SLF001 - there is no other way to know

    def counts_from(self, moment: float) -> None:
        """Set from when a token's life counts, on the boot clock: Microsoft's broker is not asked over HTTP."""
        self.http.asked = moment

    def account(self, home_account_id: str) -> dict[str, Any]:
        """Return what MSAL knows of an account."""
        known = (each for each in self.app.get_accounts() if each["home_account_id"] == home_account_id)
        return next(known, {"home_account_id": home_account_id})

    def kept(self) -> str:
        """Return the part of the cache that the vault stores.

        A successor is in it even if MSAL has not seen it, or failed at something else in the answer.
        """
        refresh_tokens = self._cache.search(self._cache.CredentialType.REFRESH_TOKEN)
        for each in [each for each in refresh_tokens if self.successor and each["secret"] == self.redeemed]:
            self._cache.update_rt(each, self.successor)
        return json.dumps(self._cache.parts(*_KEPT), sort_keys=True)

    def keep_unrotated(self, refresh_token: str) -> None:
        """Keep an imported refresh token if no successor came: it stays valid then."""
        cache = self._cache.parts("RefreshToken", "Account")
        accounts = [] if cache.get("RefreshToken") else list(cache.get("Account", {}).values())
        for account in accounts:
            uid, _, utid = account["home_account_id"].partition(".")
            info = json.dumps({"uid": uid, "utid": utid}).encode()
            response = {"refresh_token": refresh_token, "client_info": base64.urlsafe_b64encode(info).decode()}
            event = {"client_id": self.grant.client_id, "environment": account["environment"], "response": response}
            self._cache.add({**event, "skip_account_creation": True})

    def signed_in(self, result: Result, scopes: Scopes) -> ExchangeEnd:
        """Return the result of a sign-in, a refusal if another user signed in than the grant names."""
        if not isinstance(result, dict):
            return ExchangeEnd(result)
        # Microsoft's broker does not hand out refresh tokens.
        kind = "Account" if self.has_broker else "RefreshToken"
        known = list(json.loads(self.kept()).get(kind, {}).values())
        home = str(known[0].get("home_account_id") or "") if known else ""
        who = recognised(self.grant, result, home, self.known)
        if isinstance(who, Trouble):
            return ExchangeEnd(Refused(who))
        if not home:
            why = "add offline_access to the permissions of the app registration, then {login}"
            return ExchangeEnd(Refused(providers.nothing_to_keep(self.grant, why)))
        return ExchangeEnd(self.granted(result, scopes, who), self.kept(), home, who)


def recognised(grant: Grant, result: Mapping[str, Any], home: str, known: str) -> str | Trouble:
    """Return the name of the user who signed in, or the trouble if it is not the user whom the grant names.

    `home` is the home account that has signed in, `known` that of the sign-in before, "" for none.
    """
    claims = result.get("id_token_claims") or {}
    names = [str(claims[name]) for name in ("preferred_username", "upn") if claims.get(name)]
    return providers.recognised(grant, names, home, known)
