"""The `cms` command.

`cms run` runs for months, and click costs a megabyte. So `cli/run_line.py` reads a `run` in the plain form of service
files without click. click reads everything else (`cli/commands/`); for a `run` in another form it executes this
program again with the plain form.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cms.cli.run_line import INTERRUPTED, Run, read_plainly
from cms.system.start import begin
from cms_oauth import expand, paths
from cms_oauth.version import VERSION


def run_daemon(run: Run) -> int:
    """Run the daemon until it is told to stop; return the exit status."""
    from cms.config.child import Loader  # noqa: PLC0415 - no other command pays for the daemon

    # First, so that its process starts while the libraries load.
    with Loader() as loader:
        import trio  # noqa: PLC0415 - as above

        from cms.daemon import app  # noqa: PLC0415 - as above
        from cms.system import logs, process  # noqa: PLC0415 - as above

        logs.setup(level=run.log_level or "info", form=run.log_form or "auto")
        process.harden()
        process.allow_many_files()
        process.log_bugs()
        try:
            config = expand.named(run.config) if run.config else paths.config_file()
            # PTH100: pathlib would resolve links.
            path = os.path.abspath(config)  # noqa: PTH100
            options = app.AppOptions(path, paths.state_folder(), paths.runtime_folder(), VERSION, load=loader.load)
        except expand.Unusable as unusable:
            logs.get_logger().error("cms cannot start", reason=unusable.message, do=unusable.hint)
            return os.EX_CONFIG
        except OSError as error:
            logs.get_logger().error("cms cannot start: no folder for its sockets or its state", reason=str(error))
            return os.EX_CANTCREAT
        return trio.run(app.run, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; return the exit status."""
    begin()
    given = list(sys.argv[1:] if arguments is None else arguments)
    run = read_plainly(given)
    try:
        if run is not None:
            return run_daemon(run)
        from cms.cli import commands  # noqa: PLC0415 - click, which the daemon does without

        return commands.main(given)
    # Ctrl-C while libraries are still loading: neither click nor the daemon handles it yet.
    except KeyboardInterrupt:
        print("cms: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
