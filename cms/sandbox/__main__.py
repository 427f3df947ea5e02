"""`python -m cms.sandbox [USER ...]`: an Entra and a submission server in one process, until SIGTERM or end of input.

Prints one line of JSON once both listen: where they are, the CA's file, the client id to configure and the address
that `cms.sandbox.remote.Remote` takes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TextIO

_USAGE = "usage: python -m cms.sandbox [USER ...]"


def main(argv: Sequence[str], given: int = 0, out: TextIO = sys.stdout) -> int:
    """Run until the file descriptor `given` ends, or a signal; `argv` names users."""
    if wrong := [each for each in argv if each.startswith("-")]:
        asked = {"-h", "--help"} & set(wrong)
        print(_USAGE, file=out if asked else sys.stderr)
        return os.EX_OK if asked else os.EX_USAGE
    try:
        # PLC0415: only here is it known whether the libraries of the extra "sandbox" are there.
        from cms.sandbox.directory import CLIENT_ID  # noqa: PLC0415
        from cms.sandbox.entra import Entra  # noqa: PLC0415
        from cms.sandbox.remote import attach, describe  # noqa: PLC0415
        from cms.sandbox.submission import Submission  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f"cms.sandbox needs {error.name}, of cms's extra: pip install '.[sandbox]'", file=sys.stderr)
        return os.EX_UNAVAILABLE
    over = threading.Event()
    threading.Thread(target=_read_out, args=(given, over), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with Entra(argv) as entra, Submission(entra.introspect, entra.cert_file) as submission:
        where = describe(entra) | {
            "client_id": CLIENT_ID,
            "control": attach(entra, submission),
            "submission": f"localhost:{submission.port}",
        }
        print(json.dumps(where), file=out, flush=True)
        over.wait()
    return 0


def _read_out(given: int, over: threading.Event) -> None:
    # Not sys.stdin: the interpreter cannot exit in order while a thread waits inside of it.
    while os.read(given, 4096):
        pass
    over.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
