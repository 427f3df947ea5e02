"""What a fleet's database costs beside the files of one host: of each refresh, and for many sign-ins."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import postgres
from bench.ground import CMS, INSIDE, Ground, Installation, environment
from bench.measure import Figures, Run, Section, Target
from bench.postgres import Server
from bench.programs import Command, output

_FILES, _FLEET, _TAKES = "files of one host", "a fleet's database", "a fleet's database, another host takes the token"

# An hour's token is renewed after half to three quarters of its life, so that so many seconds lie between two.
_BETWEEN = 0.625 * 3600.0
_LARGE = 10_000

# The worker has more threads, but no more cores.
_THREADS = 8


@dataclass(frozen=True)
class Host:
    """A host of a fleet, or with a `dsn` of "" one that is alone. Its state is in `folder`, its keys are beside that."""

    cms: Installation
    server: Server
    folder: Path
    dsn: str = ""

    def refresh(self, number: int, threads: int = 1, what: str = "renew") -> Figures:
        """Refresh so many sign-ins, or take what another host has refreshed."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        before = self.server.cpu()
        command: Command = [
            self.cms.python,
            INSIDE / "refresh.py",
            self.folder,
            self.dsn,
            str(number),
            str(threads),
            what,
        ]
        said = json.loads(output(command, environment(self.folder.parent)))
        found = {"p50": said["p50"], "p99": said["p99"], "refreshes": number / said["wall"]}
        found["cpu_refresh"] = said["cpu"] / number
        # The first run for so many makes the sign-ins as well: the median of several rounds is without that.
        return {**found, "cpu_database": (self.server.cpu() - before) / number} if self.dsn else found


def measure(ground: Ground) -> Section:
    """Take turns with refreshes in both stores; then with very many."""
    many, few = ground.pick(_LARGE, 20), ground.pick(200, 5)
    crowd = f"{many:,} sign-ins, {_THREADS} threads"
    section = Section("A fleet", _targets(f"{_FLEET}, {crowd}"))
    if not postgres.found():
        ground.missing["PostgreSQL"] = "apt install postgresql"
        return section
    with postgres.server(ground.place()) as server:
        runs, crowds = list[Run](), list[Run]()
        # Of two revisions the older one may have no fleet.
        for cms in filter(_library, ground.cms):
            place = ground.place()
            dsn = _prepared(cms, server, place)
            alone, host, other = (
                Host(cms, server, place / name, each) for name, each in (("files", ""), ("host", dsn), ("other", dsn))
            )
            # A first round begins with any of them, and there has to be a token to take.
            host.refresh(few)
            runs += [
                Run(cms.who, _FILES, partial(alone.refresh, few)),
                Run(cms.who, _FLEET, partial(host.refresh, few)),
                Run(cms.who, _TAKES, partial(other.refresh, few, what="take")),
            ]
            crowds += [
                Run(cms.who, f"{case}, {crowd}", partial(each.refresh, many, _THREADS))
                for case, each in ((_FILES, alone), (_FLEET, host))
            ]
        section.take_turns(runs, ground.pick(7, 1), warm_up=True)
        section.take_turns(crowds, ground.pick(3, 1))
    section.notes.append(
        f"A refresh is what a worker does around a redemption, without the provider. {_LARGE:,} sign-ins need"
        f" {_LARGE / _BETWEEN:.2g} of them a second, on all hosts together."
    )
    return section


def _targets(crowd: str) -> tuple[Target, ...]:
    return (
        Target("CPU of a refresh, beside the files", (CMS, _FLEET, "cpu_refresh"), (CMS, _FILES, "cpu_refresh")),
        Target("time of a refresh, beside the files", (CMS, _FLEET, "p50"), (CMS, _FILES, "p50")),
        Target("the database's CPU of a refresh", (CMS, _FLEET, "cpu_database")),
        Target("refreshes a second, all sign-ins", (CMS, crowd, "refreshes")),
    )


def _library(cms: Installation) -> bool:
    """Install the database's library, if it is not there; return False if this cms has no fleet."""
    if subprocess.run([cms.python, "-c", "import cms.grants.fleet"], check=False, capture_output=True).returncode:
        return False
    if subprocess.run([cms.python, "-c", "import psycopg"], check=False, capture_output=True).returncode:
        pip = [cms.python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "psycopg[binary]>=3.2.1"]
        subprocess.run(pip, check=True)
    return True


def _prepared(cms: Installation, server: Server, folder: Path) -> str:
    """Make a database with the tables, and the keys of its hosts in a folder; return its connection string."""
    dsn = f"{server.dsn} dbname=cms{folder.name}"
    psql: Command = [f"{postgres.found()}/psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-", "--dbname"]
    output([*psql, server.dsn], environment(folder), f"CREATE DATABASE cms{folder.name}")
    ddl = "from cms.grants.fleet.schema import ddl; print(ddl())"
    output([*psql, dsn], environment(folder), output([cms.python, "-c", ddl], environment(folder)))
    for name in ("fleet.key", "tokens.key"):
        (folder / name).write_bytes(name.ljust(32).encode())
        (folder / name).chmod(0o600)
    return dsn
