"""What mail programs ask is compared with what is served, and nothing of somebody else's is called a fault."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.contrib import ROOT
from support.fragments import contrib, page, shown
from support.mail_files import SOCKET, account, machine, served

from cms.cli.doctor import mail_tools
from cms.cli.doctor.findings import Finding
from cms.cli.doctor.mail_tools import mbsync
from cms.cli.doctor.mail_tools.found import (
    UNKNOWN,
    Command,
    Fault,
    Login,
    Machine,
    NotFollowed,
    Place,
    Request,
    Table,
    TokenPath,
    Use,
    Variable,
)
from cms.cli.doctor.mail_tools.judge import Served, judge
from cms.cli.doctor.mail_tools.msmtp import uses_of_msmtp
from cms.cli.doctor.mail_tools.mutt import uses_of_mutt
from cms.config.model import SocketSpec

HERE = Place("msmtp", "/home/u/.msmtprc", 3)
EXIM = Place("exim", "/etc/exim4/exim4.conf", 3)


def command(line: str, login: Login | None = None, socket: str = "", program: str = "cms-oauth") -> Command:
    return Command(HERE, tuple(line.split()), socket, login or Login(), program)


def verdicts(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.level, each.verdicts[0].name if each.verdicts else "") for each in findings]


def causes(findings: list[Finding]) -> str:
    return " ".join(verdict.cause for each in findings for verdict in each.verdicts)


@pytest.mark.parametrize(
    ("use", "offered"),
    [
        (command("--user=user@domain.com"), served()),
        (command("--user USER@domain.com --proto IMAP"), served()),
        (command("--user=<user@domain.com>"), served()),
        (replace(command(""), words=("--user= 'user@domain.com' ",)), served()),
        (command(""), served()),
        (command("--user=whoever@x"), served("")),
        (command("--no-newline"), served("a@x", "A@x")),
        (command("--user=me@domain.com"), served("*@domain.com")),
        (command(""), served("a@x", "*@domain.com")),
        (Request(EXIM, SOCKET, "SMTP me@domain.com"), served("*@domain.com")),
        (command(f"--user={UNKNOWN}"), served("a@x", "b@x")),
        (command(f"--user=user@domain.com --proto={UNKNOWN}"), served()),
        (command(f"--cms_sock={SOCKET}"), served(usual="/else")),
        (command("", socket=SOCKET), served(usual="/else")),
        (command("--cms-sock=~/cms.sock"), served(path="/home/u/cms.sock")),
        (
            command("--cms-sock=$RUN/cms.sock"),
            replace(served(), expand=lambda path: path.replace("$RUN/cms.sock", SOCKET)),
        ),
        (command(f"--cms_sock={SOCKET}", socket="/else"), served()),
        (command("--user=user@domain.com", program="git-credential-cms"), served()),
        (command("", program="git-credential-cms"), served("a@x", "b@x")),
        (Request(EXIM, SOCKET, "SMTP"), served()),
        (Request(EXIM, SOCKET, f"SMTP,xoauth2 {UNKNOWN}"), served("a@x", "b@x")),
        (Request(EXIM, SOCKET, UNKNOWN), served("a@x", "b@x")),
        (Request(EXIM, SOCKET, f"{UNKNOWN} user@domain.com"), served()),
        (Variable(HERE, SOCKET), served()),
        (Table(HERE, "/s", (), Table(HERE, "/table")), served(table="/table")),
        (Table(HERE, "/table"), served(table="/table")),
        (TokenPath(HERE, "/run/user/1000/cms/imap-token", "IMAP"), served()),
    ],
)
def test_what_is_right_passes(use: Use, offered: Served) -> None:
    """Whether it is said in full, or left to cms."""
    assert [("pass", "")] == verdicts(judge(use, offered))


@pytest.mark.parametrize("user", ["me@x", ""])
@pytest.mark.parametrize("asked", [f"--user={UNKNOWN}", "--user=me@x", ""])
def test_an_account_with_protocols_of_its_own(user: str, asked: str) -> None:
    """It may lack one that its socket serves; which account a program means may not be known."""
    spec = SocketSpec(SOCKET, (account(user, "SMTP"),), ("SMTP", "IMAP"), 0o600, None, None, None, 1)
    (found,) = judge(command(f"{asked} --proto=IMAP"), Served([spec], [], SOCKET))
    certain = asked != f"--user={UNKNOWN}" and (bool(user) or not asked)

    assert ("fail" if certain else "pass") == found.level
    if certain:
        assert f"the protocols= of {user or 'the account'} leave IMAP out" == found.verdicts[0].cause
        assert found.verdicts[0].steps[0].startswith('add "IMAP" to protocols= of the account')


@pytest.mark.parametrize(
    ("use", "offered", "name", "words"),
    [
        (command("--cms_sock=/x"), served(), "tool-socket", f"the path is wrong: the configuration has {SOCKET}"),
        (command("", socket="/x"), served(), "tool-socket", "the path is wrong"),
        (command(""), served(usual="/else"), "tool-socket", "it names none, and the usual path is another"),
        (command(""), Served((), (), "/else"), "tool-socket", "none at all"),
        (command("--cms_sock=/table"), served(table="/table"), "tool-socket", "that is a PostfixTable"),
        (
            command("--user=other@x"),
            served(),
            "tool-user",
            f"{SOCKET} does not serve other@x: it serves user@domain.com",
        ),
        (command(""), served("a@x", "b@x"), "tool-user", "it names no user: it serves a@x, b@x"),
        (command(""), served("*@domain.com"), "tool-user", "it names no user: it serves *@domain.com"),
        (command("--user=me@x"), served("*@domain.com"), "tool-user", f"{SOCKET} does not serve me@x"),
        (command("--proto=POP"), served(), "tool-protocol", f"{SOCKET} serves SMTP, IMAP, and no POP"),
        (command("--test-pop=h"), served(), "tool-protocol", "no POP"),
        (Variable(HERE, "/x"), served(), "tool-socket", "the path is wrong"),
        (Request(EXIM, "/x", "SMTP", login="SMTP"), served(), "tool-socket", "the path is wrong"),
        (Request(EXIM, "/x", "IMAP user@domain.com"), served(), "tool-socket", "the path is wrong"),
        (Request(EXIM, SOCKET, "SMTP other@x"), served(), "tool-user", "does not serve other@x"),
        (Request(EXIM, SOCKET, "POP"), served(), "tool-protocol", "no POP"),
        (Table(HERE, "/x"), served(table="/table"), "tool-socket", "the path is wrong: the configuration has /table"),
        (Table(HERE, SOCKET), served(), "tool-socket", "is a CredentialServer"),
    ],
)
def test_what_is_not_served_fails(use: Use, offered: Served, name: str, words: str) -> None:
    """With the file, the line and what is right."""
    (found,) = judge(use, offered)

    assert ("fail", name) == (found.level, found.verdicts[0].name)
    assert words in found.verdicts[0].cause
    assert str(use.place) in found.message
    assert use.place.path in found.verdicts[0].steps[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--proto=imap", "a request begins with a protocol in capitals, such as SMTP"),
        ("--users=user@domain.com", "unrecognized arguments: -"),
        ("--user", "argument --user: expected one argument"),
        ("--user=", "the value is empty"),
        ("--user=a@x --output=bearer", "invalid choice: 'bearer'"),
        ("user@domain.com", "unrecognized arguments: user@domain.com"),
        ("--user=a@x --test-smtp=h --test-imap=h", "one test at a time"),
        ("-u user@domain.com", "unrecognized arguments: -"),
        ("--user=a..@x\t", ""),
        ("--help", "it prints help, not a token"),
        ("--user=a@x --version", "it prints help, not a token"),
    ],
)
def test_a_command_that_cms_oauth_refuses(line: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """In the words of its own option reader, which prints nothing here."""
    found = judge(command(line), served("user@domain.com", "a..@x"))

    assert ([("fail", "tool-command")] if words else [("pass", "")]) == verdicts(found)
    assert words in causes(found)
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize(
    ("uses", "file", "text"),
    [
        (uses_of_mutt, ".muttrc", 'set imap_oauth_refresh_command="cms-oauth --user=o\'connor@x --proto=IMAP"\n'),
        (mbsync.uses, ".mbsyncrc", 'IMAPAccount a\nPassCmd "cms-oauth --user=o\'connor@x --output=token"\n'),
        (uses_of_msmtp, ".msmtprc", "account a\npasswordeval cms-oauth --user=o'connor@x --output=token\n"),
    ],
)
def test_an_apostrophe_without_quotes_is_called_that(
    uses: Callable[[Machine], Iterator[Use]], file: str, text: str
) -> None:
    """sh takes the rest of the line for the user, and what stands there has no space that one could see."""
    found = [each for use in uses(machine({file: text})) for each in judge(use, served("o'connor@x"))]

    assert "a quote in it is not closed" in causes(found)
    assert "has no spaces" not in causes(found)
    assert any("quotes around it" in step for each in found for verdict in each.verdicts for step in verdict.steps)


@pytest.mark.parametrize("line", ["--user a@x", "--output=token", "get", "--user=a@x --proto=IMAP"])
def test_a_helper_that_git_credential_cms_refuses(line: str) -> None:
    """It has fewer options, in one spelling."""
    found = judge(command(line, program="git-credential-cms"), served())

    assert [("fail", "tool-command")] == verdicts(found)
    assert "git-credential-cms refuses" in causes(found)


@pytest.mark.parametrize("line", [f"--user=a@x {UNKNOWN}", f"--output={UNKNOWN}", f"{UNKNOWN} --what"])
def test_a_command_whose_options_are_computed(line: str) -> None:
    """Only the program knows them."""
    assert [("skip", "")] == verdicts(judge(command(line), served()))


@pytest.mark.parametrize("socket", [f"{UNKNOWN}/cms.sock", "SOCKET", "~x/cms.sock"])
def test_what_is_no_whole_path_is_the_programs_business(socket: str) -> None:
    """The finding is a warning: only the mail program knows what comes of it."""
    assert [("warn", "tool-socket-unknown")] == verdicts(judge(command(f"--cms_sock={socket}"), served()))
    assert [("warn", "tool-socket-unknown")] == verdicts(judge(Request(EXIM, socket, "SMTP", login="SMTP"), served()))


@pytest.mark.parametrize(
    ("line", "login", "expected", "words"),
    [
        ("--output=token", Login("SMTP", "token"), [], ""),
        ("--output=token --proto=IMAP", Login("IMAP", "token"), [], ""),
        ("", Login("SMTP", "token"), [("fail", "tool-output")], "takes a bare token, and this prints xoauth2"),
        ("--output=json", Login("", "token"), [("fail", "tool-output")], "this prints json"),
        ("--output=token", Login("SMTP", "token", bare=True), [("fail", "tool-output")], "would send the newline"),
        ("--output=token --no-newline", Login("SMTP", "token", bare=True), [], ""),
        ("--test-smtp=h", Login("SMTP", "token"), [("fail", "tool-output")], "--test-smtp prints no token"),
        ("--output=token --proto=IMAP", Login("SMTP", "token"), [("warn", "tool-protocol")], "the login is SMTP"),
        ("--output=token", Login("IMAP", "token"), [("warn", "tool-protocol")], "the token is asked for SMTP"),
    ],
)
def test_what_the_login_needs(line: str, login: Login, expected: list[tuple[str, str]], words: str) -> None:
    """The form that the program takes, without a newline where that would be sent, and its protocol."""
    found = judge(command(line, login), served())

    assert [("pass", ""), *expected] == verdicts(found)
    assert words in causes(found)


@pytest.mark.parametrize(
    "use",
    [
        Request(EXIM, "/tmp/srsd", f"REVERSE {UNKNOWN}@{UNKNOWN}"),
        Request(EXIM, "inet:localhost:783", "SMTP user@x"),
        Request(EXIM, "/run/clamd.sock", "SCAN /x"),
        Request(EXIM, "/x", UNKNOWN),
        Request(EXIM, "/run/greylist", f"SMTP {UNKNOWN}"),
        Request(HERE, "/run/statistics", "IMAP"),
        Request(EXIM, "/run/pop-before-smtp", f"POP {UNKNOWN} {UNKNOWN}"),
        Request(HERE, "/run/who", "SMTP somebody@else"),
        Table(HERE, "/run/postsrsd"),
        TokenPath(HERE, "/home/u/.password", "IMAP"),
    ],
)
def test_what_is_somebody_elses_is_left_alone(use: Use) -> None:
    """Another program's socket, table or password file; and what its reader thinks of it does not count."""
    fault = Fault(use.place, "", "", "")
    judged = replace(use, faults=(fault,)) if isinstance(use, Request | Table | TokenPath) else use

    assert [] == judge(judged, served())


