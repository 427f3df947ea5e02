"""The threat model of docs/security.md: each promise names a test, and that test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text().partition("\n## Threat model\n")[2]
# Rows in bold name the attacker.
ROWS = re.findall(r"^\| (?!\*\*|promise |---)(.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_there_are_promises() -> None:
    """Of each attacker, several."""
    attackers = re.findall(r"^\| \*\*", PAGE, re.MULTILINE)

    assert len(ROWS) > 5 * len(attackers) > 0


@pytest.mark.parametrize(("promise", "shown"), ROWS)
def test_a_promise_has_its_test(promise: str, shown: str) -> None:
    """One test, by its file and its name."""
    named = TEST.fullmatch(shown)
    assert named, promise
    tree = ast.walk(ast.parse((ROOT / named[1]).read_text()))

    assert named[2] in {each.name for each in tree if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
