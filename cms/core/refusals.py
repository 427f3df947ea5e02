"""Turns the error answers of providers into a message that says what happened and a hint with the next command.

The tables of errors are `cms_oauth.diagnosis.entra` and `oauth2`, which have longer explanations too. Messages are in cms's
own words and give the number or word to look up; the provider's text is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cms.core.accounts import Grant, registration_of
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms_oauth import moves
from cms_oauth.diagnosis import entra, oauth2
from cms_oauth.diagnosis.entra import AGAIN, NO_IDENTITY, WAIT_OR_AGAIN, origin_of, row_of, row_of_application
from cms_oauth.json_object import read_object
from cms_oauth.providers import DYNAMIC

T = TypeVar("T", bound=Outcome)

# The only text of an answer that is quoted: identifiers. Entra's are not longer than this.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{2,9})")
# How a web page shows the number: conditional access writes "Error Code: 53003" among the details.
_SHOWN = re.compile(r"AADSTS\s*(\d{2,9})|Error Code:\s*(\d{5,9})\b", re.IGNORECASE)

# Conditional-access challenges are a few hundred bytes of JSON. A challenge becomes part of a URL, so it cannot be long.
_MAX_CLAIMS = 4096

# The word of the other providers, if nothing refines it.
_REUSE = "invalid_grant"


def explain(answer: Mapping[str, Any], grant: Grant, who: str = "") -> Transient | Refused:
    """Return what an OAuth error answer means for the grant. `who` is the user who has signed in, "" if not known."""
    number = None if grant.server else _number(answer)
    word = _identifier(answer.get("error"))
    # Google has another name for Entra's suberror.
    suberror = _identifier(answer.get("suberror")) or _identifier(answer.get("error_subtype"))
    ours = grant.client_id == DYNAMIC
    row = (
        oauth2.row_of(grant.provider, word, suberror, registered=ours)
        if grant.server
        else row_of(number, word, suberror)
    )
    trouble = Trouble(
        row.kind,
        f"{row.message} ({evidence(number, word, suberror)}){_registration(number, grant)}",
        hint(row.hint, grant, who, mover=row.mover),
        number,
        _identifier(answer.get("correlation_id")),
        suberror,
        _claims(answer.get("claims")),
        error=word,
    )
    return Transient(trouble, row.pause) if row.transient else Refused(trouble, by_connection=row.by_connection)


def may_be_of_reuse(trouble: Trouble, grant: Grant) -> bool:
    """True if the provider may say this of a refresh token that was used twice."""
    if grant.server:
        return trouble.error == _REUSE and not trouble.suberror
    return trouble.aadsts in entra.REUSED


def ends_the_sign_in(refused: Refused, grant: Grant) -> bool:
    """True if the provider has refused the refresh token itself, and will refuse it to every host and for all scopes."""
    trouble = refused.trouble
    dead = trouble.aadsts is None if grant.server else trouble.aadsts in entra.DEAD
    return dead and trouble.error == _REUSE and trouble.suberror != "consent_required" and not trouble.claims


def of_page(text: str, grant: Grant) -> Trouble | None:
    """Return what an error page of Entra means, from text that a person copied; None if there is no number in it."""
    found = _SHOWN.search(text)
    if not found:
        return None
    refusal = explain({"error_codes": [int(found[1] or found[2])]}, grant)
    return in_person(refusal, hint("start again: {login}", grant)).trouble


def of_application(trouble: Trouble, grant: Grant) -> Trouble:
    """Return what a refusal means for an application: the hint asks no person to sign in, and cms tries again."""
    if grant.server:
        row = oauth2.row_of_application(grant.provider, trouble.error, trouble.suberror)
    else:
        row = NO_IDENTITY if grant.sign_in == "managed-identity" else row_of_application(trouble.aadsts)
    why = evidence(trouble.aadsts, trouble.error, trouble.suberror) if trouble.kind == "refused" else trouble.message
    move = hint(row.hint, grant, again=WAIT_OR_AGAIN, mover=row.mover)
    return replace(trouble, kind="application", message=f"{row.message} ({why})", hint=move)


def of_status(status: int) -> Trouble:
    """Return what an HTTP status without an OAuth error means."""
    row = row_of(None, status=status)
    move = moves.fill(row.hint, {"again": AGAIN}, mover=row.mover)
    return Trouble(row.kind, f"{row.message} (HTTP {status})", move, error=f"HTTP {status}")


def in_person(outcome: T, again: str) -> T:
    """Return an outcome with a hint for the person who asked for this: cms does not try it again, they do.

    `again` is how they try again, after the other steps of the hint. There may be no daemon.
    """
    if isinstance(outcome, Granted):
        return outcome
    pause = outcome.retry_after if isinstance(outcome, Transient) else None
    return replace(outcome, trouble=replace(outcome.trouble, hint=moves.in_person(outcome.trouble.hint, again, pause)))


def hint(
    template: str, grant: Grant, who: str = "", *, again: moves.Value = AGAIN, mover: str = "you", **more: str
) -> moves.Move:
    """Fill in a template for this grant: commands, its redirect address, its application's credential.

    `who` is the user who has signed in, for a grant whose login is not configured. `again` is the step after the cause
    was fixed. `more` are further values.
    """
    user = grant.login or who
    values: dict[str, moves.Value] = {
        "login": moves.cms("login", user),
        "logout": moves.cms("logout", user),
        "consent": moves.cms("admin-consent-url", user),
        "again": again,
        "redirect": grant.redirect_uri,
        "origin": origin_of(grant.redirect_uri),
        "credential": _proof(grant),
    }
    return moves.fill(template, values | more, mover=mover)


def _proof(grant: Grant) -> str:
    """Return the argument of the account that has the application's credential."""
    if grant.server and grant.unattended:
        return "service_account"
    names = ("client_secret", "certificate", "client_assertion")
    return next((name for name in names if getattr(grant, name)), "the credential")


def _number(answer: Mapping[str, Any]) -> int | None:
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes and type(codes[0]) is int and codes[0] > 0:
        return codes[0]
    found = _AADSTS.search(str(answer.get("error_description", "")))
    return int(found[1]) if found else None


def _registration(number: int | None, grant: Grant) -> str:
    """Return which application's registration causes this error, "" if the registration is not the cause."""
    if number not in entra.REGISTRATION:
        return ""
    known = registration_of(grant.client_id)
    return f", in the registration of the application {known.name if known else grant.client_id}"


def _identifier(value: object) -> str:
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""


def evidence(number: int | None, word: str, suberror: str) -> str:
    """Return the provider's own identifiers for its reason, for a person to look up."""
    parts = (f"AADSTS{number}" if number else "", word, suberror)
    return ", ".join(part for part in parts if part) or "no reason given"


def _claims(value: object) -> str:
    """Return a claims challenge exactly as it came, "" if the value is not one."""
    if not isinstance(value, str) or len(value) > _MAX_CLAIMS:
        return ""
    try:
        read_object(value)
    except ValueError:
        return ""
    return value
