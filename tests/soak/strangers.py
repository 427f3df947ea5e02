"""A user who may not ask, as a program of its own: it connects and connects again, silent or with a request.

It ends with a reply that a stranger must not get. It runs with another user's rights, so it uses Python's own library only.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

# What a stranger is told, if it is not dropped for want of a place.
REFUSAL = b"!denied "

# Connections that say nothing, at one time: more than the places that strangers have.
SILENT = 64


def main(path: str) -> str:
    """Ask for ever; return what was answered that is no refusal."""
    silent = list[socket.socket]()
    while True:
        silent.append(_connect(path))
        if len(silent) > SILENT:
            silent.pop(0).close()
        reply = _ask(path)
        if reply and not reply.startswith(REFUSAL):
            return f"a stranger was told {reply[:80]!r}"
        # The soak waits for the first.
        print(flush=True)


def _connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


def _ask(path: str) -> bytes:
    reply = b""
    with _connect(path) as client, suppress(ConnectionError):
        client.sendall(b"SMTP,why user0@example.test\n")
        while chunk := client.recv(4096):
            reply += chunk
    return reply


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
