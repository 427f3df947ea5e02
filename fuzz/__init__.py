"""Fuzzing: what cms reads from outside, fed with what no person would write.

Each file of `targets` has one function, `check`: it gives bytes to a parser, and raises if the parser does anything that
its docstring does not promise. `corpora` has a folder of inputs for each. `make fuzz` looks for new ones with atheris,
which follows the coverage; `make test` gives the corpora to `check` without it (tests/test_fuzz.py).
"""

from __future__ import annotations

from pathlib import Path

CORPORA = Path(__file__).parent / "corpora"

TARGETS = sorted(each.stem for each in (Path(__file__).parent / "targets").glob("[!_]*.py"))
