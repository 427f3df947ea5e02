"""What mail tools' configurations ask of cms is found, and compared with what is served."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest
from support.fragments import contrib, page

from cms.cli.doctor.mail_tools import PLACES, File, Served, Use, assess, uses
from cms.cli.init import mail_programs
from cms.config.model import SocketSpec
from cms.core.accounts import Account, Grant

PATH = "/run/cms/cms.sock"


def account(user: str) -> Account:
    return Account(user, Grant("https://login.example.test/common", "client", user), {})


def served(*users: str, protocols: tuple[str, ...] = ("SMTP", "IMAP"), usual: str = PATH) -> Served:
    spec = SocketSpec(PATH, tuple(map(account, users or ("user@domain.com",))), protocols, 0o600, None, None, None, 1)
    return Served((spec,), usual)


EXIM = """\
# client_send = : ${readsocket{/comment/cms.sock}{SMTP nobody@domain.com}}
begin authenticators
xoauth2:
  client_send = : ${if match{${readsocket{/run/cms/cms.sock}{SMTP user@domain.com}{20s}}}{\\N^user=.+$\\N}{$0}fail}
other:
  client_send = : ${readsocket{/run/cms/cms.sock}{SMTP,xoauth2 $sender_address}}
only:
  client_send = : ${readsocket{/run/cms/cms.sock}{SMTP}}
"""
MSMTP = """\
host smtp.office365.com
passwordeval "cms-oauth --user=user@domain.com --cms_sock=/run/cms/cms.sock --output=token"
"""
MBSYNC = """\
AuthMechs XOAUTH2
PassCmd "cms-oauth --user user@domain.com --proto IMAP --output token"
"""
MACROS = """\
RUNTIME = /run/cms
SOCKET = RUNTIME/exim.sock
CREDENTIAL = ${lookup{$sender_address}lsearch{/etc/exim4/users}}
  client_send = : ${readsocket{SOCKET}{SMTP CREDENTIAL}{20s}}
  client_send = : ${readsocket{OTHER}{SMTP UNNAMED}{20s}}
"""
WITH_VARIABLE = """\
passwordeval "env CMS_SOCK=/a.sock cms-oauth --output=token"
passwordeval "CMS_SOCK='/b.sock' LANG=C /usr/bin/cms-oauth --proto=IMAP --output=token"
passwordeval "CMS_SOCK=/b.sock cms-oauth --cms_sock=/c.sock"
"""
MUTT = """\
set imap_oauth_refresh_command="cms-oauth --user user@domain.com --cms-sock=/tmp/x.sock --proto=imap --output=token"
set smtp_oauth_refresh_command="cms-oauth --user user@domain.com \\
    --output=token"
