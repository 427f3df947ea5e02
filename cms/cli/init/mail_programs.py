"""The settings that each mail program on this machine needs, from the files of contrib/, with the user's values.

contrib/ and systemd/ are inside the package if it is installed, and beside it in a source checkout.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cms.cli.init import quoting
from cms_oauth.providers import MICROSOFT, PROVIDERS

# Values of the examples that are more than their words.
_COMMANDS = ("cms-oauth --", "imapsync --")
_MAILBOX = "User Name <user@domain.com>"
# What the paragraphs that are about a second account have in them.
_SECOND = ("shared@domain.com", "gmail")
_HELPER = "cms"

DEBIANS_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

_GIT_SEND_EMAIL = "/usr/lib/git-core/git-send-email"

# docs/clients/emacs.md, Set up; a test compares them.
_EMACS = """\
(add-to-list 'load-path "~/.emacs.d/lisp")
(require 'cms)
(add-to-list 'auth-sources 'cms)
(setq cms-hosts '("smtp.office365.com")
      user-full-name "User Name"
      user-mail-address "user@domain.com"
      smtpmail-smtp-user "user@domain.com"
      smtpmail-smtp-server "smtp.office365.com"
      smtpmail-smtp-service 587
      smtpmail-stream-type 'starttls
      smtpmail-auth-supported '(xoauth2)
      send-mail-function 'smtpmail-send-it
      message-send-mail-function 'smtpmail-send-it)
(setq cms-command '("cms-oauth"))
; cms.el is CONTRIB/cms.el
"""

# exim and Postfix ask the system's cms, because other users cannot reach this user's sockets. ADJUSTED is replaced by
# the lines to adjust in the tool's file; docs/clients/exim.md and postfix.md have the rest, and a test compares them.
_EXIM = """\
In the whole machine's /etc/cms/cms.cfg (`cms init --system` writes one), then `systemctl reload cms`:

    CredentialServer("/run/cms/exim.sock", accounts=[account], protocols=["SMTP"], users=["Debian-exim"])

If exim takes mail from other machines already, keep its configuration: docs/relays.md. Else, as root
`cp CONTRIB/exim4.conf /etc/exim4/exim4.conf`; then these lines in the place of the same ones at its top, with each login
of this machine that may send:

ADJUSTED"""
_POSTFIX = """\
In the whole machine's /etc/cms/cms.cfg (`cms init --system` writes one), then `systemctl reload cms`:

    PostfixTable("/run/cms/postfix.sock", accounts=[account], users=["postfix"])

If Postfix takes mail from other machines already, keep its configuration: docs/relays.md. Else, as root
`cp CONTRIB/postfix-main.cf /etc/postfix/main.cf` and `cat CONTRIB/postfix-master.cf >> /etc/postfix/master.cf`; then
these lines in the place of the same ones at the top of main.cf, with each login of this machine that may send. Postfix
needs a SASL plug-in for XOAUTH2: the page has one.

ADJUSTED"""

# docs/clients/imapsync.md and fetchmail.md, Set up; the line for cms is that of contrib/token-file.cfg.
_KEPT_FILE = """\
In the configuration of cms, then `cms reload`:

    TokenFile("/run/user/1000/cms/imap-token", account, "IMAP")

"""
_IMAPSYNC = f"""\
{_KEPT_FILE}Then, with what the other side needs:

    imapsync --oauthaccesstoken1 /run/user/1000/cms/imap-token --user1 user@domain.com --host1 outlook.office365.com --ssl1
"""
_FETCHMAIL = f"""\
{_KEPT_FILE}In ~/.fetchmailrc:

    poll outlook.office365.com protocol imap auth oauthbearer
      user "user@domain.com" passwordfile "/run/user/1000/cms/imap-token" sslmode wrapped sslcertck
"""
_FETCHMAIL_LEAST = 7

_VERSION_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A mail program. It is installed if all `programs` are, and none of `without`.

    - `file`: its file in contrib/; `goes`: where that file belongs; `page`: its page in docs/clients/.
    - `text`: shown instead of the file, if the file is copied as it is or needs decisions.
    - `least`: the first release that can log in with a token, 0 for any.
    """

    name: str
    programs: tuple[str, ...]
    file: str
    goes: str
    page: str
    text: str = ""
    without: tuple[str, ...] = ()
    least: int = 0

    @property
    def key(self) -> str:
        """Its name as one word, for command lines."""
        return self.name.lower().replace(" ", "-")

    @property
    def file_name(self) -> str:
        """The name of a file with its settings: the example's, unless they are another text."""
        return f"{self.key}.txt" if self.text else self.file

    @property
    def of_machine(self) -> bool:
        """True if it serves the whole machine, so it needs the system's cms."""
        return self.goes.startswith("/etc/")


TOOLS = (
    Tool("msmtp", ("msmtp",), "msmtp.conf", "~/.msmtprc (chmod 600)", "msmtp"),
    Tool("git send-email", (_GIT_SEND_EMAIL, "msmtp"), "gitconfig-msmtp", "~/.gitconfig", "git"),
    Tool("git send-email", (_GIT_SEND_EMAIL,), "gitconfig-credential", "~/.gitconfig", "git", without=("msmtp",)),
    Tool("mutt", ("mutt",), "muttrc", "~/.muttrc", "mutt"),
    Tool("neomutt", ("neomutt",), "muttrc", "~/.neomuttrc", "mutt", without=("mutt",)),
    Tool("aerc", ("aerc",), "aerc-accounts.conf", "~/.config/aerc/accounts.conf (chmod 600)", "aerc"),
    Tool("mbsync", ("mbsync",), "mbsyncrc", "~/.mbsyncrc", "mbsync"),
    Tool("offlineimap", ("offlineimap",), "offlineimaprc", "~/.offlineimaprc (chmod 600)", "offlineimap"),
    Tool("getmail", ("getmail",), "getmailrc", "~/.config/getmail/getmailrc (chmod 600)", "getmail"),
    Tool("mpop", ("mpop",), "mpop.conf", "~/.mpoprc (chmod 600)", "mpop"),
    Tool("s-nail", ("s-nail",), "mailrc", "~/.mailrc", "s-nail"),
    Tool("Emacs", ("emacs",), "cms.el", "~/.emacs.d/init.el, and cms.el to ~/.emacs.d/lisp/", "emacs", _EMACS),
    Tool("exim", ("/usr/sbin/exim4",), "exim4.conf", "/etc/exim4/exim4.conf", "exim", _EXIM),
    Tool("Postfix", ("/usr/sbin/postfix",), "postfix-main.cf", "/etc/postfix/main.cf", "postfix", _POSTFIX),
    Tool("imapsync", ("imapsync",), "token-file.cfg", "its command line", "imapsync", _IMAPSYNC),
    Tool(
        "fetchmail", ("fetchmail",), "token-file.cfg", "~/.fetchmailrc", "fetchmail", _FETCHMAIL, least=_FETCHMAIL_LEAST
    ),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """The values that replace those of the examples.

    `program` is the command for `cms-oauth` here, `login` the person's user name on this machine, `runtime` the folder
    of their cms's sockets, `authorities` the file of the certificate authorities to trust, and `provider` whose mailbox
    it is.
    """

    user: str
    name: str
    smtp_host: str
    imap_host: str
    program: str = "cms-oauth"
    login: str = "alice"
    runtime: str = "/run/user/1000/cms"
    smtp_port: int = 587
    imap_port: int = 993
    authorities: str = DEBIANS_AUTHORITIES
    provider: str = PROVIDERS[MICROSOFT].title

    @property
    def words(self) -> Mapping[str, str]:
        """The examples' words, with their replacements."""
        return {
            "user@domain.com": self.user,
            "user%40domain.com": quote(self.user, safe="."),
            "User Name": self.name,
            "smtp.office365.com": self.smtp_host,
            "outlook.office365.com": self.imap_host,
            "587": str(self.smtp_port),
            "993": str(self.imap_port),
            "cms-oauth": self.program,
            "/run/user/1000/cms": self.runtime,
            DEBIANS_AUTHORITIES: self.authorities,
            "CONTRIB": str(data("contrib")),
            "alice": self.login,
            PROVIDERS[MICROSOFT].title: self.provider,
        }

    def value(self, example: str) -> str:
        """Return what stands for a value of the examples: a command for a shell, a From: address, or other text."""
        if example.startswith(_COMMANDS):
            return shlex.join(map(self.text, shlex.split(example)))
        if example == _MAILBOX:
            return quoting.mailbox(self.name, self.user)
        return self.helper if example == _HELPER else self.text(example)

    def text(self, example: str) -> str:
        """Return a text of the examples with their words replaced, each once: one may be part of another's value."""
        words = self.words
        return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], example)

    @property
    def helper(self) -> str:
        """git's credential helper: by its name, or as a command for a shell."""
        beside = Path(self.program).parent / "git-credential-cms"
        return f"!{shlex.quote(str(beside))}" if "/" in self.program else _HELPER


def data(name: str) -> Path:
    """Return the path of a file that is part of cms: `contrib/NAME` or `systemd/...`."""
    package = Path(__file__).parents[2]
    inside = package / "data" / name
    return inside if inside.exists() else package.parent / name


def found(which: Callable[[str], str | None] = shutil.which) -> list[Tool]:
    """Return the mail programs of this machine."""
    return [each for each in TOOLS if all(map(which, each.programs)) and not any(map(which, each.without))]


def release(program: str) -> int:
    """Return the major number of a program's release, 0 if it prints none."""
    command = [program, "-f", "/dev/null", "--version"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_VERSION_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    said = re.search(r"release (\d+)\.", done.stdout)
    return int(said[1]) if said else 0


def fragment(tool: Tool, setting: Setting, release: Callable[[str], int] = release) -> str:
    """Return the text that a person copies into a program's configuration."""
    if tool.least and release(tool.programs[0]) < tool.least:
        return f"{tool.name} can log in with a token only from version {tool.least}: the page names other programs.\n"
    example = data(f"contrib/{tool.file}").read_text()
    text = tool.text.replace("ADJUSTED", _adjusted(example, setting)) if tool.text else _of_one_account(example)
    try:
        return _filled(text, (*quoting.FORMS[tool.page], quoting.PART), setting)
    except quoting.Unwritable as why:
        return f"{tool.name} cannot be set up like this: {why}.\n"


def _filled(text: str, forms: Sequence[quoting.Form], setting: Setting) -> str:
    """Return the text with the person's words: each value as the program reads it, and what is left as it is."""

    def written(found: re.Match[str]) -> str:
        if not found.lastindex:
            return setting.words[found[0]]
        example = found[found.lastindex]
        value = setting.value(example)
        return found[0] if value == example else forms[found.lastindex - 1].write(value)

    patterns = [*(form.pattern for form in forms), *map(re.escape, setting.words)]
    return re.sub("|".join(patterns), written, text, flags=re.MULTILINE)


def _of_one_account(text: str) -> str:
    """Remove the paragraphs of an example that are about a second account."""
    kept = (each for each in text.split("\n\n") if not any(word in each for word in _SECOND))
    return "\n\n".join(kept).rstrip("\n") + "\n"


def _adjusted(text: str, setting: Setting) -> str:
    """Return the lines to adjust of an example with several logins, for one login and one account."""
    _, _, rest = text.partition("# ---- Adjust these")
    lines = rest.partition("# ---- Adjust nothing")[0].split("\n")[1:]
    # For root the example has a line already.
    others = ("bob", "alice") if setting.login == "root" else ("bob",)
    kept = (each for each in lines if not each.startswith("#") and not any(_of_login(each, name) for name in others))
    one = re.sub(r"(?:, |:)shared@domain\.com", "", "\n".join(kept))
    return re.sub(r"\n{2,}", "\n", one).strip() + "\n"


def _of_login(line: str, name: str) -> bool:
    """True if a line of an example's table is about this login."""
    return bool(re.match(rf"\s+(\{{ )?{name}\b", line))
