"""Failures between a mail program and cms, before any mail server is involved: the daemon, its socket, its answers.

`cms-oauth` reports each of these in one line (`dial`, `fetch`); this table has the cause and the steps to fix it.
"""

from __future__ import annotations

import re

from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.frozen import dataclass

_AT_ONCE = "immediately"

NOT_A_SOCKET = Verdict(
    "not-a-socket",
    "The path is a file or a folder, not a socket: it is misspelled, or something has replaced the socket.",
    "you",
    ("see where the daemon listens: `cms status`", "use that path: --cms_sock=PATH, or CMS_SOCK in the environment"),
    _AT_ONCE,
    words=("not a socket", "cms_sock"),
)
NO_SOCKET = Verdict(
    "no-socket",
    "There is no socket at this path: the daemon is not running, or listens elsewhere.",
    "you",
    (
        "start the daemon: `cms run`  (or: `systemctl --user start cms`)",
        "if it is running: set the path of its socket with --cms_sock=PATH or CMS_SOCK; `cms status` shows it, and `cms reload` puts back a socket that was removed",
    ),
    _AT_ONCE,
    words=("there is no socket at", "No such file or directory", "wrong path", "cron has no XDG_RUNTIME_DIR"),
)
NOBODY_LISTENS = Verdict(
    "nobody-listens",
    "The socket file exists, but the daemon is not running.",
    "you",
    (
        "start the daemon: `cms run`  (or: `systemctl --user start cms`)",
        "if it stops again, its log says why: `journalctl --user -u cms`",
    ),
    _AT_ONCE,
    words=("nobody listens on", "Connection refused"),
)
NO_PERMISSION = Verdict(
    "no-permission",
    "This user may not use the socket: the permissions of the socket, or of a folder above it, do not allow it.",
    "you",
    (
        "allow the user, in the configuration of the daemon's owner: CredentialServer(..., mode=, group= or users=), then {reload}",
        "and open every folder on the path: `namei -l PATH` shows them",
    ),
    _AT_ONCE,
    words=("permission denied on", "EACCES", "Debian-exim"),
)
HUNG_UP = Verdict(
    "not-on-the-list",
    "The daemon closed the connection before reading the request: the socket's users= and groups= do not include this user.",
    "you",
    (
        "allow the user, in the configuration of the daemon's owner: CredentialServer(..., users= or groups=), then {reload}",
    ),
    _AT_ONCE,
    words=("hung up on uid", "denied", "users= groups="),
)
STRANGER = Verdict(
    "may-be-a-stranger",
    "Another user than the daemon's may answer at this path, because the folders do not keep others out: cms-oauth asks no"
    " such program for a token, which could be the token of a stranger's account.",
    "you",
    (
        (
            "put the socket into a folder that only the daemon's user can write, in folders that only root can write, not in /tmp:"
            ' CredentialServer("/run/cms/cms.sock")'
        ),
        "{reload}",
        "if only uid numbers differ: see what listens there, `ss -xlp`, and start the daemon again",
    ),
    _AT_ONCE,
    words=("may be a stranger", "untrusted", "exit status 75"),
)
EMPTY = Verdict(
    "empty-reply",
    "The daemon refused the request with an empty reply and gave no reason.",
    "you",
    (
        "look for the reason: `cms status`",
        "if the socket belongs to another program: set the right path with --cms_sock",
    ),
    _AT_ONCE,
    words=("answered nothing", "empty reply", "readsocket returned nothing"),
)
HALF = Verdict(
    "half-reply",
    "The reply was cut off, or did not come from cms: another program may be listening at this path.",
    "you",
    ("try again", "if it keeps failing: `cms status`, and check the path in --cms_sock"),
    _AT_ONCE,
    words=("sent half a reply", "not a reply of cms", "this is not cms"),
)
NO_ANSWER = Verdict(
    "no-answer-in-time",
    "The daemon did not answer in time: it is stopped, stuck, or very busy.",
    "you",
    ("try again", "if it keeps failing: `cms status`; a daemon stopped by Ctrl-Z or a debugger does not answer"),
    _AT_ONCE,
    words=("no answer in time", "timeout"),
)
BAD_PATH = Verdict(
    "bad-path",
    "The path is too long for a socket (the limit is 107 bytes), or has a character that no path can contain.",
    "you",
    ("use a shorter path, in CredentialServer(...) and in --cms_sock",),
    _AT_ONCE,
    words=("is not a path for a socket", "AF_UNIX path too long"),
)
UNREAD_PATH = Verdict(
    "path-not-read",
    "The path means another one: it has a variable that is not set here, a systemd specifier such as %t, or a command in it;"
    " or it is relative, and the current folder has been removed.",
    "you",
    (
        "write the whole path, or a variable that is set for this program: cron and systemd have fewer than your shell",
        "what a path may have in it: docs/configuration.md, Paths",
    ),
    _AT_ONCE,
    words=("is not set in this environment", "only systemd replaces", "no shell reads a path"),
)
NO_OTHER_TOKEN = Verdict(
    "no-other-token",
    "The server refused a new token too, or cms may not request another one so soon: the token is not the cause.",
    "you",
    ("find the cause: `cms-oauth --test-smtp=smtp.office365.com`, --test-imap= or --test-pop=outlook.office365.com",),
    "within 5 minutes",
    words=("cms has no other token than the refused one",),
)
OTHER_RESOURCE = Verdict(
    "token-for-another-resource",
    "The configured scopes= give a token for another resource. No mail server accepts it, so cms does not hand it out.",
    "you",
    (
        "correct scopes= of the account: only the mail scopes of https://outlook.office.com/, or remove scopes=",
        "{reload}",
        "{login}",
    ),
    _AT_ONCE,
    words=("the token is for Microsoft Graph, and SMTP needs one for Exchange Online", "scopes="),
)
NO_ROLE = Verdict(
    "token-without-role",
    "The application's token lacks the permission that this protocol needs, so cms does not hand it out.",
    "administrator",
    (
        "Microsoft Entra admin center > App registrations > the application > API permissions > Add a permission > APIs my organization uses: Office 365 Exchange Online > Application permissions; then Grant admin consent",
        "then get a new token: {refresh}",
    ),
    "within minutes, at most an hour",
    words=("the application's token has no role", "IMAP.AccessAsApp", "POP.AccessAsApp"),
)
NOT_COVERED = Verdict(
    "sign-in-does-not-cover",
    "You signed in before the configuration included this protocol, so the sign-in does not cover it.",
    "you",
    (
        "sign in again, and consent: {login}",
        "if you don't need the protocol: remove it from scopes= and protocols=, then {reload}",
    ),
    _AT_ONCE,
    words=("the sign-in does not cover", "consent"),
)
SIGN_IN = Verdict(
    "sign-in-required",
    "The account is not signed in: you have not signed in yet, or Microsoft ended the sign-in.",
    "you",
    ("sign in: {login}", "to see why it ended: `cms status`"),
    _AT_ONCE,
    words=("sign-in-required", "exit status 75", "why must I log in again"),
)
LOCKED = Verdict(
    "locked",
    "cms cannot read the vault's key: the desktop's keyring is locked, or the key file is missing.",
    "you",
    (
        "unlock the keyring by signing in to the desktop; {retries}",
        "on a server: Vault(key=File(PATH)) needs no keyring",
    ),
    _AT_ONCE,
    words=("locked", "keyring", "gnome-keyring"),
)
UNKNOWN_ACCOUNT = Verdict(
    "unknown-account",
    "The socket serves no account with this name, or it serves several accounts and the request names none.",
    "you",
    ("list the accounts: `cms status`", "name one: --user=USER@DOMAIN, exactly as in the configuration"),
    _AT_ONCE,
    words=("unknown-account", "exit status 67"),
)
UNKNOWN_PROTOCOL = Verdict(
    "unknown-protocol",
    "The socket does not serve this protocol, or the account's own protocols= leave it out.",
    "you",
    (
        'add it in the configuration: CredentialServer(..., protocols=["SMTP", "IMAP"]), then {reload}',
        "if the account has protocols= of its own: add it there too",
    ),
    _AT_ONCE,
    words=("unknown-protocol", "protocols="),
)
DENIED = Verdict(
    "denied",
    "The configuration of the daemon does not allow this user, protocol or account.",
    "you",
    (
        "check users=, groups=, protocols= and accounts= of the socket in the configuration; the daemon's log names the reason",
    ),
    _AT_ONCE,
    words=("denied", "exit status 77"),
)
UNAVAILABLE = Verdict(
    "unavailable",
    "No token is available at the moment: Microsoft cannot be reached or has a fault; cms tries again by itself.",
    "wait",
    ("{nothing_to_do}; to see what it waits for: `cms status`",),
    "minutes",
    words=("unavailable", "exit status 75", "tries again in"),
)
BUSY = Verdict(
    "busy",
    "The daemon has more requests than it accepts at once.",
    "wait",
    ("try again", "if it keeps failing, look for a program that asks in a loop: `cms status`"),
    "seconds",
    words=("busy",),
)
BAD_REQUEST = Verdict(
    "bad-request",
    "The request or the command line is invalid.",
    "you",
    ("see the options: `cms-oauth --help`", "the request's form: docs/protocol.md"),
    _AT_ONCE,
    words=("bad-request", "exit status 64"),
)


