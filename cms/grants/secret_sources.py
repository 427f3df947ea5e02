"""Reads secrets from the sources in the configuration: a file, a systemd credential, a command's output.

Errors say why a secret cannot be read, and never quote it. `Unavailable` is raised by the worker's lower layers if a
question cannot be answered now.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cms.core.accounts import Source
from cms.core.lifecycle import Refused, Transient, Trouble
from cms.system.files import LOCAL_DISK, looked_up_again, open_regular, read_regular
from cms_oauth.moves import RETRIES, Move

# A command may wait for gpg-agent or the network. This leaves some of messages.QUESTION_SECONDS for the rest.
COMMAND_SECONDS = 10.0

# A key or a client secret is some hundred bytes at most; a certificate a few thousand.
MAX_SECRET = 64 * 1024


class Missing(Exception):
    """The source does not have the key. The text says why, and never quotes a secret."""


class Absent(Missing):
    """The source does not exist on this machine, or would not keep a secret safely."""


class Locked(Missing):
    """It is unknown whether the source has the key, because a person has to unlock it first."""


def read_private(path: str, closed_to: int = 0o077) -> bytes:
    """Return a secret file's bytes. Raises Missing if another user could read or change it, FileNotFoundError if absent.

    `closed_to` are the permission bits that it must not have.
    """
    try:
        return looked_up_again(lambda: _read_private(path, closed_to))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Missing(f"cannot be read: {error.strerror}") from None


def _read_private(path: str, closed_to: int) -> bytes:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (os.geteuid(), 0):
            raise Missing(f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
        if status.st_mode & closed_to:
            raise Missing(f"has mode {stat.S_IMODE(status.st_mode):04o}: it must be {0o666 & ~closed_to:04o} or less")
        return file.read(MAX_SECRET)


def read_credential(name: str, environ: Mapping[str, str]) -> bytes:
    """Return a systemd credential's bytes, or raise Missing."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise Absent("does not exist: CREDENTIALS_DIRECTORY is not set")
    try:
        return read_regular(Path(folder) / name, MAX_SECRET)
    except FileNotFoundError:
        if not Path(folder).is_dir():
            raise Absent(f"does not exist: CREDENTIALS_DIRECTORY names {folder}, which is no folder") from None
        raise Absent(f"does not exist: there is no credential named {name}") from None
    except OSError as error:
        raise Missing(f"cannot be read: {error.strerror}") from None


def run_command(argv: Sequence[str], seconds: float = COMMAND_SECONDS, limit: int = MAX_SECRET) -> bytes:
    """Return what a command prints, `limit` bytes at most, or raise Missing; raise Locked if it does not end in time."""
    try:
        # Its errors are not shown: a program that handles secrets may print them.
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise Missing(f"cannot be started: {error.strerror}") from None
    with process:
        try:
            output = _output(process, time.monotonic() + seconds, limit)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise Locked(f"did not end within {seconds:g} s: it may be waiting for a person") from None
        if len(output) > limit:
            _kill(process)
            raise Missing(f"prints more than {limit} bytes")
    if process.returncode:
        raise Missing(f"ended with status {process.returncode}")
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _output(process: subprocess.Popen[bytes], deadline: float, limit: int) -> bytes:
    """Return what a process has printed by its end, or a little more than `limit` bytes of it. Raises TimeoutExpired.

    It does not read to the end of the pipe, because a child of the process, such as gpg-agent, may keep that open for ever.
    """
    assert process.stdout is not None, "it is a pipe"
    pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
    output, more = b"", b"-"
    try:
        while more and len(output) <= limit:
            ready, _, _ = select.select([pipe, ended], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, 0.0)
            more = os.read(pipe, limit + 1) if pipe in ready else b""
            output += more
    finally:
        os.close(ended)
    if not more:
        process.wait(max(0.0, deadline - time.monotonic()))
    return output


def read_source(source: Source, environ: Mapping[str, str] = os.environ, *, private: bool = True) -> bytes:
    """Return the secret that a source of the configuration holds, for instance a client secret. Raises Missing.

    A file that is not `private` may be read by other users, but not written.
    """
    try:
        if source.kind == "file":
            return read_private(source.value[0], 0o077 if private else 0o022)
        if source.kind == "credential":
            return read_credential(source.value[0], environ)
        return run_command(source.value)
    except FileNotFoundError:
        raise Missing("does not exist") from None


class Unavailable(Exception):
    """The question cannot be answered now, or not by this host. `outcome` says why; nothing was changed."""

    def __init__(self, outcome: Transient | Refused) -> None:
        super().__init__(outcome.trouble.message)
        self.outcome = outcome


def unavailable(kind: str, message: str, hint: str) -> Unavailable:
    """Return the exception for a trouble of this kind that is tried again."""
    return Unavailable(Transient(Trouble(kind, message, hint)))


def storage(error: OSError, what: str) -> Unavailable:
    """Return the exception for an error of the disk or the state folder."""
    hint = _STORAGE_HINTS.get(error.errno or 0, _STORAGE_HINT)
    return unavailable("storage", f"{what}: {error.strerror}", Move(f"{hint}; ", RETRIES))


_STORAGE_HINT = "check that folder's owner, permissions, attributes (lsattr -d) and file system"
_FULL = "free space on that disk"
_STORAGE_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOLCK: f"that network file system offers no locks: {LOCAL_DISK}",
    errno.ESTALE: "that folder was replaced on its file server: mount it again",
}
