"""Calls that may never return."""

from __future__ import annotations

import threading

import pytest

from cms.system import threads


class _Mistake(BaseException):
    """What no `except Exception` catches."""


def test_a_call_returns_what_it_returns_in_time() -> None:
    """Who waits gets the result."""
    assert threads.start(lambda: 42).result(60) == 42


def test_a_call_raises_what_it_raises() -> None:
    """Who waits gets the exception, of whatever kind: none is lost in the thread."""

    def fail() -> None:
        raise _Mistake

    with pytest.raises(_Mistake):
        threads.start(fail).result(60)


def test_a_call_that_hangs_is_abandoned() -> None:
    """Who waits gets a TimeoutError; the thread has the name it was given, and the process could end without it."""
    release, runs_in = threading.Event(), list[threading.Thread]()

    def hang() -> str:
        runs_in.append(threading.current_thread())
        release.wait(60)
        return "late"

    call = threads.start(hang, "lookup")
    with pytest.raises(TimeoutError):
        call.result(0.01)
    release.set()

    assert call.result(60) == "late"
    assert (runs_in[0].name, runs_in[0].daemon) == ("lookup", True)
