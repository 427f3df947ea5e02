"""The real programs that tests run: where they are, and what happens where one is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import pytest

# Servers live in sbin, which an ordinary user's PATH may lack.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_PACKAGES = Path(__file__).parents[1] / "debian-packages.txt"


def require_program(name: str, package: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails in CI, where nothing may be left out."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        give_up(f"{name} is missing: apt-get install {package}")
    assert path is not None
    return path


def require_root() -> None:
    """Skip without root, or fail in CI: becoming another user and private mounts need it."""
    if os.geteuid() != 0:
        give_up("this test becomes other users, which needs root")


def give_up(reason: str) -> None:
    """Skip, or fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def listed_packages() -> list[str]:
    """Return the names in debian-packages.txt, for whatever release."""
    return [line.split()[0] for line in _lines()]


def releases_packages() -> list[str]:
    """Return the names that are for this release: those without a mark, and those that are marked with its name."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "unnamed")
    return [line.split()[0] for line in _lines() if "[" not in line or re.search(rf"[\[ ]{release}[\] ]", line)]


def _lines() -> list[str]:
    lines = (line.partition("#")[0].strip() for line in _PACKAGES.read_text().splitlines())
    return [line for line in lines if line]
