"""What keeps a mail program from cms itself, before any mail server is asked: the daemon, its socket, its answers.

`cms-oauth` says each of these in one line of its own (`dial`, `main`); here is the rest of what helps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cms_oauth.diagnosis.verdicts import Verdict

_AT_ONCE = "at once"

NOT_A_SOCKET = Verdict(
    "not-a-socket",
    "The path is that of a file or a folder, not of a socket: it is a typing mistake, or something else lies in its place.",
    "you",
    ("see where the daemon listens: `cms status`", "name that path: --cms_sock=PATH, or CMS_SOCK in the environment"),
    _AT_ONCE,
    words=("is no socket", "not a socket", "cms_sock"),
)
NO_SOCKET = Verdict(
    "no-socket",
    "There is no socket at this path: the daemon is not running, or listens elsewhere.",
    "you",
    (
        "start the daemon: `cms run`  (or: `systemctl --user start cms`)",
        "if it runs: name its socket, --cms_sock=PATH or CMS_SOCK; `cms status` shows it",
    ),
    _AT_ONCE,
    words=("there is no socket at", "No such file or directory", "wrong path", "cron has no XDG_RUNTIME_DIR"),
)
NOBODY_LISTENS = Verdict(
    "nobody-listens",
    "The socket's file is there, but its daemon has gone.",
    "you",
    (
        "start the daemon: `cms run`  (or: `systemctl --user start cms`)",
        "if it does not stay up, its log says why: `journalctl --user -u cms`",
    ),
    _AT_ONCE,
    words=("nobody listens on", "Connection refused"),
)
NO_PERMISSION = Verdict(
    "no-permission",
    "This user may not use the socket: the file's permission bits, or those of a folder on the way, keep it out.",
    "you",
    (
        "let it in, as the daemon's owner: CredentialServer(..., mode=, group= or users=), then {reload}",
        "and open every folder on the way: `namei -l PATH` shows them",
    ),
    _AT_ONCE,
    words=("permission denied on", "EACCES", "Debian-exim"),
)
HUNG_UP = Verdict(
    "not-on-the-list",
    "The daemon hung up before reading the request: this user is not on the socket's list.",
    "you",
    ("let it in, as the daemon's owner: CredentialServer(..., users= or groups=), then {reload}",),
    _AT_ONCE,
    words=("hung up on uid", "denied", "users= groups="),
)
EMPTY = Verdict(
    "empty-reply",
    "The daemon took the request and answered nothing, which is how it refuses; it did not say why either.",
    "you",
    ("see what it has to say: `cms status`", "if the socket is not cms's: name the right one with --cms_sock"),
    _AT_ONCE,
    words=("answered nothing", "empty reply", "readsocket returned nothing"),
)
HALF = Verdict(
    "half-reply",
    "The answer was cut off, or is not one of cms's: another program may listen at this path.",
    "you",
    ("try again", "if it stays so: `cms status`, and check the path in --cms_sock"),
    _AT_ONCE,
    words=("sent half a reply", "no reply of cms's", "this is not cms"),
)
NO_ANSWER = Verdict(
    "no-answer-in-time",
    "The daemon did not answer in time: it is stopped, stuck, or very busy.",
    "you",
    ("try again", "if it stays so: `cms status`; a daemon stopped by Ctrl-Z or a debugger answers nobody"),
    _AT_ONCE,
    words=("no answer in time", "timeout"),
)
BAD_PATH = Verdict(
    "bad-path",
    "The path is too long for a socket (107 bytes), or has a character in it that no path can have.",
    "you",
    ("use a shorter path, in CredentialServer(...) and in --cms_sock",),
    _AT_ONCE,
    words=("is no path for a socket", "AF_UNIX path too long"),
)
NO_OTHER_TOKEN = Verdict(
    "no-other-token",
    "A fresh token was refused as well, or cms may not ask for another one so soon: the token is not the reason.",
    "you",
    ("find the reason: `cms-oauth --test-smtp=smtp.office365.com`, --test-imap= or --test-pop=outlook.office365.com",),
    "5 minutes",
    words=("cms has no other token than the refused one",),
)
OTHER_RESOURCE = Verdict(
    "token-for-another-resource",
    "The configuration asks for another resource's token, which no mail server takes, so cms does not hand it out.",
    "you",
    (
        "correct scopes= of the account: the mail scopes of https://outlook.office.com/ alone, or no scopes= at all",
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
        "then a fresh token: {refresh}",
    ),
    "minutes, up to an hour",
    words=("the application's token has no role", "IMAP.AccessAsApp", "POP.AccessAsApp"),
)
NOT_COVERED = Verdict(
    "sign-in-does-not-cover",
    "The sign-in was given before the configuration asked for this protocol, and does not cover it.",
    "you",
    (
        "sign in again, and consent: {login}",
        "if you don't need the protocol: leave it out of scopes= and protocols=, then {reload}",
    ),
    _AT_ONCE,
    words=("the sign-in does not cover", "consent"),
)
SIGN_IN = Verdict(
    "sign-in-required",
    "Somebody has to sign in: there is no sign-in yet, or Microsoft has ended it.",
    "you",
    ("`cms login USER@DOMAIN`", "why it ended: `cms status`"),
    _AT_ONCE,
    words=("sign-in-required", "exit status 75", "why must I log in again"),
)
LOCKED = Verdict(
    "locked",
    "The vault's key cannot be had: the desktop's keyring is locked, or the key's file is not there.",
    "you",
    (
        "unlock the keyring, by signing in to the desktop; cms tries again by itself",
        "on a server: Vault(key=File(PATH)) needs no keyring",
    ),
    _AT_ONCE,
    words=("locked", "keyring", "gnome-keyring"),
)
UNKNOWN_ACCOUNT = Verdict(
    "unknown-account",
    "The socket serves no account of this name, or several and none was named.",
    "you",
    ("see the accounts: `cms status`", "name one: --user=USER@DOMAIN, exactly as in the configuration"),
    _AT_ONCE,
    words=("unknown-account", "exit status 67"),
)
UNKNOWN_PROTOCOL = Verdict(
    "unknown-protocol",
    "The socket does not serve this protocol.",
    "you",
    ('add it in the configuration: CredentialServer(..., protocols=["SMTP", "IMAP"]), then {reload}',),
    _AT_ONCE,
    words=("unknown-protocol", "protocols="),
)
DENIED = Verdict(
    "denied",
    "The daemon refuses this user, protocol or account by its configuration.",
    "you",
    ("see the socket's users=, groups=, protocols= and accounts= in the configuration; its log names the reason",),
    _AT_ONCE,
    words=("denied", "exit status 77"),
)
UNAVAILABLE = Verdict(
    "unavailable",
    "There is no token just now: Microsoft cannot be reached, or has trouble; cms tries again by itself.",
    "wait",
    ("nothing to do; what cms waits for: `cms status`",),
    "minutes",
    words=("unavailable", "exit status 75", "tries again in"),
)
BUSY = Verdict(
    "busy",
    "The daemon has more requests than it takes at once.",
    "wait",
    ("try again", "if it stays so, look for a program that asks in a loop: `cms status`"),
    "seconds",
    words=("busy",),
)
BAD_REQUEST = Verdict(
    "bad-request",
    "The request or the command line has a mistake.",
    "you",
    ("see the options: `cms-oauth --help`", "the request's form: docs/protocol.md"),
    _AT_ONCE,
    words=("bad-request", "exit status 64"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the client's, and what it means. `code` counts where no row's `pattern` is in the line."""

    pattern: re.Pattern[str]
    verdict: Verdict
    code: str = ""


