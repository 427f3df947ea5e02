"""A server for all tests of a process, and a fleet's tables for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import Lab
from support.postgres import Base, Cluster, new_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with new_cluster() as running:
        yield running


@pytest.fixture
def base(cluster: Cluster) -> Base:
    return Base(cluster)


@pytest.fixture
def lab(base: Base, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(base, tmp_path)
    yield made
    made.close()
