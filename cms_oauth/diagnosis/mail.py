"""Replies of SMTP, IMAP and POP servers and their causes: Exchange Online first, then other servers.

The patterns come from logs, Microsoft's documentation and the source code of servers. Microsoft changes its wording,
so each pattern matches only the part that tells one reply from another. The first matching row is used.
"""

from __future__ import annotations

import re

from cms_oauth.diagnosis import certificates
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import clouds_of_server
from cms_oauth.providers import of_host

_LEARN = "https://learn.microsoft.com/en-us"
_ONLINE = f"{_LEARN}/exchange/clients-and-mobile-in-exchange-online"
_SMTP_AUTH = f"{_ONLINE}/authenticated-client-smtp-submission"
_OAUTH = f"{_LEARN}/exchange/client-developer/legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth"
_IMAP_POP = f"{_ONLINE}/pop3-and-imap4/enable-or-disable-pop3-or-imap4-access"
_BASIC = f"{_ONLINE}/deprecation-of-basic-authentication-exchange-online"
_LEGACY_TLS = f"{_ONLINE}/opt-in-exchange-online-endpoint-for-legacy-tls-using-smtp-auth"
_SECURITY_DEFAULTS = f"{_LEARN}/entra/fundamentals/security-defaults"
_CONDITIONAL_ACCESS = f"{_LEARN}/entra/identity/conditional-access/overview"
_LIMITS = f"{_LEARN}/office365/servicedescriptions/exchange-online-service-description/exchange-online-limits"
_SENDING_LIMITS = f"{_LIMITS}#sending-limits"
_PERMISSIONS = f"{_LEARN}/exchange/recipients-in-exchange-online/manage-permissions-for-recipients"
_RESTRICTED = f"{_LEARN}/defender-office-365/outbound-spam-restore-restricted-users"
_PERSONAL = "https://support.microsoft.com/en-us/office/pop-imap-and-smtp-settings-8361e398-8af4-4e97-b147-6c6c4ac95353"
_HEALTH = "https://status.cloud.microsoft"
_RFC_7628 = "https://www.rfc-editor.org/rfc/rfc7628#section-3.2.2"

_AN_HOUR = "within minutes, at most an hour"
_AT_ONCE = "immediately"

_EMAIL_APPS = "Microsoft 365 admin center > Users > Active users > the user > Mail > Manage email apps"
_LOOK_AT_SMTP = "to check: `Get-CASMailbox {mailbox} | fl SmtpClientAuthenticationDisabled`; `Get-TransportConfig | fl SmtpClientAuthenticationDisabled`  (blank for the mailbox: the organisation's setting applies)"

# What is left where an administrator switches nothing on.
_SEND_OTHERWISE = "if it stays off: send through Microsoft Graph with contrib/graph-sendmail, or through DavMail; see docs/other-ways.md"
_READ_OTHERWISE = "if it stays off: read the mailbox through DavMail; see docs/other-ways.md"
_DO_OTHERWISE = "if that stays so: sending through Microsoft Graph, or DavMail, may be allowed; see docs/other-ways.md"

# --- switched off: the mailbox, the organisation, its policies ---

SMTP_AUTH_MAILBOX = Verdict(
    "smtp-auth-off-mailbox",
    "Authenticated SMTP is switched off for this mailbox.",
    "administrator",
    (
        "`Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false`",
        f"or click: {_EMAIL_APPS} > Authenticated SMTP",
        _LOOK_AT_SMTP,
        _SEND_OTHERWISE,
    ),
    _AN_HOUR,
    _SMTP_AUTH,
    ("SmtpClientAuthentication is disabled for the Mailbox", "535 5.7.139", "Authenticated SMTP"),
)
SMTP_AUTH_ORGANISATION = Verdict(
    "smtp-auth-off-organisation",
    "Authenticated SMTP is switched off for the whole organisation and not switched on for this mailbox.",
    "administrator",
    (
        "for this mailbox (overrides the organisation): `Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false`",
        "or for the whole organisation: `Set-TransportConfig -SmtpClientAuthenticationDisabled $false`",
        _LOOK_AT_SMTP,
        _SEND_OTHERWISE,
    ),
    _AN_HOUR,
    _SMTP_AUTH,
    ("SmtpClientAuthentication is disabled for the Tenant", "535 5.7.139", "aka.ms/smtp_auth_disabled"),
)
SMTP_AUTH_SOMEWHERE = Verdict(
    "smtp-auth-off",
    "Authenticated SMTP is switched off for this mailbox, or for the organisation and not switched on for this mailbox.",
    "administrator",
    (
        "`Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false`",
        f"or click: {_EMAIL_APPS} > Authenticated SMTP",
        _LOOK_AT_SMTP,
        _SEND_OTHERWISE,
    ),
    _AN_HOUR,
    _SMTP_AUTH,
    ("535 5.7.3 Authentication unsuccessful", "Authenticated SMTP", "SMTP AUTH"),
)


def _protocol_off(protocol: str, switch: str) -> Verdict:
    return Verdict(
        f"{protocol.lower()}-off",
        f"{protocol} is switched off for this mailbox.",
        "administrator",
        (
            f"`Set-CASMailbox -Identity {{mailbox}} -{switch} $true`",
            f"or click: {_EMAIL_APPS} > {protocol}",
            f"to check: `Get-CASMailbox {{mailbox}} | fl {switch}`",
            _READ_OTHERWISE,
        ),
        _AN_HOUR,
        _IMAP_POP,
        (f"{switch} False", f"enable {protocol} Office 365", "User is authenticated but not connected"),
    )


