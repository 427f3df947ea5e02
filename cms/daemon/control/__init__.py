"""The control socket: how `cms status`, `cms login` and the other commands talk to the daemon.

`server` speaks the protocol and has `cms.daemon.commands` carry the commands out; `answers` is what they answer with;
`vault_commands` are those that concern the vault as a whole: export, its import, prune. May import what the daemon may,
but nothing of `serving`.
"""
