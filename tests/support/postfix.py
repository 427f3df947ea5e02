"""A view of this machine with Postfix installed in it, beside the exim4 that it excludes as a package.

The package is unpacked into a folder, and everything else of the machine is linked into it. Each command runs in a
private mount namespace in which that folder is the root: Postfix is at its usual paths, with its own users, its
configuration in /etc/postfix and its queue in /var/spool/postfix, and the machine itself stays as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.contrib import ROOT
from support.fragments import contrib, shown
from support.programs import give_up, require_program, require_root
from support.reachable import bare_environment, become
from support.waiting import PATIENCE

# Where tests/install-debian-packages puts the packages that are not installed.
PACKAGES = Path("/var/cache/cms-tests")

# Numbers that no package of Debian's uses and no login of a small machine has.
POSTFIX_UID, POSTDROP_GID = 64020, 64021

# There is no syslog in the view.
LOG_FILE = "/var/log/mail.log"

# What Debian's postfix copies into the chroot at each start.
_CHROOTED = ("hosts", "services", "nsswitch.conf", "resolv.conf")


class Postfix:
    """The view; `logins` are names and uids. `folder` must be enterable by all."""

    def __init__(self, folder: Path, logins: Mapping[str, int]) -> None:
        require_root()
        self._unshare = require_program("unshare", "util-linux")
        self._root = folder / "root"
        self.logins = {"root": 0, "postfix": POSTFIX_UID, **logins}
        self.etc = self._root / "etc" / "postfix"
        self.spool = self._root / "var/spool/postfix"
        self.plugins = self._root / "plugins"
        subprocess.run(["dpkg", "-x", _package(), self._root], check=True, timeout=PATIENCE)
        self._finish_installation()
        self._add_users()
        self._hide_plugins()
        (self._root / "host").mkdir()
        _link(Path("/"), self._root)

    def _finish_installation(self) -> None:
        """Do what the package's scripts do after unpacking."""
        for name in ("var/lib/postfix", "var/log", "var/spool/postfix/etc"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        os.chown(self._root / "var/lib/postfix", POSTFIX_UID, POSTFIX_UID)
        shutil.copy(self._root / "usr/share/postfix/dynamicmaps.cf", self.etc)
        for name in ("postdrop", "postqueue"):
            program = self._root / "usr/sbin" / name
            os.chown(program, 0, POSTDROP_GID)
            program.chmod(0o2755)
        for name in _CHROOTED:
            if (Path("/etc") / name).exists():
                shutil.copy(Path("/etc") / name, self.spool / "etc")

    def _add_users(self) -> None:
        passwd = (f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in self.logins.items() if uid)
        (self._root / "etc/passwd").write_text(Path("/etc/passwd").read_text() + "".join(passwd))
        groups = f"postfix:x:{POSTFIX_UID}:\npostdrop:x:{POSTDROP_GID}:\n"
        (self._root / "etc/group").write_text(Path("/etc/group").read_text() + groups)

    def _hide_plugins(self) -> None:
        """Give libsasl2 an empty folder of plug-ins: the machine may have another one for XOAUTH2."""
        self.plugins.mkdir()
        for folder in Path("/usr/lib").glob("*/sasl2"):
            mine = self._root / folder.relative_to("/")
            mine.parent.mkdir(parents=True, exist_ok=True)
            mine.symlink_to(f"/{self.plugins.name}")

    def configure(self, main: str, master: str) -> None:
        """Install these texts as /etc/postfix/main.cf and in /etc/postfix/master.cf; a running Postfix takes them."""
        (self.etc / "main.cf").write_text(main)
        (self.etc / "master.cf").write_text(master)

    @property
    def master_cf(self) -> str:
        """The package's own master.cf."""
        return (self._root / "usr/share/postfix/master.cf.dist").read_text()

    def postfix(self, verb: str) -> None:
        """Run the postfix command: start, reload, flush, stop."""
        done = self.run("/usr/sbin/postfix", verb)
        assert done.returncode == 0, done.stderr + self.log()

    def send(self, login: str, message: str, *to: str, sender: str = "") -> subprocess.CompletedProcess[str]:
        """Hand a message to /usr/sbin/sendmail, as mail programs do. Postfix delivers it in its own time."""
        named = ["-f", sender] if sender else []
        return self.run("/usr/sbin/sendmail", "-i", *named, "--", *to, login=login, stdin=message)

    @property
    def queue(self) -> list[dict[str, Any]]:
        """The messages that wait, as postqueue(1) has them."""
        return [json.loads(line) for line in self.run("/usr/sbin/postqueue", "-j").stdout.splitlines()]

    def log(self) -> str:
        """Return all that Postfix has logged."""
        path = self._root / LOG_FILE.lstrip("/")
        return path.read_text(errors="replace") if path.exists() else ""

    def argv(self, *command: str, login: str = "root") -> list[str]:
        """Return the command that runs another one in this view, as one of its logins."""
        inside = list(command) if login == "root" else become(self.logins[login], command)
        script = 'set -e; mount --rbind / "$0/host"; exec chroot "$0" "$@"'
        return [self._unshare, "--mount", "--propagation", "private", "sh", "-c", script, str(self._root), *inside]

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


def add_plugin(machine: Postfix) -> None:
    """Build and install the SASL plug-in for XOAUTH2 as docs/clients/postfix.md says, from a copy of its folder."""
    copy = machine.run("mktemp", "-d").stdout.strip()
    commands = shown("postfix", "plugin").replace("sudo ", "")
    built = machine.run(
        "sh", "-ec", f"mkdir {copy}/contrib; cp -R {ROOT}/contrib/sasl {copy}/contrib; cd {copy}\n{commands}"
    )
    assert built.returncode == 0, built.stderr


def main_cf(**values: str) -> str:
    """Return contrib/postfix-main.cf with these parameters' values; new parameters come after it."""
    text = contrib("postfix-main.cf")
    for name, value in values.items():
        # A value may go on in lines that begin with a space.
        line = f"{name} = {value}".replace("\\", r"\\")
        text, found = re.subn(rf"^{name} =.*(?:\n[ \t].*)*$", line, text, flags=re.MULTILINE)
        text += "" if found else f"{name} = {value}\n"
    return text


def _package() -> Path:
    found = sorted(PACKAGES.glob("postfix_*.deb"))
    if not found:
        give_up(f"no package of Postfix in {PACKAGES}: run tests/install-debian-packages")
    return found[-1]


def _link(source: Path, target: Path) -> None:
    """Link into a folder what it lacks of another one, which the view has below /host."""
    for each in source.iterdir():
        mine = target / each.name
        if mine.is_dir() and not mine.is_symlink():
            _link(each, mine)
        elif not mine.exists() and not mine.is_symlink():
            mine.symlink_to(_seen_in_view(each))


def _seen_in_view(path: Path) -> str:
    # A relative link of the machine's, such as /bin, leads to what the view has there.
    relative = path.is_symlink() and not path.readlink().is_absolute()
    return str(path.readlink()) if relative else f"/host{path}"
