"""systemd's units, and what systemctl is told."""

from __future__ import annotations

import pwd
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.newcomers import empty_home, program

from cms.cli.init import mail_programs, systemd_units
from cms.cli.init.systemd_units import Systemd
from cms_oauth import paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


def test_the_unit_runs_this_very_cms(home: Path) -> None:
    """By its path, and with the configuration where that is not the usual one; else it is the project's own unit."""
    usual, other = Systemd().text(str(home / "config" / "cms" / "cms.cfg")), Systemd().text("/other.cfg")
    (line,) = [each for each in usual.split("\n") if each.startswith("ExecStart=")]

    assert line.endswith("cms run")
    assert line.removeprefix("ExecStart=").startswith("/")
    assert "cms run -c /other.cfg" in other
    own = mail_programs.data("systemd/user/cms.service").read_text()
    assert own.replace("%h/.local/bin/cms run", line.removeprefix("ExecStart=")) == usual
    assert home / "config" / "systemd" / "user" / "cms.service" == Systemd().path


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("/my files/cms.cfg", '"/my files/cms.cfg"'),
        ('/a"b/cms.cfg', '"/a\\"b/cms.cfg"'),
        # Doubled for systemd, and again for cms, which reads it as any path.
        ("/50%/$x.cfg", "/50%%%%/$$$$x.cfg"),
    ],
)
def test_a_path_is_one_word_of_the_unit(home: Path, config: str, word: str) -> None:
    """systemd splits the line at spaces, and replaces variables and specifiers in it."""
    assert f" run -c {word}\n" in Systemd().text(config)


@pytest.mark.parametrize("folder", ["my cms", "100%h", "$HOME", "semi; colon", "漢字"])
def test_a_unit_names_any_path(home: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """As systemd itself reads it: as one word, without its own specifiers and variables in it."""
    program(home, f"{folder}/cms", "")
    monkeypatch.setattr(sys, "executable", str(home / "bin" / folder / "python"))
    unit = home / "cms.service"
    # Without its user's folders that systemd would look for, and without a program that can be run.
    (line,) = [each for each in Systemd().text(f"/{folder}/c.cfg").split("\n") if each.startswith("ExecStart=")]
    unit.write_text(f"[Service]\n{line}\n")
    (home / "bin" / folder / "cms").chmod(0o644)
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )

    assert f"Command {home}/bin/{folder}/cms is not executable" in done.stderr


@pytest.mark.parametrize("folder", ["it's", 'a "b"', "back\\slash"])
def test_a_unit_names_a_path_that_systemd_takes_for_no_program(
    home: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """env(1) runs it; systemd finds nothing wrong with the line."""
    program(home, f"{folder}/cms", "")
    monkeypatch.setattr(sys, "executable", str(home / "bin" / folder / "python"))
    unit = home / "cms.service"
    (line,) = [each for each in Systemd().text("/c $x.cfg").split("\n") if each.startswith("ExecStart=")]
    unit.write_text(f"[Service]\n{line}\n")
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )

    assert "cms.service" not in done.stderr
    # systemd's words are a shell's, apart from its own signs.
    words = [each.replace("$$", "$") for each in shlex.split(line.removeprefix("ExecStart="))]
    assert ["/usr/bin/env", f"{home}/bin/{folder}/cms", "run", "-c", "/c $$x.cfg"] == words


def test_units_have_their_place_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd.unit(5)."""
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / ".config" / "systemd" / "user" / "cms.service" == Systemd().path


def test_a_systemctl_that_cannot_be_run(home: Path) -> None:
    """As good as none."""
    program(home, "systemctl", "")
    (home / "bin" / "systemctl").write_text("#!/nowhere\n")

    assert not Systemd().ready()
    assert "cannot be run" in Systemd().tell("show-environment")


@pytest.mark.parametrize("there", [True, False])
def test_this_very_cms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """Beside the interpreter, as in a virtual environment; else wherever the PATH has it, else as a module."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    if there:
        (tmp_path / "cms").touch()

    assert (str(tmp_path / "cms") if there else f"{tmp_path}/python -P -m cms.main") == systemd_units.command()


