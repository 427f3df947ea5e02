"""One exchange with a provider: a request to its token endpoint, what the answer means, and who has signed in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, TypeAlias

from cms.core import refusals
from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms.grants import token_answer
from cms.grants.credentials import Secret
from cms.grants.exchange import TokenExchange, UnusableAnswer
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import OK, Endless, Http, HttpReply, fetch, is_fault, object_in
from cms.grants.network.session import HttpSession
from cms.grants.network.trouble import garbage
from cms.grants.oauth2 import jwts
from cms.grants.oauth2.kept import Kept
from cms.grants.oauth2.metadata import Metadata
from cms.grants.oauth2.proof import proof
from cms.grants.providers import ExchangeEnd, nothing_to_keep, recognised, wanted
from cms_oauth.frozen import dataclass
from cms_oauth.providers import OPENID, PROVIDERS, SIGN_INS_OWN, Server
from cms_oauth.text import printable

# The answer with a token, else the outcome.
Result: TypeAlias = dict[str, Any] | Outcome

# In characters: an address has at most 254 (RFC 5321).
_LONGEST_NAME = 320

_ACCEPT = {"Accept": "application/json"}

# Google's word for a token that it does not know any more, for which RFC 7009, 2.2, has a success.
_ENDED = "invalid_token"


@dataclass(frozen=True, slots=True)
class Person:
    """Who has signed in: `subject` is what the provider calls them for good, "" if it does not say; so are the names."""

    subject: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Application:
    """Who asks: a client id, also one that the server gave to an application that registered itself, and its proof."""

    client_id: str
    secret: Secret = field(default="", repr=False)


class Exchange(TokenExchange):
    """One exchange."""

    # The subject that has signed in before, "" for none.
    known = ""

    def __init__(
        self, grant: Grant, session: HttpSession, deadline: Deadline, metadata: Metadata, application: Application
    ) -> None:
        super().__init__(grant, Http(session, "", None, deadline))
        assert grant.server is not None, "the service picks the provider by it"
        self.server: Server = grant.server
        self.metadata = metadata
        self.application = application
        self.session = session

    @property
    def scopes(self) -> tuple[str, ...]:
        """All scopes of a sign-in: those for mail, and those that say who signs in."""
        return tuple(dict.fromkeys((*wanted(self.grant)[1], *self.server.identity)))

    @property
    def lost(self) -> bool:
        """True if something was sent, and no answer of the provider's came back."""
        return self.http.unsure and not self.answered and self.http.status in (0, OK)

    def completed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer with a lifetime: `expires_in` is only recommended (RFC 6749, 5.1)."""
        return {**answer, "expires_in": self.server.lifetime} if answer.get("expires_in") is None else answer

    def granted(self, result: Mapping[str, Any], scopes: Scopes, who: str) -> Granted:
        """Return the token, with the end of the sign-in if the answer has it.

        Where refresh tokens rotate it is not that: each redemption puts it off.
        """
        outcome = super().granted(result, scopes, who)
        left = None if self.server.rotates else token_answer.life(result.get("refresh_token_expires_in"))
        if left is None:
            return outcome
        ends_at = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - self.http.asked) + left
        return replace(outcome, sign_in=replace(outcome.sign_in, ends_at=ends_at))

    def ask(self, form: Mapping[str, str], who: str = "") -> Result:
        """Return the answer of the token endpoint if there is a token in it, else the outcome."""
        if self.server.resource:
            form = {**form, "resource": self.server.resource}
        return self.answer_to(*self.proved(form), who)

    def answer_to(self, form: Mapping[str, str], headers: Mapping[str, str] = {}, who: str = "") -> Result:
        """Return what `ask` returns, for a form that is complete."""
        reply = self.post(self.metadata.token, form, headers)
        if not isinstance(reply, HttpReply):
            return reply
        answer = object_in(reply)
        if "error" in answer:
            return self.refused(answer, who)
        if "access_token" not in answer:
            return self.failure()
        self.usable()
        return self.completed(answer)

    def proved(self, form: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return a form with what the application proves itself with, and the headers for it."""
        fields, headers = proof(
            self.application.client_id, self.application.secret, self.server.client_auth, self.metadata
        )
        return {**form, **fields}, dict(headers)

    def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str] = {}) -> HttpReply | Transient:
        """Send a form. A reply that is returned is no fault of the server's, and no token in it is unusable."""
        self.http.status = 0
        try:
            reply = self.http.post(url, data=form, headers={**_ACCEPT, **headers})
        except UnusableAnswer as unusable:
            return Transient(garbage(self.grant, str(unusable)))
        except OSError as error:
            return Transient(self.http.trouble(error, self.grant))
        except Endless:
            return self.failure()
        return self.failure() if is_fault(reply.status_code) else reply

    def revoke(self, refresh_token: str) -> Transient | Refused | None:
        """Have the server end the sign-in of a refresh token (RFC 7009). Returns None if it has ended."""
        if not self.metadata.revocation:
            return Refused(_no_end(self.grant, "the server offers no way to end a sign-in"))
        form = {"token": refresh_token, "token_type_hint": "refresh_token"}
        reply = self.post(self.metadata.revocation, *self.proved(form))
        if isinstance(reply, Transient):
            return self._perhaps_ended(reply)
        # The text of a success has no meaning (2.2). But a page is not a success: a company's proxy may answer with one.
        if reply.status_code == OK and not reply.text.lstrip().startswith("<"):
            return None
        answer = object_in(reply)
        if answer.get("error") == _ENDED:
            return None
        if "error" not in answer:
            return self._perhaps_ended(self.failure())
        outcome = self.refused(answer)
        if isinstance(outcome, Transient):
            return outcome
        return Refused(_no_end(self.grant, f"the server has not ended the sign-in: {outcome.trouble.message}"))

    def _perhaps_ended(self, failed: Transient) -> Transient:
        """Return a failure, and say so if no answer came to a request that the server may have carried out."""
        if not self.http.unsure or self.http.status:
            return failed
        message = f"{failed.trouble.message}; it may have ended there all the same"
        return replace(failed, trouble=replace(failed.trouble, message=message))

    def signed_in(self, result: Result, nonce: str = "", kept: str = "") -> ExchangeEnd:
        """Return the end of a sign-in, a refusal if it is another person's or cannot be used.

        `nonce` is what the id token must have; `kept` is the refresh token to keep if no new one came.
        """
        if not isinstance(result, dict):
            return ExchangeEnd(result)
        granted = self.granted(result, wanted(self.grant)[0], "")
        person = self._person(result, nonce)
        if not isinstance(person, Person):
            return ExchangeEnd(person)
        if OPENID in self.scopes and person.subject and not person.names:
            return ExchangeEnd(Refused(_nameless(self.grant)))
        who = recognised(self.grant, person.names, person.subject, self.known) if person.names else ""
        if isinstance(who, Trouble):
            return ExchangeEnd(Refused(who))
        if lacks := self._lacks_mail(granted.scopes):
            return ExchangeEnd(Refused(lacks))
        refresh_token = self.successor or kept
        if not refresh_token:
            return ExchangeEnd(Refused(nothing_to_keep(self.grant, _OFFLINE)))
        client_id = self.application.client_id
        registered = client_id if client_id != self.grant.client_id else ""
        stored = Kept(refresh_token, " ".join(granted.scopes), registered)
        note = "" if person.names else _believed(self.grant)
        outcome = replace(granted, sign_in=replace(granted.sign_in, who=who), note=note)
        return ExchangeEnd(outcome, stored.text(), person.subject or who or self.grant.login, who)

    def _lacks_mail(self, scopes: tuple[str, ...]) -> Trouble | None:
        """Return the trouble that a person has granted none of the scopes for mail: they may untick each."""
        needed = {scope for scope in wanted(self.grant)[0] if scope not in SIGN_INS_OWN}
        if not needed or needed & set(scopes):
            return None
        return Trouble(
            "refused",
            "the sign-in does not let cms at the mail: that permission was not given, so nothing was saved",
            refusals.hint("sign in again, and agree to everything that is asked: {login}", self.grant),
        )

    def _person(self, answer: Mapping[str, Any], nonce: str) -> Person | Outcome:
        """Return who has signed in, as the id token says, else the userinfo endpoint; without a name if neither does."""
        claims = jwts.claims_in(answer["id_token"]) if "id_token" in answer else {}
        if claims and (wrong := self._fault_of(claims, nonce)):
            return Transient(garbage(self.grant, wrong))
        names = self._names(claims)
        if not names and self.metadata.userinfo and OPENID in self.scopes:
            told = self._userinfo(str(answer["access_token"]))
            if not isinstance(told, dict):
                return told
            # OpenID Connect Core, 5.3.2: it must be about the same person.
            if claims and told and told.get("sub") != claims.get("sub"):
                return Transient(garbage(self.grant, "its userinfo is about another person than its id token"))
            claims, names = claims or told, self._names(told)
        subject = claims.get("sub")
        known = f"{self.metadata.issuer} {subject}" if isinstance(subject, str) and subject else ""
        return Person(known, names)

    def _fault_of(self, claims: Mapping[str, Any], nonce: str) -> str:
        """Return why an id token is not for this sign-in, as a clause; "" if it is (OpenID Connect Core, 3.1.3.7)."""
        audience = claims.get("aud")
        if self.metadata.issuer and claims.get("iss") not in (self.metadata.issuer, *self.server.aliases):
            return "its id token is of another issuer"
        if self.application.client_id not in (audience if isinstance(audience, list) else [audience]):
            return "its id token is for another application"
        # A redemption gives an id token without one (12.2).
        return "its id token is for another sign-in" if nonce and claims.get("nonce") != nonce else ""

    def _names(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        found = (claims.get(name) for name in self.server.who)
        return tuple(printable(each, _LONGEST_NAME) for each in found if isinstance(each, str) and each)

    def _userinfo(self, token: str) -> dict[str, Any] | Outcome:
        """Return what the userinfo endpoint says, nothing if it refuses to."""
        headers = {**_ACCEPT, "Authorization": f"Bearer {token}"}
        try:
            reply = fetch(self.session, "GET", self.metadata.userinfo, self.http.deadline, headers=headers)
        except OSError as error:
            return Transient(self.http.trouble(error, self.grant))
        except Endless:
            return Transient(garbage(self.grant))
        if is_fault(reply.status_code):
            return Transient(refusals.of_status(reply.status_code))
        return object_in(reply) if reply.status_code == OK else {}


_OFFLINE = (
    "let the application have offline access (refresh tokens) at the provider, then {login}; ask the provider's "
    "administrator if you cannot"
)


def _nameless(grant: Grant) -> Trouble:
    """Return the trouble that a provider which says who has signed in says no name, so that nothing can be compared."""
    claims = " or ".join(grant.server.who if grant.server else ())
    return Trouble(
        "wrong-user",
        f"the provider has not said the name of who signed in ({claims}): nothing was saved",
        refusals.hint(
            "set username_claim= of the account to the claim that has the name (and userinfo_endpoint= for a server without "
            "a discovery document), or have the provider's administrator release it to the application, then {reload, "
            "login}. If there is none, leave openid out of scopes=: then cms takes it that the right user signs in",
            grant,
        ),
    )


def _believed(grant: Grant) -> str:
    """Return the caveat of a sign-in at a provider that does not say who has signed in."""
    return (
        f"{PROVIDERS[grant.provider].title} does not say who has signed in: cms takes it that it was {grant.login}. If it was "
        "another user, the mail server refuses the token: then sign out, and sign in again"
    )


def _no_end(grant: Grant, why: str) -> Trouble:
    move = "end it in the account's security settings at the provider; {logout} deletes it from this machine"
    return Trouble("refused", why, refusals.hint(move, grant))
