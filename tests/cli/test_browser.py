"""Which browser opens a link: what `$BROWSER` says, as other programs read it, or the desktop's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.signals import HOSTILE, dispositions
from support.waiting import PATIENCE, until

from cms.cli.browser import browser, chosen

URL = "https://login.example.test/authorize?a=1&b=%2F%73"

Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a program that writes down its name and its arguments, and ends with a status."""

    def write(*names: str, status: int = 0) -> None:
        for name in names:
            program = tmp_path / name
            program.write_text(f'#!/bin/sh\nprintf "%s " {name} "$@" >> {tmp_path}/opened\nexit {status}\n')
            program.chmod(stat.S_IRWXU)

    return write


def opened(folder: Path) -> str:
    found = folder / "opened"
    return found.read_text() if found.exists() else ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (":", []),
        ("w3m", [["w3m", "%s"]]),
        ("firefox:w3m", [["firefox", "%s"], ["w3m", "%s"]]),
        ("lynx -accept_all_cookies %s", [["lynx", "-accept_all_cookies", "%s"]]),
        ("chromium --app=%s", [["chromium", "--app=%s"]]),
        ("firefox -P 'my profile'", [["firefox", "-P", "my profile", "%s"]]),
        ("firefox %s &", [["firefox", "%s"]]),
        ("'broken:w3m", [["w3m", "%s"]]),
        ("/opt/my browser/run:w3m", [["/opt/my", "browser/run", "%s"], ["w3m", "%s"]]),
        ("%s", [["%s", "%s"]]),
    ],
)
def test_how_the_variable_is_read(text: str, expected: list[list[str]]) -> None:
    """Commands with colons between them; the address is where `%s` is, or comes last."""
    assert expected == chosen(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("carbonyl", f"carbonyl {URL} "),
        ("missing:carbonyl", f"carbonyl {URL} "),
        ("fails:carbonyl", f"fails {URL} carbonyl {URL} "),
        ("carbonyl --zoom=50%% %s --bitmap", f"carbonyl --zoom=50% {URL} --bitmap "),
        ("helper --open=%s", f"helper --open={URL} "),
    ],
)
@pytest.mark.parametrize("remote", [True, False])
def test_without_a_desktop_it_runs_in_the_terminal(
    make: Make, tmp_path: Path, text: str, expected: str, *, remote: bool
) -> None:
    """To its end, with the terminal to itself, also over SSH; the first that works is used."""
    make("carbonyl", "helper")
    make("fails", status=1)
    lent: list[str] = []

    @contextmanager
    def lend() -> Iterator[None]:
        lent.append("lent")
        yield
        lent.append("back")

    found = browser({"BROWSER": text, "PATH": f"{tmp_path}:/usr/bin:/bin"}, remote=remote, lent=lend)

    assert found is not None
    assert found(URL)
    assert expected == opened(tmp_path)
    assert ["lent", "back"] * expected.count(URL) == lent


@pytest.mark.parametrize("name", ["firefox", "xdg-open"])
def test_on_a_desktop_nothing_waits_for_it(make: Make, tmp_path: Path, name: str) -> None:
    """The browser may stay open for days."""
    make(name)
    program = tmp_path / name
    program.write_text(program.read_text().replace("exit 0", "exec sleep 600"))
    variables = {"BROWSER": "firefox"} if name == "firefox" else {}
    found = browser({**variables, "WAYLAND_DISPLAY": "wayland-0", "PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert found is not None

    assert found(URL)
    assert until(lambda: f"{name} {URL} " == opened(tmp_path), "the address")
    # Between the two it is a shell.
    pkill = ["/usr/bin/pkill", "-x", "-P", str(os.getpid()), "sleep"]
    until(lambda: subprocess.run(pkill, check=False).returncode == 0, "the browser that stays")


def test_on_a_desktop_a_browser_of_the_terminal_still_has_it(make: Make, tmp_path: Path) -> None:
    """Who sets such a browser means it."""
    make("w3m", "xdg-open")
    found = browser({"BROWSER": f"{tmp_path}/w3m -cookie", "DISPLAY": ":0", "PATH": str(tmp_path)})
    assert found is not None

    assert found(URL)
    assert f"w3m -cookie {URL} " == opened(tmp_path)


def test_the_desktops_browser_comes_last(make: Make, tmp_path: Path) -> None:
    """Where nothing of `$BROWSER` can be started."""
    make("xdg-open")
    found = browser({"BROWSER": "missing:lynx", "DISPLAY": ":0", "PATH": f"{tmp_path}:/bin"})
    assert found is not None

    assert found(URL)
    assert until(lambda: f"xdg-open {URL} " == opened(tmp_path), "the address")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"BROWSER": ""},
        {"DISPLAY": ":0", "PATH": "/nowhere"},
    ],
)
def test_where_there_is_none(make: Make, tmp_path: Path, variables: dict[str, str]) -> None:
    """No display, and nothing named: the person opens the link."""
    make("xdg-open")

    assert browser({"PATH": str(tmp_path), **variables}) is None


