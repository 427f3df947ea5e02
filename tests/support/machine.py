"""A view of this machine with separate exim folders and logins: what happens in it does not change the machine.

Each command gets a private mount namespace in which /etc/exim4, /var/{lib,log,spool}/exim4 and /etc/passwd are folders
and a file of the test's. exim is the installed one, setuid and at its usual paths, so that a configuration is
tried in the very place where a user puts it.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.programs import require_program, require_root
from support.reachable import bare_environment, become
from support.waiting import PATIENCE

EXIM_USER = "Debian-exim"

_MOUNTS = """
mount --bind "$0/etc" /etc/exim4
mount --bind "$0/spool" /var/spool/exim4
mount --bind "$0/log" /var/log/exim4
mount --bind "$0/lib" /var/lib/exim4
mount --bind "$0/passwd" /etc/passwd
exec "$@"
"""


class Machine:
    """The view; `logins` are names and uids. `folder` must be enterable by all."""

    def __init__(self, folder: Path, logins: Mapping[str, int]) -> None:
        require_root()
        self.exim = require_program("exim4", "exim4-daemon-heavy")
        self._unshare = require_program("unshare", "util-linux")
        self.folder = folder
        self.logins = {"root": 0, **logins}
        owner = pwd.getpwnam(EXIM_USER)
        for name in ("etc", "spool", "log", "lib"):
            (folder / name).mkdir(mode=0o755)
        for name in ("spool", "log"):
            os.chown(folder / name, owner.pw_uid, owner.pw_gid)
        lines = (f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in logins.items())
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + "".join(lines))
        (folder / "passwd").chmod(0o644)

    def configure(self, text: str) -> None:
        """Install this text as /etc/exim4/exim4.conf; raise where exim does not take it."""
        path = self.folder / "etc" / "exim4.conf"
        path.write_text(text)
        path.chmod(0o644)
        checked = self.run(self.exim, "-bV")
        assert checked.returncode == 0, checked.stderr

    def argv(self, *command: str, login: str = "root") -> list[str]:
        """Return the command that runs another one in this view, as one of its logins."""
        inside = list(command) if login == "root" else become(self.logins[login], command)
        script = "set -e\n" + _MOUNTS
        return [self._unshare, "--mount", "--propagation", "private", "sh", "-c", script, str(self.folder), *inside]

    def run(self, *command: str, login: str = "root", stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            self.argv(*command, login=login),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env=bare_environment(),
        )

    def send(self, login: str, message: str, *to: str, sender: str = "") -> subprocess.CompletedProcess[str]:
        """Hand a message to /usr/sbin/sendmail, as mail programs do; it is delivered before this returns."""
        named = ["-f", sender] if sender else []
        # -odf: deliver in the foreground, so that a test sees the end of it.
        return self.run("/usr/sbin/sendmail", "-i", "-odf", *named, "--", *to, login=login, stdin=message)

    def run_queue(self) -> None:
        """Try everything that waits and whose time has come, as the queue runner does."""
        self.run(self.exim, "-q")

    @property
    def queue(self) -> list[str]:
        """The ids of the messages that wait."""
        return re.findall(r"^ *\S+ +\S+ +(\w+-\w+-\w+) <", self.run(self.exim, "-bp").stdout, re.MULTILINE)

    def log(self, name: str = "main") -> str:
        """Return exim's log: main, reject or panic."""
        path = self.folder / "log" / f"{name}log"
        return path.read_text(errors="replace") if path.exists() else ""
