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
from cms.cli.init.systemd_units import CREDENTIAL_DROP_IN, EXIM_DROP_IN, SOCKET, UNIT, Systemd
from cms_oauth import paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


def test_the_unit_runs_this_very_cms(home: Path) -> None:
    """By its path, and with the configuration where that is not the usual one; else it is the project's own unit."""
    usual, other = (Systemd().text(UNIT, each) for each in (str(home / "config" / "cms" / "cms.cfg"), "/other.cfg"))
    (line,) = [each for each in usual.split("\n") if each.startswith("ExecStart=")]

    assert line.endswith("cms run")
    assert line.removeprefix("ExecStart=").startswith("/")
    assert "cms run -c /other.cfg\n" in other
    assert "ConditionPathExists=/other.cfg\n" in other
    assert "ConditionPathExists=/other.cfg\n" in Systemd().text(SOCKET, "/other.cfg")
    own = mail_programs.data("systemd/user/cms.service").read_text()
    assert own.replace("%h/.local/bin/cms", line.removeprefix("ExecStart=").removesuffix(" run")) == usual
    assert home / "config" / "systemd" / "user" == Systemd().folder


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
    assert f" run -c {word}\n" in Systemd().text(UNIT, config)
    assert f"ConditionPathExists={config.replace('%', '%%')}\n" in Systemd().text(SOCKET, config)


