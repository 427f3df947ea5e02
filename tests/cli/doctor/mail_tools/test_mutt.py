"""The files of mutt and neomutt are read as `mutt -Q` shows what they set."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine, unread

from cms.cli.doctor.mail_tools.found import Command, Use
from cms.cli.doctor.mail_tools.mutt import uses_of_mutt, uses_of_neomutt

GOOD = 'set imap_authenticators="xoauth2"\n'
COMMAND = 'set imap_oauth_refresh_command="cms-oauth --user=u@x"\n'


def read(*texts: str, **files: str) -> list[Use]:
    return list(uses_of_mutt(machine({".muttrc": "".join(texts), **files})))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('set imap_oauth_refresh_command="cms-oauth --user=u@x" # --user=c', "--user=u@x"),
        ("set imap_oauth_refresh_command='cms-oauth --user=\"u@x\"'#c", "--user=u@x"),
        ('set imap_oauth_refresh_command = "cms-oauth \\\n    --user=u@x"', "--user=u@x"),
        ("set imap_oauth_refresh_command=cms-oauth\\ --user=\\$USER", "--user=…"),
        ('set my_u=u@x ; set imap_oauth_refresh_command="cms-oauth --user=$my_u"', "--user=u@x"),
        ('set my_u = u@x imap_oauth_refresh_command = "cms-oauth --user=${my_u}"', "--user=u@x"),
        ("set imap_oauth_refresh_command='cms-oauth --user=u@x; true'", "--user=u@x"),
        ('set imap_oauth_refresh_command="cms-oauth" ; set imap_oauth_refresh_command += " --user=u@x"', "--user=u@x"),
        ('set imap_oauth_refresh_command="cms-oauth --user=\\"u@x\\""', "--user=u@x"),
        ('set imap_oauth_refresh_command="cms-oauth --user=`id -un`$"', "--user=…$"),
    ],
)
def test_the_value_is_quoted_as_mutt_quotes(text: str, words: str) -> None:
    """Quotes, comments, variables, several commands in a line, continuations."""
    assert [(1, words)] == commands(read(text, f"\n{GOOD}"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("source ~/.mutt/account", ".mutt/account"),
        ("source $HOME/.mutt/account", ".mutt/account"),
        ("source '~/.mutt/account' ; set x", ".mutt/account"),
        ("source ~/.mutt/a\nsource ~/.mutt/a", ".mutt/account"),
        ("account-hook . 'source ~/.mutt/account'", ".mutt/account"),
        ("folder-hook =work source ~/.mutt/account", ".mutt/account"),
        ('macro index <f2> "<enter-command>source ~/.mutt/account<enter><change-folder>!<enter>"', ".mutt/account"),
        ("source .mutt/account", ".mutt/account"),
    ],
)
def test_a_file_that_is_included_is_read(text: str, path: str) -> None:
    """By its name, from a hook, from a macro that changes the account, and through another file; a circle ends."""
    files = {path: COMMAND + GOOD, ".mutt/a": "source ~/.mutt/account\nsource ~/.muttrc"}
    found = read(text, **files)

    assert [f"/home/u/{path}"] == [each.place.path for each in found if isinstance(each, Command)]
    assert [] == [*faults(found), *unread(found)]


def test_what_cannot_be_followed_is_named() -> None:
    """A command and an unknown name, once for each file; a file that may not be read, but not one that is not there.

    Debian's own command prints files that are read.
    """
    found = list(
        uses_of_mutt(
            machine(
                {
                    "/etc/Muttrc": "source /usr/lib/mutt/source-muttrc.d|\n",
                    "/etc/Muttrc.d/x.rc": COMMAND + GOOD,
                    ".muttrc": "source 'gpg -d ~/.mutt/p.gpg|'\nsource $nowhere/x\nsource ~/none\nsource $y\nsource ~/closed\n",
                }
            )
        )
    )

    assert [(1, "--user=u@x")] == commands(found)
    assert [
        "1: more settings come from a command, which the doctor does not run",
        "2: more settings come from a file whose name is not known here",
        "5: /home/u/closed: Permission denied",
    ] == unread(found)


MISSING = "imap_authenticators does not name xoauth2, which mutt never chooses by itself"


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        (GOOD, []),
        ('set imap_authenticators="oauthbearer"', []),
        ("set imap_authenticators=OAUTHBEARER:XOAUTH2", []),
        ("set imap_authenticators=gssapi:xoauth2", []),
        ("", [MISSING]),
        (f"{GOOD}unset imap_authenticators", [MISSING]),
        ('set imap_authenticators="login"', [MISSING]),
        ("account-hook . 'set imap_authenticators=xoauth2'", []),
        (
            "set imap_authenticators=login:xoauth2",
            ["imap_authenticators has login before xoauth2, and mutt uses the first that the server offers"],
        ),
    ],
)
def test_what_can_never_log_in(text: str, causes: list[str]) -> None:
    """Seen with the real programs and a server that offers PLAIN and XOAUTH2."""
    assert causes == [each for _, each in faults(read(COMMAND, text))]


def test_sending_needs_a_user_in_the_address() -> None:
    """mutt sends without a login otherwise. neomutt has a variable for it too."""
    command = 'set smtp_oauth_refresh_command="cms-oauth" smtp_authenticators="xoauth2"\n'
    url = 'set smtp_url="smtp://smtp.office365.com:587/"\n'

    assert ["smtp_url names no user, and without one there is no login"] == [
        each for _, each in faults(read(command, url))
    ]
    assert [] == faults(read(command, 'set smtp_url="smtp://u%40x@h:587/"'))
    assert [] == faults(list(uses_of_neomutt(machine({".neomuttrc": f"{command}{url}set smtp_user=u@x"}))))


def test_a_token_as_a_password() -> None:
    """As Gmail's old guides have it: mutt logs in with LOGIN or PLAIN."""
    found = read('set imap_pass="`cms-oauth --user=u@x`"\n')

    assert [(1, "--user=u@x")] == commands(found)
    assert ["$imap_pass is a password, and mutt logs in with it as with a password"] == [
        each for _, each in faults(found)
    ]


