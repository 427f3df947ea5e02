"""A machine whose only address is ::1, with a simulated Entra on it: a network namespace, and a hosts file for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.programs import require_program, require_root
from support.reachable import Installation, bare_environment
from support.waiting import PATIENCE

_ALONE = 'mount --bind "$0" /etc/hosts && ip link set lo up && ip address del 127.0.0.1/8 dev lo && exec "$@"'

# Runs until its standard input ends.
_SANDBOX = """
import json, sys
from cms.sandbox.entra import Entra
with Entra(sys.argv[1:]) as entra:
    print(json.dumps({"authority": entra.authority, "ca_file": entra.ca_file}), flush=True)
    sys.stdin.read()
"""

_PERSON = """
import sys
from cms.sandbox import person
url, user, ca_file = sys.argv[1:]
print(person.sign_in(url, user, ca_file=ca_file).text)
"""


@dataclass
class Ipv6Machine:
    """`inside` are the words before a command that runs there."""

    authority: str
    ca_file: str
    inside: list[str]
    installation: Installation

    def sign_in(self, url: str, user: str) -> str:
        """Be the person at a browser there; return the page that it ends at."""
        command = [*self.inside, str(self.installation.python), "-I", "-c", _PERSON, url, user, self.ca_file]
        environment = bare_environment()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE, env=environment)
        return done.stdout


@contextmanager
def ipv6_machine(installation: Installation, folder: Path, *users: str) -> Iterator[Ipv6Machine]:
    """Run an Entra with these users on a machine without IPv4. `folder` must be enterable by all."""
    require_root()
    require_program("ip", "iproute2")
    hosts = folder / "hosts"
    hosts.write_text("::1 localhost\n")
    private = ("--net", "--mount", "--propagation", "private")
    alone = [require_program("unshare", "util-linux"), *private, "sh", "-c", _ALONE, str(hosts)]
    sandbox = [str(installation.python), "-I", "-c", _SANDBOX, *users]
    pipe = subprocess.PIPE
    with subprocess.Popen([*alone, *sandbox], stdin=pipe, stdout=pipe, text=True, env=bare_environment()) as process:
        assert process.stdin
        assert process.stdout
        where: dict[str, Any] = json.loads(process.stdout.readline())
        spaces = [f"--{name}=/proc/{process.pid}/ns/{file}" for name, file in (("net", "net"), ("mount", "mnt"))]
        inside = [require_program("nsenter", "util-linux"), *spaces, "--"]
        yield Ipv6Machine(where["authority"], where["ca_file"], inside, installation)
        process.stdin.close()
