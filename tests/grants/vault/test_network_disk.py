"""A state folder on a network file system: a lock service that is missing, and files that the server has replaced."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.grants import NoRing

from cms.core.accounts import Grant, Source
from cms.grants.secret_sources import Unavailable
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.system.files import STALE_TRIES

GRANT = Grant("https://login.example/common", "client", "ann@example.test")
ENTRY = Entry('{"RefreshToken": {}}', "oid.tid", "ann@example.test", 1700000000.0)
NEWER = replace(ENTRY, who="Ann")

# What a redemption does with descriptors and names, by way of Python.
CALLS = ((os, "open"), (os, "fstat"), (os, "fsync"), (os, "posix_fallocate"), (os, "rename"), (fcntl, "flock"))


class Server:
    """A file server: `reply` says for the number of each call which error it gets, 0 for none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reply: Callable[[int], int] = lambda _: 0
        self.calls = 0
        for module, name in CALLS:
            monkeypatch.setattr(module, name, self._wrapped(getattr(module, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if number := self.reply(self.calls):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **more)

        return call

    def fails(self, reply: Callable[[int], int]) -> None:
        """From now on, calls are counted from 1 and answered like this."""
        self.calls, self.reply = 0, reply


class Lab:
    """A state folder with one sign-in; each vault is a new process's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redeem(ENTRY)

    def vault(self) -> Vault:
        key = Source("file", (str(self.folder / "key"),))
        return Vault(str(self.folder / "state"), Keys(key, environ={}, ring=NoRing()))

    def redeem(self, entry: Entry) -> None:
        """Do what a refresh does."""
        with self.vault().hold(GRANT) as held:
            held.read()
            held.prepare()
            held.store(entry)

    def read(self) -> tuple[Entry | None, bool]:
        """Return the sign-in, and whether a redemption was cut off."""
        with self.vault().hold(GRANT) as held:
            return held.read(), held.interrupted

    def trouble(self) -> tuple[str, str, str]:
        """Return why a refresh fails."""
        with pytest.raises(Unavailable) as caught:
            self.redeem(NEWER)
        trouble = caught.value.outcome.trouble
        return trouble.kind, trouble.message, str(trouble.hint)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def server(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server from the first sign-in on."""
    return Server(monkeypatch)


def test_without_locks_nothing_is_redeemed(lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOLCK: one sentence, with what to do; when the lock service is back, all goes on."""
    with monkeypatch.context() as patched:

        def unlockable(*_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        patched.setattr(fcntl, "flock", unlockable)
        kind, message, hint = lab.trouble()

    assert ("storage", f"nothing can be locked in {lab.folder}/state: No locks available") == (kind, message)
    assert "that network file system offers no locks: set XDG_STATE_HOME" in hint
    assert (ENTRY, False) == lab.read()
    lab.redeem(NEWER)
    assert (NEWER, False) == lab.read()


def test_a_stale_file_is_looked_up_again(lab: Lab, server: Server) -> None:
    """ESTALE once, at whichever call of a refresh: it is not noticed, and the successor is stored."""
    for number in itertools.count(1):
        server.fails(lambda call, number=number: errno.ESTALE if call == number else 0)  # type: ignore[misc]  # no lambda has annotations
        lab.redeem(NEWER)
        reached = server.calls >= number
        server.fails(lambda _: 0)

        assert (NEWER, False) == lab.read()
        lab.redeem(ENTRY)
        if not reached:
            break

    assert len(CALLS) < number


def test_a_folder_that_stays_stale(lab: Lab, server: Server) -> None:
    """ESTALE for good: a refresh fails before anything is redeemed, with one sentence; a new mount ends it."""
    server.fails(lambda _: errno.ESTALE)
    kind, message, hint = lab.trouble()

    assert ("storage", f"nothing can be locked in {lab.folder}/state: Stale file handle") == (kind, message)
    assert "that folder was replaced on its file server: mount it again" in hint
    assert STALE_TRIES == server.calls
    server.fails(lambda _: 0)
    assert (ENTRY, False) == lab.read()
    lab.redeem(NEWER)
    assert (NEWER, False) == lab.read()


def test_stale_while_the_provider_answers(lab: Lab, server: Server) -> None:
    """The successor cannot be stored: the old file is whole, and the mark says that one was lost."""
    with lab.vault().hold(GRANT) as held:
        held.read()
        held.prepare()
        server.fails(lambda _: errno.ESTALE)
        with pytest.raises(Unavailable):
            held.store(NEWER)
        server.fails(lambda _: 0)

    assert (ENTRY, True) == lab.read()
