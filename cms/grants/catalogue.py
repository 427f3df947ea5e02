"""What Entra's refusals mean for a grant: one line that says what happened, and one with the next command.

The table is `cms_oauth.diagnosis_entra`'s, which says more than one line where there is room for it. Nothing of what
the provider wrote in prose is repeated: messages are in our own words, with the number to look up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms.accounts import Grant, registration_of
from cms.lifecycle import Outcome, Refused, Transient, Trouble
from cms_oauth.diagnosis_entra import NOTHING_TO_DO as NOTHING_TO_DO  # noqa: PLC0414 - part of what this offers
from cms_oauth.diagnosis_entra import RETRIES as RETRIES  # noqa: PLC0414 - the same
from cms_oauth.diagnosis_entra import origin_of, row_of
from cms_oauth.verdicts import fill_text

# What may be quoted of an answer: identifiers, never prose. Longer ones are none of Entra's.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{2,9})")

# Conditional-access challenges are some hundred bytes of JSON; a challenge goes into a URL, which bounds it.
_MAX_CLAIMS = 4096


_REFRESH = "`cms refresh`"

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
        f"{row.message} ({_evidence(number, word, suberror)}){_registration(number, grant)}",
        hint(row.hint, grant, who),
        number,
        _identifier(answer.get("correlation_id")),
        suberror,
        _claims(answer.get("claims")),
    )
    return Transient(trouble, row.pause) if row.transient else Refused(trouble)


def of_status(status: int) -> Trouble:
    """Return what an HTTP status means that comes without an OAuth error."""
    row = row_of(None, status=status)
    return Trouble(row.kind, f"{row.message} (HTTP {status})", row.hint)


def in_person(outcome: Outcome, again: str) -> Outcome:
    """Return what to tell the person who has asked for this very thing: nobody but them tries it again.

    `again` is what they do once they have done what else the hint says: `cms refresh` has nothing to refresh with yet.
    """
    if isinstance(outcome, Refused) and _REFRESH in outcome.trouble.hint:
        trouble = replace(outcome.trouble, hint=outcome.trouble.hint.replace(_REFRESH, again))
        return replace(outcome, trouble=trouble)
    if not isinstance(outcome, Transient):
        return outcome
    text = outcome.trouble.hint
    known = next((each for each in (NOTHING_TO_DO, RETRIES) if each in text), None)
    text = text.replace(known, again) if known else f"{text}; {again}"
    return replace(outcome, trouble=replace(outcome.trouble, hint=text))


def hint(text: str, grant: Grant, who: str = "") -> str:
    """Fill in the commands for this grant, its redirect address and the argument with its application's secret."""
    commands = {"login": command("login", grant, who), "consent": command("admin-consent-url", grant, who)}
    address = {"redirect": grant.redirect_uri, "origin": origin_of(grant.redirect_uri)}
    return fill_text(text, {**commands, **address, "credential": _proof(grant)})


def _proof(grant: Grant) -> str:
    """Return the argument that names what the application proves itself with."""
    names = ("client_secret", "certificate", "client_assertion")
    return next((name for name in names if getattr(grant, name)), "the credential")


def command(name: str, grant: Grant, who: str = "") -> str:
    """Return a command for this grant's account, as a person types it."""
    return f"`cms {name} {grant.login or who}`".replace(" `", "`")


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


def _evidence(number: int | None, word: str, suberror: str) -> str:
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