def test_a_systemctl_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as one that cannot be run."""

    def hang(*arguments: Any, **_: Any) -> None:
        raise subprocess.TimeoutExpired(arguments[0], 1.0)

    monkeypatch.setattr(subprocess, "run", hang)

    assert "cannot be run" in Systemd().tell("show-environment")


# --- the machine's service ---


@pytest.fixture
def machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of root's whose systemd and useradd write down what they are told, with cms in /opt."""
    for name in ("systemctl", "useradd"):
        program(home, name, f'echo "{name} $*" >> {home}/told')
    monkeypatch.setattr(systemd_units, "_SYSTEM_UNITS", str(home / "units"))
    monkeypatch.setattr(systemd_units, "USUAL_COMMAND", str(home / "local" / "bin" / "cms"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return home


def told(machine: Path) -> list[str]:
    return (machine / "told").read_text().splitlines()


def users(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these users, and no others."""
    known = {name: pwd.getpwuid(0) for name in names}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: known[name])


def test_the_machines_service(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user is made, its unit starts this very cms, and systemd is told of it: the machine's, not root's own."""
    users(monkeypatch)
    installed = Systemd(system=True).install("/etc/cms/cms.cfg")
    unit = (machine / "units" / "cms.service").read_text()

    assert (True, True) == (installed.running, "cms is running now, and starts with this machine" in installed.said)
    assert f"ExecStart={systemd_units.command()} run -c /etc/cms/cms.cfg\n" in unit
    assert "User=cms\n" in unit
    made = "useradd --system --home-dir /var/lib/cms --shell /usr/sbin/nologin cms"
    assert [made, "systemctl daemon-reload", "systemctl enable --now cms.service"] == told(machine)


def test_a_user_who_is_there_is_not_made(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is another unit touched, or anything done that a user could not be made for."""
    users(monkeypatch, "cms")
    assert Systemd(system=True).install(paths.system_config_file()).running
    assert ["systemctl daemon-reload", "systemctl enable --now cms.service"] == told(machine)
    assert f"ExecStart={systemd_units.command()} run\n" in Systemd(system=True).path.read_text()

    Systemd(system=True).path.write_text("[Service]\n")
    assert "`systemctl start cms.service`" in Systemd(system=True).install(paths.system_config_file()).said
    users(monkeypatch)
    program(machine, "useradd", "echo no room >&2; exit 1")
    Systemd(system=True).path.unlink()
    installed = Systemd(system=True).install(paths.system_config_file())
    assert (False, "Nothing was installed: no room.") == (installed.running, installed.said)
    assert not Systemd(system=True).path.exists()


def test_only_root_has_the_machines_systemd(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are not asked whether to install what they may not."""
    assert Systemd(system=True).ready()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert not Systemd(system=True).ready()


def test_the_commands_name_files_that_are_there(machine: Path) -> None:
    """Wherever cms was installed; they can be pasted as they are."""
    (copy,) = [each for each in systemd_units.by_hand() if each.startswith("cp ")]
    _, *files, folder = copy.split(" ")

    assert f"{machine}/units/" == folder
    assert ["cms.service", "cms.socket"] == [Path(each).name for each in files]
    assert all(Path(each).is_absolute() and Path(each).is_file() for each in files)


def test_where_the_units_command_comes_from(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to this cms, or a new installation where the service could not see it; nothing if there is one."""
    place, usual = f"{machine}/local/bin/", Path(systemd_units.USUAL_COMMAND)
    monkeypatch.setattr(sys, "executable", "/srv/cms/bin/python")
    monkeypatch.setattr(sys, "prefix", "/srv/cms")
    assert [f"ln -sf /srv/cms/bin/cms /srv/cms/bin/cms-oauth {place}"] == systemd_units.in_place()

    monkeypatch.setattr(systemd_units, "_HIDDEN", ("/hidden",))
    monkeypatch.setattr(sys, "prefix", "/hidden/cms")
    link = f"ln -sf /opt/cms/bin/cms /opt/cms/bin/cms-oauth {place}"
    assert ["python3 -m venv /opt/cms", "/opt/cms/bin/pip install .", link] == systemd_units.in_place()
    assert "/hidden" == systemd_units.hidden()

    usual.parent.mkdir(parents=True)
    usual.touch()
    assert [] == systemd_units.in_place()


def test_the_project_knows_what_its_unit_starts() -> None:
    """The link has the name that the unit has, and its user is the one that is made."""
    unit = mail_programs.data("systemd/system/cms.service").read_text()

    assert f"ExecStart={systemd_units.USUAL_COMMAND} run\n" in unit
    assert f"User={systemd_units.SERVICE_USER}\n" in unit
    assert " ".join(systemd_units.MAKE_USER) in unit
    assert "ProtectHome=yes\n" in unit
    assert "PrivateTmp=yes\n" in unit
    assert ["/home", "/tmp", ""] == [systemd_units.hidden(each) for each in ("/home/ann/cms", "/tmp/cms", "/opt/cms")]
