"""Loads a configuration in a separate process, so that a file that loops or hangs costs its time limit and nothing else.

The file is the user's program. Its process has the terminal, the environment and the current folder of this one; what the
file changes of them ends with it. `cms.config.__main__` is that process.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Self

from cms.config.answer import Answer
from cms.config.model import Config, ConfigError
from cms.core import json_lines
from cms.core.json_lines import Garbled
from cms.system.descendants import kill_with_descendants

# How long a file may run: long enough for one that asks a password manager, short enough that one that hangs does not
# block a reload for long.
LOAD_SECONDS = 10.0

# The process itself says when the time is over, and where the file is then. If it does not, it is killed this much later:
# time to start Python on a slow machine, and to send a long answer.
MARGIN_SECONDS = 10.0

# How long the process takes to end after its answer, or to write on when it has begun to say where the file is. Both take
# a millisecond on a quiet machine.
END_SECONDS = 0.5

_CHUNK = 256 * 1024

# A line of a program as faulthandler writes it, the innermost of a thread first.
_FRAME = re.compile(r'^  File "(.*)", line (\d+)', re.MULTILINE)

_ENDS_THERE = "A configuration runs in its own process, which ends with the file: it may not end it or replace it"
_LEAVE_IT = "A configuration may use and close what it has opened, and its standard input and output"


class Loader:
    """Loads configurations, each in a separate process.

    The process for the first is started at once: that takes as long as to load the daemon's libraries, which can happen
    meanwhile. It runs no file before `load`. As a context manager, a loader ends a process that was not needed.
    """

    def __init__(self) -> None:
        self._ready: _Child | None = None
        # `load` tries again, and says what is wrong.
        with suppress(OSError):
            self._ready = _Child()

    def load(self, path: str) -> Config:
        """Run a file and return what it says, within `LOAD_SECONDS` and a little more. Raises ConfigError."""
        try:
            child, self._ready = self._ready or _Child(), None
        except OSError as error:
            raise ConfigError(path, None, f"no process can be started for it: {error.strerror}") from None
        said = child.load(path)
        if isinstance(said, ConfigError):
            raise said
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ready:
            self._ready.stop()


def load(path: str) -> Config:
    """Run a file in a process that is started now, and return what it says. Raises ConfigError."""
    with Loader() as loader:
        return loader.load(path)


class _Child:
    """A process that loads one configuration."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        # Through this the process says where the file is when the time is over.
        self._place, writing = os.pipe()
        given = (theirs.fileno(), writing)
        try:
            self._process = subprocess.Popen([*_command(), *map(str, given)], pass_fds=given)
            self._end = os.pidfd_open(self._process.pid)
        except OSError:
            # A process that has been started ends with its socket.
            self._sock.close()
            os.close(self._place)
            raise
        finally:
            theirs.close()
            os.close(writing)

    def load(self, path: str) -> Config | ConfigError:
        """Run a file, and return what comes of it. The process has ended then."""
        answer = Answer()
        try:
            # If it has ended already, that is seen below.
            with suppress(BrokenPipeError):
                self._sock.sendall(json_lines.pack({"file": path, "seconds": LOAD_SECONDS}))
            in_time = self._hear(answer)
            if answer.said is None:
                return self._fault(path, in_time=in_time)
            _has_news(self._end)
        except Garbled as garbled:
            hint = f"{_LEAVE_IT}. If cms was updated while it runs, restart it"
            return ConfigError(path, None, f"its process sent {garbled}", hint)
        finally:
            self.stop()
        return answer.said

    def _hear(self, answer: Answer) -> bool:
        """Take what the process sends until no more can come; return False if its time is over before. Raises Garbled."""
        deadline = time.monotonic() + LOAD_SECONDS + MARGIN_SECONDS
        waiting = select.poll()
        for each in (self._sock.fileno(), self._place, self._end):
            waiting.register(each, select.POLLIN)
        while ready := dict(waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)):
            if self._sock.fileno() in ready:
                data = b""
                # It has ended without having read what it is to do.
                with suppress(ConnectionResetError):
                    data = self._sock.recv(_CHUNK)
                if not data:
                    return True
                answer.feed(data)
            elif ready.get(self._place, 0) & select.POLLIN:
                return False
            elif self._end in ready:
                # A copy of the process may have the other end of the socket.
                return True
            else:
                # The file has closed the pipe.
                waiting.unregister(self._place)
        return False

    def _fault(self, path: str, *, in_time: bool) -> ConfigError:
        """Return why there is no answer."""
        if not in_time:
            message = f"it did not end within {LOAD_SECONDS:g} s"
            hint = "A configuration must come to its end: look for a loop or a wait"
            return ConfigError(path, self._line(path), message, hint)
        status = self._process.wait() if _has_news(self._end) else os.EX_IOERR
        if status == os.EX_IOERR:
            message = "it has replaced its process, or closed the descriptor through which cms gets its result"
            return ConfigError(path, None, message, _LEAVE_IT)
        if status >= 0:
            return ConfigError(path, None, f"its process ended with status {status} before the file did", _ENDS_THERE)
        killed = f"its process was killed by {_name(-status)}"
        hint = "The machine may be short of memory" if status == -signal.SIGKILL else "Look for a call that crashes"
        return ConfigError(path, None, killed, hint)

    def _line(self, path: str) -> int | None:
        """Return the line of the file that is being executed, None if none is. Only asked when the time is over."""
        told = b""
        while _has_news(self._place) and (data := os.read(self._place, _CHUNK)):
            told += data
        known = path.encode("ascii", "backslashreplace").decode()
        frames = _FRAME.findall(told.decode("ascii", "replace"))
        return next((int(line) for file, line in frames if file == known), None)

    def stop(self) -> None:
        """Kill the process if it runs, with all that the file has started."""
        if self._process.poll() is None:
            kill_with_descendants(self._process.pid)
            # The kernel may be in the middle of something for it, such as a read from a dead NFS server.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        for each in (self._sock.detach(), self._place, self._end):
            os.close(each)


def _has_news(descriptor: int) -> bool:
    """Wait for what comes at once if it comes at all; return False if it does not."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(END_SECONDS * 1000))


def _command() -> tuple[str, ...]:
    """Return how to run Python for a file: it finds the same modules as this process, and none in the current folder."""
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site, "-P": True}
    # -u: what the file has printed is not lost if it is killed.
    return (sys.executable, "-u", *(flag for flag, wanted in flags.items() if wanted), "-m", "cms.config")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
