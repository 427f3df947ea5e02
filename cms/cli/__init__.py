"""The `cms` command: its command line and its output.

`commands` lists the commands, and its modules have their options. They call the module that does the work: `check`,
`login`, `transfer`, `watch`, `admin_consent`, and the packages `init` and `doctor`. Commands talk to the running daemon
through `client`. Those that also work without a daemon use `daemonless`, which does the daemon's part in this process
(`connect` chooses). `load` reads the configuration, and `run_line` reads `cms run` without click.

It may import all of `cms`, and of the grant worker the messages only. Only `commands` and `terminal` import click, only
`daemonless` trio. What a question to the daemon loads, `connect` and `client` with it, loads nothing of the daemon
(`tests/test_main.py`).
"""
