"""What the service asks of a provider of tokens, as protocols, and what every provider does alike.

Microsoft Entra is one provider (`cms.grants.entra`), all others are another (`cms.grants.oauth2`). A provider knows neither
the vault nor another provider.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from cms.core import refusals
from cms.core.accounts import ALL_CONSENTED, Grant, Scopes
from cms.core.lifecycle import Outcome, Refused, Transient, Trouble
from cms.grants.credentials import Secret
from cms_oauth.frozen import dataclass
from cms_oauth.providers import SIGN_INS_OWN


@dataclass(frozen=True, slots=True)
class ExchangeEnd:
    """The result of one exchange with a provider.

    `cache` is what the vault must store, "" if nothing is new: it may have a successor although there is no access token.
    `subject` is what the provider calls this person for good, whatever their name is: only the provider reads it.
    `unsure` is True if a refresh token may have been redeemed although no successor arrived.
    """

    outcome: Outcome
    cache: str = field(default="", repr=False)
    subject: str = ""
    who: str = ""
    unsure: bool = False


class _Flow(Protocol):
    """A sign-in under way, as the person sees it: where to go, what to enter there, and how many seconds they have.

    `complete_url` is where nothing has to be entered, "" for none.
    """

    @property
    def url(self) -> str: ...
    @property
    def user_code(self) -> str: ...
    @property
    def complete_url(self) -> str: ...
    @property
    def expires_in(self) -> float: ...
    @property
    def redirect_uri(self) -> str: ...
    @property
    def state(self) -> str: ...


@runtime_checkable
class CodeFlow(_Flow, Protocol):
    """A sign-in by authorization code."""

    def finish(self, fields: Mapping[str, str]) -> ExchangeEnd:
        """Redeem the code: `fields` are what the browser brought to the redirect address."""


@runtime_checkable
class DeviceFlow(_Flow, Protocol):
    """A sign-in on another device."""

    @property
    def interval(self) -> float:
        """Seconds to wait before the next poll."""

    def poll(self) -> ExchangeEnd | None:
        """Ask once. Returns None if the person has not finished, or the provider could not be reached."""


@runtime_checkable
class WindowFlow(_Flow, Protocol):
    """A sign-in in the window of a program on this machine."""

    def answered(self, wait: Callable[[float], object]) -> ExchangeEnd:
        """Open the window and wait for the person. `wait` waits some seconds, and raises if the sign-in is cancelled."""


Flow: TypeAlias = CodeFlow | DeviceFlow | WindowFlow


class TokenProvider(Protocol):
    """A provider of tokens. There is one of each kind per process, shared by its threads.

    `secret` is what the grant's application proves itself with. `cache` is the provider's own text in the vault.
    """

    def begin(
        self, grant: Grant, method: str, claims: str = "", secret: Secret = "", known: str = ""
    ) -> Flow | Outcome:
        """Begin a sign-in for all scope sets of the grant: `method` is one of `cms.core.accounts.METHODS`.

        `claims` is a challenge of an earlier refusal. `known` is the subject of the sign-in that this one replaces.
        """

    def redeem(
        self, grant: Grant, scopes: Scopes, cache: str, subject: str, *, who: str = "", secret: Secret = ""
    ) -> ExchangeEnd:
        """Redeem the refresh token in `cache` for an access token with these scopes."""

    def adopt(self, grant: Grant, refresh_token: str, secret: Secret = "", known: str = "") -> ExchangeEnd:
        """Redeem a refresh token that another program got for the same application."""

    def mint(self, grant: Grant, scopes: Scopes, secret: Secret) -> Outcome:
        """Get a token for an application or a machine. There is no refresh token to redeem or to store."""

    def revoke(self, grant: Grant, cache: str, secret: Secret = "") -> Transient | Refused | None:
        """End the sign-in in `cache` at the provider. Returns None if it has ended there, now or before."""

    def exportable(self, cache: str) -> bool:
        """True if another machine can use this sign-in."""

    def rest(self) -> None:
        """Close idle connections, which firewalls drop silently, and forget discovery documents."""


class Microsoft(TokenProvider, Protocol):
    """Microsoft Entra, which `cms init` asks about a domain's tenant as well."""

    def discovered(self, authority: str) -> Mapping[str, Any] | Trouble:
        """Return an authority's discovery document, or why there is none."""


