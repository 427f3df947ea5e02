"""Sends the daemon's state to systemd: the messages of sd_notify(3)."""

from __future__ import annotations

import socket
import time
from collections.abc import MutableMapping

import trio

from cms.system.logs import get_logger

# systemctl shows the status in one line, and a terminal cuts off a longer one.
MAX_STATUS = 400

log = get_logger()


class Systemd:
    """Sends messages, if systemd has asked for them.

    Its variables are removed from the environment, because they are not meant for child processes.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        self._pulse = _pulse(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""), pid)

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.split())[:MAX_STATUS]}")

    def reloading(self) -> None:
        """Announce a reload, which `ready` ends. systemd 253 and newer need the time, to tell it from an older reload."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    async def watchdog(self) -> None:
        """Send a sign of life twice as often as systemd's watchdog needs it. It stops if the event loop hangs."""
        while self._pulse:
            self._send("WATCHDOG=1")
            await beat(self._pulse)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), self._address)
        except OSError:
            # A service should work even if systemd gets no messages (sd_notify(3)).
            return


async def beat(seconds: float) -> None:
    """Sleep until trio's clock shows the next multiple of so many seconds.

    So tasks of one period wake this process together. If each slept by itself, they would drift apart.
    """
    now = trio.current_time()
    await trio.sleep_until(now - now % seconds + seconds)


def _address(name: str) -> str:
    """Return the address to send to, "" for none or for another kind (vsock: is for virtual machines)."""
    if name.startswith("@"):
        return f"\0{name[1:]}"
    return name if name.startswith("/") else ""


def _pulse(usec: str, watched: str, pid: int) -> float:
    """Return the seconds between two signs of life, 0 if systemd wants none from this process."""
    if watched not in ("", str(pid)) or not (usec.isascii() and usec.isdigit()):
        return 0.0
    return int(usec) / 2_000_000
