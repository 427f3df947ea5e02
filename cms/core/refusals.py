"""What Entra's refusals mean for a grant: one line that says what happened, and one with the next command.

The table is `cms_oauth.diagnosis.entra`'s, which says more than one line where there is room for it. Nothing of what
the provider wrote in prose is repeated: messages are in our own words, with the number to look up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms.core.accounts import Grant, registration_of
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms_oauth import moves
from cms_oauth.diagnosis.entra import AGAIN, NO_IDENTITY, WAIT_OR_AGAIN, origin_of, row_of, row_of_application

# What may be quoted of an answer: identifiers, never prose. Longer ones are none of Entra's.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{2,9})")
# How a page shows it: conditional access writes "Error Code: 53003" among the details.
_SHOWN = re.compile(r"AADSTS\s*(\d{2,9})|Error Code:\s*(\d{5,9})\b", re.IGNORECASE)

# Conditional-access challenges are some hundred bytes of JSON; a challenge goes into a URL, which bounds it.
_MAX_CLAIMS = 4096


# The application has not been consented to, or not for all that it asks for.
NO_CONSENT = 65001

# How the application is registered is the reason: its redirect addresses, and the platform that they are of.
REGISTRATION_NUMBERS = frozenset({700084, 9002326, 9002327, 50011, 500113, 900971, 500119})

# Refusals that a refresh token used twice may come as: what the provider says then differs, and it may say nothing.
REUSE_NUMBERS = frozenset({None, 70000, 70008, 700082, 54005})


def explain(answer: Mapping[str, Any], grant: Grant, who: str = "") -> Transient | Refused:
    """Return what an OAuth error answer means for the grant. `who` is the user remembered, if anybody is."""
    number = _number(answer)
    word = _identifier(answer.get("error"))
    suberror = _identifier(answer.get("suberror"))
    row = row_of(number, word, suberror)
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
    return Transient(trouble, row.pause) if row.transient else Refused(trouble)


def of_page(text: str, grant: Grant) -> Trouble | None:
    """Return what a page of the provider's says that a person copies from; None where there is no number in it."""
    found = _SHOWN.search(text)
    if not found:
        return None
    refusal = explain({"error_codes": [int(found[1] or found[2])]}, grant)
    outcome = in_person(refusal, hint("start again: {login}", grant))
    assert isinstance(outcome, Transient | Refused), "what refuses grants nothing"
    return outcome.trouble


def of_application(trouble: Trouble, grant: Grant) -> Trouble:
    """Return what a refusal means where nobody signs in: nobody is told to, and cms looks again by itself."""
    row = NO_IDENTITY if grant.sign_in == "managed-identity" else row_of_application(trouble.aadsts)
    why = evidence(trouble.aadsts, trouble.error, trouble.suberror) if trouble.kind == "refused" else trouble.message
    move = hint(row.hint, grant, again=WAIT_OR_AGAIN, mover=row.mover)
    return replace(trouble, kind="application", message=f"{row.message} ({why})", hint=move)


def of_status(status: int) -> Trouble:
    """Return what an HTTP status means that comes without an OAuth error."""
    row = row_of(None, status=status)
    move = moves.fill(row.hint, {"again": AGAIN}, mover=row.mover)
    return Trouble(row.kind, f"{row.message} (HTTP {status})", move, error=f"HTTP {status}")


def in_person(outcome: Outcome, again: str) -> Outcome:
    """Return what to tell the person who has asked for this very thing: nobody but them tries it again.

    `again` is what they do once they have done what else the hint says. A daemon may be there or not.
    """
    if isinstance(outcome, Granted):
        return outcome
    pause = outcome.retry_after if isinstance(outcome, Transient) else None
    return replace(outcome, trouble=replace(outcome.trouble, hint=moves.in_person(outcome.trouble.hint, again, pause)))


def hint(
    template: str, grant: Grant, who: str = "", *, again: moves.Value = AGAIN, mover: str = "you", **more: str
) -> moves.Move:
    """Fill in what a template names of this grant: commands, its redirect address, its application's credential.

    `who` is the user remembered, for a grant that names nobody; `again` is what comes after something was mended;
    `more` are further texts.
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
    """Return the argument that names what the application proves itself with."""
    names = ("client_secret", "certificate", "client_assertion")
    return next((name for name in names if getattr(grant, name)), "the credential")


def _number(answer: Mapping[str, Any]) -> int | None:
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes and type(codes[0]) is int and codes[0] > 0:
        return codes[0]
    found = _AADSTS.search(str(answer.get("error_description", "")))
    return int(found[1]) if found else None


def _registration(number: int | None, grant: Grant) -> str:
    """Say whose registration is the reason, where it is one."""
    if number not in REGISTRATION_NUMBERS:
        return ""
    known = registration_of(grant.client_id)
    return f", in the registration of the application {known.name if known else grant.client_id}"


def _identifier(value: object) -> str:
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""


def evidence(number: int | None, word: str, suberror: str) -> str:
    """Return what the provider gave as its reason, in its own identifiers: what a person looks up."""
    parts = (f"AADSTS{number}" if number else "", word, suberror)
    return ", ".join(part for part in parts if part) or "no reason given"


def _claims(value: object) -> str:
    """Return a claims challenge exactly as it came, or "" for what is none."""
    if not isinstance(value, str) or len(value) > _MAX_CLAIMS:
        return ""
    try:
        return value if isinstance(json.loads(value), dict) else ""
    except ValueError:
        return ""
