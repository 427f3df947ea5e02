"""Access to the operating system. Nothing here knows about mail or tokens.

- `logs`, `clock`: the log, and the two clocks.
- `process`: signals and limits. `state_lock`: one daemon for each state folder.
- `listener`: listening Unix sockets.
- `network`, `tcp_owner`: changes of the network, and the owner of a local TCP connection.
- `sd_notify`: messages to systemd.
- `descendants`: a process, killed with all that it has started.
- `users`, `files`, `threads`: users and groups, private files, and calls with a deadline.

It may import cms.core and cms_oauth. `files` and `threads` import neither trio nor the log, as the worker uses them.
"""
