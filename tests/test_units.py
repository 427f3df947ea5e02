"""systemd's units, and what systemctl is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.newcomers import empty_home, program

from cms import fragments, units
from cms.units import unit_path, unit_text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


def test_the_unit_runs_this_very_cms(home: Path) -> None:
    """By its path, and with the configuration where that is not the usual one; else it is the project's own unit."""
    usual, other = unit_text(str(home / "config" / "cms" / "cms.cfg")), unit_text("/other.cfg")
    (line,) = [each for each in usual.split("\n") if each.startswith("ExecStart=")]

    assert line.endswith("cms run")
    assert line.removeprefix("ExecStart=").startswith("/")
    assert "cms run -c /other.cfg" in other
    own = fragments.data("systemd/user/cms.service").read_text()
    assert own.replace("%h/.local/bin/cms run", line.removeprefix("ExecStart=")) == usual
    assert home / "config" / "systemd" / "user" / "cms.service" == unit_path()


def test_units_have_their_place_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd.unit(5)."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / ".config" / "systemd" / "user" / "cms.service" == unit_path()


def test_a_systemctl_that_cannot_be_run(home: Path) -> None:
    """As good as none."""
    program(home, "systemctl", "")
    (home / "bin" / "systemctl").write_text("#!/nowhere\n")

    assert not units.has_systemd()
    assert "cannot be run" in units.systemctl("show-environment")


@pytest.mark.parametrize("there", [True, False])
def test_this_very_cms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """Beside the interpreter, as in a virtual environment; else wherever the PATH has it, else as a module."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if there:
        (tmp_path / "cms").touch()

    assert (str(tmp_path / "cms") if there else f"{tmp_path}/python -P -m cms.main") == units.command()


def test_a_systemctl_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as one that cannot be run."""

    def hang(*arguments: Any, **_: Any) -> None:
        raise subprocess.TimeoutExpired(arguments[0], 1.0)

    monkeypatch.setattr(subprocess, "run", hang)

    assert "cannot be run" in units.systemctl("show-environment")
