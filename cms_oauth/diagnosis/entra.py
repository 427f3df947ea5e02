"""Entra's refusals: what each one means, who can fix it, and how. One row for each meaning.

Microsoft says to branch on `error` and `suberror`, and that the AADSTS numbers may change; but only the numbers are
specific enough to tell a person what to do. So a row is looked up by its number first, then by suberror, by error word
and by HTTP status. The grant worker's messages come from these rows too (`cms.core.refusals`).
"""

from __future__ import annotations

from cms_oauth.frozen import dataclass
from cms_oauth.moves import fill

_LEARN = "https://learn.microsoft.com/en-us/entra"
_REVOKED = f"{_LEARN}/identity-platform/refresh-tokens"
_MFA = f"{_LEARN}/identity/authentication/concept-mfa-howitworks"
_CONSENT = f"{_LEARN}/identity/enterprise-apps/grant-admin-consent"
_ACCESS = f"{_LEARN}/identity/conditional-access/overview"
_REDIRECT = f"{_LEARN}/identity-platform/reply-url"
_REGISTER = f"{_LEARN}/identity-platform/quickstart-register-app"
_CREDENTIALS = f"{_LEARN}/identity-platform/how-to-add-credentials"
_CLOUDS = f"{_LEARN}/identity-platform/authentication-national-cloud"
_SCOPES = f"{_LEARN}/identity-platform/scopes-oidc"

# Entra keeps refusing a loop of identical requests, a locked-out user or a throttled tenant for ten minutes or more.
LONG_PAUSE = 15 * 60.0

# The application has not been consented to, or not for all that it asks for.
NO_CONSENT = 65001

# Errors caused by the application's registration: its redirect addresses, and their platform.
REGISTRATION = frozenset({700084, 9002326, 9002327, 50011, 500113, 900971, 500119})

# The errors that Entra may give for a refresh token that was used twice. It may also give no number.
REUSED = frozenset({None, 70000, 70008, 700082, 54005})

# The errors for a refresh token that is dead for every host and all scopes: it was revoked, as by another password, or was
# not used for too long, or was used before. What a policy refuses may be granted for other scopes, or elsewhere.
DEAD = frozenset({50173, 50132, 50133, 50089, 700084, 70000, 70008, 700082, 54005})

# The hints below are templates, as `cms_oauth.moves.fill` takes them.
SIGN_IN = "sign in again: {login}"
_BROWSER = "sign in again in a browser: {login --browser}"
# cms cannot see that something was fixed elsewhere: the user says so with a command, or waits where cms checks by itself.
_THEN_AGAIN = "then {again}"
_RELOAD = "then {reload}"
_ASK_ADMIN = f"ask the administrator of your organisation, {_THEN_AGAIN}"
_BUG = "this looks like a bug in cms or its configuration: report it with the correlation id; to start over: {login}"
_CHECK_ACCOUNT = "check user, tenant and sign_in_as of the account in the configuration, then {reload, login}"
_CONSENT_URL = "the administrator has to consent: give them the address that {consent} prints, then {login}"

_PLATFORMS = "docs/microsoft-setup.md explains the platform of a registration, and how to register your own application"

_AT_ONCE = "immediately"
_AN_HOUR = "within minutes, at most an hour"


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """The meaning of a refusal and how to fix it.

    `message` is a clause without a full stop, `hint` the template of the next move, `more` further steps. `mover` is one
    of `verdicts.MOVERS`; with "wait" cms tries again after at least `pause` seconds. `kind` is the trouble's kind in the
    worker's messages. `by_connection` is True if where or how the machine is connected can be the reason.
    """

    name: str
    message: str
    hint: str
    mover: str = "you"
    more: tuple[str, ...] = ()
    takes: str = _AT_ONCE
    link: str = ""
    words: tuple[str, ...] = ()
    kind: str = "refused"
    pause: float = 0.0
    by_connection: bool = False

    @property
    def transient(self) -> bool:
        """True if cms tries again by itself; all other refusals need a person."""
        return self.mover == "wait"

    @property
    def steps(self) -> tuple[str, ...]:
        """The next moves, as templates."""
        return (self.hint, *self.more, *(("{looks_again}",) if self.by_connection else ()))


