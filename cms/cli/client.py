"""Connects the `cms` command to the daemon's control socket. Blocking, without trio."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cms.cli.failure import Failure
from cms.core import json_lines
from cms.core.json_lines import Garbled
from cms.system.state_lock import daemon_of
from cms.system.users import user_name
from cms_oauth import impostor
from cms_oauth.expand import Unusable
from cms_oauth.moves import Command
from cms_oauth.paths import state_folder
from cms_oauth.peer import ROOT, credentials

# The status of some thousand accounts. No daemon sends a longer answer.
MAX_ANSWER = 16 * 1024 * 1024

# How long an answer may take, in seconds. The daemon sends its status at once. Other commands wait for Entra, at most as
# long as the worker does (messages.QUESTION_SECONDS), or for a configuration to load (child.LOAD_SECONDS).
STATUS_SECONDS = 10.0
ANSWER_SECONDS = 60.0

# The owner of a socket in a folder that this user may not read.
_UNKNOWN = "another user"


class NoDaemon(Failure):
    """There is no daemon to talk to. `hint` is the next command."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, os.EX_UNAVAILABLE)


class NotRunning(NoDaemon):
    """No daemon listens at any of the control sockets."""


class NotListening(NoDaemon):
    """A daemon runs, and cannot be reached: it is just starting, or its control socket was lost."""


class NotOurs(NoDaemon):
    """The daemon that runs belongs to another user, or may be a stranger's."""


class Remote:
    """A connection to a daemon for one command. Both sides send messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = json_lines.Lines(MAX_ANSWER)
        self._received: deque[bytes] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Raises NoDaemon if the daemon has gone."""
        try:
            self._sock.sendall(json_lines.pack(message))
        except OSError:
            raise _gone() from None

    def receive(self) -> dict[str, Any]:
        """Return the next message. Raises NoDaemon if the daemon ends, or says nothing in time."""
        while not self._received:
            try:
                chunk = self._sock.recv(65536)
                self._received += self._lines.feed(chunk)
            except TimeoutError:
                raise _silent() from None
            except (OSError, Garbled):
                raise _gone() from None
            if not chunk:
                raise _gone()
        try:
            return json_lines.unpack(self._received.popleft())
        except Garbled:
            raise _senseless() from None

    @property
    def ready(self) -> bool:
        """True if `receive` returns without waiting for the daemon."""
        return bool(self._received)

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return the next message, which for most commands is the whole answer."""
        self._sock.settimeout(STATUS_SECONDS if command == "status" else ANSWER_SECONDS)
        self.send({"command": command, **fields})
        return self.receive()


@contextmanager
def understood() -> Iterator[None]:
    """Raise NoDaemon if a daemon's answer lacks what the block reads in it. A daemon of another user may say anything."""
    try:
        yield
    # Some versions of Python read JSON that is nested more deeply than they can write it.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise _senseless() from None


def _senseless() -> NoDaemon:
    return NoDaemon("the daemon's answer makes no sense", "start it again: it may be of another version")


def _gone() -> NoDaemon:
    return NoDaemon("the daemon ended before it had answered", "see its log; start it again with `cms run`")


def _silent() -> NoDaemon:
    hint = "see its log; `systemctl --user restart cms` starts it anew, or end it and `cms run`"
    return NoDaemon("the daemon runs but does not answer", hint)


def connect(paths: Iterable[str]) -> Remote:
    """Return a connection to the first daemon that listens at one of these control sockets, or raise NoDaemon."""
    not_ours = None
    for path in paths:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(STATUS_SECONDS)
        try:
            sock.connect(path)
            sock.settimeout(None)
            other = _refused(sock, path)
        except PermissionError:
            other = _not_ours(path, _owner(path))
        except BlockingIOError:
            # The daemon accepts no connections and its queue is full: Linux reports that at once if a timeout is set.
            sock.close()
            raise _silent() from None
        except OSError:
            sock.close()
            continue
        if not other:
            return Remote(sock)
        sock.close()
        not_ours = not_ours or other
    if not_ours:
        raise not_ours
    raise not_listening() or NotRunning("no daemon is running", "start it with `cms run`")


def not_listening() -> NotListening | None:
    """Return what is the matter with this user's daemon if one runs nevertheless, None if none does."""
    try:
        pid = daemon_of(state_folder())
    except Unusable:
        return None
    if pid is None:
        return None
    message = f"a daemon runs (process {pid}), but not at its control socket: it is starting, or the socket was lost"
    hint = "try again in half a minute: by then it has made the socket anew, or its log says why it cannot"
    return NotListening(message, hint)


def _owner(path: str) -> str:
    """Return the owner of a socket that this user may not open."""
    try:
        return user_name(Path(path).stat().st_uid)
    except OSError:
        return _UNKNOWN


def _not_ours(path: str, whose: str) -> NotOurs:
    command = Command(("sudo", "-u", "USER" if whose == _UNKNOWN else whose, "cms"))
    hint = f"give the command as that user, `{command} ...`, or as root"
    return NotOurs(f"the daemon at {path} belongs to {whose}", hint)


def _refused(sock: socket.socket, path: str) -> NotOurs | None:
    """Return why cms may not talk to the daemon, None if it may: its owner is this user or root, or this user is root.

    Root talks to another user's daemon only where no third user could have put up the socket.
    """
    _, uid, _ = credentials(sock)
    if os.geteuid() not in (uid, ROOT) and uid != ROOT:
        return _not_ours(path, user_name(uid))
    found = impostor.suspect(path, uid)
    return NotOurs(found.message, found.hint) if found else None
