"""The record of each request: written in rounds, kept for the person who runs cms, limited, and without a secret."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.whole_daemon import ANN, WholeDaemon, on_moving_clock, until, whole_daemon

from cms.core.policy import Peer
from cms.daemon.serving import audit
from cms.daemon.serving.audit import (
    LOGGED_OF_ALL,
    LOGGED_OF_ONE,
    MAX_NAMED,
    MAX_RECENT,
    MAX_RECENT_REFUSALS,
    MAX_REFUSALS,
    REFUSALS_OF_ONE,
    Audit,
    program,
)
from cms.system.append import AppendFile
from cms_oauth.wire import TokenRequest

# More than a process id can be.
NOBODY = 2**22 + 1


@dataclass
class Recording:
    """An audit whose clock a test sets."""

    now: float = 1.0
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = Audit(lambda: self.now)

    def record(
        self,
        uid: int = 1000,
        *,
        pid: int = 1,
        user: str = ANN,
        protocol: str = "SMTP",
        form: str = "token",
        outcome: str = "granted",
    ) -> None:
        self.audit.record(Peer(pid, uid, 100), TokenRequest(protocol, form), user, outcome)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file of the record."""
    return tmp_path / "audit.log"


@pytest.fixture
def it(record: Path) -> Iterator[Recording]:
    """An audit that writes there."""
    made = Recording()
    made.audit.apply(str(record), journal=False)
    yield made
    made.audit.close()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_no_record_goes_to_a_folder_that_others_can_write(it: Recording, record: Path, mode: int) -> None:
    """Others may have made the folder since the configuration was read. The status says why, and counts what is lost."""
    record.rename(record.with_suffix(".1"))
    record.parent.chmod(mode)
    it.audit.reopen()
    it.record()
    it.audit.flush()
    told = it.audit.facts
    record.parent.chmod(0o700)
    it.audit.mend()
    it.record()
    it.audit.flush()

    assert 1 == told.lost
    assert f"the folder {record.parent} can be written by everyone" in told.trouble
    assert ("", 1) == (it.audit.facts.trouble, record.read_text().count("\n"))


def test_every_request_is_counted_by_its_outcome() -> None:
    """Also those of which there is no record, because there were too many; an outcome that never came has 0."""
    it = Recording()
    for _ in range(3 * MAX_REFUSALS):
        it.record(outcome="denied")
    it.record()

    assert (1, 3 * MAX_REFUSALS, 0) == tuple(it.audit.outcomes[each] for each in ("granted", "denied", "busy"))
    assert it.audit.facts.counted
    assert "busy" in it.audit.outcomes


def test_the_newest_comes_first() -> None:
    """Who asked for what, with what outcome, and how long ago."""
    it = Recording(100.0)
    it.record(pid=NOBODY)
    it.audit.flush()
    it.now = 130.5
    it.record(1001, pid=NOBODY + 1, user="", form="xoauth2", outcome="denied")
    it.audit.flush()
    it.now = 160.0

    common = {"gid": 100, "protocol": "SMTP", "program": "-"}
    assert [
        {
            **common,
            "uid": 1001,
            "pid": NOBODY + 1,
            "user": "",
            "form": "xoauth2",
            "outcome": "denied",
            "age": 29,
            "at": 4970,
        },
        {
            **common,
            "uid": 1000,
            "pid": NOBODY,
            "user": ANN,
            "form": "token",
            "outcome": "granted",
            "age": 60,
            "at": 4940,
        },
    ] == it.audit.as_data(5000.0)


def test_no_more_than_so_many_are_kept() -> None:
    """A daemon that runs for months holds no more than one that just began."""
    it = Recording()
    for number in range(MAX_RECENT + 5):
        it.record(pid=number)
    kept = it.audit.as_data(1.0)

    assert (MAX_RECENT, MAX_RECENT + 4) == (len(kept), kept[0]["pid"])


