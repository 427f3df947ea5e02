"""What cms needs of the machine that it runs on; nothing here knows about mail or tokens.

The log, the two clocks, the process itself (signals, limits, the lock of the state folder), Unix sockets to listen at,
changes of the network, the owner of a local TCP connection, messages to systemd, users and groups, private files, and
calls with a deadline in a thread.

It may import cms.core and cms_oauth. `files` and `threads` import neither trio nor the log, as the worker uses them.
"""