@pytest.mark.parametrize("folder", ["my cms", "100%h", "$HOME", "semi; colon", "漢字"])
def test_a_unit_names_any_path(home: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """As systemd itself reads it: as one word, without its own specifiers and variables in it."""
    program(home, f"{folder}/cms", "")
    monkeypatch.setattr(sys, "executable", str(home / "bin" / folder / "python"))
    unit = home / "cms.service"
    # Without its user's folders that systemd would look for, and without a program that can be run.
    (line,) = [each for each in Systemd().text(UNIT, f"/{folder}/c.cfg").split("\n") if each.startswith("ExecStart=")]
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
    (line,) = [each for each in Systemd().text(UNIT, "/c $x.cfg").split("\n") if each.startswith("ExecStart=")]
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

    assert tmp_path / ".config" / "systemd" / "user" == Systemd().folder


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
    for name in ("systemctl", "systemd-tmpfiles", "useradd"):
        program(home, name, f'echo "{name} $*" >> {home}/told')
    monkeypatch.setattr(systemd_units, "_SYSTEM_UNITS", str(home / "units"))
    monkeypatch.setattr(systemd_units, "_TMPFILES", str(home / "tmpfiles.d" / "cms.conf"))
    monkeypatch.setattr(systemd_units, "_LOGROTATE", str(home / "logrotate.d" / "cms-oauth"))
    monkeypatch.setattr(systemd_units, "_PACKAGED_UNITS", str(home / "packaged"))
    monkeypatch.setattr(systemd_units, "USUAL_COMMAND", str(home / "local" / "bin" / "cms"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return home


def told(machine: Path) -> list[str]:
    return (machine / "told").read_text().splitlines()


def users(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have these users, and no others."""
    known = {name: pwd.getpwuid(0) for name in names}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: known[name])


STARTED = ["systemctl daemon-reload", "systemctl enable --now cms.socket cms.service"]


def test_the_machines_service(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user and the folder of its sockets are made, its units start this very cms, and the machine's systemd is told."""
    users(monkeypatch)
    installed = Systemd(system=True).install("/etc/cms/cms.cfg")
    unit = (machine / "units" / UNIT).read_text()

    assert (True, True) == (installed.running, "cms is running now, and starts with this machine" in installed.said)
    assert f"ExecStart={systemd_units.command()} run -c /etc/cms/cms.cfg\n" in unit
    assert "User=cms\n" in unit
    assert (machine / "units" / SOCKET).exists()
    made = "useradd --system --home-dir /var/lib/cms --shell /usr/sbin/nologin cms"
    assert [made, f"systemd-tmpfiles --create {machine}/tmpfiles.d/cms.conf", *STARTED] == told(machine)
    assert (machine / "tmpfiles.d" / "cms.conf").read_text().endswith("d /run/cms 0755 cms cms -\n")
    assert "/var/log/cms/audit.log {\n" in (machine / "logrotate.d" / "cms-oauth").read_text()


def test_drop_ins_are_beside_the_units(machine: Path) -> None:
    """Those that are asked for, as cms has them."""
    Systemd(system=True).install(paths.system_config_file(), (EXIM_DROP_IN, CREDENTIAL_DROP_IN))

    assert "SocketGroup=Debian-exim\n" in (machine / "units" / "cms.socket.d" / "exim.conf").read_text()
    assert "LoadCredentialEncrypted=" in (machine / "units" / "cms.service.d" / "credential.conf").read_text()
    (exim,) = [each for each in systemd_units.by_hand((EXIM_DROP_IN,)) if "exim.conf" in each]
    assert exim.startswith("install -D -m 0644 /")
    assert exim.endswith(f"/systemd/system/{EXIM_DROP_IN} {machine}/units/{EXIM_DROP_IN}")


@pytest.mark.parametrize("ours", [True, False])
def test_a_packages_units_are_used_as_they_are(machine: Path, monkeypatch: pytest.MonkeyPatch, *, ours: bool) -> None:
    """They are upgraded with the package, so nothing is written in their place; those of another cms are not used."""
    program(machine, "cms", "")
    monkeypatch.setattr(sys, "executable", str(machine / "bin" / "python"))
    (machine / "packaged" / "system").mkdir(parents=True)
    (machine / "link").symlink_to(machine / "bin" / "cms")
    command = machine / "link" if ours else "/usr/bin/cms"
    (machine / "packaged" / "system" / UNIT).write_text(f"[Service]\nExecStart={command} run\n")
    users(monkeypatch, "cms")

    installed = Systemd(system=True).install(paths.system_config_file(), (EXIM_DROP_IN,))

    assert installed.running
    assert ours != (machine / "units" / UNIT).exists()
    assert ours != (machine / "tmpfiles.d").exists()
    assert ours != (machine / "logrotate.d").exists()
    assert (machine / "units" / EXIM_DROP_IN).exists()
    assert STARTED == told(machine)[-2:]
    assert ours == (systemd_units.by_hand() == STARTED)
    assert ours == (systemd_units.in_place() == [])
    # Another configuration needs another unit.
    Systemd(system=True).install("/srv/cms.cfg")
    assert (machine / "units" / UNIT).exists()


def test_a_package_without_drop_ins(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, and that is what is said."""
    monkeypatch.setattr(Systemd, "is_packaged", lambda _self: True)
    users(monkeypatch, "cms")

    said = Systemd(system=True).install(paths.system_config_file()).said
    assert "Enabled cms.socket and cms.service; cms is running now, and starts with this machine." == said


def test_the_key_that_systemd_encrypts(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is one that root can type; a key that is there is never replaced; what goes wrong is said."""
    place = machine / "credstore" / "cms.key"
    monkeypatch.setattr(systemd_units, "CREDENTIAL_FILE", str(place))
    monkeypatch.setattr(systemd_units, "MAKE_CREDENTIAL", "echo no room >&2; exit 1")
    monkeypatch.setenv("PATH", f"{machine}/bin:/usr/bin:/bin")

    assert "no room" == systemd_units.make_credential()
    monkeypatch.setattr(systemd_units, "MAKE_CREDENTIAL", f"touch {machine}/made")
    assert "" == systemd_units.make_credential()
    assert (machine / "made").exists()
    place.parent.mkdir()
    place.touch()
    monkeypatch.setattr(systemd_units, "MAKE_CREDENTIAL", "exit 1")
    assert "" == systemd_units.make_credential()


def test_a_user_who_is_there_is_not_made(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is another unit touched, or anything done that a user could not be made for."""
    users(monkeypatch, "cms")
    unit = machine / "units" / UNIT
    assert Systemd(system=True).install(paths.system_config_file()).running
    assert STARTED == told(machine)[-2:]
    assert not [line for line in told(machine) if line.startswith("useradd")]
    assert f"ExecStart={systemd_units.command()} run\n" in unit.read_text()

    unit.write_text("[Service]\n")
    refused = Systemd(system=True).install(paths.system_config_file())
    assert "`systemctl start cms.socket cms.service`" in refused.said
    users(monkeypatch)
    program(machine, "useradd", "echo no room >&2; exit 1")
    unit.unlink()
    installed = Systemd(system=True).install(paths.system_config_file())
    assert (False, "Nothing was installed: no room.") == (installed.running, installed.said)
    assert not unit.exists()


def test_a_folder_that_cannot_be_made(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the folder of the sockets nothing is started."""
    users(monkeypatch, "cms")
    program(machine, "systemd-tmpfiles", "echo read-only >&2; exit 1")

    installed = Systemd(system=True).install(paths.system_config_file())

    assert (False, True) == (installed.running, "but cms could not be started: read-only\n" in installed.said)
    assert not (machine / "told").exists()


def test_only_root_has_the_machines_systemd(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are not asked whether to install what they may not."""
    assert Systemd(system=True).ready()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert not Systemd(system=True).ready()


def test_the_commands_name_files_that_are_there(machine: Path) -> None:
    """Wherever cms was installed; they can be pasted as they are."""
    units, tmpfiles, logrotate = [each.split(" ") for each in systemd_units.by_hand() if each.startswith("cp ")]
    files = [*units[1:-1], tmpfiles[1], logrotate[1]]

    assert [f"{machine}/units/", f"{machine}/tmpfiles.d/cms.conf"] == [units[-1], tmpfiles[-1]]
    assert ["cms.service", "cms.socket", "tmpfiles.conf", "logrotate.conf"] == [Path(each).name for each in files]
    assert all(Path(each).is_absolute() and Path(each).is_file() for each in files)


def test_where_the_units_command_comes_from(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to this cms, or a new installation where the service could not see it; nothing if there is one."""
    place, usual = f"{machine}/local/bin/", Path(systemd_units.USUAL_COMMAND)
    programs = "{0}/cms/bin/cms {0}/cms/bin/cms-oauth {0}/cms/bin/git-credential-cms"
    monkeypatch.setattr(sys, "executable", "/srv/cms/bin/python")
    monkeypatch.setattr(sys, "prefix", "/srv/cms")
    assert [f"ln -sf {programs.format('/srv')} {place}"] == systemd_units.in_place()

    monkeypatch.setattr(systemd_units, "_HIDDEN", ("/hidden",))
    monkeypatch.setattr(sys, "prefix", "/hidden/cms")
    link = f"ln -sf {programs.format('/opt')} {place}"
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
    sysusers = mail_programs.data("systemd/system/sysusers.conf").read_text().splitlines()[-1].split()
    assert ("u", systemd_units.SERVICE_USER, "/var/lib/cms") == (sysusers[0], sysusers[1], sysusers[-1])
    assert {systemd_units.SERVICE_USER, "/var/lib/cms"} < set(systemd_units.MAKE_USER)
    drop_in = mail_programs.data(f"systemd/system/{CREDENTIAL_DROP_IN}").read_text()
    key = f"LoadCredentialEncrypted={systemd_units.CREDENTIAL}:{systemd_units.CREDENTIAL_FILE}\n"
    assert drop_in.endswith(key)
    assert "ProtectHome=yes\n" in unit
    assert "PrivateTmp=yes\n" in unit
    assert ["/home", "/tmp", ""] == [systemd_units.hidden(each) for each in ("/home/ann/cms", "/tmp/cms", "/opt/cms")]
