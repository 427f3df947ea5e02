"""The configuration: a file of Python in, a frozen `Config` or a `ConfigError` with file and line out.

`load` asks `trust` who could have written the file, runs it once, and puts together what it has said. `directives` are
the names that a file can use: `office365` (accounts), `serving` (sockets and files) and `settings` (the whole daemon). They
check each argument by `arguments`, and leave what they build in the `Draft` of that load. `consistency` warns of accounts
whose parts do not fit each other. `model` is what comes out.

May import core and system.
"""
