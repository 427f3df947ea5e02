"""Configurations from text, for every test of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configuration import Loader, Refuser, loader, refuser


@pytest.fixture
def load_text(tmp_path: Path) -> Loader:
    return loader(tmp_path)


@pytest.fixture
def refuse(tmp_path: Path) -> Refuser:
    return refuser(tmp_path)
