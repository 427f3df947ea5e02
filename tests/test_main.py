"""The `cms` command as a process: what it loads, and how it begins and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import trio
from support.command_line import daemon, done, empty_folders

from cms import main
from cms.cli.run_line import INTERRUPTED
from cms.daemon import app
from cms.system import logs, process
from cms_oauth.version import VERSION

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_folders(tmp_path, monkeypatch)


def test_the_daemon_is_made_of_what_the_command_line_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration, folders and log; other processes cannot read the process's memory."""
    seen: list[object] = []

    def run(entry: object, options: app.AppOptions) -> int:
        assert entry is app.run
        seen.append((options.config_path, options.state_folder, options.runtime_folder, options.version))
        return 7

    monkeypatch.setattr(trio, "run", run)
    monkeypatch.setattr(logs, "setup", lambda *, level, form: seen.append((level, form)))
    for name in ("harden", "allow_many_files", "log_bugs"):
        monkeypatch.setattr(process, name, lambda name=name: seen.append(name))
    monkeypatch.chdir(home)

    assert 7 == main.main(["run", "-c", "my.cfg", "--log-level=debug"])
    assert [
        ("debug", "auto"),
        "harden",
        "allow_many_files",
        "log_bugs",
        (str(home / "my.cfg"), str(home / "state" / "cms"), str(home / "run" / "cms"), VERSION),
    ] == seen


def test_a_daemon_without_a_folder_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is one line in the log."""

    def refuse() -> str:
        raise PermissionError("/tmp/runtime-1 is somebody else's")

    monkeypatch.setattr("cms_oauth.paths.state_folder", refuse)
    monkeypatch.setattr(logs, "setup", lambda *, level, form: None)
    for name in ("harden", "allow_many_files", "log_bugs"):
        monkeypatch.setattr(process, name, lambda: None)

    assert os.EX_CANTCREAT == main.main(["run"])
    assert "somebody else's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["run"], "this user has no home folder"),
        (["run", "-c", "/none.cfg"], "this user has no home folder"),
        (["run", "-c", "%h/cms.cfg"], "only systemd replaces %h"),
        (["run", "--config=~/cms.cfg"], "this user has no home folder"),
    ],
)
def test_a_daemon_without_a_home_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    """The same in the log as in a command's message: no traceback."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "STATE_DIRECTORY", "CONFIGURATION_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_000_000_000)
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_CONFIG", "/none")
    monkeypatch.setattr("cms_oauth.paths._SYSTEM_STATE", "/none")
    monkeypatch.setattr(logs, "setup", lambda *, level, form: None)
    for name in ("harden", "allow_many_files", "log_bugs"):
        monkeypatch.setattr(process, name, lambda: None)

    assert os.EX_CONFIG == main.main(arguments)
    assert why in capsys.readouterr().out


_LOOK = """
import sys
from cms import main
main.run_daemon = lambda run: print(sorted({name.partition(".")[0] for name in sys.modules} & {"click", "msal"}))
sys.exit(main.main(["run", "-c", "/x"]))
"""


def test_the_daemon_never_imports_click() -> None:
    """Reading its command line costs nothing that stays."""
    seen = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True, cwd=ROOT)

    assert "[]\n" == seen.stdout


# What every command loads of cms: the list of commands.
_LIST = {
    *("cms", "cms.main", "cms.cli", "cms.cli.run_line", "cms.cli.failure", "cms.cli.terminal"),
    *("cms.cli.commands", "cms.cli.commands.options", "cms.system", "cms.system.start"),
    *("cms_oauth", "cms_oauth.documents", "cms_oauth.expand", "cms_oauth.paths", "cms_oauth.text", "cms_oauth.version"),
}
# What it takes to ask a daemon.
_ASK = {
    *("cms.cli.connect", "cms.cli.client", "cms.core", "cms.core.json_lines"),
    *("cms.system", "cms.system.files", "cms.system.state_lock", "cms.system.users"),
    "cms_oauth.impostor",
    *("cms_oauth.frozen", "cms_oauth.json_object", "cms_oauth.moves", "cms_oauth.peer"),
}
# What a question loads: how to ask, and how to show the answer. None of what a daemon is made of: each frozen dataclass
# takes half a millisecond to make, and trio as long as ten interpreters to start.
_QUESTION = {
    *_ASK,
    "cms.cli.commands.daemon",
    "cms.cli.watch",
    "cms.core.status_table",
    "cms.core.status_text",
    "cms.core.words",
}
# A sign-in that a daemon takes care of.
_SIGN_IN = {
    *_ASK,
    *("cms.cli.commands.sign_ins", "cms.cli.login", "cms.cli.browser", "cms.cli.transfer", "cms_oauth.addresses"),
    *("cms_oauth.providers", "cms_oauth.microsoft"),
}
# None of the daemon's libraries, and nothing that loads OpenSSL.
_HEAVY = {
    *("trio", "structlog", "msal", "requests", "cryptography", "keyring", "platformdirs"),
    *("asyncio", "concurrent", "logging", "ssl", "_hashlib"),
}

