"""The process of a configuration: `python -m cms.config SOCKET PIPE`, with two descriptors that `cms.config.child` opens.

It reads one line from the socket: which file, and how long it may take. It runs the file and answers over the socket
(`cms.config.answer`). If the time is over first, it writes to the pipe what it is doing. The other descriptors, the
terminal, the environment and the current folder are those of the process that has started it.
"""

from __future__ import annotations

import signal
import sys

# Ctrl-C ends this process without a word until the file runs: the process that has started it tells the person.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import ctypes
import faulthandler
import os
import resource
import socket
from contextlib import suppress

from cms.config import answer
from cms.config.load import load
from cms.config.model import Config, ConfigError
from cms.core import json_lines

# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

# Longer than any path that Linux opens, written as JSON.
_LONGEST_REQUEST = 64 * 1024


def prepare() -> None:
    """Tie this process to the one that has started it, and protect its memory as that one's is protected."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # It ends with its parent, whatever the file does.
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What the file starts stays below this process, so that it can be killed with it.
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A file may ask a password manager.
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(file: str) -> Config | ConfigError:
    """Run the file, and return what comes of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return load(file)
    except ConfigError as error:
        return error
    except KeyboardInterrupt:
        # While cms makes a `Config` of what the file has said.
        return ConfigError(file, None, "it was interrupted")
    finally:
        # What the file prints comes before what cms says of it.
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()


def main() -> int:
    """Answer one request; return the exit status."""
    sock, pipe = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    for descriptor in (sock.fileno(), pipe):
        os.set_inheritable(descriptor, False)
    prepare()
    # The end of the socket: the process that has started this one needs no configuration any more.
    with sock.makefile("rb") as reading:
        line = reading.readline(_LONGEST_REQUEST)
    if not line:
        return os.EX_OK
    request, me, ours = json_lines.unpack(line), os.getpid(), os.fstat(sock.fileno())
    # It needs no turn of the interpreter, so it also tells of a loop in a library, and it uses no signal of the file's.
    faulthandler.dump_traceback_later(request["seconds"], file=pipe)
    said = run(request["file"])
    if os.getpid() != me:
        # A copy of this process, which the file has made by a fork: one answer is enough.
        return os.EX_OK
    faulthandler.cancel_dump_traceback_later()
    with suppress(OSError):
        # A file that closes descriptors may have closed this one, and may have something else there now.
        if os.path.samestat(ours, os.fstat(sock.fileno())):
            with sock.makefile("wb") as writing:
                writing.writelines(answer.pack(said))
            return os.EX_OK
    return os.EX_IOERR


if __name__ == "__main__":
    # Without waiting for threads that the file has left.
    os._exit(main())
