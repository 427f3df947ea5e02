"""Where things are looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from cms_oauth import paths
from cms_oauth.expand import Unusable

VARIABLES = (
    "CMS_SOCK",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "XDG_CONFIG_HOME",
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take away all that names a folder: the environment of a pipe that exim runs."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "_USERS_RUNTIME", str(tmp_path / "run-user"))
    monkeypatch.setattr(paths, "_SYSTEM_RUNTIME", str(tmp_path / "run-cms"))
    monkeypatch.setattr(paths, "_SYSTEM_STATE", str(tmp_path / "var-lib-cms"))
    monkeypatch.setattr(paths, "_SYSTEM_CONFIG", str(tmp_path / "etc-cms"))
    return tmp_path


def logind(folder: Path) -> Path:
    made = folder / "run-user" / str(os.geteuid())
    made.mkdir(parents=True)
    return made


def test_systemd_decides_for_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders that a unit was given come before a session's; of several, the first."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, f"/from/{variable}:/other")

    assert "/from/RUNTIME_DIRECTORY/cms.sock" == paths.default_socket()
    assert "/from/RUNTIME_DIRECTORY/control.sock" == paths.control_socket()
    assert "/from/RUNTIME_DIRECTORY/control.sock" == paths.control_candidates()[0]
    assert "/from/STATE_DIRECTORY" == paths.state_folder()
    assert "/from/CONFIGURATION_DIRECTORY/cms.cfg" == paths.config_file()


def test_a_session_decides_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_* name the base folders, and cms uses its folder in each."""
    for variable in VARIABLES[4:]:
        monkeypatch.setenv(variable, f"/from/{variable}/")

    assert "/from/XDG_RUNTIME_DIR/cms/cms.sock" == paths.default_socket()
    assert "/from/XDG_STATE_HOME/cms" == paths.state_folder()
    assert "/from/XDG_CONFIG_HOME/cms/cms.cfg" == paths.config_file()


