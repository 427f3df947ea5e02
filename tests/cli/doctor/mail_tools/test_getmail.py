"""getmail's files are read as `getmail --dump` reads them."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine

from cms.cli.doctor.mail_tools.found import Use
from cms.cli.doctor.mail_tools.getmail import uses

HEAD = "[retriever]\ntype = SimpleIMAPSSLRetriever\nuse_xoauth2 = true\n"
GOOD = f'{HEAD}password_command = ("cms-oauth", "--user=u@x")\n'
FILE = ".config/getmail/getmailrc"


def read(text: str) -> list[Use]:
    return list(uses(machine({FILE: text})))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('("cms-oauth", "--user", "u@x", "--output", "token")', "--user u@x --output token"),
        ('("/usr/bin/cms-oauth", "--user=u@x")  # c', "--user=u@x"),
        ("('cms-oauth',\n  # a comment\n  '--user=u' '@x',\n  )", "--user=u@x"),
        ('("cms-oauth", u"--user=%(x)s")', "--user=%(x)s"),
        ('("sh", "-c", "CMS_SOCK=/x cms-oauth --user=u@x")', "--user=u@x"),
        ('("cms-oauth",)', ""),
    ],
)
def test_the_command_is_a_python_tuple(value: str, words: str) -> None:
    """Over several lines, with Python's comments and quotes, and without interpolation."""
    found = read(f"{HEAD}password_command = {value}\n")

    assert [(4, words)] == commands(found)
    assert [] == faults(found)


@pytest.mark.parametrize("header", ["[retriever]  # mine", "  [retriever]", "[retriever]\r"])
def test_a_header_as_configparser_takes_it(header: str) -> None:
    """With spaces before it, or anything after it."""
    assert [(4, "--user=u@x")] == commands(read(GOOD.replace("[retriever]", header)))


def test_indented_options() -> None:
    """configparser takes them for options, and so does getmail; the line is told all the same."""
    assert [(4, "--user=u@x")] == commands(read(GOOD.replace("\n", "\n  ").rstrip(" ")))


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("cms-oauth --user=u@x", "password_command is no Python tuple of quoted words"),
        ('("cms-oauth", "--user=u@x") ; c', "password_command is no Python tuple of quoted words"),
        ('["cms-oauth", "--user=u@x"]', "password_command is no Python tuple: a single word needs a comma too"),
        ('("cms-oauth")', "password_command is no Python tuple: a single word needs a comma too"),
    ],
)
def test_a_command_that_getmail_refuses(value: str, cause: str) -> None:
    """It says so itself, for each of these."""
    ((line, said),) = faults(read(f"{HEAD}password_command = {value}\n"))

    assert line == 4
    assert said.startswith(cause)


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        (GOOD.replace("true", "YES"), []),
        (GOOD.replace("true", "1"), []),
        (GOOD.replace("use_xoauth2 = true\n", ""), ["without use_xoauth2 getmail sends the token as a password"]),
        (GOOD.replace("true", "false"), ["without use_xoauth2 getmail sends the token as a password"]),
        (
            GOOD.replace("true", "true ; c"),
            ["use_xoauth2 is `true ; c`, and getmail knows no comment at the end of a line"],
        ),
        (
            GOOD.replace("SimpleIMAPSSL", "SimplePOP3SSL"),
            ["SimplePOP3SSLRetriever sends the token as a password: only getmail's IMAP retrievers know XOAUTH2"],
        ),
        (f"{GOOD}password: x\n", ["there is a `password` too, so the command is not run"]),
    ],
)
def test_what_can_never_log_in(text: str, causes: list[str]) -> None:
    """Seen with getmail 6.18."""
    assert causes == [each for _, each in faults(read(text))]


def test_a_command_in_one_word() -> None:
    """getmail looks for a program with that whole name."""
    ((line, cause),) = faults(read(f'{HEAD}password_command = ("cms-oauth --user=u@x",)\n'))

    assert line == 4
    assert "a single word of the whole command" in cause


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("type = x\n", "line 5 sets type a second time"),
        ("[retriever]\n", "line 5 begins [retriever] a second time"),
        ("password hunter2\n", "line 5 is no option"),
    ],
)
def test_a_file_that_getmail_refuses(more: str, said: str) -> None:
    """It is not quoted, because it may hold a password. It matters if it is about cms."""
    assert [(0, f"getmail refuses the file: {said}")] == faults(read(GOOD + more))
    assert [] == read(HEAD + more)


def test_which_files_are_configurations() -> None:
    """All of the folder but getmail's own, and only with a [retriever]: not the log, nor notes."""
    files = {
        FILE: GOOD,
        ".getmail/work": GOOD,
        ".config/getmail/log": "2026-01-01 External program error (cms-oauth --user=x exited with 75)\n",
        ".config/getmail/notes": "[retriever] password_command = (cms-oauth)\n",
        ".config/getmail/oldmail-h-993": GOOD,
        ".config/getmail/x.json": GOOD,
        ".config/getmail/.x.swp": GOOD,
    }
    found = list(uses(machine(files)))

    assert ["/home/u/.config/getmail/getmailrc", "/home/u/.getmail/work"] == [each.place.path for each in found]


def test_other_commands_are_nobodys_business() -> None:
    """Whatever their form."""
    assert [] == read(f'{HEAD.replace("true", "no")}password_command = ("pass", "mail")\n')
    assert [] == read("[retriever]\npassword_command = pass mail\n")
