"""Opens an address in the browser that the person uses: `$BROWSER`, else the desktop's by xdg-open.

`$BROWSER` is read as other programs read it: commands with `:` between them, the first that works is used; `%s` in a
command stands for the address, which otherwise comes last.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from cms.system.start import with_the_persons_umask

# Set if there is a display for a browser.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")

# Browsers that draw in the terminal, also where there is a display.
_IN_TERMINAL = frozenset(
    ("w3m", "lynx", "links", "links2", "elinks", "www-browser", "carbonyl", "browsh", "cha", "edbrowse", "netsurf-fb")
)

# The signals that a browser gets as if a shell had started it. Python, for instance, ignores SIGPIPE.
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

# What stands for the address in a command, and for a percent sign.
_MARK = re.compile("%[s%]")

# Opens an address, and returns whether a browser has been started. The terminal is lent to it meanwhile.
Browse = Callable[[str], bool]


def browser(
    environment: Mapping[str, str] | None = None,
    *,
    remote: bool = False,
    terminal: bool = True,
    lent: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Browse | None:
    """Return a function that opens an address, None if neither `$BROWSER` nor a desktop says where.

    The function fails if nothing of what `$BROWSER` says can be started.

    `remote` says that the person is here over SSH: what is on the display of this machine is not for them. `terminal` says
    that there is one: a browser that draws in it has it to itself, by `lent`, until it ends.
    """
    environment = os.environ if environment is None else environment
    display = any(environment.get(name) for name in _DISPLAYS)
    named = environment.get("BROWSER", "")
    commands = chosen(named)
    if display and not remote:
        commands.append(["xdg-open", "%s"])
    found = [
        (program, command)
        for command in commands
        if (program := shutil.which(command[0], path=environment.get("PATH")))
        and (terminal or not _draws_in_terminal(program))
    ]
    if not (found or named):
        return None

    def browse(url: str) -> bool:
        for program, command in found:
            words = [_MARK.sub(lambda mark: url if mark[0] == "%s" else "%", each) for each in command]
            apart = not terminal or (display and not _draws_in_terminal(program))
            if _start_apart(program, words, environment) if apart else _run_here(program, words, environment, lent):
                return True
        return False

    return browse


def chosen(text: str) -> list[list[str]]:
    """Return the commands of `$BROWSER` as words, each with `%s` somewhere; what is no command is left out."""
    commands = list[list[str]]()
    for each in text.split(os.pathsep):
        try:
            words = shlex.split(each)
        except ValueError:
            continue
        # For programs that would wait: cms decides that by itself.
        if words and words[-1] == "&":
            del words[-1]
        if words:
            commands.append(words if any("%s" in word for word in words[1:]) else [*words, "%s"])
    return commands


def _draws_in_terminal(program: str) -> bool:
    return Path(program).name in _IN_TERMINAL


def _start_apart(program: str, words: list[str], environment: Mapping[str, str]) -> bool:
    # Its output would disturb this terminal, and it may run as long as the browser, so cms does not wait for it.
    quiet = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, fd) for fd in (1, 2))]
    try:
        _start(program, words, environment, file_actions=quiet, setsid=True)
    except OSError:
        return False
    return True


def _start(program: str, words: list[str], environment: Mapping[str, str], **more: Any) -> int:
    """Start a program as a shell would, and return its process id. Raises OSError."""
    with with_the_persons_umask():
        return os.posix_spawn(program, words, environment, setsigdef=_SIGNALS, setsigmask=(), **more)


def _run_here(
    program: str, words: list[str], environment: Mapping[str, str], lent: Callable[[], AbstractContextManager[object]]
) -> bool:
    """Run a program in this terminal to its end; return whether it did not fail. Ctrl-C is the program's meanwhile."""
    with lent():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            child = _start(program, words, environment)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        except OSError:
            return False
        finally:
            signal.signal(signal.SIGINT, before)
