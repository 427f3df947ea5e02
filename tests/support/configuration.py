"""Configurations from text, on a machine with the users and groups that the tests talk of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from cms.config.load import load
from cms.config.model import Config, ConfigError
from cms.config.trust import System

USERS = {"alice": 1000, "bob": 1001, "Debian-exim": 105, "postfix": 106}
GROUPS = {"mail": 8, "Debian-exim": 110}

MACHINE = System(user_id=USERS.get, group_id=GROUPS.get, in_memory=lambda path: path.startswith("/run/"))

Loader = Callable[[str], Config]
Refuser = Callable[[str], ConfigError]


def loader(folder: Path) -> Loader:
    """Return what loads a text as `folder/cms.cfg`."""

    def load_text(text: str) -> Config:
        (folder / "cms.cfg").write_text(dedent(text))
        return load(str(folder / "cms.cfg"), system=MACHINE)

    return load_text


def refuser(folder: Path) -> Refuser:
    """Return what loads a text that must be refused, and gives the refusal."""

    def refuse_text(text: str) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            loader(folder)(text)
        return caught.value

    return refuse_text