IMAP_OFF = _protocol_off("IMAP", "ImapEnabled")
POP_OFF = _protocol_off("POP", "PopEnabled")
SECURITY_DEFAULTS = Verdict(
    "security-defaults",
    "The organisation's security defaults block this protocol for the user.",
    "administrator",
    (
        "to check: Microsoft Entra admin center > Overview > Properties > Manage security defaults",
        "replace security defaults with conditional access policies that allow this user's mail programs",
        "and switch {protocol} on for the mailbox: `Set-CASMailbox -Identity {mailbox} {switch}`",
        _DO_OTHERWISE,
    ),
    _AN_HOUR,
    _SECURITY_DEFAULTS,
    ("user is locked by your organization's security defaults policy", "535 5.7.139", "security defaults SMTP AUTH"),
)
CONDITIONAL_ACCESS = Verdict(
    "conditional-access",
    "A policy of the organisation (conditional access, an authentication policy, a location) refuses this login.",
    "administrator",
    (
        'find the policy: Microsoft Entra admin center > Users > Sign-in logs, filtered by the user and the client app "Authenticated SMTP" or "IMAP"',
        "exempt the user or the application there; also check `Get-AuthenticationPolicy`",
        _DO_OTHERWISE,
    ),
    _AN_HOUR,
    _CONDITIONAL_ACCESS,
    (
        "the request did not meet the criteria to be authenticated successfully",
        "535 5.7.139",
        "conditional access SMTP",
    ),
)
ENTERPRISE_APP = Verdict(
    "enterprise-app-off",
    "Sign-in is disabled for the application, or for Office 365 Exchange Online itself, in the organisation's enterprise applications.",
    "administrator",
    (
        "Microsoft Entra admin center > Enterprise applications > the application > Properties: Enabled for users to sign in = Yes",
        "the same for Office 365 Exchange Online; if Assignment required is Yes, assign the user",
    ),
    _AN_HOUR,
    f"{_LEARN}/entra/identity/enterprise-apps/disable-user-sign-in-portal",
    ("AUTHENTICATE failed", "enabled for users to sign-in", "AADSTS50105"),
)
LICENCE = Verdict(
    "no-mailbox",
    "This address has no mailbox: the user has no licence with an Exchange plan, or the mailbox is still being created.",
    "administrator",
    (
        "to check: `Get-EXOMailbox {mailbox}`",
        "assign a licence with Exchange Online: Microsoft 365 admin center > Users > Active users > the user > Licenses and apps",
    ),
    "within a day for a new mailbox",
    f"{_LEARN}/microsoft-365/admin/manage/assign-licenses-to-users",
    ("unlicensed mailbox", "mailbox not provisioned", "licence"),
)
# From user reports of 2021 and before; Microsoft documents no such rule.
ADMINISTRATOR = Verdict(
    "administrator-mailbox",
    "Some users report that IMAP does not open an administrator's mailbox; Microsoft does not document this.",
    "administrator",
    (
        "if {user} is an administrator, and nothing else explains it: Microsoft Entra admin center > Users > the user > Assigned roles",
        "move the roles to a separate account that does not read mail",
    ),
    _AN_HOUR,
    "",
    ("IMAP for administrators of an Office 365 domain", "global administrator IMAP LOGIN failed"),
)
BASIC_AUTH = Verdict(
    "password-used",
    "The mail program sent a password instead of using OAuth2; the server no longer accepts passwords.",
    "you",
    (
        "configure the mail program to use XOAUTH2 with a token from cms: see docs/clients/",
        "to check: {check}",
    ),
    _AT_ONCE,
    _BASIC,
    (
        "basic authentication is disabled",
        "550 5.7.30 Basic authentication is not supported for Client Submission",
        "NO LOGIN failed",
        "app password",
    ),
)
CREDENTIALS = Verdict(
    "credentials-incorrect",
    "Exchange rejected the token, or a password sent instead of a token, as wrong.",
    "you",
    ("{again}", "make sure that the mail program sends a token, not a password: see docs/clients/"),
    _AT_ONCE,
    _OAUTH,
    ("the user credentials were incorrect", "535 5.7.139"),
)

# --- permission to open a mailbox or to send as another sender ---

SEND_AS = Verdict(
    "send-as-denied",
    "The login works, but this user may not send with this sender address.",
    "you",
    (
        "set the envelope sender and From: to the mailbox that logs in, or to an alias of it",
        "or ask an administrator to allow it: `Add-RecipientPermission SENDER@DOMAIN -Trustee {mailbox} -AccessRights SendAs`",
    ),
    _AN_HOUR,
    _PERMISSIONS,
    ("SendAsDenied", "5.7.60 Client does not have permissions to send as this sender", "5.2.252"),
)
FULL_ACCESS = Verdict(
    "no-full-access",
    "The user who signed in may not open the mailbox {mailbox}: a shared mailbox requires full access.",
    "administrator",
    (
        "`Add-MailboxPermission -Identity {mailbox} -User {trustee} -AccessRights FullAccess -AutoMapping $false`",
        "to check: `Get-MailboxPermission -Identity {mailbox}`",
    ),
    _AN_HOUR,
    _PERMISSIONS,
    ("shared mailbox", "FullAccess", "User is authenticated but not connected", "Add-MailboxPermission"),
)
OTHER_USER = Verdict(
    "token-user",
    "The token belongs to {claimed}, but the login names {user}.",
    "you",
    (
        'if {user} is an alias of the same mailbox: set the sign-in address in the configuration, user="{claimed}"',
        "if it is a shared mailbox: log in as {claimed} and send From: {user}, which `Add-RecipientPermission {mailbox} -Trustee {trustee} -AccessRights SendAs` allows",
        "if the wrong person signed in: {login}",
    ),
    _AT_ONCE,
    _OAUTH,
    ("535 5.7.3 shared mailbox", "XOAUTH2 wrong user", "alias"),
)
SHARED_SYNTAX = Verdict(
    "shared-syntax",
    "The login names USER\\MAILBOX, a form for shared mailboxes that Exchange Online no longer accepts.",
    "you",
    (
        "in the configuration, set user= to the shared mailbox alone and sign_in_as= to the person who signs in",
        "then {reload}; see docs/shared-mailboxes.md",
    ),
    _AT_ONCE,
    _OAUTH,
    ("user@domain\\shared@domain", "shared mailbox IMAP"),
)
SERVICE_PRINCIPAL = Verdict(
    "service-principal",
    "The token belongs to an application that Exchange does not know, or that has no access to this mailbox.",
    "administrator",
    (
        "`New-ServicePrincipal -AppId {app} -ObjectId OBJECT-ID`  (of the enterprise application, not of the app registration)",
        "`Add-MailboxPermission -Identity {mailbox} -User OBJECT-ID -AccessRights FullAccess`",
        "to check: `Get-ServicePrincipal | fl`; `Get-MailboxPermission -Identity {mailbox}`",
    ),
    _AN_HOUR,
    f"{_OAUTH}#register-service-principals-in-exchange",
    ("New-ServicePrincipal", "client credentials IMAP AUTHENTICATE failed", "app-only 535 5.7.3"),
)
APPLICATION_ROLE = Verdict(
    "application-permission",
    "The token belongs to an application and lacks the permission {app_role}: it has {permissions}.",
    "administrator",
    (
        "add the application permission {app_role} (Office 365 Exchange Online) to the app registration, and grant admin consent",
        "then get a new token: {refresh}",
    ),
    _AN_HOUR,
    f"{_OAUTH}#use-client-credentials-grant-flow-to-authenticate-smtp-imap-and-pop-connections",
    ("IMAP.AccessAsApp", "POP.AccessAsApp", "SMTP.SendAsApp"),
)
LOGON_FAILURE = Verdict(
    "mailbox-logon-failure",
    "The login works, but the application may not use the mailbox: the mailbox permission is missing or not active yet.",
    "administrator",
    (
        "`Add-MailboxPermission -Identity {mailbox} -User OBJECT-ID -AccessRights FullAccess`",
        "if you have just done that: wait",
    ),
    "within an hour",
    _OAUTH,
    ("430 4.2.0 STOREDRV; mailbox logon failure", "MapiExceptionLogonFailed"),
)