class Providers:
    """The providers, each made when it is first needed: what it imports takes time and memory."""

    def __init__(self, entra: Callable[[], Microsoft], oauth2: Callable[[], TokenProvider]) -> None:
        self._make_entra = entra
        self._make_oauth2 = oauth2
        self._entra: Microsoft | None = None
        self._oauth2: TokenProvider | None = None
        self._lock = threading.Lock()

    @property
    def entra(self) -> Microsoft:
        """Microsoft Entra."""
        with self._lock:
            self._entra = self._entra or self._make_entra()
            return self._entra

    @property
    def oauth2(self) -> TokenProvider:
        """Every other provider."""
        with self._lock:
            self._oauth2 = self._oauth2 or self._make_oauth2()
            return self._oauth2

    def of(self, grant: Grant) -> TokenProvider:
        """Return the provider of a grant's tokens."""
        return self.oauth2 if grant.server else self.entra

    def rest(self) -> None:
        """Close idle connections, which firewalls drop silently, and forget discovery documents."""
        for each in (self._entra, self._oauth2):
            if each:
                each.rest()


def note(text: str) -> None:
    """Log a warning, through stderr. `text` must not contain a secret."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def wanted(grant: Grant) -> tuple[Scopes, Scopes]:
    """Return the scopes of a sign-in's token, and all scopes for which it asks consent."""
    first = grant.scope_sets[0] if grant.scope_sets else ()
    return first, tuple(dict.fromkeys(scope for scopes in grant.scope_sets for scope in scopes))


def granted_scopes(told: object, asked: Scopes) -> Scopes:
    """Return the scopes that the provider granted, or the requested ones if it does not say. `told` is its answer's.

    It may grant fewer (RFC 6749, 5.1). The scopes of the sign-in itself give no permission; `.default` is always complete.
    """
    named = tuple(each for each in str(told or "").split() if each.lower() not in SIGN_INS_OWN)
    whole = {each.lower() for each in asked} <= {each.lower() for each in named}
    return asked if whole or not named or any(each.endswith(f"/{ALL_CONSENTED}") for each in asked) else named


def recognised(grant: Grant, names: Sequence[str], subject: str, known: str) -> str | Trouble:
    """Return the name of the user who signed in, or the trouble if it is not the user whom the grant names.

    `names` are all names that the provider gave for the user. `subject` is the account that has signed in, `known` that of
    the sign-in before, "" for none: the same account may have a new name. The opposite, a name given to another account,
    is noticed by the service with the vault's entry.
    """
    login, who = grant.login.casefold(), next(iter(names), "")
    right = next((name for name in names if name.casefold() == login), "")
    if right or not login:
        return right or who
    if not known or subject != known:
        return _wrong_user(grant, who)
    note(f"{grant.login} is now called {who}: put the new name into the configuration")
    return who


def _wrong_user(grant: Grant, who: str) -> Trouble:
    return Trouble(
        "wrong-user",
        f"signed in as {who or 'a user without a name'}, but this account is {grant.login}: nothing was saved",
        refusals.hint(
            "sign in as the right user, for example in a private window: {login}; if it was the right one, sign_in_as= of "
            "the account has to be that name (or user=, where that signs in), then {reload, login}",
            grant,
        ),
    )


def no_sign_in(grant: Grant) -> Trouble:
    """Return the trouble that the vault has nothing for this grant."""
    message = f"{grant.login} has not signed in yet" if grant.login else "the account has not signed in yet"
    return Trouble("no-sign-in", message, refusals.hint("sign in: {login}", grant))


def nothing_to_keep(grant: Grant, why: str) -> Trouble:
    """Return the trouble that a sign-in gave no refresh token. `why` is the template of what to do about it."""
    message = "the provider gave no refresh token, so the account would not stay signed in"
    return Trouble("refused", message, refusals.hint(why, grant))
