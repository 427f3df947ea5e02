"""The queue of scripted faults."""

from __future__ import annotations

import threading

import pytest

from cms.sandbox.faults import Fault, Faults


def test_unknown_kind() -> None:
    """A fault that does not exist is a mistake of the script's, and what exists is named."""
    with pytest.raises(ValueError, match="no such fault: 'meteor'; there are status, reset"):
        Fault("meteor")


def test_times_are_counted() -> None:
    """A fault strikes as often as it says, and then the next one does."""
    faults = Faults()
    faults.add(Fault("status", times=2))
    faults.add(Fault("reset", times=None))

    kinds = []
    left = []
    for _ in range(4):
        left.append(faults.left())
        fault = faults.take("token", "", "")
        kinds.append(fault.kind if fault else "")

    assert ["status", "status", "reset", "reset"] == kinds
    assert [3, 2, 1, 1] == left


@pytest.mark.parametrize(
    ("fault", "strikes"),
    [
        (Fault("reset"), True),
        (Fault("reset", "devicecode"), False),
        (Fault("reset", user="A@x"), True),
        (Fault("reset", user="b@x"), False),
        (Fault("reset", grant_type="refresh_token"), True),
        (Fault("reset", grant_type="authorization_code"), False),
    ],
)
def test_what_it_strikes(fault: Fault, *, strikes: bool) -> None:
    """A fault strikes where everything that it names is so."""
    faults = Faults()
    faults.add(fault)

    assert strikes is (faults.take("token", "a@x", "refresh_token") is fault)


def test_clear_drops_everything() -> None:
    """After clear nothing strikes."""
    faults = Faults()
    faults.add(Fault("reset", times=None))
    faults.clear()

    assert (None, 0) == (faults.take("token", "", ""), faults.left())


def test_silence_has_an_end() -> None:
    """A silence lasts as long as it says, unless clear ends it."""
    faults = Faults()
    faults.silence(0.001)
    silent = threading.Thread(target=faults.silence, args=(600,))
    silent.start()
    while silent.is_alive():  # clear may come before the silence has begun
        faults.clear()
        silent.join(0.01)

    assert not silent.is_alive()
