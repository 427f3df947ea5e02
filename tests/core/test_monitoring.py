"""`cms status --check`: its exit codes, and a line that says why."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.status_rows import DAY, ENTRIES, EXPECTED, LOCKED, MACHINE, NOW, WALL, entry, failing, given, row_of

from cms.core.lifecycle import Life
from cms.core.monitoring import MAX_CAUSES, check_line, states
from cms.core.status import STATES, StatusRow, describe, exit_code
from cms.core.words import CRITICAL, OK, UNKNOWN, WARNING

# What Nagios' plugin guidelines allow: label=value, a unit of their list, and no bar before the numbers.
LINE = re.compile(r"CMS (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \|( [a-z_-]+=[0-9]+s?)+)?")


def said(line: str) -> str:
    """Return the part of the line that people read."""
    assert LINE.fullmatch(line)
    return line.partition(" | ")[0]


def numbers(line: str) -> dict[str, str]:
    return dict(each.split("=") for each in line.partition(" | ")[2].split())


def certificate(days: float, user: str = "a@example.test") -> StatusRow:
    """An account whose application's certificate ends in so many days."""
    ends = WALL + days * DAY
    known = replace(ENTRIES["ok"].sign_in, credential_expires=ends)
    return describe([replace(ENTRIES["ok"], account=MACHINE, user=user, sign_in=known)], NOW, WALL)[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ok", OK),
        ("renewing", OK),
        ("starting", WARNING),
        ("failing", WARNING),
        ("sign-in-required, usable", WARNING),
        ("renewing, expired", CRITICAL),
        ("failing, expired", CRITICAL),
        ("locked", CRITICAL),
        ("sign-in-required", CRITICAL),
        ("signing-in", CRITICAL),
        ("refused", CRITICAL),
        ("refused, usable", WARNING),
    ],
)
def test_monitoring_tells_good_from_soon_from_now(name: str, expected: int) -> None:
    """0 while all is well, 1 when someone should look while mail still flows, 2 when it does not."""
    assert expected == exit_code(describe([ENTRIES[name]], NOW, WALL))


def test_the_worst_account_decides() -> None:
    """One account without a token is not hidden by many with one."""
    rows = describe([ENTRIES["ok"], ENTRIES["sign-in-required"], ENTRIES["failing"]], NOW, WALL)

    assert exit_code(rows) == CRITICAL


def test_memory_only_is_a_warning_unless_it_was_chosen() -> None:
    """A vault without a key loses every sign-in at a restart: monitoring says so, but not to who asked for that."""
    rows = describe([replace(ENTRIES["ok"], sign_in=replace(ENTRIES["ok"].sign_in, persisted=False))], NOW, WALL)

    assert (WARNING, OK) == (exit_code(rows), exit_code(rows, memory_chosen=True))


def test_no_account_is_unknown() -> None:
    """A daemon without accounts is neither well nor ill."""
    assert exit_code([]) == UNKNOWN


def test_all_is_well() -> None:
    """The line counts the accounts, and has every number that there is."""
    line = check_line([row_of("ok"), replace(given(12, forecast=EXPECTED), user="b@example.test")])

    assert "CMS OK - 2 ok" == said(line)
    states_of = {state: "2" if state == "ok" else "0" for state in STATES}
    left = {"token_left": "3000s", "next_sign_in": f"{int(2 * DAY)}s"}
    assert {"accounts": "2", **states_of, "unusable": "0", **left} == numbers(line)


def test_a_warning_says_why() -> None:
    """A certificate that ends in 19 days is the cause, in the line, with what to do: not "2 ok" and exit code 1."""
    line = check_line([certificate(19), row_of("ok")])

    assert said(line) == (
        "CMS WARNING - a@example.test: the application's certificate ends in 19 d - upload a new one to its registration,"
        " then put it in the old one's place"
    )
    assert str(int(19 * DAY)) + "s" == numbers(line)["certificate_left"]
    assert WARNING == exit_code([certificate(19), row_of("ok")])


def test_a_certificate_that_has_ended() -> None:
    """No negative number, and the past tense."""
    line = check_line([certificate(-1)])

    assert ("the application's certificate has ended" in said(line), "0s") == (True, numbers(line)["certificate_left"])


def test_one_cause_is_told_once() -> None:
    """Two hundred mailboxes with one certificate are one cause, with three names and the number of the others."""
    rows = [certificate(19, f"box{number}@example.test") for number in range(200)]
    line = check_line(rows)

    assert 1 == line.count("certificate ends")
    assert "CMS WARNING - box0@example.test, box1@example.test, box2@example.test, 197 more: the application's" in line
    assert len(line) < 1024


def test_one_cause_is_told_once_where_its_words_name_the_account() -> None:
    """Two hundred accounts that have not signed in yet are one cause, and USER stands for each; one is named."""
    waiting = row_of("sign-in-required")
    assert waiting.problem
    rows = [
        replace(waiting, user=user, problem=replace(waiting.problem, message=f"{user} has not signed in", reason="new"))
        for user in (f"box{number}@example.test" for number in range(200))
    ]
    rows = [replace(row, next_move=f"sign in: `cms login {row.user}`") for row in rows]

    assert said(check_line(rows)) == (
        "CMS CRITICAL - box0@example.test, box1@example.test, box2@example.test, 197 more: sign-in-required: new: USER has"
        " not signed in - sign in: `cms login USER`"
    )
    assert "box0@example.test has not signed in - sign in: `cms login box0@example.test`" in check_line(rows[:1])