@dataclass(frozen=True, slots=True)
class LocalRow:
    """An error line of the client and its meaning. `code` is used if no row's `pattern` matches the line."""

    pattern: re.Pattern[str]
    verdict: Verdict
    code: str = ""


def _row(pattern: str, verdict: Verdict, code: str = "") -> LocalRow:
    return LocalRow(re.compile(pattern, re.IGNORECASE), verdict, code)


ROWS = (
    _row("not a socket", NOT_A_SOCKET),
    _row("there is no socket at", NO_SOCKET, "no-daemon"),
    _row("nobody listens on", NOBODY_LISTENS),
    _row("permission denied on", NO_PERMISSION),
    _row("hung up on uid", HUNG_UP),
    _row("answers at .* and may be a stranger", STRANGER, "untrusted"),
    _row("answered nothing", EMPTY),
    _row("sent half a reply|is not a reply of cms|this is not cms", HALF),
    _row("no answer in time from", NO_ANSWER),
    _row("is not a path for a socket", BAD_PATH),
    _row(
        r"the variable \w+ is (not set|empty) in this environment|only systemd replaces %|no shell reads a path"
        r"|may follow \$\{|home folder is not known|this user has no home folder|the current folder no longer exists",
        UNREAD_PATH,
    ),
    _row("no other token than the refused one", NO_OTHER_TOKEN),
    # Refused by the daemon before any mail server is involved (cms.core.preflight): signing in alone would not help.
    _row(r"the token is for .* needs one for", OTHER_RESOURCE),
    _row(r"token has no role", NO_ROLE),
    _row(r"the sign-in does not cover", NOT_COVERED),
    # Refusals of the daemon have varying wording, so they are recognised by their code.
    _row(r"\bsign-in-required\b", SIGN_IN, "sign-in-required"),
    _row(r"\(locked\)|: locked$|\bkeyring\b.*\blocked\b", LOCKED, "locked"),
    _row(r"\bunknown-account\b", UNKNOWN_ACCOUNT, "unknown-account"),
    _row(r"\bunknown-protocol\b", UNKNOWN_PROTOCOL, "unknown-protocol"),
    _row(r"\(denied\)", DENIED, "denied"),
    _row(r"\(unavailable\)", UNAVAILABLE, "unavailable"),
    _row(r"\(busy\)", BUSY, "busy"),
    _row(r"\(bad-request\)", BAD_REQUEST, "bad-request"),
)