# --- the token ---

EXPIRED = Verdict(
    "token-expired",
    "The token expired {ago} ago.",
    "you",
    ("get a new one: {refresh}", "if that is expired too, the daemon gets no new tokens: see `cms status`"),
    _AT_ONCE,
    f"{_LEARN}/entra/identity-platform/access-tokens",
    ("access token expired", "535 5.7.3", "AUTHENTICATE failed"),
)
SESSION_OVER = Verdict(
    "session-token-expired",
    "The sign-in worked; Exchange ended the session when the token that began it expired, after an hour or so.",
    "you",
    (
        "let the mail program connect and log in again: it gets a new token for that from cms",
        "if it cannot do that by itself: let it run for less than an hour at a time, or update it",
    ),
    _AT_ONCE,
    f"{_LEARN}/entra/identity-platform/access-tokens",
    ("BYE Session invalidated - AccessTokenExpired", "BAD Command received in Invalid state"),
)
SESSION_ENDED = Verdict(
    "session-ended",
    "The sign-in worked; Exchange ended the session later, for a reason that cms does not know ({reply}).",
    "you",
    (
        "connect and log in again",
        "if that fails too, its answer says more: {check}",
    ),
    _AT_ONCE,
    "",
    ("BYE Session invalidated",),
)
REVOKED = Verdict(
    "token-revoked",
    "The server says that the token is expired or revoked ({challenge}).",
    "you",
    ("get a new one: {refresh}", "if the server refuses that too, {again}"),
    _AT_ONCE,
    f"{_LEARN}/entra/identity-platform/access-tokens",
    ("invalid_token", "401 Bearer", "token revoked"),
)
WANTED_SCOPE = Verdict(
    "server-scope",
    "The server wants a token with another scope: {wanted_scope}.",
    "you",
    (
        "add it to scopes= of the account, and to the application's registration, then {reload, login}",
        "if it is your own server: configure which scope it wants (Dovecot: `oauth2_scope`)",
    ),
    _AT_ONCE,
    _RFC_7628,
    ("insufficient_scope",),
)
ISSUER = Verdict(
    "token-issuer",
    "The token is of {issuer}, and the server accepts tokens of {wanted_issuer}.",
    "you",
    (
        "set issuer= of the account to the server's, then {reload, login}",
        "or ask whoever runs the server to accept tokens of {issuer}",
    ),
    _AT_ONCE,
    _RFC_7628,
    ("openid-configuration",),
)
CLOCK = Verdict(
    "clock-wrong",
    "This machine's clock is {skew}, so expired tokens look valid, or valid ones expired.",
    "you",
    ("set the clock: `timedatectl set-ntp true`", "then get a new token: {refresh}"),
    _AT_ONCE,
    "",
    ("clock skew", "token not yet valid", "ntp"),
)
AUDIENCE = Verdict(
    "token-audience",
    "The token is for {audience}, which no mail server accepts: scopes= names another resource.",
    "you",
    (
        "request {wanted} with https://outlook.office.com/ in front of it: without it, the name means Microsoft Graph's",
        "in cms: remove or correct scopes= of the account, then {reload, login}",
    ),
    _AT_ONCE,
    _OAUTH,
    ("aud graph.microsoft.com", "535 5.7.3 Graph token", "00000003-0000-0000-c000-000000000000"),
)
CLOUD = Verdict(
    "token-cloud",
    "The token is for {audience}, but {host} belongs to another of Microsoft's clouds.",
    "you",
    (
        "check cloud= of the account and the host: outlook.office365.com and smtp.office365.com serve only the worldwide cloud",
        "then {reload, login}",
    ),
    _AT_ONCE,
    f"{_LEARN}/entra/identity-platform/authentication-national-cloud",
    ("GCC High", "DoD", "21Vianet", "outlook.office365.us"),
)
SCOPE = Verdict(
    "token-scope",
    "The token lacks the permission {wanted}: it has {permissions}.",
    "you",
    (
        "add {wanted} to the permissions of the app registration, if it is missing",
        "make cms request it: add {protocol} to protocols= of the CredentialServer, then {reload}",
        "sign in again, and consent: {login}",
    ),
    _AT_ONCE,
    _OAUTH,
    ("SMTP.Send missing", "IMAP.AccessAsUser.All missing", "535 5.7.3 scp"),
)

# --- personal accounts ---