def _admin(
    name: str,
    message: str,
    hint: str,
    *more: str,
    link: str = "",
    words: tuple[str, ...] = (),
    takes: str = _AN_HOUR,
    by_connection: bool = False,
) -> RefusalRow:
    return RefusalRow(name, message, hint, "administrator", more, takes, link, words, by_connection=by_connection)


def _wait(
    name: str,
    message: str,
    hint: str = "{nothing_to_do}",
    *more: str,
    takes: str = "minutes",
    pause: float = 0.0,
    kind: str = "server",
    words: tuple[str, ...] = (),
) -> RefusalRow:
    return RefusalRow(name, message, hint, "wait", more, takes, "", words, kind, pause)


_BY_NUMBERS: dict[tuple[int, ...], RefusalRow] = {
    (50076, 50074): RefusalRow(
        "mfa-required",
        "multi-factor authentication is now required",
        _BROWSER,
        link=_MFA,
        words=("MFA required", "multi-factor authentication", "interaction_required"),
        by_connection=True,
    ),
    (50079, 50072): RefusalRow(
        "mfa-not-set-up",
        "multi-factor authentication is not set up yet",
        _BROWSER,
        more=("or set it up beforehand: https://mysignins.microsoft.com/security-info",),
        link=_MFA,
        words=("enroll MFA", "more information required"),
        by_connection=True,
    ),
    (50078,): RefusalRow(
        "mfa-too-old",
        "the last multi-factor authentication is too old for the organisation's policy",
        _BROWSER,
        link=_MFA,
        words=("MFA expired due to policies",),
    ),
    (50158,): RefusalRow(
        "external-challenge",
        "the organisation requires an external security check",
        _BROWSER,
        link=_MFA,
        words=("Duo", "custom controls"),
        by_connection=True,
    ),
    (50173,): RefusalRow(
        "revoked",
        "the sign-in was revoked: the password was changed, or sessions were ended",
        SIGN_IN,
        link=_REVOKED,
        words=("password change", "revoke sessions", "fresh auth token needed"),
    ),
    (50132, 50133, 50089): RefusalRow(
        "session-ended",
        "the session is no longer valid: the password was changed or has expired",
        SIGN_IN,
        link=_REVOKED,
        words=("session is invalid", "flow token expired"),
    ),
    (70008, 700082): RefusalRow(
        "refresh-token-expired",
        "the sign-in expired, was revoked, or was unused for too long",
        SIGN_IN,
        more=(
            "keep the daemon running: it renews the sign-in well before the 90 days after which an unused one expires",
        ),
        link=_REVOKED,
        words=("refresh token expired due to inactivity", "90 days", "why must I log in again"),
    ),
    (70043,): RefusalRow(
        "sign-in-frequency",
        "the organisation's sign-in frequency policy ended the sign-in",
        "sign in again: {login}; the policy will end it again unless the administrator exempts the account",
        link=f"{_LEARN}/identity/conditional-access/concept-session-lifetime",
        words=("sign-in frequency", "refresh token expired conditional access"),
    ),
    (700084,): RefusalRow(
        "single-page-24-hours",
        "the sign-in ended after 24 hours because the application's redirect address is registered as a single-page application",
        "sign in again: {login}; to avoid this, use a registration with the platform 'Mobile and desktop'",
        more=(_PLATFORMS,),
        link=_REVOKED,
        words=("spa refresh token 24 hours", "log in every day"),
    ),
    (70000,): RefusalRow(
        "refresh-token-invalid",
        "the refresh token is no longer valid",
        "sign in again: {login}; a personal account may have to be unlocked at account.microsoft.com first",
        link=_REVOKED,
        words=("invalid_grant", "service abuse mode"),
    ),
    (50126,): RefusalRow(
        "wrong-password", "wrong user name or password", SIGN_IN, words=("invalid username or password",)
    ),
    (50053,): _wait(
        "locked-out",
        "the account is temporarily locked, or this IP address is blocked",
        "{wait_for_cms}; if it lasts, the administrator can find the reason in the sign-in log",
        takes="10 minutes or more",
        pause=LONG_PAUSE,
        words=("smart lockout", "malicious IP address", "account is locked"),
    ),
    (50055, 50144, 50056): RefusalRow(
        "password-expired",
        "the password has expired",
        "change the password, then {login}",
        link="https://aka.ms/sspr",
        words=("password expired", "no password set"),
    ),
    (50057,): _admin("account-disabled", "the account is disabled", _ASK_ADMIN, words=("user account is disabled",)),
    (50034, 51004, 50020, 90072, 16000, 50014): RefusalRow(
        "user-not-in-tenant",
        "the tenant does not know this user",
        _CHECK_ACCOUNT,
        more=('personal accounts need tenant="consumers"; guests sign in at their home tenant',),
        words=("user account does not exist in tenant", "external user", "wrong tenant"),
    ),
    (500208,): RefusalRow(
        "account-type",
        "the application or the tenant does not accept this type of account",
        _CHECK_ACCOUNT,
        more=(
            'personal accounts: tenant="consumers"; work and school accounts: tenant="organizations" or the tenant itself',
        ),
        words=("personal Microsoft account not supported", "domain is not a valid login domain for the account type"),
    ),
    (50105,): _admin(
        "not-assigned",
        "the user is not assigned to the application",
        "ask the administrator to assign the user, then {login}",
        "Microsoft Entra admin center > Enterprise applications > the application > Users and groups > Add user",
        link=f"{_LEARN}/identity/enterprise-apps/assign-user-or-group-access-portal",
        words=("user not assigned to a role for the application",),
    ),
    (50097, 50155, 50187): _admin(
        "device-required",
        "the organisation requires device authentication",
        "sign in with a browser on a registered device: {login --browser} (the device flow cannot do this); or ask the administrator",
        link=_ACCESS,
        words=("device authentication required", "compliant device"),
        by_connection=True,
    ),
    # 530003 is not in Microsoft's table of numbers, but in "Known issues" of Azure IoT Operations and in "SharePoint
    # Document Grid" of Dynamics 365.
    (50005, 53000, 53001, 53002, 53003, 530003, 530031, 530032, 530035): _admin(
        "conditional-access",
        "a conditional-access policy of the organisation blocks this sign-in",
        f"ask the administrator to exempt the application or the user, or sign in on a managed device; {_THEN_AGAIN}",
        "which policy: Microsoft Entra admin center > Users > Sign-in logs > the sign-in > Conditional Access",
        link=_ACCESS,
        words=("blocked by conditional access", "device not compliant", "security defaults", "access has been blocked"),
        by_connection=True,
    ),
    # 5000211 is not in Microsoft's table of numbers, but in "Set up tenant restrictions v2".
    (50002, 500021, 500022, 5000211): _admin(
        "tenant-restrictions",
        "the network or the device that this machine is on allows no sign-in to the account's organisation",
        f"use another network or another proxy, or ask the administrator of this network to allow the tenant; {_THEN_AGAIN}",
        link=f"{_LEARN}/external-id/tenant-restrictions-v2",
        words=("tenant restrictions", "Restrict-Access-To-Tenants", "access to tenant is denied"),
        by_connection=True,
    ),
    (53004, 53010, 53011, 50131): RefusalRow(
        "risk",
        "the sign-in was blocked as risky",
        "sign in with a browser, from a network that the organisation trusts: {login --browser}; or ask the administrator",
        link=f"{_LEARN}/id-protection/concept-identity-protection-risks",
        words=("risky sign-in", "suspicious activity"),
        by_connection=True,
    ),
    (65001,): RefusalRow(
        "no-consent",
        "neither the user nor an administrator has consented to these permissions yet",
        "sign in and consent: {login}; if that ends with 'need admin approval', give the administrator the address that {consent} prints",
        link=_CONSENT,
        words=("user or administrator has not consented", "need admin approval", "consent_required"),
    ),
    (65004,): RefusalRow(
        "consent-declined",
        "consent was declined",
        "sign in again and accept: {login}",
        link=_CONSENT,
        words=("user declined to consent",),
    ),
    (65002,): RefusalRow(
        "first-party-id",
        "the client id belongs to a Microsoft application that cms may not use",
        f"use your own client id, {_RELOAD}",
        more=("docs/microsoft-setup.md shows how to register one in ten minutes",),
        link=_REGISTER,
        words=("consent between first party application", "preauthorization"),
    ),
    (65005, 650056, 650057, 65006): RefusalRow(
        "permissions-not-listed",
        "the application's registration does not list these permissions",
        "add SMTP.Send, IMAP.AccessAsUser.All and POP.AccessAsUser.All to the registration, then {login}",
        link=_REGISTER,
        words=("misconfigured application", "invalid resource", "required resource access"),
    ),
    (650052, 500011, 50001): _admin(
        "no-exchange",
        "the tenant does not have Exchange Online",
        f"ask the administrator to check the subscription, {_THEN_AGAIN}; or check cloud= of the account in the configuration, {_RELOAD}",
        link=_CLOUDS,
        words=("resource principal not found in the tenant", "lacks a service principal", "no subscription"),
    ),
    (90094, 90095, 90008): _admin(
        "admin-consent",
        "an administrator has to consent to the application",
        _CONSENT_URL,
        link=_CONSENT,
        words=("need admin approval", "admin consent required", "administrator consent"),
    ),
    (700016, 700011, 70001): RefusalRow(
        "client-id-unknown",
        "the tenant does not know the client id",
        _CHECK_ACCOUNT,
        more=("client_id= is the Application (client) ID of the registration, not its object id",),
        link=_REGISTER,
        words=("application with identifier was not found in the directory", "unauthorized_client"),
    ),
    (7000112,): RefusalRow(
        "application-disabled",
        "the application was disabled by its owner",
        f"use another client_id in the configuration, {_RELOAD}",
        more=("others cannot disable your own registration: docs/microsoft-setup.md",),
        link=_REGISTER,
        words=("application is disabled",),
    ),
    (7000218,): RefusalRow(
        "secret-wanted",
        "the application requires a client secret",
        f"allow public client flows in its registration, {_THEN_AGAIN}; or set client_secret in the configuration, {_RELOAD}",
        more=(
            "app registration > Authentication > Allow public client flows: Yes, and a redirect address of the platform Mobile and desktop",
        ),
        link=_REGISTER,
        words=("request body must contain client_assertion or client_secret", "device code invalid_client"),
    ),
    (700025,): RefusalRow(
        "secret-unwanted",
        "the application is a public client",
        f"remove client_secret from the configuration, {_RELOAD}",
        link=_CREDENTIALS,
        words=("client is public so neither client_assertion nor client_secret should be presented",),
    ),
    (7000215, 7000222, 70002): RefusalRow(
        "secret-wrong",
        "the client secret is wrong or has expired",
        f"create a new secret and put its value (not its id) where client_secret points, {_THEN_AGAIN}",
        link=_CREDENTIALS,
        words=("invalid client secret provided", "client secret keys expired"),
    ),
    (700027, 50012, 700030): RefusalRow(
        "certificate-refused",
        "the client certificate was not accepted",
        f"check the certificate in the registration and this machine's clock, {_THEN_AGAIN}",
        link=_CREDENTIALS,
        words=("client assertion contains an invalid signature", "thumbprint"),
    ),
    (50011, 500113, 900971, 500119): RefusalRow(
        "redirect-not-registered",
        "the redirect address is not registered",
        "register exactly {redirect}, then {login}; or set redirect_uri in the configuration, then {reload, login}",
        more=("app registration > Authentication > Add a platform > Mobile and desktop applications",),
        link=_REDIRECT,
        words=("redirect URI mismatch", "reply URL specified in the request does not match"),
    ),
    (9002327,): RefusalRow(
        "origin-wanted",
        "the redirect address is registered as a single-page application, which requires an Origin header",
        f"set origin=\"{{origin}}\" for the account, {_RELOAD}; or register the address as 'Mobile and desktop', {_THEN_AGAIN}",
        more=(_PLATFORMS,),
        link=_REDIRECT,
        words=(
            "tokens issued for the 'Single-Page Application' client-type may only be redeemed via cross-origin requests",
        ),
    ),
    (9002326,): RefusalRow(
        "origin-unwanted",
        "the redirect address is not registered as a single-page application, but an Origin header was sent",
        f'set origin="" for the account, {_RELOAD}',
        more=(_PLATFORMS,),
        link=_REDIRECT,
        words=("cross-origin token redemption is permitted only for the 'Single-Page Application' client-type",),
    ),
    (50194, 90130, 9002332): RefusalRow(
        "application-not-for-tenant",
        "the application does not accept users of this tenant",
        f"set tenant= of the account, {_RELOAD}",
        more=("for a single-tenant application, set its tenant's id or domain, not common",),
        link=_REGISTER,
        words=("not configured as a multi-tenant application", "/common endpoint is not supported"),
    ),
    (90002, 90038, 50059): RefusalRow(
        "no-such-tenant",
        "the tenant does not exist in this cloud",
        f"check tenant= and cloud= of the account in the configuration, {_RELOAD}",
        link=_CLOUDS,
        words=("tenant not found", "national cloud", "no tenant-identifying information"),
    ),
    (70011, 28002, 700022, 28000, 700023, 9001023): RefusalRow(
        "bad-scopes",
        "these scopes cannot be requested together",
        f"check scopes= and tenant= of the account, {_RELOAD}",
        more=(
            "request the scopes of one resource at a time; an application that signs in by itself needs a specific tenant, not common",
        ),
        link=_SCOPES,
        words=("scope is not valid", "multiple resources", "invalid_scope"),
    ),
    (90014, 900144, 9002313, 90023, 90100): RefusalRow(
        "malformed-request",
        "the request was malformed",
        _BUG,
        words=("request body must contain the parameter", "invalid_request"),
    ),
    (54005, 501481, 700005): RefusalRow(
        "code-used",
        "the authorization code was used already or belongs to another sign-in",
        "start the sign-in again: {login}",
        words=("code was already redeemed", "PKCE code verifier mismatch"),
    ),
    (70018,): RefusalRow(
        "device-code-wrong",
        "the device code is wrong",
        "start again: {login --device}",
        words=("bad_verification_code",),
    ),
    (90119,): RefusalRow(
        "device-code-missing",
        "no device code was typed in",
        "start again, and type the code that is shown: {login --device}",
        words=("InvalidUserCode", "user code is null or empty"),
    ),
    (90120,): RefusalRow(
        "device-code-used",
        "the sign-in with this device code was approved or declined already",
        "start again: {login --device}",
        words=("InvalidDeviceFlowRequest", "already authorized or declined"),
    ),
    (50134,): RefusalRow(
        "device-code-elsewhere",
        "the device code was created in one Microsoft data centre and entered in another",
        "start again: {login --device}; if it happens again, use a browser: {login --browser}",
        words=("DeviceFlowAuthorizeWrongDatacenter", "wrong data center"),
    ),
    (70016,): _wait(
        "device-code-pending",
        "the sign-in with the device code is not finished yet",
        "{wait_for_person}",
        takes="up to 15 minutes",
        words=("authorization_pending",),
    ),
    (70019,): RefusalRow(
        "device-code-expired",
        "the device code has expired",
        "start again: {login --device}",
        more=(
            "if the browser said that access was blocked: the organisation blocks this flow; use {login --browser} or {login --paste}",
        ),
        link=f"{_LEARN}/identity/conditional-access/policy-block-authentication-flows",
        words=("expired_token", "device code flow blocked"),
        kind="expired",
    ),
    (135010, 135011): _admin(
        "device-registration",
        "the device's registration is broken or disabled",
        _ASK_ADMIN,
        words=("device key not found",),
    ),
    (50196,): _wait(
        "request-loop",
        "the provider rejects identical requests that come too often",
        "{nothing_for_now}; if it lasts, look for a second program that uses this account",
        takes="5 to 15 minutes",
        pause=LONG_PAUSE,
        kind="throttled",
        words=("client request loop has been detected",),
    ),
    (90055,): _wait(
        "tenant-throttled",
        "the tenant is throttled",
        takes="15 minutes or more",
        pause=LONG_PAUSE,
        kind="throttled",
        words=("tenant throttled", "too many requests"),
    ),
    (90033, 90006, 90012, 90024, 90090, 50033, 50087, 70012): _wait(
        "provider-trouble",
        "the provider has a temporary fault",
        words=("temporarily_unavailable", "server_error", "retryable error"),
    ),
    (80001, 80002, 80005, 80014): _wait(
        "on-premises-agent",
        "the organisation's own sign-in service cannot be reached",
        "{wait_for_cms}; tell the administrator",
        words=("authentication agent unable to connect to Active Directory",),
    ),
    (*range(40008, 40016), *range(20001, 20034)): _wait(
        "federation",
        "the organisation's federated sign-in service failed",
        "{wait_for_cms}; tell the administrator",
        words=("federated identity provider", "OAuth2IdPRetryableServerError"),
    ),
}
ROWS = {number: row for numbers, row in _BY_NUMBERS.items() for number in numbers}

