"""Gives tokens to programs: token sockets, Postfix tables and token files.

`sockets` has the sockets of the configuration and changes them at a reload. `connections` accepts and limits the clients
of one socket; `token_socket` and `postfix_table` say what happens on a connection of each kind, and `socketmap` is
Postfix's protocol. Both ask `issue`, the one place that turns a request into a token or a refusal; `audit` records
the last requests. `token_files` keeps the files.

It may import cms.core, cms.config, cms.system and cms_oauth. It imports neither the keeper nor cms.daemon.signin: the
daemon passes it a function that returns the keeper of a grant.
"""