def test_the_lines_of_a_round_are_written_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing before, each line once, and all of them in one piece."""
    it, me, written = Recording(), os.getpid(), list[Sequence[str]]()
    it.audit.apply(str(tmp_path / "audit.log"), journal=False)
    monkeypatch.setattr(AppendFile, "write", lambda _file, lines: written.append(lines))
    it.record(pid=me)
    it.record(pid=me, outcome="unavailable")
    before = list(written)
    it.audit.flush()
    it.audit.flush()

    assert ([], 1) == (before, len(written))
    first, second = written[0]
    for word in (
        "time=",
        f"account={ANN}",
        "protocol=SMTP",
        "form=token",
        "uid=1000",
        "gid=100",
        f"program={program(me)}",
        f"pid={me}",
        "outcome=granted",
    ):
        assert word in first
    assert "outcome=unavailable" in second


def test_a_busy_round_names_no_program(it: Recording, record: Path) -> None:
    """Nor does a line whose process has ended: the name would cost more than the answer."""
    for _ in range(MAX_NAMED + 1):
        it.record(pid=os.getpid())
    it.audit.flush()
    it.record(pid=NOBODY)
    it.audit.close()

    assert ["program=-"] * (MAX_NAMED + 2) == [word for word in record.read_text().split() if "gram" in word]


def test_a_program_cannot_write_another_line(it: Recording, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process names itself, and a peer names the user: each stays one quoted word, and the process id is the kernel's."""
    monkeypatch.setattr("cms.daemon.serving.audit.program", lambda _pid: 'x\n pid=7 "')
    it.record(user="a\n pid=1 event=x", pid=4242)
    it.audit.close()
    (line,) = record.read_text().splitlines()

    assert line.endswith(" pid=4242")
    assert 'account="a\\n pid=1 event=x"' in line


