"""The readers agree with the real programs about awkward files: each prints what it has read, or does what a line says.

No program connects to anything; what one of them is told to run is a script that prints its arguments.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from support.mail_files import commands
from support.waiting import PATIENCE

from cms.cli.doctor import probe_machine
from cms.cli.doctor.mail_tools import exim, getmail, git, mbsync, msmtp, mutt, s_nail, shell
from cms.cli.doctor.mail_tools.elisp import Text, everywhere, forms
from cms.cli.doctor.mail_tools.found import Command, Files, Machine, Place, Request

# Prints its arguments and $CMS_SOCK.
ECHO = """#!/usr/bin/python3
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ.get("CMS_SOCK", "")]), file=open(os.environ.get("SAID", "/dev/null"), "a"))
print("token")
"""


def run(*words: str, home: Path, **variables: str) -> str:
    environ = {"PATH": f"{home}/bin:{os.defpath}", "HOME": str(home), "USER": "u", "TERM": "dumb", **variables}
    done = subprocess.run(
        words,
        env=environ,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr


def machine(home: Path) -> Machine:
    return probe_machine.mail_files(str(home), {"USER": "u", "XDG_CONFIG_HOME": f"{home}/.config"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a program `cms-oauth` that tells how it was run."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "cms-oauth"
    program.write_text(ECHO)
    program.chmod(0o755)
    return tmp_path


SCRIPTS = (
    "cms-oauth --user=u@x # --user=c",
    "cms-oauth --user=a#b 'o'\\''c' \"q \\\" \\$HOME $HOME\" \\a\\ b",
    'cms-oauth "$USER" ~ ~/x --a=~/x a~ ${HOME}s $USER.x ${NO:-d} ${USER:-d} ${NO-$USER}',
    "export CMS_SOCK=/x; cms-oauth;cms-oauth a;",
    "CMS_SOCK=/x cms-oauth; CMS_SOCK=/y; cms-oauth a; export CMS_SOCK; cms-oauth b; unset CMS_SOCK; cms-oauth c",
    "CMS_SOCK=~/x && export CMS_SOCK && cms-oauth",
    "cms-oauth a\\\n  b \\\n c\\\nd 2>/dev/null >/dev/null",
    'echo "$(cms-oauth a "b c")" `cms-oauth \\`echo x\\`` >/dev/null',
    "x=$(cms-oauth ')' \\) \"a)\" '(')",
    "sh -c 'cms-oauth \"$1\" a' x 'y z'",
    "env CMS_SOCK=/x nice -n 1 cms-oauth a | cat; (cms-oauth b) && { cms-oauth c; }",
    "if x=$(cms-oauth a); then cms-oauth b; fi; for i in 1 2; do cms-oauth c; break; done",
    "cat <<E | cat >/dev/null\ncms-oauth no\nE\ncat <<-'F' >/dev/null\n\tcms-oauth no\n\tF\ncms-oauth yes",
    "echo cms-oauth no; : cms-oauth no; command -v cms-oauth >/dev/null; case x in x) cms-oauth a;; esac",
    'u=\'a b\'; cms-oauth "$u" x"$u"y; v=${u}; cms-oauth "${v}"',
    "eval 'cms-oauth a'; exec cms-oauth b",
)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("program", ["sh", "bash"])
def test_shells(home: Path, program: str, script: str) -> None:
    """The same runs with the same words and $CMS_SOCK, where the words do not come from a command."""
    said = home / "said"
    run(program, "-c", script, home=home, SAID=str(said))
    ran = sorted(map(json.loads, said.read_text().splitlines()))
    found = sorted(
        [list(each.words), each.socket]
        for each in shell.asks(script, Place("shell", "/f", 1), machine(home))
        if isinstance(each, Command)
    )
    known = [(mine, theirs) for mine, theirs in zip(found, ran, strict=True) if "…" not in "".join(mine[0])]

    assert [theirs for _, theirs in known] == [mine for mine, _ in known]


def test_msmtp(home: Path) -> None:
    """Mechanism and command of each account."""
    (home / ".msmtprc").write_text("""\
defaults
auth on
passwordeval "cms-oauth \\"d\\""
account a
  # comment
