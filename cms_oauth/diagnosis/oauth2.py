"""Refusals of the providers other than Microsoft: what each one means, who can fix it, and how.

A row is looked up by provider, error word and what refines the word (Google's `error_subtype`); then without that; then by
the word alone, which RFC 6749 and its relatives define. Words are all that these providers give.
"""

from __future__ import annotations

from dataclasses import replace

from cms_oauth.diagnosis import entra
from cms_oauth.diagnosis.entra import SIGN_IN, RefusalRow
from cms_oauth.providers import GOOGLE, PROVIDERS

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

# Words that only Google has, and that say what the administrator or the application's owner has to change. An account may
# describe Google as a server of one's own.
_GOOGLES = {
    "admin_policy_enforced": RefusalRow(
        "client-blocked",
        "the organisation does not allow this client id to use Gmail",
        "the administrator trusts the client id in Google's admin console (Security, API controls), then {again}",
        "administrator",
        takes="within minutes, at most a day",
        link=_CONTROLS,
        words=("admin_policy_enforced", "Access blocked: your institution's admin needs to review"),
    ),
    "policy_enforced": RefusalRow(
        "application-not-examined",
        "the account is in Google's Advanced Protection Program, which allows only applications that Google has examined",
        "use such an application's client id, then {reload, login}; or leave the programme, then {login}",
        words=("policy_enforced", "Advanced Protection"),
    ),
    "org_internal": RefusalRow(
        "application-of-others",
        "the client id is of type Internal, for the members of another organisation",
        "use another client id, then {reload, login}",
        words=("org_internal",),
    ),
    "deleted_client": RefusalRow(
        "application-deleted",
        "the client id was deleted in Google's console",
        "restore it there within 30 days, then {again}; or use another client id, then {reload, login}",
        words=("deleted_client",),
    ),
}

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
        "check redirect_uri=, client_secret= and client_auth= of the account, and the application's registration, then"
        " {reload, login}",
        words=("invalid_request", "client_secret is missing"),
    ),
    ("", "redirect_uri_mismatch", ""): RefusalRow(
        "redirect-not-registered",
        "the redirect address is not registered for this application",
        "register exactly {redirect}, then {login}; at Google, use a client id of type Desktop app",
        words=("redirect_uri_mismatch",),
    ),
    **{(name, word, ""): row for name in (GOOGLE, "") for word, row in _GOOGLES.items()},
    ("", "consent_required", ""): entra.ERRORS["interaction_required"],
    # Without the links, which lead to Microsoft's pages.
    **{("", word, ""): replace(entra.ERRORS[word], link="") for word in ("invalid_grant", "invalid_client")},
    ("", "unauthorized_client", ""): RefusalRow(
        "client-refused",
        "the provider refused the application, or does not allow it to do this",
        "check client_id and {credential} of the account, and the application's registration, then {reload, refresh}",
        more=("Keycloak says this of a wrong client_secret too",),
        words=("unauthorized_client", "Invalid client or Invalid client credentials"),
    ),
}

# The provider does not know an application any more that cms has registered there. A sign-in registers another one.
REGISTRATION_GONE = RefusalRow(
    "registration-gone",
    "the provider does not know the application any more that cms has registered with it",
    SIGN_IN,
    more=("with client_id= of the account set, that application is refused: check its registration",),
    words=("invalid_client",),
)

# An application that signs in by itself is refused, and no row says why.
APPLICATION_REFUSED = RefusalRow(
    "service-account-refused",
    "the provider refused the application",
    "check its registration, then {again}; or {credential} of the account, then {reload}",
    words=("invalid_grant", "invalid_client"),
)

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
    (GOOGLE, "invalid_grant"): RefusalRow(
        "no-such-mailbox",
        "Google knows no such mailbox, or does not take the service account's key",
        "check the address; that the key is still there in Google's console; and this machine's clock; then {again}",
        more=("for an address that is not the mailbox's own, use an account of that mailbox",),
        words=("Invalid email or User ID", "Invalid JWT Signature", "Invalid JWT: Token must be a short-lived token"),
    ),
    (GOOGLE, "invalid_client"): APPLICATION_REFUSED,
}


def row_of(
    provider: str, error: str = "", suberror: str = "", status: int | None = None, *, registered: bool | None = None
) -> RefusalRow:
    """Return the row for a refusal by this provider; by the HTTP status if no row knows the word.

    `registered` is True if cms has registered the application, None if it has wherever the provider lets it.
    """
    if error == "invalid_client" and (PROVIDERS[provider].registers if registered is None else registered):
        return REGISTRATION_GONE
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
