"""The completions, in real shells: options, forms, and the accounts of a running daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import completions
import pytest
from support.command_line import daemon, done, empty_folders
from support.programs import require_program
from support.terminal import Terminal

from cms.cli.commands.daemon import refresh
from cms.cli.commands.options import account_names
from cms_oauth.options import parser
from cms_oauth.wire import FORMS

ACCOUNTS = [{"user": "alice@example.com"}, {"user": "bob@example.com"}, {"user": "*@example.com"}]
STATUS = done(json={"version": 1, "accounts": ACCOUNTS}, exit_code=0)

# How a shell starts that reads nothing of the machine's but the file to test.
START = {
    "bash": 'source "$1"/cms; source "$1"/cms-oauth; shopt -u hostcomplete; PS1=ready:',
    "zsh": 'fpath=("$1" $fpath); autoload -U compinit; compinit -u -D; PS1=ready:',
    "fish": "",
}


class Here:
    """This user, in a home of the test's."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._home,
            env={**os.environ, **environment},
        )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a daemon, and `cms` in the PATH."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    for name in ("XDG_DATA_DIRS", "XDG_DATA_HOME", "ENV", "BASH_ENV", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture(params=completions.PLACES)
def shell(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    """Each shell in turn, at its prompt."""
    name = str(request.param)
    program = require_program(name, name)
    for command, made in (("cms", completions.cms), ("cms-oauth", completions.cms_oauth)):
        place = home / completions.PLACES[name].format(command=command)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(made(name))
    folder = place.parent
    (home / ".bashrc").write_text(f"set -- {folder}\n{START['bash']}\n")
    (home / ".zshrc").write_text(f"set -- {folder}\n{START['zsh']}\n")
    (home / "config" / "fish").mkdir(parents=True)
    (home / "config" / "fish" / "config.fish").write_text("function fish_prompt; echo ready:; end\nset fish_greeting\n")
    terminal = Terminal(Here(home), program, "-i", XDG_DATA_DIRS=f"{home}/share:/usr/share")
    try:
        terminal.wait_for("ready:")
        yield terminal
    finally:
        terminal.close()


def test_an_option_is_completed(shell: Terminal) -> None:
    """Of both commands."""
    shell.press("cms-oauth --out", "Tab")
    shell.wait_for("cms-oauth --output")
    shell.press("C-u", "cms status --che", "Tab")
    shell.wait_for("cms status --check")


def test_a_form_is_completed_after_the_sign(shell: Terminal) -> None:
    """`--output=`, as everybody writes it."""
    shell.press("cms-oauth --output=oauthb", "Tab")
    shell.wait_for("cms-oauth --output=oauthbearer")


def test_a_command_is_completed(shell: Terminal) -> None:
    """Of those that `cms` has."""
    shell.press("cms refr", "Tab")
    shell.wait_for("cms refresh")


@pytest.mark.parametrize("line", ["cms refresh al", "cms-oauth --user=al"])
def test_an_account_is_completed(shell: Terminal, home: Path, line: str) -> None:
    """The daemon says whom it serves."""
    with daemon(home, STATUS):
        shell.press(line, "Tab")
        shell.wait_for(f"{line}ice@example.com")


@pytest.mark.parametrize("begun", ["", "*"])
def test_every_address_of_a_domain_is_not_completed(home: Path, begun: str) -> None:
    """A shell would put the names of files in the place of its `*`."""
    with daemon(home, STATUS):
        found = account_names(click.Context(refresh), refresh.params[0], begun)

    assert ([] if begun else ["alice@example.com", "bob@example.com"]) == found


HOSTILE = [{"user": f"{name}@example.com"} for name in ("a$(touch${IFS}sprung)", "a`touch${IFS}sprung`", "al'ex")]


@pytest.mark.parametrize("line", ["cms refresh al", "cms-oauth --user=al"])
def test_a_name_runs_nothing_in_a_shell(shell: Terminal, home: Path, line: str) -> None:
    """A daemon may say anything: no name is run, and none keeps the others from being completed."""
    status = done(json={"version": 1, "accounts": [*HOSTILE, *ACCOUNTS]}, exit_code=0)
    with daemon(home, status):
        shell.press(line, "Tab")
        shell.wait_for(f"{line}ice@example.com")

    assert not (home / "sprung").exists()


@pytest.mark.parametrize("begun", ["", "a"])
def test_names_that_a_shell_would_read_otherwise_are_not_completed(home: Path, begun: str) -> None:
    """Whatever was typed of them."""
    with daemon(home, done(json={"version": 1, "accounts": HOSTILE}, exit_code=0)):
        assert [] == account_names(click.Context(refresh), refresh.params[0], begun)


def test_without_a_daemon_nothing_is_completed_and_nothing_said(shell: Terminal) -> None:
    """No message in the middle of somebody's command line."""
    shell.press("cms-oauth --user=al", "Tab", "x")
    screen = shell.wait_for("cms-oauth --user=alx")

    assert "daemon" not in screen
    assert "rror" not in screen


@pytest.mark.parametrize("shell_name", completions.PLACES)
def test_every_option_and_form_of_the_client_is_there(shell_name: str) -> None:
    """The files name each option once, in its first spelling, and each form."""
    text = completions.cms_oauth(shell_name)
    dashes = "-l " if shell_name == "fish" else "--"
    options = [action.option_strings[0].removeprefix("--") for action in parser()._actions]

    assert len(options) > 10
    assert [] == [option for option in options if f"{dashes}{option}" not in text]
    assert " ".join(FORMS) in text