def test_the_usual_places_below_home(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """Without either, and with relative ones, which the XDG specification tells to ignore."""
    assert str(bare / "home/.local/state/cms") == paths.state_folder()
    assert str(bare / "home/.config/cms/cms.cfg") == paths.config_file()
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert str(bare / "home/.local/state/cms") == paths.state_folder()


def test_the_runtime_folder_of_logind_is_found_without_a_session(bare: Path) -> None:
    """A cron job of a user who is logged in elsewhere lacks XDG_RUNTIME_DIR, not the folder."""
    folder = logind(bare)

    assert f"{folder}/cms/cms.sock" == paths.default_socket()


def test_the_last_runtime_folder_is_platformdirs_without_its_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns that XDG_RUNTIME_DIR is not set; warnings are errors in this run."""

    class Warner:
        def __init__(self, name: str, *, appauthor: bool) -> None:
            self.name = name

        @property
        def user_runtime_dir(self) -> str:
            import warnings  # noqa: PLC0415 - where platformdirs does it

            warnings.warn("XDG_RUNTIME_DIR is not set", stacklevel=1)
            return f"/tmp/runtime/{self.name}"

    monkeypatch.setattr(platformdirs, "PlatformDirs", Warner)

    assert "/tmp/runtime/cms/cms.sock" == paths.default_socket()


def test_cms_sock_is_the_only_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a socket means that one, whether it is there or not."""
    monkeypatch.setenv("CMS_SOCK", "/named/cms.sock")

    assert ["/named/cms.sock"] == list(paths.socket_candidates())
    assert "/named/cms.sock" == paths.find_socket()


def test_candidates_go_from_the_session_to_the_system(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """Each place once, and not the folder of the service that runs the client."""
    folder = logind(bare)
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/exim4")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/session")

    expected = ["/session/cms", f"{folder}/cms", f"{bare}/run-cms"]
    assert [f"{each}/cms.sock" for each in expected] == list(paths.socket_candidates())
    assert tuple(f"{each}/control.sock" for each in ["/run/exim4", *expected]) == paths.control_candidates()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert [f"{each}/cms.sock" for each in expected[1:]] == list(paths.socket_candidates())


def test_the_first_socket_that_exists_is_found(bare: Path) -> None:
    """A pipe of exim's finds the system service's socket, and a user's own before it."""
    system = bare / "run-cms/cms.sock"
    system.parent.mkdir()
    system.touch()
    assert str(system) == paths.find_socket()

    own = logind(bare) / "cms/cms.sock"
    own.parent.mkdir()
    own.touch()
    assert str(own) == paths.find_socket()


def test_without_any_socket_the_likeliest_place_is_named(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """That is what the message about a missing daemon says."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/session")

    assert "/session/cms/cms.sock" == paths.find_socket()


def test_a_runtime_folder_that_another_user_made_is_no_candidate(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """Its name in /tmp can be guessed, so a token from there could come from any user."""

    class Taken:
        def __init__(self, name: str, *, appauthor: bool) -> None: ...

        @property
        def user_runtime_dir(self) -> str:
            raise PermissionError("owned by another user")

    monkeypatch.setattr(platformdirs, "PlatformDirs", Taken)

    assert [f"{bare}/run-cms/cms.sock"] == list(paths.socket_candidates())
    with pytest.raises(PermissionError):
        paths.default_socket()


def test_a_client_does_without_platformdirs(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """The library promises to need the standard library only: the places that need no asking are left."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)

    assert [f"{bare}/run-cms/cms.sock"] == list(paths.socket_candidates())
    assert f"{bare}/run-cms/cms.sock" == paths.find_socket()
    assert (f"{bare}/run-cms/control.sock",) == paths.control_candidates()


def test_platformdirs_is_not_imported_where_the_environment_decides() -> None:
    """It would triple the client's start."""
    program = (
        "import sys; from cms_oauth import paths; "
        "paths.find_socket(); paths.state_folder(); paths.config_file(); paths.control_candidates(); "
        "print('platformdirs' in sys.modules)"
    )
    environment = dict.fromkeys(VARIABLES[4:], "/nowhere")

    assert (
        "False\n"
        == subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("XDG_RUNTIME_DIR", paths.default_socket),
        ("XDG_STATE_HOME", paths.state_folder),
        ("XDG_CONFIG_HOME", paths.config_file),
        ("RUNTIME_DIRECTORY", paths.control_socket),
        ("STATE_DIRECTORY", paths.state_folder),
        ("CONFIGURATION_DIRECTORY", paths.config_file),
        ("CMS_SOCK", paths.find_socket),
    ],
)
def test_variables_follow_the_rule_for_paths(
    monkeypatch: pytest.MonkeyPatch, bare: Path, variable: str, found: Callable[[], str]
) -> None:
    """/etc/environment and crontab replace nothing, so cms does; what would mean another folder is refused by name."""
    monkeypatch.setenv(variable, "$HOME/it")
    assert found().startswith(f"{bare}/home/it")

    monkeypatch.setenv(variable, "/run/user/$NO_SUCH_NAME")
    with pytest.raises(Unusable, match=f"^{variable}: the variable NO_SUCH_NAME is not set"):
        found()


def test_a_client_looks_elsewhere_if_a_variable_is_no_path(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """No daemon can have made a socket there, and one of the other places may have it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/$NO_SUCH_NAME")

    assert f"{logind(bare)}/cms/cms.sock" == paths.find_socket()


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY"])
def test_systemds_folders_are_absolute(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A relative one is a mistake of a container's or a script's: cms would use another folder each time."""
    monkeypatch.setenv(variable, "here")

    with pytest.raises(Unusable, match=f"{variable} is not an absolute path"):
        (paths.control_socket(), paths.state_folder(), paths.config_file())


@pytest.mark.parametrize("told", [None, "", "relative"])
def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, bare: Path, told: str | None
) -> None:
    """The system's configuration is found all the same, and a socket without asking for a home."""
    monkeypatch.delenv("HOME") if told is None else monkeypatch.setenv("HOME", told)
    monkeypatch.setattr(os, "getuid", lambda: 3_000_000_000)

    with pytest.raises(Unusable, match="this user has no home folder") as config:
        paths.config_file()
    with pytest.raises(Unusable, match="this user has no home folder") as state:
        paths.state_folder()
    assert "set HOME, or XDG_CONFIG_HOME, to a folder of this user; or name the file with -c" == config.value.hint
    assert "set HOME, or XDG_STATE_HOME, to a folder of this user" == state.value.hint
    assert [f"{bare}/run-cms/cms.sock"] == list(paths.socket_candidates())[:1]
    (bare / "etc-cms").mkdir()
    (bare / "etc-cms" / "cms.cfg").touch()
    assert f"{bare}/etc-cms/cms.cfg" == paths.config_file()


def test_the_services_user_has_the_services_state(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """`sudo -u cms cms login` finds the service's state; other users do not, and a setting has priority."""
    other = paths.state_folder()
    (bare / "var-lib-cms").mkdir()
    own = paths.state_folder()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    stranger = paths.state_folder()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", "/told")

    assert (str(bare / "var-lib-cms"), other, "/told/cms") == (own, stranger, paths.state_folder())


def test_the_systems_configuration_is_for_who_has_none(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    """A user's own file goes before it, there or to be made; a service has only the one that systemd names."""
    own = Path(paths.own_config_file())
    nowhere = paths.config_file()
    (bare / "etc-cms").mkdir()
    (bare / "etc-cms" / "cms.cfg").touch()
    system = paths.config_file()
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", "/told")
    told = paths.config_file()
    monkeypatch.delenv("CONFIGURATION_DIRECTORY")
    own.parent.mkdir(parents=True)
    own.touch()

    assert (str(own), str(bare / "etc-cms" / "cms.cfg"), "/told/cms.cfg") == (nowhere, system, told)
    assert str(own) == paths.config_file()


def test_whose_the_service_is(bare: Path) -> None:
    """The owner of its state folder; and its configuration is known by any name of it."""
    assert paths.service_uid() is None
    state, etc = bare / "var-lib-cms", bare / "etc-cms"
    state.mkdir()
    etc.mkdir()
    (etc / "cms.cfg").touch()
    (bare / "link").symlink_to(etc)

    assert state.stat().st_uid == paths.service_uid()
    assert paths.is_service_config(str(bare / "link" / "cms.cfg"))
    assert not paths.is_service_config(str(bare / "cms.cfg"))
