"""What the doctor finds, as lines, as JSON and as an exit code."""

from __future__ import annotations

import pytest

from cms.cli.doctor.findings import (
    Finding,
    as_data,
    as_text,
    exit_code,
    failed,
    merged,
    passed,
    skipped,
    summary,
    warned,
    yours,
)
from cms_oauth.moves import cms

CLOCK = yours("clock", "the clock is wrong", "set it")
OTHER = yours("other", "it is something else", "mend that")


def test_a_finding_is_a_line_and_its_verdict() -> None:
    """What it means, whose move it is and the command; other causes in one line each."""
    lines = as_text(failed("clock", "2 h ahead", CLOCK, OTHER))

    assert "fail  clock            2 h ahead" == lines[0]
    assert [
        "what it most likely means: the clock is wrong",
        "who can fix it: you",
        "1. set it",
        "less likely:",
        "- it is something else mend that",
    ] == [line.strip() for line in lines[1:]]
    assert ["pass  clock            right"] == as_text(passed("clock", "right"))


@pytest.mark.parametrize(
    ("findings", "code", "text"),
    [
        ([], 0, "nothing to check"),
        ([passed("a", "b"), skipped("a", "b")], 0, "1 skipped, 1 passed"),
        ([passed("a", "b"), warned("a", "b")], 1, "1 warned, 1 passed"),
        ([failed("a", "b"), warned("a", "b"), passed("a", "b")], 2, "1 failed, 1 warned, 1 passed"),
    ],
)
def test_the_worst_decides(findings: list[Finding], code: int, text: str) -> None:
    """Exit codes are monitoring's; what could not be looked at is neither good nor bad."""
    assert (code, text) == (exit_code(findings), summary(findings))


def test_programs_get_all_of_it() -> None:
    """A versioned object."""
    data = as_data([warned("clock", "late", CLOCK)], "1.2")
    (finding,) = data["findings"]

    assert (1, "1.2", 1) == (data["version"], data["cms"], data["exit_code"])
    assert ("clock", "warn", "late", "clock") == (
        finding["check"],
        finding["level"],
        finding["message"],
        finding["verdicts"][0]["name"],
    )


def test_nothing_moves_the_cursor() -> None:
    """Parts of messages come from elsewhere."""
    assert "\x1b" not in "".join(as_text(failed("a", "\x1b[2J")))


def test_a_long_message_is_wrapped() -> None:
    """Below itself; a path is never broken."""
    path = "/p" * 60
    lines = as_text(passed("libraries", "word " * 30 + path))

    assert max(len(line) for line in lines if path not in line) <= 100
    assert all(line.startswith(" " * 23) for line in lines[1:])
    assert path in lines[-1]


def test_an_explanation_fits_the_terminal() -> None:
    """Its lines are below each other, and a command is whole; a text for a program or a wide terminal has 100 columns."""
    command = "`cms " + "reload --now " * 2 + "`"
    long = failed("token", "word " * 30, yours("x", "because " * 30, "do this " * 8 + command))
    narrow, usual = as_text(long, 80), as_text(long)

    assert max(map(len, narrow)) <= 80 < max(map(len, usual)) <= 100
    assert command in "\n".join(narrow)
    assert narrow[-1] == f"{'':28}this do this {command}", "below the text of the step"
    assert as_text(long, 10) == as_text(long, 50)


def lacking(user: str, protocol: str) -> Finding:
    step = f"sign in: `{cms('login', user)}`"
    return failed("token", f"{user}, {protocol}: refused", yours("refused", f"{user} has no sign-in", step)).about(
        user, protocol
    )


def test_one_cause_is_told_once() -> None:
    """With the accounts and the protocols that it concerns; the explanation is for each of them."""
    users = ["o'connor@example.test", *(f"box{number}@example.test" for number in range(99))]
    found = [
        lacking(users[0], "SMTP"),
        passed("token", "c@example.test, SMTP: fine").about("c@example.test", "SMTP"),
        *(lacking(user, protocol) for user in users[1:] for protocol in ("SMTP", "IMAP")),
    ]

    told = merged(found)
    assert ["fail", "pass"] == [each.level for each in told]
    assert f"{', '.join(users[:8])}, 92 more, SMTP, IMAP: refused" == told[0].message
    assert (yours("refused", "USER has no sign-in", "sign in: `cms login USER`"),) == told[0].verdicts


def test_an_account_is_named_in_what_it_is_told() -> None:
    """Two protocols of one account are one cause, and its commands are its own."""
    (told,) = merged([lacking("a@example.test", "SMTP"), lacking("a@example.test", "IMAP")])

    assert "a@example.test, SMTP, IMAP: refused" == told.message
    assert lacking("a@example.test", "SMTP").verdicts == told.verdicts


def test_a_message_that_names_the_account_twice() -> None:
    """As an error of the account's does: it is one cause for all, and one account's own name stays."""
    found = [
        failed("sign-in", f"{user}, {protocol}: {user} is new").about(user, protocol)
        for user in ("a@example.test", "b@example.test")
        for protocol in ("SMTP", "IMAP")
    ]

    assert ["a@example.test, b@example.test, SMTP, IMAP: USER is new"] == [each.message for each in merged(found)]
    assert ["a@example.test, SMTP, IMAP: a@example.test is new"] == [each.message for each in merged(found[:2])]


def test_accounts_with_different_protocols_name_each_once() -> None:
    """One is served for sending only, the other for reading too."""
    found = [
        failed("sign-in", f"{user}, {protocols}: new").about(user, protocols)
        for user, protocols in (("a@example.test", "SMTP, IMAP"), ("b@example.test", "SMTP"))
    ]

    assert ["a@example.test, b@example.test, SMTP, IMAP: new"] == [each.message for each in merged(found)]


def test_what_is_about_no_account_stays() -> None:
    """Two warnings with two texts are two, and the same one twice is one."""
    found = [warned("daemon", "one"), warned("daemon", "two"), warned("daemon", "one")]

    assert found[:2] == merged(found)


def test_programs_are_told_of_each_account() -> None:
    """Of each by its name, in a field of its own."""
    (told,) = as_data([lacking("a@example.test", "SMTP")], "1")["findings"]

    assert ("a@example.test", "SMTP") == (told["account"], told["protocol"])