PERSONAL_OFF = Verdict(
    "personal-switches",
    "IMAP and POP are off for this personal account until you turn them on; on newer accounts SMTP is off too.",
    "you",
    (
        "Outlook.com > Settings > Mail > Forwarding and IMAP (in older views: Sync email): let devices and apps use IMAP, and POP; save",
    ),
    "within minutes",
    _PERSONAL,
    (
        "outlook.com IMAP disabled",
        "Let devices and apps use POP",
        "hotmail User is authenticated but not connected",
        "hotmail SmtpClientAuthentication is disabled for the Mailbox",
    ),
)
PERSONAL_ALIAS = Verdict(
    "personal-alias",
    "A personal account logs in with its sign-in address, not with an alias of it.",
    "you",
    (
        "find the sign-in address: account.microsoft.com > Your info > Account info",
        "set it as user= in the configuration, then {reload, login}",
        "if it is set already: scopes= must name https://outlook.office.com/, not https://outlook.office365.com/",
    ),
    _AT_ONCE,
    _PERSONAL,
    ("hotmail 535 5.7.3", "outlook.com alias SMTP"),
)
PERSONAL_HOST = Verdict(
    "personal-host",
    "{user} is a personal account, and {host} does not serve personal accounts.",
    "you",
    ("SMTP: smtp-mail.outlook.com, port 587; IMAP and POP: outlook.office365.com, ports 993 and 995",),
    _AT_ONCE,
    _PERSONAL,
    ("smtp-mail.outlook.com", "hotmail smtp.office365.com"),
)

# --- wrong server, wrong form ---

OTHER_SERVER = Verdict(
    "not-exchange",
    "This is {software}, not Exchange: Microsoft's settings do not apply to it.",
    "you",
    (
        "if {host} is the right server: read its log, and configure how it checks tokens (issuer, audience, scope, user)",
        "Dovecot calls every token that it refuses invalid, also if its `username_attribute` names a claim that is not the login name",
        "for a mailbox at Exchange Online the host is smtp.office365.com, port 587, or outlook.office365.com, ports 993 and 995",
    ),
    _AT_ONCE,
    "https://doc.dovecot.org/main/core/config/auth/databases/oauth2.html",
    ("Dovecot AUTHENTICATIONFAILED", "Postfix 535 5.7.8", "exim 535 Incorrect authentication data"),
)
OTHER_SERVICE = Verdict(
    "no-mail-server",
    "What answered is {kind}, not {protocol}: host or port is wrong, or something in between answers in its place ({answer}).",
    "you",
    (
        "check host and port: SMTP uses port 587 with STARTTLS (or 465 with TLS), IMAP 993, POP 995",
        "{login_place}",
        "if both are right: a proxy, a firewall or a captive portal of this network answers; open a page in a browser, or ask whoever runs the network",
    ),
    _AT_ONCE,
    _PERSONAL,
    ("HTTP/1.1 400 Bad Request", "SSH-2.0-OpenSSH", "220 FTP server ready"),
)
EXCHANGER = Verdict(
    "mail-exchanger",
    "{host} takes mail for delivery (an MX), but no logins.",
    "you",
    ("log in at {login_host}, not at {host}",),
    _AT_ONCE,
    _SMTP_AUTH,
    ("mail.protection.outlook.com", "mx.microsoft", "AUTH not advertised on port 25"),
)
NO_OAUTH = Verdict(
    "no-oauth",
    "The server does not offer OAuth2 login on this port; {offers}.",
    "you",
    (
        "check host and port: SMTP uses port 587 with STARTTLS, IMAP 993, POP 995; port 25 is for delivery and often accepts no logins",
        "{login_place}",
    ),
    _AT_ONCE,
    _PERSONAL,
    ("504 5.7.4 Unrecognized authentication type", "503 5.5.1 authentication not enabled", "AUTH not advertised"),
)
NO_PLUGIN = Verdict(
    "no-plugin",
    "The mail program logs in by the library Cyrus SASL, which has no plug-in for XOAUTH2 here.",
    "you",
    (
        "install it; for mbsync, in Debian: `apt install libsasl2-modules-kdexoauth2`",
        "for Postfix take the one of cms, in contrib/sasl, and no other beside it: docs/clients/postfix.md",
    ),
    _AT_ONCE,
    words=("No worthy mechs found", "no mechanism available"),
)
NO_TLS = Verdict(
    "no-tls",
    "The server offers no TLS on this port, or a device in between removes the offer; cms sends no token unencrypted.",
    "you",
    (
        "check host and port: SMTP uses 587 with STARTTLS (or 465), IMAP 993, POP 995",
        "if they are right: a firewall or virus scanner in between removes STARTTLS",
    ),
    _AT_ONCE,
    _PERSONAL,
    ("Must issue a STARTTLS command first", "530 5.7.0", "LOGINDISABLED"),
)
MALFORMED = Verdict(
    "malformed-login",
    "The server could not parse the login: the user name or the credential has an unexpected form.",
    "you",
    (
        "check user= of the account: a plain address, without spaces",
        "if another program sent it: user=U^Aauth=Bearer TOKEN^A^A in base64, on one line; docs/protocol.md",
    ),
    _AT_ONCE,
    f"{_OAUTH}#sasl-xoauth2",
    ("501 5.5.124 Invalid XOAUTH2 auth data", "501 5.5.4", "501 5.5.2 Cannot Base64-decode"),
)
NOT_LOGGED_IN = Verdict(
    "not-logged-in",
    "The mail program sent a message without a login, or after a failed login.",
    "you",
    (
        "if the server refused AUTH before this, that is the cause",
        "configure the mail program to log in: docs/clients/",
    ),
    _AT_ONCE,
    _SMTP_AUTH,
    ("530 5.7.57 Client not authenticated to send mail", "Client was not authenticated to send anonymous mail"),
)
OLD_TLS = Verdict(
    "old-tls",
    "The connection used TLS 1.0 or 1.1, which the server no longer accepts.",
    "you",
    ("update the program or its TLS library; a proxy that intercepts TLS may also be the cause",),
    _AT_ONCE,
    _LEGACY_TLS,
    ("421 4.7.66 TLS 1.0 and 1.1 are not supported",),
)

# --- limits, which look like authentication failures if a program shows only the last line ---

