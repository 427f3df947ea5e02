"""What Entra's refusals mean, whose move they are, and what to do: tables, without I/O.

Microsoft says to branch on `error` and `suberror`, and that the AADSTS numbers may change; but only the numbers tell
a person what to do. So the number's row decides where there is one, then the suberror's, then the error word's.
Nothing of what the provider wrote in prose is repeated: messages are in our own words, with the number to look up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cms.accounts import Grant
from cms.lifecycle import Outcome, Refused, Transient, Trouble

# Entra answers a loop of identical requests, a locked-out user or a throttled tenant for some ten minutes and more.
LONG_PAUSE = 15 * 60.0

# What may be quoted of an answer: identifiers, never prose. Longer ones are none of Entra's.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_AADSTS = re.compile(r"AADSTS(\d{2,9})")

# Conditional-access challenges are some hundred bytes of JSON; a challenge goes into a URL, which bounds it.
_MAX_CLAIMS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One meaning: `transient` refusals are tried again, after `pause` seconds at least; the others await a person."""

    message: str
    hint: str
    transient: bool = False
    pause: float = 0.0
    kind: str = "refused"


_SIGN_IN = "sign in again: {login}"
# What cms does on its own account. A person who has asked for something is told what to do instead: see `in_person`.
RETRIES = "cms tries again by itself"
NOTHING_TO_DO = f"nothing to do: {RETRIES}"
# What is mended elsewhere shows by nothing here: a person has to say that it was.
_THEN = "then `cms refresh`"
_RELOAD = "then `cms reload`"
_ASK_ADMIN = f"ask the administrator of your organisation, {_THEN}"
_BUG = "this looks like a bug in cms or its configuration: report it with the correlation id; {login} starts anew"
_CHECK_ACCOUNT = "check user, tenant and sign_in_as of the account in the configuration, then `cms reload` and {login}"
_BROWSER = "sign in again in a browser: {login} --browser"


def _sign_in(message: str, hint: str = _SIGN_IN, kind: str = "refused") -> Row:
    return Row(message, hint, kind=kind)


def _retry(message: str, hint: str = NOTHING_TO_DO, pause: float = 0.0, kind: str = "server") -> Row:
    return Row(message, hint, transient=True, pause=pause, kind=kind)


