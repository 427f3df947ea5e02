"""Entries for journald, as its socket gets them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cms.system.journal import Journal


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """journald's socket, which nobody reads unless the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "journal"))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal("cms-audit", str(tmp_path / "journal"))
    yield made
    made.close()


def test_each_line_is_one_entry(journald: socket.socket, journal: Journal) -> None:
    """With an identifier of its own, so that `journalctl -t` shows them and nothing else."""
    journal.write(["outcome=granted pid=1", "outcome=denied pid=2"])

    head = b"PRIORITY=6\nSYSLOG_IDENTIFIER=cms-audit\nMESSAGE="
    assert [head + b"outcome=granted pid=1\n", head + b"outcome=denied pid=2\n"] == [journald.recv(999) for _ in "12"]
    assert (0, "") == (journal.lost, journal.trouble)


def test_a_journal_that_does_not_read_costs_entries_and_no_time(journald: socket.socket, journal: Journal) -> None:
    """Nothing waits for it; each entry is taken or counted; and it goes on when it reads again."""
    journal.write(["x" * 1000] * 2000)
    lost = journal.lost
    taken = 0
    while taken + lost < 2000:
        taken += bool(journald.recv(2000))
    journal.write(["later"])

    assert (True, True) == (lost > 0, taken > 0)
    assert (lost, "") == (journal.lost, journal.trouble)


def test_no_journal_is_counted(journal: Journal) -> None:
    """As in a container; when there is one, entries go there."""
    journal.write(["one", "two"])

    assert (2, "No such file or directory") == (journal.lost, journal.trouble)
