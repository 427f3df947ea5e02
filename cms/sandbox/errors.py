"""Microsoft's error answers: the OAuth error for each AADSTS number, and its JSON.

Any number can be used. A number that is not in the table is `invalid_grant`, as most are.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from cms.sandbox.answering import Declined

BAD_REQUEST = 400
UNAUTHORIZED = 401


@dataclass(frozen=True, slots=True)
class Kind:
    """The OAuth error of one AADSTS number."""

    error: str
    text: str
    suberror: str = ""
    status: int = BAD_REQUEST


_GRANT = "invalid_grant"
_OTHER = Kind(_GRANT, "The request was refused.")

KINDS = {
    50011: Kind("invalid_request", "The redirect URI specified in the request does not match those registered."),
    50034: Kind(_GRANT, "The user account does not exist in this directory."),
    50053: Kind(_GRANT, "The account is locked."),
    50057: Kind(_GRANT, "The user account is disabled."),
    50076: Kind(
        _GRANT,
        "Due to a configuration change made by your administrator, you must use multi-factor authentication.",
        "basic_action",
    ),
    50173: Kind(_GRANT, "The provided grant has expired due to it being revoked, a fresh auth token is needed."),
    50194: Kind("invalid_request", "The application is not configured as a multi-tenant application."),
    50196: Kind(_GRANT, "The server terminated an operation because it encountered a client request loop."),
    53003: Kind(_GRANT, "Access has been blocked by Conditional Access policies.", "message_only"),
    54005: Kind(_GRANT, "OAuth2 Authorization code was already redeemed, please retry with a new valid code."),
    65001: Kind(_GRANT, "The user or administrator has not consented to use the application.", "consent_required"),
    65004: Kind("access_denied", "The user declined to consent to access the app."),
    70000: Kind(_GRANT, "The provided grant is invalid or malformed.", "bad_token"),
    70008: Kind(_GRANT, "The provided authorization code or refresh token has expired.", "token_expired"),
    70011: Kind("invalid_scope", "The provided value for the input parameter 'scope' is not valid."),
    70016: Kind("authorization_pending", "OAuth 2.0 device flow error. Authorization is pending. Continue polling."),
    70018: Kind("bad_verification_code", "Invalid verification code."),
    70019: Kind("expired_token", "Verification code expired."),
    70043: Kind(_GRANT, "The refresh token has expired due to sign-in frequency checks.", "bad_token"),
    90002: Kind("invalid_request", "The tenant was not found."),
    90014: Kind("invalid_request", "A required field is missing from the request."),
    90033: Kind("temporarily_unavailable", "A transient error has occurred. Please try again."),
    90055: Kind("temporarily_unavailable", "The tenant is throttled."),
    90094: Kind("access_denied", "Admin consent is required for the permissions requested by this application."),
    28000: Kind("invalid_request", "The scope contains more than one resource."),
    501481: Kind(_GRANT, "The Code_Verifier does not match the code_challenge supplied in the authorization request."),
    700003: Kind("unauthorized_client", "The refresh token was issued to another client."),
    700016: Kind("unauthorized_client", "The application was not found in the directory."),
    700082: Kind(_GRANT, "The refresh token has expired due to inactivity.", "token_expired"),
    700084: Kind(_GRANT, "The refresh token was issued to a single page app and has a fixed, limited lifetime."),
    7000112: Kind("unauthorized_client", "The application is disabled."),
    50013: Kind(_GRANT, "The assertion is not valid."),
    50027: Kind("invalid_request", "The JWT token is invalid or malformed."),
    700021: Kind("invalid_client", "The client assertion's application identifier does not match 'client_id'."),
    700023: Kind("invalid_client", "The client assertion's audience does not match."),
    700024: Kind("invalid_client", "The client assertion is not within its valid time range.", status=UNAUTHORIZED),
    700027: Kind(
        "invalid_client",
        "The certificate with identifier used to sign the client assertion is not registered.",
        status=UNAUTHORIZED,
    ),
    700211: Kind(
        "invalid_client",
        "No matching federated identity record found for presented assertion issuer.",
        status=UNAUTHORIZED,
    ),
    700212: Kind(
        "invalid_client",
        "No matching federated identity record found for presented assertion audience.",
        status=UNAUTHORIZED,
    ),
    700213: Kind(
        "invalid_client",
        "No matching federated identity record found for presented assertion subject.",
        status=UNAUTHORIZED,
    ),
    1002012: Kind(
        "invalid_scope", "The provided value for scope is not valid: client credential flows need a scope of /.default."
    ),
    7000216: Kind(
        "invalid_client",
        "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.",
        status=UNAUTHORIZED,
    ),
    7000222: Kind("invalid_client", "The provided client secret keys are expired.", status=UNAUTHORIZED),
    7000215: Kind("invalid_client", "Invalid client secret provided.", status=UNAUTHORIZED),
    7000218: Kind(
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        status=UNAUTHORIZED,
    ),
    9001023: Kind("invalid_request", "The grant type is not supported over the /common endpoint."),
    9002326: Kind(
        "invalid_request",
        "Cross-origin token redemption is permitted only for the 'Single-Page Application' client-type.",
    ),
    9002327: Kind(
        "invalid_request",
        "Tokens issued for the 'Single-Page Application' client-type may only be redeemed via cross-origin requests.",
    ),
}

# Two answers of the device flow that have no AADSTS number.
SLOW_DOWN = Kind("slow_down", "The client polls too often.")
DECLINED = Kind("authorization_declined", "The end user denied the authorization request.")


class Refusal(Declined):
    """The sandbox refuses a request, as Entra would. `aadsts` is 0 if Entra gives no number.

    `claims` is the conditional-access challenge that the next sign-in has to carry.
    """

    def __init__(self, aadsts: int, detail: str = "", *, kind: Kind | None = None, claims: str = "") -> None:
        self.aadsts = aadsts
        self.kind = kind or KINDS.get(aadsts, _OTHER)
        self.claims = claims
        number = f"AADSTS{aadsts}: " if aadsts else ""
        super().__init__(f"{number}{self.kind.text} {detail}".strip())

    def body(self, authority: str, correlation: str, now: float) -> dict[str, object]:
        """Return Microsoft's error object."""
        trace = str(uuid.uuid4())
        stamp = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now))
        body: dict[str, object] = {
            "error": self.kind.error,
            "error_description": f"{self} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}",
            "error_codes": [self.aadsts] if self.aadsts else [],
            "timestamp": stamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{authority}/error?code={self.aadsts}",
        }
        return body | {name: text for name, text in (("suberror", self.kind.suberror), ("claims", self.claims)) if text}