_BY_NUMBERS: dict[tuple[int, ...], Row] = {
    (50076, 50074): _sign_in("multi-factor authentication is now required", _BROWSER),
    (50079, 50072): _sign_in("multi-factor authentication has to be set up first", _BROWSER),
    (50078,): _sign_in("the last multi-factor authentication is too old for the organisation's policy", _BROWSER),
    (50158,): _sign_in("an external security check has to be passed", _BROWSER),
    (50173,): _sign_in("the sign-in was revoked: the password was changed, or sessions were ended"),
    (50132, 50133, 50089): _sign_in("the session is no longer valid: the password was changed or has expired"),
    (70008, 700082): _sign_in("the sign-in has expired or was revoked, or had not been used for too long"),
    (70043,): _sign_in(
        "the organisation's sign-in frequency policy has ended the sign-in",
        "sign in again: {login}; it will end again by that policy, unless the administrator exempts the account",
    ),
    (700084,): _sign_in(
        "the sign-in has ended after 24 hours because the application's redirect address is registered as a "
        "single-page application",
        "sign in again: {login}; to end this for good, use a registration of the platform 'Mobile and desktop'",
    ),
    (70000,): _sign_in(
        "the refresh token is no longer valid",
        "sign in again: {login}; a personal account may have to be unlocked at account.microsoft.com first",
    ),
    (50126,): _sign_in("wrong user name or password"),
    (50053,): _retry(
        "the account is locked for a while, or this address is blocked",
        f"wait: {RETRIES}; if it lasts, the administrator finds the reason in the sign-in log",
        LONG_PAUSE,
    ),
    (50055, 50144, 50056): _sign_in("the password has expired", "change the password, then {login}"),
    (50057,): _sign_in("the account is disabled", _ASK_ADMIN),
    (50034, 51004, 50020, 90072, 16000, 50014): _sign_in("the tenant does not know this user", _CHECK_ACCOUNT),
    (500208,): _sign_in("the application or the tenant does not accept this type of account", _CHECK_ACCOUNT),
    (50105,): _sign_in(
        "the user is not assigned to the application", "the administrator has to assign the user, then {login}"
    ),
    (50097, 50155, 50187): _sign_in(
        "the organisation demands an authenticated device",
        "a device flow cannot satisfy this: {login} --browser in a browser that knows the device, or ask the "
        "administrator",
    ),
    (53000, 53001, 53002, 53003, 530031, 530032, 530035): _sign_in(
        "a conditional-access policy of the organisation blocks this sign-in",
        f"the administrator has to exempt the application or the user, or a managed device has to be used; {_THEN}",
    ),
    (53004, 53010, 53011, 50131): _sign_in(
        "the sign-in was blocked as risky",
        "sign in in a browser from a network that the organisation trusts: {login} --browser; else ask the "
        "administrator",
    ),
    (65001,): _sign_in(
        "nobody has consented to these permissions yet",
        "sign in and consent: {login}; if that ends with 'need admin approval', the administrator has to consent",
    ),
    (65004,): _sign_in("consent was declined", "sign in again and accept: {login}"),
    (65002,): _sign_in(
        "the client id belongs to Microsoft and is not open to cms", f"use a client id of your own, {_RELOAD}"
    ),
    (65005, 650056, 650057, 65006): _sign_in(
        "the application's registration does not list these permissions",
        "add SMTP.Send, IMAP.AccessAsUser.All and POP.AccessAsUser.All to the registration, then {login}",
    ),
    (650052, 500011, 50001): _sign_in(
        "the tenant has no Exchange Online for this request",
        f"check the subscription, {_THEN}; or cloud= of the account in the configuration, {_RELOAD}",
    ),
    (90094, 90095, 90008): _sign_in(
        "an administrator has to consent to the application", "ask the administrator to consent, then {login}"
    ),
    (700016, 700011, 70001): _sign_in("the tenant does not know the client id", _CHECK_ACCOUNT),
    (7000112,): _sign_in(
        "the application was disabled by its owner", f"use another client_id in the configuration, {_RELOAD}"
    ),
    (7000218,): _sign_in(
        "the application wants a client secret",
        f"allow public client flows in its registration, {_THEN}; or give client_secret in the configuration, {_RELOAD}",
    ),
    (700025,): _sign_in(
        "the application is a public client", f"remove client_secret from the configuration, {_RELOAD}"
    ),
    (7000215, 7000222, 70002): _sign_in(
        "the client secret is wrong or has expired",
        f"make a new secret (its value, not its id) and put it where client_secret points, {_THEN}",
    ),
    (700027, 50012, 700030): _sign_in(
        "the client certificate was not accepted", f"check the certificate in the registration and this clock, {_THEN}"
    ),
    (50011, 500113, 900971, 500119): _sign_in(
        "the redirect address is not registered",
        "register exactly {redirect}, or set redirect_uri in the configuration and `cms reload`; then {login}",
    ),
    (9002327,): _sign_in(
        "the redirect address is registered as a single-page application, which demands an Origin header",
        f"set origin= of the account to the redirect address's origin, {_RELOAD}; or register it as 'Mobile and desktop', "
        f"{_THEN}",
    ),
    (9002326,): _sign_in(
        "the redirect address is not registered as a single-page application, but an Origin header was sent",
        f'set origin="" for the account, {_RELOAD}',
    ),
    (50194, 90130, 9002332): _sign_in(
        "the application does not serve this tenant", f"set tenant= of the account, {_RELOAD}"
    ),
    (90002, 90038, 50059): _sign_in(
        "the tenant does not exist in this cloud",
        f"check tenant= and cloud= of the account in the configuration, {_RELOAD}",
    ),
    (70011, 28002, 700022, 28000, 700023, 9001023): _sign_in(
        "these scopes cannot be asked for together here", f"check scopes= and tenant= of the account, {_RELOAD}"
    ),
    (90014, 900144, 9002313, 90023, 90100): _sign_in("the request was malformed", _BUG),
    (54005, 501481, 700005): _sign_in(
        "the authorization code was used already or belongs to another sign-in", "start the sign-in again: {login}"
    ),
    (70018, 90120, 50134): _sign_in("the device code is wrong or was used already", "start again: {login} --device"),
    (70019, 90119): _sign_in("the device code has expired", "start again: {login} --device", "expired"),
    (135010, 135011): _sign_in("the device's registration is broken or disabled", _ASK_ADMIN),
    (50196,): _retry(
        "the provider takes the many equal requests for a loop",
        f"{NOTHING_TO_DO}, after a pause; if it lasts, look for a second program that uses this account",
        LONG_PAUSE,
        "throttled",
    ),
    (90055,): _retry("the tenant is throttled", pause=LONG_PAUSE, kind="throttled"),
    (90033, 90006, 90012, 90024, 90090, 50033, 50087, 70012): _retry("the provider has a temporary fault"),
    (80001, 80002, 80005, 80014): _retry(
        "the organisation's own sign-in service cannot be reached", f"{RETRIES}; tell the administrator"
    ),
    (*range(40008, 40016), *range(20001, 20034)): _retry(
        "the organisation's federated sign-in service failed", f"{RETRIES}; tell the administrator"
    ),
}
ROWS = {number: row for numbers, row in _BY_NUMBERS.items() for number in numbers}