def test_the_log_has_refusals_only(it: Recording, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person has to mend; a healthy account is silent there, however often it is asked for."""
    for _ in range(1000):
        it.record()
    it.record(outcome="sign-in-required")
    it.audit.flush()
    (line,) = capsys.readouterr().out.splitlines()

    assert "sign-in-required" in line


def test_refusals_of_one_user_beyond_ten_a_second_are_counted(it: Recording, record: Path) -> None:
    """They fill neither the record nor the last requests; another user's are written, and so is what is granted."""
    with capture_logs() as logged:
        for _ in range(MAX_REFUSALS + 5):
            it.record(outcome="denied")
        it.record(1001, outcome="denied")
        it.record()
        it.audit.flush()
        written = record.read_text().splitlines()
        it.now = 2.0
        it.record(outcome="denied")
        it.audit.close()

    assert MAX_REFUSALS + 2 == len(written) == len(it.audit.as_data(2.0)) - 1
    assert (5, [(5, 1000)]) == (
        it.audit.facts.counted,
        [(each["count"], each["uid"]) for each in logged if "counted" in each["event"]],
    )


def test_a_flood_of_refusals_fills_neither_record_nor_log(it: Recording, record: Path) -> None:
    """A day of a refused user who asks without end: less than a share, and all the rest is counted and told, now and then."""
    asked, seconds = 0, 24 * 3600
    with capture_logs() as logged:
        for it.now in range(1, seconds, 20):
            for _ in range(2 * MAX_REFUSALS):
                it.record(outcome="denied")
                asked += 1
            it.audit.flush()
        it.record(1001, outcome="denied")
        it.audit.close()
    text = record.read_text()
    refusals = [each for each in logged if each["event"] == "request"]
    told = [each["count"] for each in logged if "counted" in each["event"]]

    assert len(text) <= sum(REFUSALS_OF_ONE) + 200
    assert asked + 1 == text.count("outcome=denied") + it.audit.facts.counted
    assert len(refusals) <= sum(LOGGED_OF_ONE)
    assert (it.audit.facts.counted, True) == (sum(told), len(told) < 30)
    # Another user's refusal is written all the same.
    assert "uid=1001" in text


def test_a_flood_of_refusals_hides_no_other_refusal() -> None:
    """Without a record, the log and the status are all that tells of it: one stranger's refusals take a part of both.

    What is in neither is counted. Many strangers together have no more than `LOGGED_OF_ALL`.
    """
    it, asked = Recording(), 0
    with capture_logs() as logged:
        it.record(1001, outcome="denied")
        for it.now in range(1, 200):
            for _ in range(2 * MAX_REFUSALS):
                it.record(outcome="denied")
                asked += 1
            it.audit.flush()
        it.record(1002, outcome="denied")
        last = [each["uid"] for each in it.audit.as_data(it.now)]
        for uid in range(2000, 2000 + 2 * sum(LOGGED_OF_ALL)):
            it.record(uid, outcome="denied")
        it.audit.close()
    uids = [each["uid"] for each in logged if each["event"] == "request"]

    assert [1002, *[1000] * MAX_RECENT_REFUSALS, 1001] == last
    assert (1, 1) == (uids.count(1001), uids.count(1002))
    assert LOGGED_OF_ONE[0] <= uids.count(1000) <= LOGGED_OF_ONE[0] + 3
    assert len(uids) <= LOGGED_OF_ALL[0] + 12
    assert asked + 2 + 2 * sum(LOGGED_OF_ALL) == len(uids) + it.audit.facts.counted


def test_fewer_requests_are_all_written(it: Recording, record: Path) -> None:
    """The twin of the flood: a day of a user who is refused every ten seconds, and of one who is served."""
    for it.now in range(1, 24 * 3600, 100):
        it.record(outcome="denied")
        it.record(1001)
        it.audit.flush()
    it.audit.close()
    text = record.read_text()

    assert (864, 864, 0) == (text.count("outcome=denied"), text.count("outcome=granted"), it.audit.facts.counted)


def test_one_who_is_served_without_end_does_not_fill_the_disk(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither alone, nor so that another's record is lost."""
    monkeypatch.setattr("cms.daemon.serving.audit.GRANTS_OF_ONE", (10_000, 10_000))
    it = Recording()
    it.audit.apply(str(record), journal=False)
    for _ in range(1000):
        it.record()
        it.audit.flush()
    it.record(1001)
    it.audit.close()
    text = record.read_text()

    assert (True, 1) == (len(text) < 10_200, text.count("uid=1001"))
    assert 1001 == text.count("\n") + it.audit.facts.counted


def test_of_a_round_as_many_lines_are_written_as_there_is_room_for(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of one user's is counted, and another's of the same round are all written."""
    monkeypatch.setattr("cms.daemon.serving.audit.GRANTS_OF_ONE", (400, 400))
    it = Recording()
    it.audit.apply(str(record), journal=False)
    for uid in (1000, 1001, 1000, 1000, 1001, 1000, 1000):
        it.record(uid)
    it.audit.close()
    text = record.read_text()

    written = text.count("uid=1000")
    assert (True, 2) == (0 < written < 5, text.count("uid=1001"))
    assert 5 - written == it.audit.facts.counted


def test_a_reload_keeps_closes_and_opens_places(it: Recording, record: Path, tmp_path: Path) -> None:
    """A file that stays is opened anew, one that goes gets what was recorded until then."""
    journal = tmp_path / "journal"
    it.record(user="first@example.test")
    it.audit.apply(str(tmp_path / "second.log"), journal=True)
    with_both = it.audit.facts.places
    it.record(user="second@example.test")
    it.audit.apply("", journal=False)
    it.record(user="third@example.test")
    it.audit.flush()
    texts = record.read_text(), (tmp_path / "second.log").read_text()

    assert ((str(tmp_path / "second.log"), "the journal"), ()) == (with_both, it.audit.facts.places)
    assert [("first" in each, "second" in each, "third" in each) for each in texts] == [
        (True, False, False),
        (False, True, False),
    ]
    assert not journal.exists()


def test_what_every_address_of_a_domain_had_last(it: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of them all; and no number of addresses fills the memory."""
    monkeypatch.setattr(audit, "MAX_TAKEN", 3)
    for number, user in enumerate(
        ("x@other.test", "a@example.test", "b@example.test", "a@example.test", "x@other.test")
    ):
        it.now = float(number)
        it.record(1000 + number, user=user)
        it.audit.flush()
    every = it.audit.last_taken("*@Example.test", ("SMTP", "IMAP"), 5000.0)
    it.record(user="c@example.test")
    it.audit.flush()

    assert every is not None
    assert (1003, "a@example.test") == (every["uid"], every["user"])
    assert it.audit.last_taken("b@example.test", ("SMTP",), 5000.0) is None
    assert it.audit.last_taken("a@example.test", ("SMTP",), 5000.0) is not None


def test_who_took_what_last(it: Recording) -> None:
    """By account and protocol, grants only; the newest of the protocols of one token."""
    it.record(1001)
    it.audit.flush()
    it.now = 11.0
    it.record(1002, protocol="IMAP")
    it.record(1003, outcome="denied")
    it.audit.flush()
    last = [it.audit.last_taken(ANN, protocols, 5000.0) for protocols in (("SMTP",), ("SMTP", "IMAP"), ("POP",))]

    assert [(1001, 10, 4990), (1002, 0, 5000), None] == [
        (each["uid"], each["age"], each["at"]) if each else None for each in last
    ]


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
