"""s-nail's files are read as it reads them, and what it can never log in with is named."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine, unread

from cms.cli.doctor.mail_tools.found import Command, Login, Use
from cms.cli.doctor.mail_tools.s_nail import uses

MACRO = """\
define cms-token {
  vput ! password cms-oauth --user=u@x --output=token --no_newline
}
"""
SENDING = "set v15-compat on-compose-leave=cms-token mta=smtp://u%40x@h:587 smtp-auth=oauthbearer\n"


def read(*texts: str, **files: str) -> list[Use]:
    return list(uses(machine({".mailrc": "".join(texts), **files})))


def test_a_macro_that_runs_before_a_message_is_sent() -> None:
    """By the hook of an account, by another macro, or called at the top."""
    account = "account work {\n  set mta=smtps://u%40x@h smtp-auth=oauthbearer on-compose-leave=cms-token\n}\n"
    through = 'define outer {\n  call cms-token\n}\nset mta="smtp://h" smtp-auth=oauthbearer on-main-loop-tick=outer\n'
    called = "wysh set smtp=h:587 smtp-auth=oauthbearer; call cms-token # c\n"
    for text in (account, through, called, SENDING):
        (use,) = read("set v15-compat\n", MACRO, text)

        assert isinstance(use, Command)
        assert Login("SMTP", "token", bare=True) == use.login


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vput ! password cms-oauth \\\n   --user=u@x", "--user=u@x"),
        ("ignerr vput ! x cms-oauth --user='u@x' 2>/dev/null", "--user=u@x"),
        ("! cms-oauth --user=u@x", "--user=u@x"),
        ("!cms-oauth --user=u@x; true", "--user=u@x"),
    ],
)
def test_a_command_outside_of_macros(text: str, words: str) -> None:
    """What it is for is not known then, but its newline would be sent too."""
    (use,) = read(text)

    assert isinstance(use, Command)
    assert (words, Login("", "token", bare=True)) == (" ".join(use.words), use.login)


@pytest.mark.parametrize(
    ("settings", "causes"),
    [
        ("", ["the file has no `smtp-auth`, and so PLAIN"]),
        ("set smtp-auth=login", ["the file has `smtp-auth=login`"]),
        ("set smtp-auth=xoauth2", ["the file has `smtp-auth=xoauth2`: s-nail refuses that word"]),
        ("set smtp-auth-h=oauthbearer", []),
        ("set smtp-auth=plain smtp-auth-u@h=oauthbearer", []),
        (
            "unset v15-compat\nset smtp-auth=oauthbearer",
            ["the file lacks v15-compat, without which s-nail knows no oauthbearer"],
        ),
        ("set mta=/usr/bin/msmtp", []),
    ],
)
def test_what_can_never_log_in(settings: str, causes: list[str]) -> None:
    """The default is PLAIN; what another program sends is that program's business."""
    text = "set v15-compat on-compose-leave=cms-token\nset mta=smtp://u%40x@h:587\n"

    assert causes == [each for _, each in faults(read(MACRO, text, settings))]


def test_files_that_are_included() -> None:
    """By `source`; a command and an unknown name are named."""
    files = {".mail.d/cms": MACRO, "/etc/s-nail.rc": "set x=y\n"}
    text = "source ~/.mail.d/cms\nsource_if $x-none\nsource 'gpg -d f|'\nsource $nowhere\n"
    found = read(text, **files)

    assert [(2, "--user=u@x --output=token --no_newline")] == commands(found)
    assert [
        "3: more settings come from a command, which the doctor does not run",
        "4: more settings come from a file whose name is not known here",
    ] == unread(found)


def test_where_the_file_is() -> None:
    """$MAILRC names another one."""
    found = list(uses(machine({".mailrc": MACRO, "/m": "! cms-oauth"}, {"MAILRC": "/m"})))

    assert [(1, "")] == commands(found)


def test_other_commands_are_nobodys_business() -> None:
    """Nor is a comment, nor a line whose quotes do not end."""
    assert [] == read(
        "# ! cms-oauth\nset x='cms-oauth\nset smtp-auth=login smtp=h\nvput ! password pass\necho ! cms-oauth\n"
    )