@pytest.mark.parametrize(
    "use",
    [
        Request(EXIM, SOCKET, "SMTP"),
        Table(HERE, "/table"),
        TokenPath(HERE, "/run/user/1000/cms/imap-token", "IMAP"),
    ],
)
def test_what_its_reader_says_counts_if_it_is_ours(use: Request | Table | TokenPath) -> None:
    """Beside the finding about the socket, table or file."""
    certain, perhaps = Fault(use.place, "x", "y", "z"), Fault(use.place, "x", "y", "z", certain=False)
    found = judge(replace(use, faults=(certain, perhaps)), served(table="/table"))

    assert [("pass", ""), ("fail", "tool-login"), ("warn", "tool-login")] == verdicts(found)


@pytest.mark.parametrize("text", ["smtp user@x", "SMTP a b", "SMTP,what user@x", "REVERSE", ""])
def test_a_request_that_cms_refuses(text: str) -> None:
    """At a socket of ours it is a mistake, whoever wrote it."""
    found = judge(Request(EXIM, SOCKET, text), served(protocols=("SMTP",)))

    assert [("fail", found[0].verdicts[0].name)] == verdicts(found)


def test_what_exim_encodes_twice() -> None:
    """It encodes what client_send says; a script does not."""
    twice = Request(EXIM, SOCKET, "SMTP,xoauth2-b64 user@domain.com", login="SMTP")

    assert [("pass", ""), ("fail", "tool-login")] == verdicts(judge(twice, served()))
    assert [("pass", "")] == verdicts(judge(replace(twice, login=""), served()))