"""
AERC = "source-cred-cmd = cms-oauth --proto=IMAP --output=token | cat\n"
GETMAIL = 'password_command = ("cms-oauth", "--user=user@domain.com", "--proto=POP", "--output=token")\n'
TEST = "alias t='cms-oauth --test-imap=outlook.office365.com'\n"


@pytest.mark.parametrize(
    ("tool", "text", "expected"),
    [
        ("exim", EXIM, [(4, PATH, "user@domain.com", "SMTP"), (6, PATH, "$", "SMTP"), (8, PATH, "", "SMTP")]),
        ("msmtp", MSMTP, [(2, PATH, "user@domain.com", "SMTP")]),
        ("mbsync", MBSYNC, [(2, "", "user@domain.com", "IMAP")]),
        ("mutt", MUTT, [(1, "/tmp/x.sock", "user@domain.com", "IMAP"), (2, "", "user@domain.com", "SMTP")]),
        ("aerc", AERC, [(1, "", "", "IMAP")]),
        ("getmail", GETMAIL, [(1, "", "user@domain.com", "POP")]),
        ("exim", MACROS, [(4, "/run/cms/exim.sock", "$", "SMTP"), (5, "OTHER", "$", "SMTP")]),
        ("msmtp", WITH_VARIABLE, [(1, "/a.sock", "", "SMTP"), (2, "/b.sock", "", "IMAP"), (3, "/c.sock", "", "SMTP")]),
        ("mutt", 'x = "cms-oauth --proto=$1"\n', [(1, "", "", "$")]),
        ("mutt", TEST, [(1, "", "", "IMAP")]),
        ("mutt", "; cms-oauth --user a@b\nset from=user@domain.com\n", []),
    ],
)
def test_each_tools_lines_are_read(tool: str, text: str, expected: list[tuple[int, str, str, str]]) -> None:
    """Socket, user and protocol of each line that asks; comments ask for nothing."""
    found = uses(File(tool, "/etc/conf", text))

    assert expected == [(use.line, use.socket, use.user, use.protocol) for use in found]


def use(socket: str = PATH, user: str = "user@domain.com", protocol: str = "SMTP") -> Use:
    return Use("msmtp", "/home/u/.msmtprc", 3, socket, user, protocol)


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        (use(), served()),
        (use(user="USER@domain.com"), served()),
        (use(socket=""), served()),
        (use(user=""), served()),
        (use(user="$"), served("a@x", "b@x")),
        (use(user=""), served("a@x", "A@x")),
        (use(user="whoever@x"), served("")),
    ],
)
def test_what_is_right_passes(asked: Use, offered: Served) -> None:
    """Whether it is said in full, or left to cms."""
    assert "pass" == assess(asked, offered).level


@pytest.mark.parametrize(
    ("asked", "offered", "name", "words"),
    [
        (use(socket="/tmp/x.sock"), served(), "tool-socket", f"the path is wrong: the configuration has {PATH}"),
        (use(socket=""), served(usual="/else"), "tool-socket", "it names none"),
        (use(socket=""), Served((), "/else"), "tool-socket", "none at all"),
        (use(user="other@x"), served(), "tool-user", f"{PATH} does not serve other@x: it serves user@domain.com"),
        (use(user=""), served("a@x", "b@x"), "tool-user", "it names no user: it serves a@x, b@x"),
        (use(protocol="POP"), served(), "tool-protocol", f"{PATH} serves SMTP, IMAP, and no POP"),
    ],
)
def test_what_is_wrong_fails(asked: Use, offered: Served, name: str, words: str) -> None:
    """With the file, the line and what is right."""
    found = assess(asked, offered)

    assert ("fail", name) == (found.level, found.verdicts[0].name)
    assert words in found.verdicts[0].cause
    assert "/home/u/.msmtprc:3" in found.message


@pytest.mark.parametrize("socket", ["${HOME}/cms.sock", "SOCKET", "~/cms.sock"])
def test_what_is_no_whole_path_is_the_tools_business(socket: str) -> None:
    """The finding is a warning: only the mail program knows what comes of it."""
    assert "warn" == assess(use(socket=socket), served()).level


def test_a_link_leads_to_the_same_socket() -> None:
    """As /var/run leads to /run."""
    same = replace(served(), real=lambda path: path.removeprefix("/var"))

    assert ["pass", "fail"] == [assess(use(socket=f"/var{PATH}"), each).level for each in (same, served())]


def test_exim_names_its_socket_in_its_own_way() -> None:
    """It has no options of cms-oauth's."""
    exim = replace(use(socket="/else"), tool="exim")

    assert "in readsocket" in assess(exim, served()).verdicts[0].steps[0]
    assert "with --cms_sock=" in assess(use(socket="/else"), served()).verdicts[0].steps[0]


def offered(page_name: str) -> Served:
    """Return what the configuration of a page in docs/clients/ serves."""
    line = next(line for line in page(page_name).splitlines() if line.startswith("CredentialServer("))
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    path = ast.literal_eval(call.args[0])
    protocols = next(ast.literal_eval(each.value) for each in call.keywords if each.arg == "protocols")
    users = ("user@domain.com", "shared@domain.com", "bob@domain.com")
    spec = SocketSpec(path, tuple(map(account, users)), tuple(protocols), 0o600, None, None, None, 1)
    return Served((spec,), spec.path)


READY = [each for each in mail_programs.TOOLS if each.name in PLACES and "cms" in contrib(each.file)]


@pytest.mark.parametrize("ready", READY, ids=lambda each: each.name)
def test_the_ready_files_pass(ready: mail_programs.Tool) -> None:
    """Each file in contrib/ that the doctor looks at, with the configuration that its page gives."""
    found = uses(File(ready.name, ready.file, contrib(ready.file)))

    assert found
    assert {"pass"} == {assess(each, offered("exim" if ready.name == "exim" else "README")).level for each in found}


def test_a_protocol_that_is_worked_out_later() -> None:
    """It cannot be known before the program runs."""
    assert "asks for a protocol of" in assess(use(protocol="$"), served()).message
