"""Installs the systemd units, with the path of this installation: as a user's service or as the system's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cms.cli.init import mail_programs
from cms.system import users
from cms.system.files import PRIVATE_FOLDER, make_folders
from cms_oauth import expand, paths
from cms_oauth.expand import Unusable, literal
from cms_oauth.moves import Command
from cms_oauth.peer import ROOT

UNIT = "cms.service"
# systemd holds the socket, so the first client starts cms, and clients can connect while it restarts.
SOCKET = "cms.socket"

# Drop-ins of the system's units, which need something that not every machine has.
EXIM_DROP_IN = "cms.socket.d/exim.conf"
CREDENTIAL_DROP_IN = "cms.service.d/credential.conf"

# The vault's key as a credential: the one that CREDENTIAL_DROP_IN names (systemd-creds(1)).
CREDENTIAL = "cms.key"
CREDENTIAL_FILE = "/etc/credstore.encrypted/cms.key"

# The user of the system service (systemd/system/cms.service), and the command that creates it.
SERVICE_USER = "cms"
MAKE_USER = ("useradd", "--system", "--home-dir", "/var/lib/cms", "--shell", "/usr/sbin/nologin", SERVICE_USER)

# The command in systemd/system/cms.service as it is in the source.
USUAL_COMMAND = "/usr/local/bin/cms"

# Where an administrator's units are (systemd.unit(5)).
_SYSTEM_UNITS = "/etc/systemd/system"
_TMPFILES = "/etc/tmpfiles.d/cms.conf"
# Named as the Debian package's, because logrotate refuses a log that two of its files name.
_LOGROTATE = "/etc/logrotate.d/cms-oauth"

# Where a distribution's package has its units.
_PACKAGED_UNITS = "/usr/lib/systemd"

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
    def folder(self) -> Path:
        """Where an administrator or user puts units (systemd.unit(5)). Raises Unusable for a user without a home."""
        if self.system:
            return Path(_SYSTEM_UNITS)
        base = os.environ.get("XDG_CONFIG_HOME", "")
        folder = Path(base) if base.startswith("/") else Path(expand.home()) / ".config"
        return folder / "systemd" / "user"

    @property
    def option(self) -> str:
        return "" if self.system else " --user"

    def ready(self) -> bool:
        """True if this systemd answers, and this user may install units for it."""
        try:
            mine = self.folder.is_absolute() and (not self.system or os.geteuid() == ROOT)
        except Unusable:
            mine = False
        return mine and shutil.which("systemctl") is not None and self.tell("show-environment") == ""

    def tell(self, *words: str) -> str:
        """Run systemctl with these words; return what went wrong, "" for nothing."""
        return _ran("systemctl", *([] if self.system else ["--user"]), *words)

    def text(self, name: str, config: str) -> str:
        """Return the text of a unit, with this installation's command and this configuration."""
        text = source(name, system=self.system).read_text()
        usual = self._is_usual(config)
        option = "" if usual else f" -c {_argument(literal(config))}"
        lines = {"ExecStart": f"{command()} run{option}", "ExecReload": f"{command()} reload"}
        if not usual:
            lines["ConditionPathExists"] = config.replace("%", "%%")
        return re.sub(
            rf"^({'|'.join(lines)})=.*$", lambda found: f"{found[1]}={lines[found[1]]}", text, flags=re.MULTILINE
        )

    def is_installed(self, config: str, drop_ins: Sequence[str] = ()) -> bool:
        """True if all that `install` writes is there as it would be, and cms runs."""
        wanted = self._files(config, drop_ins)
        there = all(path.exists() and path.read_text() == text for path, text in wanted.items())
        return there and self.tell("is-active", "--quiet", UNIT) == ""

    def install(self, config: str, drop_ins: Sequence[str] = ()) -> Installed:
        """Write the units and these drop-ins, enable the units and start them. An existing file that differs is not changed."""
        wanted = self._files(config, drop_ins)
        for path, text in wanted.items():
            if path.exists() and path.read_text() != text:
                start = f"`systemctl{self.option} start {SOCKET} {UNIT}`"
                return Installed(False, f"{path} already exists, is different, and was not changed: {start}")
        problem = _made_user() if self.system else ""
        if problem:
            return Installed(False, f"Nothing was installed: {problem}.")
        for path, text in wanted.items():
            make_folders(path.parent, 0o755 if self.system else PRIVATE_FOLDER)
            path.write_text(text)
            # systemd runs what is in it, and the umask may let a group write.
            path.chmod(0o644)
        problem = (
            (_ran("systemd-tmpfiles", "--create", _TMPFILES) if Path(_TMPFILES) in wanted else "")
            or self.tell("daemon-reload")
            or self.tell("enable", "--now", SOCKET, UNIT)
        )
        units = ", ".join(str(each.relative_to(self.folder)) for each in wanted if self.folder in each.parents)
        wrote = f"Wrote {units} in {self.folder}" if wanted else f"Enabled {SOCKET} and {UNIT}"
        if problem:
            journal = f"journalctl{self.option} -u {UNIT}"
            return Installed(False, f"{wrote}, but cms could not be started: {problem}\nSee `{journal}`.")
        whenever = "with this machine" if self.system else "with your session"
        return Installed(True, f"{wrote}; cms is running now, and starts {whenever}.")

    def _files(self, config: str, drop_ins: Sequence[str]) -> dict[Path, str]:
        """Return what to write. Units that came with this very cms in a package stay, and so are upgraded with it."""
        drops = {self.folder / name: source(name, system=self.system).read_text() for name in drop_ins}
        if self.is_packaged() and self._is_usual(config):
            return drops
        units = {self.folder / name: self.text(name, config) for name in (UNIT, SOCKET)}
        beside = {"tmpfiles.conf": _TMPFILES, "logrotate.conf": _LOGROTATE} if self.system else {}
        return {
            **units,
            **drops,
            **{Path(path): source(name, system=True).read_text() for name, path in beside.items()},
        }

    def _is_usual(self, config: str) -> bool:
        return config == paths.system_config_file() if self.system else paths.is_usual_config(config)

    def is_packaged(self) -> bool:
        """True if the units of a distribution's package start this very cms."""
        unit = Path(_PACKAGED_UNITS) / ("system" if self.system else "user") / UNIT
        try:
            found = re.search(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
        except OSError:
            return False
        return found is not None and os.path.realpath(found[1]) == os.path.realpath(_own_program())


def make_credential() -> str:
    """Make the vault's key, encrypted for this machine; return what went wrong, "" for nothing. An existing one stays.

    The key goes from program to program: this process does not see it.
    """
    if Path(CREDENTIAL_FILE).exists():
        return ""
    return _ran("sh", "-c", MAKE_CREDENTIAL)


# With the machine's key alone: a key in the TPM is lost when the firmware is updated, and the sign-ins with it.
MAKE_CREDENTIAL = (
    f"mkdir -m 0700 -p {os.path.dirname(CREDENTIAL_FILE)} && head -c 32 /dev/urandom | base64 |"  # noqa: PTH120 - text
    f" systemd-creds encrypt --with-key=host --name={CREDENTIAL} - {CREDENTIAL_FILE}"
)


def source(name: str, *, system: bool) -> Path:
    """Return the path of a unit file that is part of cms."""
    return mail_programs.data(f"systemd/{'system' if system else 'user'}/{name}")


def command() -> str:
    """Return this `cms` as a unit names it: its path in its virtual environment, since a link to it could be changed."""
    path = _own_program()
    return _program(path) if path else f"{_program(sys.executable)} -P -m cms.main"


def _own_program() -> str:
    """Return the path of this `cms`, "" if it has none."""
    beside = Path(sys.executable).parent / "cms"
    return str(beside) if beside.exists() else shutil.which("cms") or ""


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
    if (usual.exists() and not hidden(USUAL_COMMAND)) or Systemd(system=True).is_packaged():
        return []
    folder = f"{_SYSTEM_PREFIX}/bin" if hidden() else str(Path(sys.executable).parent)
    install = [f"python3 -m venv {_SYSTEM_PREFIX}", f"{folder}/pip install ."] if hidden() else []
    programs = (f"{folder}/{name}" for name in ("cms", "cms-oauth", "git-credential-cms"))
    return [*install, str(Command(("ln", "-sf", *programs, f"{usual.parent}/")))]


def by_hand(drop_ins: Sequence[str] = ()) -> list[str]:
    """Return the commands with which root sets up the system service."""
    start = ["systemctl daemon-reload", f"systemctl enable --now {SOCKET} {UNIT}"]
    drops = [
        str(Command(("install", "-D", "-m", "0644", str(source(each, system=True)), f"{_SYSTEM_UNITS}/{each}")))
        for each in drop_ins
    ]
    if Systemd(system=True).is_packaged():
        return [*drops, *start]
    units = [str(source(each, system=True)) for each in (UNIT, SOCKET)]
    return [
        str(Command(MAKE_USER)),
        str(Command(("cp", *units, f"{_SYSTEM_UNITS}/"))),
        str(Command(("cp", str(source("tmpfiles.conf", system=True)), _TMPFILES))),
        f"systemd-tmpfiles --create {_TMPFILES}",
        str(Command(("cp", str(source("logrotate.conf", system=True)), _LOGROTATE))),
        *drops,
        *start,
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
