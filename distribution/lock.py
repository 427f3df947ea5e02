"""Prints what the lock files are made from: the requirements in pyproject.toml, without the project's own names.

`lock.py` prints those of an installation with the extras that work everywhere, `lock.py test` those of development, and
`lock.py docs` those of `make docs`. Those extras are `socks`, and `sandbox`: Debian's package has no other way to the
libraries of `cms demo`.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

# Extras that are not for everybody: Microsoft's broker has wheels for few machines, and few have a fleet. psycopg's licence,
# the LGPL, is no other library's here: who wants it installs it.
_LEFT_OUT = ("broker", "fleet", "test")


def requirements(*, test: bool, docs: bool) -> list[str]:
    document = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    if docs:
        return sorted(document["dependency-groups"]["docs"])
    extras = document["project"]["optional-dependencies"]
    wanted = [*document["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]]
    wanted += [each for name, extra in extras.items() if name not in _LEFT_OUT for each in extra]
    wanted += [*extras["test"], *extras["fleet"]] if test else []
    # What a build needs is installed with the rest, so that development builds with what is locked.
    wanted += document["build-system"]["requires"] if test else []
    return sorted({each for each in wanted if not re.match(r"cms-oauth\b", each)})


if __name__ == "__main__":
    print("\n".join(requirements(test=sys.argv[1:] == ["test"], docs=sys.argv[1:] == ["docs"])))
