"""What the tests of the general provider start from: a simulated Google, and a strict server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.worlds import World, google_world, strict_world

from cms.sandbox.issuer import Issuer


@pytest.fixture
def at_google() -> Iterator[World]:
    with google_world() as world:
        yield world


@pytest.fixture
def at_strict() -> Iterator[World]:
    with strict_world() as world:
        yield world


@pytest.fixture
def google(at_google: World) -> Issuer:
    assert isinstance(at_google.server, Issuer)
    return at_google.server


@pytest.fixture
def strict(at_strict: World) -> Issuer:
    assert isinstance(at_strict.server, Issuer)
    return at_strict.server