def test_exim_with_a_token_for_another_protocol() -> None:
    """It sends with SMTP only."""
    found = judge(Request(EXIM, SOCKET, "IMAP", login="SMTP"), served())

    assert [("pass", ""), ("warn", "tool-protocol")] == verdicts(found)
    assert "the login is SMTP, and the token is asked for IMAP" in causes(found)


def test_a_token_file_for_another_protocol() -> None:
    """fetchmail logs in by POP with a token for IMAP."""
    found = judge(TokenPath(HERE, "/run/user/1000/cms/imap-token", "POP"), served())

    assert [("pass", ""), ("warn", "tool-protocol")] == verdicts(found)


def test_what_is_not_read_is_skipped() -> None:
    """Neither good nor bad."""
    (found,) = judge(NotFollowed(Place("mutt", "/m"), "Permission denied"), served())

    assert ("skip", "mutt: /m: Permission denied") == (found.level, found.message)


@pytest.mark.parametrize("use", [command("--user=a@x"), Variable(HERE, "/x"), Variable(HERE, f"{UNKNOWN}/x")])
def test_without_a_configuration(use: Use) -> None:
    """The options can be checked, and nothing more."""
    nothing = Served(None, None, SOCKET)

    assert ["skip"] == [each.level for each in judge(use, nothing)]
    assert ["fail"] == [each.level for each in judge(command("--what"), nothing)]


