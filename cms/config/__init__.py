"""Reads the configuration: a Python file in, a frozen `Config` out, or a `ConfigError` with file and line.

- `child` loads a file in a separate process, `__main__` is that process, and `answer` what it sends. Other packages use
  `child` and `model` only.
- `load` runs the file once and makes the `Config`. Before that, `trust` checks that no other user could change the file.
- `directives` has the names that a file can use: `office365` (accounts), `account_files` (lists of accounts), `serving`
  (sockets and files) and `settings` (the whole daemon). Each checks its arguments with `arguments`, and puts what it builds
  into the `Draft` of that load.
- `ignored` stands for what cloud_mdir_sync's files use and cms does not have.
- `consistency` warns of accounts whose arguments do not fit together.
- `model` is the result.

May import core and system.
"""
