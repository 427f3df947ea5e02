"""What `make fuzz` has begun with and found is given to each parser again, without a fuzzer."""

from __future__ import annotations

from importlib import import_module

import pytest

from fuzz import CORPORA, TARGETS

INPUTS = sorted(path for path in CORPORA.glob("*/*"))


@pytest.mark.parametrize("name", [str(path.relative_to(CORPORA)) for path in INPUTS])
def test_nothing_surprises_a_parser(name: str) -> None:
    """Every input of the corpora does to its parser only what the target's `check` allows."""
    import_module(f"fuzz.targets.{name.partition('/')[0]}").check((CORPORA / name).read_bytes())


def test_every_target_has_a_corpus() -> None:
    """No target is fuzzed from nothing, and no corpus is left without its target."""
    assert TARGETS == sorted({path.parent.name for path in INPUTS})
