"""The record of each request: written in rounds, kept for the person who runs cms, limited, and without a secret."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.whole_daemon import ANN, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.policy import Peer
from cms.daemon.serving.audit import MAX_NAMED, MAX_RECENT, MAX_REFUSALS, Audit, program
from cms.system import logs
from cms_oauth.wire import TokenRequest


@dataclass
class Recording:
    """An audit whose clock a test sets."""

    now: float = 1.0
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = Audit(lambda: self.now)

    def record(
        self, uid: int = 1000, *, pid: int = 1, user: str = ANN, form: str = "token", outcome: str = "granted"
    ) -> None:
        self.audit.record(Peer(pid, uid, 100), TokenRequest("SMTP", form), user, outcome)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_the_newest_comes_first() -> None:
    """Who asked for what, with what outcome, and how long ago."""
    it = Recording(100.0)
    it.record(pid=7)
    it.now = 130.5
    it.record(1001, pid=8, user="", form="xoauth2", outcome="denied")
    it.now = 160.0

    common = {"gid": 100, "protocol": "SMTP"}
    assert [
        {**common, "uid": 1001, "pid": 8, "user": "", "form": "xoauth2", "outcome": "denied", "age": 29, "at": 4970},
        {**common, "uid": 1000, "pid": 7, "user": ANN, "form": "token", "outcome": "granted", "age": 60, "at": 4940},
    ] == it.audit.as_data(5000.0)


def test_no_more_than_so_many_are_kept() -> None:
    """A daemon that runs for months holds no more than one that just began."""
    it = Recording()
    for number in range(MAX_RECENT + 5):
        it.record(pid=number)
    kept = it.audit.as_data(1.0)

    assert (MAX_RECENT, MAX_RECENT + 4) == (len(kept), kept[0]["pid"])


def test_the_lines_of_a_round_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before, each line once, and all of them in one piece."""
    written: list[str] = []
    monkeypatch.setattr(logs, "write", written.append)
    it, me = Recording(), os.getpid()
    it.record(pid=me)
    it.record(pid=me, outcome="unavailable")
    before = list(written)
    it.audit.flush()
    it.audit.flush()

    assert ([], 1) == (before, len(written))
    first, second = written[0].splitlines()
    for word in (f"user={ANN}", "protocol=SMTP", "form=token", "uid=1000", "gid=100", f"pid={me}", "outcome=granted"):
        assert word in first
    assert "outcome=unavailable" in second
    assert f"program={program(me)}" in first


def test_a_busy_round_names_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does a line whose process has ended: the name would cost more than the answer."""
    it = Recording()
    for _ in range(MAX_NAMED + 1):
        it.record(pid=os.getpid())
    it.audit.flush()
    it.record(pid=2**22 + 1)
    it.audit.flush()

    assert ["program=-"] * (MAX_NAMED + 2) == [
        word for line in lines(capsys) for word in line.split() if "gram" in word
    ]


def test_a_program_cannot_write_another_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process names itself, and a peer names the user: each stays one quoted word, and the process id is the kernel's."""
    monkeypatch.setattr("cms.daemon.serving.audit.program", lambda _pid: 'x\n pid=7 "')
    it = Recording()
    it.record(user="a\n pid=1 event=x", pid=4242)
    it.audit.flush()
    (line,) = lines(capsys)

    assert line.endswith(" pid=4242")
    assert 'user="a\\n pid=1 event=x"' in line


def test_refusals_of_one_user_beyond_ten_a_second_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """They fill neither the log nor the last requests; another user's are written, and so is what is granted."""
    it = Recording()
    for _ in range(MAX_REFUSALS + 5):
        it.record(outcome="denied")
    it.record(1001, outcome="denied")
    it.record()
    it.audit.flush()
    written = lines(capsys)
    it.now = 2.0
    it.record(outcome="denied")
    it.audit.close()
    later = lines(capsys)

    assert MAX_REFUSALS + 2 == len(written) == len(it.audit.as_data(2.0)) - 1
    assert ["count=5"] == [word for line in later for word in line.split() if word.startswith("count=")]
    assert 1 == sum("outcome=denied" in line for line in later)


@on_moving_clock
async def test_status_tells_the_last_requests(tmp_path: Path) -> None:
    """Granted and refused, of every socket, and never with a token in it."""
    async with whole_daemon(tmp_path) as daemon:
        token = await daemon.token(ANN)
        await daemon.raw(b"SMTP nobody@example.test\n")
        requests = await until(lambda: two(daemon), "two requests in the status")

    assert [("unknown-account", "nobody@example.test"), ("granted", ANN)] == [
        (each["outcome"], each["user"]) for each in requests
    ]
    assert (os.getuid(), os.getpid()) == (requests[0]["uid"], requests[0]["pid"])
    assert token not in json.dumps(requests)


def two(daemon: WholeDaemon) -> list[dict[str, Any]]:
    """Return what the status says was asked, once there are two requests: a client has its reply before they are noted."""
    requests: list[dict[str, Any]] = daemon.app.commands.status().extra["json"]["requests"]
    return requests if len(requests) == 2 else []
