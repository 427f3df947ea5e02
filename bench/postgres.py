"""A PostgreSQL server of the bench's own, with the settings that Debian's has: each commit waits for the disk."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Failed
from bench.programs import Command, cpu_of_children, own_cpu, until
from cms.system.descendants import descendants

_PLACES = "/usr/lib/postgresql"


@dataclass(frozen=True)
class Server:
    """A server that runs. `dsn` is its database as the owner of everything."""

    dsn: str
    pid: int

    def cpu(self) -> float:
        """Return the seconds of CPU that all its processes have used, those that have ended too."""
        return own_cpu(self.pid) + cpu_of_children(self.pid) + sum(map(own_cpu, descendants(self.pid)))


def found() -> str:
    """Return the folder of the newest server's programs, "" for none."""
    places = sorted(Path(_PLACES).glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return str(places[-1].parent) if places else ""


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run a server whose data is in a folder. Raises Failed."""
    # It does not run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder, user.pw_uid, user.pw_gid)
    data, environment = folder / "data", {"PATH": os.defpath, "LC_ALL": "C"}

    def run(name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [f"{found()}/{name}", *arguments],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=folder,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[] if os.geteuid() == 0 else None,
            )

    if run("initdb", "-D", data, "-U", "owner", "-A", "trust", "-E", "UTF8", "--no-locale").wait():
        raise Failed("no database can be made")
    with run("postgres", "-D", data, "-k", folder, "-c", "listen_addresses=") as process:
        try:
            ready: Command = [f"{found()}/pg_isready", "-h", folder, "-U", "owner", "-d", "postgres"]
            until(lambda: subprocess.run(ready, check=False, stdout=subprocess.DEVNULL).returncode == 0, "PostgreSQL")
            yield Server(f"host={folder} user=owner dbname=postgres", process.pid)
        finally:
            process.terminate()