host h
user\tu
account b : a
passwordeval cms-oauth b # c
account c:b,a
auth "xoauth2"
defaults
auth plain
account d : a
passwordeval "cms-oauth "d" x"
""")
    (home / ".msmtprc").chmod(0o600)
    files = Files(machine(home), "msmtp")
    for account in msmtp._accounts(files, f"{home}/.msmtprc")[1:]:
        printed = run("msmtp", "-C", f"{home}/.msmtprc", "-a", account.name, "-P", home=home)
        mechanism = {"on": "choose", "xoauth2": "XOAUTH2", "plain": "PLAIN"}[account.settings["auth"].value]

        assert f"\nauth = {mechanism}\n" in printed
        assert f"\npasswordeval = {account.settings['passwordeval'].value}\n" in printed


MUTTRC = """\
set my_u=u@x realname = "n # n" ; set from=a#b
set imap_oauth_refresh_command="cms-oauth --user=$my_u \\"q\\" '$HOME' ${my_u}" # c
set smtp_oauth_refresh_command='cms-oauth "$HOME" \\'\\ ; set pop_oauth_refresh_command = x\\ y
set imap_user   =   "contin  \\
  ued"
source ~/more
source $HOME/more
"""


@pytest.mark.parametrize("program", ["mutt", "neomutt"])
def test_mutt(home: Path, program: str) -> None:
    """What each variable is set to, with what an included file sets."""
    (home / f".{program}rc").write_text(MUTTRC)
    (home / "more").write_text("set imap_authenticators='xoauth2:'\"login\" smtp_authenticators=xoauth2#c\n")
    reader = mutt._Reader(machine(home), program)
    list(reader.uses([f"{home}/.{program}rc"]))
    names = [f"{each}_oauth_refresh_command" for each in ("imap", "smtp", "pop")]
    for name in (*names, "imap_authenticators", "smtp_authenticators", "imap_user", "from"):
        printed = run(program, "-n", "-F", f"{home}/.{program}rc", "-Q", name, home=home)
        value = re.search(rf'^(?:set )?{name} ?= ?"(.*)"$', printed, re.MULTILINE)
        mine = reader._settings[name].value.replace("…", "")

        assert value, printed
        assert value[1].replace('\\"', '"').replace("\\\\", "\\") == mine


def test_git(home: Path) -> None:
    """Each variable of the file and of those that it includes, in order."""
    (home / ".gitconfig").write_text("""\
[Credential "smtp://h:587"]  helper = "cms" --x # c
\thelper = cms \\
 --user="a b" \\\\ ; c
[sendemail "W \\" \\\\ x"] smtpAuth
# [bad] \\
[include] path = .inc ; x
\tpath = "~/.inc2"
[user] name = "a\\"b" c\\t"d " \t
[Old.Sub]x=y
""")
    (home / ".inc").write_text("[include]\n path = .gitconfig2\n[a] B = ''\n")
    (home / ".inc2").write_text('[a]\nb=2 "#" ; x\nc = \n')
    (home / ".gitconfig2").write_text("[a-b]\n  c-d = e")
    printed = run("git", "config", "--global", "--includes", "--list", "-z", home=home)
    mine = [
        f"{each.section}.{f'{each.subsection}.' if each.subsection else ''}{each.name}\n{each.value}"
        for each in git._settings(Files(machine(home), "git"), f"{home}/.gitconfig", None)
    ]
    theirs = [each if "\n" in each else f"{each}\ntrue" for each in printed.split("\0")[:-1]]

    assert theirs == mine


def test_exim(home: Path) -> None:
    """What an authenticator sends, after macros, conditions, inclusions and continued lines."""
    (home / "inc").write_text("WHO = a@x\nNAMED = XOAUTH2\n")
    conf = home / "exim.conf"
    conf.write_text("""\
RUN = /run/cms
SOCKET = RUN/a
.ifdef NOPE
SOCKET == /wrong
.elifdef RUN
SOCKET == RUN/b
.else
SOCKET == /wrong
.endif
.include inc
begin authenticators
x:
  driver = plaintext
  public_name = NAMED
  client_send = "<; ; ${readsocket{SOCKET}\\
     # comment
     {SMTP WHO}{20s}}"
