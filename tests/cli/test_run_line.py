"""The command line of `cms run`: its plain form is read without click, any other is executed anew."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms import main
from cms.cli.run_line import VALUES, Run, read_plainly


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], Run()),
        (["run", "-c", "/x"], Run("/x")),
        (["run", "--config=/x", "--log-level=debug"], Run("/x", "debug")),
        (["run", "--log-form=json"], Run("", "", "json")),
        ([], None),
        (["status"], None),
        (["-c", "/x", "run"], None),
        (["run", "-c"], None),
        (["run", "-c", "-c"], Run("-c")),
        (["run", "--config", "/x"], None),
        (["run", "--config="], None),
        (["run", "--config=/x", "-c", "/y"], None),
        (["run", "--log-level=loud"], None),
        (["run", "--help"], None),
        (["run", "now"], None),
        (["run", "--unknown=1"], None),
    ],
)
def test_the_plain_form_is_read_and_no_other(arguments: list[str], expected: Run | None) -> None:
    """What is unusual is left to click, errors included."""
    assert expected == read_plainly(arguments)


@given(
    st.builds(
        Run,
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.sampled_from(["", *VALUES["--log-level"]]),
        st.sampled_from(["", *VALUES["--log-form"]]),
    )
)
def test_what_is_executed_anew_is_always_plain(run: Run) -> None:
    """So it is never executed twice."""
    assert run == read_plainly(run.plain())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--config", "/x", "--log-level", "debug"],
        ["-c", "/x", "run", "--log-level=debug"],
        ["--config=/y", "run", "-c/x", "--log-level=debug"],
    ],
)
def test_other_forms_of_run_are_executed_in_the_plain_one(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """click leaves the process with its image."""
    executed: list[tuple[str, list[str]]] = []

    class Gone(Exception):
        pass

    def execute(program: str, argv: list[str]) -> None:
        executed.append((program, argv))
        raise Gone

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(Gone):
        main.main(arguments)

    program, argv = executed[0]
    assert (sys.executable, [sys.executable, "-P", "-m", "cms.main"]) == (program, argv[:4])
    assert Run("/x", "debug", "auto") == read_plainly(argv[4:])
