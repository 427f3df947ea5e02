"""The terminal's half of `cms import`."""

from __future__ import annotations

import getpass
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cms import moving
from cms.grants.messages import Place
from cms.remote import Remote

DONE = {"event": "done", "ok": True, "message": "signed in"}
WANTED = {"event": "password", "message": "/f is encrypted with a password"}


@contextmanager
def daemon(*answers: dict[str, Any]) -> Iterator[tuple[Remote, list[dict[str, Any]]]]:
    """Be a daemon that answers each line with the next of these."""
    ours, theirs = socket.socketpair()
    heard: list[dict[str, Any]] = []

    def play() -> None:
        with theirs, theirs.makefile("rb") as lines:
            for answer, line in zip(answers, lines, strict=False):
                heard.append(json.loads(line))
                theirs.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=play)
    thread.start()
    with Remote(ours) as remote:
        yield remote, heard
    thread.join()


def nobody(_question: str) -> str:
    raise AssertionError("no password is needed")


def test_what_is_meant_is_told() -> None:
    """And how it ended is returned; nobody is asked for anything that is not needed."""
    with daemon(DONE) as (remote, heard):
        end = moving.bring_in(remote, "a", Place("/f", "oama", "e"), nobody)

    assert DONE == end
    assert [{"command": "import", "user": "a", "path": "/f", "source": "oama", "entry": "e"}] == heard


def test_a_password_is_asked_for_when_the_daemon_wants_one() -> None:
    """It goes over the socket, and nowhere else."""
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return "secret"

    with daemon(WANTED, DONE) as (remote, heard):
        end = moving.bring_in(remote, "", Place("/f"), ask)

    assert DONE == end
    assert {"password": "secret"} == heard[-1]
    assert ["/f is encrypted with a password; its password"] == asked


def test_without_a_password_there_is_no_import() -> None:
    """An empty line gives up."""
    with daemon(WANTED) as (remote, heard):
        end = moving.bring_in(remote, "", Place("/f"), lambda _question: "")

    assert (False, 1) == (end["ok"], len(heard))


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        ("tokens", "", "{here}/tokens"),
        ("/f/../tokens", "pizauth", "/tokens"),
        ("ann@example.test", "oama", "ann@example.test"),
        ("./ann@example.test", "oama", "{here}/ann@example.test"),
        ("there", "oama", "{here}/there"),
        ("ann@example.test", "", "{here}/ann@example.test"),
    ],
)
def test_a_path_is_absolute_and_a_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, source: str, expected: str
) -> None:
    """The daemon's current folder is another one; only oama has names, and a file goes before a name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()

    assert expected.format(here=tmp_path) == moving.whereabouts(place, source)


def test_a_password_is_typed_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("seen\n"))
    monkeypatch.setattr(getpass, "getpass", lambda question: f"unseen after {question}")

    assert "unseen after what: " == moving.ask_password("what")


def test_a_password_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a password manager; its first line."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(" pass word \nnext\n"))

    assert " pass word " == moving.ask_password("what")