def test_a_program_that_is_not_there() -> None:
    """By its whole path; a name is looked for in a PATH that is not the doctor's."""
    there = replace(served(), is_file=lambda path: path == "/bin/cms-oauth")
    use = command("--user=user@domain.com")

    assert ["pass", "pass", "fail"] == [
        judge(replace(use, path=path), there)[0].level for path in ("", "/bin/cms-oauth", "/opt/cms-oauth")
    ]


def test_a_link_leads_to_the_same_socket() -> None:
    """As /var/run leads to /run."""
    same = replace(served(), real=lambda path: path.removeprefix("/var"))

    assert ["pass", "fail"] == [judge(command(f"--cms_sock=/var{SOCKET}"), each)[0].level for each in (same, served())]


def test_exim_names_its_socket_in_its_own_way() -> None:
    """It has no options of cms-oauth's."""
    assert "in readsocket" in judge(Request(EXIM, "/else", "SMTP", login="SMTP"), served())[0].verdicts[0].steps[0]
    assert "with --cms_sock=" in judge(command("--cms_sock=/else"), served())[0].verdicts[0].steps[0]


# All programs together.


def offered(page_name: str) -> SocketSpec:
    """Return the socket of a page in docs/clients/."""
    line = next(line for line in page(page_name).splitlines() if line.startswith("CredentialServer("))
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    protocols = next(ast.literal_eval(each.value) for each in call.keywords if each.arg == "protocols")
    users = ("user@domain.com", "shared@domain.com", "user@gmail.com", "bob@domain.com")
    accounts = tuple(account(user, *protocols) for user in users)
    return SocketSpec(ast.literal_eval(call.args[0]), accounts, tuple(protocols), 0o600, None, None, None, 1)


