"""What a person's words become in a program's file, read back by the program itself."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from dataclasses import replace
from email.utils import parseaddr
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.mail_files import faults, machine
from support.programs import require_program
from support.waiting import PATIENCE

from cms.cli.doctor.mail_tools import READERS
from cms.cli.doctor.mail_tools.found import Command
from cms.cli.init import quoting
from cms.cli.init.mail_programs import TOOLS, Setting, fragment
from cms_oauth.expand import expanded

# A user, a full name, and a folder with cms in it.
ODD = [
    ("o'connor#1@domain.test", 'A "B" C', "my cms"),
    ("r&d+$HOME@domain.test", "Back\\slash; #1 $HOME `id` 'q' %(x)s", "it's $HOME"),
    ("50%off!~y@domain.test", "Zoë <Jr.>, @work", '"quoted" #1'),
    ("`id`{a}|b=c^@domain.test", "\\", "back\\slash;%n"),
]

# Writes down its arguments, and prints a token.
RECORDER = """#!/bin/sh
for each; do printf '%s\\n' "$each"; done > "$RECORD"
echo token
"""


class Newcomer:
    """A person with an odd name, address and folder, and the files that they copied from `cms init`."""

    def __init__(self, home: Path, user: str, name: str, folder: str) -> None:
        self.home, self.user, self.name = home, user, name
        self.program = home / folder / "cms-oauth"
        self.program.parent.mkdir()
        self.program.write_text(RECORDER)
        self.program.chmod(0o755)
        self.setting = Setting(
            *(user, name, "smtp.test", "imap.test", str(self.program)), login="ann", runtime=str(home / folder / "run")
        )

    def text(self, file: str, page: str = "") -> str:
        tool = next(each for each in TOOLS if each.file == file and page in ("", each.page))
        return fragment(tool, self.setting, lambda _program: tool.least)

    def write(self, file: str, name: str = "rc", page: str = "", text: str = "") -> Path:
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text or self.text(file, page))
        path.chmod(0o600)
        return path

    def run(self, *command: str) -> str:
        require_program(command[0], command[0])
        environment = {
            "HOME": str(self.home),
            "RECORD": str(self.home / "record"),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        return done.stdout + done.stderr

    @property
    def recorded(self) -> list[str]:
        """The arguments of the last token that was asked for."""
        record = self.home / "record"
        found = record.read_text().splitlines()
        record.unlink()
        return found

    def asked_by(self, command: str) -> list[str]:
        """The arguments with which a shell runs a command."""
        assert "token\n" == self.run("sh", "-c", command)
        return self.recorded

    def words(self, protocol: str) -> list[str]:
        return [f"--user={self.user}", f"--proto={protocol}", "--output=token"]


@pytest.fixture(params=ODD, ids=[user for user, _, _ in ODD])
def newcomer(request: pytest.FixtureRequest, tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path, *request.param)


@pytest.mark.parametrize(
    ("program", "file", "protocol"), [("msmtp", "msmtp.conf", "SMTP"), ("mpop", "mpop.conf", "POP")]
)
def test_msmtp_and_mpop(newcomer: Newcomer, program: str, file: str, protocol: str) -> None:
    """Both show what they have read."""
    said = dict(
        re.findall(r"^(\w+) = (.*)$", newcomer.run(program, "-C", str(newcomer.write(file)), "-P"), re.MULTILINE)
    )

    assert newcomer.user == said["user"] == said.get("from", newcomer.user)
    assert newcomer.words(protocol) == newcomer.asked_by(said["passwordeval"])


def test_msmtp_and_a_sign_of_its_own(tmp_path: Path) -> None:
    """It would replace %U in an envelope sender, and says so before it does."""
    odd = Newcomer(tmp_path, "100%U@domain.test", "A", "bin")

    assert odd.text("msmtp.conf").startswith("msmtp cannot be set up like this: msmtp replaces %U")


@pytest.mark.parametrize("file", ["gitconfig-msmtp", "gitconfig-credential"])
def test_git(newcomer: Newcomer, file: str) -> None:
    """The author with the name in its own quotes, the sender, and the helper as a command for a shell."""
    path = str(newcomer.write(file))

    def value(name: str) -> str:
        return newcomer.run("git", "config", "-f", path, "--get", name).removesuffix("\n")

    assert (newcomer.name, newcomer.user) == parseaddr(value("sendemail.from"))
    if file == "gitconfig-msmtp":
        assert newcomer.user == value("sendemail.envelopeSender")
    else:
        assert newcomer.user == value("sendemail.smtpUser")
        helper = value("credential.smtp://smtp.test:587.helper")
        assert [str(newcomer.program.with_name("git-credential-cms"))] == shlex.split(helper.removeprefix("!"))


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt(newcomer: Newcomer, program: str) -> None:
    """It shows its variables with quotes and backslashes escaped."""
    names = ("realname", "from", "imap_user", "imap_oauth_refresh_command", "smtp_oauth_refresh_command")
    shown = newcomer.run(program, "-F", str(newcomer.write("muttrc")), *(f"-Q{name}" for name in names))
    found = [re.sub(r"\\(.)", r"\1", each) for each in re.findall(r'^[\w ]+ ?= ?"(.*)"$', shown, re.MULTILINE)]

    assert [newcomer.name, newcomer.user, newcomer.user] == found[:3]
    assert [newcomer.words("IMAP"), newcomer.words("SMTP")] == [newcomer.asked_by(each) for each in found[3:]]


def test_getmail(newcomer: Newcomer) -> None:
    """It shows its configuration."""
    newcomer.write("getmailrc", "gm/getmailrc")
    for each in ("cur", "new", "tmp"):
        (newcomer.home / "Mail" / each).mkdir(parents=True)
    shown = newcomer.run("getmail", "--getmaildir", "gm", "--rcfile", "getmailrc", "--dump")

    assert f'username="{newcomer.user}"' in shown
    (command,) = re.findall(r'password_command="(\(.*?\))", port=', shown)
    assert [str(newcomer.program), *newcomer.words("IMAP")] == list(ast.literal_eval(command))


# OfflineIMAP's own reader of its file, and of what is evaluated in it.
_OFFLINEIMAP = """
import json, sys
sys.path.insert(0, "/usr/share/offlineimap3")
from offlineimap.CustomConfig import CustomConfigParser
from offlineimap.localeval import LocalEval
read = CustomConfigParser()
read.read(sys.argv[1], encoding="utf-8")
get = lambda name: read.get("Repository far", name)
print(json.dumps([get("remoteuser"), LocalEval().eval(get("oauth2_access_token_eval"))]))
"""


def test_offlineimap(newcomer: Newcomer) -> None:
    """The user, and the token that the evaluated line gets."""
    require_program("offlineimap", "offlineimap3")
    path = str(newcomer.write("offlineimaprc"))

    assert [newcomer.user, "token\n"] == json.loads(newcomer.run("/usr/bin/python3", "-c", _OFFLINEIMAP, path))
    assert newcomer.words("IMAP") == newcomer.recorded


def test_s_nail(newcomer: Newcomer) -> None:
    """The From: line, and the command that it runs before it sends."""
    text = newcomer.text("mailrc") + "varshow from\ncall cms-token\nvarshow password\nexit\n"
    shown = newcomer.run("env", f"MAILRC={newcomer.write('', text=text)}", "s-nail", "-:u", "-#")

    # Written as bash has $'...'.
    (sender,) = re.findall(r"^(?:wysh )?set from=(.*)$", shown, re.MULTILINE)
    read = newcomer.run("bash", "-c", f"printf %s {sender}")
    assert (newcomer.name, newcomer.user) == parseaddr(read)
    assert "set password=$'token\\n'" in shown
    assert [*newcomer.words("SMTP"), "--no_newline"] == newcomer.recorded


# What Emacs has read, and the token that it gets with it.
_EMACS = """(princ (json-encode (list user-full-name user-mail-address smtpmail-smtp-user
  (cms-token smtpmail-smtp-user "SMTP"))))"""


def test_emacs(newcomer: Newcomer) -> None:
    """The settings, and the program by its path."""
    path = str(newcomer.write("cms.el"))
    said = newcomer.run(
        "emacs", "--batch", "-Q", "-L", str(ROOT / "contrib"), "-l", path, "-l", "json", "--eval", _EMACS
    )

    assert [newcomer.name, newcomer.user, newcomer.user, "token\n"] == json.loads(said)
    assert [*newcomer.words("SMTP"), "--no_newline"] == newcomer.recorded


def test_fetchmail_and_imapsync(newcomer: Newcomer) -> None:
    """fetchmail shows its configuration as Python; imapsync's is a line for a shell; cms's own is Python too."""
    text = (
        newcomer.text("token-file.cfg", "fetchmail").partition("fetchmailrc:\n")[2].replace("oauthbearer", "password")
    )
    # Without TLS in this release's build the words are unknown.
    words = re.sub(r"passwordfile (\".*\") sslmode.*", r"password \1", text)
    shown = newcomer.run("fetchmail", "-f", str(newcomer.write("", text=words)), "--configdump")
    command = newcomer.text("token-file.cfg", "imapsync").partition("    imapsync ")[2]
    (place,) = re.findall(r"TokenFile\((\".*?\"), account", newcomer.text("token-file.cfg", "imapsync"))
    token = f"{newcomer.setting.runtime}/imap-token"

    for name, value in (("remote", newcomer.user), ("password", token)):
        assert value == ast.literal_eval(re.findall(rf'^\s+"{name}":(".*"),$', shown, re.MULTILINE)[0])
    assert ["--oauthaccesstoken1", token, "--user1", newcomer.user] == shlex.split(command)[:4]
    assert token == expanded(ast.literal_eval(place))


def test_exim(newcomer: Newcomer) -> None:
    """The address of a login, as exim expands its table; what it has no quotes for is said instead."""
    if re.search(r"[${}]", newcomer.user):
        assert newcomer.text("exim4.conf").startswith("exim cannot be set up like this")
        return
    macros = newcomer.text("exim4.conf").partition("SENDERS")[2]
    _, _, rest = (ROOT / "contrib" / "exim4.conf").read_text().partition("# ---- Adjust nothing")
    path = newcomer.write("", text=f"SENDERS{macros}\n#{rest}")
    own = "${listextract{1}{${extract{ann}{SENDERS}}}}"

    said = newcomer.run("exim4", "-C", str(path), "-be", own)
    assert newcomer.user.lower() == said.strip()


@pytest.mark.parametrize(
    "user", ["!a@domain.test", "^a@domain.test", "/a@domain.test", "$a@domain.test", "{a}@domain.test"]
)
def test_what_exims_lists_cannot_name(tmp_path: Path, user: str) -> None:
    """It means something else there, and is said instead of written."""
    assert "exim cannot be set up like this" in Newcomer(tmp_path, user, "A", "bin").text("exim4.conf")


@pytest.mark.parametrize("name", ["exim", "Postfix"])
@pytest.mark.parametrize("login", ["ann lee"])
def test_a_login_that_a_list_cannot_name(tmp_path: Path, name: str, login: str) -> None:
    """Neither."""
    (tool,) = [each for each in TOOLS if each.name == name]
    setting = replace(Newcomer(tmp_path, "a@domain.test", "A", "bin").setting, login=login)

    assert f"{name} cannot be set up like this" in fragment(tool, setting)


@pytest.mark.parametrize(
    "name", ["Ann", "Ann O'Neil", "Ann Lee-Roe", "Zoë", 'A "B" C', "Roe, Ann", "A. Roe", "a@b", "\\", "<x>", "(x)"]
)
def test_a_mailbox(name: str) -> None:
    """Its name comes back, and is quoted only where it must be."""
    text = quoting.mailbox(name, "o'connor@domain.test")

    assert (name, "o'connor@domain.test") == parseaddr(text)
    assert text.startswith('"') == (not re.fullmatch(r"[\w '-]+", name))


def test_a_word_in_a_value_is_no_word_of_the_example(tmp_path: Path) -> None:
    """Such as a path with the example's name in it."""
    odd = Newcomer(tmp_path, "ann@domain.test", "cms-oauth", "User Name")

    assert 'set realname = "cms-oauth"' in odd.text("muttrc")
    assert f"'{odd.program}'" in odd.text("muttrc")


