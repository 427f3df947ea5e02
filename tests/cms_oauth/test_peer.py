"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket

from cms_oauth import peer


def test_both_ends_know_each_other() -> None:
    """Process, user and primary group, whichever end asks."""
    one, other = socket.socketpair()
    with one, other:
        told = [peer.credentials(each) for each in (one, other)]

    assert [(os.getpid(), os.getuid(), os.getgid())] * 2 == told
