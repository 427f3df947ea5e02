"""What each mail program on this machine needs to use cms: the files of contrib/, with the user's own words in them.

contrib/ and systemd/ lie in the package where it was installed, and beside it in a source checkout.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

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
"""


@dataclass(frozen=True, slots=True)
class Tool:
    """A mail program. It is there if all `programs` are, and none of `without`.

    `file` is its ready file in contrib/, `goes` where that belongs, `page` its page in docs/clients/. `text` is shown in
    the file's place where the file is to be copied as it is; `whole` is False for files with decisions in them.
    """

    name: str
    programs: tuple[str, ...]
    file: str
    goes: str
    page: str
    text: str = ""
    without: tuple[str, ...] = ()
    whole: bool = True


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
    Tool("exim", ("/usr/sbin/exim4",), "exim4.conf", "/etc/exim4/exim4.conf", "exim", whole=False),
    Tool("Postfix", ("/usr/sbin/postfix",), "postfix-main.cf", "/etc/postfix/main.cf", "postfix", whole=False),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is put in the place of the examples' own words. `program` is how `cms-oauth` is called here."""

    user: str
    name: str
    smtp_host: str
    imap_host: str
    program: str = "cms-oauth"

    @property
    def words(self) -> Mapping[str, str]:
        """Return what is replaced by what."""
        return {
            "user@domain.com": self.user,
            "user%40domain.com": quote(self.user, safe="."),
            "User Name": self.name,
            "smtp.office365.com": self.smtp_host,
            "outlook.office365.com": self.imap_host,
            "cms-oauth": self.program,
        }


def data(name: str) -> Path:
    """Return the path of a file that comes with cms: `contrib/NAME` or `systemd/...`."""
    inside = Path(__file__).parent / "data" / name
    return inside if inside.exists() else Path(__file__).parent.parent / name


def found(which: Callable[[str], str | None] = shutil.which) -> list[Tool]:
    """Return the mail programs of this machine."""
    return [each for each in TOOLS if all(map(which, each.programs)) and not any(map(which, each.without))]


def fragment(tool: Tool, setting: Setting) -> str:
    """Return what a program's configuration needs, for a person to copy."""
    path = data(f"contrib/{tool.file}")
    if not tool.whole:
        return f"a configuration to start from is {path}; what to decide in it is in docs/clients/{tool.page}.md\n"
    text = tool.text or _of_one_account(path.read_text())
    for old, new in setting.words.items():
        text = text.replace(old, new)
    return f"{text}; cms.el is {path}\n" if tool.text else text


def _of_one_account(text: str) -> str:
    """Leave out the paragraphs of an example that are about a second account."""
    return "\n\n".join(each for each in text.split("\n\n") if "shared@domain.com" not in each)
