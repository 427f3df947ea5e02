"""One exchange with a token endpoint, whichever provider's: what its answers are worth, and what came for a refresh token.

A new refresh token is kept whatever else is wrong with the answer that brings it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms.core import refusals
from cms.core.accounts import Grant, Scopes
from cms.core.lifecycle import Granted, Refused, SignInFacts, Transient, Trouble
from cms.grants import token_answer
from cms.grants.network.deadline import Deadline
from cms.grants.network.http import OK, Http, HttpReply, is_fault, sent_at
from cms.grants.network.trouble import garbage
from cms.grants.providers import granted_scopes, note

# The longest time for a sign-in, about as long as providers' own codes live.
SIGN_IN_SECONDS = 600.0

# Entra's codes for another device have nine characters.
LONGEST_CODE = 64

# The grant type of a redemption (RFC 6749, 6), and the field of the token.
_REDEMPTION = "refresh_token"


class UnusableAnswer(Exception):
    """The provider has answered with tokens that cannot be used. The text says why, and quotes nothing."""


class TokenExchange:
    """One exchange with a provider.

    `answered` is True if the provider has answered with tokens, usable or not: what was redeemed for them is used up.
    `redeemed` is the refresh token that was redeemed, and `successor` the one that came for it; "" for none.
    """

    def __init__(self, grant: Grant, http: Http) -> None:
        self.grant = grant
        self.http = http
        self.answered = False
        self.redeemed = self.successor = ""
        # Whether what came for it cannot be one.
        self.spoilt = False
        http.judge = self.judge

    def renew(self) -> None:
        """Start a new deadline, after a person took their time."""
        self.http.deadline = Deadline()

    def completed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer with what a provider leaves out of it, and what that then is."""
        return answer

    def judge(self, form: Mapping[str, str], reply: HttpReply) -> HttpReply:
        """Return a reply. Raises UnusableAnswer if it gives tokens, but no access token that can be used.

        A refresh token that cannot be one is left out: the one before it may still be good.
        """
        answer = {} if is_fault(reply.status_code) else token_answer.read(reply.text)
        if not answer:
            return reply
        self.answered, self.redeemed = True, form.get(_REDEMPTION, "")
        given = answer.get(_REDEMPTION)
        self.successor = given if token_answer.is_refresh_token(given) else ""
        self.spoilt = not self.successor and given is not None
        self.http.unsure = not self.successor
        if not self.successor:
            answer.pop(_REDEMPTION, None)
        if self.spoilt:
            note(f"{self.grant.login or self.grant.key}: the provider gave a refresh token that cannot be one")
        fault, status = token_answer.fault(self.completed(answer), sent_at(reply)), reply.status_code
        why = fault if status == OK else f"it came with HTTP {status}"
        if self.spoilt and form.get("grant_type") != _REDEMPTION:
            why = why or "its refresh token cannot be one"
        if why:
            raise UnusableAnswer(why)
        return reply if self.successor else replace(reply, text=json.dumps(answer))

    def usable(self) -> None:
        """Note that the answer's access token can be used: then only a spoilt refresh token leaves something unknown."""
        self.http.unsure = self.spoilt

    def refused(self, answer: Mapping[str, Any], who: str = "") -> Transient | Refused:
        """Return what an answer with an error means. After it, it is known how the request ended."""
        self.http.unsure = False
        outcome = refusals.explain(answer, self.grant, who)
        if isinstance(outcome, Refused):
            return outcome
        return Transient(outcome.trouble, max(outcome.retry_after, self.http.retry_after))

    def failure(self) -> Transient:
        """Return what an answer means that is no provider's, or that it sends when it fails."""
        trouble = refusals.of_status(self.http.status) if is_fault(self.http.status) else garbage(self.grant)
        return Transient(trouble, self.http.retry_after)

    def granted(self, result: Mapping[str, Any], scopes: Scopes, who: str) -> Granted:
        """Return the token, its lifetime counted from when it was asked for.

        The machine may have been suspended for hours while the answer lay in its own buffers.
        """
        return Granted(
            result["access_token"],
            self.http.asked,
            token_answer.life(result["expires_in"]) or 0.0,
            granted_scopes(result.get("scope"), scopes),
            sign_in=SignInFacts(who=who),
        )


def foreign(grant: Grant) -> Trouble:
    """Return the trouble that what came to the redirect address is not of this sign-in."""
    return Trouble(
        "refused",
        "the address that came back belongs to another sign-in",
        refusals.hint("start again, and use the newest link only: {login}", grant),
    )


def is_code(text: object) -> bool:
    """True for what a person can read and type: they enter it where they sign in."""
    return isinstance(text, str) and text.isascii() and text.isprintable() and len(text) <= LONGEST_CODE
