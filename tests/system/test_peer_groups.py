"""The groups of who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import require_root
from support.waiting import PATIENCE

from cms.system import peer_groups
from cms.system.peer_groups import groups

_CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"


def test_the_supplementary_groups() -> None:
    """Whichever end asks."""
    one, other = socket.socketpair()
    with one, other:
        assert [set(os.getgroups())] * 2 == [set(groups(each)) for each in (one, other)]


# 256 fit into what Python can ask for.
@pytest.mark.parametrize("count", [0, 1, 256, 257, 300, 5000])
def test_however_many_groups_a_peer_is_in(tmp_path: Path, count: int) -> None:
    """All of them."""
    require_root()
    expected = set(range(70_000, 70_000 + count))
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(PATIENCE)
        # Another process connects, for the kernel keeps what it was at that moment; as root, in whose folder this is.
        argv = [sys.executable, "-c", f"import os; os.setgroups({sorted(expected)}); {_CONNECT}", str(path)]
        with subprocess.Popen(argv) as peer, listening.accept()[0] as accepted:
            found = groups(accepted)
            accepted.close()
            peer.wait(PATIENCE)

    assert expected == set(found)


def test_unknown_groups_are_none() -> None:
    """Of what is no Unix socket the kernel knows none."""
    with socket.socket(socket.AF_INET) as sock:
        assert () == groups(sock)
        assert b"" == peer_groups._many(sock.fileno())
