"""A desktop session with a real Secret Service: a private bus, gnome-keyring-daemon, and private folders."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import secretstorage

from support.programs import require_program
from support.waiting import until

PASSWORD = "correct horse"

# No service folders: a bus that may start a keyring by itself has none that is ever gone.
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir={folder}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Desktop:
    """One session. `environment` is what its programs see."""

    def __init__(self, folder: Path) -> None:
        self._keyring_program = require_program("gnome-keyring-daemon", "gnome-keyring")
        config = folder / "bus.conf"
        config.write_text(_BUS.format(folder=folder))
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        for name in ("XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            (folder / name).mkdir(mode=0o700)
            self.environment[name] = str(folder / name)
        self._bus = subprocess.Popen(
            [
                require_program("dbus-run-session", "dbus"),
                f"--config-file={config}",
                "--",
                "/bin/sh",
                "-c",
                "echo $DBUS_SESSION_BUS_ADDRESS; exec cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )
        assert self._bus.stdout is not None
        self.environment["DBUS_SESSION_BUS_ADDRESS"] = self._bus.stdout.readline().decode().strip()
        self._keyring: subprocess.Popen[bytes] | None = None

    def start_keyring(self, password: str | None = PASSWORD) -> None:
        """Start the Secret Service, with its keyring unlocked if a password is given."""
        unlock = ["--unlock"] if password else []
        self._keyring = subprocess.Popen(
            [self._keyring_program, "--foreground", "--components=secrets", *unlock],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
        )
        assert self._keyring.stdin is not None
        self._keyring.stdin.write((password or "").encode())
        self._keyring.stdin.close()
        until(self._answers, "a Secret Service")

    def stop_keyring(self) -> None:
        """End the Secret Service."""
        assert self._keyring is not None
        self.freeze(frozen=False)
        self._keyring.terminate()
        self._keyring.wait()
        self._keyring = None

    def freeze(self, *, frozen: bool) -> None:
        """Let the Secret Service hang, or go on."""
        assert self._keyring is not None
        self._keyring.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def lock(self) -> None:
        """Lock the keyring, as a screen saver may."""
        with closing(secretstorage.dbus_init()) as bus:
            secretstorage.Collection(bus).lock()

    def stop(self) -> None:
        """End the session."""
        if self._keyring:
            self.stop_keyring()
        self._bus.communicate()

    def _answers(self) -> bool:
        with closing(secretstorage.dbus_init()) as bus:
            return bool(secretstorage.check_service_availability(bus))


@contextmanager
def entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    """Have this process in a session of its own while the block runs. The keyring is not started."""
    folder.mkdir()
    session = Desktop(folder)
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)
    yield session
    session.stop()
