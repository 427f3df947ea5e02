"""A process is killed with all that it has started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from support.waiting import until

from cms.system.descendants import descendants, kill_with_descendants

# A tree: a child that waits, one in a session of its own, and a grandchild. Each says that it runs.
_TREE = """
sleep 600 & echo one
setsid sh -c 'echo two; exec sleep 600' &
sh -c 'sleep 600 & echo three; wait' &
wait
"""


@contextmanager
def tree() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(["sh", "-c", _TREE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert {"one", "two", "three"} == {process.stdout.readline().strip() for _ in range(3)}
            yield process
        finally:
            kill_with_descendants(process.pid)


def test_descendants_are_found() -> None:
    """At all levels, and not the process itself."""
    with tree() as process:
        # The first, the second, the third and the child of that.
        until(lambda: len(descendants(process.pid)) == 4, "all of the tree")

        assert process.pid not in descendants(process.pid)


def test_all_are_killed() -> None:
    """Also what is in another session; what has ended counts as gone."""
    with tree() as process:
        kill_with_descendants(process.pid)
        left = descendants(process.pid)

        assert ([], -9) == (left, process.wait())


def test_a_process_that_has_ended() -> None:
    """Nothing happens."""
    process = subprocess.Popen(["true"])
    process.wait()

    kill_with_descendants(process.pid)
    assert [] == descendants(process.pid)
