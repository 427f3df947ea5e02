"""accounts.conf is read as aerc 0.14 was seen to read it."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine

from cms.cli.doctor.mail_tools.aerc import uses
from cms.cli.doctor.mail_tools.found import Command, Use

GOOD = "source = imaps+xoauth2://u%40x@h:993\n"


def read(text: str) -> list[Use]:
    return list(uses(machine({".config/aerc/accounts.conf": text})))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cms-oauth --user=u@x # --user=c", "--user=u@x"),
        ("cms-oauth --user=u@x;c", "--user=u@x"),
        ('"cms-oauth --user=u@x" ; c', "--user=u@x"),
        ("'cms-oauth --user=\"u@x\"'", "--user=u@x"),
        ("cms-oauth \\\n   --user=u@x", "--user=u@x"),
        ("`export CMS_SOCK=/x; cms-oauth --user=u@x` # c", "--user=u@x"),
        ('"""cms-oauth --user=u@x\n"""', "--user=u@x"),
        ('sh -c "cms-oauth --user=u@x"', "--user=u@x"),
    ],
)
def test_the_value_is_quoted_as_go_quotes(value: str, words: str) -> None:
    """A comment begins anywhere, but in backquotes or three double quotes."""
    found = read(f"[w]\n{GOOD}source-cred-cmd = {value}\n")

    assert [(3, words)] == commands(found)
    assert [] == faults(found)


@pytest.mark.parametrize("value", ["export CMS_SOCK=/x; cms-oauth --user=u@x", "a=b#c cms-oauth"])
def test_a_command_that_is_cut_off(value: str) -> None:
    """aerc runs what stands before the semicolon only."""
    ((line, cause),) = faults(read(f"[w]\n{GOOD}source-cred-cmd = {value}\n"))

    assert line == 3
    assert "aerc reads source-cred-cmd only up to its first `#` or `;`" in cause


@pytest.mark.parametrize(
    ("addresses", "causes"),
    [
        (GOOD, []),
        ("source = imaps+oauthbearer://u@h\n", []),
        ("source = imaps://u@h\n", ["the address of source does not name xoauth2, so aerc logs in with a password"]),
        (
            "source = imaps+xoauth2://u:pw@h\n",
            ["source has a password, which aerc takes instead of running the command"],
        ),
        (
            "source = imaps+xoauth2://u@h?client_id=i&token_endpoint=https://t\n",
            ["source has a token_endpoint, to which aerc sends the token as if it were a refresh token"],
        ),
        ("source = imaps+xoauth2://[\n", []),
        (
            f"{GOOD}outgoing = smtp+plain://u@h\noutgoing-cred-cmd = cms-oauth\n",
            ["the address of outgoing does not name xoauth2, so aerc logs in with a password"],
        ),
    ],
)
def test_what_can_never_log_in(addresses: str, causes: list[str]) -> None:
    """The address says how aerc logs in."""
    assert causes == [each for _, each in faults(read(f"[w]\n{addresses}source-cred-cmd = cms-oauth\n"))]


@pytest.mark.parametrize(
    ("more", "said"),
    [("", 0), ("outgoing-cred-cmd-cache = true\n", 1), ("outgoing-cred-cmd-cache = 0\n", 0)],
)
def test_a_token_that_aerc_keeps(more: str, said: int) -> None:
    """If it is told to run the command once: a token does not last as long as aerc."""
    found = faults(read(f"[w]\noutgoing = smtp+xoauth2://u@h\noutgoing-cred-cmd = cms-oauth\n{more}"))

    assert said == len(found)
    assert all("aerc keeps the first token" in cause for _, cause in found)


def test_each_account() -> None:
    """Its own settings, and those of DEFAULT; a command without an address is not run."""
    text = f"source-cred-cmd = cms-oauth\n[a]\n{GOOD}[b]\n{GOOD}source-cred-cmd = cms-oauth --user=b\n[c]\nsource-cred-cmd = cms-oauth\n"
    found = read(text)

    assert [(1, ""), (6, "--user=b")] == commands(found)
    assert ["IMAP", "IMAP"] == [each.login.protocol for each in found if isinstance(each, Command)]


def test_other_commands_are_nobodys_business() -> None:
    """Whatever the address, and a value that never ends."""
    assert [] == read("[w]\nsource = imaps://u@h\nsource-cred-cmd = pass mail\n; source-cred-cmd = cms-oauth\nx = `\n")
    assert [] == read("[w]\nsource = imaps://u@h\nsource-cred-cmd = pass \\")
