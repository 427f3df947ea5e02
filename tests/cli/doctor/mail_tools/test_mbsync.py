"""mbsync's file is read as its own parser reads it (seen in its "excess token" messages)."""

from __future__ import annotations

import pytest
from support.mail_files import commands, faults, machine

from cms.cli.doctor.mail_tools.found import Use
from cms.cli.doctor.mail_tools.mbsync import uses


def read(text: str) -> list[Use]:
    return list(uses(machine({".mbsyncrc": text})))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('"cms-oauth --user=u@x" # --user=other', "--user=u@x"),
        ('+"cms-oauth --user=\\"u@x\\""', "--user=u@x"),
        ('"cms-oauth --user=a#b"', "--user=a#b"),
        ("cms-oauth\\ --user=u@x", "--user=u@x"),
        ('cms-oauth" --user=u@x "--x', "--user=u@x --x"),
        ('"export CMS_SOCK=/x; cms-oauth --user=u@x"', "--user=u@x"),
        ("cms-oauth --user=u@x", ""),
    ],
)
def test_the_words_are_quoted_as_mbsync_quotes(command: str, words: str) -> None:
    """Quotes within a word, backslashes, a comment at the beginning of a word; further words are no part of the command."""
    assert [(3, words)] == commands(read(f"IMAPAccount w\nHost h\n  passcmd {command}\n"))


@pytest.mark.parametrize(
    ("settings", "causes"),
    [
        ("AuthMechs XOAUTH2\n", []),
        ("AuthMechs PLAIN xoauth2\n", []),
        ("AuthMechs *\n", []),
        ("", []),
        ("AuthMechs LOGIN\n", ["`AuthMechs LOGIN` leaves out the mechanism that takes a token"]),
        ("AuthMechs plain cram-md5\n", ["`AuthMechs plain cram-md5` leaves out the mechanism that takes a token"]),
        (
            "\nIMAPStore x\nPassCmd cms-oauth --user=u\n",
            ["`PassCmd` takes one word, and mbsync refuses the file because of the others"],
        ),
        ("Pass x\n", ["the section has `Pass` and `PassCmd`, which mbsync refuses"]),
        ("\nIMAPAccount other\nAuthMechs LOGIN\n", []),
    ],
)
def test_what_can_never_log_in(settings: str, causes: list[str]) -> None:
    """A mechanism of the same section decides; the default chooses XOAUTH2 where the plug-in is."""
    assert causes == [each for _, each in faults(read(f'IMAPStore w\nPassCmd "cms-oauth"\n{settings}'))]


def test_other_commands_are_nobodys_business() -> None:
    """Whatever their mechanism."""
    assert [] == read('IMAPAccount w\nAuthMechs LOGIN\nPassCmd "pass mail"\nPass x\n\n# PassCmd cms-oauth\nPassCmd\n')