""")
    conf.chmod(0o644)
    printed = run("/usr/sbin/exim4", "-C", str(conf), "-bP", "authenticators", home=home)
    (use,) = exim._Reader(Files(machine(home), "exim")).uses([str(conf)])

    assert isinstance(use, Request)
    assert f"client_send = <; ; ${{readsocket{{{use.socket}}}{{{use.text}}}{{20s}}}}" in printed


@pytest.mark.parametrize(
    "line", ["a#b c", '"a b"c d', "a\\ b c", '"a\\q" c # d', '"a"b"c d" e', "'a b'", '"a\\"b" +"c"', "# c", "a # b"]
)
def test_mbsync(home: Path, line: str) -> None:
    """mbsync says which words are too many: all that follow a user's name."""
    (home / ".mbsyncrc").write_text(f"IMAPAccount w\nHost h\nUser x {line}\n")
    printed = run("mbsync", "-c", f"{home}/.mbsyncrc", "-l", "w", home=home)

    assert re.findall(r"excess token '(.*)'", printed) == mbsync._words(f"User x {line}")[2:]


@pytest.mark.parametrize(
    "value",
    [
        '("cms-oauth", "--user=u@x")',
        '("cms-oauth", "--user", "u@x",)  # c',
        "('cms-oauth',\n  # c\n  '--user=' \"u@x\")",
        '("cms-oauth", "%(x)s", u"a")',
        '["cms-oauth"]',
        '("cms-oauth")',
        "cms-oauth --user=u@x",
        '("cms-oauth", ) ; c',
    ],
)
def test_getmail(home: Path, value: str) -> None:
    """The same tuple, or a refusal by both."""
    folder = home / ".config" / "getmail"
    folder.mkdir(parents=True)
    for name in ("cur", "new", "tmp"):
        (home / "mail" / name).mkdir(parents=True)
    (folder / "getmailrc").write_text(
        f"[retriever]\ntype = SimpleIMAPSSLRetriever\nserver = h\nusername = u\nuse_xoauth2 = true\n"
        f"password_command = {value}\n[destination]\ntype = Maildir\npath = {home}/mail/\n"
    )
    printed = run("getmail", "--getmaildir", str(folder), "--dump", home=home)
    dumped = re.search(r'password_command="(\(.*?\))", ', printed)
    found = list(getmail.uses(machine(home)))

    assert ("Configuration error" in printed) is (not commands(found))
    if dumped:
        assert [" ".join(ast.literal_eval(dumped[1].replace('\\"', '"'))[1:])] == [
            words for _, words in commands(found)
        ]


@pytest.mark.parametrize("compatible", ["v15-compat", "v15-compat=y"])
def test_s_nail(home: Path, compatible: str) -> None:
    """What variables are set to, in both ways of quoting, and which commands a macro runs."""
    (home / ".mailrc").write_text(f"""\
set {compatible}
set x="a b" y='c # d' z=e#f # comment
set w=g\\ h v="$y" \\
    u='i j'; set t=k
define m {{
  ! cms-oauth 'a b' # c
}}
call m
""")
    said = home / "said"
    shows = "".join(f"echo {each}=<${each}>\n" for each in "xyzwvut")
    printed = run("s-nail", "-:u", "-#", "-X", f"{shows}x", home=home, MAILRC=f"{home}/.mailrc", SAID=str(said))
    blocks = [s_nail._Block()]
    files = Files(machine(home), "s-nail")
    s_nail._read(files, f"{home}/.mailrc", None, blocks)

    for name in "xyzwvut":
        assert f"{name}=<{blocks[0].variables[name][0]}>" in printed
    (use,) = s_nail.uses(machine(home))
    assert isinstance(use, Command)
    assert [list(use.words), ""] == json.loads(said.read_text())


def test_emacs(home: Path) -> None:
    """Emacs' own reader finds the same texts in the same order."""
    code = '(a "x\\"\\n;y" ?\\( ?\\) ?" [b #\'c "v"] ; "d"\n) `(,@e "f\\\ng") (h . "i\\\\") (setq s "\\s")'
    (home / "f.el").write_text(code)
    shown = run(
        *("emacs", "--batch", "--quick", "--eval"),
        """(with-temp-buffer (require 'cl-lib) (require 'json) (insert-file-contents "f.el")
             (let (found) (cl-labels ((walk (x) (cond ((stringp x) (push x found)) ((vectorp x) (mapc #'walk x))
                                                      ((consp x) (walk (car x)) (walk (cdr x))))))
               (condition-case nil (while t (walk (read (current-buffer)))) (end-of-file nil)))
               (princ (json-encode (reverse found)))))""",
        home=home,
    )
    mine = [item.value for form in everywhere(forms(code)) for item in form.items if isinstance(item, Text)]

    assert json.loads(shown) == mine