THROTTLED = Verdict(
    "throttled",
    "The server limits the use of this mailbox and asks for a pause ({wait}); the login itself works.",
    "wait",
    ("try again after {wait}, with fewer connections or fewer messages a minute",),
    "{wait}",
    _LIMITS,
    (
        "Request is throttled",
        "Suggested Backoff Time",
        "Server busy 4.7.500",
        "imapsync Trying command when NOT connected",
    ),
)
TOO_MANY_CONNECTIONS = Verdict(
    "too-many-connections",
    "This mailbox has too many connections at once.",
    "you",
    (
        "SMTP: let the mail program use at most 3 connections; IMAP: reduce its number of connections",
        "unsent messages are sent at the next try",
    ),
    "within minutes",
    _LIMITS,
    ("432 4.3.2 Concurrent connections limit exceeded", "aka.ms/concurrent_sending", "sender thread limit exceeded"),
)
SENDING_LIMIT = Verdict(
    "sending-limit",
    "The mailbox has reached its sending limit.",
    "wait",
    (
        "send more slowly; the daily limit is lifted within 24 hours",
        "Exchange Online allows 30 messages a minute, and 10,000 recipients a day",
        "for bulk mail, use another service than a mailbox",
    ),
    "a minute, or up to a day",
    _SENDING_LIMITS,
    ("SubmissionQuotaExceeded", "5.1.90 daily limit for message recipients", "30 messages per minute"),
)
ORGANISATION_LIMIT = Verdict(
    "organisation-limit",
    "The whole organisation has reached its sending limit, or mail from it is blocked as suspicious.",
    "administrator",
    (
        "check what was sent, and the Defender portal > Review > Restricted entities; then ask Microsoft's support to lift the block",
    ),
    "within a day",
    _RESTRICTED,
    ("5.7.705 tenant has exceeded threshold", "5.7.708 traffic not accepted from this IP"),
)
TOO_BIG = Verdict(
    "message-too-big",
    "The message is too big (attachments grow by a third when encoded); the login itself works.",
    "you",
    (
        "send a link instead, or split the message",
        "or ask an administrator to allow more, up to 150 MB: `Set-Mailbox -Identity {mailbox} -MaxSendSize 150MB -MaxReceiveSize 150MB`",
    ),
    _AN_HOUR,
    f"{_LIMITS}#message-limits",
    ("552 5.3.4 Message size exceeds fixed limit", "5.2.3", "Maximum size of appendable message has been exceeded"),
)
BAD_MESSAGE = Verdict(
    "bad-message",
    "Exchange rejected the message: it is too big (the usual limit is 45 MB), its lines are too long, or the mailbox is full; the login itself works.",
    "you",
    (
        "leave out messages over 45 MB and messages with lines over 10,500 characters; check the mailbox's quota",
        "Exchange closes the connection after ten such errors: connect again",
    ),
    _AT_ONCE,
    f"{_LIMITS}#message-limits",
    ("BAD Command Argument Error 11",),
)
HUNG_UP = Verdict(
    "connection-closed",
    "Exchange closed the connection: it does so after ten errors in a session (messages too big, lines too long), and when it has a fault.",
    "you",
    (
        "look for earlier errors, such as `BAD Command Argument Error 11` for a rejected message; then connect again",
        "if it happens during the login: try again in some minutes",
    ),
    "within minutes",
    f"{_LIMITS}#message-limits",
    ("BYE Connection closed",),
)
FOLDER = Verdict(
    "folder-name",
    "The server reserves this folder name, or has a folder with this name in other capitals; the login itself works.",
    "you",
    ("give the folder another name",),
    _AT_ONCE,
    "",
    ("Folder name is reserved", "Mailbox already exists"),
)
MAILBOX_FULL = Verdict(
    "mailbox-full",
    "The mailbox is full; sent messages count too, since Sent Items keeps them.",
    "you",
    ("delete mail and empty the folder of deleted mail, or ask an administrator for a bigger quota",),
    "within minutes",
    f"{_LIMITS}#mailbox-storage-limits",
    ("554 5.2.2 mailbox full", "Quota exceeded", "OVERQUOTA"),
)
RESTRICTED = Verdict(
    "sender-restricted",
    "Microsoft has stopped this mailbox from sending: too much of its mail looked like spam.",
    "administrator",
    (
        "find out how the mailbox was misused, and change its password",
        "Defender portal > Email & collaboration > Review > Restricted entities > Unblock",
    ),
    "within a day",
    _RESTRICTED,
    ("550 5.1.8 Access denied, bad outbound sender", "restricted entities"),
)

# --- faults of Microsoft's servers or of the network ---

BACKEND = Verdict(
    "server-trouble",
    "The server has a fault or is busy; nothing is wrong with the login.",
    "wait",
    ("try again in some minutes", "if it lasts an hour, see https://status.cloud.microsoft"),
    "minutes, rarely hours",
    _HEALTH,
    (
        "454 4.7.0 Temporary authentication failure",
        "421 4.3.2 Service not active",
        "Server Unavailable. 15",
        "Connection is closed. 14",
    ),
)
PROXY_FAILURE = Verdict(
    "front-end-trouble",
    "Exchange's front end could not reach the mailbox.",
    "wait",
    (
        "try again in some minutes",
        "if only this mailbox is affected, ask an administrator to check it (`Get-EXOMailbox {mailbox}`) and its licence",
    ),
    "minutes, rarely hours",
    _HEALTH,
    ("451 4.7.0 Temporary server error. Please try again later. PRX4", "PRX2", "PRX5", "PRX6"),
)
OUTAGE = Verdict(
    "microsoft-outage",
    "Exchange accepted the login but did not find the mailbox; this happens during outages at Microsoft.",
    "wait",
    ("try again in an hour; see https://status.cloud.microsoft and, as an administrator, the service health page",),
    "minutes, rarely days",
    _HEALTH,
    ("User is authenticated but not connected", "outage", "Connection closed. 14"),
)
POP_POLLING = Verdict(
    "pop-polling",
    "The server refuses POP logins that come too often.",
    "you",
    ("let only one mail program check, every few minutes and at most once a minute",),
    "within minutes",
    _IMAP_POP,
    ("-ERR Logon failure", "LOGIN-DELAY", "IN-USE"),
)
TLS_BROKEN = Verdict(
    "tls-broken",
    "The TLS handshake or connection failed: the port does not start with TLS, or a device in between interferes.",
    "you",
    (
        "check the port: 587, 143 and 110 start unencrypted; 465, 993 and 995 start with TLS",
        "if it fails only sometimes: try again",
    ),
    _AT_ONCE,
    "",
    ("WRONG_VERSION_NUMBER", "SSL read error", "UNEXPECTED_EOF_WHILE_READING"),
)
NO_NAME = Verdict(
    "no-such-host",
    "The host name cannot be resolved: a typing mistake, or no network.",
    "you",
    ("check the spelling; try: `getent hosts {host}`",),
    _AT_ONCE,
    "",
    ("Name or service not known", "Temporary failure in name resolution"),
)
NO_CONNECTION = Verdict(
    "no-connection",
    "No connection to the server: nothing is listening there, or a firewall is in between.",
    "you",
    ("check host and port", "{reachable}"),
    _AT_ONCE,
    "",
    ("Connection refused", "Network is unreachable", "No route to host", "Connection timed out"),
)
NO_GREETING = Verdict(
    "no-greeting",
    "Nothing came from {host}: something in between drops the packets, or another service listens there that waits for the client to speak first, such as a web server or one with TLS from the first byte.",
    "you",
    (
        "check host and port: 587, 143 and 110 start unencrypted; 465, 993 and 995 start with TLS",
        "{login_place}",
        "if both are right: ask whoever runs the network whether a firewall blocks the port; if nothing does, try again later",
    ),
    _AT_ONCE,
    "",
    ("timed out", "no greeting"),
)
NO_ANSWER = Verdict(
    "no-answer",
    "The server, or a device in between, closed the connection or stopped answering.",
    "wait",
    ("try again; if it keeps failing, check host and port, and firewalls and virus scanners that inspect mail",),
    "minutes",
    "",
    ("Connection unexpectedly closed", "timed out", "421 4.4.2 Connection dropped"),
)
# --- what nobody has seen yet ---

