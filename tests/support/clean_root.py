"""A Debian with nothing installed but what every Debian has: `tests/debian-root clean`, and a shell in it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.programs import require_root

_SCRIPT = Path(__file__).parents[1] / "debian-root"

# How long one script may take. It may download, build and install packages, and other work may leave it little of a machine.
_MINUTES = 120

# Ends the output of a script.
_END = "-- that was all:"


class CleanRoot:
    """The shell of root there. `share` is a folder of this machine, which it has at /srv."""

    def __init__(self, shell: subprocess.Popen[str], share: Path) -> None:
        self._shell = shell
        self.share = share

    def run(self, script: str, status: int = 0) -> str:
        """Run a shell script, which ends at the first error; check its status and return what it prints."""
        words = shlex.join(["timeout", f"{_MINUTES}m", "sh", "-ec", script])
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{words} </dev/null 2>&1; status=$?; echo; echo '{_END}' $status\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            if line.startswith(_END):
                assert status == int(line.removeprefix(_END)), f"{script}\n{printed}"
                return printed.removesuffix("\n")
            printed += line
        raise AssertionError(f"the shell has ended: {script}\n{printed}")


@contextmanager
def clean_root(suite: str) -> Iterator[CleanRoot]:
    """Enter a root; at the end all that runs in it is killed, and what was changed is gone."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="cms-share-", dir="/var/tmp") as share:
        Path(share).chmod(0o755)
        shell = subprocess.Popen(
            [_SCRIPT, "clean", suite, "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SHARE": share},
            start_new_session=True,
        )
        try:
            yield CleanRoot(shell, Path(share))
        finally:
            # The script and what holds the namespaces: with them all ends that runs there.
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()
