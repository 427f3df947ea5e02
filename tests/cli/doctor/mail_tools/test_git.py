"""git's configuration is read as `git config --list --includes` prints it, and helpers as `git credential fill` asks them."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine, unread

from cms.cli.doctor.mail_tools.found import Command, Use
from cms.cli.doctor.mail_tools.git import uses

URL = '[credential "smtp://h:587"]\n'
SENDING = "[sendemail]\nsmtpServer = h\nsmtpServerPort = 587\nsmtpUser = u@x\nsmtpAuth = XOAUTH2\n"


def read(text: str, **files: str) -> list[Use]:
    return list(uses(machine({".gitconfig": text, **files})))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (f"{URL}helper = cms --user=u@x # c", 2, "--user=u@x"),
        (f'{URL}\thelper = "cms --user=\\"a b\\"" ; c', 2, "--user=a b"),
        (f"{URL}Helper = cms \\\n  --user=u@x", 2, "--user=u@x"),
        ('[Credential "smtp://h:587"] helper = cms --user=u@x', 1, "--user=u@x"),
        (f"{URL}helper = /opt/bin/git-credential-cms --user=u@x", 2, "--user=u@x"),
        (f"{URL}helper = !git-credential-cms --user=u@x", 2, "--user=u@x"),
        (f'{URL}helper = "!f() {{ echo password=$(cms-oauth --user=u@x); }}; f"', 2, "--user=u@x"),
        ("[credential.h] helper=cms", 1, ""),
    ],
)
def test_a_helper(text: str, line: int, words: str) -> None:
    """Quotes, comments, continuations, and the three ways to name a helper."""
    assert [(line, words)] == commands(read(text))


def test_files_that_are_included() -> None:
    """Beside the file, in the home folder, and on a condition, which may hold; a circle ends."""
    files = {
        ".git.d/a": f"{URL}helper = cms --user=a@x\n[include] path = ../.gitconfig\n",
        ".git.d/b": f"{URL}helper = cms --user=b@x\n",
    }
    text = '[include]\npath = .git.d/a ; c\npath = "~/none"\n[includeIf "gitdir:~/work/"]\n  path = ~/.git.d/b\n'
    found = read(text, **files)

    assert ["--user=a@x", "--user=b@x"] == [words for _, words in commands(found)]
    assert [] == unread(found)


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        (f"{URL}helper =\nhelper = cms\n{SENDING}", []),
        (f'[credential "smtp://h:587/"]\nhelper = cms\n{SENDING}', []),
        (f'[credential "smtp://u%40x@h:587"]\nhelper = cms\n{SENDING}', []),
        (
            f'[credential "smtp://h"]\nhelper = cms\n{SENDING}',
            ["git asks for smtp://h:587, and the helper is for smtp://h"],
        ),
        (
            f"{URL}helper = cms\n{SENDING.replace('smtpServerPort = 587', 'smtpEncryption = ssl')}",
            ["git asks for smtp://h:465, and the helper is for smtp://h:587"],
        ),
        (
            f"{URL}helper = cms\n[sendemail] smtpServer = h\nsmtpUser = u\n",
            ["git asks for smtp://h:25, and the helper is for smtp://h:587"],
        ),
        (
            "[credential]\nhelper = cms\n",
            ["the helper is for all servers, so any mail server that git is told to use gets a token"],
        ),
        (
            '[credential "https://h"]\nhelper = cms\n',
            ["the helper answers for mail servers only, not for https"],
        ),
        (
            f"[credential]\nhelper = store\n{URL}helper = cms\n",
            ["git passes the token to the other helpers of that server (store), which may store it"],
        ),
        (
            f'{URL}helper =\nhelper = cms\nhelper = cache --timeout 9\nhelper = "!echo password=hunter2"\n',
            ["git passes the token to the other helpers of that server (cache, a command), which may store it"],
        ),
        (f"[credential]\nhelper = store\n{URL}helper =\nhelper = cms\n", []),
        (
            f"{URL}helper = git-credential-cms\n{SENDING}",
            ["git puts `git-credential-` before a name, and looks for git-credential-git-credential-cms"],
        ),
        (
            f"{URL}helper = ~/bin/git-credential-cms\n{SENDING}",
            ["git puts `git-credential-` before a name, and looks for git-credential-~/bin/git-credential-cms"],
        ),
        (f"{URL}helper = cms\n{SENDING.replace('smtpUser', 'x')}", ["without smtpUser git send-email does not"]),
        (f"{URL}helper = cms\n{SENDING.replace('XOAUTH2', 'PLAIN')}", ["smtpAuth is PLAIN, without XOAUTH2"]),
        (f'{URL}helper = cms\n{SENDING}[sendemail "w"]\nsmtpAuth = LOGIN\n', ["smtpAuth is LOGIN, without XOAUTH2"]),
        ('[credential "smtp://[h"]\nhelper = cms\n[sendemail]\nsmtpServer = h\n', []),
    ],
)
def test_what_can_never_log_in(text: str, causes: list[str]) -> None:
    """And what would give a token away."""
    assert causes == [each for _, each in faults(read(text))]


def test_where_the_file_is() -> None:
    """The system's, and both of the user's; the variables of git name others."""
    text = f"{URL}helper = cms --user="
    files = {"/etc/gitconfig": f"{text}1", ".config/git/config": f"{text}2", ".gitconfig": f"{text}3", "/x": f"{text}4"}
    named = {"GIT_CONFIG_GLOBAL": "/x", "GIT_CONFIG_SYSTEM": "/none"}

    assert ["--user=1", "--user=2", "--user=3"] == [words for _, words in commands(list(uses(machine(files))))]
    assert ["--user=4"] == [words for _, words in commands(list(uses(machine(files, named))))]


def test_the_protocol_is_that_of_the_server() -> None:
    """The helper itself chooses it so."""
    text = "".join(f'[credential "{each}://h:1"]\nhelper = cms\n' for each in ("smtps", "imap", "pop3s"))

    assert ["SMTP", "IMAP", "POP"] == [each.login.protocol for each in read(text) if isinstance(each, Command)]


def test_other_helpers_are_nobodys_business() -> None:
    """Nor are lines that git refuses."""
    text = "x = y\n[credential]\nhelper = store\nhelper = 'open\nhelper\n# \\\n= z\n[sendemail]\nsmtpUser = u\nsmtpServer = h\n"

    assert [] == read(text)
