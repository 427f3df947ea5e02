"""The decisions of cms, as data and pure functions: no clock, no file, no network, no log.

- `accounts`: the accounts and sign-ins that everything else is about.
- `lifecycle`: the core of cms: which token it holds, what it does next, and what a client gets.
- `policy`: who may have which token.
- `preflight`: whether a token opens the protocol that the client asked for.
- `proxies`: the way to a login host, as the configuration and the environment say.
- `forecast`: when a sign-in will end.
- `hooks`: the events that a hook can be told of.
- `notices`: what hooks and the log are told.
- `refusals`: what Microsoft's errors mean.
- `status`, `status_text`: what the daemon knows of each account, as data and as text.
- `words`: words and exit codes that the daemon and the `cms` command have in common.
- `json_lines`: messages between processes.

May import `cms_oauth` and nothing else of cms. Every other package may import this one.
"""