SUBERRORS = {
    "basic_action": RefusalRow(
        "browser-wanted", "the provider requires a step in a browser", _BROWSER, words=("basic_action",)
    ),
    "additional_action": RefusalRow(
        "more-wanted",
        "the provider requires a step outside its sign-in page",
        _BROWSER,
        words=("additional_action",),
    ),
    "message_only": RefusalRow(
        "refused-with-reason",
        "the provider refused; signing in with a browser shows why",
        _BROWSER,
        words=("message_only",),
    ),
    "consent_required": ROWS[65001],
    "user_password_expired": ROWS[50055],
    "bad_token": ROWS[70000],
    "token_expired": ROWS[70008],
    # The token belongs to another of Microsoft's own clients: signing in again is the only fix.
    "client_mismatch": ROWS[70000],
    "protection_policy_required": _admin(
        "app-protection",
        "the organisation requires app protection, which is not available on Linux",
        _ASK_ADMIN,
        link=f"{_LEARN}/identity/conditional-access/policy-all-users-approved-app-or-app-protection",
        words=("Intune app protection policy", "protection_policy_required"),
    ),
    "device_authentication_failed": ROWS[50097],
}

_PERSON_WANTED = RefusalRow(
    "person-wanted",
    "the provider requires the user to sign in interactively",
    _BROWSER,
    words=("interaction_required", "login_required"),
)
_DECLINED = RefusalRow(
    "declined",
    "the sign-in was declined, by the user or by a policy",
    SIGN_IN,
    words=("access_denied", "authorization_declined"),
)
ERRORS = {
    "temporarily_unavailable": ROWS[90033],
    "server_error": ROWS[90033],
    "invalid_grant": RefusalRow(
        "refused", "the provider refused the sign-in", SIGN_IN, link=_REVOKED, words=("invalid_grant",)
    ),
    "interaction_required": _PERSON_WANTED,
    "login_required": _PERSON_WANTED,
    "consent_required": ROWS[65001],
    "access_denied": _DECLINED,
    "authorization_declined": _DECLINED,
    "authorization_pending": ROWS[70016],
    "slow_down": ROWS[70016],
    "bad_verification_code": ROWS[70018],
    "expired_token": ROWS[70019],
    "invalid_client": RefusalRow(
        "application-refused",
        "the provider refused the application",
        "check client_id and client_secret, then {reload, refresh}",
        link=_CREDENTIALS,
        words=("invalid_client", "HTTP 401"),
    ),
    "unauthorized_client": RefusalRow(
        "application-not-allowed",
        "the application is not allowed to do this",
        f"check its registration, {_THEN_AGAIN}; or use another application, {_RELOAD}",
        link=_REGISTER,
        words=("unauthorized_client",),
    ),
    "invalid_scope": ROWS[70011],
    "invalid_resource": ROWS[650052],
    "invalid_request": ROWS[90014],
    "unsupported_grant_type": ROWS[90014],
    "unsupported_response_type": ROWS[90014],
    "invalid_tenant": ROWS[90002],
    # RFC 8707, 2.
    "invalid_target": RefusalRow(
        "resource-refused",
        "the provider does not know the resource that the token is for",
        "check scopes and resource of the account in the configuration, then {reload, login}",
        words=("invalid_target",),
    ),
}

