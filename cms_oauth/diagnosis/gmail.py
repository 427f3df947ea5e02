"""Replies of Gmail's servers, which say other things than Exchange's with the same codes. Pure.

`servers` looks them up. The wordings are from transcripts that users have published; none was seen in a session of cms's own.
"""

from __future__ import annotations

from dataclasses import replace

from cms_oauth.diagnosis import mail
from cms_oauth.diagnosis.verdicts import Verdict

_SETTINGS = "https://support.google.com/mail/answer/7126229"
_LIMITS = "https://support.google.com/a/answer/1071518"
_SETUP = "docs/providers.md says how to set Google's side up"

_AT_ONCE = "immediately"

# The name is that of the verdict for any server: a new token is tried once after it.
STALE = replace(
    mail.REVOKED,
    cause="Gmail does not accept the token: it has expired or was revoked ({challenge}).",
    link="https://developers.google.com/gmail/imap/xoauth2-protocol",
    words=("535-5.7.8 Username and Password not accepted", "AUTHENTICATIONFAILED Invalid credentials (Failure)"),
)
SCOPE = Verdict(
    "gmail-scope",
    "The token is not for mail: the scope https://mail.google.com/ was not granted.",
    "you",
    ("sign in once more and leave the permission for mail ticked: {login}", _SETUP),
    _AT_ONCE,
    "",
    ("BadCredentials", '"scope":"https://mail.google.com/"'),
)
USER = Verdict(
    "gmail-user",
    "The login names {user}, and the token is another account's.",
    "you",
    ("name the account in the mail program as cms has it: `cms status` shows it", "or sign in as {user}: {login}"),
    _AT_ONCE,
    "",
    ("Invalid credentials (Failure)",),
)
SERVICE_USER = Verdict(
    "gmail-no-mailbox",
    "{user} has no mailbox: a service account logs in as the mailbox that it opens, not under its own name.",
    "you",
    ("set user= of the account, and the mail program's user, to the mailbox",),
    _AT_ONCE,
    "",
    ("NO Lookup failed",),
)
IMAP_ADMIN = Verdict(
    "gmail-imap-domain",
    "IMAP is switched off for the whole Google Workspace.",
    "administrator",
    ("Google's admin console > Apps > Google Workspace > Gmail > End user access > POP and IMAP access",),
    "within minutes, at most a day",
    "",
    ("IMAP access is disabled for your domain",),
)
IMAP_OFF = Verdict(
    "gmail-imap-off",
    "IMAP is switched off for this account.",
    "you",
    (
        "Gmail in a browser > Settings > Forwarding and POP/IMAP > Enable IMAP; if that is not there, ask the administrator",
    ),
    _AT_ONCE,
    _SETTINGS,
    ("Your account is not enabled for IMAP use",),
)
POP_OFF = Verdict(
    "gmail-pop-off",
    "POP is switched off for this account: Gmail says so after the login.",
    "you",
    ("Gmail in a browser > Settings > Forwarding and POP/IMAP > Enable POP; or use IMAP",),
    _AT_ONCE,
    _SETTINGS,
    ("-ERR [SYS/PERM] Your account is not enabled for POP access",),
)
BROWSER = Verdict(
    "gmail-web-login",
    "Google wants the person to sign in to Gmail in a browser first: the login looked unusual.",
    "you",
    ("sign in at https://mail.google.com as {user}, confirm what it asks, and try again",),
    "within minutes",
    "https://support.google.com/mail/answer/78754",
    ("Please log in via your web browser", "WebLoginRequired", "534-5.7.14", "Web login required"),
)
PASSWORD = Verdict(
    "gmail-password-sent",
    "The mail program has sent a password in place of a token.",
    "you",
    ("set its authentication to OAuth2 (XOAUTH2 or OAUTHBEARER), with the token from cms: docs/clients/README.md",),
    _AT_ONCE,
    "",
    ("534-5.7.9 Application-specific password required", "InvalidSecondFactor"),
)
CONNECTIONS = Verdict(
    "gmail-connections",
    "Gmail allows 15 IMAP connections to an account at one time.",
    "you",
    ("end other mail programs, or lower their number of connections",),
    "within minutes",
    _SETTINGS,
    ("Too many simultaneous connections",),
)
BANDWIDTH = Verdict(
    "gmail-bandwidth",
    "The account has used up what Gmail allows in a day: 2500 MB by IMAP. The mailbox is not full.",
    "wait",
    ("wait: the limit clears by itself; copy a big mailbox over several days",),
    "1 to 24 hours",
    _LIMITS,
    ("BYE [OVERQUOTA] Account exceeded command or bandwidth limits",),
)
LOGINS = Verdict(
    "gmail-logins",
    "Too many logins in a short time: each failed one counts too.",
    "wait",
    ("wait, and let mail programs log in less often: one login for several messages",),
    "minutes",
    "",
    ("454 4.7.0 Too many login attempts", "421 4.7.0"),
)
FAULT = Verdict(
    "gmail-fault",
    "Gmail has a fault, or is busy; nothing is wrong with the login.",
    "wait",
    ("try again in some minutes; https://www.google.com/appsstatus shows known faults",),
    "minutes, rarely hours",
    "",
    ("[UNAVAILABLE]", "[SYS/TEMP]"),
)

# What a reply has in it, and the causes, the likeliest first.
ROWS = (
    (r"overquota|command or bandwidth limits", (BANDWIDTH,)),
    (r"imap access is disabled for your domain", (IMAP_ADMIN,)),
    (r"not enabled for imap", (IMAP_OFF,)),
    (r"not enabled for pop", (POP_OFF,)),
    (r"web login required|web browser|webloginrequired|^534.5\.7\.14", (BROWSER,)),
    (r"application-specific password|invalidsecondfactor", (PASSWORD,)),
    (r"too many simultaneous connections", (CONNECTIONS,)),
    (r"too many login attempts|^4[25][14].4\.7\.0", (LOGINS,)),
    (r"invalid sasl argument", (mail.MALFORMED,)),
    (r"lookup failed", (SERVICE_USER,)),
    (r"invalid credentials|not accepted|badcredentials", (STALE, SCOPE, USER)),
    (r"\[unavailable\]|\[sys/temp\]", (FAULT,)),
)

# All of them, for the pages.
VERDICTS = tuple(each for each in vars().copy().values() if isinstance(each, Verdict))
