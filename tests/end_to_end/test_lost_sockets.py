"""Sockets whose files vanish under the real daemon: what its commands and the doctor say, and that they come back."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from support.broker import Broker, signed_in
from support.programs import require_root
from support.reachable import ALICE, Installation
from support.waiting import PATIENCE, until

USER = "ann@vanishing.test"

T = TypeVar("T")


@pytest.fixture(scope="module")
def broker(installation: Installation) -> Iterator[Broker]:
    """An ordinary user's daemon, signed in."""
    require_root()
    with signed_in(installation, ALICE, USER) as running:
        yield running


def status(broker: Broker) -> tuple[int, str]:
    """Return what `cms status --check` exits with, and what it says."""
    done = broker.daemon.cms("status", "--check")
    return done.returncode, done.stdout


def found(broker: Broker, check: str) -> list[tuple[str, str]]:
    """Return the level of each finding of a check of the doctor's, and the first move."""
    done = broker.daemon.cms("doctor", "-c", str(broker.daemon.config), "--json")
    findings = [each for each in json.loads(done.stdout)["findings"] if each["check"] == check]
    return [(each["level"], "".join(each["verdicts"][0]["steps"][:1]) if each["verdicts"] else "") for each in findings]


def while_lost(path: Path, look: Callable[[], T]) -> T:
    """Return what a look finds while a socket is missing. The daemon may put it back at any moment: then look again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        path.unlink(missing_ok=True)
        seen = look()
        if not path.exists():
            return seen
        assert time.monotonic() < deadline


def test_a_token_socket_that_vanishes(broker: Broker) -> None:
    """status and doctor say that it is gone, and never `cms run`; a reload brings it back, and a token comes from it."""
    path = Path(broker.path)
    code, said = while_lost(path, lambda: status(broker))
    (level, move), *_ = while_lost(path, lambda: found(broker, "socket"))
    refused = while_lost(path, lambda: broker.daemon.token(path, USER))
    broker.daemon.cms("reload")
    granted = broker.daemon.token(path, USER)

    assert (2, True) == (code, f"the socket {path} is gone" in said)
    assert ("fail", True, False) == (level, "`cms reload`" in move, "cms run" in move)
    assert (69, 0, 0) == (refused.returncode, granted.returncode, status(broker)[0])


def test_a_folder_that_vanishes(broker: Broker) -> None:
    """Its user cannot make it again, as at a logout; the status says so until somebody else does, as at the next login."""
    path = Path(broker.path)
    shutil.rmtree(path.parent)
    broker.daemon.cms("reload")
    code, said = status(broker)
    path.parent.mkdir()
    shutil.chown(path.parent, ALICE, ALICE)
    broker.daemon.cms("reload")

    assert (2, True) == (code, "cannot be put back: " in said)
    assert (0, 0) == (broker.daemon.token(path, USER).returncode, status(broker)[0])


def test_a_control_socket_that_vanishes(broker: Broker) -> None:
    """No command says that no daemon runs; SIGHUP brings it back at once."""
    path = Path(broker.control)
    code, said = while_lost(path, lambda: status(broker))
    plain = while_lost(path, lambda: broker.daemon.cms("status"))
    (level, move), *_ = while_lost(path, lambda: found(broker, "daemon"))
    assert broker.daemon.process
    broker.daemon.process.send_signal(signal.SIGHUP)
    until(path.is_socket, "the control socket")

    assert (2, True) == (code, f"a daemon runs (process {broker.pid})" in said)
    assert ("", True) == (plain.stdout, "no daemon" not in plain.stderr)
    assert ("fail", True) == (level, "half a minute" in move)
    assert 0 == status(broker)[0]
