"""Child processes of the daemon: the environment they get, how their output is logged, and how they are ended.

The children are the grant worker, started by `cms.daemon.worker`, and the hooks, started by `cms.daemon.hooks`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress

import trio

from cms.system.logs import get_logger

log = get_logger()

# The environment variables that the worker gets, and why. It gets no others: SSLKEYLOGFILE would write TLS keys to a
# file, PYTHON* would change what runs, and LISTEN_*, NOTIFY_SOCKET and WATCHDOG_* are meant for the daemon only.
ENVIRONMENT = {
    "HOME": "the keyring's configuration, and commands that are key sources",
    "USER": "commands that are key sources",
    "LOGNAME": "commands that are key sources",
    "PATH": "commands that are key sources",
    "GNUPGHOME": "commands that are key sources: gpg; and the GPG files that `cms import` reads",
    "PASSWORD_STORE_DIR": "commands that are key sources: pass",
    "LANG": "messages of those commands in the log",
    "LC_*": "messages of those commands in the log",
    "TZ": "times in the log",
    "TMPDIR": "commands that are key sources",
    "XDG_*": "the keyring's configuration and runtime folder",
    "DBUS_SESSION_BUS_ADDRESS": "the desktop keyring",
    "DISPLAY": "the window of Microsoft's broker",
    "WAYLAND_DISPLAY": "the window of Microsoft's broker",
    "XAUTHORITY": "the window of Microsoft's broker",
    "CREDENTIALS_DIRECTORY": "systemd credentials as key or secret source",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST": "a managed identity's metadata service, if not at its usual address",
    "IDENTITY_ENDPOINT": "a managed identity: App Service, Functions, Azure Arc",
    "IDENTITY_HEADER": "a managed identity: App Service, Functions; opens no more than this machine already may",
    "IDENTITY_SERVER_THUMBPRINT": "a managed identity: tells cms to refuse Service Fabric",
    "IMDS_ENDPOINT": "a managed identity: Azure Arc",
    "MSI_ENDPOINT": "a managed identity: Machine Learning",
    "MSI_SECRET": "a managed identity: Machine Learning; opens no more than this machine already may",
    "HTTP_PROXY": "the way to the provider",
    "HTTPS_PROXY": "the way to the provider",
    "ALL_PROXY": "the way to the provider",
    "NO_PROXY": "the way to the provider",
    "http_proxy": "the way to the provider",
    "https_proxy": "the way to the provider",
    "all_proxy": "the way to the provider",
    "no_proxy": "the way to the provider",
    "SSL_CERT_FILE": "a company's certificate authority",
    "SSL_CERT_DIR": "a company's certificate authority",
    "REQUESTS_CA_BUNDLE": "a company's certificate authority",
    "CURL_CA_BUNDLE": "a company's certificate authority",
}

# How long to wait for a killed process, and again for its last output. It ends at once unless the kernel blocks it (a
# dead NFS server), and that must not block the daemon.
REAP_SECONDS = 0.25

# The limits on what the log takes of a worker's output, in characters and lines. Useful output stays below them.
LOG_LINE = 2000
LOG_LINES = 500

# The worker begins its own lines with one of these words to set their log level.
_LEVELS = frozenset({"error", "warning"})


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that the worker may have."""
    stems = tuple(name.removesuffix("*") for name in ENVIRONMENT if name.endswith("*"))
    return {name: value for name, value in environ.items() if name in ENVIRONMENT or name.startswith(stems)}


class LogLines:
    """Splits a process's output into lines, limited in length and number."""

    def __init__(self, most: int = LOG_LINES, whose: str = "worker") -> None:
        self._partial = b""
        self._whose = whose
        self._left = most

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that this chunk completes."""
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        lines = [self._cut(line) for line in whole]
        self._partial = self._partial[:LOG_LINE]
        return self._count([line for line in lines if line])

    def rest(self) -> list[str]:
        """Return the last line if it has no end of line."""
        return self.feed(b"\n")

    def _cut(self, line: bytes) -> str:
        return line[:LOG_LINE].decode(errors="replace").rstrip()

    def _count(self, lines: list[str]) -> list[str]:
        kept = lines[: self._left]
        self._left -= len(kept)
        if kept and not self._left:
            kept.append(f"... the rest of what this {self._whose} prints is left out")
        return kept


async def log_output(stream: trio.abc.ReceiveStream | None) -> None:
    """Log the worker's output until it ends."""
    lines = LogLines()
    assert stream is not None, "both outputs are pipes"
    async for chunk in stream:
        _log_lines(lines.feed(bytes(chunk)))
    _log_lines(lines.rest())


def _log_lines(lines: list[str]) -> None:
    for line in lines:
        level = line.partition(":")[0]
        getattr(log, level if level in _LEVELS else "info")("grant worker", line=line)


async def end_process(process: trio.Process, grace: float) -> None:
    """Wait `grace` seconds for a process to end, then kill it with its whole session."""
    with trio.move_on_after(grace):
        await process.wait()
    if process.returncode is None:
        # It leads a session, so a key source's command that blocks is killed with it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    with trio.move_on_after(REAP_SECONDS):
        await process.wait()


async def close_pipes(process: trio.Process) -> None:
    for stream in (process.stdout, process.stderr):
        assert stream is not None, "both outputs are pipes"
        await stream.aclose()
