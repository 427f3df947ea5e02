"""How a process of cms begins, whatever started it: what it writes is private, and what it starts gets usual signals.

Every `cms` command loads this, so it imports little.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The flag for Python in a process that runs cms: nothing in the current folder is imported; and if this process ignores
# PYTHONPATH and the like, as a script of root's does that begins with `python -I`, so does that one.
ISOLATION = "-I" if sys.flags.isolated else "-P"

# No rights for the group and for others.
_PRIVATE = 0o077

# Python itself ignores the first two, and subprocess gives them back to children. A handler for the others would fail
# what a background job does with its terminal, instead of letting it pass.
_LEFT_ALONE = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTIN, signal.SIGTTOU)


def begin() -> None:
    """Set the umask, unblock all signals, and let no child inherit that a signal is ignored."""
    os.umask(_PRIVATE)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if number not in _LEFT_ALONE and signal.getsignal(number) == signal.SIG_IGN:
            # exec turns a handler into the default, and SIG_IGN into nothing else. nohup keeps its effect on cms.
            signal.signal(number, ignore)


def ignore(_number: int, _frame: object) -> None:
    """Do nothing: the handler of a signal that this process ignores and that its children shall not ignore."""


# The umask with which this process was started.
_given = os.umask(_PRIVATE)
os.umask(_given)


@contextmanager
def with_the_persons_umask() -> Iterator[None]:
    """Use the umask that cms was started with while the block runs: for a program that is the person's, not part of cms."""
    before = os.umask(_given)
    try:
        yield
    finally:
        os.umask(before)
