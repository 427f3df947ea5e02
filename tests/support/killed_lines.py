"""Work in a child process that is killed at any line of the code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType, ModuleType
from typing import Any


def killed_at(number: int, work: Callable[[], object], modules: Iterable[ModuleType]) -> bool:
    """Do some work in a child that is killed at the `number`th line of these modules; False if it got through."""
    watched = {str(each.__file__) for each in modules}
    child = os.fork()
    if child == 0:
        left = number

        def trace(frame: FrameType, event: str, _arg: object) -> Any:
            nonlocal left
            if frame.f_code.co_filename not in watched:
                return None
            left -= event == "line"
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
