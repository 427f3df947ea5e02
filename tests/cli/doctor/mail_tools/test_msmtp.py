"""The files of msmtp and mpop are read as `msmtp -P` shows them."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine, unread

from cms.cli.doctor.mail_tools.found import Login, Use
from cms.cli.doctor.mail_tools.msmtp import uses_of_mpop, uses_of_msmtp

# `msmtp -C FILE -a ACCOUNT -P` of 1.8.23 says: a has "choose", c has XOAUTH2 and a's command, d its defaults' XOAUTH2.
AWKWARD = """\
  # passwordeval "cms-oauth --user=comment@x"
defaults
auth on
user\t"u@x"
account a
host h
passwordeval cms-oauth --user="a@x" # --user=other
account b : a
passwordeval "echo other"
eval gpg -d auth.gpg
account c:b,a
auth xoauth2
defaults
auth "xoauth2"
account d : a
"""
GOOD = "host h\nuser u@x\nauth xoauth2\n"


def read(text: str, name: str = ".msmtprc") -> list[Use]:
    return list(uses_of_msmtp(machine({name: text})))


def test_an_awkward_file() -> None:
    """No comment at the end of a line for msmtp, but one for the shell; accounts inherit what others say themselves."""
    found = read(AWKWARD)

    assert {(7, "--user=a@x")} == set(commands(found))
    assert [(3, "the account a has `auth on`, which never sends a token")] == faults(found)
    assert ["10: this line is the output of a command, which the doctor does not run"] == unread(found)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ("user u\n", "the account default has no `auth`"),
        ("user u\nauth\n", "the account default has `auth`, which never sends a token"),
        ("user u\nauth plain\n", "the account default has `auth plain`, which never sends a token"),
        ("user u\nauth XOAUTH2\n", "the account default has `auth XOAUTH2`, which never sends a token"),
        ("auth xoauth2\n", "the account default has no `user`"),
        (
            "user u\nauth oauthbearer\npassword x\n",
            "the account default has a `password` too, so the command is not run",
        ),
    ],
)
def test_what_can_never_log_in(settings: str, cause: str) -> None:
    """Each was seen with the real program."""
    text = f'host h\n{settings}passwordeval "cms-oauth --user=u"\n'

    assert [cause] == [each for _, each in faults(read(text))]


@pytest.mark.parametrize("command", ["pass show mail", "oama access u@x", "echo cms-oauth", ""])
def test_other_commands_are_nobodys_business(command: str) -> None:
    """Whatever their `auth`."""
    assert [] == read(f"host h\nauth plain\npasswordeval {command}\n")


def test_mpop_has_the_same_syntax() -> None:
    """And logs in by POP."""
    (found,) = uses_of_mpop(machine({".mpoprc": f'{GOOD}passwordeval "cms-oauth"\n'}))

    assert Login("POP", "token") == found.login  # type: ignore[union-attr]  # the test fails where it is None


def test_where_the_file_is() -> None:
    """The system's and one of the user's: ~/.msmtprc before the one below XDG_CONFIG_HOME."""
    text = f"{GOOD}passwordeval cms-oauth --user="
    files = {"/etc/msmtprc": f"{text}1", ".config/msmtp/config": f"{text}2"}

    assert ["--user=1", "--user=2"] == [words for _, words in commands(list(uses_of_msmtp(machine(files))))]
    files[".msmtprc"] = f"{text}3"
    assert ["--user=1", "--user=3"] == [words for _, words in commands(list(uses_of_msmtp(machine(files))))]
    elsewhere = machine({"/x/msmtp/config": f"{text}4"}, {"XDG_CONFIG_HOME": "/x"})
    assert ["--user=4"] == [words for _, words in commands(list(uses_of_msmtp(elsewhere)))]