def test_every_program_has_forms_that_its_examples_need() -> None:
    """A pattern that finds nothing would leave a value without quotes."""
    plain = Setting("user@domain.com", "User Name", "smtp.office365.com", "outlook.office365.com")
    for tool in TOOLS:
        text = fragment(tool, plain, lambda _program: 7)
        assert [] == [each for each in quoting.FORMS[tool.page] if not re.search(each.pattern, text, re.MULTILINE)]
    assert {each.page for each in TOOLS} == set(quoting.FORMS)


# Where each program's file belongs, for the doctor.
_GOES = {
    "msmtp": ".msmtprc",
    "mpop": ".mpoprc",
    "mbsync": ".mbsyncrc",
    "mutt": ".muttrc",
    "neomutt": ".neomuttrc",
    "aerc": ".config/aerc/accounts.conf",
    "getmail": ".config/getmail/getmailrc",
    "offlineimap": ".offlineimaprc",
    "s-nail": ".mailrc",
    "Emacs": ".emacs.d/init.el",
}


def test_the_doctor_reads_what_init_shows(newcomer: Newcomer) -> None:
    """It finds this user's own command in each file, and no fault."""
    for tool in TOOLS:
        if tool.name in _GOES:
            found = list(READERS[tool.name](machine({_GOES[tool.name]: newcomer.text(tool.file)})))
            assert {f"--user={newcomer.user}"} == {each.words[0] for each in found if isinstance(each, Command)}, (
                tool.name
            )
            assert [] == faults(found), tool.name
