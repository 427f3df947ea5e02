"""What the grant worker's tests start from: a provider that Ann and Ben can sign in to, and a way to it without a proxy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exchanges import Person
from support.grants import ANN, BEN, grant_for, opened

from cms.core.accounts import Grant
from cms.grants.messages import Open
from cms.sandbox.entra import Entra


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the sandbox directly, whatever proxy this machine uses."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def entra() -> Iterator[Entra]:
    with Entra([ANN, BEN]) as running:
        yield running


@pytest.fixture
def person(entra: Entra) -> Person:
    """Ann, who has signed in."""
    return Person(entra)


@pytest.fixture
def grant(entra: Entra) -> Grant:
    return grant_for(entra)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def first(state: Path, entra: Entra) -> Open:
    """The first message to a worker of this provider."""
    return opened(state, entra)
