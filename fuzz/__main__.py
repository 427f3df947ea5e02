"""Runs the fuzzer: `python -m fuzz [TARGET...] [-SETTING=VALUE...]`, with settings of libFuzzer's.

Each target runs in a process of its own, which ends at the first finding. A finding is an input, in build/fuzz; give it a
name, and put it into the target's corpus when it is mended.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from fuzz import CORPORA, TARGETS

FOUND = Path("build/fuzz")

# cms's own code, and the libraries that do its parsing.
INSTRUMENTED = ["cms", "cms_oauth", "fuzz", "h11", "msal"]

# Seconds for one input: a hundred times what any takes.
SLOWEST = 10


def main(words: list[str]) -> int:
    """Run all targets, or those that are named, one after the other; return 1 if one of them found something."""
    settings = [word for word in words if word.startswith("-")]
    failed = [
        name
        for name in [word for word in words if not word.startswith("-")] or TARGETS
        if subprocess.run([sys.executable, "-m", "fuzz.__main__", "--only", name, *settings], check=False).returncode
    ]
    print(f"found something: {', '.join(failed)}; see {FOUND}" if failed else "found nothing")
    return 1 if failed else 0


def run(name: str, settings: list[str]) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris  # noqa: PLC0415 - it has an environment of its own

    with atheris.instrument_imports(include=INSTRUMENTED):
        check = import_module(f"fuzz.targets.{name}").check
    new = FOUND / name
    new.mkdir(parents=True, exist_ok=True)
    limits = [f"-timeout={SLOWEST}", f"-artifact_prefix={FOUND / name}-"]
    atheris.Setup([name, str(new), str(CORPORA / name), *limits, *settings], check)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        run(sys.argv[2], sys.argv[3:])
    sys.exit(main(sys.argv[1:]))
