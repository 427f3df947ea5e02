"""What Entra's refusals mean for a grant: one line that says what happened, and one with the next command.

The table is `cms_oauth.diagnosis.entra`'s, which says more than one line where there is room for it. Nothing of what
the provider wrote in prose is repeated: messages are in our own words, with the number to look up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cms.core.accounts import Grant, registration_of
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, Trouble
from cms_oauth.diagnosis.entra import NOTHING_TO_DO as NOTHING_TO_DO  # noqa: PLC0414 - part of what this offers
from cms_oauth.diagnosis.entra import RETRIES as RETRIES  # noqa: PLC0414 - the same
from cms_oauth.diagnosis.entra import THEN_REFRESH, WAIT_OR_REFRESH, origin_of, row_of
from cms_oauth.diagnosis.verdicts import fill_text

# What may be quoted of an answer: identifiers, never prose. Longer ones are none of Entra's.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{2,9})")
# How a page shows it: conditional access writes "Error Code: 53003" among the details.
_SHOWN = re.compile(r"AADSTS\s*(\d{2,9})|Error Code:\s*(\d{5,9})\b", re.IGNORECASE)

# Conditional-access challenges are some hundred bytes of JSON; a challenge goes into a URL, which bounds it.
_MAX_CLAIMS = 4096


# What a hint says cms does by itself; with the first kind nothing helps but time.
_PROMISE = re.compile(
    f"(?P<wait>{NOTHING_TO_DO}(?:, after a pause)?|wait: {RETRIES}(?: until somebody has)?)|{RETRIES}"
)
# The commands to a daemon. Whoever signs in may have none yet, and has no sign-in that could be refreshed.
_REFRESH = "`cms refresh`"
_RELOAD = re.compile(f"`cms reload`(?: and {_REFRESH})?(?P<login>(?P<joint> and|; then) `cms login)?")

_MINUTE = 60.0

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
    # Some rows are made for applications, which are looked at again by themselves; here a person has to say so.
    move = row.hint.replace(WAIT_OR_REFRESH, THEN_REFRESH)
    trouble = Trouble(
        row.kind,
        f"{row.message} ({_evidence(number, word, suberror)}){_registration(number, grant)}",
        hint(move, grant, who),
        number,
        _identifier(answer.get("correlation_id")),
        suberror,
        _claims(answer.get("claims")),
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


def of_status(status: int) -> Trouble:
    """Return what an HTTP status means that comes without an OAuth error."""
    row = row_of(None, status=status)
    return Trouble(row.kind, f"{row.message} (HTTP {status})", row.hint)


def in_person(outcome: Outcome, again: str) -> Outcome:
    """Return what to tell the person who has asked for this very thing: nobody but them tries it again.

    `again` is what they do once they have done what else the hint says. A daemon may be there or not.
    """
    if isinstance(outcome, Granted):
        return outcome
    text = _RELOAD.sub(lambda found: _reloaded(found, again), outcome.trouble.hint).replace(_REFRESH, again)
    if isinstance(outcome, Transient):
        text = _promised(text, again, outcome.retry_after)
    return outcome if text == outcome.trouble.hint else replace(outcome, trouble=replace(outcome.trouble, hint=text))


def _reloaded(found: re.Match[str], again: str) -> str:
    """Return what comes after a change of the configuration."""
    if found["login"]:
        return f"`cms reload`, if cms runs{',' if found['joint'] == ' and' else ''}{found['login']}"
    return f"`cms reload`, if cms runs, and {again}"


def _promised(text: str, again: str, pause: float) -> str:
    """Return the text with what the person does in the place of what cms would; `pause` is in seconds."""
    minutes = math.ceil(pause / _MINUTE)
    wait = f"wait {minutes} minutes" if minutes > 1 else "wait a minute"
    text, promises = _PROMISE.subn(lambda found: f"{wait}, then {again}" if found["wait"] else again, text)
    return text if promises or again in text else f"{text}; {again}"


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
