"""journald's own socket, which takes entries with fields (systemd's JOURNAL_NATIVE_PROTOCOL). Errors are counted, not raised."""

from __future__ import annotations

import socket
from collections.abc import Sequence

JOURNAL = "/run/systemd/journal/socket"

# syslog's LOG_INFO.
_INFO = 6


class Journal:
    """Writes lines as entries of one identifier: `journalctl -t IDENTIFIER` shows them. `lost` and `trouble` are as for a file."""

    place = "the journal"

    def __init__(self, identifier: str, path: str = JOURNAL) -> None:
        self.lost = 0
        self.trouble = ""
        self._path = path
        self._head = f"PRIORITY={_INFO}\nSYSLOG_IDENTIFIER={identifier}\nMESSAGE="
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def write(self, lines: Sequence[str]) -> None:
        """Send each line as one entry. It is lost if journald does not read: nothing waits for it."""
        for line in lines:
            try:
                self._sock.sendto(f"{self._head}{line}\n".encode(errors="replace"), socket.MSG_DONTWAIT, self._path)
                self.trouble = ""
            except OSError as error:
                self.lost += 1
                self.trouble = error.strerror or str(error)

    def reopen(self) -> None:
        """Nothing is open that could be another's now: each entry names the socket."""

    mend = reopen

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