@pytest.mark.parametrize("name", ["imap_oauth_refresh_command", "smtp_oauth_refresh_command"])
def test_a_token_as_a_command(name: str) -> None:
    """The backquotes of a password, kept for the command that prints the token."""
    ((line, cause),) = faults(read(f"set smtp_user=u imap_user=u\nset {name}=`cms-oauth --user=u@x`\n"))

    assert (2, f"${name} is a command: mutt would run the token that the backquotes put there") == (line, cause)


def test_a_command_without_quotes() -> None:
    """mutt sets the first word, and complains about a variable `--user`."""
    ((line, cause),) = faults(read(GOOD, "set imap_oauth_refresh_command=cms-oauth --user=u@x --output=token"))

    assert line == 2
    assert cause.startswith("a value without quotes ends at its first space")
    assert [] == read("set imap_oauth_refresh_command=oama access --x -y")


def test_the_environment_that_the_file_sets() -> None:
    """`setenv` is for the commands after it."""
    (command,) = read("setenv CMS_SOCK /x\n", COMMAND, GOOD)

    assert isinstance(command, Command)
    assert "/x" == command.socket


def test_each_account_of_a_hook() -> None:
    """Its own command, with the mechanisms that the whole file sets; the others are not repeated."""
    hooks = "account-hook imap://a 'set imap_oauth_refresh_command=\"cms-oauth --user=a@x\"'\naccount-hook b 'set imap_user=b'\n"

    assert [(1, "--user=u@x"), (3, "--user=a@x")] == commands(read(COMMAND, GOOD, hooks))
    assert [] == faults(read(COMMAND, GOOD, hooks))


def test_neomutt() -> None:
    """One file, its own before mutt's; mutt's only if neomutt is there; a relative name is beside the file."""
    files = {".muttrc": COMMAND + GOOD, ".config/neomutt/neomuttrc": "source acc\nifdef x 'source acc2'\n"}
    files |= {".config/neomutt/acc": COMMAND, ".config/neomutt/acc2": 'set imap_authenticators="oauthbearer"\n'}
    cause = "neomutt's OAUTHBEARER takes only tokens of up to 511 characters, and Microsoft's and others' are longer"

    assert [(1, cause)] == faults(list(uses_of_neomutt(machine(files))))
    only = {".muttrc": COMMAND + GOOD}
    assert [] == list(uses_of_neomutt(machine(only)))
    assert [(1, "--user=u@x")] == commands(list(uses_of_neomutt(machine(only, installed=True))))


def test_other_commands_are_nobodys_business() -> None:
    """Whatever their mechanism; and lines that mean nothing here."""
    text = "set imap_oauth_refresh_command='mutt_oauth2.py t'\nset\nsetenv X\nset ?x =\nsource\nbind index q quit\nset imap_pass=`pass`"

    assert [] == read(text)
