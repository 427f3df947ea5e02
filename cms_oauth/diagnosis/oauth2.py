"""Refusals of the providers other than Microsoft: what each one means, who can fix it, and how.

A row is looked up by provider, error word and what refines the word (Google's `error_subtype`); then without that; then by
the word alone, which RFC 6749 and its relatives define. Words are all that these providers give.
"""

from __future__ import annotations

from dataclasses import replace

from cms_oauth.diagnosis import entra
from cms_oauth.diagnosis.entra import SIGN_IN, RefusalRow
from cms_oauth.providers import GOOGLE

_EXPIRATION = "https://developers.google.com/identity/protocols/oauth2#expiration"
_SESSIONS = "https://support.google.com/a/answer/9368756"
_CONTROLS = "https://support.google.com/a/answer/7281227"
_DELEGATION = "https://support.google.com/a/answer/162106"

_SESSION_CONTROL = RefusalRow(
    "session-control",
    "the organisation limits how long a sign-in lasts (Google Cloud session control)",
    SIGN_IN,
    more=("to end that: the administrator trusts the application's client id, or exempts it from session control",),
    link=_SESSIONS,
    words=("invalid_rapt", "rapt_required", "reauth related error"),
)

# By provider, error word and subtype, "" for any.
ROWS: dict[tuple[str, str, str], RefusalRow] = {
    (GOOGLE, "invalid_grant", ""): RefusalRow(
        "ended",
        "the sign-in has been revoked or has expired",
        SIGN_IN,
        more=(
            "if it ends every 7 days, the Google project is in testing: publish it in Google's console, and sign in again",
        ),
        link=_EXPIRATION,
        words=("Token has been expired or revoked",),
    ),
    (GOOGLE, "invalid_grant", "invalid_rapt"): _SESSION_CONTROL,
    (GOOGLE, "invalid_grant", "rapt_required"): _SESSION_CONTROL,
    (GOOGLE, "admin_policy_enforced", ""): RefusalRow(
        "client-blocked",
        "the organisation does not allow this client id to use Gmail",
        "the administrator trusts the client id in Google's admin console (Security, API controls), then {again}",
        "administrator",
        takes="within minutes, at most a day",
        link=_CONTROLS,
        words=("admin_policy_enforced", "Access blocked: your institution's admin needs to review"),
    ),
    (GOOGLE, "access_denied", ""): RefusalRow(
        "declined-or-testing",
        "the sign-in was declined, or the Google project is in testing and this user is not one of its test users",
        "sign in again: {login}; or first add the user to the test users in Google's console",
        words=("access_denied", "has not completed the Google verification process"),
    ),
    (GOOGLE, "rate_limit_exceeded", ""): entra.THROTTLED,
    (GOOGLE, "internal_failure", ""): entra.FAILED,
    ("", "invalid_scope", ""): RefusalRow(
        "scope-refused",
        "the provider does not know a scope that cms asks for, or does not allow it to this application",
        "check scopes= of the account, and the application's registration, then {reload, login}",
        words=("invalid_scope",),
    ),
    ("", "invalid_request", ""): RefusalRow(
        "request-refused",
        "the provider does not accept the request as cms makes it for this application",
        "check redirect_uri= and client_auth= of the account, and the application's registration, then {reload, login}",
        words=("invalid_request", "client_secret is missing"),
    ),
    ("", "redirect_uri_mismatch", ""): RefusalRow(
        "redirect-not-registered",
        "the redirect address is not registered for this application",
        "register exactly {redirect}, then {login}; at Google, use a client id of type Desktop app",
        words=("redirect_uri_mismatch",),
    ),
    ("", "consent_required", ""): entra.ERRORS["interaction_required"],
    # Without the links, which lead to Microsoft's pages.
    **{
        ("", word, ""): replace(entra.ERRORS[word], link="")
        for word in ("invalid_grant", "invalid_client", "unauthorized_client")
    },
}

# By provider and error word: rows for an application that signs in by itself. No hint tells a person to sign in.
APPLICATION_ROWS = {
    (GOOGLE, "unauthorized_client"): RefusalRow(
        "no-delegation",
        "the service account may not open this mailbox",
        "the administrator enters its client id with the scope https://mail.google.com/ under Domain-wide delegation in"
        " Google's admin console, then {again}",
        "administrator",
        more=("the mailbox has to be in the organisation's domain",),
        takes="within minutes, at most 24 hours",
        link=_DELEGATION,
        words=("unauthorized_client", "Client is unauthorized to retrieve access tokens using this method"),
    ),
}

# An application that signs in by itself is refused, and no row says why.
APPLICATION_REFUSED = RefusalRow(
    "service-account-refused",
    "the provider refused the application",
    "check its registration, then {again}; or {credential} of the account, then {reload}",
    words=("invalid_grant", "invalid_client"),
)


def row_of(provider: str, error: str = "", suberror: str = "", status: int | None = None) -> RefusalRow:
    """Return the row for a refusal by this provider; by the HTTP status if no row knows the word."""
    for key in ((provider, error, suberror), (provider, error, ""), ("", error, "")):
        if key in ROWS:
            return ROWS[key]
    return entra.row_of(None, error, status=status)


def row_of_application(provider: str, error: str = "", suberror: str = "") -> RefusalRow:
    """Return the row for a refusal of an application that signs in by itself: no person could sign in."""
    row = APPLICATION_ROWS.get((provider, error)) or row_of(provider, error, suberror)
    return APPLICATION_REFUSED if "{login" in row.hint or row is entra.UNKNOWN else row


def row_of_reason(provider: str, reason: str, *, application: bool = False) -> RefusalRow:
    """Return the row for what the status says was the reason: the subtype if the provider gave one, else the word."""
    word = next((word for name, word, subtype in ROWS if (name, subtype) == (provider, reason)), "")
    known = (word, reason) if word else (reason, "")
    return row_of_application(provider, *known) if application else row_of(provider, *known)