def _row(pattern: str, verdict: Verdict, code: str = "") -> Row:
    return Row(re.compile(pattern, re.IGNORECASE), verdict, code)


ROWS = (
    _row("not a socket", NOT_A_SOCKET),
    _row("there is no socket at", NO_SOCKET, "no-daemon"),
    _row("nobody listens on", NOBODY_LISTENS),
    _row("permission denied on", NO_PERMISSION),
    _row("hung up on uid", HUNG_UP),
    _row("answered nothing", EMPTY),
    _row("sent half a reply|is no reply of cms|this is not cms", HALF),
    _row("no answer in time from", NO_ANSWER),
    _row("is no path for a socket", BAD_PATH),
    _row("no other token than the refused one", NO_OTHER_TOKEN),
    # Refused before any server is asked (cms.core.preflight): a sign-in alone would not help.
    _row(r"the token is for .* needs one for", OTHER_RESOURCE),
    _row(r"token has no role", NO_ROLE),
    _row(r"the sign-in does not cover", NOT_COVERED),
    # What the daemon itself says has words of its own for each case: the code tells.
    _row(r"\bsign-in-required\b", SIGN_IN, "sign-in-required"),
    _row(r"\blocked\b", LOCKED, "locked"),
    _row(r"\bunknown-account\b", UNKNOWN_ACCOUNT, "unknown-account"),
    _row(r"\bunknown-protocol\b", UNKNOWN_PROTOCOL, "unknown-protocol"),
    _row(r"\(denied\)", DENIED, "denied"),
    _row(r"\(unavailable\)", UNAVAILABLE, "unavailable"),
    _row(r"\(busy\)", BUSY, "busy"),
    _row(r"\(bad-request\)", BAD_REQUEST, "bad-request"),
)
