"""The grant worker of a daemon, which babbles instead while a file named `babble` lies beside the clock's.

    python -I babbling_worker.py OFFSETS

What it says then is in that file, with NUMBER in place of the question's number.
"""

from __future__ import annotations

import re
import runpy
import socket
import sys
from pathlib import Path

_NUMBER = re.compile(rb'"number": ([0-9]+)')


def babble(noise: bytes) -> int:
    """Hear the first question, say this, and wait to be ended."""
    with socket.socket(fileno=0) as sock:
        heard = sock.recv(65_536)
        while not (number := _NUMBER.search(heard)):
            heard += sock.recv(65_536)
        try:
            sock.sendall(noise.replace(b"NUMBER", number[1]))
            while sock.recv(65_536):
                pass
        except OSError:
            pass
    return 0


def main() -> int:
    """Babble, or be the real worker."""
    noise = Path(sys.argv[1]).with_name("babble")
    if noise.exists():
        return babble(noise.read_bytes())
    runpy.run_path(str(Path(__file__).with_name("moving_clock.py")), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
