"""What the daemon does for any program that it starts: which environment it gets, what of its output is logged, its end.

The grant worker and the hooks are such programs. `cms.daemon.worker` starts the one, `cms.daemon.hooks` the others.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress

import trio

from cms.system.logs import get_logger

log = get_logger()

# What the worker gets of the broker's environment, and why. Nothing else: SSLKEYLOGFILE would write TLS keys to a file,
# PYTHON* would change what runs, LISTEN_*, NOTIFY_SOCKET and WATCHDOG_* speak to the broker alone.
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
    "AZURE_POD_IDENTITY_AUTHORITY_HOST": "a managed identity's metadata service, where it is not at its usual address",
    "IDENTITY_ENDPOINT": "a managed identity: App Service, Functions, Azure Arc",
    "IDENTITY_HEADER": "a managed identity: App Service, Functions; opens no more than this machine already may",
    "IDENTITY_SERVER_THUMBPRINT": "a managed identity: Service Fabric, which is refused by this",
    "IMDS_ENDPOINT": "a managed identity: Azure Arc",
    "MSI_ENDPOINT": "a managed identity: Machine Learning",
    "MSI_SECRET": "a managed identity: Machine Learning; opens no more than this machine already may",
    "HTTP_PROXY": "the way to Entra",
    "HTTPS_PROXY": "the way to Entra",
    "ALL_PROXY": "the way to Entra",
    "NO_PROXY": "the way to Entra",
    "http_proxy": "the way to Entra",
    "https_proxy": "the way to Entra",
    "all_proxy": "the way to Entra",
    "no_proxy": "the way to Entra",
    "SSL_CERT_FILE": "a company's certificate authority",
    "SSL_CERT_DIR": "a company's certificate authority",
    "REQUESTS_CA_BUNDLE": "a company's certificate authority",
    "CURL_CA_BUNDLE": "a company's certificate authority",
}

# A killed process is gone at once, unless the kernel holds it (a dead NFS server): that must not hold us. Twice: for
# the process, and for what it printed last.
REAP_SECONDS = 0.25

# The log takes what the worker prints, but not without end: no line of use is longer, no worker prints more.
LOG_LINE = 2000
LOG_LINES = 500

# How the worker's own lines begin that are more than a note (`cms.grants`).
_LEVELS = frozenset({"error", "warning"})


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that the worker may have."""
    stems = tuple(name.removesuffix("*") for name in ENVIRONMENT if name.endswith("*"))
    return {name: value for name, value in environ.items() if name in ENVIRONMENT or name.startswith(stems)}


class LogLines:
    """Cuts what a process prints into lines of bounded length and number."""

    def __init__(self, most: int = LOG_LINES, whose: str = "worker") -> None:
        self._partial = b""
        self._whose = whose
        self._left = most

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that this chunk has completed."""
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        lines = [self._cut(line) for line in whole]
        self._partial = self._partial[:LOG_LINE]
        return self._count([line for line in lines if line])

    def rest(self) -> list[str]:
        """Return what was printed without an end of line."""
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
    """Put what the worker prints into the log, until it has ended."""
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
    """Wait so many seconds for a process to end, then kill it with its whole session."""
    with trio.move_on_after(grace):
        await process.wait()
    if process.returncode is None:
        # It leads a session: a key source's command that blocks is in that, and is killed too.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    with trio.move_on_after(REAP_SECONDS):
        await process.wait()


async def close_pipes(process: trio.Process) -> None:
    for stream in (process.stdout, process.stderr):
        assert stream is not None, "both outputs are pipes"
        await stream.aclose()
