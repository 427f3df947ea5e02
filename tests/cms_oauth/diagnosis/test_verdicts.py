"""The words that explain failures: how they are filled in, quoted and shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms_oauth.diagnosis.verdicts import (
    UNKNOWN,
    Claims,
    Evidence,
    Verdict,
    all_lines,
    as_data,
    evidence_data,
    fill_in,
    for_powershell,
)

SWITCHED_OFF = Verdict(
    "off",
    "It is off for {user}.",
    "administrator",
    ("Set-X {mailbox}", "then wait"),
    "{wait}",
    "https://x.test",
    ("off",),
)


def test_filling_in() -> None:
    """Cause, steps and time are filled in; what has no value stays, since PowerShell has braces too."""
    filled = fill_in(SWITCHED_OFF, {"user": "ann", "wait": "5 s"})

    assert ("It is off for ann.", ("Set-X {mailbox}", "then wait"), "5 s") == (filled.cause, filled.steps, filled.takes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ann.o+x@example.test", "ann.o+x@example.test"),
        ("o'neil@example.test", "'o''neil@example.test'"),
        ("o\u2019neil@example.test", "'o\u2019\u2019neil@example.test'"),
        ("a b", "'a b'"),
        ("$(evil); `x", "'$(evil); `x'"),
        ("-Confirm", "'-Confirm'"),
        ("a\nb", "'a b'"),
        ("", "''"),
    ],
)
def test_quoting_for_powershell(text: str, expected: str) -> None:
    """An address is one argument, whatever is in it, and never a parameter's name."""
    assert expected == for_powershell(text)


@given(st.text())
def test_nothing_gets_out_of_powershells_quotes(text: str) -> None:
    """Between the outer quotes every quote is doubled, so none ends the text."""
    quoted = for_powershell(text)
    inner = quoted[1:-1] if quoted.startswith("'") else quoted
    for mark in "'\u2018\u2019\u201a\u201b":
        inner = inner.replace(mark * 2, "")

    assert not set(inner) & set("'\u2018\u2019\u201a\u201b\n")


def test_as_a_person_reads_it() -> None:
    """Cause, whose move, the steps, how long, where it is documented."""
    assert [
        "what it means: It is off for {user}.",
        "who can fix it: your administrator",
        "  1. Set-X {mailbox}",
        "  2. then wait",
        "takes effect {wait}",
        "see: https://x.test",
    ] == all_lines([SWITCHED_OFF])
    assert ["what it means: So.", "who can fix it: it resolves itself; wait"] == all_lines(
        [Verdict("x", "So.", "wait")]
    )
    assert "who can fix it: you" in all_lines([Verdict("x", "So.", "you")])


def test_several_verdicts() -> None:
    """The first in full, the others in a line each: less likely, or guesses where the reply is unknown."""
    other = Verdict("y", "Or so.", "you", ("do it",))
    likely = all_lines([Verdict("x", "So.", "you"), other])
    unknown = all_lines([Verdict(UNKNOWN, "Nobody knows it.", "you"), other])

    assert "what it most likely means: So." == likely[0]
    assert ["less likely:", "  - Or so. do it"] == likely[-2:]
    assert "what it means: Nobody knows it." == unknown[0]
    assert ["guesses:", "  - Or so. do it"] == unknown[-2:]


def test_the_next_move_on_one_line() -> None:
    """With whose it is, where that is not the reader."""
    assert "for your administrator: Set-X {mailbox}" == SWITCHED_OFF.hint()
    assert "do it" == Verdict("x", "So.", "you", ("do it",)).hint()
    assert "nothing to do" == Verdict("x", "So.", "wait").hint()


def test_as_data() -> None:
    """JSON takes it and gives it back."""
    data = as_data(SWITCHED_OFF)

    assert data == json.loads(json.dumps(data))
    assert {"name", "cause", "mover", "steps", "takes", "link", "words"} == set(data)


def test_evidence_as_data() -> None:
    """What a token says of itself is in it."""
    data = evidence_data(Evidence(user="ann", claims=Claims(audience="x"), now=5.0))

    assert "x" == json.loads(json.dumps(data))["claims"]["audience"]
    assert evidence_data(Evidence())["claims"] is None