def test_a_shared_sign_in_is_one_cause() -> None:
    """Of who signs in and of the others; the command names who it is."""
    waiting = replace(row_of("sign-in-required"), next_move="sign in: `cms login boss@x.test`")
    rows = [replace(waiting, user=f"{name}@x.test") for name in ("boss", "desk")]

    assert said(check_line(rows)).endswith("the sign-in was revoked - sign in: `cms login boss@x.test`")


@pytest.mark.parametrize("order", [("boss", "desk", "sales"), ("desk", "sales", "boss")])
def test_a_shared_sign_in_is_one_cause_where_its_words_name_who_signs_in(order: tuple[str, ...]) -> None:
    """Who signs in is one of its accounts, and is not told again beside people who sign in for themselves."""
    waiting = row_of("sign-in-required")
    assert waiting.problem

    def row(name: str, who: str) -> StatusRow:
        told = (
            replace(waiting.problem, message=f"{who}@x.test has not signed in", reason="new")
            if waiting.problem
            else None
        )
        move = f"sign in: `cms login {who}@x.test`"
        return replace(waiting, user=f"{name}@x.test", who=f"{who}@x.test", grant=who, problem=told, next_move=move)

    rows = [*(row(name, "boss") for name in order), row("ann", "ann"), row("bob", "bob")]
    together, apart = (f"{name}@x.test, " for name in order), "ann@x.test, bob@x.test"

    assert said(check_line(rows)) == (
        f"CMS CRITICAL - {''.join(together)[:-2]}: sign-in-required: new: boss@x.test has not signed in - sign in: `cms login"
        f" boss@x.test`; {apart}: sign-in-required: new: USER has not signed in - sign in: `cms login USER`"
    )


def test_the_worst_comes_first() -> None:
    """What has stopped mail stands before what may stop it, and a socket that is gone before all."""
    rows = [certificate(19, "c@example.test"), row_of("failing, expired")]
    line = said(check_line(rows))
    lost = said(check_line(rows, troubles=("the socket /run/cms/cms.sock is gone",)))

    assert line.startswith("CMS CRITICAL - a@example.test: failing: the identity provider answers 503 - nothing to do")
    assert line.index("503") < line.index("certificate")
    assert lost.startswith("CMS CRITICAL - the socket /run/cms/cms.sock is gone; a@example.test: failing")


def test_a_sign_in_that_is_due() -> None:
    """Within a day of its expected end: when that is, and the command; of two, when the first ends."""
    due = replace(EXPECTED, due=WALL + DAY / 2)
    first, later = given(12, forecast=due), given(12, forecast=replace(due, due=WALL + DAY - 1))
    moved = later.next_move.replace("a@example.test", "b@example.test")
    line = said(check_line([replace(later, user="b@example.test", next_move=moved), first]))

    assert line == (
        "CMS WARNING - a@example.test, b@example.test: a sign-in is expected in 12 h - sign in before mail has to wait:"
        " `cms login USER`"
    )


def test_entras_number_is_in_the_line() -> None:
    """It is what an administrator looks for."""
    assert "sign-in-required: AADSTS50173: the sign-in was revoked" in check_line([row_of("sign-in-required")])


def test_memory_only_is_told_in_the_line_unless_it_was_chosen() -> None:
    """The exit code and the line agree."""
    rows = describe([replace(ENTRIES["ok"], sign_in=replace(ENTRIES["ok"].sign_in, persisted=False))], NOW, WALL)

    assert "CMS WARNING - a@example.test: sign-ins are kept in MEMORY ONLY" in check_line(rows)
    assert "CMS OK - 1 ok" == said(check_line(rows, memory_chosen=True))


def test_a_token_that_is_not_given_says_for_what() -> None:
    """With `preflight=`: for some protocols it is a warning."""
    row = replace(row_of("ok"), refused=("IMAP",), warning="the sign-in does not cover IMAP")

    assert said(check_line([row])) == (
        "CMS WARNING - a@example.test: no token is given for IMAP - the sign-in does not cover IMAP"
    )


def test_many_causes_are_cut() -> None:
    """A pager has little room: the worst are told, and how many there are besides."""
    rows = [
        replace(row_of("failing, expired"), user=f"{number}@example.test", state=state)
        for number, state in enumerate(set(STATES) - {"starting"})
    ]

    assert said(check_line(rows)).endswith(f"; {len(rows) - MAX_CAUSES} more causes")


def test_nothing_in_a_reason_breaks_the_line() -> None:
    """A bar would begin the numbers, and a line break end the message: what a server says may have both."""
    trouble = replace(LOCKED, message="no | accounts=0\nCMS OK - all is well")
    line = check_line(describe([entry(Life(None, failing(trouble)))], NOW, WALL))

    assert "locked: no / accounts=0 CMS OK - all is well - unlock the keyring" in said(line)


def test_no_account_is_said_to_be_unknown() -> None:
    """Without numbers: there are none."""
    assert "CMS UNKNOWN - no accounts are configured" == check_line([])


def test_an_account_is_in_its_worst_state() -> None:
    """With a token for mail and one for Graph it is one account; accounts without a name are counted each."""
    rows = [row_of("ok"), row_of("failing"), replace(row_of("ok"), user=""), replace(row_of("ok"), user="")]

    assert {"ok": 2, "failing": 1} == {
        state: count for state, count in states((row.user, row.state) for row in rows).items() if count
    }


@pytest.mark.parametrize("name", ENTRIES)
def test_line_and_exit_code_agree(name: str) -> None:
    """In every state."""
    rows = [row_of(name)]
    words = {OK: "OK", WARNING: "WARNING", CRITICAL: "CRITICAL"}

    assert said(check_line(rows)).startswith(f"CMS {words[exit_code(rows)]} - ")