UNKNOWN = Verdict(
    "unknown",
    "cms does not know this reply: {reply}",
    "you",
    ("read the reply: nothing more is known",),
)


@dataclass(frozen=True, slots=True)
class MailRow:
    """A server's reply and its possible causes, the likeliest first.

    `pattern` is searched for without regard to case. `unsaid` is True if the reply does not name its cause, or is known
    to name a wrong one: the token and the server's behaviour then decide. `guess` is True if the pattern knows only the
    reply's number or a vague word, not its words: the causes are then guesses, and said so. `source` is where the wording
    comes from.
    """

    protocols: tuple[str, ...]
    pattern: re.Pattern[str]
    causes: tuple[Verdict, ...]
    source: str
    unsaid: bool = False
    guess: bool = False


# An enhanced status code (RFC 3463) in a row's pattern: it must not be part of a longer number, such as an address.
_CODE = re.compile(r"#(\d|\[45\])(\.\d+\.\d+)")

# `~` in a row's pattern: the reply's words end here, and only identifiers follow. What goes on names a cause of its own.
_END = r"[.!]?\s*(\[[^\]]*\][.\s]*)*$"


def _row(
    protocols: str,
    pattern: str,
    *causes: Verdict,
    source: str = "Exchange Online, SMTP",
    unsaid: bool = False,
    guess: bool = False,
) -> MailRow:
    whole = _CODE.sub(lambda code: rf"(?<![\d.]){code[1]}{re.escape(code[2])}(?!\.?\d)", pattern).replace("~", _END)
    return MailRow(tuple(protocols.split()), re.compile(whole, re.IGNORECASE), causes, source, unsaid, guess)


_ANY = "smtp imap pop"
_D4 = "Exchange Online, IMAP and POP"
_OTHERS = "sources of Dovecot, Postfix and exim"
_OWN = "cms_oauth.mailtest"
_STANDARD = "RFC 5321, RFC 4954"

# Possible causes of a refusal that names none; the evidence sorts them (`lookup`).
_LAST = (FULL_ACCESS, SECURITY_DEFAULTS, CONDITIONAL_ACCESS, ENTERPRISE_APP, LICENCE, SERVICE_PRINCIPAL)
_SMTP_CAUSES = (
    SMTP_AUTH_SOMEWHERE,
    PERSONAL_ALIAS,
    PERSONAL_OFF,
    SECURITY_DEFAULTS,
    CONDITIONAL_ACCESS,
    LICENCE,
    SERVICE_PRINCIPAL,
)
_IMAP_CAUSES = (IMAP_OFF, PERSONAL_OFF, *_LAST, ADMINISTRATOR)
_POP_CAUSES = (POP_OFF, PERSONAL_OFF, *_LAST)

