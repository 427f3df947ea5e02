"""What all tests of whole programs share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _unmeasured() -> Iterator[None]:
    """Start programs without measuring their coverage, which would take a third of their time.

    What they run is measured by the tests of its modules.
    """
    names = [name for name in os.environ if name.startswith("COVERAGE_PROCESS_")]
    kept = {name: os.environ.pop(name) for name in names}
    yield
    os.environ.update(kept)
