"""How a process of cms begins, and what its children inherit of that."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from support.signals import HOSTILE, dispositions

from cms.system import start

# A process with every signal ignored and blocked that can be, as a careless parent may leave it.
BEGUN = f"{HOSTILE}from cms.system.start import begin\nbegin()\n"


def child_of(program: str) -> str:
    """Return what the kernel says of a child that subprocess starts in such a program."""
    program += "import subprocess\nsubprocess.run(['cat', '/proc/self/status'], check=True)\n"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_children_ignore_and_block_nothing() -> None:
    """Whatever the parent of cms ignored and blocked; a job in the background stays one. Without `begin` they inherit it all."""
    ignored, blocked = dispositions(child_of(BEGUN))
    twin = dispositions(child_of(HOSTILE))

    assert {"SIGTTIN", "SIGTTOU"} == ignored
    assert set() == blocked
    assert all({"SIGHUP", "SIGTERM", "SIGUSR1"} <= each for each in twin)


def test_an_ignored_signal_still_does_nothing() -> None:
    """`nohup cms ...` goes on when the terminal is closed."""
    program = f"{BEGUN}import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nprint('alive')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "alive\n" == done.stdout


def test_what_cms_writes_is_private() -> None:
    """The umask is 077, also for children, whatever it was."""
    assert "0077" == re.findall(r"^Umask:\t(\d+)", child_of(BEGUN), re.MULTILINE)[0]


def test_a_program_of_the_persons_gets_their_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    """And afterwards it is that of cms again."""
    monkeypatch.setattr(start, "_given", 0o027)
    start.begin()
    with start.with_the_persons_umask():
        during = os.umask(0)

    assert (0o027, 0o077) == (during, os.umask(0o077))