_SUBERRORS = {
    "basic_action": _sign_in("the provider wants something done in a browser", _BROWSER),
    "additional_action": _sign_in("the provider wants something done outside its sign-in page", _BROWSER),
    "message_only": _sign_in("the provider refuses, and a browser sign-in shows why", _BROWSER),
    "consent_required": ROWS[65001],
    "user_password_expired": ROWS[50055],
    "bad_token": ROWS[70000],
    "token_expired": ROWS[70008],
    "protection_policy_required": _sign_in("the organisation demands app protection, which Linux lacks", _ASK_ADMIN),
    "device_authentication_failed": ROWS[50097],
}

_ERRORS = {
    "temporarily_unavailable": ROWS[90033],
    "server_error": ROWS[90033],
    "invalid_grant": _sign_in("the provider refused the sign-in"),
    "interaction_required": _sign_in("the provider wants to see the person", _BROWSER),
    "login_required": _sign_in("the provider wants to see the person", _BROWSER),
    "consent_required": ROWS[65001],
    "access_denied": _sign_in("the sign-in was declined, by the person or by a policy"),
    "authorization_declined": _sign_in("the sign-in was declined"),
    "bad_verification_code": ROWS[70018],
    "expired_token": ROWS[70019],
    "invalid_client": _sign_in(
        "the provider refused the application", f"check client_id and client_secret, {_RELOAD} and `cms refresh`"
    ),
    "unauthorized_client": _sign_in(
        "the application may not do this", f"check its registration, {_THEN}; or use another, {_RELOAD}"
    ),
    "invalid_scope": ROWS[70011],
    "invalid_resource": ROWS[650052],
    "invalid_request": ROWS[90014],
    "unsupported_grant_type": ROWS[90014],
    "unsupported_response_type": ROWS[90014],
    "invalid_tenant": ROWS[90002],
}

# A word that says nothing about the sign-in does not end it: tried again, slowly.
_UNKNOWN = _retry("the provider answered with an error that cms does not know")

# The application has not been consented to, or not for all that it asks for.
NO_CONSENT = 65001

# Refusals that a refresh token used twice may come as: what the provider says then differs, and it may say nothing.
REUSE_NUMBERS = frozenset({None, 70000, 70008, 700082, 54005})


def explain(answer: Mapping[str, Any], grant: Grant, who: str = "") -> Outcome:
    """Return what an OAuth error answer means for the grant. `who` is the user remembered, if anybody is."""
    number = _number(answer)
    word = _identifier(answer.get("error"))
    suberror = _identifier(answer.get("suberror"))
    row = ROWS.get(number or 0) or _SUBERRORS.get(suberror) or _ERRORS.get(word) or _UNKNOWN
    trouble = Trouble(
        row.kind,
        f"{row.message} ({_evidence(number, word, suberror)})",
        hint(row.hint, grant, who),
        number,
        _identifier(answer.get("correlation_id")),
        suberror,
        _claims(answer.get("claims")),
    )
    return Transient(trouble, row.pause) if row.transient else Refused(trouble)


def in_person(outcome: Outcome, again: str) -> Outcome:
    """Return what to tell the person who has asked for this very thing: nobody but them tries it again.

    `again` is what they do once they have done what else the hint says.
    """
    if not isinstance(outcome, Transient):
        return outcome
    text = outcome.trouble.hint
    known = next((each for each in (NOTHING_TO_DO, RETRIES) if each in text), None)
    text = text.replace(known, again) if known else f"{text}; {again}"
    return replace(outcome, trouble=replace(outcome.trouble, hint=text))


def hint(text: str, grant: Grant, who: str = "") -> str:
    """Fill in the command that signs this grant in, and its redirect address."""
    login = command("login", grant, who)
    if "{login} --" in text:
        # The option belongs inside the quotes.
        text = re.sub(r"\{login\} (--\w+)", lambda found: f"{login[:-1]} {found[1]}`", text)
    return text.replace("{login}", login).replace("{redirect}", grant.redirect_uri)


def command(name: str, grant: Grant, who: str = "") -> str:
    """Return a command for this grant's account, as a person types it."""
    return f"`cms {name} {grant.login or who}`".replace(" `", "`")


def _number(answer: Mapping[str, Any]) -> int | None:
    codes = answer.get("error_codes")
    if isinstance(codes, list) and codes and type(codes[0]) is int and codes[0] > 0:
        return codes[0]
    found = _AADSTS.search(str(answer.get("error_description", "")))
    return int(found[1]) if found else None


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