ROWS = (
    # Words of the resolver's: a server's "temporary" is something else.
    _row(_ANY, r"temporary failure in name resolution", NO_NAME, source="getaddrinfo(3)"),
    # Words of a library of the mail program's, which sends nothing then.
    _row(_ANY, r"no worthy mechs found|no mechanism available", NO_PLUGIN, source="Cyrus SASL, sasl_errstring"),
    # A time named in the reply comes before anything else it says.
    _row(
        _ANY,
        r"throttled|backoff time|retry-after|#4.7.500|server busy|(?<!recipient )rate limit|too much mail",
        THROTTLED,
        source=_D4,
    ),
    # SMTP, at the login.
    _row("smtp", r"disabled for the tenant", SMTP_AUTH_ORGANISATION, PERSONAL_OFF, PERSONAL_ALIAS),
    _row("smtp", r"disabled for the mailbox", SMTP_AUTH_MAILBOX, PERSONAL_OFF, PERSONAL_ALIAS),
    _row("smtp", r"security defaults", SECURITY_DEFAULTS),
    _row(
        "smtp",
        r"smtp_auth_disabled|smtpclientauthentication is disabled",
        SMTP_AUTH_SOMEWHERE,
        PERSONAL_OFF,
        PERSONAL_ALIAS,
    ),
    _row(
        "smtp",
        r"did not meet the criteria",
        CONDITIONAL_ACCESS,
        SECURITY_DEFAULTS,
        SMTP_AUTH_SOMEWHERE,
        PERSONAL_OFF,
        PERSONAL_ALIAS,
        BASIC_AUTH,
        unsaid=True,
    ),
    _row(_ANY, r"basic auth\w* is (disabled|not supported)|#5.7.30", BASIC_AUTH),
    _row("smtp", r"credentials were incorrect", CREDENTIALS, OTHER_USER, unsaid=True),
    _row("smtp", r"#4.7.66|tls 1\.[01]\b", OLD_TLS, source="Microsoft's note on legacy TLS clients"),
    _row(
        "smtp",
        r"starttls command first|must issue a? ?starttls|#5.7.11|requires encryption|encryption required",
        NO_TLS,
        source=_OTHERS,
    ),
    _row("smtp", r"^504|#5.7.4 unrecogni[sz]ed", NO_OAUTH, NO_TLS),
    _row("smtp", r"not enabled|not advertised|^502", NO_OAUTH, source=_OTHERS),
    _row("smtp", r"#5.5.124|^501 5\.5\.\d|invalid xoauth2|base64", MALFORMED),
    # SMTP, when a message is sent.
    _row("smtp", r"^(?!535).*(not authenticated|authentication (is )?required)|#5.7.57", NOT_LOGGED_IN),
    _row("smtp", r"sendasdenied|#5.7.60|#5.2.252|send as this sender|sender address rejected: not owned", SEND_AS),
    _row("smtp", r"logon failure|logonfailed", LOGON_FAILURE, SERVICE_PRINCIPAL),
    _row("smtp", r"^432 4\.3\.2|concurrent|thread limit", TOO_MANY_CONNECTIONS),
    _row("smtp", r"submissionquotaexceeded|#5.1.90|daily limit|recipient ?rate ?limit|submission rate", SENDING_LIMIT),
    _row("smtp", r"#5.7.705|#5.7.708", ORGANISATION_LIMIT, source="Microsoft's list of NDR codes"),
    _row("smtp", r"#5.3.4|#5.2.3|message size|sendsizelimit|too large", TOO_BIG),
    _row("smtp", r"#5.1.8|bad outbound sender", RESTRICTED),
    _row("smtp", r"#[45].2.2|mailbox (is )?full|over.{0,5}quota", MAILBOX_FULL),
    _row("smtp", r"\bPRX\d\b", PROXY_FAILURE, LICENCE),
    _row("smtp", r"^421 4\.4\.2|connection dropped", NO_ANSWER),
    _row(
        "smtp",
        r"^4\d\d.*(temporar|try again|later|at present|not active|not available|unavailable)|#4.3.[012]",
        BACKEND,
    ),
    _row("smtp", r"authentication (unsuccessful|failed|credentials invalid)~", *_SMTP_CAUSES, unsaid=True),
    # SMTP, known by the number alone.
    _row("smtp", r"^53[458]", *_SMTP_CAUSES, source=_STANDARD, unsaid=True, guess=True),
    _row("smtp", r"^530", NOT_LOGGED_IN, source=_STANDARD, guess=True),
    _row("smtp", r"^501", MALFORMED, source=_STANDARD, guess=True),
    _row("smtp", r"^552", TOO_BIG, MAILBOX_FULL, source=_STANDARD, guess=True),
    _row("smtp", r"^4\d\d", BACKEND, source=_STANDARD, guess=True),
    # IMAP and POP: replies that are not about the login.
    _row("imap", r"appendable message|\[TOOBIG\]", TOO_BIG, source="user reports"),
    _row("imap", r"command argument error", BAD_MESSAGE, source="user reports"),
    _row("imap", r"name is reserved|already exists", FOLDER, source="user reports"),
    _row("imap pop", r"over.{0,5}quota|quota.{0,15}exceeded|mailbox (is )?full", MAILBOX_FULL, source="RFC 5530"),
    _row(
        "imap pop",
        r"too many (\w+ ){0,3}(connections|sessions|logins)|maximum number of connections|connection limit|\[LIMIT\]",
        TOO_MANY_CONNECTIONS,
        source=_D4,
    ),
    _row("pop", r"login-delay|in-use|maildrop.{0,10} locked", POP_POLLING, BACKEND, source=_D4),
    # Exchange says this for anything that is wrong with the login, and for logins that come too often.
    _row(
        "pop",
        r"logon failure(: unknown user name or bad password)?~",
        POP_POLLING,
        BACKEND,
        *_POP_CAUSES,
        source=_D4,
        unsaid=True,
    ),
    _row(
        "imap pop",
        r"session invalidated - accesstokenexpired|received in invalid state",
        SESSION_OVER,
        source="user reports",
    ),
    _row("imap pop", r"session invalidated", SESSION_ENDED, source="user reports"),
    _row("imap", r"trying command when not connected", THROTTLED, HUNG_UP, source="user reports"),
    _row("imap", r"^(\* )?(bye )?connection closed\.?$", HUNG_UP, BAD_MESSAGE, BACKEND, source="user reports"),
    # IMAP and POP: the login.
    _row(
        "imap",
        r"authenticated but not connected",
        IMAP_OFF,
        PERSONAL_OFF,
        FULL_ACCESS,
        LICENCE,
        OUTAGE,
        SERVICE_PRINCIPAL,
        ADMINISTRATOR,
        source=_D4,
        unsaid=True,
    ),
    _row(
        "pop",
        r"authenticated but not connected",
        POP_OFF,
        PERSONAL_OFF,
        FULL_ACCESS,
        LICENCE,
        OUTAGE,
        SERVICE_PRINCIPAL,
        source=_D4,
        unsaid=True,
    ),
    _row(
        "imap",
        r"\[NONEXISTENT\]|(no such|unknown) mailbox|mailbox (does not|doesn.t) exist",
        LICENCE,
        source="RFC 5530",
    ),
    _row("imap pop", r"\[EXPIRED\]", REVOKED, source="RFC 5530"),
    _row("imap", r"\[AUTHORIZATIONFAILED\]", FULL_ACCESS, source="RFC 5530"),
    _row("imap", r"\[PRIVACYREQUIRED\]|logindisabled", NO_TLS, source="RFC 5530"),
    _row(
        "imap pop",
        r"unavailable|\[SYS/TEMP\]|\[INUSE\]|connection (is )?closed\. ?\d|temporary|try again",
        BACKEND,
        source=_D4,
    ),
    _row(
        "imap",
        r"authenticate failed~|authentication ?failed~|invalid credentials~",
        *_IMAP_CAUSES,
        source=_D4,
        unsaid=True,
    ),
    # The answer to LOGIN, which sends a password; a token is sent with AUTHENTICATE.
    _row("imap", r"login failed~", BASIC_AUTH, *_IMAP_CAUSES, source="user reports", unsaid=True),
    _row(
        "pop",
        r"authentication fail(ed|ure)(: unknown user name or bad password)?~|invalid credentials~",
        *_POP_CAUSES,
        source=_D4,
        unsaid=True,
    ),
    _row("imap pop", r"unsupported|unknown command|command unrecogni[sz]ed", NO_OAUTH, source=_OTHERS),
    # IMAP and POP, known by a code or a vague word alone.
    _row(
        "imap",
        r"\[AUTHENTICATIONFAILED\]|authenticat|credentials|login failed",
        *_IMAP_CAUSES,
        source="RFC 5530",
        unsaid=True,
        guess=True,
    ),
    _row(
        "pop",
        r"\[AUTH\]|\[SYS/PERM\]|authenticat|credentials|logon failure|unknown user name",
        *_POP_CAUSES,
        source="RFC 3206",
        unsaid=True,
        guess=True,
    ),
    # The connection failed before any dialogue.
    _row(_ANY, r"offers no oauth2 login", NO_OAUTH, source=_OWN),
    _row(_ANY, r"offers no tls", NO_TLS, source=_OWN),
    *(
        _row(
            _ANY,
            rf"(?:the certificate of .* is not trusted|certificate.verify).*(?:{each.pattern})",
            each.verdict,
            source=_OWN,
        )
        for each in certificates.ROWS
    ),
    _row(
        _ANY,
        r"no tls with|ssl (read|write)? ?error|wrong.version.number|eof occurred in violation",
        TLS_BROKEN,
        source=_OWN,
    ),
    _row(_ANY, r"cannot be resolved|name or service not known", NO_NAME, source=_OWN),
    _row(_ANY, r"no connection with|connection refused|unreachable|no route to host", NO_CONNECTION, source=_OWN),
    _row(_ANY, r"nothing came from", NO_GREETING, source=_OWN),
    _row(
        _ANY,
        r"no whole answer|ended the connection|not done after|connection was closed|timed out|unexpectedly closed|connection reset",
        NO_ANSWER,
        source=_OWN,
    ),
)

