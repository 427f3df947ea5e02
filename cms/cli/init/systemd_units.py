"""Installs the systemd unit, with the path of this installation: as a user's service or as the system's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cms.cli.init import mail_programs
from cms.system import users
from cms.system.files import make_folders
from cms_oauth import expand, paths
from cms_oauth.expand import Unusable, literal
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT

UNIT = "cms.service"

# The user of the system service (systemd/system/cms.service), and the command that creates it.
SERVICE_USER = "cms"
MAKE_USER = ("useradd", "--system", "--home-dir", "/var/lib/cms", "--shell", "/usr/sbin/nologin", SERVICE_USER)

# The command in systemd/system/cms.service as it is shipped.
USUAL_COMMAND = "/usr/local/bin/cms"

# Where an administrator's units are (systemd.unit(5)).
_SYSTEM_UNITS = "/etc/systemd/system"

# Where docs/operations.md installs the system's cms.
_SYSTEM_PREFIX = "/opt/cms"

# What ProtectHome= and PrivateTmp= hide from a service (systemd.exec(5)).
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - nothing is written there

# How long systemctl and useradd may take.
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Installed:
    """The result of an installation. `running` is True if cms runs now; `said` is for people."""

    running: bool
    said: str


@dataclass(frozen=True, slots=True)
class Systemd:
    """A systemd instance: this user's, or the system's."""

    system: bool = False

    @property
    def path(self) -> Path:
        """Where an administrator or user puts the unit (systemd.unit(5)). Raises Unusable for a user without a home."""
        if self.system:
            return Path(_SYSTEM_UNITS) / UNIT
        base = os.environ.get("XDG_CONFIG_HOME", "")
        folder = Path(base) if base.startswith("/") else Path(expand.home()) / ".config"
        return folder / "systemd" / "user" / UNIT

    @property
    def option(self) -> str:
        return "" if self.system else " --user"

    def ready(self) -> bool:
        """True if this systemd answers, and this user may install units for it."""
        try:
            mine = self.path.is_absolute() and (not self.system or os.geteuid() == ROOT)
        except Unusable:
            mine = False
        return mine and shutil.which("systemctl") is not None and self.tell("show-environment") == ""

    def tell(self, *words: str) -> str:
        """Run systemctl with these words; return what went wrong, "" for nothing."""
        return _ran("systemctl", *([] if self.system else ["--user"]), *words)

    def text(self, config: str) -> str:
        """Return the text of the unit, with this installation's command."""
        text = source(UNIT, system=self.system).read_text()
        usual = config == paths.system_config_file() if self.system else paths.is_usual_config(config)
        option = "" if usual else f" -c {_argument(literal(config))}"
        return re.sub(r"^ExecStart=.*$", lambda _: f"ExecStart={command()} run{option}", text, flags=re.MULTILINE)

    def install(self, config: str) -> Installed:
        """Write the unit, enable it and start it. An existing file that differs is not changed."""
        path, text = self.path, self.text(config)
        if path.exists() and path.read_text() != text:
            start = f"`systemctl{self.option} start {UNIT}`"
            return Installed(False, f"{path} already exists, is different, and was not changed: {start}")
        problem = _made_user() if self.system else ""
        if problem:
            return Installed(False, f"Nothing was installed: {problem}.")
        make_folders(path.parent)
        path.write_text(text)
        # systemd runs what is in it, and the umask may let a group write.
        path.chmod(0o644)
        problem = self.tell("daemon-reload") or self.tell("enable", "--now", UNIT)
        if problem:
            journal = f"journalctl{self.option} -u {UNIT}"
            return Installed(False, f"Wrote {path}, but it could not be started: {problem}\nSee `{journal}`.")
        whenever = "with this machine" if self.system else "with your session"
        return Installed(True, f"Wrote {path}; cms is running now, and starts {whenever}.")


def source(name: str, *, system: bool) -> Path:
    """Return the path of a unit file that is part of cms."""
    return mail_programs.data(f"systemd/{'system' if system else 'user'}/{name}")


def command() -> str:
    """Return this `cms` as a unit names it: its path in its virtual environment, since a link to it could be changed."""
    beside = Path(sys.executable).parent / "cms"
    path = str(beside) if beside.exists() else shutil.which("cms")
    return _program(path) if path else f"{_program(sys.executable)} -P -m cms.main"


def _program(path: str) -> str:
    """Return the path of a program as the first word of a unit's command line, where systemd takes no quotes in it."""
    return f"/usr/bin/env {_argument(path)}" if re.search(r"['\"\\]", path) else _word(path)


def _argument(text: str) -> str:
    """Return a text as a later word of a unit's command line, where $ begins a variable."""
    return _word(text.replace("$", "$$"))


def _word(text: str) -> str:
    """Return a text as one word of a unit (systemd.service(5), Command Lines)."""
    known = re.sub(r'([\\"])', r"\\\1", text).replace("%", "%%")
    return f'"{known}"' if re.search(r"[\s\\'\";]", text) else known


def hidden(path: str = "") -> str:
    """Return the folder in which a program (by default this `cms`) is hidden from the system service, "" for none."""
    where = Path(path or sys.prefix).resolve()
    return next((each for each in _HIDDEN if where.is_relative_to(each)), "")


def in_place() -> list[str]:
    """Return the commands that put cms where the service and every user's PATH find it, none if it is there."""
    usual = Path(USUAL_COMMAND)
    if usual.exists() and not hidden(USUAL_COMMAND):
        return []
    folder = f"{_SYSTEM_PREFIX}/bin" if hidden() else str(Path(sys.executable).parent)
    install = [f"python3 -m venv {_SYSTEM_PREFIX}", f"{folder}/pip install ."] if hidden() else []
    return [*install, str(Command(("ln", "-sf", f"{folder}/cms", f"{folder}/cms-oauth", f"{usual.parent}/")))]


def by_hand() -> list[str]:
    """Return the commands with which root sets up the system service."""
    files = [str(source(each, system=True)) for each in (UNIT, "cms.socket")]
    return [
        str(Command(MAKE_USER)),
        str(Command(("cp", *files, f"{_SYSTEM_UNITS}/"))),
        "systemctl daemon-reload",
        f"systemctl enable --now {UNIT}",
    ]


def _made_user() -> str:
    """Create the service's user if it does not exist; return what went wrong, "" for nothing."""
    return _ran(*MAKE_USER) if users.user_id(SERVICE_USER) is None else ""


def _ran(program: str, *words: str) -> str:
    """Run a program; return what went wrong, "" for nothing."""
    try:
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} cannot be run: {type(error).__name__}"
    return "" if done.returncode == 0 else done.stderr.strip() or f"{program} ended with status {done.returncode}"
