"""What mail tools' configurations ask of cms is found, and compared with what is served."""

from __future__ import annotations

import pytest

from cms.accounts import Account, Grant
from cms.config import SocketSpec
from cms.doctor.tools import File, Served, Use, judge, uses

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
    assert "pass" == judge(asked, offered).level


@pytest.mark.parametrize(
    ("asked", "offered", "name", "words"),
    [
        (use(socket="/tmp/x.sock"), served(), "tool-socket", f"the path is another: the configuration has {PATH}"),
        (use(socket=""), served(usual="/else"), "tool-socket", "it names none"),
        (use(socket=""), Served((), "/else"), "tool-socket", "none at all"),
        (use(user="other@x"), served(), "tool-user", f"{PATH} does not serve other@x: it serves user@domain.com"),
        (use(user=""), served("a@x", "b@x"), "tool-user", "it names no user: it serves a@x, b@x"),
        (use(protocol="POP"), served(), "tool-protocol", f"{PATH} serves SMTP, IMAP, and no POP"),
    ],
)
def test_what_is_wrong_fails(asked: Use, offered: Served, name: str, words: str) -> None:
    """With the file, the line and what is right."""
    found = judge(asked, offered)

    assert ("fail", name) == (found.level, found.verdicts[0].name)
    assert words in found.verdicts[0].cause
    assert "/home/u/.msmtprc:3" in found.message


def test_a_variable_in_the_path_is_the_tools_business() -> None:
    """It is warned about: nobody else knows what comes of it."""
    assert "warn" == judge(use(socket="${HOME}/cms.sock"), served()).level
