from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
from support.trio_run import in_trio

from cms.system import process

PROGRAM = """
import ctypes, os, resource
from cms.system.process import harden
harden()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_hardened_process_dumps_no_core_and_cannot_be_traced() -> None:
    """Both core limits are 0 and the kernel's dumpable flag (prctl 3) is 0."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert "(0, 0) 0\n" == done.stdout


class NoPrctl:
    """A C library whose kernel refuses."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def prctl(self, *_args: int) -> int:
        return -1


def test_a_kernel_that_refuses_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the process cannot be hidden, the log says so and the daemon runs."""
    monkeypatch.setattr(ctypes, "CDLL", NoPrctl)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    process.harden()

    assert "cannot be hidden from debuggers" in capsys.readouterr().out


HEAP = """
import re
from pathlib import Path
from cms.system.process import give_back_memory
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
pieces = [bytes(4000) for _ in range(5000)]
held = pieces[-1]
del pieces
before = resident()
give_back_memory()
print(before - resident())
"""


def test_what_is_free_between_other_pieces_is_given_back() -> None:
    """Most of twenty megabytes, behind which a piece is in use."""
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)

    assert int(done.stdout) > 10_000


def test_a_c_library_that_cannot_give_memory_back_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens, as with musl."""
    monkeypatch.setattr(ctypes, "CDLL", NoPrctl)

    process.give_back_memory()


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 4096), [(4096, 4096)]),
        ((1024, resource.RLIM_INFINITY), [(process.MANY_FILES, resource.RLIM_INFINITY)]),
        ((1024, 10**6), [(process.MANY_FILES, 10**6)]),
        ((process.MANY_FILES, 10**6), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_open_files_are_allowed_within_reason(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: list[tuple[int, int]]
) -> None:
    """The soft limit goes up to the hard one or to MANY_FILES, and never down."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: seen.append(wanted))
    process.allow_many_files()

    assert raised == seen


def test_uncaught_exceptions_go_to_the_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the main thread, of other threads, and those that cannot be raised: each is a line of the log."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    process.log_bugs()
    sys.excepthook(ValueError, ValueError("one"), None)
    thread = threading.Thread(target=int, args=["two"])
    thread.start()
    thread.join()
    Broken().leave()

    said = capsys.readouterr().out
    expected = ("cms ends by a bug", "a thread ended by a bug", "an exception that could not be raised")
    assert [True] * 3 == [text in said for text in expected]


class Broken:
    """Raises where no code can catch it."""

    def leave(self) -> None:
        self.left = True

    def __del__(self) -> None:
        raise ValueError("three")


@in_trio
async def test_signals_say_what_they_ask_for() -> None:
    """SIGHUP asks for a reload, SIGTERM and SIGINT for the end."""
    heard: list[str] = []
    numbers = [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]
    with process.signals() as asked:
        os.kill(os.getpid(), numbers[0])
        async for what in asked:
            heard.append(what)
            if len(heard) == len(numbers):
                break
            os.kill(os.getpid(), numbers[len(heard)])

    assert ["reload", "stop", "stop"] == heard
