"""For tests of `cms init`: an empty home folder, and a person at the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cms.cli.init import mail_programs
from cms.cli.init.first_config import Wishes
from cms.cli.terminal import Terminal

USER = "ann@example.test"
GUID = "5a5a5a5a-0000-4000-8000-000000000001"


@dataclass
class Person(Terminal):
    """A person at the terminal: agrees to questions in `agreed`, gives up at the question `gives_up`."""

    there: bool = True
    agreed: tuple[str, ...] = ()
    gives_up: str = "-"
    heard: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    application: str = ""
    ids: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.heard.append(text)

    def complain(self, text: str) -> None:
        self.heard.append(f"cms: {text}")

    def agree(self, question: str) -> bool:
        if self.gives_up in question:
            raise KeyboardInterrupt
        return any(each in question for each in self.agreed)

    def choose(self, question: str, _choices: Sequence[str], usual: str) -> str:
        return self.application or usual if "Application" in question else usual

    def ask(self, question: str) -> str:
        if self.gives_up in question:
            raise KeyboardInterrupt
        answers = self.ids if "client" in question else self.addresses
        return answers.pop(0) if answers else ""

    @property
    def said(self) -> str:
        return "\n".join(self.heard)


def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Private folders, an empty PATH, and no keyring."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CMS_SOCK", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_CONFIG", str(tmp_path / "etc" / "cms"))
    monkeypatch.setattr(mail_programs, "TOOLS", ())
    return tmp_path


def wishes(home: Path, **more: Any) -> Wishes:
    return Wishes(str(home / "config" / "cms" / "cms.cfg"), USER, **more)


def program(home: Path, name: str, text: str) -> None:
    path = home / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
