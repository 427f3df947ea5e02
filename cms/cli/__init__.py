"""The `cms` command: what a person or a script types, and what it prints.

`commands` has every command's options and calls the module with its work: `check`, `login`, `transfer`, `watch`,
`admin_consent`, and the packages `init` and `doctor`. Commands talk to the running daemon through `client`; those that
can do without one use `daemonless`, which does the daemon's part in this process (`connect` chooses). `run_line` reads
`cms run` without click.

It may import all of `cms` but the grant worker, of which it knows the messages only. click is imported by `commands`
and `terminal`, trio by `daemonless`.
"""
