"""The `cms` command in a home that has nothing yet, or with a daemon that follows a script."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

GOOD = """
account = Office365_Account(user="a@example.test")
CredentialServer("{folder}/cms.sock", accounts=[account], protocols=["SMTP"])
"""


def empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of our own, and no daemon."""
    for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_RUNTIME", str(tmp_path / "system"))
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_CONFIG", str(tmp_path / "etc"))
    return tmp_path


def good_configuration(home: Path) -> Path:
    """Write a good configuration where it is looked for; return its path."""
    path = home / "config" / "cms" / "cms.cfg"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD.format(folder=home))
    return path


@contextmanager
def daemon(home: Path, *answers: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Be a daemon that gives one answer to each command; yields what it was asked."""
    asked: list[dict[str, Any]] = []
    folder = home / "run" / "cms"
    folder.mkdir(parents=True)

    def play() -> None:
        for answer in answers:
            client, _ = listening.accept()
            with client, client.makefile("rb") as lines:
                asked.append(json.loads(lines.readline()))
                client.sendall(json.dumps(answer).encode() + b"\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "control.sock"))
        listening.listen()
        # A command that asks less often than it was to is a failure, and no test that hangs.
        listening.settimeout(60)
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield asked
        thread.join()


@contextmanager
def conversing(home: Path, *events: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Be a daemon that goes through these events in one conversation; what is told wants no answer."""
    heard: list[dict[str, Any]] = []
    folder = home / "run" / "cms"
    folder.mkdir(parents=True, exist_ok=True)

    def play() -> None:
        client, _ = listening.accept()
        with client, client.makefile("rb") as lines:
            heard.append(json.loads(lines.readline()))
            for event in events:
                client.sendall(json.dumps(event).encode() + b"\n")
                if event["event"] in ("password", "question") and (line := lines.readline()):
                    heard.append(json.loads(line))

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "control.sock"))
        listening.listen()
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        yield heard
        thread.join()
    (folder / "control.sock").unlink()


def done(*, ok: bool = True, message: str = "", hint: str = "", **more: Any) -> dict[str, Any]:
    return {"event": "done", "ok": ok, "message": message, "hint": hint, **more}