@pytest.mark.parametrize("text", ["missing", "'", "~/w3m", "NAME=1 w3m", ":"])
def test_a_browser_that_is_not_there_fails(make: Make, tmp_path: Path, text: str) -> None:
    """Who named one hears that it could not be started."""
    make("w3m", "xdg-open")
    found = browser({"PATH": str(tmp_path), "BROWSER": text})

    assert found is not None
    assert not found(URL)


def test_over_ssh_the_display_is_of_another_machine(make: Make, tmp_path: Path) -> None:
    """Not even where X is forwarded: the browser would run here. What `$BROWSER` names is meant."""
    make("xdg-open", "code-helper")
    forwarded = {"DISPLAY": "localhost:10.0", "PATH": str(tmp_path)}

    assert browser(forwarded, remote=True) is None
    assert browser({**forwarded, "BROWSER": "code-helper"}, remote=True) is not None


def test_without_a_terminal_nothing_draws_in_it(make: Make, tmp_path: Path) -> None:
    """A pasted address may come from a pipe, which a browser would read."""
    make("w3m", "code-helper")
    both = browser({"BROWSER": "w3m:code-helper", "PATH": f"{tmp_path}:/bin"}, terminal=False)

    alone = browser({"BROWSER": "w3m", "PATH": f"{tmp_path}:/bin"}, terminal=False)
    assert alone is not None
    assert not alone(URL)
    assert both is not None
    assert both(URL)
    assert until(lambda: f"code-helper {URL} " == opened(tmp_path), "the address")


def test_what_cannot_be_run_is_passed_over(tmp_path: Path) -> None:
    """A file that is no program: no traceback, and the person is told."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(stat.S_IRWXU)
    for display in ({}, {"DISPLAY": ":0"}):
        found = browser({"BROWSER": "broken", "PATH": str(tmp_path), **display})

        assert found is not None
        assert not found(URL)


def test_an_interrupt_is_the_browsers() -> None:
    """Ctrl-C in it goes to cms too, which does not give up the sign-in for that."""
    script = (
        "import os, signal, sys; from cms.cli.browser import browser\n"
        "found = browser({'BROWSER': 'sh -c \"kill -INT $PPID; exit 0\"', 'PATH': os.environ['PATH']})\n"
        "assert found('https://x.test/')\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert "goes on\n" == done.stdout, done.stderr


@pytest.mark.parametrize("apart", [True, False])
def test_it_gets_signals_and_umask_as_from_a_shell(tmp_path: Path, *, apart: bool) -> None:
    """Whatever cms itself does with them, in a window and in the terminal."""
    program = tmp_path / ("firefox" if apart else "w3m")
    program.write_text(f"#!/bin/sh\ncat /proc/self/status > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/status\n")
    program.chmod(stat.S_IRWXU)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BROWSER": program.name, **({"DISPLAY": ":0"} if apart else {})}
    script = (
        f"{HOSTILE}import os\nos.umask(0o022)\n"
        "from cms.system.start import begin\nfrom cms.cli.browser import browser\n"
        f"begin()\nassert browser({environment!r})('http://localhost/')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    until((tmp_path / "status").exists, "the browser")
    said = (tmp_path / "status").read_text()

    assert (set(), set()) == dispositions(said)
    assert "Umask:\t0022" in said
