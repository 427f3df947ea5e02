"""A token file in real time: a reader that never stops reading sees whole, fresh tokens and nothing else."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, account_line, ask, settings_lines
from support.mounts import small_disk
from support.reachable import ALICE, BOB, become
from support.waiting import PATIENCE, until

from cms.sandbox.entra import Entra
from cms.sandbox.tokens import unb64url

ME = "me@domain.com"

REFRESHES = 10
# Seconds: tokens that live for twelve are renewed after a tenth of that, as early as can be. A busy machine may take a
# good many of them for a renewal, and a whole one to remove the file in time.
LIFE, REFRESH_BEFORE = 12.0, 11

# Reads as fast as it can until its standard input ends; each content once, with the first and last moment it was seen.
_READER = """
import json, select, sys, time
seen, missing, reads = {}, 0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.time()
    try:
        with open(sys.argv[1]) as file:
            text = file.read()
    except FileNotFoundError:
        missing += 1
        continue
    reads += 1
    seen.setdefault(text, [began, began])[1] = began
json.dump({"seen": seen, "missing": missing, "reads": reads}, sys.stdout)
"""


@pytest.fixture
def broker(make_daemon: Callable[..., Daemon]) -> Daemon:
    return make_daemon(ALICE)


def configure(broker: Daemon, entra: Entra, path: Path, more: str = "") -> None:
    entra.add_user(ME)
    broker.configure(
        settings_lines(broker.home, entra)
        + account_line("account", ME, entra, f", refresh_before={REFRESH_BEFORE}")
        + f'CredentialServer("{broker.home}/cms.sock", accounts=[account], protocols=["IMAP"])\n'
        + f'TokenFile("{path}", account, "IMAP"{more})\n'
    )


def begin(broker: Daemon, entra: Entra, path: Path) -> None:
    """Configure, start and sign in; then the file is there."""
    configure(broker, entra, path)
    broker.start()
    broker.sign_in(ME, entra)
    until(path.exists, "the token file")


@contextmanager
def reader(path: Path) -> Iterator[dict[str, Any]]:
    """Read the file in another process during the block; the result then holds what that process saw."""
    saw: dict[str, Any] = {}
    command = become(ALICE, [sys.executable, "-I", "-c", _READER, path])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield saw
        saw.update(json.loads(process.communicate()[0]))


def test_a_reader_never_sees_anything_but_a_fresh_token(broker: Daemon, entra: Entra) -> None:
    """Across ten refreshes: no half of one, no empty file, none that had expired, and never no file at all."""
    path = broker.home / "token"
    entra.token_life = LIFE
    begin(broker, entra, path)
    entra.requests.clear()
    with reader(path) as saw:
        # When one more is asked for, the file has the last of them.
        assert entra.wait_for(REFRESHES + 1, seconds=PATIENCE, grant_type="refresh_token")
    facts = {text: claims(text) for text in saw["seen"]}

    assert 0 == saw["missing"]
    assert len(facts) >= REFRESHES
    assert saw["reads"] > 100 * REFRESHES
    assert [] == [text[:9] for text, (_, last) in saw["seen"].items() if last >= facts[text]["minted"] + LIFE]
    assert {ME} == {each["upn"] for each in facts.values()}


def claims(token: str) -> dict[str, Any]:
    """Return what a token says of itself: half a token fails here, and so does one with anything behind it."""
    head, body, signature = token.split(".")
    assert len(unb64url(signature)) == 32
    assert unb64url(head)
    told: dict[str, Any] = json.loads(unb64url(body))
    return told


def test_the_file_is_its_owners_and_the_served_token(broker: Daemon, entra: Entra) -> None:
    """0600, no newline; with another mode and a newline where the configuration says so."""
    path = broker.home / "folder" / "token"
    begin(broker, entra, path)
    first = (path.read_text(), stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
    served = ask(broker.home / "cms.sock", f"IMAP,token {ME}\n".encode()).decode()
    read_by_bob = broker.run("cat", str(path), uid=BOB)
    configure(broker, entra, path, ", mode=0o640, newline=True")
    broker.cms("reload")
    # Where others may read it now, the old token is removed first: for a moment there is no file.
    until(lambda: content(path).endswith("\n"), "the newline")

    assert (served, 0o600, ALICE) == first
    assert (f"{served}\n", 0o640) == (path.read_text(), stat.S_IMODE(path.stat().st_mode))
    assert (1, "") == (read_by_bob.returncode, read_by_bob.stdout)


def content(path: Path) -> str:
    """Return what the file holds, "" if there is none now."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def test_it_is_gone_after_a_logout_a_stop_and_a_kill(broker: Daemon, entra: Entra) -> None:
    """After `cms logout`, after a stop, and after the next start of a daemon that was killed."""
    path = broker.home / "token"
    begin(broker, entra, path)
    broker.cms("logout")
    until(lambda: not path.exists(), "the end of the file at the sign-out")

    broker.sign_in(ME, entra)
    until(path.exists, "the token file after the next sign-in")
    broker.stop()
    assert not path.exists()

    broker.start()
    until(path.exists, "the token file after a start")
    broker.stop(signal.SIGKILL)
    entra.go_down()
    with path.open() as left:
        broker.start()
        # The next one may be there at once.
        until(lambda: os.fstat(left.fileno()).st_nlink == 0, "the end of a file of unknown age")


def test_it_is_gone_before_its_token_expires(broker: Daemon, entra: Entra) -> None:
    """While Entra cannot be reached, no program is left with a token that a server refuses."""
    path = broker.home / "token"
    entra.token_life = LIFE
    begin(broker, entra, path)
    entra.go_down()
    with reader(path) as saw:
        until(lambda: not path.exists(), "the end of the file")
    ends = {text: claims(text)["minted"] + LIFE for text in saw["seen"]}

    assert [] == [text[:9] for text, (_, last) in saw["seen"].items() if last >= ends[text]]


def test_a_disk_is_warned_about_and_a_tmpfs_is_not(broker: Daemon, entra: Entra) -> None:
    """By `cms check` and in the log: a token in clear on a disk is for its owner to decide."""
    with small_disk() as memory:
        os.chown(memory.folder, ALICE, ALICE)
        configure(broker, entra, memory.folder / "token")
        quiet = broker.cms("check", "-c", str(broker.config))
        configure(broker, entra, broker.home / "token")
        warned = broker.cms("check", "-c", str(broker.config))

    assert (0, "") == (quiet.returncode, quiet.stderr)
    assert "written to a disk in clear" in warned.stderr


def test_a_disk_that_takes_nothing_is_told_and_mended(broker: Daemon, entra: Entra) -> None:
    """The log and the status say why; once there is room, the next token is written."""
    with small_disk() as memory:
        os.chown(memory.folder, ALICE, ALICE)
        path = memory.folder / "token"
        configure(broker, entra, path)
        broker.start()
        memory.fill()
        broker.sign_in(ME, entra)
        until(lambda: "cannot be kept: No space left on device" in status(broker), "the trouble in the status")
        assert not path.exists()
        memory.make_room()
        broker.cms("refresh")
        until(lambda: path.exists() and "cannot be kept" not in status(broker), "the file")
        broker.stop()

    assert "a token file cannot be kept" in broker.log


def status(broker: Daemon) -> str:
    """Return what `cms status` prints, on one line."""
    return " ".join(broker.cms("status").stdout.split())