# Rows for an application that signs in by itself: no hint tells a person to sign in, and cms checks again by itself.
# `{credential}` is the configuration argument that points to its credential.
_PERMIT = "ask the administrator to consent to the application in that tenant"
_FEDERATION = f"{_LEARN}/workload-id/workload-identity-federation"
_APPLICATION_BY_NUMBERS: dict[tuple[int, ...], RefusalRow] = {
    (7000215,): RefusalRow(
        "application-secret-wrong",
        "the client secret is wrong",
        f"put the secret's value (not its id) where {{credential}} points; {_THEN_AGAIN}",
        link=_CREDENTIALS,
        words=("invalid client secret provided",),
    ),
    (7000222,): RefusalRow(
        "application-secret-expired",
        "the client secret has expired",
        f"create a new secret in the registration and put its value where {{credential}} points; {_THEN_AGAIN}",
        link=_CREDENTIALS,
        words=("client secret keys are expired",),
    ),
    (7000216, 7000218): RefusalRow(
        "application-without-proof",
        "the request carried no credential that the application's registration knows",
        "set client_secret, certificate or client_assertion of the account in the configuration, then {reload}",
        link=_CREDENTIALS,
        words=("client_assertion, client_secret or client_assertion_type is required",),
    ),
    (700027, 700030, 50012, 5000224): RefusalRow(
        "application-certificate",
        "the certificate was not accepted: it has expired, or the registration does not have it",
        "if it has ended, put a new one, with its key, where {credential} points; upload the certificate, without its key,"
        f" to the registration, and check this machine's clock; {_THEN_AGAIN}",
        link=_CREDENTIALS,
        words=("client assertion contains an invalid signature", "certificate thumbprint"),
    ),
    (700024,): RefusalRow(
        "application-assertion-time",
        "the assertion is not valid now: it has expired, or a clock is wrong",
        f"make sure that what {{credential}} points to is renewed in time, and check this machine's clock; {_THEN_AGAIN}",
        link=_FEDERATION,
        words=("client assertion is not within its valid time range",),
    ),
    (70021, 700211, 700212, 700213, 700214): RefusalRow(
        "application-federation",
        "no federated credential of the application matches the assertion",
        f"a federated credential in the registration must have the assertion's issuer, subject and audience; {_THEN_AGAIN}",
        link=_FEDERATION,
        words=("no matching federated identity record found",),
    ),
    (700021, 50027, 50013): RefusalRow(
        "application-assertion",
        "Entra cannot use the assertion",
        f"check that {{credential}} points to an assertion for this application, from an issuer that it trusts; {_THEN_AGAIN}",
        link=_FEDERATION,
        words=("assertion is invalid", "invalid JWT token"),
    ),
    (700016, 70001): RefusalRow(
        "application-unknown",
        "the tenant does not know the application",
        f"check client_id= and tenant= of the account in the configuration, then {{reload}}; or {_PERMIT}, {_THEN_AGAIN}",
        link=_REGISTER,
        words=("application was not found in the directory",),
    ),
    (7000229, 501051, 50105, 65001): _admin(
        "application-not-permitted",
        "the application has no permission in the tenant yet",
        f"{_PERMIT}: docs/microsoft-setup.md has the steps; {_THEN_AGAIN}",
        link=_CONSENT,
        words=("missing service principal in the tenant", "application is not assigned to a role"),
    ),
    (7000112,): RefusalRow(
        "application-switched-off",
        "the application was disabled",
        f"ask its owner to enable it, {_THEN_AGAIN}; or use another client_id",
        link=_REGISTER,
        words=("application is disabled",),
    ),
    (90002, 90038, 50059): ROWS[90002],
    (9001023, 50194): RefusalRow(
        "application-needs-tenant",
        "an application that signs in by itself needs a specific tenant",
        "set tenant= of the account to the tenant's GUID or domain, then {reload}",
        link=_REGISTER,
        words=("grant type is not supported over the /common endpoint",),
    ),
    (500011, 650052, 50001): ROWS[650052],
    (50002, 500021, 500022, 5000211): ROWS[500021],
    (70011, 1002012, 28000, 700022): RefusalRow(
        "application-scope",
        "an application cannot request this scope",
        "set scopes= of the account to the .default of one resource and nothing else, then {reload}",
        link=_SCOPES,
        words=("provided value for scope is not valid", ".default"),
    ),
    (53003, 53004, 530035, 530031): _admin(
        "application-conditional-access",
        "a conditional-access policy of the organisation blocks the application",
        f"ask the administrator to exempt it, or to allow this machine's IP address; {_THEN_AGAIN}",
        link=_ACCESS,
        words=("conditional access for workload identities",),
    ),
}
APPLICATION_ROWS = {number: row for numbers, row in _APPLICATION_BY_NUMBERS.items() for number in numbers}
APPLICATION_REFUSED = RefusalRow(
    "application-not-accepted",
    "the provider refused the application",
    f"check its registration, {_THEN_AGAIN}; or client_id=, tenant= and {{credential}} of the account, then {{reload}}",
    link=_REGISTER,
    words=("invalid_client", "unauthorized_client"),
)
# IMDS, the App Service and Azure Arc use their own error words, which say less than the HTTP status.
NO_IDENTITY = RefusalRow(
    "no-managed-identity",
    "this machine has no such managed identity",
    f"assign it in Azure (`az vm identity assign`), {_THEN_AGAIN}; or name another in client_id=, then {{reload}}",
    link=f"{_LEARN}/identity/managed-identities-azure-resources/overview",
    words=("Identity not found", "managed identity", "IMDS"),
)