READY = {
    ".msmtprc": contrib("msmtp.conf"),
    ".mpoprc": contrib("mpop.conf"),
    ".mbsyncrc": contrib("mbsyncrc"),
    ".muttrc": contrib("muttrc"),
    ".config/aerc/accounts.conf": contrib("aerc-accounts.conf"),
    ".config/getmail/getmailrc": contrib("getmailrc"),
    ".offlineimaprc": contrib("offlineimaprc"),
    ".mailrc": contrib("mailrc"),
    ".gitconfig": contrib("gitconfig-credential"),
    ".emacs.d/init.el": shown("emacs", "init"),
    ".fetchmailrc": 'poll h protocol imap auth oauthbearer passwordfile "/run/user/1000/cms/imap-token"',
    "/etc/exim4/exim4.conf": contrib("exim4.conf"),
    "/etc/postfix/main.cf": contrib("postfix-main.cf"),
    "/etc/postfix/master.cf": contrib("postfix-master.cf"),
    "bin/with-token": f"#!/bin/sh\n{contrib('with-token.sh')}",
    "bin/send": f"#!/usr/bin/python3\n{contrib('send.py')}",
}


def test_the_ready_files_pass() -> None:
    """Each file in contrib/, with the configurations that the pages give."""
    usual = offered("README")
    table = replace(offered("exim"), path="/run/cms/postfix.sock", speaks="postfix")
    both = Served((usual, offered("exim"), table), served().files, usual.path)
    found = [
        (use.place.tool, finding)
        for use in mail_tools.uses(machine(READY, installed=True, release=7))
        for finding in judge(use, both)
    ]

    assert {"pass"} == {finding.level for _, finding in found}
    tools = {*mail_tools.READERS} - {"scripts"} | {"shell", "python"}
    assert tools == {tool for tool, _ in found}


def test_every_page_has_a_reader() -> None:
    """imapsync is found in scripts, mutt's page is neomutt's too."""
    pages = {path.stem for path in (ROOT / "docs" / "clients").glob("*.md")} - {"README"}
    read = {name.lower() for name in mail_tools.READERS} | {"shell", "python", "imapsync"}

    # What test_a_program_that_sends_through_graph finds.
    assert {"graph"} == pages - read


def test_a_program_that_sends_through_graph() -> None:
    """graph-sendmail asks for GRAPH, whichever program runs it: the files of its page, and a script."""
    wrapper = shown("graph", "wrapper")
    files = {
        ".gitconfig": shown("graph", "git"),
        ".muttrc": shown("graph", "mutt"),
        ".mailrc": shown("graph", "s-nail"),
        ".emacs.d/init.el": shown("graph", "emacs"),
        "bin/sendmail": wrapper,
    }
    found = mail_tools.uses(machine(files))

    assert {"git", "mutt", "s-nail", "Emacs", "shell"} == {each.place.tool for each in found}
    path = "/run/user/1000/cms/cms.sock"
    for protocols, level in ((("GRAPH",), "pass"), (("SMTP",), "fail")):
        offer = served(protocols=protocols, usual=path, path=path)
        assert {level} == {finding.level for use in found for finding in judge(use, offer)}


def test_hostile_files_end() -> None:
    """Nothing in a file makes its reader fail or hang: they are somebody else's, and may be anything."""
    hostile = ("\0", "{" * 5_000, '"' * 5_001, "\\\n" * 5_000, "${readsocket{" * 2_000, "[a]\n=\n[", "set x=\n" * 3_000)
    for text in (
        *hostile,
        "'" * 5_001,
        "\ud800",
        "\n" * 50_000,
        "source ~/.muttrc\n" * 3_000,
        "folder-hook . " * 5_000,
        "ifdef x " * 5_000,
        "(" * 20_000,
        "a = $a\n",
    ):
        files = dict.fromkeys(READY, text) | {".config/getmail/getmailrc": f"[retriever]\n{text}"}

        assert [] == [use for use in mail_tools.uses(machine(files)) if not isinstance(use, NotFollowed | Fault)]
