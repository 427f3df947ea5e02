"""docs/architecture.md names files, functions and numbers of the code: all of them are true."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()

# What each walk may have: files, and steps where they are bounded.
WALKS = {"A held token": (11, 20), "A refresh": (21, None), "A sign-in with a browser": (29, None)}
STEP = re.compile(r"^(\d+)\. `([\w/]+\.py):([\w.]+)`: ", re.MULTILINE)
STATED = re.compile(r"^\*\*(\d+) files, (\d+) steps\.\*\*$", re.MULTILINE)

ROUTE_ROW = re.compile(r"^\| `([\w/]+\.py)` \| (\d+) \|", re.MULTILINE)
SHORTEST_ROUTE, LONGEST_ROUTE = 3200, 4200

LONG_FILE = 500
MANY_METHODS = 20
LONG_ROW = re.compile(r"^- `([\w/]+\.py)`(?: `(\w+)`)?: ", re.MULTILINE)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def section(heading: str) -> str:
    """Return the text under a heading of the page, up to the next of its level or above."""
    level = heading.partition(" ")[0]
    _, found, rest = PAGE.partition(f"\n{heading}\n")
    assert found, f"no heading {heading!r}"
    return re.split(rf"^#{{2,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


@cache
def defined(path: str) -> frozenset[str]:
    """Return the functions of a file, and its methods as Class.method."""
    body = ast.parse((ROOT / path).read_text()).body
    methods = {
        f"{each.name}.{one.name}"
        for each in body
        if isinstance(each, ast.ClassDef)
        for one in each.body
        if isinstance(one, FUNCTIONS)
    }
    return frozenset({*methods, *(each.name for each in body if isinstance(each, FUNCTIONS))})


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_names_functions_that_exist(walk: str) -> None:
    """Each step is a file and a function of it."""
    steps = STEP.findall(section(f"### {walk}"))

    assert steps
    assert [] == [f"{path}:{name}" for _, path, name in steps if name not in defined(path)]


@pytest.mark.parametrize(("walk", "bounds"), WALKS.items())
def test_a_walk_is_short(walk: str, bounds: tuple[int, int | None]) -> None:
    """The numbers under a list are those of the list, and no walk grows beyond its bounds."""
    text = section(f"### {walk}")
    steps = STEP.findall(text)
    files = len({path for _, path, _ in steps})
    most_files, most_steps = bounds

    assert [str(number) for number in range(1, len(steps) + 1)] == [number for number, _, _ in steps]
    assert [(str(files), str(len(steps)))] == STATED.findall(text)
    assert files <= most_files
    assert most_steps is None or len(steps) <= most_steps


def test_the_reading_route() -> None:
    """Its files exist, and together they are read in an afternoon."""
    rows = ROUTE_ROW.findall(section("## A reading route"))
    lines = [len((ROOT / path).read_text().splitlines()) for path, _ in rows]

    assert SHORTEST_ROUTE <= sum(lines) <= LONGEST_ROUTE
    assert SHORTEST_ROUTE <= sum(int(stated) for _, stated in rows) <= LONGEST_ROUTE


def test_what_is_long_has_a_reason() -> None:
    """The page says of each long file and each large class why it is one thing, and of nothing that has become short."""
    long = set()
    for file in (each for package in ("cms", "cms_oauth") for each in (ROOT / package).rglob("*.py")):
        path, text = str(file.relative_to(ROOT)), file.read_text()
        if len(text.splitlines()) > LONG_FILE:
            long.add((path, ""))
        for each in ast.walk(ast.parse(text)):
            if isinstance(each, ast.ClassDef) and sum(isinstance(one, FUNCTIONS) for one in each.body) > MANY_METHODS:
                long.add((path, each.name))

    assert long == set(LONG_ROW.findall(section("## What is long, and why")))


def test_every_file_that_the_page_names_exists() -> None:
    """A file that has moved takes its name in the page along."""
    named = set(re.findall(r"`((?:cms|cms_oauth|tests)/[\w/]+\.py)", PAGE))

    assert set() == {path for path in named if not (ROOT / path).is_file()}
