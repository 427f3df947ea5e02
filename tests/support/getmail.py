"""A getmail that waits for the process which delivers a message."""

from __future__ import annotations

from support.person import Person

# A process of getmail's own delivers each message. Before 6.19.09 getmail waits for the signal of its end, and where that
# comes before getmail waits, as on a busy machine it may, getmail hangs for minutes and forgets that the message is
# there (https://github.com/getmail6/getmail6/issues/245). Here it waits for the process, as newer ones do.
_WAIT_FOR_THE_PROCESS = """
import os
from getmailcore.baseclasses import ForkingBase

if hasattr(ForkingBase, "_child_handler"):
    ForkingBase._prepare_child = lambda self: None
    ForkingBase._wait_for_child = lambda self, pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def patient(owner: Person) -> dict[str, str]:
    """Return the environment in which a person's getmail waits."""
    # Python runs a file of this name by itself. cms's commands run isolated from it.
    file = owner.file("python/sitecustomize.py", _WAIT_FOR_THE_PROCESS)
    return {"PYTHONPATH": str(file.parent)}
