"""A simulated Entra in a process of its own, until its standard input ends: `python -I sandbox_process.py [USER ...]`.

Prints one line of JSON once it listens: its address and the file of its certificate authority.
"""

from __future__ import annotations

import json
import sys

from cms.sandbox.entra import Entra

if __name__ == "__main__":
    with Entra(sys.argv[1:]) as entra:
        print(json.dumps({"authority": entra.authority, "ca_file": entra.ca_file}), flush=True)
        sys.stdin.read()