# Servers other than Exchange and those of `servers`, recognised by their greeting and by wording that no other server uses.
SOFTWARE = (
    (
        "Dovecot",
        re.compile(
            r"\bdovecot\b|\[AUTHENTICATIONFAILED\] Authentication failed|^-ERR \[AUTH\] Authentication failed",
            re.IGNORECASE,
        ),
    ),
    ("Postfix", re.compile(r"\bESMTP Postfix\b|5\.7\.8 Error: authentication failed", re.IGNORECASE)),
    (
        "exim",
        re.compile(r"\bESMTP Exim\b|Incorrect authentication data|Unable to authenticate at present", re.IGNORECASE),
    ),
    ("Cyrus", re.compile(r"\bCyrus (IMAP|POP3)\b", re.IGNORECASE)),
    ("Courier", re.compile(r"\bCourier-IMAP\b", re.IGNORECASE)),
)

# How a mail server's first line begins (RFC 5321, 3501, 1939), and what else answers at a wrong port: the first match
# counts.
GREETINGS = {
    "smtp": re.compile(r"[2-5]\d\d(?!\d)"),
    "imap": re.compile(r"\* (OK|PREAUTH|BYE)\b", re.IGNORECASE),
    "pop": re.compile(r"[+]OK|-ERR", re.IGNORECASE),
}
SERVICES = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"HTTP/\d|RTSP/\d|<!doctype|<html", "a web server"),
        (r"SSH-\d", "an SSH server"),
        (r"2\d\d[ -](?!.*\bE?SMTP\b).*(ftpd?|filezilla)\b|220 \(vsFTPd", "an FTP server"),
        (r"20[01][ -](?!.*\bE?SMTP\b).*\b(nntp|nnrp|innd?|usenet|news)\b", "a news server"),
        (r"220[ -].*\blmtp\b", "an LMTP server, which takes no logins"),
        (r'"(IMPLEMENTATION|SIEVE)"', "a ManageSieve server"),
        (r"\* (OK|PREAUTH|BYE)\b", "an IMAP server"),
        (r"[+]OK", "a POP server"),
        (r"220[ -]", "an SMTP server"),
    )
)

# What the standards say of a reply whose words nobody knows (RFC 5321, 4.2; RFC 4954, 6; RFC 5530; RFC 3206).
CODES = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"^421", "it closes the connection, and another try may work later"),
        (r"^432", "a password has to be changed first"),
        (r"^454", "the login failed for the moment"),
        (r"^501", "it could not read what was sent"),
        (r"^530", "a login is required first"),
        (r"^534", "this way to log in is too weak for the account"),
        (r"^535", "it refused the login"),
        (r"^538", "this way to log in needs encryption"),
        (r"^552", "a limit for size or storage is exceeded"),
        (r"^4\d\d|\[UNAVAILABLE\]|\[SYS/TEMP\]", "the fault is temporary: the same may work later"),
        (r"\[SYS/PERM\]|\[CONTACTADMIN\]|\[SERVERBUG\]", "whoever runs the server has to look at it"),
        (r"\[AUTHENTICATIONFAILED\]|\[AUTH\]", "it refused the login"),
        (r"\[NOPERM\]", "the user may not do this"),
        (r"^5\d\d", "the fault is permanent: the same will not work later"),
    )
)

# Where Exchange Online takes logins.
PORTS = {"smtp": 587, "imap": 993, "pop": 995}

# Where it is not known whose server it is.
REACHABLE = (
    "Exchange Online: outgoing port 587 (SMTP), 993 (IMAP) or 995 (POP) must be open; many networks allow these and "
    "block 25 and 465. A server of your own: it has to run, and its firewall to let this machine connect"
)


def reachable(port: int, host: str) -> str:
    """Return what a connection needs: at a provider's hosts a network that lets one out, elsewhere a server that runs."""
    if not host:
        return REACHABLE
    if clouds_of_server(host) or of_host(host):
        blocks = "many networks allow that and block 25 and 465: " if port == PORTS["smtp"] else ""
        return f"outgoing port {port} must be open; {blocks}ask the administrator of your network, or try from another network"
    if host in ("localhost", "::1") or host.startswith("127."):
        return "start the server; `ss --listening --tcp --numeric` shows the ports that programs listen at"
    return "ask whoever runs the server whether it runs, and whether a firewall lets this machine connect to that port"