_LOADED = """
import atexit, sys
from cms import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
sys.argv[0] = "cms"
sys.exit(main.main())
"""

Loads = Callable[..., tuple[set[str], str]]


@pytest.fixture
def loads(home: Path) -> Loads:
    """Return the modules that a command loads, and its output. It runs without `site`, which would load others."""

    def run(*arguments: str, **environment: str) -> tuple[set[str], str]:
        ran = subprocess.run(
            [sys.executable, "-S", "-c", _LOADED, *arguments],
            env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{Path(click.__file__).parent.parent}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(ran.stderr.splitlines()[-1].split()), ran.stdout

    return run


def _ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in ("cms", "cms_oauth")}


@pytest.mark.parametrize(
    ("arguments", "environment", "shown"),
    [
        (["--help"], {}, "status  "),
        (["--version"], {}, VERSION),
        ([], {"_CMS_COMPLETE": "bash_complete", "COMP_WORDS": "cms ", "COMP_CWORD": "1"}, "plain,status"),
        (
            [],
            {"_CMS_COMPLETE": "zsh_complete", "COMP_WORDS": "cms re", "COMP_CWORD": "1"},
            "Read the configuration again.",
        ),
        ([], {"_CMS_COMPLETE": "bash_source"}, "complete -o nosort"),
    ],
)
def test_the_list_of_commands_loads_none(
    loads: Loads, arguments: list[str], environment: dict[str, str], shown: str
) -> None:
    """A shell asks for it with each TAB."""
    loaded, out = loads(*arguments, **environment)

    assert shown in out
    assert (_LIST, set()) == (_ours(loaded), loaded & _HEAVY)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["status"], "no accounts"), (["refresh"], ""), (["reload"], ""), (["status", "--json"], "{")],
)
def test_a_question_to_the_daemon_loads_no_daemon(loads: Loads, home: Path, arguments: list[str], shown: str) -> None:
    """Monitoring and prompts ask for the status again and again."""
    answer = done(json={"version": 1, "accounts": []}, exit_code=0)
    with daemon(home, answer):
        loaded, out = loads(*arguments)

    assert shown in out
    assert (_LIST | _QUESTION, set()) == (_ours(loaded), loaded & _HEAVY)


@pytest.mark.parametrize("words", ["cms status --", "cms refresh --"])
def test_completing_an_option_loads_its_command_only(loads: Loads, words: str) -> None:
    """Of the modules of commands, the one."""
    loaded, out = loads(_CMS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD="2")

    assert "plain,--help" in out
    assert (_LIST | _QUESTION, set()) == (_ours(loaded), loaded & _HEAVY)


@pytest.mark.parametrize("arguments", [["login", "a"], ["logout", "a"], ["prune"]])
def test_a_running_daemon_signs_in_by_itself(loads: Loads, home: Path, arguments: list[str]) -> None:
    """The daemon's half is loaded where no daemon runs."""
    with daemon(home, done()):
        loaded, _ = loads(*arguments)

    assert (_LIST | _SIGN_IN, set()) == (_ours(loaded), loaded & _HEAVY)


def test_the_module_is_the_command() -> None:
    """`python -m cms.main` is `cms`."""
    ran = subprocess.run(
        [sys.executable, "-m", "cms.main", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert f"cms, version {VERSION}\n" == ran.stdout


_INTERRUPTED_IMPORT = """
import sys
from cms import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name in ("click", "trio"):
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["run", "login", "status"])
def test_giving_up_at_once_is_no_traceback(command: str) -> None:
    """Ctrl-C may come while libraries are still being loaded, the daemon's as well."""
    ran = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, command], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert (INTERRUPTED, "", "cms: interrupted\n") == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.usefixtures("home")
def test_the_arguments_are_the_processs_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the installed command is called."""
    monkeypatch.setattr(sys, "argv", ["cms", "--version"])

    assert 0 == main.main()
    assert VERSION in capsys.readouterr().out