# Rows by HTTP status, used when nothing else is known.
THROTTLED = _wait(
    "throttled",
    "the provider asked for a pause",
    takes="a minute, or as long as Retry-After says",
    kind="throttled",
    words=("HTTP 429", "Too Many Requests", "Retry-After"),
)
FAILED = _wait(
    "provider-failed", "the provider failed", words=("HTTP 500", "HTTP 502", "HTTP 503", "HTTP 504", "HTTP 408")
)
NOT_THE_PROVIDER = _wait(
    "not-the-provider",
    "the answer does not come from an identity provider",
    "{retries}; a captive portal or a proxy may be in between",
    kind="garbage",
    words=("captive portal", "HTML instead of JSON"),
)

# An unknown error does not end the sign-in: cms tries again, slowly.
UNKNOWN = _wait("unknown", "the provider answered with an error that cms does not know")

_TOO_MANY_REQUESTS = 429
_TIMED_OUT = 408
_UNAUTHORIZED = 401
_SERVER_ERROR = 500


def origin_of(redirect: str) -> str:
    """Return the value of the Origin header for a redirect address."""
    return "/".join(redirect.split("/")[:3]) if "://" in redirect else "http://HOST:PORT"


# What to do after something was fixed elsewhere: for a person, and for an application that signs in by itself.
AGAIN = fill("{refresh}")
WAIT_OR_AGAIN = fill("wait, or {refresh}")


