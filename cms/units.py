"""systemd's units, with this installation's command in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cms import fragments
from cms_oauth import paths

UNIT = "cms.service"

# systemctl talks to a running systemd, or there is none.
_SYSTEMCTL_SECONDS = 30.0


def has_systemd() -> bool:
    """Say whether this user has a systemd that answers."""
    return shutil.which("systemctl") is not None and systemctl("show-environment") == ""


def systemctl(*words: str) -> str:
    """Give systemd a command; return what went wrong, "" for nothing."""
    try:
        done = subprocess.run(
            ["systemctl", "--user", *words],  # noqa: S607 - whichever the machine has
            capture_output=True,
            text=True,
            check=False,
            timeout=_SYSTEMCTL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"systemctl cannot be run: {type(error).__name__}"
    return "" if done.returncode == 0 else done.stderr.strip() or f"systemctl ended with status {done.returncode}"


def unit_text(config: str) -> str:
    """Return the user's unit with this installation's command in it."""
    text = fragments.data(f"systemd/user/{UNIT}").read_text()
    option = f" -c {config}" if config != paths.own_config_file() else ""
    return re.sub(r"^ExecStart=.*$", lambda _: f"ExecStart={command()} run{option}", text, flags=re.MULTILINE)


def command() -> str:
    """Return the path of this very `cms`: that of its virtual environment, not of a link that may move."""
    beside = Path(sys.executable).parent / "cms"
    return str(beside) if beside.exists() else shutil.which("cms") or f"{sys.executable} -P -m cms.main"


def unit_path() -> Path:
    """Return where systemd looks for this user's units (systemd.unit(5))."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "systemd" / "user" / UNIT
