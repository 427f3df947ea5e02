"""A login at a mail server in a child process: what it says comes back, and what hangs is ended."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.ports import closed_port

from cms.cli.doctor import probe_mail
from cms.cli.doctor.assess import MailTest
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.dial import Failed
from cms_oauth.mailtest import run as mailtest
from cms_oauth.mailtest.run import Report

TOKEN = "a-token-that-nobody-should-see-anywhere"
USER = "a@example.test"


@pytest.fixture
def closed() -> Iterator[str]:
    """A place at which no server listens."""
    with closed_port() as port:
        yield f"127.0.0.1:{port}"


def test_a_server_that_is_not_there(closed: str) -> None:
    """The test's own words and verdict come back from the child, and no token."""
    found = probe_mail.run("SMTP", closed, USER, TOKEN)

    assert ("SMTP", USER, "unavailable") == (found.protocol, found.user, found.code)
    assert "Connection refused" in found.message
    assert isinstance(found.verdicts[0], Verdict)
    assert isinstance(found.verdicts[0].steps, tuple)
    assert TOKEN not in repr(found)


def test_a_server_that_never_answers() -> None:
    """It gets the seconds that it was given, and a verdict."""
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        found = probe_mail.run("IMAP", place, USER, TOKEN, mailbox="Sent", seconds=0.5)

    assert ("unavailable", "Sent") == (found.code, found.mailbox)
    assert time.monotonic() - begun < 20


def test_a_child_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed."""
    monkeypatch.setattr(probe_mail, "_MARGIN", -0.29)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        found = probe_mail.run("IMAP", place, USER, TOKEN, seconds=0.3)

    expected = f"{place} did not answer within 0.3 s"

    assert MailTest("IMAP", USER, place, code="unavailable", message=expected) == found


def test_a_child_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no result, and that is said."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    found = probe_mail.run("POP", "h", USER, TOKEN)

    assert ("unavailable", "the test of h ended without a result") == (found.code, found.message)


def test_the_child_says_what_went_well() -> None:
    """Without a code."""
    known = MailTest("IMAP", USER, "h")

    assert replace(known, reply="OK") == probe_mail._understood(json.dumps({"reply": "OK", "verdicts": []}), known)


def test_the_child(closed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads what to do, does it quietly, and prints one object."""
    told = {"test": "smtp", "host": closed, "user": USER, "token": TOKEN, "mailbox": "", "seconds": 5.0}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(told)))
    probe_mail.main()
    shown = capsys.readouterr()
    said = json.loads(shown.out)

    assert ("unavailable", "") == (said["code"], shown.err)
    assert said["verdicts"][0]["name"]


def test_the_child_judges_by_the_clock_and_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told how wrong this machine's is, and whose the account is."""
    told = list[tuple[float | None, str]]()

    def run(test: str, host: str, *_: str, skew: float | None, provider: str, **__: object) -> Report:
        told.append((skew, provider))
        return Report(Failed("denied", f"{test} at {host}", ""))

    def child(argv: list[str], *, input: str, **_: object) -> subprocess.CompletedProcess[str]:  # noqa: A002 - as subprocess.run calls it
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            probe_mail.main()
        return subprocess.CompletedProcess(argv, 0, shown.getvalue(), "")

    monkeypatch.setattr(mailtest, "run", run)
    monkeypatch.setattr(subprocess, "run", child)
    known = [(7200.0, "google"), (None, "")]
    found = [probe_mail.run("SMTP", "h", USER, TOKEN, skew=skew, provider=provider) for skew, provider in known]

    assert known == told
    assert ["smtp at h"] * 2 == [each.message for each in found]


def test_the_child_opens_the_mailbox_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The child opens the named mailbox over IMAP; an invalid host is a bad request."""
    told = {"test": "imap", "host": "no host", "user": USER, "token": TOKEN, "mailbox": "Sent", "seconds": 5.0}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(told)))
    probe_mail.main()

    assert "bad-request" == json.loads(capsys.readouterr().out)["code"]