def row_of(number: int | None, error: str = "", suberror: str = "", status: int | None = None) -> RefusalRow:
    """Return the row for a refusal: by number, else by suberror, error word or HTTP status, else `UNKNOWN`.

    Numbers that only applications meet are found too.
    """
    return (
        ROWS.get(number or 0)
        or APPLICATION_ROWS.get(number or 0)
        or SUBERRORS.get(suberror)
        or ERRORS.get(error)
        or _of_status(status)
        or UNKNOWN
    )


def row_of_application(
    number: int | None, error: str = "", suberror: str = "", status: int | None = None
) -> RefusalRow:
    """Return the row for a refusal of an application that signs in by itself: by number, else `APPLICATION_REFUSED`.

    The provider's own failures have the same rows as for people.
    """
    row = APPLICATION_ROWS.get(number or 0)
    if row:
        return row
    other = row_of(number, error, suberror, status)
    return other if other.transient and other not in (UNKNOWN, NOT_THE_PROVIDER) else APPLICATION_REFUSED


def _of_status(status: int | None) -> RefusalRow | None:
    if status == _TOO_MANY_REQUESTS:
        return THROTTLED
    if status == _UNAUTHORIZED:
        return ERRORS["invalid_client"]
    if status == _TIMED_OUT or (status or 0) >= _SERVER_ERROR:
        return FAILED
    return NOT_THE_PROVIDER if status else None
